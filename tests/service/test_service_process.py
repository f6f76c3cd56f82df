"""The service as a real process: what it prints, and how it meets clumsy clients."""

import json
import socket
import time

import httpx2
import pytest
from service_kit import PATIENT


@pytest.fixture
def served(serve, models_dir):
    running = serve({"HEARTDX_MODELS_DIR": str(models_dir), "HEARTDX_MAX_BODY_BYTES": "100000"})
    running.wait_until_alive()
    return running


def test_it_prints_its_own_json_lines_and_no_query_string(served):
    httpx2.post(served.url + "/predict?age=61&chol=317.25", json=PATIENT)
    printed = served.stop()

    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    events = [line["event"] for line in lines]
    assert "ready" in events
    assert [line["endpoint"] for line in lines if line["event"] == "request"][-1] == "/predict"
    assert "317.25" not in printed
    assert "Traceback" not in printed


def test_a_client_that_sends_too_much_can_read_why(served):
    body = b" " * 5_000_000

    def chunks():
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    headers = {"Content-Type": "application/json"}
    declared = httpx2.post(served.url + "/predict", content=body, headers=headers)
    streamed = httpx2.post(served.url + "/predict", content=chunks(), headers=headers)

    assert declared.status_code == streamed.status_code == 413


def test_a_client_that_leaves_in_the_middle_is_counted_and_harms_nobody(served):
    with socket.create_connection(("127.0.0.1", served.port)) as half:
        half.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 500\r\n\r\n{"age": 6'
        )
        time.sleep(0.2)

    assert wait_for(lambda: 'http_status="499"' in httpx2.get(served.url + "/metrics").text)
    assert httpx2.post(served.url + "/predict", json=PATIENT).status_code == 200
    assert "request_failed" not in served.stop()


def test_head_over_the_wire(served):
    answer = httpx2.head(served.url + "/health")

    assert answer.status_code == 200
    assert answer.content == b""


def wait_for(is_so, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.05)
    return False
