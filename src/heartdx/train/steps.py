"""The story of a training run, step by step.

load → nested cross-validation → leave one hospital out → choose → fit → report → gates → bundle →
current → tracking
"""

from __future__ import annotations

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
from heartdx.train import card, report
from heartdx.train.evaluate import (
    BASELINES,
    LABELS,
    PanelResult,
    Plan,
    Progress,
    Results,
    evaluate_and_fit,
)
from heartdx.train.gates import Gate, enforce, judge

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
) -> Trained:
    """Train, evaluate, and make the model current.

    Parameters
    ----------
    data : checked patients.
    plan : what to do.
    models_dir : receives ``bundles/<digest>/``, ``candidates/`` and ``current``.
    reports_dir : receives metrics.json, training.md and figures/.
    tracker : where the run is logged; None for nowhere.
    progress : wraps the running of all fits.

    Raises
    ------
    ContractError
        The data cannot support a panel.
    GateError
        The model is no better than a baseline; the current one stays.
    VerificationError
        An exported form answers differently from the fitted pipeline.
    """
    results = evaluate_and_fit(data, plan, progress=progress)
    gates = gates_of(results.panels)
    origin = provenance(data, plan, results)
    reports = report.write(reports_dir, data=data, plan=plan, results=results, gates=gates)
    logs.event(LOG, "reports written", folder=reports_dir, files=len(reports))
    enforce(gates)
    made = export.write_bundle(
        [result.chosen for result in results.panels.values()],
        models_dir=models_dir,
        threshold=plan.threshold,
        harm_ratio=plan.harm_ratio,
        facts=origin,
        card=card.text(data=data, plan=plan, results=results, origin=origin),
        check_rows=data.frame[list(NAMES)].to_numpy(dtype=np.float64),
        seed=plan.seed,
    )
    write_candidates(results.panels, models_dir)
    export.promote(models_dir, made.digest)
    logs.event(LOG, "model is current", version=made.version, folder=made.folder)
    tracked = None
    if tracker is not None:
        tracked = tracker.log(report.run_facts(data, plan, results.panels, origin, made, reports))
    return Trained(data, results, gates, made, reports, tracked)


def gates_of(panels: Mapping[str, PanelResult]) -> list[Gate]:
    """Every gate of every panel."""
    found: list[Gate] = []
    for name, result in panels.items():
        baselines = {LABELS[c.name].lower(): result.evaluations[c.name].y_prob for c in BASELINES}
        found += judge(
            name,
            y=result.patients.y,
            y_prob=result.headline.y_prob,
            baselines=baselines,
            metrics=result.headline.metrics,
        )
    return found


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
