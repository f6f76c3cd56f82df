"""The story of a training run, step by step.

load → nested cross-validation → leave one hospital out → choose → fit → gates → report → bundle →
current → tracking
"""

from __future__ import annotations

import logging
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from heartdx import atomic, bundle, checks, export, logs, tracking
from heartdx.contract import NAMES, SITE_COLUMN
from heartdx.errors import BundleError, NoModelError
from heartdx.evaluation import groups, run
from heartdx.evaluation.panels import (
    BASELINES,
    LABELS,
    PanelResult,
    Plan,
    Progress,
    Results,
    evaluate_and_fit,
    panel_rows,
)
from heartdx.evaluation.transfer import pooled
from heartdx.pipelines import BY_CANDIDATE
from heartdx.reliability import Policy
from heartdx.resampling import cross_validation_splits, fitted_with
from heartdx.train import card, reliability, report
from heartdx.train.gates import Agreement, Gate, HeldOut, enforce, export_gate, findings, judge

LOG = logs.get("train")
LIBRARIES = ("numpy", "scikit-learn", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Trained:
    """A finished training run.

    Parameters
    ----------
    data : what was trained on.
    results : everything found, panel by panel.
    gates : every verdict.
    bundle : the verified bundle, now current.
    reports : files written for people.
    tracked : MLflow run id, None when tracking was off or away.
    """

    data: checks.Loaded
    results: Results
    gates: Sequence[Gate]
    bundle: bundle.Bundle
    reports: Sequence[Path]
    tracked: str | None


def train(
    data: checks.Loaded,
    plan: Plan,
    *,
    models_dir: Path,
    reports_dir: Path,
    tracker: tracking.Tracker | None,
    progress: Progress,
    policy: Policy | None = None,
) -> Trained:
    """Train, evaluate, and make the model current.

    Parameters
    ----------
    data : checked patients.
    plan : what to do.
    models_dir : receives ``bundles/<digest>/``, ``candidates/`` and ``current``.
    reports_dir : receives metrics.json, training.md, evaluation.html and .json, out_of_fold.csv
        and figures/.
    tracker : where the run is logged; None for nowhere.
    progress : wraps the running of all fits.
    policy : when the model declines to decide; never when None.

    Raises
    ------
    ContractError
        The data cannot support a panel.
    GateError
        The model is not good enough; the current one stays.
    VerificationError
        An exported form answers differently from the fitted pipeline.
    """
    results = evaluate_and_fit(data, plan, progress=progress)
    gates = gates_of(data, plan, results, present=present_model(models_dir))
    origin = provenance(data, plan, results)
    reports = report.write(reports_dir, data=data, plan=plan, results=results, gates=gates)
    document = run.quick(
        data, plan, results, gates=gates_document(gates), told=told_beside_gates(data, results)
    )
    reports += run.write(document, reports_dir)
    run.write_out_of_fold(data, results, reports_dir / run.OUT_OF_FOLD)  # stays here, untracked
    logs.event(LOG, "reports written", folder=reports_dir, files=len(reports))
    enforce(gates)
    made = export.write_bundle(
        [result.chosen for result in results.panels.values()],
        models_dir=models_dir,
        threshold=plan.threshold,
        harm_ratio=plan.harm_ratio,
        facts=origin,
        card=card.text(data=data, plan=plan, results=results, origin=origin, policy=policy),
        check_rows=data.frame[list(NAMES)].to_numpy(dtype=np.float64),
        seed=plan.seed,
        reliability=reliability.documents(results, plan),
        policy=policy,
    )
    write_candidates(results.panels, models_dir)
    export.promote(models_dir, made.digest)
    logs.event(LOG, "model is current", version=made.version, folder=made.folder)
    tracked = None
    if tracker is not None:
        tracked = tracker.log(report.run_facts(data, plan, results.panels, origin, made, reports))
    return Trained(data, results, gates, made, reports, tracked)


def gates_of(
    data: checks.Loaded, plan: Plan, results: Results, *, present: Mapping[str, Any] | None
) -> list[Gate]:
    """Every gate of every panel.

    Parameters
    ----------
    data, plan, results : of the run.
    present : manifest of the present model, None when there is none.
    """
    rows = data.frame[list(NAMES)].to_numpy(dtype=np.float64)
    found: list[Gate] = []
    for name, result in results.panels.items():
        baselines = {LABELS[c.name].lower(): result.evaluations[c.name].y_prob for c in BASELINES}
        found += judge(
            name,
            y=result.patients.y,
            y_prob=result.headline.y_prob,
            baselines=baselines,
            metrics=result.headline.metrics,
            held_out=held_out(result),
            groups=groups_of(data, result),
            champion=present_on_same_folds(present, result, plan),
        )
        scoring = export.forms_of(result.chosen, threshold=plan.threshold)
        agreement = export.differences(result.chosen, scoring, rows)
        found.append(export_gate(name, {form: Agreement(*a) for form, a in agreement.items()}))
    return found


def verdicts(
    data: checks.Loaded, plan: Plan, results: Results
) -> tuple[list[dict[str, Any]], list[str]]:
    """The gates without a present model, and what is told beside them, for a full evaluation."""
    gates = gates_of(data, plan, results, present=None)
    return gates_document(gates), told_beside_gates(data, results)


def gates_document(gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """The verdicts as the evaluation document holds them."""
    return [
        {"name": g.name, "passed": g.passed, "reason": g.reason, "figure": g.figure} for g in gates
    ]


def told_beside_gates(data: checks.Loaded, results: Results) -> list[str]:
    """What no verdict can rest on, panel by panel."""
    told: list[str] = []
    for name, result in results.panels.items():
        scored = ~np.isnan(result.headline.between)
        transfer = pooled(
            result.patients.y[scored],
            result.headline.between[scored],
            result.patients.sites[scored],
        )
        told += findings(
            name,
            y=result.patients.y,
            held_out=held_out(result),
            groups=groups_of(data, result),
            pooled_auc=(transfer or {}).get("auc"),
        )
    return told


def held_out(result: PanelResult) -> dict[str, HeldOut]:
    """The chosen model in every hospital that was held out."""
    y, sites = result.patients.y, result.patients.sites
    return {
        site: HeldOut(metrics["auc"], int((sites == site).sum()), int(y[sites == site].sum()))
        for site, metrics in result.headline.by_site.items()
    }


def groups_of(data: checks.Loaded, result: PanelResult) -> dict[str, np.ndarray]:
    """Label to mask of every group of a panel's patients."""
    frame = data.frame.iloc[panel_rows(result.patients.panel, data)]
    return {f"{by} {label}": rows for by, label, rows in groups.members(frame)}


def present_model(models_dir: Path) -> Mapping[str, Any] | None:
    """Manifest of the current model; None when there is none that this release can read."""
    try:
        return bundle.load(bundle.current_folder(models_dir)).manifest
    except NoModelError:
        return None
    except BundleError as cause:
        logs.event(LOG, "present model cannot be compared", level=logging.WARNING, reason=cause)
        return None


def present_on_same_folds(
    present: Mapping[str, Any] | None, result: PanelResult, plan: Plan
) -> np.ndarray | None:
    """The present model's candidate and parameters, refitted on the outer folds of this run.

    Its own answers would flatter it: these patients may have trained it.

    Returns
    -------
    probabilities of shape (n, repeats), or None where there is nothing to compare with.
    """
    patients = result.patients
    facts = (present or {}).get("panels", {}).get(patients.panel.name)
    if facts is None or not {"model", "parameters"} <= facts.keys():
        return None
    candidate = BY_CANDIDATE[facts["model"]]
    y_prob = np.full((len(patients.y), plan.repeats), np.nan)
    splits = cross_validation_splits(
        patients, splits=plan.splits, repeats=plan.repeats, seed=plan.seed
    )
    for split in splits:
        trained = patients.take(split.train)
        pipeline = fitted_with(candidate, trained, facts["parameters"], seed=split.seed)
        y_prob[split.test, int(split.key)] = pipeline.predict_proba(patients.X[split.test])[:, 1]
    return y_prob


def write_candidates(panels: Mapping[str, PanelResult], models_dir: Path) -> list[Path]:
    """Every eligible fitted pipeline as ``candidates/<panel>-<candidate>.joblib``."""
    written = []
    for panel, result in panels.items():
        for name, model in result.fits.items():
            path = models_dir / "candidates" / f"{panel}-{name}.joblib"
            atomic.write_bytes(path, export.dump(model.pipeline))
            written.append(path)
    return written


def provenance(data: checks.Loaded, plan: Plan, results: Results) -> dict[str, Any]:
    """Where a model comes from: data, code, libraries, protocol, time."""
    sites = data.frame[SITE_COLUMN].value_counts().sort_index()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": code_version(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "data": {
            "sha256": data.sha256,
            "coding": data.coding,
            "patients": len(data.frame),
            "sites": {str(site): int(count) for site, count in sites.items()},
            "findings": [finding.message for finding in data.findings],
        },
        "skipped_panels": dict(results.skipped),
        "evaluation": {"splits": plan.splits, "repeats": plan.repeats, "seed": plan.seed},
    }


def code_version() -> str:
    """The package's version, with the commit when this very file is tracked by git."""
    installed = version("heartdx")
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        described = _git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return installed
    return f"{installed}+{described}"


def _git(*arguments: str) -> str:
    finished = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607
        cwd=Path(__file__).resolve().parent,
        capture_output=True,
        text=True,
        timeout=5,
        check=True,
    )
    return finished.stdout.strip()
