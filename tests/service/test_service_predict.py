"""What `/predict` answers, and that it answers only what the bundle computes."""

import math

import numpy as np
import pytest
import tiny_bundle
from service_kit import PATIENT, started

from heartdx import bundle as bundles
from heartdx.contract import ATTRIBUTES, BY_NAME, NAMES, PANEL_BY_NAME, PANEL_NAMES
from heartdx.records import decode_record, table
from heartdx.reliability import band
from heartdx.serve.schemas import EXAMPLES, components
from heartdx.settings import Settings

FULL = {**PATIENT, "slope": 2, "ca": 1, "thal": 7}


def reference(models_dir, patient):
    bundle = bundles.load(bundles.current_folder(models_dir))
    return float(bundle.score(table([decode_record(patient)])).probability[0])


def said(answer):
    """What an answer says of the patient; its two names differ from answer to answer."""
    return {k: v for k, v in answer.json().items() if k not in ("prediction_id", "request_id")}


def test_one_patient_gets_every_documented_member(client, models_dir):
    response = client.post("/predict", json=PATIENT)

    probability = reference(models_dir, PATIENT)
    disease = probability >= tiny_bundle.THRESHOLD
    kept = bundles.load(bundles.current_folder(models_dir)).reliability["exercise"]
    assert response.json()["request_id"] == response.headers["X-Request-ID"]
    assert said(response) == {
        "prediction": int(disease),
        "label": "disease" if disease else "no disease",
        "probability": pytest.approx(probability, abs=1e-12),
        "confidence": pytest.approx(probability if disease else 1 - probability, abs=1e-12),
        "calibration_range": list(kept.calibration.range(probability)),
        "band": band(probability).name,
        "panel": "exercise",
        "unused_inputs": [],
        "threshold": tiny_bundle.THRESHOLD,
        "abstain": False,
        "abstain_reason": None,
        "model_name": "heartdx",
        "model_version": bundles.current_folder(models_dir).name[:12],
    }


@pytest.mark.parametrize("panel", PANEL_NAMES)
def test_the_richest_panel_that_fits_answers(client, panel):
    patient = {name: FULL[name] for name in PANEL_BY_NAME[panel].inputs}

    assert client.post("/predict", json=patient).json()["panel"] == panel


def test_inputs_the_panel_does_not_use_are_listed(client):
    answer = client.post("/predict", json={**PATIENT, "oldpeak": None, "ca": 0}).json()

    assert answer["panel"] == "bedside"
    assert answer["unused_inputs"] == ["thalach", "exang", "ca"]


def test_a_batch_equals_its_patients_one_by_one_in_order(client):
    patients = [{**FULL, "age": age, "cp": cp} for age in (30, 50, 70) for cp in (1, 2, 3, 4)]
    patients += [{name: p[name] for name in ("age", "sex", "cp")} for p in patients]

    singles = [client.post("/predict", json=patient).json() for patient in patients]
    batch = client.post("/predict", json={"records": patients}).json()

    alone = [s["probability"] for s in singles]
    assert batch["probabilities"] == pytest.approx(alone, abs=1e-12)
    assert batch["predictions"] == [s["prediction"] for s in singles]
    assert batch["labels"] == [s["label"] for s in singles]
    assert batch["panels"] == [s["panel"] for s in singles]
    assert batch["threshold"] == singles[0]["threshold"]
    assert batch["model_version"] == singles[0]["model_version"]
    assert len(set(batch["probabilities"])) > 12


def test_values_in_the_source_order_equal_named_fields(client):
    values = [FULL[name] for name in NAMES]

    batch = client.post("/predict", json={"records": [{"values": values}, FULL]}).json()

    assert batch["probabilities"][0] == batch["probabilities"][1]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("age", "sex", "cp")])
def test_absent_null_and_minus_nine_mean_the_same(client, name):
    rest = {k: v for k, v in FULL.items() if k != name}

    answers = [client.post("/predict", json=rest | more) for more in ({}, {name: None}, {name: -9})]

    assert [a.status_code for a in answers] == [200, 200, 200]
    assert said(answers[0]) == said(answers[1]) == said(answers[2])


@pytest.mark.parametrize(
    ("name", "code"), [(a.name, c) for a in ATTRIBUTES for c in a.codes if not c.name.isdigit()]
)
def test_a_codes_names_equal_its_number(client, name, code):
    by_number = said(client.post("/predict", json={**FULL, name: code.value}))

    for word in (code.name, code.name.upper(), *code.words):
        by_word = said(client.post("/predict", json={**FULL, name: word}))
        for number in ("probability", "confidence"):  # NumPy's exp may differ in the last digit
            assert by_word.pop(number) == pytest.approx(by_number[number], abs=1e-12)
        assert by_word.items() <= by_number.items()
        kaggle = {"age": 50, "sex": 0, "cp": 0, name: word, "coding": "kaggle"}
        assert client.post("/predict", json=kaggle).status_code == 200


def test_kaggle_codes_are_converted_on_demand(client):
    kaggle = dict(FULL)
    for name in ("cp", "restecg", "slope", "thal"):
        code = next(c for c in BY_NAME[name].codes if c.value == FULL[name])
        kaggle[name] = code.kaggle

    single = client.post("/predict", json={**kaggle, "coding": "kaggle"})
    batch = client.post("/predict", json={"records": [kaggle], "coding": "kaggle"})

    expected = said(client.post("/predict", json=FULL))
    assert said(single)["probability"] == pytest.approx(expected["probability"], abs=1e-12)
    assert batch.json()["probabilities"] == pytest.approx([expected["probability"]], abs=1e-12)


@pytest.mark.parametrize(
    ("name", "code"), [("cp", 0), ("slope", 0), ("ca", 4), ("thal", 1), ("thal", 2), ("thal", 0)]
)
def test_codes_that_exist_only_in_kaggles_file_are_recognised(client, name, code):
    answer = client.post("/predict", json={**FULL, name: code})

    [error] = answer.json()["errors"]
    assert answer.status_code == 422
    assert (error["field"], error["kind"], error["pointer"]) == (name, "coding", f"/{name}")
    assert '"coding": "kaggle"' in error["mend"]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_documented_examples_are_answered(client, name):
    answer = client.post("/predict", json=EXAMPLES[name]["value"])

    assert answer.status_code == 200


@pytest.mark.parametrize("coding", ["uci", "kaggle"])
def test_every_code_in_the_document_is_accepted_and_means_its_code(client, coding):
    suffix = "" if coding == "uci" else "Kaggle"
    record = components(max_records=5)[f"Record{suffix}"]
    for name, schema in record["properties"].items():
        for value in schema.get("enum", ()):
            patient = {"age": 50, "sex": "male", "cp": "asymptomatic", name: value}
            answer = client.post("/predict", json={"records": [patient], "coding": coding})
            assert answer.status_code == 200, (name, value)


def test_a_model_without_the_bedside_panel_says_what_it_needs(tmp_path):
    tiny_bundle.write(tmp_path, panels=("exercise",))
    with started(Settings(models_dir=tmp_path)) as service:
        answered = service.post("/predict", json=FULL)
        one = service.post("/predict", json={"age": 50, "sex": 1, "cp": 1, "exang": 0})
        batch = service.post("/predict", json={"records": [FULL, {**FULL, "exang": None}]})

    assert answered.json()["panel"] == "exercise"
    assert one.status_code == 422
    assert [(e["field"], e["kind"]) for e in one.json()["errors"]] == [
        ("thalach", "missing"),
        ("oldpeak", "missing"),
    ]
    assert [(e["field"], e["record"]) for e in batch.json()["errors"]] == [("exang", 1)]


def test_a_sub_model_that_gives_no_probability_is_a_failure_without_a_number(models_dir):
    with started(Settings(models_dir=models_dir)) as service:
        bundle = service.app.state.loaded.bundle

        class Broken:
            def probability(self, X: np.ndarray) -> np.ndarray:
                return np.full(len(X), math.nan)

        bundle.scorers["bedside"] = Broken()
        answer = service.post("/predict", json={"age": 50, "sex": "male", "cp": 1})
        metrics = service.get("/metrics").text

    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:heartdx:problem:model-failed"
    assert "probability" not in answer.json()
    assert 'http_status="500",method="POST"} 1.0' in metrics
