"""Curves as the evaluation document holds them: lists of rounded numbers, ready to be drawn.

Where there are probabilities of several repeats, a picture shows one curve: that of each patient's
mean probability over the repeats. The numbers beside it are means over the repeats instead, so an
area read off the picture may be a little larger than the AUC in the text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from heartdx.evaluation.values import numbers
from heartdx.performance import RESAMPLES
from heartdx.performance.calibration import calibration
from heartdx.performance.net_benefit import decision_curve

BINS = 20
THRESHOLDS = np.arange(1, 100) / 100
"""From .01 to .99 by .01."""


def roc(y: np.ndarray, y_prob: np.ndarray) -> dict[str, list[float | None]]:
    """The receiver operating characteristic, a point for every distinct probability.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,) or (n, repeats), then the patients' means.

    Returns
    -------
    ``false_positive_rate`` and ``true_positive_rate``, ascending from 0 to 1; empty where an
    outcome is absent.

    Examples
    --------
    >>> roc(np.array([0, 0, 1]), np.array([0.1, 0.6, 0.9]))["true_positive_rate"]
    [0.0, 1.0, 1.0, 1.0]
    """
    if len(np.unique(y)) < 2:
        return {"false_positive_rate": [], "true_positive_rate": []}
    wrong, right, _ = roc_curve(y, _means(y_prob), drop_intermediate=False)
    return {"false_positive_rate": numbers(wrong), "true_positive_rate": numbers(right)}


def calibration_curve(
    y: np.ndarray,
    y_prob: np.ndarray,
    *,
    sites: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The smooth calibration curve, its band, and a histogram of both outcomes.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,) or (n, repeats), then the patients' means.
    sites : shape (n,); resampling keeps each hospital's size.
    seed : of the resampling.
    resamples : number of resamples; 0 gives no band.

    Returns
    -------
    ``grid``, ``observed``, ``low``, ``high`` of one length; ``edges`` of the bins, and the
    patients in them by outcome, ``events`` and ``non_events``.

    Examples
    --------
    >>> y, p = np.tile([0, 1], 20), np.linspace(0.1, 0.9, 40)
    >>> part = calibration_curve(y, p, sites=np.zeros(40), seed=0, resamples=10)
    >>> sum(part["events"]), sum(part["non_events"])
    (20, 20)
    """
    p, edges = _means(y_prob), np.linspace(0, 1, BINS + 1)
    curve = calibration(y, p, sites=sites, seed=seed, resamples=resamples).curve
    return {
        "grid": numbers(curve.probability),
        "observed": numbers(curve.observed),
        "low": numbers(curve.low),
        "high": numbers(curve.high),
        "edges": numbers(edges),
        "events": np.histogram(p[y == 1], edges)[0].tolist(),
        "non_events": np.histogram(p[y == 0], edges)[0].tolist(),
    }


def decision(
    y: np.ndarray,
    y_prob: np.ndarray,
    *,
    sites: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, list[float | None]]:
    """Net benefit and interventions avoided at the thresholds .01 to .99.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,) or (n, repeats), then the patients' means.
    sites : shape (n,); resampling keeps each hospital's size.
    seed : of the resampling.
    resamples : number of resamples; 0 gives no band.

    Returns
    -------
    Lists of 99: ``thresholds``; ``model`` with ``low`` and ``high``; ``treat_all``; ``avoided``
    per 100 patients against treating everybody, with ``avoided_low`` and ``avoided_high``.

    Examples
    --------
    >>> y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.6, 0.9])
    >>> part = decision(y, p, sites=np.zeros(4), seed=0, resamples=10)
    >>> part["thresholds"][49], part["model"][49], part["treat_all"][49]
    (0.5, 0.5, 0.0)
    """
    found = decision_curve(
        y,
        _means(y_prob),
        thresholds=THRESHOLDS,
        sites=sites,
        seed=seed,
        resamples=resamples,
    )
    return {
        "thresholds": numbers(found.thresholds),
        "model": numbers(found.model.value),
        "low": numbers(found.model.low),
        "high": numbers(found.model.high),
        "treat_all": numbers(found.treat_all),
        "avoided": numbers(found.avoided.value),
        "avoided_low": numbers(found.avoided.low),
        "avoided_high": numbers(found.avoided.high),
    }


def _means(y_prob: np.ndarray) -> np.ndarray:
    means: np.ndarray = y_prob.reshape(len(y_prob), -1).mean(axis=1)
    return means
