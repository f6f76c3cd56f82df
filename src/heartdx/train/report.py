"""What a training run leaves for people: metrics.json, training.md and the figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heartdx import atomic, bundle, checks, equations, performance, tracking
from heartdx.contract import BY_NAME, OUTCOME, PANEL_BY_NAME
from heartdx.evaluation.panels import (
    ELIGIBLE,
    LABELS,
    PROCEDURE,
    Evaluation,
    PanelResult,
    Plan,
    Results,
    intervals,
)
from heartdx.figures import Figure, style, training
from heartdx.performance import Interval
from heartdx.train.gates import Gate

METRICS_FILE = "metrics.json"
STORY_FILE = "training.md"
FIGURES = "figures"
SHOWN = (
    "auc",
    "auc_within",
    "pr_auc",
    "log_loss",
    "brier",
    "calibration_slope",
    "calibration_in_the_large",
    "sensitivity",
    "specificity",
)
SHOWN_BY_SITE = ("auc", "brier", "log_loss", "calibration_slope", "calibration_in_the_large")
ABOUT = {
    "cross_validation": "repeated nested cross-validation by patient; every estimate is the mean "
    "over repeats with a 95 % percentile interval from resampling patients within hospitals",
    "within_site_auc": "AUC inside each hospital; a pooled AUC also rewards telling hospitals "
    "apart",
    "leave_one_site_out": "scored by models that never saw a patient of that hospital",
    "calibration_in_the_large": "log-odds by which the outcomes exceed the probabilities: above 0 "
    "means that the probabilities are too low there",
    PROCEDURE: "tuning and a choice made again inside every training fold, by the inner losses "
    "(the forest's from uncalibrated trees): shows what choosing costs",
    "intervals": "hold the fitted models fixed and draw patients; they do not hold what refitting, "
    "another hospital or another decade would change; resamples in which an estimate is undefined "
    "are left out",
}


def write(
    reports_dir: Path,
    *,
    data: checks.Loaded,
    plan: Plan,
    results: Results,
    gates: Sequence[Gate],
) -> list[Path]:
    """Write every report of a run; each file whole or not at all."""
    document = metrics_document(data, plan, results, gates)
    files: dict[str, bytes] = {
        METRICS_FILE: (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("utf-8"),
        STORY_FILE: story(data, plan, results, gates).encode("utf-8"),
    }
    for name, figure in figures_of(results.panels, plan):
        files[f"{FIGURES}/{name}.png"] = style.png(figure)
    for name, content in files.items():
        atomic.write_bytes(reports_dir / name, content)
    return [reports_dir / name for name in files]


def metrics_document(
    data: checks.Loaded,
    plan: Plan,
    results: Results,
    gates: Sequence[Gate],
) -> dict[str, Any]:
    """Every number of the run, without times: the same run gives the same document."""
    return {
        "about": ABOUT,
        "metrics": dict(performance.METRICS),
        "data": {"name": Path(data.name).name, "sha256": data.sha256, "coding": data.coding},
        "plan": {
            "splits": plan.splits,
            "repeats": plan.repeats,
            "seed": plan.seed,
            "harm_ratio": plan.harm_ratio,
            "threshold": plan.threshold,
        },
        "findings": [f.message for f in data.findings],
        "panels": {name: _panel_document(result) for name, result in results.panels.items()},
        "skipped_panels": dict(results.skipped),
        "promoted": all(g.passed for g in gates),
        "gates": [{"name": g.name, "passed": g.passed, "figure": g.figure} for g in gates],
    }


def story(
    data: checks.Loaded,
    plan: Plan,
    results: Results,
    gates: Sequence[Gate],
) -> str:
    """The run in words and tables, as Markdown."""
    lines = [
        "# Training report",
        "",
        f"{len(data.frame)} patients, outcome: {OUTCOME.label.lower()} ({OUTCOME.name} > 0). "
        f"{plan.repeats} times {plan.splits}-fold nested cross-validation, seed {plan.seed}, "
        f"threshold {plan.threshold:g} (harm ratio {plan.harm_ratio:g}).",
        "",
        "The model passed every gate."
        if all(g.passed for g in gates)
        else "**The model was refused by a gate (at the end) and is not current.**",
        "",
        "Every patient here was sent to angiography: the probabilities are for such patients, and "
        "are no screening risk. Intervals are 95 %.",
        "",
        "## Data",
        "",
        *(f"- {finding.message}" for finding in data.findings),
        "",
    ]
    for name, result in results.panels.items():
        lines += [*_panel_story(name, result), ""]
    for name, reason in results.skipped.items():
        lines += [f"## Panel {name}: not trained", "", f"{reason}.", ""]
    lines += ["## Gates", ""]
    lines += [f"- {'passed' if g.passed else 'FAILED'}: {g.name} ({g.figure})" for g in gates]
    return "\n".join(lines) + "\n"


def summary(panels: Mapping[str, PanelResult]) -> str:
    """The metrics as a table for a terminal, one row a panel and candidate."""
    heads = ["panel", "candidate", "AUC", "within", "log loss", "Brier", "slope", "sens.", "spec."]
    losses = ("log_loss", "brier", "calibration_slope")
    keys = ("auc", "auc_within", *losses, "sensitivity", "specificity")
    rows = []
    for panel, result in panels.items():
        for name, evaluation in result.evaluations.items():
            mark = " *" if name == result.choice.candidate else ""
            numbers = [_number(evaluation.metrics[key]) for key in keys]
            rows.append([panel, LABELS[name] + mark, *numbers])
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [heads, *rows]
    ]
    return (
        "\n".join(table)
        + "\n(* chosen; cross-validated, mean over repeats; within: AUC inside hospitals)"
    )


def figures_of(panels: Mapping[str, PanelResult], plan: Plan) -> Iterator[tuple[str, Figure]]:
    """Name and picture, panel by panel."""
    for name, result in panels.items():
        y = result.patients.y
        shown = ["age_sex", *(c.name for c in ELIGIBLE)]
        where = f"{name} panel, {len(y)} patients, cross-validated"
        yield (
            f"roc_{name}",
            training.roc(_curves(result, shown, "auc", "AUC", "auc_within"), title=f"ROC: {where}"),
        )
        yield (
            f"precision_recall_{name}",
            training.precision_recall(
                _curves(result, shown, "pr_auc", "average precision"),
                title=f"Precision and recall: {where}",
            ),
        )
        yield (
            f"calibration_{name}",
            training.calibration(
                _curves(result, [c.name for c in ELIGIBLE], "calibration_slope", "slope"),
                title=f"Calibration: {where}",
            ),
        )
        yield f"confusion_{name}", _confusion(name, result, plan)
        yield from _explanations(name, result)
        by_site = {LABELS[n]: _losses(e) for n, e in result.evaluations.items() if e.by_site}
        if by_site:
            title = f"Log loss in a hospital never seen: {name} panel"
            yield f"held_out_hospitals_{name}", training.losses_by_site(by_site, title=title)


def run_facts(
    data: checks.Loaded,
    plan: Plan,
    panels: Mapping[str, PanelResult],
    origin: Mapping[str, Any],
    made: bundle.Bundle,
    reports: Sequence[Path],
) -> tracking.RunFacts:
    """The run as the tracker takes it."""
    return tracking.RunFacts(
        frame=data.frame,
        data_name=Path(data.name).name,
        parameters={
            "splits": plan.splits,
            "repeats": plan.repeats,
            "seed": plan.seed,
            "harm_ratio": plan.harm_ratio,
            "threshold": plan.threshold,
            **{f"{name}.model": result.chosen.model for name, result in panels.items()},
        },
        metrics=_flat({n: r.headline for n, r in panels.items()}),
        candidates={
            name: _flat({panel: r.evaluations[name] for panel, r in panels.items()})
            for name in next(iter(panels.values())).evaluations
            if name != PROCEDURE
        },
        candidate_parameters={
            c.name: {
                f"{panel}.{key}": value
                for panel, result in panels.items()
                for key, value in result.fits[c.name].facts["parameters"].items()
            }
            for c in ELIGIBLE
        },
        tags={
            "code_version": str(origin["code_version"]),
            "contract_fingerprint": made.manifest["contract"]["fingerprint"],
            "bundle_digest": made.digest,
            "data_sha256": data.sha256,
        },
        bundle=made,
        reports=tuple(reports),
    )


# -- parts -----------------------------------------------------------------------------------


def _panel_document(result: PanelResult) -> dict[str, Any]:
    sites, counts = np.unique(result.patients.sites, return_counts=True)
    return {
        "inputs": list(result.patients.panel.inputs),
        "required": list(result.patients.panel.required),
        "patients": len(result.patients.y),
        "diseased": int(result.patients.y.sum()),
        "sites": {str(s): int(n) for s, n in zip(sites, counts, strict=True)},
        "choice": {
            "candidate": result.choice.candidate,
            "reason": result.choice.reason,
            "log_loss": {n: round(v, 6) for n, v in result.choice.losses.items()},
            "compared_with": result.choice.compared_with,
            "difference": round(result.choice.difference, 6),
            "standard_error": round(result.choice.standard_error, 6),
        },
        "parameters": {n: dict(fit.facts["parameters"]) for n, fit in result.fits.items()},
        "candidates": {
            name: {
                "label": LABELS[name],
                "cross_validation": intervals(evaluation.metrics),
                "within_site_auc": {
                    "by_site": {s: round(v, 6) for s, v in evaluation.within_site_auc.items()},
                    "mean": _mean(evaluation.within_site_auc),
                },
                "leave_one_site_out": {s: intervals(m) for s, m in evaluation.by_site.items()},
            }
            for name, evaluation in result.evaluations.items()
        },
    }


def _panel_story(name: str, result: PanelResult) -> list[str]:
    panel = PANEL_BY_NAME[name]
    lines = [
        f"## Panel {name}: {panel.label.lower()}",
        "",
        f"{len(result.patients.y)} patients, {int(result.patients.y.sum())} with disease. "
        f"Chosen: **{LABELS[result.choice.candidate]}**. {result.choice.reason}",
        "",
        "| cross-validated | " + " | ".join(performance.METRICS[key] for key in SHOWN) + " |",
        "|" + "---|" * (len(SHOWN) + 1),
    ]
    for candidate, evaluation in result.evaluations.items():
        cells = " | ".join(_text(evaluation.metrics[key]) for key in SHOWN)
        lines.append(f"| {LABELS[candidate]} | {cells} |")
    chosen = result.headline
    listed = ", ".join(f"{site} {value:.3f}" for site, value in chosen.within_site_auc.items())
    lines += [
        "",
        f"AUC of the chosen model pooled {chosen.metrics['auc'].value:.3f}; inside hospitals "
        f"{chosen.metrics['auc_within'].value:.3f} ({listed}).",
    ]
    if not chosen.by_site:
        return [*lines, "", "Transfer to another hospital is not estimable from these data."]
    heads = " | ".join(performance.METRICS[key] for key in SHOWN_BY_SITE)
    lines += ["", f"| chosen model in a held-out hospital | {heads} |"]
    lines += ["|" + "---|" * (len(SHOWN_BY_SITE) + 1)]
    for site, metrics in chosen.by_site.items():
        cells = " | ".join(_text(metrics[key]) for key in SHOWN_BY_SITE)
        lines.append(f"| {site} | {cells} |")
    return lines


def _curves(
    result: PanelResult, names: Sequence[str], metric: str, label: str, beside: str = ""
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """First repeat of each candidate, so that each patient is drawn once."""
    curves = {}
    for name in names:
        evaluation = result.evaluations[name]
        text = f"{LABELS[name]}: {label} {_text(evaluation.metrics[metric])}"
        if beside:
            text += f"; inside hospitals {_number(evaluation.metrics[beside])}"
        curves[text] = (result.patients.y, evaluation.y_prob[:, 0])
    return curves


def _confusion(name: str, result: PanelResult, plan: Plan) -> Figure:
    y_prob = result.headline.y_prob[:, 0]
    return training.confusion(
        performance.confusion(result.patients.y, y_prob, threshold=plan.threshold),
        title=f"Decisions: {name} panel, cross-validated",
        threshold=plan.threshold,
        labels=(OUTCOME.negative, OUTCOME.positive),
    )


def _explanations(name: str, result: PanelResult) -> Iterator[tuple[str, Figure]]:
    logreg, forest = result.fits["logreg"], result.fits["forest"]
    features, _ = equations.features_of(logreg)
    yield (
        f"coefficients_{name}",
        training.coefficients(
            [_feature_label(f) for f in features],
            list(logreg.pipeline[-1].coef_[0]),
            title=f"Logistic regression: {name} panel",
        ),
    )
    attributes = list(result.patients.panel.inputs)
    shares = _importances(forest)
    yield (
        f"importances_{name}",
        training.importances(
            [BY_NAME[a].label for a in attributes],
            list(np.median(shares, axis=0)),
            list(np.percentile(shares, 25, axis=0)),
            list(np.percentile(shares, 75, axis=0)),
            title=f"Random forest: {name} panel, impurity removed (median tree, quartiles)",
        ),
    )


def _importances(forest: equations.PanelModel) -> np.ndarray:
    """Share of impurity each attribute removes in each tree: shape (trees, attributes)."""
    features, _ = equations.features_of(forest)
    (calibrated,) = forest.pipeline[-1].calibrated_classifiers_
    columns = np.array([tree.feature_importances_ for tree in calibrated.estimator.estimators_])
    owner = np.array([feature.attribute for feature in features])
    return np.column_stack([columns[:, owner == name].sum(axis=1) for name in forest.panel.inputs])


def _feature_label(feature: equations.Feature) -> str:
    attribute = BY_NAME[feature.attribute]
    if feature.code is None:
        return f"{attribute.label} (per {feature.scale:.3g} {attribute.unit})"
    words = {code.value: code.name for code in attribute.codes}
    return f"{attribute.label}: {words[feature.code]}"


def _losses(evaluation: Evaluation) -> dict[str, float]:
    return {site: metrics["log_loss"].value for site, metrics in evaluation.by_site.items()}


def _flat(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    found = {}
    for panel, evaluation in evaluations.items():
        for name, interval in evaluation.metrics.items():
            found[f"{panel}.{name}"] = interval.value
        for site, metrics in evaluation.by_site.items():
            for name in SHOWN_BY_SITE:
                found[f"{panel}.{site}.{name}"] = metrics[name].value
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _mean(values: Mapping[str, float]) -> float | None:
    return round(float(np.mean(list(values.values()))), 6) if values else None


def _number(interval: Interval) -> str:
    return f"{interval.value:.3f}" if np.isfinite(interval.value) else "-"


def _text(interval: Interval) -> str:
    return str(interval) if np.isfinite(interval.value) else "not defined"
