"""Metrics, log lines and request ids of one process."""

import json
import re
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families
from service_kit import PATIENT, started

import heartdx
from heartdx.serve import telemetry
from heartdx.serve.telemetry import METRICS
from heartdx.settings import Settings


def samples(client, name: str) -> dict[tuple, float]:
    """Label values (in the order of their names) to value."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture
def fresh(models_dir):
    with started(Settings(models_dir=models_dir)) as client:
        yield client


def test_requests_are_counted_by_template_method_and_status(fresh):
    for _ in range(3):
        fresh.post("/predict", json=PATIENT)
    fresh.post("/predict", json={})
    fresh.head("/health")
    fresh.get("/docs/assets/favicon.png")
    fresh.get("/openapi.json")
    fresh.put("/health")

    assert samples(fresh, "api_requests_total") == {
        ("/predict", "200", "POST"): 3,
        ("/predict", "422", "POST"): 1,
        ("/health", "200", "HEAD"): 1,
        ("/docs/assets/{name}", "200", "GET"): 1,
        ("/openapi.json", "200", "GET"): 1,
        ("/health", "405", "PUT"): 1,
    }
    assert samples(fresh, "api_request_latency_seconds_count")[("/predict",)] == 4


def test_unknown_paths_and_methods_make_no_series_of_their_own(fresh):
    for number in range(20):
        fresh.get(f"/patients/{number}")
        fresh.request(f"METHOD{number}", "/health")
        fresh.get(f"/docs/assets/{number}")

    counted = samples(fresh, "api_requests_total")
    assert counted == {
        ("unmatched", "404", "GET"): 20,
        ("/health", "405", "other"): 20,
        ("/docs/assets/{name}", "404", "GET"): 20,
    }


def test_answered_patients_are_counted_by_panel_and_label(fresh):
    one = fresh.post("/predict", json=PATIENT).json()
    batch = fresh.post("/predict", json={"records": [PATIENT] * 4}).json()

    counted = samples(fresh, "heartdx_predictions_total")
    assert len(counted) == 6
    assert counted[(one["label"], "exercise")] == 5
    assert sum(counted.values()) == 5
    assert set(batch["labels"]) == {one["label"]}


def test_refused_fields_are_counted_with_bounded_labels(fresh):
    fresh.post("/predict", json={**PATIENT, "age": 5, "chol": "x", "one": 1, "two": 2})

    assert samples(fresh, "heartdx_rejected_fields_total") == {
        ("age", "range"): 1,
        ("chol", "type"): 1,
        ("other", "unknown"): 2,
    }


def test_model_and_release_are_shown(fresh, bare_client, models_dir):
    digest = (models_dir / "current").read_text().strip()

    assert samples(fresh, "heartdx_model_info") == {(digest, "heartdx", digest[:12]): 1}
    assert samples(fresh, "heartdx_model_ready") == {(): 1}
    assert samples(bare_client, "heartdx_model_ready") == {(): 0}
    assert samples(bare_client, "heartdx_model_info") == {}
    [(_, version)] = samples(fresh, "heartdx_build_info")
    assert version == heartdx.__version__


def test_every_exported_metric_is_declared(fresh):
    fresh.post("/predict", json={})

    text = fresh.get("/metrics").text
    exported = {
        re.sub("_(bucket|count|sum)$", "", n) for n in re.findall(r"^(\w+)[{ ]", text, re.M)
    }

    assert exported == set(METRICS)


def break_health(client, monkeypatch):
    def broken(*_):
        raise ValueError("zq9x of a patient")

    monkeypatch.setattr("heartdx.serve.predictor.facts", broken)


def test_an_unexpected_exception_is_a_counted_500_that_tells_nothing(
    client, log_lines, monkeypatch
):
    before = samples(client, "api_requests_total").get(("/health", "500", "GET"), 0)
    break_health(client, monkeypatch)

    answer = client.get("/health", headers={"X-Request-ID": "find-me"})

    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:heartdx:problem:internal-error"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "find-me"
    assert "zq9x" not in answer.text
    assert samples(client, "api_requests_total")[("/health", "500", "GET")] == before + 1
    [failed] = [json.loads(line) for line in log_lines.lines if "request_failed" in line]
    assert failed["request_id"] == "find-me"
    assert failed["error"] == "ValueError"
    assert failed["where"][-1].endswith(" broken")
    assert "zq9x" not in "".join(log_lines.lines)


def test_each_request_has_one_log_line_without_values(client, log_lines):
    patient = {**PATIENT, "chol": 317.25}
    client.post("/predict?chol=317.25", json={"records": [patient, patient]})

    [line] = log_lines.requests()
    assert line | {"ms": 0, "time": ""} == {
        "time": "",
        "level": "info",
        "event": "request",
        "method": "POST",
        "endpoint": "/predict",
        "status": 200,
        "ms": 0,
        "request_id": line["request_id"],
        "panels": {"exercise": 2},
    }
    assert "317.25" not in log_lines.lines[0]


def test_a_refusal_is_logged_by_kind(client, log_lines):
    client.post("/predict", json={})

    assert log_lines.requests()[0]["problem"] == "invalid-input"


@pytest.mark.parametrize("given", ["abc-1._Z", "a" * 64])
def test_a_fit_request_id_is_kept(client, log_lines, given):
    answer = client.get("/livez", headers={"X-Request-ID": given})

    assert answer.headers.get_list("X-Request-ID") == [given]
    assert log_lines.requests()[0]["request_id"] == given


@pytest.mark.parametrize("given", ["", "a" * 65, "a b", "a;b", "é".encode(), 'x"y', None])
def test_any_other_request_id_is_replaced(client, given):
    headers = {} if given is None else {"X-Request-ID": given}

    answers = [client.get("/livez", headers=headers) for _ in range(2)]

    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{16}", made) for made in ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/predict", 405),
        ("POST", "/predict", 415),
        ("GET", "/docs", 200),
    ],
)
def test_every_answer_carries_nosniff_and_no_cors(client, method, path, status):
    answer = client.request(method, path, headers={"Origin": "https://elsewhere.example"})

    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/livez", "/health", "/readyz", "/metrics", "/docs"])
def test_head_answers_as_get_without_a_body(client, path):
    got, head = client.get(path), client.head(path)

    assert head.status_code == got.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("HEAD", "/predict", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", "/predict", "POST"),
        ("DELETE", "/metrics", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client, method, path, allowed):
    answer = client.request(method, path)

    assert answer.status_code == 405
    assert answer.headers["Allow"] == allowed
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_trailing_slash_is_another_path(client):
    assert client.get("/health/", follow_redirects=False).status_code == 404


def test_a_file_that_a_new_worker_has_not_filled_yet_is_read_again(tmp_path) -> None:
    """A worker on a busy processor may stand between making its file and filling it."""
    half_made = tmp_path / "counter_1.db"
    half_made.write_bytes(b"123")
    filled = threading.Timer(0.2, half_made.unlink)
    filled.start()

    text = telemetry._added_up(tmp_path, [])

    filled.join()
    assert text == b""
