"""What the person on call relies on: stop, rollback, reload, signatures, and nothing that dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import httpx2
import pytest
import tiny_bundle
from prometheus_client.parser import text_string_to_metric_families
from service_kit import PATIENT, LogLines, started
from starlette.testclient import TestClient

from heartdx import bundle as bundles
from heartdx import cli, logs, signing
from heartdx.bundle import CURRENT, EQUATION
from heartdx.contract import BY_NAME, NAMES
from heartdx.errors import UsageError
from heartdx.records import decode_record, table
from heartdx.serve import create_app, guard, predictor, shadow, swap
from heartdx.serve.telemetry import PROBABILITIES, Telemetry
from heartdx.settings import Settings

POLL = 0.1
GRID = [PATIENT | {"thalach": None, "age": age} for age in range(30, 80, 5)]
CP_WORDS = {code.value: code.name for code in BY_NAME["cp"].codes}
BEDSIDE = [{name: one[name] for name in ("age", "sex", "cp")} for one in GRID]


@pytest.fixture
def two(tmp_path):
    """A models folder with two bundles; the first is the current one."""
    second = tiny_bundle.write(tmp_path, slant=0.5)
    first = tiny_bundle.write(tmp_path)
    return tmp_path, first, second


@pytest.fixture(autouse=True)
def _frequent_looks(monkeypatch):
    monkeypatch.setattr(guard, "_POLL_SECONDS", POLL)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("HEARTDX_", "MODEL_PATH"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return signing.new_key(tmp_path_factory.mktemp("keys") / "mine")


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(true, seconds=15):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def point(models_dir, folder):
    (models_dir / CURRENT).write_text(folder.name + "\n")


def version(client):
    return client.get("/readyz").json().get("model_version")


def heartdx(*words):
    assert cli.main([*map(str, words)]) == 0


def counted(client, metric):
    """Labels to value of one metric."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == metric
    }


def swaps(client):
    found = counted(client, "heartdx_model_swaps_total")
    return {dict(labels)["outcome"]: value for labels, value in found.items()}


@contextlib.contextmanager
def log_of(client):
    handler = LogLines(client.app.lines.flush)
    logger = logging.getLogger(logs.LOGGER)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)


# -- every door alike ----------------------------------------------------------------------------


def tensor(name):
    return {
        "name": name,
        "datatype": "FP64",
        "shape": [len(BEDSIDE)],
        "data": [patient[name] for patient in BEDSIDE],
    }


DOORS = {
    "hot /predict": ("/predict", BEDSIDE[0]),
    "hot /v1/predict": ("/v1/predict", BEDSIDE[0]),
    "routed /predict": ("/predict", {**BEDSIDE[0], "sex": "male"}),
    "batch of /predict": ("/predict", {"records": BEDSIDE}),
    "/v1/predict/batch": ("/v1/predict/batch", {"records": BEDSIDE}),
    "/v2 infer": (
        "/v2/models/heartdx/infer",
        {"inputs": [tensor(name) for name in ("age", "sex", "cp")]},
    ),
    "/invocations": ("/invocations", {"dataframe_records": BEDSIDE}),
}


def statuses(client):
    return {name: client.post(path, json=body).status_code for name, (path, body) in DOORS.items()}


def everywhere(status):
    return dict.fromkeys(DOORS, status)


def test_a_stop_and_its_end_are_seen_at_every_door(two):
    models_dir, *_ = two
    with started(Settings(models_dir=models_dir)) as client:
        assert statuses(client) == everywhere(200)

        heartdx("model", "stop", "--reason", "odd answers", "--models-dir", models_dir)
        wait_until(lambda: client.get("/health").status_code == 503)
        assert statuses(client) == everywhere(503)
        refused = client.post("/predict", json=PATIENT).json()
        assert refused["type"] == "urn:heartdx:problem:stopped"
        assert "odd answers" in refused["detail"]

        heartdx("model", "start", "--models-dir", models_dir)
        wait_until(lambda: client.get("/health").status_code == 200)
        assert statuses(client) == everywhere(200)


def test_a_service_that_starts_under_a_stop_answers_nothing_from_its_first_request_on(two):
    models_dir, *_ = two
    heartdx("model", "stop", "--reason", "odd answers", "--models-dir", models_dir)

    with started(Settings(models_dir=models_dir)) as client:
        assert statuses(client) == everywhere(503)


def test_while_draining_readiness_is_gone_and_every_door_still_answers(two, tmp_path):
    models_dir, *_ = two
    marker = tmp_path / "drain"
    with started(Settings(models_dir=models_dir, drain_file=marker)) as client:
        assert client.get("/readyz").status_code == 200
        marker.touch()

        assert client.get("/readyz").status_code == 503
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/livez").status_code == 200
        assert statuses(client) == everywhere(200)


def test_where_the_policy_abstains_it_does_at_every_door(tmp_path):
    folder = tiny_bundle.write(tmp_path, abstain_when=("straddle",))
    threshold = json.loads((folder / "manifest.json").read_text())["threshold"]
    with started(Settings(models_dir=tmp_path)) as client:
        singles = [client.post("/predict", json=one).json() for one in BEDSIDE]
        answers = {
            name: client.post(path, json=body).json() for name, (path, body) in DOORS.items()
        }

    expected = [
        None if low < threshold <= high else int(one["probability"] >= threshold)
        for one in singles
        for low, high in [one["calibration_range"]]
    ]
    reasons = [None if p is not None else "range straddles threshold" for p in expected]
    assert {p is None for p in expected} == {True, False}
    batch = answers["batch of /predict"]
    outputs = {one["name"]: one["data"] for one in answers["/v2 infer"]["outputs"]}
    assert [one["prediction"] for one in singles] == expected
    assert (batch["predictions"], batch["abstained"]) == (expected, reasons)
    assert [label is None for label in batch["labels"]] == [p is None for p in expected]
    wanted = list(zip(expected, reasons, strict=True))
    rows = answers["/v1/predict/batch"]["rows"]
    assert [(one["prediction"], one["abstain"]) for one in rows] == wanted
    rows = answers["/invocations"]["predictions"]
    assert [(one["prediction"], one["abstain"]) for one in rows] == wanted
    assert outputs["prediction"] == [-1 if p is None else p for p in expected]
    assert outputs["abstain"] == [reason or "" for reason in reasons]


# -- which model ---------------------------------------------------------------------------------


def test_use_and_rollback_change_the_model_of_a_running_service(two):
    models_dir, first, second = two
    with started(Settings(models_dir=models_dir, poll_seconds=POLL)) as client:
        before = client.post("/predict", json=PATIENT).json()
        heartdx("model", "use", second.name[:12], "--models-dir", models_dir)
        wait_until(lambda: version(client) == second.name[:12])
        between = client.post("/predict", json=PATIENT).json()
        heartdx("model", "rollback", "--models-dir", models_dir)
        wait_until(lambda: version(client) == first.name[:12])
        after = client.post("/predict", json=PATIENT).json()

    assert after["probability"] == before["probability"] != between["probability"]
    assert after["model_version"] == first.name[:12]


def test_a_reload_on_the_admin_port_serves_what_is_current_and_refuses_what_is_damaged(two, port):
    models_dir, first, second = two
    settings = Settings(models_dir=models_dir, poll_seconds=0, admin_port=port)
    with started(settings) as client, httpx2.Client(base_url=f"http://127.0.0.1:{port}") as admin:
        same = admin.post("/admin/reload")
        after_same = admin.get("/metrics").text
        point(models_dir, second)
        other = admin.post("/admin/reload")
        (first / "bedside" / EQUATION).write_bytes(b"{}")
        point(models_dir, first)
        refused = admin.post("/admin/reload")

        assert same.json()["model"]["model_digest"] == first.name
        assert 'heartdx_model_swaps_total{outcome="switched"} 0.0' in after_same
        assert other.json()["model"]["model_digest"] == second.name
        assert refused.status_code == 409
        assert version(client) == second.name[:12]
        shown = admin.get("/metrics").text
        assert 'heartdx_model_swaps_total{outcome="switched"} 1.0' in shown
        assert 'heartdx_model_swaps_total{outcome="refused"} 1.0' in shown
        assert 'endpoint="/admin/reload"' in shown


def test_a_bundle_that_is_made_whole_after_its_refusal_serves(two):
    models_dir, _, second = two
    equation = second / "bedside" / EQUATION
    content = equation.read_bytes()
    equation.write_bytes(content[:-20])
    with started(Settings(models_dir=models_dir, poll_seconds=POLL)) as client:
        point(models_dir, second)
        wait_until(lambda: swaps(client)["refused"] == 1)
        equation.write_bytes(content)
        wait_until(lambda: version(client) == second.name[:12])

        assert swaps(client) == {"switched": 1, "refused": 1}


def swapped(client):
    return client.portal.call(swap.swap, client.app)


def test_two_swaps_at_once_take_turns(two, monkeypatch):
    models_dir, _, second = two
    most, running, load = [], [], predictor.load

    def slow(settings):
        running.append(1)
        most.append(len(running))
        time.sleep(0.1)
        running.pop()
        return load(settings)

    with started(Settings(models_dir=models_dir, poll_seconds=0)) as client:
        monkeypatch.setattr(predictor, "load", slow)
        point(models_dir, second)

        async def both():
            return await asyncio.gather(*(swap.swap(client.app) for _ in range(3)))

        assert client.portal.call(both) == [True] * 3
        assert swaps(client)["switched"] == 1
    assert max(most) == 1


def test_a_model_that_is_current_no_more_once_it_is_loaded_never_serves(two, monkeypatch):
    models_dir, first, second = two
    load, served = predictor.load, []

    def overtaken(settings):
        found = load(settings)
        point(models_dir, first)  # taken back while it loaded
        return found

    with started(Settings(models_dir=models_dir, poll_seconds=0)) as client:
        serve = client.app.serve
        monkeypatch.setattr(predictor, "load", overtaken)
        monkeypatch.setattr(client.app, "serve", lambda one: (served.append(one), serve(one)))
        point(models_dir, second)
        swapped(client)

        assert [one.bundle.digest for one in served] == [first.name]
        assert version(client) == first.name[:12]


def test_a_served_path_that_becomes_a_file_is_refused_and_the_old_model_stays(two):
    models_dir, first, _ = two
    place = models_dir / "served"
    place.symlink_to(first, target_is_directory=True)
    with started(Settings(models_dir=models_dir, model_path=place)) as client:
        place.unlink()
        place.write_bytes(b"a pickle")

        assert swapped(client) is False
        assert version(client) == first.name[:12]


# -- nothing that dies ---------------------------------------------------------------------------


def test_the_follower_survives_whatever_a_swap_raises(two, monkeypatch):
    models_dir, _, second = two
    serve = swap.swap
    tries = []

    async def broken(app):
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError("zq9x")
        return await serve(app)

    monkeypatch.setattr(swap, "swap", broken)
    monkeypatch.setattr(swap, "REFUSED_SECONDS", 0.0)
    settings = Settings(models_dir=models_dir, poll_seconds=POLL)
    with started(settings) as client, log_of(client) as log:
        point(models_dir, second)
        wait_until(lambda: version(client) == second.name[:12])

        (failed,) = [one for one in map(json.loads, log.lines) if one["event"] == "swap_failed"]
        assert failed["error"] == "MemoryError"
        assert any("test_oncall.py" in place for place in failed["where"])
        assert "zq9x" not in "".join(log.lines)


@pytest.mark.parametrize("bug", [ZeroDivisionError, SyntaxError, MemoryError, RuntimeError])
def test_whatever_a_bundle_raises_at_its_verification_refuses_it_at_start_too(
    two, monkeypatch, bug
):
    models_dir, *_ = two

    def broken(_):
        raise bug("zq9x")

    monkeypatch.setattr(predictor.compiled, "verify", broken)
    with started(Settings(models_dir=models_dir)) as client:
        answer = client.get("/readyz")

        assert answer.status_code == 503
        assert bug.__name__ in answer.json()["detail"]
        assert "zq9x" not in answer.text
        assert client.post("/predict", json=PATIENT).status_code == 503


def test_the_shadows_task_survives_a_bug_anywhere_in_its_work(two, monkeypatch):
    models_dir, _, challenger = two
    monkeypatch.setattr(shadow, "_PAUSE", 0.05)
    with started(Settings(models_dir=models_dir, shadow_path=challenger)) as client:
        compare = shadow.Shadow._compare

        def once(*arguments):
            monkeypatch.setattr(shadow.Shadow, "_compare", compare)
            raise RuntimeError("zq9x")

        monkeypatch.setattr(shadow.Shadow, "_compare", once)
        for expected in ("failed", "same_label"):
            client.post("/predict", json=PATIENT)
            wait_until(
                lambda expected=expected: counted(client, "heartdx_shadow_patients_total")[
                    ("outcome", expected),
                ]
            )


def test_a_table_larger_than_the_shadows_queue_is_counted_whole(two, monkeypatch):
    _, first, challenger = two
    telemetry = Telemetry(None)
    monkeypatch.setattr(shadow, "_QUEUE", 5)
    bundle = predictor.load(Settings(model_path=first)).bundle
    asked = predictor.Ask(table([decode_record(PATIENT)] * 12), is_batch=True)
    waiting = shadow.Shadow(predictor.load(Settings(model_path=challenger)).bundle, telemetry)

    waiting.offer_table(predictor.answers(bundle, asked))

    assert telemetry.row[telemetry.places.shadowed["dropped"]] == 7


def test_the_look_for_the_kill_switch_survives_a_bug(two, monkeypatch):
    models_dir, *_ = two
    with started(Settings(models_dir=models_dir)) as client:
        watching = client.app.guard
        refresh, tries = watching.refresh, []

        def once():
            tries.append(1)
            if len(tries) == 1:
                raise RuntimeError("can't start new thread")
            refresh()

        monkeypatch.setattr(watching, "refresh", once)
        wait_until(lambda: tries)
        heartdx("model", "stop", "--reason", "odd answers", "--models-dir", models_dir)

        wait_until(lambda: client.get("/health").status_code == 503)


def test_a_start_that_fails_leaves_the_admin_port_free(two, port, monkeypatch):
    models_dir, *_ = two

    def broken(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "load", broken)
    service = create_app(Settings(models_dir=models_dir, admin_port=port))
    with pytest.raises(BaseException), TestClient(service):  # noqa: B017, PT011 - any end will do
        pass

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


# -- signatures ----------------------------------------------------------------------------------


def test_under_a_required_signature_start_swap_and_shadow_take_signed_models_only(two, keys):
    models_dir, first, second = two
    unsigned = tiny_bundle.write(models_dir, slant=2.0)
    signing.sign(second, keys.private)
    point(models_dir, first)
    strict = Settings(
        models_dir=models_dir,
        poll_seconds=POLL,
        require_signature="on",
        public_key=keys.public,
        shadow_path=unsigned,
    )
    with started(strict) as client:
        at_start = client.get("/readyz")
        point(models_dir, second)
        wait_until(lambda: version(client) == second.name[:12])
        refused = swaps(client)["refused"]
        point(models_dir, unsigned)
        wait_until(lambda: swaps(client)["refused"] == refused + 1)

        assert at_start.status_code == 503
        assert "is not signed" in at_start.json()["detail"]
        assert version(client) == second.name[:12]
        assert client.app.shadow is None
        signing.sign(unsigned, keys.private)
        wait_until(lambda: version(client) == unsigned.name[:12])


def test_under_a_required_signature_a_changed_signed_model_is_refused_at_a_reload(two, keys):
    models_dir, first, _ = two
    signing.sign(first, keys.private)
    strict = Settings(models_dir=models_dir, require_signature="on", public_key=keys.public)
    with started(strict) as client:
        (first / "added.txt").write_text("not signed")

        assert swapped(client) is False
        assert client.post("/predict", json=PATIENT).status_code == 200


# -- what is told ---------------------------------------------------------------------------------


def test_no_refusal_tells_a_client_where_the_models_lie(two, keys):
    models_dir, first, _ = two
    (first / "bedside" / EQUATION).write_bytes(b"{}")
    with started(Settings(models_dir=models_dir, public_key=keys.public)) as client:
        answers = [client.get(path) for path in ("/readyz", "/health", "/v1/model", "/ping")]
        answers.append(client.post("/predict", json=PATIENT))

    for answer in answers:
        assert answer.status_code == 503
        assert "was changed after training" in answer.json()["detail"]
        assert str(models_dir.parent) not in answer.text


@pytest.mark.parametrize(
    "path", ["/v1/model", "/v1/schema", "/health", "/readyz", "/v2/models/heartdx", "/openapi.json"]
)
def test_nothing_that_is_told_of_a_model_says_where_it_lies(two, path):
    models_dir, *_ = two
    with started(Settings(models_dir=models_dir)) as client:
        answer = client.get(path)

    assert answer.status_code == 200
    assert str(models_dir.parent) not in answer.text


def test_no_value_of_a_patient_reaches_log_or_metrics_from_any_door(two):
    models_dir, _, challenger = two
    marks = ("61.234567", "987.654321", "zq9x")
    changes = [
        {BEDSIDE[0]["age"]: 61.234567},  # answered
        {BEDSIDE[0]["age"]: 987.654321},  # out of range
        {BEDSIDE[0]["age"]: "zq9x"},  # no number
    ]
    settings = Settings(models_dir=models_dir, shadow_path=challenger, log_level="DEBUG")
    with started(settings) as client, log_of(client) as log:
        seen = set()
        for path, body in DOORS.values():
            for change in changes:
                content = json.dumps(changed(body, change))
                for sent in (content, content[:-3], content.replace('"age"', '"zq9x"')):
                    headers = {"content-type": "application/json"}
                    for query in ("", "?zq9x=zq9x"):  # the hot path knows no query of that name
                        answer = client.post(path + query, content=sent, headers=headers)
                        seen.add(answer.status_code)
        written = "".join(log.lines) + client.get("/metrics").text

    assert seen == {200, 400, 422}
    assert not [mark for mark in marks if mark in written]


def changed(body, change):
    """A body with one value put for another, wherever it stands."""
    if isinstance(body, dict):
        return {name: changed(value, change) for name, value in body.items()}
    if isinstance(body, list):
        return [changed(value, change) for value in body]
    return change.get(body, body)


@pytest.mark.parametrize("card", ["not text", "link out of the bundle", "folder"])
def test_a_card_that_is_no_text_of_the_bundle_is_left_out(two, tmp_path, card):
    models_dir, first, _ = two
    place = first / "card.md"
    if card == "not text":
        place.write_bytes(b"\xff\xfe\xff")
    elif card == "folder":
        place.mkdir()
    else:
        (tmp_path / "secret").write_text("zq9x")
        place.symlink_to(tmp_path / "secret")

    with started(Settings(models_dir=models_dir)) as client:
        answer = client.get("/v1/model")

    assert answer.status_code == 200
    assert answer.json()["card"] is None


def test_what_the_guard_refuses_is_counted_under_its_own_door(two):
    models_dir, *_ = two
    heartdx("model", "stop", "--reason", "odd answers", "--models-dir", models_dir)
    with started(Settings(models_dir=models_dir)) as client:
        statuses(client)
        for number in range(5):
            client.post(f"/v2/models/{number}/infer", json={})

        found = counted(client, "api_requests_total")
    doors = {dict(labels)["endpoint"] for labels in found}
    assert doors == {"/predict", "/v1/predict", "/v1/predict/batch", "/invocations", "unmatched"}


def test_behind_a_prefix_every_door_answers_and_refuses_in_its_own_words(two):
    models_dir, *_ = two
    service = create_app(Settings(models_dir=models_dir))
    with TestClient(service, root_path="/heart") as client:
        answered = {
            name: client.post(f"/heart{path}", json=body).status_code
            for name, (path, body) in DOORS.items()
        }
        refused = client.post("/heart/v2/models/heartdx/infer", json={"inputs": []})
        unknown = client.get("/heart/v2/nothing")
        found = counted_behind(client)

    assert answered == everywhere(200)
    assert (refused.status_code, unknown.status_code) == (422, 404)
    assert refused.json()["error"]
    assert unknown.json()["error"]
    assert "/predict" in found
    assert not [endpoint for endpoint in found if endpoint.startswith("/heart")]


def counted_behind(client):
    families = text_string_to_metric_families(client.get("/heart/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return {s.labels["endpoint"] for s in samples if s.name == "api_requests_total"}


def test_a_request_id_that_is_no_ascii_word_reaches_neither_log_nor_answer(two):
    models_dir, *_ = two
    forged = [b"caf\xc3\xa9", b"\xff", b'x","event":"forged', b"a" * 65, b"a b", b""]
    with started(Settings(models_dir=models_dir)) as client, log_of(client) as log:
        for given in forged:
            for body in ("hot /predict", "routed /predict"):
                path, patient = DOORS[body]
                answer = client.post(path, json=patient, headers={b"X-Request-ID": given})
                assert answer.headers["x-request-id"] == answer.json()["request_id"]
                assert answer.headers["x-request-id"].encode() != given
        requests = log.requests()

    assert len(requests) == 2 * len(forged)
    assert all(line["request_id"].replace("-", "").isalnum() for line in requests)


def test_a_client_that_leaves_before_its_body_came_is_counted_as_gone_and_as_no_patient(two):
    models_dir, *_ = two
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    sent = []

    async def leave():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    with started(Settings(models_dir=models_dir)) as client, log_of(client) as log:
        client.portal.call(client.app, scope, leave, send)
        (line,) = log.requests()
        patients = sum(counted(client, "heartdx_predictions_total").values())

    assert (sent, line["status"], line["endpoint"], patients) == ([], 499, "/predict", 0)


# -- what is counted -----------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_patients_are_counted_alike_at_every_door(tmp_path, door):
    folder = tiny_bundle.write(tmp_path, abstain_when=("straddle",))
    path, body = DOORS[door]
    asked = BEDSIDE if door in {"hot /predict", "hot /v1/predict"} else [body]
    if door == "routed /predict":
        asked = [{**one, "cp": CP_WORDS[one["cp"]]} for one in BEDSIDE]
    bundle = bundles.load(folder)
    scores = bundle.score(table([decode_record(one) for one in BEDSIDE])).probability
    kept = bundle.reliability["bedside"].calibration
    straddling = [low < bundle.threshold <= high for low, high in map(kept.range, scores)]

    with started(Settings(models_dir=tmp_path)) as client:
        for one in asked:
            assert client.post(path, json=one).status_code == 200
        buckets = counted(client, "heartdx_probability_bucket")
        total = counted(client, "heartdx_probability_sum")
        missing = counted(client, "heartdx_missing_fields_total")
        abstained = counted(client, "heartdx_abstentions_total")
        labels = counted(client, "heartdx_predictions_total")
        batches = counted(client, "heartdx_batch_rows_sum")

    for bound in PROBABILITIES:
        reached = buckets[("le", str(bound)), ("panel", "bedside")]
        assert reached == (scores <= bound).sum()
    assert total[("panel", "bedside"),] == pytest.approx(scores.sum())
    assert {labels[0][1]: value for labels, value in missing.items()} == {
        name: 0 if name in BEDSIDE[0] else len(BEDSIDE) for name in NAMES
    }
    assert 0 < abstained[("reason", "range straddles threshold"),] == sum(straddling)
    positives = labels[("label", "disease"), ("panel", "bedside")]
    assert positives == (scores >= bundle.threshold).sum()
    assert sum(labels.values()) == len(BEDSIDE)
    assert batches[()] == (len(BEDSIDE) if len(asked) == 1 else 0)


def test_work_at_hand_and_what_was_turned_away_are_shown(two):
    models_dir, *_ = two
    shedding = Settings(models_dir=models_dir, max_in_flight=2)
    with started(shedding) as client:
        watching = client.app.guard
        assert [watching.enter(), watching.enter()] == [True, True]
        turned_away = client.post("/v1/predict/batch", json={"records": BEDSIDE})
        at_hand = counted(client, "heartdx_in_flight")[()]
        watching.leave()
        watching.leave()
        taken = client.post("/v1/predict/batch", json={"records": BEDSIDE})

        assert (turned_away.status_code, taken.status_code) == (503, 200)
        assert turned_away.headers["retry-after"]
        assert at_hand == 2
        assert counted(client, "heartdx_in_flight")[()] == 0
        assert counted(client, "heartdx_shed_total")[("reason", "overloaded"),] == 1


# -- settings and metrics ------------------------------------------------------------------------


def test_a_shadow_that_is_a_file_stops_the_start_and_names_the_setting(two, tmp_path):
    models_dir, *_ = two
    (tmp_path / "model.joblib").write_bytes(b"a pickle")

    with pytest.raises(UsageError, match="HEARTDX_SHADOW_PATH"):
        create_app(Settings(models_dir=models_dir, shadow_path=tmp_path / "model.joblib"))


def test_swaps_while_the_metrics_are_read_show_one_model_at_a_time(two):
    models_dir, first, second = two
    end = threading.Event()
    seen = []

    with started(Settings(models_dir=models_dir, poll_seconds=0)) as client:

        def read():
            while not end.is_set():
                found = counted(client, "heartdx_model_info")
                seen.append({dict(labels)["digest"] for labels, value in found.items() if value})

        reading = threading.Thread(target=read)
        reading.start()
        for folder in (second, first) * 4:
            point(models_dir, folder)
            swapped(client)
        end.set()
        reading.join()

    assert set().union(*seen) <= {first.name, second.name}
    assert max(map(len, seen)) == 1


AGAIN = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from heartdx.serve.telemetry import PROBABILITIES, Telemetry
first = len(sys.argv) == 2
telemetry = Telemetry(Path(sys.argv[1]))
telemetry.serves(None, SimpleNamespace(name="m", version="v", digest="one" if first else "other"))
telemetry.count_request("GET", "/livez", 200, 0.001)
if first:  # the same pid, another process image: as a new worker that is given a dead one's pid
    os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], sys.argv[1], "again"])
sys.stdout.write(telemetry.exposition().decode())
"""


def test_a_pid_that_comes_again_keeps_the_counts_and_forgets_the_model(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", AGAIN, str(tmp_path)]

    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    samples = {
        (sample.name, sample.labels.get("digest")): sample.value
        for family in text_string_to_metric_families(shown.stdout)
        for sample in family.samples
    }
    assert samples["api_requests_total", None] == 2
    assert samples["heartdx_model_info", "other"] == 1
    assert ("heartdx_model_info", "one") not in samples
