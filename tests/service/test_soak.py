"""Workers are killed and started again under load, models are swapped: no answer is ever wrong.

The soak itself is tools/soak.py; here it runs for seconds with faster turns, and is shown to see
what it looks for.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from types import ModuleType

import pytest
import tiny_bundle
from service_kit import ROOT

from heartdx import bundle as bundles
from heartdx.errors import BundleError

SOAK = ROOT / "tools" / "soak.py"
TURNS = {"swap": 2, "kill": 5, "reload": 9, "corrupt": 6}
SECONDS = 20


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak_tool", SOAK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak_tool"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    place = tmp_path_factory.mktemp("soak")
    tiny_bundle.write(place / "models")
    turns = [word for name, s in TURNS.items() for word in (f"--{name}-every", str(s))]
    command = [sys.executable, str(SOAK), "--seconds", str(SECONDS), "--rate", "200", *turns]
    out = place / "soak.json"

    done = subprocess.run(
        [*command, "--models-dir", str(place / "models"), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_no_answer_is_wrong_while_workers_are_killed_reloaded_and_swapped(report):
    assert report["wrong"] == {"count": 0, "what": {}}
    assert report["answered"] > 500
    assert all(report["by_door_and_status"].values())
    assert len(report["by_door_and_status"]) == 8


def test_the_service_counted_what_was_answered_and_nothing_else(report):
    counted, answered = report["metrics"]["api_requests_total"], report["metrics"]["answered"]

    assert report["metrics"]["differences"] == []
    assert answered == report["answered"]
    assert answered <= counted <= answered + report["cut_by_kills"]


def test_each_kind_of_trouble_took_place(report):
    events = report["events"]
    trouble = ("workers killed", "reloads", "damaged bundles refused", "swaps ordered")

    assert all(events[name] >= 1 for name in trouble), events
    assert report["workers_started"] == 2 + events["workers killed"] + 2 * events["reloads"]
    assert events["workers' swaps refused"] >= 2 * events["damaged bundles refused"]
    assert len(report["by_model"]) == 2
    assert min(report["by_model"].values()) > 50


# -- the soak sees what it looks for -------------------------------------------------------------


@pytest.fixture
def two(soak, tmp_path):
    tiny_bundle.write(tmp_path / "source")
    return soak.two_bundles(tmp_path / "source", tmp_path / "models")


@pytest.fixture
def oracle(soak, two):
    return soak.Oracle(two, soak.some_patients(6))


def answer_of(made, oracle, who: int) -> dict:
    probability = oracle.expected[made.version][who]
    return {
        "model_version": made.version,
        "probability": probability,
        "prediction": int(probability >= made.threshold),
        "threshold": made.threshold,
    }


def test_an_answer_of_one_bundle_is_right(oracle, two):
    assert [oracle.one(answer_of(made, oracle, 3), 3) for made in two] == [m.version for m in two]


@pytest.mark.parametrize("member", ["model_version", "probability", "threshold"])
def test_an_answer_mixed_from_two_bundles_is_seen(oracle, two, member):
    one, other = (answer_of(made, oracle, 3) for made in two)

    with pytest.raises(AssertionError, match="another"):
        oracle.one({**one, member: other[member]}, 3)


def test_an_answer_to_another_patient_is_seen(oracle, two):
    with pytest.raises(AssertionError, match="another model or patient"):
        oracle.one(answer_of(two[0], oracle, 3), 4)


def test_the_twin_is_a_whole_bundle_that_answers_every_patient_differently(oracle, two):
    one, twin = (oracle.expected[made.version] for made in two)

    assert two[1].threshold != two[0].threshold
    assert bundles.load(two[1].folder).digest == two[1].digest != two[0].digest
    assert min(abs(p - q) for p, q in zip(one, twin, strict=True)) > 1e-3


@pytest.mark.parametrize("number", range(4))
def test_each_damaged_bundle_is_one_that_a_service_refuses(soak, two, number):
    models_dir = two[0].folder.parents[1]
    pointer = soak.damage(models_dir, two[0].digest, number)
    (models_dir / bundles.CURRENT).write_text(pointer)

    with pytest.raises(BundleError):
        bundles.load(bundles.current_folder(models_dir))


ASKED = ("door", "POST", "/predict", 200)


def labelled(number: int, status: int = 200) -> dict:
    labels = {"method": "POST", "endpoint": "/predict", "http_status": str(status)}
    return {tuple(sorted(labels.items())): float(number)}


@pytest.mark.parametrize(("theirs", "cut"), [(10, 0), (10, 2), (12, 2)])
def test_counts_that_differ_by_no_more_than_what_was_cut_agree(soak, theirs, cut):
    counts = soak.Counts(answered=Counter({ASKED: 10}), cut=Counter({ASKED[:3]: cut}))

    assert soak.compared(counts, labelled(theirs))["differences"] == []


@pytest.mark.parametrize(("theirs", "status", "cut"), [(9, 200, 3), (13, 200, 2), (1, 500, 0)])
def test_a_lost_a_double_and_an_unseen_request_are_told(soak, theirs, status, cut):
    counts = soak.Counts(answered=Counter({ASKED: 10}), cut=Counter({ASKED[:3]: cut}))

    assert soak.compared(counts, labelled(theirs, status))["differences"] != []


def test_memory_is_told_for_each_worker_and_its_growth_for_each_thousand_requests(soak):
    samples = [
        soak.Memory(second, worker, 70 + worker + second / 10, 500 * second)
        for second in range(21)
        for worker in (1, 2)
    ]

    found = soak.memory_of(samples, quiet_from=10)

    assert (found["start_mb"], found["middle_mb"], found["end_mb"]) == (
        [71, 72],
        [72, 73],
        [73, 74],
    )
    assert (found["quiet_requests"], found["growth_kb_per_1000_requests"]) == (10_000, 200)


def test_without_a_model_the_soak_says_how_to_make_one(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SOAK), "--seconds", "1", "--models-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 7
    assert "there is no model yet; make one with: python -m src.model_train" in done.stderr
