"""Whether of 100 patients with 30 % some 30 are diseased: calibration, every number with interval.

References
----------
.. [1] Cox DR. Two further applications of a model for binary regression. Biometrika
   1958;45:562-565. (intercept and slope)
.. [2] Van Calster B, McLernon DJ, van Smeden M, Wynants L, Steyerberg EW. Calibration: the Achilles
   heel of predictive analytics. BMC Med 2019;17:230.
.. [3] Austin PC, Steyerberg EW. The Integrated Calibration Index (ICI) and related metrics for
   quantifying the calibration of logistic regression models. Stat Med 2019;38:4051-4065.
.. [4] Harrell FE. Regression modeling strategies. 2nd ed. Springer, 2015. (``val.prob``: Eavg, E90
   and Emax are the ICI, E90 and Emax here)
.. [5] Steyerberg EW et al. Assessing the performance of prediction models: a framework for
   traditional and novel measures. Epidemiology 2010;21:128-138. (scaled Brier score)
.. [6] Brier GW. Verification of forecasts expressed in terms of probability. Mon Weather Rev
   1950;78:1-3.
.. [7] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heartdx.performance.intervals import (
    Band,
    Interval,
    percentile_band,
    percentile_interval,
)
from heartdx.performance.smoothing import lowess
from heartdx.performance.weighted import RESAMPLES, losses, recalibration, resampling_counts

CURVE_POINTS = 101


@dataclass(frozen=True)
class Curve:
    """The smooth calibration curve with its pointwise 95 % band.

    Parameters
    ----------
    probability : shape (points,), ascending, inside the range of the predictions.
    observed : shape (points,), smoothed share of the diseased at that probability.
    low, high : shape (points,).
    """

    probability: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """How far probabilities are from what happened.

    Parameters
    ----------
    in_the_large : intercept of the logistic recalibration with the slope held at 1; 0 is right.
    intercept, slope : of the logistic recalibration, fitted together; 0 and 1 are right. NaN where
        the predictions hardly differ.
    o_e : diseased over the sum of the probabilities; 1 is right.
    brier : mean squared difference of probability and outcome.
    scaled_brier : 1 minus the Brier score over that of the prevalence; 1 is perfect.
    log_loss : in nats.
    ici, e50, e90, emax : mean, median, 90 % quantile and maximum over patients of the distance
        between probability and smooth curve; 0 is right.
    curve : the smooth curve.
    """

    in_the_large: Interval
    intercept: Interval
    slope: Interval
    o_e: Interval
    brier: Interval
    scaled_brier: Interval
    log_loss: Interval
    ici: Interval
    e50: Interval
    e90: Interval
    emax: Interval
    curve: Curve


def calibration(
    y: np.ndarray,
    y_prob: np.ndarray,
    *,
    sites: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> Calibration:
    """Calibration in the large, weak (intercept and slope) and moderate (curve) [1]_.

    A distance from the curve cannot be negative, so noise can only add to it: where the
    probabilities are right, ICI, E50, E90 and Emax stand above 0, their intervals higher still,
    and an interval may lie wholly above its estimate.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,) or (n, repeats); every number is the mean over the repeats.
    sites : shape (n,); resampling keeps each hospital's size.
    seed : of the resampling.
    resamples : number of resamples; 0 gives NaN intervals.

    References
    ----------
    .. [1] Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Med
       2019;17:230.
    .. [2] Austin PC, Steyerberg EW. The Integrated Calibration Index (ICI) and related metrics for
       quantifying the calibration of logistic regression models. Stat Med 2019;38:4051-4065.

    Examples
    --------
    >>> y_prob = np.repeat([0.25, 0.75], 8)
    >>> y = np.r_[np.tile([0, 0, 0, 1], 2), np.tile([1, 1, 1, 0], 2)]
    >>> found = calibration(y, y_prob, sites=np.zeros(16), seed=0, resamples=20)
    >>> round(found.o_e.value, 6), round(found.slope.value, 6)
    (1.0, 1.0)
    """
    repeats = y_prob.reshape(len(y), -1).T
    counts = np.vstack([np.ones(len(y)), resampling_counts(sites, resamples, seed)])
    found = [
        {
            **recalibration(y, p, counts),
            **losses(y, p, counts),
            **calibration_errors(y, p, counts),
        }
        for p in repeats
    ]
    intervals = {
        name: percentile_interval(np.mean([each[name] for each in found], axis=0))
        for name in found[0]
    }
    return Calibration(**intervals, curve=_curve(y, repeats, counts))


def calibration_errors(
    y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Distances of the probabilities from their smooth curve, for every row of weights.

    Parameters
    ----------
    y, y_prob : shape (n,).
    counts : shape (resamples, n), whole numbers.

    Returns
    -------
    ``ici``, ``e50``, ``e90`` and ``emax``, shape (resamples,).

    References
    ----------
    .. [1] Austin PC, Steyerberg EW. The Integrated Calibration Index (ICI) and related metrics for
       quantifying the calibration of logistic regression models. Stat Med 2019;38:4051-4065.
    """
    errors = np.abs(lowess(y_prob, y, counts) - y_prob)
    order = np.argsort(errors, axis=1)
    ranked = np.take_along_axis(errors, order, axis=1)
    reached = np.cumsum(np.take_along_axis(counts, order, axis=1), axis=1)
    return {
        "ici": (counts * errors).sum(axis=1) / counts.sum(axis=1),
        "e50": _quantile(ranked, reached, 0.5),
        "e90": _quantile(ranked, reached, 0.9),
        "emax": _quantile(ranked, reached, 1.0),
    }


def _quantile(ranked: np.ndarray, reached: np.ndarray, share: float) -> np.ndarray:
    """Of each row as if every value stood there as often as it counts; linear, as in R and NumPy.

    ``ranked`` ascends, ``reached`` is the running total of its counts.
    """
    place = share * (reached[:, -1] - 1)
    below = np.floor(place)
    rows = np.arange(len(ranked))
    low, high = (
        ranked[rows, (reached <= np.minimum(k, reached[:, -1] - 1)[:, None]).sum(axis=1)]
        for k in (below, below + 1)
    )
    quantile: np.ndarray = low + (place - below) * (high - low)
    return quantile


def _curve(y: np.ndarray, repeats: np.ndarray, counts: np.ndarray) -> Curve:
    # Where every repeat has predictions, so that no repeat is extended beyond its own.
    start, end = sorted((repeats.min(axis=1).max(), repeats.max(axis=1).min()))
    grid = np.unique(np.linspace(start, end, CURVE_POINTS))
    band: Band = percentile_band(np.mean([lowess(p, y, counts, at=grid) for p in repeats], axis=0))
    return Curve(grid, band.value, band.low, band.high)
