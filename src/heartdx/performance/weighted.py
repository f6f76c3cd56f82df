"""Metrics for many weightings of the same patients at once.

A resample is a row of integer weights, so one matrix product serves a thousand resamples.

References
----------
.. [1] Hanley JA, McNeil BJ. The meaning and use of the area under a receiver operating
   characteristic (ROC) curve. Radiology 1982;143:29-36.
.. [2] Davis J, Goadrich M. The relationship between precision-recall and ROC curves. ICML 2006.
.. [3] Brier GW. Verification of forecasts expressed in terms of probability. Mon Weather Rev
   1950;78:1-3.
.. [4] Cox DR. Two further applications of a model for binary regression. Biometrika
   1958;45:562-565. (calibration intercept and slope)
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 500
COUNTABLE_PATIENTS = 20
"""A hospital with fewer patients of a panel says nothing on its own."""
PROBABILITY_FLOOR = 1e-15
NO_SPREAD = 0.1
"""Log-odds that span less have no slope: a prevalence differs a little from fold to fold only."""


def log_losses(y: np.ndarray, y_prob: np.ndarray) -> np.ndarray:
    """Log loss of each patient, in nats, shape (n,)."""
    p = np.clip(y_prob, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    losses: np.ndarray = -np.where(y == 1, np.log(p), np.log1p(-p))
    return losses


def mean_log_losses(y: np.ndarray, y_prob: np.ndarray) -> np.ndarray:
    """Each patient's log loss, mean over the repeats of ``y_prob`` (n, repeats); shape (n,)."""
    losses: np.ndarray = np.mean([log_losses(y, column) for column in y_prob.T], axis=0)
    return losses


def countable_sites(y: np.ndarray, sites: np.ndarray) -> tuple[str, ...]:
    """Hospitals with enough patients, and both outcomes, to be looked at on their own."""
    return tuple(
        str(site)
        for site in np.unique(sites)
        if (sites == site).sum() >= COUNTABLE_PATIENTS and len(set(y[sites == site])) == 2
    )


def resampling_counts(sites: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each patient is drawn: shape (resamples, n), each hospital keeping its size."""
    generator = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(sites)))
    for site in np.unique(sites):
        rows = np.flatnonzero(sites == site)
        counts[:, rows] = generator.multinomial(
            len(rows), np.full(len(rows), 1 / len(rows)), size=resamples
        )
    return counts


def weighted_metrics(
    y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray, *, threshold: float
) -> dict[str, np.ndarray]:
    """Every metric for every row of weights.

    Parameters
    ----------
    y, y_prob : shape (n,).
    counts : shape (resamples, n), how often each patient counts.

    Returns
    -------
    metric name to array of shape (resamples,), NaN where one outcome is absent.

    Examples
    --------
    >>> y, p = np.array([0, 1, 1]), np.array([0.1, 0.4, 0.8])
    >>> float(weighted_metrics(y, p, np.ones((1, 3)), threshold=0.5)["auc"][0])
    1.0
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            **ranking(y, y_prob, counts),
            **_decisions(y, y_prob >= threshold, counts),
            **losses(y, y_prob, counts),
            **_calibration(y, y_prob, counts),
            "net_benefit": net_benefits(y, y_prob, counts, np.array([threshold]))[:, 0],
        }


def within_site_auc(y: np.ndarray, y_prob: np.ndarray, sites: np.ndarray) -> dict[str, float]:
    """AUC inside each countable hospital; a pooled AUC also rewards telling hospitals apart."""
    found = {}
    for site in countable_sites(y, sites):
        rows = sites == site
        ones = np.ones((1, int(rows.sum())))
        found[site] = float(ranking(y[rows], y_prob[rows], ones)["auc"][0])
    return found


def confusion(y: np.ndarray, y_prob: np.ndarray, *, threshold: float) -> np.ndarray:
    """Counts of shape (2, 2): rows are the truth (0, 1), columns the answer (0, 1)."""
    predicted = y_prob >= threshold
    counts = [[int(((y == t) & (predicted == p)).sum()) for p in (0, 1)] for t in (0, 1)]
    return np.array(counts)


def threshold_from(harm_ratio: float) -> float:
    """The probability at which both mistakes weigh the same.

    Parameters
    ----------
    harm_ratio : harm of missing a diseased patient over harm of a false alarm.

    References
    ----------
    .. [1] Vickers AJ, Elkin EB. Decision curve analysis. Med Decis Making 2006;26:565-574.

    Examples
    --------
    >>> threshold_from(1.0), threshold_from(4.0)
    (0.5, 0.2)
    """
    return 1.0 / (1.0 + harm_ratio)


def ranking(y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """AUC and average precision for every row of weights, each of shape (resamples,)."""
    order = np.argsort(y_prob, kind="stable")
    ordered = y_prob[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    diseased = np.add.reduceat((counts * y)[:, order], starts, axis=1)
    healthy = np.add.reduceat((counts * (1 - y))[:, order], starts, axis=1)
    positives, negatives = diseased.sum(axis=1), healthy.sum(axis=1)
    below = np.cumsum(healthy, axis=1) - healthy
    auc = (diseased * (below + healthy / 2)).sum(axis=1) / (positives * negatives)
    caught = np.cumsum(diseased[:, ::-1], axis=1)
    called = caught + np.cumsum(healthy[:, ::-1], axis=1)
    precision = np.divide(caught, called, out=np.zeros_like(caught), where=called > 0)
    average = (precision * diseased[:, ::-1]).sum(axis=1) / positives
    average = np.where(negatives > 0, average, np.nan)
    return {"auc": auc, "pr_auc": average}


def mean_within_auc(
    y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray, sites: np.ndarray
) -> np.ndarray:
    """Mean of the AUCs inside each countable hospital, for every row of weights.

    Parameters
    ----------
    y, y_prob, sites : shape (n,).
    counts : shape (resamples, n).

    Returns
    -------
    shape (resamples,), NaN where no hospital is countable.
    """
    found = [np.full(len(counts), np.nan)]
    with np.errstate(divide="ignore", invalid="ignore"):
        for site in countable_sites(y, sites):
            rows = sites == site
            found.append(ranking(y[rows], y_prob[rows], counts[:, rows])["auc"])
    return np.mean(found[1:] or found, axis=0)


def _decisions(y: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    tp = counts @ ((y == 1) & predicted)
    fn = counts @ ((y == 1) & ~predicted)
    fp = counts @ ((y == 0) & predicted)
    tn = counts @ ((y == 0) & ~predicted)
    return {
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "npv": tn / (tn + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
    }


def losses(y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Log loss, Brier score, and that score scaled by what the prevalence alone scores.

    Parameters
    ----------
    y, y_prob : shape (n,).
    counts : shape (resamples, n).

    Returns
    -------
    ``log_loss``, ``brier`` and ``scaled_brier``, shape (resamples,); the last is NaN where one
    outcome is absent.
    """
    total = counts.sum(axis=1)
    brier = counts @ (y_prob - y) ** 2 / total
    prevalence = counts @ y / total
    uninformed = prevalence * (1 - prevalence)
    return {
        "log_loss": counts @ log_losses(y, y_prob) / total,
        "brier": brier,
        "scaled_brier": 1 - _ratio(brier, uninformed),
    }


def recalibration(y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Logistic recalibration, and observed over expected.

    Parameters
    ----------
    y, y_prob : shape (n,).
    counts : shape (resamples, n).

    Returns
    -------
    ``intercept`` and ``slope`` fitted together, ``in_the_large`` (the intercept with the slope
    held at 1) and ``o_e`` (diseased over the sum of probabilities), shape (resamples,).
    """
    p = np.clip(y_prob, 1e-6, 1 - 1e-6)
    logit = np.log(p / (1 - p))
    both = logistic_fit(y, counts, np.column_stack([np.ones_like(logit), logit]), 0 * logit)
    if np.ptp(logit) < NO_SPREAD:
        both = np.full_like(both, np.nan)
    return {
        "intercept": both[:, 0],
        "slope": both[:, 1],
        "in_the_large": logistic_fit(y, counts, np.ones((len(y), 1)), logit)[:, 0],
        "o_e": _ratio(counts @ y, counts @ y_prob),
    }


def net_benefits(
    y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """Net benefit at every threshold for every row of weights; shape (resamples, thresholds).

    A patient is treated when the probability reaches the threshold, equality included.

    References
    ----------
    .. [1] Vickers AJ, Elkin EB. Decision curve analysis: a novel method for evaluating prediction
       models. Med Decis Making 2006;26:565-574.

    Examples
    --------
    >>> y, p = np.array([0, 1, 1]), np.array([0.1, 0.4, 0.8])
    >>> net_benefits(y, p, np.ones((1, 3)), np.array([0.2])).round(4)
    array([[0.6667]])
    """
    treated = (y_prob >= thresholds[:, None]).T
    shares = counts / counts.sum(axis=1, keepdims=True)
    benefit: np.ndarray = (shares * y) @ treated
    harm = (shares * (1 - y)) @ treated
    benefit -= harm * thresholds / (1 - thresholds)
    return benefit


def _calibration(y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    found = recalibration(y, y_prob, counts)
    return {
        "calibration_slope": found["slope"],
        "calibration_in_the_large": found["in_the_large"],
        "o_e": found["o_e"],
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN rather than infinite where the denominator is 0."""
    ratio: np.ndarray = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return ratio


def logistic_fit(
    y: np.ndarray, counts: np.ndarray, design: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """Maximum likelihood of logit P(y=1) = offset + design b, for every row of weights.

    Parameters
    ----------
    y, offset : shape (n,).
    counts : shape (resamples, n).
    design : shape (n, columns).

    Returns
    -------
    b, shape (resamples, columns), by Newton steps from 0; NaN where they do not converge.
    """
    columns = design.shape[1]
    b = np.zeros((len(counts), columns))
    ridge = 1e-12 * np.eye(columns)
    step = np.full_like(b, np.inf)
    for _ in range(30):
        mean = 1 / (1 + np.exp(-np.clip(b @ design.T + offset, -35, 35)))
        gradient = (counts * (y - mean)) @ design
        weights = counts * mean * (1 - mean)
        hessian = np.einsum("bn,ni,nj->bij", weights, design, design, optimize=True) + ridge
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        b += np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-10:
            break
    b[np.abs(step).max(axis=1) > 1e-6] = np.nan
    return b
