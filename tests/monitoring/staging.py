"""A stage for incidents: real services, a Prometheus, an Alertmanager, and who is told.

All listen on loopback only, and whatever is started here is ended by its own process group.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "ops" / "prometheus"
ALERTMANAGER = ROOT / "ops" / "alertmanager" / "alertmanager.yml"
RULES = tuple(sorted((PROMETHEUS / "rules").glob("*.yaml")))
JOBS = "heart-api-"
"""Each service on the stage has a job of its own, so that one Prometheus watches them all."""

TIMES_FASTER = 1000
SHORTEST = 3.0
"""Seconds: a range must hold several scrapes."""
SCRAPE = 0.5
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(?<![\w.])(\d+)([smhdw])\b")


def scaled(text: str) -> str:
    """Rules or an Alertmanager's settings, every duration a thousand times shorter.

    Ranges, offsets, ``for`` and the times of groups alike, but none under 3 s, so that what was
    longer is never shorter: 5m, 30m and the like become 3 s, 6h 21.6 s, 7d ten minutes.
    """

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[1]) * _SECONDS[found[2]] / TIMES_FASTER
        return f"{round(max(SHORTEST, seconds) * 1000)}ms"

    return _DURATION.sub(shorter, text)


def of_every_job(text: str) -> str:
    """PromQL that asks of all services on the stage what it asks of the job heart-api."""
    return text.replace('job="heart-api"', f'job=~"{JOBS}.+"')


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """Where a program of Prometheus is."""
    found = shutil.which(name)
    assert found, f"{name} is missing; run: make test-monitoring"
    return found


def until(true: Callable[[], object], *, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.1)


class Started:
    """A process with its children, in a group of its own; its output goes to a file."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str] | None = None):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTDX_", "MODEL_"))}
        kept.pop("PROMETHEUS_MULTIPROC_DIR", None)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**kept, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.signal(signal.SIGKILL)
        self.process.wait(10)


class Service:
    """``heartdx serve`` with two workers on a models folder of its own."""

    def __init__(self, folder: Path, **settings: object):
        self.folder = folder
        self.models = folder / "models"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            "HEARTDX_MODELS_DIR": str(self.models),
            "HEARTDX_POLL_SECONDS": "1",
            "HEARTDX_LOG_LEVEL": "WARNING",
            **{name: str(value) for name, value in settings.items()},
        }
        self.models.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        command = [sys.executable, "-m", "heartdx.cli", "serve", "--port", str(self.port)]
        log = self.folder / "service.log"
        self._started = Started([*command, "--workers", "2"], log, self._environment)

    def wait(self) -> None:
        """Until it answers, with a model or without."""

        def alive() -> bool:
            try:
                return httpx2.get(self.url + "/livez").status_code == 200
            except httpx2.TransportError:
                return False

        until(alive, seconds=60, what=f"{self.folder.name} answers")

    def kill(self) -> None:
        self._started.signal(signal.SIGKILL)
        self._started.process.wait(10)

    def end(self) -> None:
        self._started.end()


@dataclass(frozen=True)
class Told:
    """One alert of a notification, as the webhook got it."""

    when: float
    path: str
    status: str
    labels: dict[str, str]


class Webhook:
    """What takes notifications on loopback."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for alert in body["alerts"]:
                    now = time.monotonic()
                    told.append(Told(now, self.path, alert["status"], alert["labels"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Alertmanager:
    """Debian's or another Alertmanager on ops/alertmanager, scaled, that tells a webhook."""

    def __init__(self, folder: Path, webhook: Webhook):
        folder.mkdir()
        self.port = free_port()
        settings = scaled(ALERTMANAGER.read_text()).replace(
            "127.0.0.1:9099", f"127.0.0.1:{webhook.port}"
        )
        (folder / "alertmanager.yml").write_text(settings)
        self._started = Started(
            [
                program("alertmanager"),
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",
            ],
            folder / "log",
        )

    def end(self) -> None:
        self._started.end()


class Prometheus:
    """A Prometheus that scrapes services twice a second by the rules of ops/prometheus, scaled.

    Parameters
    ----------
    folder : its settings and data.
    jobs : name of each job and the ports of its instances.
    alertmanager : the port of an Alertmanager.
    """

    def __init__(self, folder: Path, jobs: Mapping[str, list[int]], alertmanager: int):
        (folder / "rules").mkdir(parents=True)
        for path in RULES:
            (folder / "rules" / path.name).write_text(of_every_job(scaled(path.read_text())))
        pause = f"{round(SCRAPE * 1000)}ms"
        settings: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        settings["global"] = {
            "scrape_interval": pause,
            "scrape_timeout": pause,
            "evaluation_interval": pause,
        }
        settings["alerting"]["alertmanagers"][0]["static_configs"] = _targets([alertmanager])
        settings["scrape_configs"] = [
            {"job_name": name, "static_configs": _targets(ports)} for name, ports in jobs.items()
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        self.port = free_port()
        self._url = f"http://127.0.0.1:{self.port}/api/v1"
        self._started = Started(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--rules.alert.resend-delay=1s",
            ],
            folder / "log",
        )

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        answer = httpx2.get(f"{self._url}/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def answers(self) -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}/-/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def alerts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("alerts")["alerts"]
        return found

    def end(self) -> None:
        self._started.end()


def _targets(ports: list[int]) -> list[dict[str, Any]]:
    return [{"targets": [f"127.0.0.1:{port}" for port in ports]}]


@dataclass
class Fired:
    """When an alert of a job was first seen firing, and whether it is now."""

    first: dict[tuple[str, str], float] = field(default_factory=dict)
    now: frozenset[tuple[str, str]] = frozenset()


class Watch:
    """Looks at the alerts of a Prometheus until it is ended."""

    def __init__(self, prometheus: Prometheus):
        self.fired = Fired()
        self._prometheus = prometheus
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.25):
            with contextlib.suppress(httpx2.TransportError):  # it starts
                found = [a["labels"] for a in self._prometheus.alerts() if a["state"] == "firing"]
                # At its start Prometheus knows of no service at all: an alert of no job.
                seen = frozenset((labels.get("job", ""), labels["alertname"]) for labels in found)
                for one in seen:
                    self.fired.first.setdefault(one, time.monotonic())
                self.fired.now = seen

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@contextlib.contextmanager
def asking(
    ask: Callable[[httpx2.Client], object], *, each: float, callers: int = 1
) -> Iterator[None]:
    """Ask a service again and again, from threads, until the block is left."""
    over = threading.Event()

    def call() -> None:
        with httpx2.Client(timeout=20) as client:
            while not over.wait(each):
                with contextlib.suppress(httpx2.TransportError):  # it was killed
                    ask(client)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
