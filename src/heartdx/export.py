"""Fitted pipelines into a bundle: equation, ONNX, joblib, manifest, all proven equal."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.pipeline import Pipeline

from heartdx import __version__, atomic, bundle, store
from heartdx.contract import ATTRIBUTES, BY_NAME, NAMES, PANELS, VERSION, Panel, fingerprint
from heartdx.equations import PanelModel, equation_of, used_inputs
from heartdx.errors import BundleError, VerificationError
from heartdx.onnx_graph import onnx_of
from heartdx.pipelines import feature_kind
from heartdx.reliability import Policy

GOLDEN_RECORDS = 20
EQUATION_TOLERANCE = 1e-9
ONNX_TOLERANCE = 1e-6
JOBLIB = "pipeline.joblib"
TRAINING = "heartdx train"
CARD = store.CARD


@dataclass(frozen=True)
class Exported:
    """The exported forms of one panel's model."""

    equation: bytes | None
    onnx: bytes

    @property
    def served(self) -> bytes:
        """What the service evaluates."""
        return self.equation if self.equation is not None else self.onnx


def write_bundle(
    models: list[PanelModel],
    *,
    models_dir: Path,
    threshold: float,
    harm_ratio: float,
    facts: Mapping[str, Any],
    card: str,
    check_rows: np.ndarray,
    seed: int,
    reliability: Mapping[str, bytes] | None = None,
    policy: Policy | None = None,
) -> bundle.Bundle:
    """Write a bundle under its digest and read it back verified.

    Parameters
    ----------
    models : one for each panel.
    models_dir : the bundle goes to ``<models_dir>/bundles/<digest>``.
    threshold, harm_ratio : how a probability becomes a decision.
    facts : further manifest entries (data, code, libraries, created).
    card : text of ``card.md``; ``{version}`` and ``{digest}`` are filled in.
    check_rows : shape (n, 13), patients on whom every exported form must agree.
    seed : of the synthetic golden records.
    reliability : panel name to its ``reliability.json``.
    policy : when the model declines to decide; never when None.

    Raises
    ------
    VerificationError
        An exported form answers differently from scikit-learn.
    """
    kept = reliability or {}
    declared = (policy or Policy()).document()
    exported: dict[str, Exported] = {
        m.panel.name: export(m, check_rows, threshold=threshold) for m in models
    }
    panels: dict[str, dict[str, Any]] = {m.panel.name: _panel_facts(m) for m in models}
    digest = bundle.content_digest(
        panels={
            n: bundle.panel_content(panels[n], exported[n].served, kept.get(n)) for n in panels
        },
        threshold=threshold,
        harm_ratio=harm_ratio,
        policy=declared,
    )
    files = dict(_files(models, exported))
    files |= {f"{name}/{bundle.RELIABILITY}": content for name, content in kept.items()}
    filled = card.replace("{version}", digest[:12]).replace("{digest}", digest)
    manifest = {
        "schema_version": bundle.SCHEMA_VERSION,
        "name": bundle.MODEL_NAME,
        "version": digest[:12],
        "digest": digest,
        "contract": {"version": VERSION, "fingerprint": fingerprint()},
        "threshold": threshold,
        "harm_ratio": harm_ratio,
        "policy": declared,
        "panels": panels,
        "golden": golden(models, seed=seed),
        "heartdx_version": __version__,
        **facts,
        "files": {n: hashlib.sha256(c).hexdigest() for n, c in sorted(files.items())},
    }
    target = models_dir / bundle.BUNDLES / digest
    _set_damaged_aside(target)
    if target.exists():
        if not (target / store.SIGNATURE).exists():  # what was signed stays as it was signed
            _renew(target, manifest, filled)
        return bundle.load(target)
    with atomic.folder(target) as draft:
        for name, content in files.items():
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_bytes(content)
        (draft / CARD).write_text(filled, encoding="utf-8")
        (draft / bundle.MANIFEST).write_text(_json(manifest), encoding="utf-8")
    return bundle.load(target)


def promote(models_dir: Path, digest: str) -> None:
    """Make a bundle the current one, in one step; the bundle is verified first."""
    store.switch(models_dir, digest, by=TRAINING)


def dump(pipeline: Pipeline) -> bytes:
    """A pipeline as joblib bytes, for people who want scikit-learn itself."""
    stream = io.BytesIO()
    joblib.dump(pipeline, stream, compress=3)
    return stream.getvalue()


def export(model: PanelModel, check_rows: np.ndarray, *, threshold: float) -> Exported:
    """The exported forms of a fitted model, proven equal row by row."""
    scoring = forms_of(model, threshold=threshold)
    verify(model, scoring, check_rows)
    return scoring


def forms_of(model: PanelModel, *, threshold: float) -> Exported:
    """The exported forms of a fitted model, not yet compared with it."""
    equation = None
    if model.model == "logreg":
        equation = json.dumps(equation_of(model), indent=1).encode("utf-8")
    return Exported(equation, onnx_of(model, threshold=threshold))


def verify(model: PanelModel, scoring: Exported, check_rows: np.ndarray) -> None:
    """Refuse an export that differs on any patient, code, unknown code or missing value.

    Raises
    ------
    VerificationError
        Names panel, form, the largest difference and its tolerance.
    """
    for name, (worst, tolerance, _) in differences(model, scoring, check_rows).items():
        if not worst <= tolerance:
            raise VerificationError(
                f"{model.panel.name}/{name}: differs from the fitted pipeline by {worst:.2g}, "
                f"allowed is {tolerance:g}; the model was not written"
            )


def differences(
    model: PanelModel, scoring: Exported, check_rows: np.ndarray
) -> dict[str, tuple[float, float, int]]:
    """How far each exported form is from the fitted pipeline.

    Returns
    -------
    form to (largest absolute difference of a probability, what is allowed, rows compared).
    """
    X = probing_rows(model.panel, check_rows)
    expected = model.pipeline.predict_proba(X)[:, 1]
    forms: list[tuple[str, bundle.Scorer, float]] = [
        (bundle.ONNX, bundle.OnnxModel(scoring.onnx, model.panel.inputs), ONNX_TOLERANCE)
    ]
    if scoring.equation is not None:
        document = json.loads(scoring.equation)
        forms.append((bundle.EQUATION, bundle.Equation(document), EQUATION_TOLERANCE))
    return {
        name: (float(np.max(np.abs(scorer.probability(X) - expected))), tolerance, len(X))
        for name, scorer, tolerance in forms
    }


def probing_rows(panel: Panel, check_rows: np.ndarray) -> np.ndarray:
    """Rows that reach every corner of a panel: patients, every code, unknown codes, missing.

    Returns
    -------
    array of shape (n, panel inputs).
    """
    required = [NAMES.index(name) for name in panel.required]
    known = ~np.isnan(check_rows[:, required]).any(axis=1)
    patients = check_rows[known][:, panel.columns]
    typical = np.array([[_middle(BY_NAME[name]) for name in panel.inputs]])
    variants = []
    for place, name in enumerate(panel.inputs):
        attribute = BY_NAME[name]
        values = [float(v) for v in attribute.code_values] or list(attribute.plausible or ())
        if attribute.kind == "code" and feature_kind(attribute) == "code":
            values.append(99.0)
        if attribute.imputed:
            values.append(np.nan)
        variants += [_with(typical, place, value) for value in values]
    return np.vstack([patients, typical, *variants])


def golden(models: list[PanelModel], *, seed: int) -> dict[str, Any]:
    """Synthetic patients drawn from contract ranges, with the pipelines' probabilities."""
    generator = np.random.default_rng(seed)
    by_panel = {model.panel.name: model for model in models}
    available = tuple(by_panel)
    X = np.array([_synthetic(generator, place) for place in range(GOLDEN_RECORDS)])
    panels = [PANELS[place] for place in bundle.richest_panel(X, available=available)]
    probabilities = [
        float(by_panel[panel.name].pipeline.predict_proba(X[[row]][:, panel.columns])[0, 1])
        for row, panel in enumerate(panels)
    ]
    records = [[None if np.isnan(value) else value for value in row] for row in X.tolist()]
    return {
        "about": "synthetic records drawn from the contract's ranges; no patient",
        "records": records,
        "panels": [panel.name for panel in panels],
        "probabilities": probabilities,
    }


def _renew(target: Path, manifest: Mapping[str, Any], card: str) -> None:
    """The same model from another run: its files stay, what is said of it becomes this run's.

    Both files are replaced whole. The card carries no checksum, so that no moment between the two
    leaves a bundle that does not verify.
    """
    files = {
        name: hashlib.sha256((target / name).read_bytes()).hexdigest()
        for name in sorted(manifest["files"])
    }
    atomic.write_text(target / CARD, card)
    atomic.write_text(target / bundle.MANIFEST, _json({**manifest, "files": files}))


def _json(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1, allow_nan=False) + "\n"


def _set_damaged_aside(target: Path) -> None:
    """Make room when a bundle of this digest is there but no longer verifies."""
    if not target.exists():
        return
    try:
        bundle.load(target)
    except BundleError:
        target.rename(target.with_name(f".damaged-{target.name[:12]}-{time.time_ns()}"))


def _panel_facts(model: PanelModel) -> dict[str, Any]:
    return {
        "model": model.model,
        "inputs": list(model.panel.inputs),
        "required": list(model.panel.required),
        "used": used_inputs(model),
        **model.facts,
    }


def _files(
    models: list[PanelModel], exported: Mapping[str, Exported]
) -> Iterator[tuple[str, bytes]]:
    for model in models:
        name = model.panel.name
        equation = exported[name].equation
        if equation is not None:
            yield f"{name}/{bundle.EQUATION}", equation
        yield f"{name}/{bundle.ONNX}", exported[name].onnx
        yield f"{name}/{JOBLIB}", dump(model.pipeline)


def _middle(attribute: Any) -> float:
    if attribute.plausible:
        return float(sum(attribute.plausible) / 2)
    return float(attribute.code_values[0])


def _with(row: np.ndarray, place: int, value: float) -> np.ndarray:
    changed = row.copy()
    changed[0, place] = value
    return changed


def _synthetic(generator: np.random.Generator, place: int) -> list[float]:
    """A synthetic record; every third stops after a further panel, some lack an imputed value."""
    reach = PANELS[place % len(PANELS)].inputs
    values = []
    for attribute in ATTRIBUTES:
        if attribute.plausible:
            value = float(np.round(generator.uniform(*attribute.plausible), 1))
        else:
            value = float(generator.choice(attribute.code_values))
        absent = attribute.imputed and generator.random() < 0.25
        values.append(np.nan if absent or attribute.name not in reach else value)
    return values
