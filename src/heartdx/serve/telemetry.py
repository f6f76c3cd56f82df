"""What the service counts, for one process or for several workers together.

Labels come from small fixed sets; no label and no value holds a patient's data.
"""

from __future__ import annotations

import contextlib
import os
import platform
import struct
import time
from collections import Counter as Tally
from collections.abc import Iterable
from pathlib import Path

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

import heartdx
from heartdx.bundle import Bundle
from heartdx.contract import BY_NAME, PANEL_NAMES
from heartdx.serve.predictor import LABELS, Answers
from heartdx.serve.problems import Located
from heartdx.serve.workers import dead_workers

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OTHER = "other"
UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
REJECTED_FIELDS = frozenset({*BY_NAME, "records", "values", "coding", "body"})
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds of the latency histogram: a prediction takes about one millisecond."""

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "api_requests_total": ("Answered HTTP requests.", ("method", "endpoint", "http_status")),
    "api_request_latency_seconds": (
        "Seconds from a request's first byte to its answer.",
        ("endpoint",),
    ),
    "heartdx_predictions_total": ("Patients answered.", ("panel", "label")),
    "heartdx_rejected_fields_total": ("Fields refused in requests.", ("field", "kind")),
    "heartdx_model_info": ("1 for the model that answers.", ("name", "version", "digest")),
    "heartdx_model_ready": ("1 when every worker has a verified model, else 0.", ()),
    "heartdx_build_info": ("1 for the release that runs.", ("version", "python")),
}
"""Every metric of the service: what it says, and its labels."""

_SCRAPE_ATTEMPTS = 8
_SCRAPE_PAUSE = 0.02
"""Seconds, twice as long each time: a new worker that waits for a busy processor needs a moment
between making its file and filling it (2.5 s in all)."""


class Telemetry:
    """The metrics of one application, in a registry of its own.

    Parameters
    ----------
    folder : where the workers of one parent count together; None for a single process.
    """

    def __init__(self, folder: Path | None):
        prometheus_client.disable_created_metrics()
        self.folder = folder
        self.registry = CollectorRegistry()
        self.requests = Counter(*self._declared("api_requests_total"), registry=self.registry)
        self.latency = Histogram(
            *self._declared("api_request_latency_seconds"),
            registry=self.registry,
            buckets=SECONDS,
        )
        self.predictions = Counter(
            *self._declared("heartdx_predictions_total"), registry=self.registry
        )
        self.rejected = Counter(
            *self._declared("heartdx_rejected_fields_total"), registry=self.registry
        )
        self.model = self._gauge("heartdx_model_info", "livemax")
        self.ready = self._gauge("heartdx_model_ready", "livemin")
        self.build = self._gauge("heartdx_build_info", "livemax")

    def started(self, bundle: Bundle | None) -> None:
        """Say which release and which model run, and show the known series at zero."""
        self.build.labels(heartdx.__version__, platform.python_version()).set(1)
        self.ready.set(0 if bundle is None else 1)
        if bundle is not None:
            self.model.labels(bundle.name, bundle.version, bundle.digest).set(1)
        for panel in PANEL_NAMES:
            for label in LABELS:
                self.predictions.labels(panel, label)

    def stopped(self) -> None:
        """Take back what a worker says only while it lives."""
        if self.folder is not None:
            multiprocess.mark_process_dead(os.getpid(), str(self.folder))

    def count_request(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count one answered request; ``endpoint`` is a route's template."""
        known = method if method in METHODS else OTHER
        self.requests.labels(known, endpoint, str(status)).inc()
        self.latency.labels(endpoint).observe(seconds)

    def count_answers(self, answers: Answers) -> None:
        """Count answered patients."""
        tally = Tally(zip(answers.panels, answers.labels, strict=True))
        for (panel, label), number in tally.items():
            self.predictions.labels(panel, label).inc(number)

    def count_rejected(self, problems: Iterable[Located]) -> None:
        """Count refused fields."""
        for located in problems:
            field = located.problem.field
            known = field if field in REJECTED_FIELDS else OTHER
            self.rejected.labels(known, located.problem.kind).inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format, added up over the workers."""
        if self.folder is None:
            return generate_latest(self.registry)
        for pid in dead_workers(self.folder):
            with contextlib.suppress(FileNotFoundError):  # a sister worker was faster
                multiprocess.mark_process_dead(pid, str(self.folder))
        return _added_up(self.folder)

    def _gauge(self, name: str, mode: str) -> Gauge:
        return Gauge(*self._declared(name), registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    @staticmethod
    def _declared(name: str) -> tuple[str, str, tuple[str, ...]]:
        text, labels = METRICS[name]
        return name, text, labels


def _added_up(folder: Path) -> bytes:
    """The sum over all workers' files; one that is just being made is read again."""
    for attempt in range(_SCRAPE_ATTEMPTS):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=str(folder))
        try:
            return generate_latest(registry)
        except (struct.error, RuntimeError, FileNotFoundError):
            if attempt == _SCRAPE_ATTEMPTS - 1:
                raise
            time.sleep(_SCRAPE_PAUSE * 2**attempt)
    raise AssertionError("unreachable")
