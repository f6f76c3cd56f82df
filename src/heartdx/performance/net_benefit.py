"""What acting on the probabilities is worth, by how much worse a missed patient is: net benefit.

References
----------
.. [1] Vickers AJ, Elkin EB. Decision curve analysis: a novel method for evaluating prediction
   models. Med Decis Making 2006;26:565-574.
.. [2] Vickers AJ, Cronin AM, Elkin EB, Gonen M. Extensions to decision curve analysis, a novel
   method for evaluating diagnostic tests, prediction models and molecular markers. BMC Med Inform
   Decis Mak 2008;8:53. (intervals by resampling)
.. [3] Vickers AJ, van Calster B, Steyerberg EW. A simple, step-by-step guide to interpreting
   decision curve analysis. Diagn Progn Res 2019;3:18. (interventions avoided)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heartdx.errors import UsageError
from heartdx.performance.intervals import Band, percentile_band
from heartdx.performance.weighted import RESAMPLES, net_benefits, resampling_counts


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit over thresholds, per patient, in true positives.

    Parameters
    ----------
    thresholds : shape (thresholds,).
    model : net benefit of treating whom the model calls diseased.
    treat_all, treat_none : shape (thresholds,), of treating everybody and nobody (0).
    advantage : model minus the better of the two, and its band.
    avoided : interventions avoided per 100 patients against treating everybody, at no missed
        patient more.
    """

    thresholds: np.ndarray
    model: Band
    treat_all: np.ndarray
    treat_none: np.ndarray
    advantage: Band
    avoided: Band


def decision_curve(
    y: np.ndarray,
    y_prob: np.ndarray,
    *,
    thresholds: np.ndarray,
    sites: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> DecisionCurve:
    """Net benefit at every threshold, against treating everybody or nobody [1]_.

    A patient is treated when the probability reaches the threshold, equality included, as in the
    Python package ``dcurves``.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,) or (n, repeats); net benefit is the mean over the repeats.
    thresholds : shape (thresholds,), above 0 and below 1.
    sites : shape (n,); resampling keeps each hospital's size.
    seed : of the resampling.
    resamples : number of resamples; 0 gives NaN bands.

    Raises
    ------
    UsageError : when a threshold is not between 0 and 1.

    References
    ----------
    .. [1] Vickers AJ, Elkin EB. Decision curve analysis: a novel method for evaluating prediction
       models. Med Decis Making 2006;26:565-574.

    Examples
    --------
    >>> y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.6, 0.9])
    >>> at = np.array([0.25, 0.5])
    >>> curve = decision_curve(y, p, thresholds=at, sites=np.zeros(4), seed=0, resamples=20)
    >>> curve.model.value.round(3), curve.treat_all.round(3)
    (array([0.417, 0.5  ]), array([0.333, 0.   ]))
    """
    thresholds = _checked(thresholds)
    counts = np.vstack([np.ones(len(y)), resampling_counts(sites, resamples, seed)])
    repeats = y_prob.reshape(len(y), -1).T
    model = np.mean([net_benefits(y, p, counts, thresholds) for p in repeats], axis=0)
    treat_all = net_benefits(y, np.ones(len(y)), counts, thresholds)
    return DecisionCurve(
        thresholds=thresholds,
        model=percentile_band(model),
        treat_all=treat_all[0],
        treat_none=np.zeros(len(thresholds)),
        advantage=percentile_band(model - np.maximum(treat_all, 0)),
        avoided=percentile_band(100 * (model - treat_all) * (1 - thresholds) / thresholds),
    )


def net_benefit(y: np.ndarray, y_prob: np.ndarray, threshold: float) -> float:
    """Share of true positives minus that of false ones, weighed by the threshold's odds [1]_.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,) or (n, repeats), then the mean over the repeats.
    threshold : above 0 and below 1; treated from here, equality included.

    Raises
    ------
    UsageError : when the threshold is not between 0 and 1.

    References
    ----------
    .. [1] Vickers AJ, Elkin EB. Decision curve analysis: a novel method for evaluating prediction
       models. Med Decis Making 2006;26:565-574.

    Examples
    --------
    >>> net_benefit(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.6, 0.9]), 0.5)
    0.25
    >>> net_benefit(np.array([0, 1]), np.array([0.1, 0.6]), 1.0)
    Traceback (most recent call last):
    ...
    heartdx.errors.UsageError: thresholds: expected probabilities above 0 and below 1; ...
    """
    at, ones = _checked(np.array([threshold])), np.ones((1, len(y)))
    repeats = y_prob.reshape(len(y), -1).T
    return float(np.mean([net_benefits(y, p, ones, at)[0, 0] for p in repeats]))


def _checked(thresholds: np.ndarray) -> np.ndarray:
    found = np.asarray(thresholds, dtype=float)
    if not np.all((found > 0) & (found < 1)):
        raise UsageError(
            "thresholds: expected probabilities above 0 and below 1; "
            "at 0 or 1 one of the two mistakes would cost nothing, so leave them out"
        )
    return found
