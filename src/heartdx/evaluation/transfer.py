"""What is known of a hospital that trained nothing, pooled over the hospitals there are.

References
----------
.. [1] Debray TPA et al. A framework for meta-analysis of prediction model studies with binary and
   time-to-event outcomes. Stat Methods Med Res 2019;28:2768-2786.
.. [2] Snell KIE, Ensor J, Debray TPA, Moons KGM, Riley RD. Meta-analysis of prediction model
   performance across multiple studies: which scale helps ensure between-study normality for the
   C-statistic and calibration measures? Stat Methods Med Res 2018;27:3505-3522.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from heartdx.errors import ContractError
from heartdx.evaluation.values import fig, number
from heartdx.performance.discrimination import auc_variance
from heartdx.performance.pooling import Pooled, log_o_e, logit_auc, pool
from heartdx.performance.weighted import NO_SPREAD, logistic_fit, weighted_metrics

FEWEST_HOSPITALS = 2
MEASURES = ("auc", "o_e", "calibration_slope")


def pooled(y: np.ndarray, y_prob: np.ndarray, sites: np.ndarray) -> dict[str, Pooled] | None:
    """AUC, observed over expected, and slope over held-out hospitals; None with fewer than two.

    Parameters
    ----------
    y, y_prob, sites : shape (n,), probabilities from models that never saw the hospital.
    """
    names = np.unique(sites)
    if len(names) < FEWEST_HOSPITALS:
        return None
    each = [_measures(y[sites == name], y_prob[sites == name]) for name in names]
    scales: Mapping[str, Any] = {"auc": "logit", "o_e": "log", "calibration_slope": "identity"}
    found = {}
    for measure in MEASURES:
        pairs = np.array([measures[measure] for measures in each])
        usable = np.isfinite(pairs).all(axis=1)
        if usable.sum() >= FEWEST_HOSPITALS:
            found[measure] = pool(*pairs[usable].T, scale=scales[measure])
    return found


def pooled_document(found: Mapping[str, Pooled] | None) -> dict[str, Any] | None:
    """The same as the evaluation document holds it, on each measure's own scale."""
    if found is None:
        return None
    return {
        measure: {
            "mean": fig(pooled.natural_mean),
            "prediction": {
                "low": number(pooled.natural_prediction.low),
                "high": number(pooled.natural_prediction.high),
            },
            "tau": number(pooled.tau),
            "i_squared": number(100 * pooled.i_squared),
            "hospitals": pooled.k,
            "scale": pooled.scale,
        }
        for measure, pooled in found.items()
    }


def _measures(y: np.ndarray, y_prob: np.ndarray) -> dict[str, tuple[float, float]]:
    """Estimate and standard error of each measure on its pooling scale, for one hospital."""
    auc = weighted_metrics(y, y_prob, np.ones((1, len(y))), threshold=0.5)["auc"][0]
    return {
        "auc": _or_left_out(logit_auc, float(auc), auc_variance(y, y_prob)),
        "o_e": _or_left_out(log_o_e, float(y.sum()), float(y_prob.sum()), len(y)),
        "calibration_slope": slope_with_error(y, y_prob),
    }


def _or_left_out(on_scale: Callable[..., tuple[float, float]], *of: Any) -> tuple[float, float]:
    """NaN where a hospital has no value on the pooling scale: it is left out and not counted."""
    try:
        return on_scale(*of)
    except ContractError:
        return np.nan, np.nan


def slope_with_error(y: np.ndarray, y_prob: np.ndarray) -> tuple[float, float]:
    """Calibration slope and its standard error from the information matrix; NaN without spread."""
    p = np.clip(y_prob, 1e-6, 1 - 1e-6)
    log_odds = np.log(p / (1 - p))
    if np.ptp(log_odds) < NO_SPREAD:
        return np.nan, np.nan
    design = np.column_stack([np.ones(len(y)), log_odds])
    b = logistic_fit(y, np.ones((1, len(y))), design, 0 * log_odds)[0]
    mean = 1 / (1 + np.exp(-design @ b))
    information = (design * (mean * (1 - mean))[:, None]).T @ design
    if not np.isfinite(b).all():
        return np.nan, np.nan
    return float(b[1]), float(np.sqrt(np.linalg.inv(information)[1, 1]))
