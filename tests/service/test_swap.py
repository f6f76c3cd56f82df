"""A new model while serving: verified first, switched between two requests, refused whole."""

import threading
import time

import pytest
import tiny_bundle
from prometheus_client.parser import text_string_to_metric_families
from service_kit import PATIENT, started

from heartdx import bundle as bundles
from heartdx.bundle import CURRENT, EQUATION
from heartdx.records import decode_record, table
from heartdx.settings import Settings

POLL = 1


def probability_of(folder):
    scored = bundles.load(folder).score(table([decode_record(PATIENT)]))
    return float(scored.probability[0])


def wait_until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def swaps(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        sample.labels["outcome"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "heartdx_model_swaps_total"
    }


def version(client):
    return client.get("/health").json()["model_version"]


@pytest.fixture
def two(tmp_path):
    """A models folder with two bundles; the first is the current one."""
    second = tiny_bundle.write(tmp_path, slant=0.5)
    first = tiny_bundle.write(tmp_path)
    return tmp_path, first, second


def point(models_dir, folder):
    (models_dir / CURRENT).write_text(folder.name + "\n")


def test_the_new_current_model_answers_without_a_restart(two):
    models_dir, first, second = two
    with started(Settings(models_dir=models_dir, poll_seconds=POLL)) as client:
        assert client.post("/predict", json=PATIENT).json()["model_version"] == first.name[:12]
        point(models_dir, second)
        wait_until(lambda: version(client) == second.name[:12])
        hot = client.post("/predict", json=PATIENT).json()
        routed = client.post("/predict", json={"records": [PATIENT]}).json()

        assert hot["probability"] == pytest.approx(probability_of(second), abs=1e-12)
        assert routed["probabilities"] == pytest.approx([probability_of(second)], abs=1e-12)
        assert swaps(client) == {"switched": 1, "refused": 0}
        shown = client.get("/metrics").text
        assert f'digest="{second.name}"' in shown
        assert (
            f'digest="{first.name}",name="heartdx",version="{first.name[:12]}"}} 1.0' not in shown
        )


def test_answers_under_load_are_of_one_model_each_and_none_is_lost(two):
    models_dir, first, second = two
    expected = {folder.name[:12]: probability_of(folder) for folder in (first, second)}
    answers, end = [], threading.Event()
    with started(Settings(models_dir=models_dir, poll_seconds=POLL)) as client:

        def ask():
            while not end.is_set():
                answers.append(client.post("/predict", json=PATIENT))
                many = client.post("/predict", json={"records": [PATIENT] * 3}).json()
                assert many["probabilities"] == pytest.approx([expected[many["model_version"]]] * 3)

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        for folder in (second, first, second):
            point(models_dir, folder)
            wait_until(lambda folder=folder: version(client) == folder.name[:12])
        end.set()
        for thread in asking:
            thread.join()

    assert {answer.status_code for answer in answers} == {200}
    told = [(a.json()["model_version"], a.json()["probability"]) for a in answers]
    assert {name for name, _ in told} == set(expected)
    for name, probability in told:
        assert probability == pytest.approx(expected[name], abs=1e-12)


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "foreign name", "no digest"])
def test_a_bundle_that_is_not_whole_is_refused_and_the_old_one_stays(two, damage):
    models_dir, first, second = two
    equation = second / "bedside" / EQUATION
    content = equation.read_bytes()
    target = second.name
    if damage == "changed":
        equation.write_bytes(content.replace(b"1", b"2", 1))
    elif damage == "cut":
        equation.write_bytes(content[:-20])
    elif damage == "gone":
        equation.unlink()
    elif damage == "foreign name":
        target = "f" * 64
        second.rename(second.with_name(target))
    else:
        target = "../../elsewhere"

    with started(Settings(models_dir=models_dir, poll_seconds=POLL)) as client:
        (models_dir / CURRENT).write_text(target + "\n")
        wait_until(lambda: swaps(client)["refused"] == 1)
        time.sleep(2.5 * POLL)  # a refused one is not tried again until it changes

        assert swaps(client) == {"switched": 0, "refused": 1}
        assert version(client) == first.name[:12]
        assert client.post("/predict", json=PATIENT).status_code == 200


def test_a_service_without_a_model_becomes_ready_when_one_is_trained(tmp_path):
    with started(Settings(models_dir=tmp_path, poll_seconds=POLL)) as client:
        assert client.get("/readyz").status_code == 503
        tiny_bundle.write(tmp_path)
        wait_until(lambda: client.get("/readyz").status_code == 200)

        assert client.post("/predict", json=PATIENT).status_code == 200


def test_a_bundle_given_by_path_is_not_swapped(two):
    models_dir, first, second = two
    settings = Settings(models_dir=models_dir, model_path=first, poll_seconds=POLL)
    with started(settings) as client:
        point(models_dir, second)
        time.sleep(2.5 * POLL)

        assert version(client) == first.name[:12]
