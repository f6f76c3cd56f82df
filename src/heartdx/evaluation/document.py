"""Everything an evaluation found as one JSON document, from which pages and forms follow.

No time and no place of the run stands in it: the same data, seed and lock give the same document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from heartdx import __version__, checks, equations
from heartdx.contract import SITE_COLUMN
from heartdx.evaluation import comparison, curves, groups, internal, summary, transfer
from heartdx.evaluation.methods import METHODS
from heartdx.evaluation.panels import (
    LABELS,
    PROCEDURE,
    ROLES,
    Evaluation,
    PanelResult,
    Plan,
    Results,
    intervals,
)
from heartdx.evaluation.policy import Answers
from heartdx.evaluation.values import fig, figs, number
from heartdx.performance import METRICS, calibration, discrimination, estimates, within_site_auc

SCHEMA = 1
REFERENCE = "logreg"


@dataclass(frozen=True)
class Extras:
    """What only the full evaluation does; None or empty where it was not asked for.

    Parameters
    ----------
    stability : panel name to optimism and instability.
    ladder : hospital to its recalibration ladder.
    missing, lottery, single_hospital : parts of the document.
    bootstraps, draws : how many models and draws stand behind them.
    """

    stability: Mapping[str, Any] = field(default_factory=dict)
    ladder: Mapping[str, Any] | None = None
    missing: Mapping[str, Any] | None = None
    lottery: Mapping[str, Any] | None = None
    single_hospital: Mapping[str, Any] | None = None
    bootstraps: int | None = None
    draws: int | None = None


def evaluation_document(
    data: checks.Loaded,
    plan: Plan,
    results: Results,
    answers: Answers,
    *,
    kind: str,
    extras: Extras,
    gates: Sequence[Mapping[str, Any]],
    told: Sequence[str] = (),
) -> dict[str, Any]:
    """The document of a training run (``quick``) or of a full evaluation.

    Parameters
    ----------
    data, plan, results : of the run.
    answers : every patient's out-of-sample probability under the panel policy.
    kind : ``quick`` or ``full``.
    extras : what the full evaluation adds.
    gates : verdicts, each with name, passed, reason and figure.
    told : what stands beside the verdicts, because none can rest on it.
    """
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": kind,
        "heartdx_version": __version__,
        "model": None,
        "summary": [],
        "not_estimable": _not_estimable(results, answers),
        "findings": [],
        "methods": METHODS,
        "metrics": dict(METRICS),
        "data": data_part(data),
        "plan": {
            "splits": plan.splits,
            "repeats": plan.repeats,
            "seed": plan.seed,
            "harm_ratio": plan.harm_ratio,
            "threshold": plan.threshold,
            "bootstraps": extras.bootstraps,
            "draws": extras.draws,
        },
        "candidates": {
            name: {"label": LABELS[name], "role": ROLES[name]}
            for name in next(iter(results.panels.values())).evaluations
        },
        "panels": {
            name: _panel(result, plan, extras.stability.get(name))
            for name, result in results.panels.items()
        },
        "policy": _policy(data, plan, answers, extras),
        "ladder": extras.ladder,
        "missing": extras.missing,
        "lottery": extras.lottery,
        "overlap": None,
        "gates": list(gates),
    }
    found["summary"] = summary.sentences(found)
    found["findings"] = [*summary.findings(found), *told]
    return found


def data_part(data: checks.Loaded) -> dict[str, Any]:
    """Who the patients are, hospital by hospital."""
    y = checks.outcome(data.frame)
    by_site = {}
    for site in dict.fromkeys(data.frame[SITE_COLUMN]):
        rows = (data.frame[SITE_COLUMN] == site).to_numpy()
        by_site[str(site)] = {
            "patients": int(rows.sum()),
            "events": int(y[rows].sum()),
            "women": int((data.frame["sex"][rows] == 0).sum()),
            "age_median": number(float(data.frame["age"][rows].median())),
        }
    return {
        "name": Path(data.name).name,
        "sha256": data.sha256,
        "coding": data.coding,
        "patients": len(y),
        "events": int(y.sum()),
        "sites": by_site,
        "findings": [finding.message for finding in data.findings],
    }


# -- one panel -------------------------------------------------------------------------------


def _panel(result: PanelResult, plan: Plan, stability: Any) -> dict[str, Any]:
    patients, chosen = result.patients, result.headline
    y, sites = patients.y, patients.sites
    names, counts = np.unique(sites, return_counts=True)
    probabilities = {name: e.y_prob for name, e in result.evaluations.items()}
    apart = comparison.differences(
        y, probabilities, reference=REFERENCE, sites=sites, seed=plan.seed
    )
    scored = ~np.isnan(chosen.between)
    return {
        "label": patients.panel.label,
        "inputs": list(patients.panel.inputs),
        "required": list(patients.panel.required),
        "used": equations.used_inputs(result.chosen),
        "patients": len(y),
        "events": int(y.sum()),
        "sites": {str(site): int(n) for site, n in zip(names, counts, strict=True)},
        "chosen": result.choice.candidate,
        "reason": result.choice.reason,
        "parameters": {name: dict(fit.facts["parameters"]) for name, fit in result.fits.items()},
        "candidates": {
            name: _candidate(evaluation, apart.get(name, {}))
            for name, evaluation in result.evaluations.items()
        },
        "operating_point": operating_point(y, chosen.y_prob, plan.threshold),
        "calibration": calibration_part(y, chosen.y_prob, sites, plan.seed),
        "curves": {
            "roc": {
                name: curves.roc(y, probabilities[name])
                for name in probabilities
                if name != PROCEDURE and ROLES[name] != "baseline"
            },
            "calibration": curves.calibration_curve(y, chosen.y_prob, sites=sites, seed=plan.seed),
            "decision": curves.decision(y, chosen.y_prob, sites=sites, seed=plan.seed),
        },
        "pooled": transfer.pooled_document(
            transfer.pooled(y[scored], chosen.between[scored], sites[scored])
        ),
        "sample_size": _sample_size(result),
        "stability": stability,
    }


def _candidate(evaluation: Evaluation, apart: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "metrics": intervals(evaluation.metrics),
        "within_sites": {s: number(v) for s, v in evaluation.within_site_auc.items()},
        "difference": figs(apart),
        "held_out": {site: intervals(m) for site, m in evaluation.by_site.items()},
    }


def _sample_size(result: PanelResult) -> dict[str, Any] | None:
    auc = result.headline.metrics["auc"].value
    if result.choice.candidate != "logreg" or not 0.5 < auc < 1:
        return None  # no parameters to count, or nothing explained to count them against
    return internal.sample_size(result.chosen, result.patients, auc)


def operating_point(y: np.ndarray, y_prob: np.ndarray, threshold: float) -> dict[str, Any]:
    """Decisions at the threshold, of the mean probability over repeats."""
    mean = y_prob.reshape(len(y), -1).mean(axis=1)
    point = discrimination.operating_point(y, mean, threshold=threshold)
    shown = ("sensitivity", "specificity", "ppv", "npv", "lr_positive", "lr_negative")
    return {
        "threshold": number(threshold),
        "counts": {name: int(getattr(point, name)) for name in ("tp", "fp", "fn", "tn")},
        **{name: fig(getattr(point, name)) for name in shown},
    }


def calibration_part(
    y: np.ndarray, y_prob: np.ndarray, sites: np.ndarray, seed: int
) -> dict[str, Any]:
    """Every calibration statistic, and DeLong's interval of the AUC of the mean probability."""
    found = calibration.calibration(y, y_prob, sites=sites, seed=seed)
    shown = (
        "intercept",
        "slope",
        "in_the_large",
        "o_e",
        "ici",
        "e50",
        "e90",
        "emax",
        "brier",
        "scaled_brier",
        "log_loss",
    )
    mean = y_prob.reshape(len(y), -1).mean(axis=1)
    return {
        **{name: fig(getattr(found, name)) for name in shown},
        "auc_delong": fig(discrimination.auc_delong(y, mean)),
    }


# -- all patients ----------------------------------------------------------------------------


def _policy(data: checks.Loaded, plan: Plan, answers: Answers, extras: Extras) -> dict[str, Any]:
    y, sites = answers.y, answers.sites
    settings: dict[str, Any] = {"threshold": plan.threshold, "seed": plan.seed}
    held_out = answers.held_out_sites
    scored = np.isin(sites, held_out)
    within = [within_site_auc(y, p, sites) for p in answers.y_prob.T]
    return {
        "patients": len(y),
        "events": int(y.sum()),
        "panels": answers.panels_of(np.ones(len(y), dtype=bool)),
        "metrics": figs(estimates(y, answers.y_prob, sites=sites, **settings)),
        "within_sites": {s: number(float(np.mean([w[s] for w in within]))) for s in within[0]},
        "held_out": {site: _held_out(site, answers, plan) for site in held_out},
        "pooled": transfer.pooled_document(
            transfer.pooled(y[scored], answers.between[scored], sites[scored])
        ),
        "curves": {
            "held_out_calibration": {
                site: curves.calibration_curve(
                    y[sites == site],
                    answers.between[sites == site],
                    sites=sites[sites == site],
                    seed=plan.seed,
                )
                for site in held_out
            }
        },
        "groups": groups.section(
            data.frame, y, answers.y_prob, threshold=plan.threshold, seed=plan.seed
        ),
        "single_hospital": extras.single_hospital,
    }


def _held_out(site: str, answers: Answers, plan: Plan) -> dict[str, Any]:
    rows = answers.sites == site
    y = answers.y[rows]
    found = estimates(
        y,
        answers.between[rows],
        threshold=plan.threshold,
        sites=answers.sites[rows],
        seed=plan.seed,
    )
    return {
        "patients": len(y),
        "events": int(y.sum()),
        "prevalence": number(float(y.mean())),
        "panels": answers.panels_of(rows, between=True),
        "metrics": figs(found),
    }


def _not_estimable(results: Results, answers: Answers) -> list[str]:
    alone = [name for name, result in results.panels.items() if not result.headline.by_site]
    found = [
        f"Transfer of the {name} panel to another hospital: its patients come from one hospital "
        "only, so it was validated by patient within that hospital."
        for name in alone
    ]
    if not answers.held_out_sites:
        found.append("What happens in an unseen hospital: the data hold one hospital only.")
    found += [f"The {name} panel: {why}." for name, why in results.skipped.items()]
    return found
