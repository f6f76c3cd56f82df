"""A challenger scores beside the champion; only metrics tell, whatever happens to it."""

import time

import numpy as np
import pytest
import tiny_bundle
from prometheus_client.parser import text_string_to_metric_families
from service_kit import PATIENT, started

from heartdx import bundle as bundles
from heartdx.bundle import EQUATION
from heartdx.records import decode_record, table
from heartdx.serve import shadow
from heartdx.settings import Settings

PATIENTS = [
    {**PATIENT, "age": age, "cp": cp, "thalach": thalach, "oldpeak": oldpeak}
    for age in (20, 50, 90)
    for cp in (1, 2, 3, 4)
    for thalach in (70, 200)
    for oldpeak in (0, 5)
]


def counted(client):
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "heartdx_shadow_patients_total":
                found[sample.labels["outcome"]] = sample.value
            elif sample.name == "heartdx_shadow_difference_sum":
                found["difference"] = sample.value
    return found


def wait_for(client, patients):
    end = time.monotonic() + 20
    while True:
        found = counted(client)
        if sum(value for name, value in found.items() if name != "difference") >= patients:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.05)


@pytest.fixture
def both(tmp_path):
    challenger = tiny_bundle.write(tmp_path, slant=-1.0)
    champion = tiny_bundle.write(tmp_path)
    return tmp_path, champion, challenger


def test_agreement_and_difference_are_those_of_the_two_models(both):
    models_dir, champion, challenger = both
    X = table([decode_record(patient) for patient in PATIENTS])
    one, other = (bundles.load(folder).score(X).probability for folder in (champion, challenger))
    other_label = int(((one >= tiny_bundle.THRESHOLD) != (other >= tiny_bundle.THRESHOLD)).sum())
    assert 0 < other_label < len(PATIENTS)

    with started(Settings(models_dir=models_dir, shadow_path=challenger)) as client:
        for patient in PATIENTS:
            client.post("/predict", json=patient)
        client.post("/predict", json={"records": PATIENTS})
        found = wait_for(client, 2 * len(PATIENTS))

    assert found["other_label"] == 2 * other_label
    assert found["same_label"] == 2 * (len(PATIENTS) - other_label)
    assert found["dropped"] == found["failed"] == 0
    assert found["difference"] == pytest.approx(2 * np.abs(one - other).sum())


def test_a_challenger_that_fails_never_touches_an_answer(both, monkeypatch):
    models_dir, _, challenger = both

    def broken(*_):
        raise RuntimeError("zq9x")

    with started(Settings(models_dir=models_dir, shadow_path=challenger)) as client:
        expected = client.post("/predict", json=PATIENT).json()["probability"]
        monkeypatch.setattr(shadow.Shadow, "_scored", broken)
        answers = [client.post("/predict", json=PATIENT) for _ in range(20)]
        found = wait_for(client, 21)

    assert [a.json()["probability"] for a in answers] == [expected] * 20
    assert found["failed"] >= 20


def test_a_challenger_that_is_too_slow_loses_patients_not_time(both, monkeypatch):
    models_dir, _, challenger = both
    monkeypatch.setattr(shadow, "_QUEUE", 5)
    monkeypatch.setattr(shadow, "_PAUSE", 0.5)
    with started(Settings(models_dir=models_dir, shadow_path=challenger)) as client:
        for _ in range(40):
            assert client.post("/predict", json=PATIENT).status_code == 200
        found = wait_for(client, 40)

    assert found["dropped"] > 0
    assert found["dropped"] + found["same_label"] + found["other_label"] == 40


def test_a_challenger_that_is_not_whole_is_not_loaded_and_the_champion_serves(both):
    models_dir, _, challenger = both
    (challenger / "bedside" / EQUATION).write_bytes(b"{}")

    with started(Settings(models_dir=models_dir, shadow_path=challenger)) as client:
        answer = client.post("/predict", json=PATIENT)
        assert client.app.shadow is None

    assert answer.status_code == 200
