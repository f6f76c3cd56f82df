"""A bundle whose panels are forests as training grows them, made once for all tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from heartdx import bundle, checks, equations, export
from heartdx.contract import NAMES, PANELS, Panel
from heartdx.evaluation.panels import panel_patients
from heartdx.pipelines import BY_CANDIDATE
from heartdx.resampling import fitted_with
from heartdx.train.reliability import population, whole_table
from training_kit import once

CANDIDATE = BY_CANDIDATE["forest"]
CALIBRATION = {"breaks": [0.5], "low": [0.1, 0.6], "high": [0.4, 0.9], "point": [0.2, 0.8]}
"""Invented, as are no other numbers of the bundle."""


@dataclass(frozen=True)
class Forests:
    """The bundle, current in its folder, and the 920 patients."""

    models_dir: Path
    bundle: bundle.Bundle
    X: np.ndarray

    def of_panel(self, panel: Panel) -> np.ndarray:
        """The patients whom a panel answers or could answer: shape (n, 13)."""
        needed = self.X[:, [NAMES.index(name) for name in panel.required]]
        return self.X[~np.isnan(needed).any(axis=1)]


def forests(loaded: checks.Loaded, tmp_path_factory: pytest.TempPathFactory) -> Forests:
    X = loaded.frame[list(NAMES)].to_numpy(dtype=np.float64)
    folder = once(tmp_path_factory, "forests", lambda folder: _write(loaded, folder, X))
    return Forests(folder, bundle.load(bundle.current_folder(folder)), X)


def known(row: np.ndarray) -> list[float | None]:
    """A patient as the hot path has one: None where missing."""
    return [None if value != value else value for value in row.tolist()]


def _write(loaded: checks.Loaded, models_dir: Path, X: np.ndarray) -> None:
    models, reliability = [], {}
    for panel in PANELS:
        patients = panel_patients(panel, loaded)
        pipeline = fitted_with(CANDIDATE, patients, CANDIDATE.grid[0], seed=7)
        model = equations.PanelModel(panel, "forest", pipeline, {})
        used = equations.used_inputs(model)
        people = population(whole_table(patients), patients.groups, used, seed=7)
        document = {
            "calibration": CALIBRATION,
            "population": people.document(),
            "reference": None,
        }
        models.append(model)
        reliability[panel.name] = json.dumps(document).encode()
    made = export.write_bundle(
        models,
        models_dir=models_dir,
        threshold=0.5,
        harm_ratio=1.0,
        facts={},
        card="# {version}",
        check_rows=X,
        seed=7,
        reliability=reliability,
    )
    export.promote(models_dir, made.digest)
