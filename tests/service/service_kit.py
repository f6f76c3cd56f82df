"""A service for tests: in this process, or as real uvicorn processes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
from starlette.testclient import TestClient

from heartdx import logs
from heartdx.serve import create_app
from heartdx.settings import Settings

ROOT = Path(__file__).parents[2]
PATIENT = {
    "age": 61, "sex": 1, "cp": 4, "trestbps": 140, "chol": 250, "fbs": 0, "restecg": 2,
    "thalach": 128, "exang": 1, "oldpeak": 1.8,
}  # fmt: skip


class LogLines(logs.LineHandler):
    """The service's log lines as they are written."""

    def __init__(self, flush: Callable[[], None]) -> None:
        super().__init__()
        self.setFormatter(logs.JsonFormatter())
        self._written: list[str] = []
        self._flush = flush

    @property
    def lines(self) -> list[str]:
        self._flush()  # what the hot path has not written yet
        return self._written

    def write_lines(self, text: str) -> None:
        self._written += text.splitlines()

    def emit(self, record: logging.LogRecord) -> None:
        self._written.append(self.format(record))

    def requests(self) -> list[dict]:
        parsed = [json.loads(line) for line in self.lines]
        return [line for line in parsed if line["event"] == "request"]


@contextlib.contextmanager
def started(settings: Settings) -> Iterator[TestClient]:
    """A service in this process, its lifespan run."""
    with TestClient(create_app(settings)) as client:
        yield client


class Served:
    """``uvicorn src.api:app`` as the runbook starts it; ends what it started."""

    def __init__(self, environment: dict[str, str], *arguments: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "src.api:app", "--port", str(self.port)]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTDX_", "MODEL_"))}
        kept.pop("PROMETHEUS_MULTIPROC_DIR", None)
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={**kept, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.url = f"http://127.0.0.1:{self.port}"

    def wait_until_alive(self, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(self.url + "/livez").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError("the service did not start:\n" + self.stop())

    def stop(self) -> str:
        """End the processes and return what they printed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.communicate(timeout=20)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.communicate()[0]
