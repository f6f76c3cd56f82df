"""Traffic that moves every metric of the service, and what must hold of the dashboards.

``tests/architecture/test_grafana.py`` asks the rules of the checked-in dashboards and proves
each by a mutation; ``tests/monitoring/test_dashboards.py`` asks every query of a real Prometheus.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import promql_parser
import yaml
from grafana_foundation_sdk.models import units
from prometheus_client.parser import text_string_to_metric_families

from heartdx.bundle import MODEL_NAME
from heartdx.contract import ATTRIBUTES, PANELS

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tools"))
dashboards = importlib.import_module("dashboards")
picture = importlib.import_module("dashboard_picture")

NAMES = ("service", "model", "data")
WIDTH = 24
"""Columns of Grafana's grid."""
UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and name[0] != "_"}
ADDED = {"job", "instance"}
"""Labels that Prometheus puts on what it scrapes."""
MADE_BY_PROMETHEUS = {"up"}
RECORDED = {
    rule["record"]
    for path in sorted((ROOT / "ops" / "prometheus" / "rules").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "record" in rule
}
"""What Prometheus' own rules make; their labels are their own tests' concern."""
JSON = {"content-type": "application/json"}
NDJSON = "application/x-ndjson"

Document = dict[str, Any]


class Client(Protocol):
    """httpx2's client, and the one of Starlette's tests."""

    def get(self, url: str, /) -> Any: ...

    def post(self, url: str, /, **more: Any) -> Any: ...


def service_test_module(name: str) -> ModuleType:
    """A module beside the service's tests."""
    folder = str(ROOT / "tests" / "service")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def fully(pattern: str, text: str) -> bool:
    """Whether a matcher ``=~`` takes a text: Prometheus anchors both ends."""
    return re.fullmatch(pattern, text) is not None


# -- traffic ---------------------------------------------------------------------------------


def patient(draw: random.Random, panel: str = "imaging") -> dict[str, float]:
    """A patient with every input of a panel, at random inside the contract."""
    inputs = next(p.inputs for p in PANELS if p.name == panel)
    return {
        a.name: draw.choice(a.code_values) if a.codes else round(draw.uniform(*a.plausible), 1)
        for a in ATTRIBUTES
        if a.name in inputs
    }


def answered(client: Client, draw: random.Random, rows: int = 20) -> list[int]:
    """Every door is asked for what it answers; the statuses."""
    one = [
        client.post(door, json=patient(draw, panel.name))
        for door in ("/predict", "/v1/predict")
        for panel in PANELS
    ]
    table = [patient(draw, draw.choice(PANELS).name) for _ in range(rows)]
    several = [
        client.post("/predict", json={"records": table}),
        client.post("/v1/predict/batch", content=ndjson(table), headers={"content-type": NDJSON}),
        client.post("/invocations", json={"dataframe_records": [patient(draw)]}),
        client.post(f"/v2/models/{MODEL_NAME}/infer", json=grid(patient(draw))),
        client.get("/health"),
        client.get("/readyz"),
    ]
    return [answer.status_code for answer in (*one, *several)]


def ndjson(table: Iterable[Mapping[str, float]]) -> str:
    """A table as the batch door takes it."""
    return "".join(json.dumps(row) + "\n" for row in table)


def grid(one: Mapping[str, float]) -> dict[str, Any]:
    """A patient as the Open Inference door takes it."""
    named = [{"name": name, "data": [value]} for name, value in one.items()]
    return {"inputs": [{"datatype": "FP64", "shape": [1], **part} for part in named]}


def refused(client: Client, draw: random.Random) -> list[int]:
    """One request of each kind that the caller has to mend; the statuses."""
    good = patient(draw)
    kaggle = {**good, "cp": 0, "thal": 2}
    answers = [
        client.post("/predict", json={}),
        client.post("/predict", json={**good, "age": 500}),
        client.post("/predict", json={**good, "chol": "high", "ward": 7}),
        client.post("/predict", json=kaggle),
        client.post("/predict", content=b"{", headers=JSON),
        client.post("/predict", content=b"age=3", headers={"content-type": "text/plain"}),
        client.get("/nothing"),
    ]
    return [answer.status_code for answer in answers]


# -- what is exposed -------------------------------------------------------------------------


@dataclass(frozen=True)
class Exposed:
    """The series of a service: for each sample's name and label the values it has."""

    values: Mapping[str, Mapping[str, set[str]]]

    @classmethod
    def of(cls, text: str) -> Exposed:
        """What Prometheus' text format says."""
        found: dict[str, dict[str, set[str]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
        return cls(found)


@dataclass
class Used:
    """What a query asks for: its selectors, and the labels it groups by."""

    selectors: list[tuple[str, list[tuple[str, str, str]]]] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)

    @classmethod
    def by(cls, expr: str) -> Used:
        """What a query, its variables replaced, asks for; ValueError when it is no PromQL."""
        used = cls()

        def look(node: Any) -> bool:
            if isinstance(node, promql_parser.VectorSelector):
                asked = [(m.name, str(m.op), m.value) for m in node.matchers.matchers]
                used.selectors.append((node.name or "", asked))
            elif isinstance(node, promql_parser.AggregateExpr) and node.modifier:
                used.grouped.update(node.modifier.labels)
            return True

        promql_parser.walk(promql_parser.parse(expr), look)
        return used


def longest_shift(expr: str) -> float:
    """Seconds by which a query looks back with ``offset``."""
    shifts = [0.0]

    def look(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector) and node.offset is not None:
            shifts.append(node.offset.total_seconds())
        return True

    promql_parser.walk(promql_parser.parse(expr), look)
    return max(shifts)


def queries(document: Document) -> Iterator[tuple[str, str, str]]:
    """Where a query stands, its PromQL as Grafana sends it, its legend; annotations too."""
    known = picture.variables(document, seconds=3600.0, step=15.0, scrape=15.0)
    for panel in picture.panels(document):
        for target in panel["targets"]:
            where = f"{document['uid']}: {panel['title']}: {target['refId']}"
            yield where, picture.substituted(target["expr"], known), target["legendFormat"]
    for annotation in document["annotations"]["list"]:
        where = f"{document['uid']}: {annotation['name']}"
        yield where, picture.substituted(annotation["expr"], known), ""


# -- the rules -------------------------------------------------------------------------------


def findings(documents: Mapping[str, Document], exposed: Exposed) -> list[str]:
    """What is wrong with the dashboards, one line each."""
    one_by_one: tuple[Callable[[Document], Iterable[str]], ...] = (
        _ids, _overlaps, _words, _units, _thresholds, _sources, _runbooks,
    )  # fmt: skip
    found = [line for rule in one_by_one for d in documents.values() for line in rule(d)]
    found += _uids(documents.values())
    for document in documents.values():
        for where, expr, legend in queries(document):
            found += _query(where, expr, legend, exposed)
    return found + _unseen(documents.values(), exposed)


def _uids(documents: Iterable[Document]) -> list[str]:
    counted = Counter(document["uid"] for document in documents)
    return [f"{uid}: the uid of several dashboards" for uid, n in counted.items() if n > 1]


def _ids(document: Document) -> Iterator[str]:
    counted = Counter(panel.get("id") for panel in document["panels"])
    for number, times in counted.items():
        if number is None or times > 1:
            yield f"{document['uid']}: {times} panels have the id {number}"


def _overlaps(document: Document) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    clashes: dict[tuple[str, str], None] = {}
    for panel in document["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        if columns.stop > WIDTH or not columns or not place["h"]:
            yield f"{document['uid']}: {panel['title']}: outside the grid"
        for cell in itertools.product(columns, range(place["y"], place["y"] + place["h"])):
            if cell in taken:
                clashes[taken[cell], panel["title"]] = None
            taken[cell] = panel["title"]
    for one, other in clashes:
        yield f"{document['uid']}: {one} and {other} overlap"


def _words(document: Document) -> Iterator[str]:
    for panel in picture.panels(document):
        if not panel.get("title") or not panel.get("description"):
            yield f"{document['uid']}: panel {panel['id']} lacks a title or a description"


def _units(document: Document) -> Iterator[str]:
    for panel in picture.panels(document):
        unit = panel["fieldConfig"]["defaults"].get("unit", "")
        if unit not in UNITS and not unit.startswith("suffix:"):
            yield f"{document['uid']}: {panel['title']}: no unit of Grafana: {unit!r}"


def _thresholds(document: Document) -> Iterator[str]:
    for panel in picture.panels(document):
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
        values = [step["value"] for step in steps[1:]]
        if panel["type"] in ("stat", "bargauge", "state-timeline") and not steps:
            yield f"{document['uid']}: {panel['title']}: no thresholds"
        if (steps and steps[0]["value"] is not None) or values != sorted(values):
            yield f"{document['uid']}: {panel['title']}: thresholds that do not ascend"


def _sources(document: Document) -> Iterator[str]:
    for panel in picture.panels(document):
        if panel.get("datasource", {}).get("uid") != "${datasource}":
            yield f"{document['uid']}: {panel['title']}: not the chosen data source"


def _runbooks(document: Document) -> Iterator[str]:
    for panel in picture.panels(document):
        for link in panel.get("links", []):
            path = link["url"].replace("${runbooks}", "docs/runbooks")
            if not (ROOT / path).is_file():
                yield f"{document['uid']}: {panel['title']}: no file {path}"


def _query(where: str, expr: str, legend: str, exposed: Exposed) -> Iterator[str]:
    try:
        used = Used.by(expr)
    except ValueError as wrong:
        yield f"{where}: no PromQL: {wrong}"
        return
    labels: set[str] = set(ADDED)
    for metric, matchers in used.selectors:
        wanted = {"job"} if metric in RECORDED else ADDED
        if wanted - {name for name, _, _ in matchers}:
            yield f"{where}: {metric} of every {' or '.join(sorted(wanted))}"
        if metric in MADE_BY_PROMETHEUS | RECORDED:
            continue
        if metric not in exposed.values:
            yield f"{where}: no metric {metric}"
            continue
        values = exposed.values[metric]
        labels |= values.keys()
        for name, op, value in matchers:
            if name not in ADDED:
                yield from _matcher(f"{where}: {metric}", values, name, op, value)
    for name in used.grouped - labels:
        yield f"{where}: grouped by {name}, which no metric there has"
    for name in set(re.findall(r"\{\{(\w+)\}\}", legend)) - used.grouped:
        yield f"{where}: the legend names {name}, which the query leaves out"


def _matcher(
    where: str, values: Mapping[str, set[str]], name: str, op: str, value: str
) -> Iterator[str]:
    """A label that the metric lacks, or a branch of a matcher that no value of it ever has."""
    if name not in values:
        yield f"{where} has no label {name}"
        return
    for branch in value.split("|") if "Re" in op else [re.escape(value)]:
        if not any(fully(branch, seen) for seen in values[name]):
            yield f"{where}: {name} is never {branch}"


def _unseen(documents: Iterable[Document], exposed: Exposed) -> list[str]:
    shown: set[str] = set()
    for document in documents:
        for _, expr, _ in queries(document):
            try:
                shown |= {_family(metric) for metric, _ in Used.by(expr).selectors}
            except ValueError:
                continue
    families = sorted({_family(name) for name in exposed.values})
    return [f"{name}: on no dashboard" for name in families if name not in shown]


def _family(sample: str) -> str:
    return re.sub("_(bucket|sum|count)$", "", sample)


# -- a real Prometheus -----------------------------------------------------------------------


@dataclass
class Prometheus:
    """A Prometheus of its own on loopback, scraping some targets with the rules of ops/prometheus.

    Parameters
    ----------
    folder : for its configuration, samples and log.
    targets : what it calls an instance, and the address it scrapes.
    scrape : seconds between two scrapes, and between two runs of the rules.
    """

    folder: Path
    targets: Mapping[str, str]
    scrape: float = 1.0
    url: str = ""

    def __enter__(self) -> Prometheus:
        program = shutil.which("prometheus")
        assert program, (
            "prometheus is missing; ops/ci/prometheus.sh brings it: make test-monitoring"
        )
        config = self.folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._config()))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with (self.folder / "prometheus.log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self.folder / 'samples'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: answers(f"{self.url}/-/ready"))
        wait_until(self._has_scraped)  # some seconds later
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _has_scraped(self) -> bool:
        now = time.time()
        seen = picture.query_range(self.url, "up == 1", now, now, 1.0)
        return len(seen) == len(self.targets)

    def _config(self) -> dict[str, Any]:
        every = f"{round(1000 * self.scrape)}ms"
        targets = [
            {"targets": [address], "labels": {"instance": name}}
            for name, address in self.targets.items()
        ]
        return {
            "global": {
                "scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every,
            },
            "rule_files": [str(ROOT / "ops" / "prometheus" / "rules" / "recording.yaml")],
            "scrape_configs": [{"job_name": dashboards.JOB, "static_configs": targets}],
        }  # fmt: skip


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Whether an address answers with 200."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Until something is so; AssertionError when it takes longer."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@contextlib.contextmanager
def served(models_dir: Path, port: int, log: Path, **settings: object) -> Iterator[str]:
    """``heartdx serve`` on a port of loopback; its address."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTDX_", "MODEL_"))}
    kept.pop("PROMETHEUS_MULTIPROC_DIR", None)
    chosen = {f"HEARTDX_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "heartdx.cli", "serve", "--port", str(port)]
    with log.open("w") as lines:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**kept, "HEARTDX_MODELS_DIR": str(models_dir), **chosen},
            stdout=lines,
            stderr=lines,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        try:
            wait_until(lambda: answers(f"{url}/readyz"), 30)
        except AssertionError as late:
            raise AssertionError("the service is not ready:\n" + log.read_text()[:2000]) from late
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
