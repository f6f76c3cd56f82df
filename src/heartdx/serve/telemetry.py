"""What the service counts, for one process or for several workers together.

Labels come from small fixed sets; no label and no value holds a patient's data.
"""

from __future__ import annotations

import contextlib
import os
import platform
import struct
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

import heartdx
from heartdx.bundle import Bundle
from heartdx.contract import BY_NAME, NAMES, PANEL_NAMES
from heartdx.serve import tally
from heartdx.serve.predictor import ABSTENTIONS, LABELS, Answers
from heartdx.serve.problems import Located
from heartdx.serve.tally import Layout, Merged
from heartdx.serve.workers import dead_workers

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
C, H, G = "counter", "histogram", "gauge"
OTHER = "other"
UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
REJECTED_FIELDS = frozenset({*BY_NAME, "records", "values", "coding", "body"})
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds of the latency histogram: a prediction takes about one millisecond."""

PROBABILITIES = tuple(tenth / 10 for tenth in range(1, 10))
"""Bounds of the histogram of answered probabilities."""
DIFFERENCES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Bounds of the histogram of the distance between champion and challenger."""
ROWS = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
"""Bounds of the histogram of patients in a batch."""
HOT_DOORS = ("/predict", "/v1/predict")
"""Routes that the application object answers itself."""
SWAPS = ("switched", "refused")
SHED = (
    "overloaded",
    "rate-limited",
    "stopped",
    "request-timeout",
    "unauthorized",
    "headers-too-large",
)
"""Kinds of problem by which the guard refuses."""
SHADOWED = ("same_label", "other_label", "dropped", "failed")

METRICS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "api_requests_total": ("Answered HTTP requests.", ("method", "endpoint", "http_status"), C),
    "api_request_latency_seconds": (
        "Seconds from a request's first byte to its answer.",
        ("endpoint",),
        H,
    ),
    "heartdx_predictions_total": ("Patients answered.", ("panel", "label"), C),
    "heartdx_probability": ("Answered probabilities of disease.", ("panel",), H),
    "heartdx_missing_fields_total": ("Answered patients without the attribute.", ("field",), C),
    "heartdx_abstentions_total": ("Patients for whom the policy abstains.", ("reason",), C),
    "heartdx_batch_rows": ("Patients in one batch.", (), H),
    "heartdx_rejected_fields_total": ("Fields refused in requests.", ("field", "kind"), C),
    "heartdx_in_flight": ("Requests being answered.", (), G),
    "heartdx_shed_total": (
        "Requests refused before they were looked at, by kind of problem.",
        ("reason",),
        C,
    ),
    "heartdx_model_info": ("1 for the model that answers.", ("name", "version", "digest"), G),
    "heartdx_model_ready": ("1 when every worker has a verified model, else 0.", (), G),
    "heartdx_model_swaps_total": ("Changes of the model while serving.", ("outcome",), C),
    "heartdx_shadow_patients_total": (
        "Patients given to the challenger too, by its agreement with the champion.",
        ("outcome",),
        C,
    ),
    "heartdx_shadow_difference": (
        "Distance between the challenger's and the champion's probability.",
        (),
        H,
    ),
    "heartdx_build_info": ("1 for the release that runs.", ("version", "python"), G),
}
"""Every metric of the service: what it says, its labels, its type."""

_SCRAPE_ATTEMPTS = 8
_SCRAPE_PAUSE = 0.02
"""Seconds, twice as long each time: a new worker that waits for a busy processor needs a moment
between making its file and filling it (2.5 s in all)."""


class Places:
    """Where each number of the hot path is counted in the tally."""

    def __init__(self) -> None:
        self.layout = layout = Layout()
        self.answered = {
            door: layout.counter(
                "api_requests_total",
                {"method": "POST", "endpoint": door, "http_status": "200"},
                shown=False,
            )
            for door in HOT_DOORS
        }
        self.latency = {
            door: layout.histogram(
                "api_request_latency_seconds", SECONDS, {"endpoint": door}, shown=False
            )
            for door in HOT_DOORS
        }
        self.predictions = [
            [
                layout.counter("heartdx_predictions_total", {"panel": panel, "label": label})
                for label in LABELS
            ]
            for panel in PANEL_NAMES
        ]
        self.probability = [
            layout.histogram("heartdx_probability", PROBABILITIES, {"panel": panel})
            for panel in PANEL_NAMES
        ]
        self.missing = [
            layout.counter("heartdx_missing_fields_total", {"field": name}) for name in NAMES
        ]
        self.abstained = {
            reason: layout.counter("heartdx_abstentions_total", {"reason": reason})
            for reason in ABSTENTIONS
        }
        self.rows = layout.histogram("heartdx_batch_rows", ROWS, {})
        self.shadowed = {
            outcome: layout.counter("heartdx_shadow_patients_total", {"outcome": outcome})
            for outcome in SHADOWED
        }
        self.difference = layout.histogram("heartdx_shadow_difference", DIFFERENCES, {})


class Telemetry:
    """The metrics of one application, in a registry of its own.

    What one request may add often is counted in ``row`` at ``places``, by the event loop's
    thread only; the rest in prometheus_client. A scrape shows the sum.

    Parameters
    ----------
    folder : where the workers of one parent count together; None for a single process.
    """

    def __init__(self, folder: Path | None):
        prometheus_client.disable_created_metrics()
        self.folder = folder
        self.stopped()  # a pid that comes again says nothing of its predecessor's model
        self.places = Places()
        self.row = tally.row(self.places.layout, folder)
        self.registry = CollectorRegistry()
        self.requests = self._counter("api_requests_total")
        self.latency = Histogram(
            *self._declared("api_request_latency_seconds"),
            registry=self.registry,
            buckets=SECONDS,
        )
        self.rejected = self._counter("heartdx_rejected_fields_total")
        self.shed = self._counter("heartdx_shed_total")
        self.swaps = self._counter("heartdx_model_swaps_total")
        self.model = self._gauge("heartdx_model_info", "livemax")
        self.ready = self._gauge("heartdx_model_ready", "livemin")
        self.in_flight = self._gauge("heartdx_in_flight", "livesum")
        self.build = self._gauge("heartdx_build_info", "livemax")

    def started(self) -> None:
        """Say which release runs, and show the known series at zero."""
        self.build.labels(heartdx.__version__, platform.python_version()).set(1)
        self.in_flight.set(0)
        for reason in SHED:
            self.shed.labels(reason)
        for outcome in SWAPS:
            self.swaps.labels(outcome)

    def serves(self, before: Bundle | None, bundle: Bundle | None) -> None:
        """Say which model answers from now on."""
        self.ready.set(0 if bundle is None else 1)
        if before is not None:
            self.model.labels(before.name, before.version, before.digest).set(0)
        if bundle is not None:
            self.model.labels(bundle.name, bundle.version, bundle.digest).set(1)

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
        """Count the patients of a table."""
        row, places = self.row, self.places
        positive = answers.positive
        for place, histogram in enumerate(places.probability):
            chosen = answers.place == place
            scores = answers.probability[chosen]
            for label, count in enumerate(
                (len(scores) - positive[chosen].sum(), positive[chosen].sum())
            ):
                row[places.predictions[place][label]] += float(count)
            self._observe(histogram, scores)
        for place, count in zip(places.missing, np.isnan(answers.X).sum(axis=0), strict=True):
            row[place] += float(count)
        for reason in answers.abstained.values():
            row[places.abstained[reason]] += 1

    def count_batch(self, rows: int) -> None:
        """Count one batch of so many patients."""
        self._observe(self.places.rows, np.array([rows], dtype=np.float64))

    def count_shadow(self, outcome: str, differences: np.ndarray) -> None:
        """Count patients whom the challenger scored, was too busy for, or failed at."""
        self.row[self.places.shadowed[outcome]] += len(differences)
        if outcome in SHADOWED[:2]:
            self._observe(self.places.difference, differences)

    def count_shed(self, kind: str) -> None:
        """Count a request that the guard refused."""
        self.shed.labels(kind if kind in SHED else OTHER).inc()

    def count_rejected(self, problems: Iterable[Located]) -> None:
        """Count refused fields."""
        for located in problems:
            field = located.problem.field
            known = field if field in REJECTED_FIELDS else OTHER
            self.rejected.labels(known, located.problem.kind).inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format, added up over the workers."""
        counts = tally.total(self.places.layout, self.row, self.folder)
        counted = list(self.places.layout.samples(counts))
        if self.folder is None:
            return generate_latest(Merged(self.registry, counted, _about))
        for pid in dead_workers(self.folder):
            with contextlib.suppress(FileNotFoundError):  # a sister worker was faster
                multiprocess.mark_process_dead(pid, str(self.folder))
        return _added_up(self.folder, counted)

    def _observe(self, histogram: tally.Histogram, values: np.ndarray) -> None:
        found = np.bincount(
            np.searchsorted(histogram.bounds, values), minlength=len(histogram.bounds) + 1
        )
        for offset in np.flatnonzero(found):
            self.row[histogram.first + int(offset)] += float(found[offset])
        self.row[histogram.sum_at] += float(values.sum())

    def _counter(self, name: str) -> Counter:
        return Counter(*self._declared(name), registry=self.registry)

    def _gauge(self, name: str, mode: str) -> Gauge:
        return Gauge(*self._declared(name), registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    @staticmethod
    def _declared(name: str) -> tuple[str, str, tuple[str, ...]]:
        text, labels, _ = METRICS[name]
        return name, text, labels


def _about(family: str) -> tuple[str, str]:
    text, _, kind = METRICS.get(family) or METRICS[family + "_total"]
    return text, kind


def _added_up(folder: Path, counted: list[tuple[tally.Series, float]]) -> bytes:
    """The sum over all workers' files; one that is just being made is read again."""
    for attempt in range(_SCRAPE_ATTEMPTS):
        files = multiprocess.MultiProcessCollector(CollectorRegistry(), path=str(folder))
        try:
            return generate_latest(Merged(files, counted, _about))
        except (struct.error, RuntimeError, FileNotFoundError):
            if attempt == _SCRAPE_ATTEMPTS - 1:
                raise
            time.sleep(_SCRAPE_PAUSE * 2**attempt)
    raise AssertionError("unreachable")
