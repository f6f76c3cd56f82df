"""A full answer of a trained forest says why, on its votes, the same on both roads."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from service_kit import Served, started
from starlette.testclient import TestClient
from test_front import PATIENTS, alike, answered_hot, on_both_roads, without_ids

import forest_kit
from forest_kit import Forests, known
from heartdx.bundle import ONNX
from heartdx.client import Client, VoteReasons
from heartdx.contract import NAMES, PANELS, Panel
from heartdx.serve import answer, compiled, schemas
from heartdx.serve.inputs import Ask
from heartdx.serve.phrases import Phrases
from heartdx.serve.predictor import answers
from heartdx.settings import Settings

of_every_panel = pytest.mark.parametrize("panel", PANELS, ids=[panel.name for panel in PANELS])


@pytest.fixture(scope="module")
def forests(loaded, tmp_path_factory) -> Forests:
    return forest_kit.forests(loaded, tmp_path_factory)


@pytest.fixture(scope="module")
def service(forests) -> Iterator[TestClient]:
    with started(Settings(models_dir=forests.models_dir)) as client:
        yield client


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def by_onnx_runtime(forests: Forests, panel: Panel, row: np.ndarray, told) -> dict[str, float]:
    """Shapley values from ONNX Runtime's votes for all 2^k mixtures of patient and reference.

    The votes are the logit of its probability before the calibration. Each mixture weighs as the
    definition says: with and without an attribute, by how many others are the patient's own.
    """
    reference = np.array(forests.bundle.reliability[panel.name].population.typical, dtype=float)
    k = len(panel.inputs)
    own = np.array(list(product([False, True], repeat=k)))
    mixed = np.where(own, row[list(panel.columns)], reference[list(panel.columns)])
    p = forests.bundle.scorers[panel.name].probability(mixed)
    votes = (logit(p) - told.intercept) / told.slope
    sizes = own.sum(axis=1)
    weight = np.array([1 / (k * math.comb(k - 1, size)) for size in range(k)])
    found = {}
    for place, name in enumerate(panel.inputs):
        has = own[:, place]
        gained = weight[sizes[has] - 1] @ votes[has]
        found[name] = gained - weight[sizes[~has]] @ votes[~has]
    return found


@of_every_panel
def test_votes_by_attribute_are_the_shapley_values_of_what_onnx_runtime_says(forests, panel):
    reasons = compiled.compiled(forests.bundle).reasons[panel.name]
    rows = forests.of_panel(panel)

    for row in rows[:: len(rows) // 6]:
        told = reasons.contributions(known(row))

        expected = by_onnx_runtime(forests, panel, row, told)
        assert told.by_attribute == pytest.approx(expected, abs=2e-6)


@of_every_panel
def test_base_and_votes_sum_and_the_calibration_makes_the_probability_of_them(forests, panel):
    reasons = compiled.compiled(forests.bundle).reasons[panel.name]
    rows = forests.of_panel(panel)

    told = [reasons.contributions(known(row)) for row in rows]

    votes = np.array([one.votes for one in told])
    sums = [one.base + sum(one.by_attribute.values()) for one in told]
    np.testing.assert_allclose(sums, votes, rtol=0, atol=1e-9)
    p = 1 / (1 + np.exp(-(told[0].slope * votes + told[0].intercept)))
    by_onnx = forests.bundle.scorers[panel.name].probability(rows[:, panel.columns])
    np.testing.assert_allclose(p, by_onnx, rtol=0, atol=1e-6)


@of_every_panel
def test_the_typical_training_patient_has_nothing_to_explain(forests, panel):
    typical = forests.bundle.reliability[panel.name].population.typical

    told = compiled.compiled(forests.bundle).reasons[panel.name].contributions(typical)

    assert set(told.by_attribute) == set(panel.inputs)
    assert set(told.by_attribute.values()) == {0.0}
    assert told.votes == told.base


@settings(max_examples=100, deadline=None)
@given(patient=PATIENTS)
def test_both_roads_tell_the_same_reasons(service, patient):
    before = answered_hot(service, "/v1/predict")

    hot, routed = on_both_roads(service, json.dumps(patient), path="/v1/predict", detail="full")

    assert answered_hot(service, "/v1/predict") == before + 1
    assert hot.json()["reasons"] == routed.json()["reasons"]
    told = hot.json()["reasons"]
    total = told["calibration"]["slope"] * told["votes"] + told["calibration"]["intercept"]
    assert total == pytest.approx(logit(hot.json()["probability"]), abs=1e-9)
    parts = [part["votes"] for part in told["contributions"]]
    assert told["base"] + sum(parts) == pytest.approx(told["votes"], abs=1e-9)
    apart = {"probability": 0.0, "confidence": 0.0}  # as ONNX Runtime and the comparisons sum
    assert alike(without_ids(hot) | apart, without_ids(routed) | apart)


def test_a_forests_reasons_are_as_documented(service):
    document = service.get("/openapi.json").json()
    body = {"age": 61, "sex": 1, "cp": 4, "trestbps": 140}

    full = service.post("/v1/predict?detail=full", json=body).json()

    schema = {"components": document["components"]}
    for name, told in {"Prediction": full, "VoteReasons": full["reasons"]}.items():
        jsonschema.validate(told, schema | {"$ref": f"#/components/schemas/{name}"})
    other = jsonschema.Draft202012Validator(schema | {"$ref": "#/components/schemas/Reasons"})
    assert not other.is_valid(full["reasons"])


@pytest.mark.parametrize("name", ["Reasons", "VoteReasons"])
def test_the_documents_examples_fit_their_schema(name):
    components = schemas.components(max_records=1)
    document = {"components": {"schemas": components}, "$ref": f"#/components/schemas/{name}"}

    for example in components[name]["examples"]:
        jsonschema.validate(example, document)


def test_the_documents_example_of_a_forest_adds_up():
    [example] = schemas.components(max_records=1)["VoteReasons"]["examples"]

    parts = sum(part["votes"] for part in example["contributions"])
    assert example["base"] + parts == pytest.approx(example["votes"])


def test_the_client_tells_a_forests_reasons_by_their_type(forests):
    served = Served({"HEARTDX_MODELS_DIR": str(forests.models_dir)})
    served.wait_until_alive()
    with Client(served.url) as client:
        told = client.predict({"age": 61, "sex": "male", "cp": 4}, detail="full")
    served.stop()

    assert isinstance(told.reasons, VoteReasons)
    assert told.reasons.scale == "votes"
    parts = [part.votes for part in told.reasons.contributions]
    assert told.reasons.base + sum(parts) == pytest.approx(told.reasons.votes, abs=1e-9)
    calibration = told.reasons.calibration
    total = calibration.slope * told.reasons.votes + calibration.intercept
    assert total == pytest.approx(logit(told.probability), abs=1e-6)  # ONNX Runtime's, by words


# -- where there is nothing to tell ------------------------------------------------------------


def reasons_on_both_roads(bundle, row: np.ndarray) -> list[object]:
    """Of the table's answer and of the ready text."""
    asked = answers(bundle, Ask(row[None, :], is_batch=False))
    by_table = answer.document(asked, 0, "full", answer.Ids("a", "b"))
    phrases, values = Phrases(bundle), known(row)
    probability, place, unused = compiled.score_one(bundle)(*values)
    text = phrases.standard(probability, place, unused, "a", "b")
    return [by_table["reasons"], json.loads(phrases.full(text, place, values))["reasons"]]


def test_without_a_population_there_is_no_reference_and_no_reason(forests):
    earlier = replace(forests.bundle, reliability={})

    assert reasons_on_both_roads(earlier, forests.X[0]) == [None, None]


def test_another_graph_is_answered_by_onnx_runtime_and_has_no_reasons(forests, tmp_path):
    listed = dict(forests.bundle.manifest["files"])
    for panel in PANELS:
        content = (forests.bundle.folder / panel.name / ONNX).read_bytes()
        content = content.replace(b"BRANCH_LEQ", b"BRANCH_LTE")
        (tmp_path / panel.name).mkdir()
        (tmp_path / panel.name / ONNX).write_bytes(content)
        listed[f"{panel.name}/{ONNX}"] = hashlib.sha256(content).hexdigest()
    manifest = {**forests.bundle.manifest, "files": listed}
    other = replace(forests.bundle, folder=tmp_path, manifest=manifest)

    assert reasons_on_both_roads(other, forests.X[0]) == [None, None]
    assert compiled.compiled(other).reasons == {}


def test_an_input_that_no_training_patient_had_leaves_no_reference_and_no_reason(forests):
    kept = dict(forests.bundle.reliability)
    people = kept["bedside"].population
    columns = tuple(column for column in people.columns if column.attribute != "age")
    kept["bedside"] = replace(kept["bedside"], population=replace(people, columns=columns))

    made = compiled.compiled(replace(forests.bundle, reliability=kept))

    assert set(made.reasons) == {"exercise", "imaging"}
    assert all(name in NAMES for name in made.reasons["imaging"].attributes)
