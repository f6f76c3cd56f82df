"""How good probabilities are: discrimination, calibration and decisions, all with intervals.

Intervals come from resampling patients (within hospitals) with integer weights, so one matrix
product serves a thousand resamples; a patient's predictions of all repeats are kept together.

References
----------
.. [1] Hanley JA, McNeil BJ. The meaning and use of the area under a receiver operating
   characteristic (ROC) curve. Radiology 1982;143:29-36.
.. [2] Davis J, Goadrich M. The relationship between precision-recall and ROC curves. ICML 2006.
.. [3] Brier GW. Verification of forecasts expressed in terms of probability. Mon Weather Rev
   1950;78:1-3.
.. [4] Cox DR. Two further applications of a model for binary regression. Biometrika
   1958;45:562-565. (calibration intercept and slope)
.. [5] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993. (percentile
   interval)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from heartdx.performance.calibration import calibration_errors
from heartdx.performance.intervals import Interval, percentile_interval
from heartdx.performance.weighted import (
    COUNTABLE_PATIENTS,
    RESAMPLES,
    confusion,
    countable_sites,
    log_losses,
    mean_log_losses,
    mean_within_auc,
    resampling_counts,
    threshold_from,
    weighted_metrics,
    within_site_auc,
)

__all__ = [
    "COUNTABLE_PATIENTS",
    "METRICS",
    "RESAMPLES",
    "Interval",
    "confusion",
    "countable_sites",
    "estimates",
    "log_losses",
    "mean_log_losses",
    "resampling_counts",
    "threshold_from",
    "weighted_metrics",
    "within_site_auc",
]

METRICS: Mapping[str, str] = {
    "auc": "Area under the ROC curve",
    "auc_within": "AUC inside hospitals (mean)",
    "pr_auc": "Average precision",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Positive predictive value",
    "recall": "Sensitivity, under its other name",
    "npv": "Negative predictive value",
    "f1": "F1",
    "log_loss": "Log loss (nats)",
    "brier": "Brier score",
    "calibration_slope": "Calibration slope (1 is right)",
    "calibration_in_the_large": "Calibration in the large (0 is right)",
    "ici": "Integrated calibration index (0 is right)",
    "o_e": "Observed over expected (1 is right)",
    "scaled_brier": "Scaled Brier score (0 is the prevalence alone, 1 perfect)",
    "net_benefit": "Net benefit at the threshold",
}


def estimates(
    y: np.ndarray,
    y_prob: np.ndarray,
    *,
    threshold: float,
    sites: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Every metric with its interval.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,) or (n, repeats); a metric is the mean over the repeats.
    threshold : probability from which the answer is *disease*.
    sites : shape (n,); resampling keeps each hospital's size.
    seed : of the resampling.
    resamples : number of resamples.
    """
    repeats = y_prob.reshape(len(y), -1).T
    counts = np.vstack([np.ones(len(y)), resampling_counts(sites, resamples, seed)])
    found = [
        {
            **weighted_metrics(y, p, counts, threshold=threshold),
            "auc_within": mean_within_auc(y, p, counts, sites),
            "ici": calibration_errors(y, p, counts)["ici"],
        }
        for p in repeats
    ]
    return {
        name: percentile_interval(np.mean([metrics[name] for metrics in found], axis=0))
        for name in METRICS
    }
