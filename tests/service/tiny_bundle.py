"""A small whole bundle without training: three printed equations with invented coefficients.

``write(models_dir)`` makes what ``heartdx.bundle.load`` accepts and ``current`` names.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from heartdx.bundle import (
    BUNDLES,
    CURRENT,
    EQUATION,
    MANIFEST,
    MODEL_NAME,
    RELIABILITY,
    SCHEMA_VERSION,
    Bundle,
    Equation,
    content_digest,
    panel_content,
)
from heartdx.contract import ATTRIBUTES, BY_NAME, PANEL_NAMES, PANELS, Panel, fingerprint
from heartdx.records import table

THRESHOLD = 0.4
HARM_RATIO = 1.5


def write(
    models_dir: Path,
    *,
    panels: tuple[str, ...] = PANEL_NAMES,
    slant: float = 1.0,
    reliability: bool = True,
    abstain_when: tuple[str, ...] = (),
) -> Path:
    """A bundle under ``models_dir``, made the current one; returns its folder.

    ``slant`` scales the coefficients, so that two bundles answer differently. Without
    ``reliability`` it is as an earlier release wrote it; ``abstain_when`` is its policy.
    """
    equations = {p.name: _equation(p, slant) for p in PANELS if p.name in panels}
    scoring = {name: json.dumps(equation).encode() for name, equation in equations.items()}
    kept = {name: _reliability(equation) for name, equation in equations.items() if reliability}
    manifest = _manifest(equations, scoring, kept, abstain_when)
    folder = models_dir / BUNDLES / manifest["digest"]
    for name, content in scoring.items():
        (folder / name).mkdir(parents=True)
        (folder / name / EQUATION).write_bytes(content)
    for name, content in kept.items():
        (folder / name / RELIABILITY).write_bytes(content)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (models_dir / CURRENT).write_text(manifest["digest"] + "\n")
    return folder


def _manifest(
    equations: dict[str, dict[str, Any]],
    scoring: dict[str, bytes],
    kept: dict[str, bytes],
    abstain_when: tuple[str, ...],
) -> dict[str, Any]:
    panels = {
        p.name: {"model": "logreg", "inputs": list(p.inputs), "required": list(p.required)}
        for p in PANELS
        if p.name in equations
    }
    contents = {
        name: panel_content(facts, scoring[name], kept.get(name)) for name, facts in panels.items()
    }
    policy = {"abstain_when": list(abstain_when)} if abstain_when else None
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": MODEL_NAME,
        "digest": content_digest(
            panels=contents, threshold=THRESHOLD, harm_ratio=HARM_RATIO, policy=policy
        ),
        "contract": {"fingerprint": fingerprint()},
        "threshold": THRESHOLD,
        "harm_ratio": HARM_RATIO,
        "panels": panels,
        "files": {
            f"{name}/{EQUATION}": hashlib.sha256(content).hexdigest()
            for name, content in scoring.items()
        }
        | {
            f"{name}/{RELIABILITY}": hashlib.sha256(content).hexdigest()
            for name, content in kept.items()
        },
        **({"policy": policy} if policy else {}),
    }
    X = table(_golden_records())
    scorers = {name: Equation(equation) for name, equation in equations.items()}
    probabilities = Bundle(Path(), manifest, scorers).score(X).probability
    return {**manifest, "golden": {"records": X.tolist(), "probabilities": probabilities.tolist()}}


def _equation(panel: Panel, slant: float) -> dict[str, Any]:
    draw = random.Random(panel.name)
    terms: list[dict[str, Any]] = []
    for name in panel.inputs:
        attribute = BY_NAME[name]
        if attribute.plausible:
            low, high = attribute.plausible
            terms.append(
                {
                    "attribute": name,
                    "coefficient": slant * draw.uniform(-1, 1),
                    "center": (low + high) / 2,
                    "scale": (high - low) / 4,
                }
            )
        for code in attribute.code_values[1:]:
            weight = slant * draw.uniform(-1, 1)
            terms.append({"attribute": name, "code": code, "coefficient": weight})
    middle = {a.name: _middle(a.name) for a in ATTRIBUTES if a.name in panel.inputs and a.imputed}
    return {
        "inputs": list(panel.inputs),
        "impute": middle,
        "intercept": -0.3 * slant,
        "terms": terms,
        "calibration": {"slope": 0.9, "intercept": 0.05},
    }


def _reliability(equation: dict[str, Any]) -> bytes:
    """Ranges, a population and a reference that are as invented as the equation.

    Training saw the middle four fifths of each number, and 3 patients with the last code of each
    attribute of more than two; all columns of the distance weigh the same.
    """
    attributes = [BY_NAME[name] for name in equation["inputs"]]
    numbers = {a.name: a.plausible for a in attributes if a.plausible}
    codes = {a.name: a.code_values for a in attributes if a.codes}
    columns: list[dict[str, Any]] = [
        {"attribute": name, "mean": (low + high) / 2, "scale": (high - low) / 8}
        for name, (low, high) in numbers.items()
    ]
    columns += [
        {"attribute": name, "code": code, "mean": round(1 / len(values), 6)}
        for name, values in codes.items()
        for code in values
    ]
    tenths = [tenth / 10 for tenth in range(11)]
    draw = random.Random(len(columns))
    document = {
        "about": "invented",
        "calibration": {
            "breaks": [tenth - 0.05 for tenth in tenths[1:]],
            "low": [max(0.0, round(tenth - 0.07, 2)) for tenth in tenths],
            "high": [min(1.0, round(tenth + 0.07, 2)) for tenth in tenths],
            "point": tenths,
        },
        "population": {
            "patients": 200,
            "numbers": {
                name: [low + (high - low) / 10, high - (high - low) / 10]
                for name, (low, high) in numbers.items()
            },
            "codes": {
                name: {str(code): 3 if code == values[-1] != 1 else 60 for code in values}
                for name, values in codes.items()
            },
            "distance": {
                "columns": columns,
                "factor": [
                    [round(draw.uniform(-0.05, 0.05), 6) for _ in range(place)] + [1.0]
                    for place in range(len(columns))
                ],
                "limit": 5.0,
                "false_positives": {
                    "nominal": 0.01,
                    "measured": 0.01,
                    "low": 0.003,
                    "high": 0.036,
                    "patients": 200,
                },
            },
        },
        "reference": {term["attribute"]: 0.01 for term in equation["terms"]},
    }
    return json.dumps(document).encode()


def _middle(name: str) -> float:
    attribute = BY_NAME[name]
    if attribute.plausible:
        return sum(attribute.plausible) / 2
    return float(attribute.code_values[0])


def _golden_records() -> np.ndarray:
    draw = random.Random(20)
    rows = [
        [
            float(draw.choice(a.code_values)) if a.codes else round(draw.uniform(*a.plausible), 1)
            for a in ATTRIBUTES
            if a.codes or a.plausible
        ]
        for _ in range(20)
    ]
    return np.array(rows)
