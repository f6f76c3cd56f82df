"""A bundle of every kind: what training chose, and one served by forests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from heartdx import bundle, checks, equations, export
from heartdx.contract import NAMES, PANELS
from heartdx.evaluation.panels import panel_patients
from heartdx.pipelines import BY_CANDIDATE
from heartdx.resampling import fitted
from training_kit import ONE_THREAD, Trained, train, trained_once


@dataclass(frozen=True)
class Exported:
    """Fitted pipelines by panel, and the bundle they became."""

    models: dict[str, equations.PanelModel]
    bundle: bundle.Bundle
    models_dir: Path
    X: np.ndarray

    def pipeline_probability(self, X: np.ndarray) -> np.ndarray:
        """Scikit-learn's answer for each row, from the panel that answers it."""
        places = bundle.richest_panel(X)
        y_prob = np.empty(len(X))
        for place, panel in enumerate(PANELS):
            rows = np.flatnonzero(places == place)
            if rows.size:
                inputs = X[np.ix_(rows, panel.columns)]
                y_prob[rows] = self.models[panel.name].pipeline.predict_proba(inputs)[:, 1]
        return y_prob


def exported(loaded: checks.Loaded, name: str, models_dir: Path) -> Exported:
    X = loaded.frame[list(NAMES)].to_numpy(dtype=np.float64)
    models = {}
    for panel in PANELS:
        pipeline, _ = fitted(BY_CANDIDATE[name], panel_patients(panel, loaded), seed=7)
        models[panel.name] = equations.PanelModel(panel, name, pipeline, {})
    made = export.write_bundle(
        list(models.values()),
        models_dir=models_dir,
        threshold=0.5,
        harm_ratio=1.0,
        facts={},
        card="# {version}",
        check_rows=X,
        seed=7,
    )
    export.promote(models_dir, made.digest)
    return Exported(models, made, models_dir, X)


@pytest.fixture(scope="session", params=["logreg", "forest"])
def served(request, loaded, tmp_path_factory) -> Exported:
    return exported(loaded, request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def logreg(loaded, tmp_path_factory) -> Exported:
    return exported(loaded, "logreg", tmp_path_factory.mktemp("logreg-alone"))


@pytest.fixture(scope="session")
def trained_again(heart_csv, tmp_path_factory) -> Trained:
    """The run of ``trained`` once more, by two processes of two threads."""
    more = {**os.environ, **dict.fromkeys(ONE_THREAD, "2")}
    asked = ("--jobs", "2", "--no-tracking")
    return trained_once(
        tmp_path_factory,
        "trained-again",
        lambda folder: train(heart_csv, folder, *asked, environment=more),
    )


@pytest.fixture(scope="session")
def trained_at_cleveland(heart_csv, tmp_path_factory) -> Trained:
    """One hospital, a missed patient four times as bad, and a tracking server that is away."""
    away = {"PATH": "", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    asked = ("--site", "cleveland", "--harm-ratio", "4")
    return trained_once(
        tmp_path_factory,
        "cleveland",
        lambda folder: train(heart_csv, folder, *asked, environment=away),
    )
