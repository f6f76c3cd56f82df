"""How well the diseased are told from the healthy: the AUC by DeLong, and one threshold's answers.

References
----------
.. [1] DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more correlated
   receiver operating characteristic curves: a nonparametric approach. Biometrics 1988;44:837-845.
.. [2] Sun X, Xu W. Fast implementation of DeLong's algorithm for comparing the areas under
   correlated receiver operating characteristic curves. IEEE Signal Process Lett 2014;21:1389-1393.
.. [3] Wilson EB. Probable inference, the law of succession, and statistical inference. J Am Stat
   Assoc 1927;22:209-212.
.. [4] Simel DL, Samsa GP, Matchar DB. Likelihood ratios with confidence: sample size estimation
   for diagnostic test studies. J Clin Epidemiol 1991;44:763-770.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from heartdx.performance.intervals import Interval, wilson_interval

NORMAL = NormalDist()
Z = NORMAL.inv_cdf(0.975)


@dataclass(frozen=True)
class Difference:
    """Difference of two estimates on the same patients.

    Parameters
    ----------
    value, low, high : the first minus the other, and its 95 % interval.
    p_value : two-sided, of no difference.
    """

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class OperatingPoint:
    """What the answers at one threshold are worth.

    Parameters
    ----------
    threshold : probability from which the answer is *disease*.
    tp, fp, fn, tn : patients, by answer and truth.
    sensitivity, specificity, ppv, npv : with Wilson's interval, NaN where nobody counts.
    lr_positive, lr_negative : likelihood ratios with the log interval; NaN where they divide by
        0, their bounds also where they are 0.
    """

    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int
    sensitivity: Interval
    specificity: Interval
    ppv: Interval
    npv: Interval
    lr_positive: Interval
    lr_negative: Interval


def auc_delong(y: np.ndarray, y_prob: np.ndarray) -> Interval:
    """The AUC with its 95 % interval of DeLong et al. [1]_, kept within 0 and 1.

    Symmetric around the estimate. When every diseased is above every healthy the variance is 0
    and so is the width: true of these patients, no promise for others.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,); only its order counts.

    Returns
    -------
    NaN where an outcome is absent; NaN bounds where one has a single patient.

    References
    ----------
    .. [1] DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more
       correlated receiver operating characteristic curves. Biometrics 1988;44:837-845.

    Examples
    --------
    >>> y = np.array([0, 0, 0, 1, 1, 1])
    >>> print(auc_delong(y, np.array([0.1, 0.2, 0.6, 0.5, 0.7, 0.9])))
    0.889 (0.581 to 1.000)
    """
    auc, covariance = _delong(y, y_prob[None])
    half = Z * math.sqrt(covariance[0, 0])
    low, high = np.clip([auc[0] - half, auc[0] + half], 0, 1)
    return Interval(float(auc[0]), float(low), float(high))


def auc_variance(y: np.ndarray, y_prob: np.ndarray) -> float:
    """Variance of the AUC by DeLong et al. [1]_; what a pooling of hospitals weighs by.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,).

    Returns
    -------
    NaN where an outcome has fewer than two patients.

    References
    ----------
    .. [1] DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more
       correlated receiver operating characteristic curves. Biometrics 1988;44:837-845.

    Examples
    --------
    >>> y = np.array([0, 0, 0, 1, 1, 1])
    >>> round(auc_variance(y, np.array([0.1, 0.2, 0.6, 0.5, 0.7, 0.9])), 4)
    0.0247
    """
    return float(_delong(y, y_prob[None])[1][0, 0])


def delong_difference(y: np.ndarray, one: np.ndarray, other: np.ndarray) -> Difference:
    """AUC of ``one`` minus AUC of ``other``, both on the same patients, by DeLong et al. [1]_.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    one, other : shape (n,), probabilities of two models.

    Returns
    -------
    A p value of 1 where both rank alike, NaN where a variance of 0 says nothing.

    References
    ----------
    .. [1] DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more
       correlated receiver operating characteristic curves. Biometrics 1988;44:837-845.

    Examples
    --------
    >>> y, p = np.array([0, 0, 1, 1]), np.array([0.2, 0.6, 0.5, 0.9])
    >>> delong_difference(y, p, p)
    Difference(value=0.0, low=0.0, high=0.0, p_value=1.0)
    """
    auc, covariance = _delong(y, np.stack([one, other]))
    value = float(auc[0] - auc[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    error = math.sqrt(max(0.0, variance))
    return Difference(value, value - Z * error, value + Z * error, _p_value(value, error))


def operating_point(y: np.ndarray, y_prob: np.ndarray, *, threshold: float) -> OperatingPoint:
    """What the answers at one threshold are worth, each with its interval.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,).
    threshold : the answer is *disease* from here, equality included.

    References
    ----------
    .. [1] Wilson EB. Probable inference, the law of succession, and statistical inference. J Am
       Stat Assoc 1927;22:209-212.
    .. [2] Simel DL, Samsa GP, Matchar DB. Likelihood ratios with confidence: sample size
       estimation for diagnostic test studies. J Clin Epidemiol 1991;44:763-770.

    Examples
    --------
    >>> y, p = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.5, 0.2, 0.4, 0.9])
    >>> point = operating_point(y, p, threshold=0.5)
    >>> point.tp, point.fp, point.fn, point.tn
    (1, 1, 1, 2)
    >>> print(point.lr_positive)
    1.500 (0.181 to 12.459)
    """
    diseased, called = y == 1, y_prob >= threshold
    tp, fp = int((diseased & called).sum()), int((~diseased & called).sum())
    fn, tn = int((diseased & ~called).sum()), int((~diseased & ~called).sum())
    return OperatingPoint(
        threshold=threshold,
        tp=tp,
        fp=fp,
        fn=fn,
        tn=tn,
        sensitivity=wilson_interval(tp, tp + fn),
        specificity=wilson_interval(tn, tn + fp),
        ppv=wilson_interval(tp, tp + fp),
        npv=wilson_interval(tn, tn + fn),
        lr_positive=_likelihood_ratio(tp, tp + fn, fp, fp + tn),
        lr_negative=_likelihood_ratio(fn, tp + fn, tn, fp + tn),
    )


def _delong(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUCs and their covariance for scores of shape (models, n)."""
    diseased, healthy = scores[:, y == 1], scores[:, y == 0]
    m, n = diseased.shape[1], healthy.shape[1]
    if m == 0 or n == 0:
        return np.full(len(scores), np.nan), np.full((len(scores), len(scores)), np.nan)
    ranks = np.stack([_midranks(row) for row in np.hstack([diseased, healthy])])
    # Share of the healthy below each diseased, and of the diseased above each healthy.
    below = (ranks[:, :m] - np.stack([_midranks(row) for row in diseased])) / n
    above = 1 - (ranks[:, m:] - np.stack([_midranks(row) for row in healthy])) / m
    if min(m, n) < 2:
        return below.mean(axis=1), np.full((len(scores), len(scores)), np.nan)
    return below.mean(axis=1), np.atleast_2d(np.cov(below) / m + np.cov(above) / n)


def _p_value(value: float, error: float) -> float:
    if error > 0:
        return 2 * NORMAL.cdf(-abs(value) / error)
    return 1.0 if value == 0 else math.nan


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; ties share their mean."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(times) - (times - 1) / 2)[place]
    return ranks


def _likelihood_ratio(diseased: int, m: int, healthy: int, n: int) -> Interval:
    """Share of the diseased with an answer over the share of the healthy with it."""
    if m == 0 or n == 0 or healthy == 0:
        return Interval(math.nan, math.nan, math.nan)
    ratio = (diseased / m) / (healthy / n)
    if diseased == 0:
        return Interval(ratio, math.nan, math.nan)
    error = math.sqrt(1 / diseased - 1 / m + 1 / healthy - 1 / n)
    return Interval(ratio, ratio * math.exp(-Z * error), ratio * math.exp(Z * error))
