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
    PROCEDURE,
    PanelResult,
    Plan,
    Progress,
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
    panels : panel name to everything found about it.
    gates : every verdict.
    bundle : the verified bundle, now current.
    reports : files written for people.
    tracked : MLflow run id, None when tracking was off or away.
    """

    data: checks.Loaded
    panels: Mapping[str, PanelResult]
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
    panels = evaluate_and_fit(data, plan, progress=progress)
    gates = gates_of(panels)
    origin = provenance(data, plan)
    reports = report.write(reports_dir, data=data, plan=plan, panels=panels, gates=gates)
    logs.event(LOG, "reports written", folder=reports_dir, files=len(reports))
    enforce(gates)
    made = export.write_bundle(
        [result.chosen for result in panels.values()],
        models_dir=models_dir,
        threshold=plan.threshold,
        harm_ratio=plan.harm_ratio,
        facts=origin,
        card=card.text(data=data, plan=plan, panels=panels, origin=origin),
        check_rows=data.frame[list(NAMES)].to_numpy(dtype=np.float64),
        seed=plan.seed,
    )
    write_candidates(panels, models_dir)
    export.promote(models_dir, made.digest)
    logs.event(LOG, "model is current", version=made.version, folder=made.folder)
    tracked = None
    if tracker is not None:
        tracked = tracker.log(report.run_facts(data, plan, panels, origin, made, reports))
    return Trained(data, panels, gates, made, reports, tracked)


def gates_of(panels: Mapping[str, PanelResult]) -> list[Gate]:
    """Every gate of every panel."""
    return [
        gate
        for name, result in panels.items()
        for gate in judge(
            name,
            result.evaluations[PROCEDURE].metrics,
            {c.label.lower(): result.evaluations[c.name].metrics for c in BASELINES},
        )
    ]


def write_candidates(panels: Mapping[str, PanelResult], models_dir: Path) -> list[Path]:
    """Every eligible fitted pipeline as ``candidates/<panel>-<candidate>.joblib``."""
    written = []
    for panel, result in panels.items():
        for name, model in result.fits.items():
            path = models_dir / "candidates" / f"{panel}-{name}.joblib"
            atomic.write_bytes(path, export.dump(model.pipeline))
            written.append(path)
    return written


def provenance(data: checks.Loaded, plan: Plan) -> dict[str, Any]:
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
        },
        "evaluation": {"splits": plan.splits, "repeats": plan.repeats, "seed": plan.seed},
    }


def code_version() -> str:
    """The package's version, with the commit when the source is a checkout."""
    installed = version("heartdx")
    source = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=source,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return installed
    return f"{installed}+{described.stdout.strip()}"
