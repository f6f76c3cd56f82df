"""Paired differences between candidates: the same patients, folds and resamples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from heartdx.performance import Interval, resampling_counts
from heartdx.performance.intervals import percentile_interval
from heartdx.performance.weighted import losses, ranking

COMPARED = ("auc", "brier", "log_loss")


def differences(
    y: np.ndarray,
    candidates: Mapping[str, np.ndarray],
    *,
    reference: str,
    sites: np.ndarray,
    seed: int,
    resamples: int = 500,
) -> dict[str, dict[str, Interval]]:
    """Each candidate minus the reference, with the interval of the paired difference.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    candidates : name to probabilities of shape (n, repeats); a difference is the mean over repeats.
    reference : name of the one that is subtracted.
    sites : shape (n,); resampling keeps each hospital's size.
    seed : of the resampling, one for all candidates.
    resamples : number of resamples.

    Returns
    -------
    candidate to metric (AUC, Brier score, log loss) to difference; the reference is left out.

    Examples
    --------
    >>> y, p = np.array([0.0, 1.0, 0.0, 1.0]), np.array([[0.2], [0.7], [0.4], [0.6]])
    >>> found = differences(y, {"a": p, "b": p}, reference="a", sites=np.zeros(4), seed=0)
    >>> found["b"]["auc"].value, found["b"]["auc"].high
    (0.0, 0.0)
    """
    counts = np.vstack([np.ones(len(y)), resampling_counts(sites, resamples, seed)])
    values = {name: _values(y, y_prob, counts) for name, y_prob in candidates.items()}
    return {
        name: {
            metric: percentile_interval(each[metric] - values[reference][metric])
            for metric in COMPARED
        }
        for name, each in values.items()
        if name != reference
    }


def _values(y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [{**ranking(y, column, counts), **losses(y, column, counts)} for column in y_prob.T]
    return {metric: np.mean([each[metric] for each in found], axis=0) for metric in COMPARED}
