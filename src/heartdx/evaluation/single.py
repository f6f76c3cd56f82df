"""What a model of one hospital is worth in the others: the panels against imputing the unexamined.

Data facts: trained on Cleveland and median-imputed, a logistic regression has a Brier score of
.275 in Switzerland and .301 at VA, worse than stating the prevalence there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heartdx import checks
from heartdx.contract import PANEL_BY_NAME
from heartdx.evaluation.panels import Plan, panel_patients, panel_rows
from heartdx.evaluation.values import fig
from heartdx.performance import countable_sites, estimates
from heartdx.pipelines import BY_CANDIDATE, INPUTS
from heartdx.resampling import fitted, fitted_with

HOME = "cleveland"
CANDIDATE = "logreg"
SHOWN = ("auc", "brier", "calibration_in_the_large", "calibration_slope")


def section(data: checks.Loaded, plan: Plan) -> dict[str, Any] | None:
    """The other hospitals as the one hospital's panels answer them; None without both.

    Two rows each: tuned inside the one hospital on all inputs, and the same penalty on the required
    inputs only, for which nothing is ever imputed.
    """
    y = checks.outcome(data.frame).astype(np.float64)
    sites = data.frame["site"].to_numpy(dtype=str)
    others = [site for site in countable_sites(y, sites) if site != HOME]
    if HOME not in sites or not others:
        return None
    y_prob = {name: np.full(len(y), np.nan) for name in ("all", "required")}
    for panel in PANEL_BY_NAME.values():
        patients, rows = panel_patients(panel, data), panel_rows(panel, data)
        at_home = np.flatnonzero(patients.sites == HOME)
        candidate = BY_CANDIDATE[CANDIDATE]
        pipeline, tuning = fitted(candidate, patients.take(at_home), seed=plan.seed)
        y_prob["all"][rows] = pipeline.predict_proba(patients.X)[:, 1]
        parameters = {**tuning.parameters, INPUTS: "required"}
        lean = fitted_with(candidate, patients.take(at_home), parameters, seed=plan.seed)
        y_prob["required"][rows] = lean.predict_proba(patients.X)[:, 1]
    return {
        "trained_on": HOME,
        "held_out": {site: _judged(site, y, y_prob["all"], sites, plan) for site in others},
        "required_only": {
            site: _judged(site, y, y_prob["required"], sites, plan) for site in others
        },
    }


def _judged(
    site: str, y: np.ndarray, y_prob: np.ndarray, sites: np.ndarray, plan: Plan
) -> dict[str, Any]:
    rows = sites == site
    found = estimates(
        y[rows], y_prob[rows], threshold=plan.threshold, sites=sites[rows], seed=plan.seed
    )
    return {"patients": int(rows.sum()), "metrics": {name: fig(found[name]) for name in SHOWN}}
