"""What an answer costs, in instructions and as a share of a server that does nothing.

Callgrind counts instructions, so the shares are the same on a busy machine; the full measurement
is ``make bench``.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.instructions import beside_the_limit, counted
from benchmarks.load import Request
from benchmarks.measure import PATIENT
from benchmarks.servers import OURS

import forest_kit
from forest_kit import Forests
from heartdx import bundle
from heartdx.contract import NAMES, PANELS
from heartdx.serve import compiled, forest

COUNTS = (20, 80)
BODY = json.dumps(PATIENT).encode()
FULL = "/v1/predict?detail=full"
DOORS = ("/predict", "/v1/predict", FULL)
FOREST = "/predict, a forest"
LEAST_SHARE = {"/predict": 0.60, "/v1/predict": 0.60, FULL: 0.30, FOREST: 0.40}
"""Of the instructions of the no-op application on the same uvicorn."""


@pytest.fixture(scope="module")
def forests(loaded, tmp_path_factory) -> Forests:
    return forest_kit.forests(loaded, tmp_path_factory)


def shares(models_dir: Path, forest_models_dir: Path) -> dict[str, float]:
    """Door to the no-op application's instructions over ours; all servers run at once."""
    of_forest = {"HEARTDX_MODELS_DIR": str(forest_models_dir)}
    with ThreadPoolExecutor(1) as pool:
        asked = (Request("/predict", BODY),)
        forest = pool.submit(counted, OURS, asked, counts=COUNTS, environment=of_forest)
        limit, ours = beside_the_limit(
            [Request(door, BODY) for door in DOORS],
            counts=COUNTS,
            environment={"HEARTDX_MODELS_DIR": str(models_dir)},
        )
        each = dict(zip(DOORS, ours, strict=True)) | {FOREST: forest.result()[0]}
    return {door: limit / instructions for door, instructions in each.items()}


def test_an_answer_costs_little_more_than_the_web_server(models_dir, forests):
    measured = shares(models_dir, forests.models_dir)

    assert {door: s for door, s in measured.items() if s < LEAST_SHARE[door]} == {}


def test_one_patient_gets_from_the_comparisons_what_onnx_runtime_gives_a_table(forests):
    """Values between the training values fall on thresholds that rounding moves."""
    generator = np.random.default_rng(0)
    X = forests.X[generator.integers(0, len(forests.X), 5_000)]
    for name, step in {"age": 3.0, "chol": 9.0, "thalach": 5.0, "oldpeak": 0.7}.items():
        place = NAMES.index(name)
        X[:, place] = np.round(X[:, place] + generator.normal(0, step, len(X)), 1)
    score = compiled.score_one(forests.bundle)

    answers = [score(*[None if v != v else v for v in row]) for row in X.tolist()]

    of_table = forests.bundle.score(X)
    assert np.abs([answer[0] for answer in answers] - of_table.probability).max() <= 1e-6
    assert [answer[1] for answer in answers] == of_table.panel.tolist()


def test_where_the_file_is_gone_onnx_runtime_still_answers_one_patient(forests, tmp_path):
    elsewhere = replace(forests.bundle, folder=tmp_path)

    known = [None if v != v else v for v in forests.X[0].tolist()]

    expected = forests.bundle.score(forests.X[:1]).probability[0]
    assert compiled.score_one(elsewhere)(*known)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("wrong", ["cut", "another graph"])
def test_a_file_that_is_no_forest_of_ours_is_not_read_as_one(forests, wrong):
    panel = PANELS[-1]
    content = (forests.bundle.folder / panel.name / bundle.ONNX).read_bytes()
    content = content[:-200] if wrong == "cut" else content.replace(b"BRANCH_LEQ", b"BRANCH_LTE")

    with pytest.raises(forest.UNKNOWN):
        forest.read(content, panel)
