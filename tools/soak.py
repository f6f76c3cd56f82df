"""Load the service for minutes while its model is swapped and its workers are killed.

``python tools/soak.py`` serves two real bundles by two workers from a temporary folder, asks at
every door over several connections, and holds each answer against what the two bundles compute
themselves. In turns ``current`` is moved between the bundles, a worker is killed, all workers are
reloaded, and a damaged bundle is named current. At the end the service's own counts are held
against ours. Exit code 1 when anything was wrong; the figures are in reports/soak.json.

A connection may break only with the worker it belongs to, and what was received of a broken
answer is never taken for one. A worker that is killed is stopped first (SIGSTOP), so that its
connections can be listed before it is gone. A reload closes connections that are idle; a request
that crosses with it on the wire is counted apart (RFC 9112, 9.3.1: such a request may be sent
again) and must not have got a single byte of an answer.

The last fifth of the time is without kills and reloads: the memory's growth is measured there.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import contextlib
import hashlib
import itertools
import json
import math
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from heartdx import atomic, bundle, store
from heartdx.bundle import Bundle
from heartdx.contract import ATTRIBUTES, NAMES, PANELS
from heartdx.errors import HeartdxError
from heartdx.records import decode_record, table

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
SETTLE_SECONDS = 20.0
"""For a worker to come back, or for workers to see another model, on a busy machine."""
ANSWER_SECONDS = 15.0
REOPENED_AFTER = 100
"""Requests on one connection, so that a new worker soon gets its share."""
QUIET_SHARE = 0.2
MAX_WORKER_MB = 200.0
MAX_GROWTH_KB = 200.0
"""Growth of a worker for 1,000 of its requests in the quiet time; a leak of one answer is 500."""
LEAST_REQUESTS = 5_000
"""In the quiet time; with fewer, growth is what a new worker needs anyway, and is not told."""
TOLERANCE = {"logreg": 1e-9, "onnx": 1e-6}
"""What "the same answer" means, by what evaluates it."""
SHIFT = 0.7
"""Log-odds between the two bundles' calibrations: no answer of one could be the other's."""
TOLD = 20
"""Wrong answers described in the report."""


# -- the story -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How long, how hard, and every how many seconds something happens."""

    seconds: float
    connections: int
    rate: float
    swap_every: float
    kill_every: float
    reload_every: float
    corrupt_every: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak, print and write its figures."""
    given = _arguments(argv)
    plan = Plan(
        given.seconds if given.seconds is not None else 60 * given.minutes,
        given.connections,
        given.rate,
        given.swap_every,
        given.kill_every,
        given.reload_every,
        given.corrupt_every,
    )
    with tempfile.TemporaryDirectory(prefix="heartdx-soak-") as place:
        models_dir = Path(place) / "models"
        try:
            bundles = two_bundles(given.models_dir, models_dir)
        except HeartdxError as refusal:
            print(f"soak: error: {refusal}", file=sys.stderr)
            return refusal.exit_code
        report = asyncio.run(soak(plan, models_dir, bundles, Path(place)))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(given.out, json.dumps(report, indent=1) + "\n")
    print(summary(report))
    print(f"figures: {given.out}")
    return 0 if not report["wrong"]["count"] else 1


async def soak(
    plan: Plan, models_dir: Path, bundles: Sequence[Bundle], place: Path
) -> dict[str, Any]:
    """The whole run, bounded: the service is ended whatever happens."""
    log = place / "service.log"
    with log.open("wb") as lines, served(models_dir, place, lines) as service:
        run = Run(plan, service, models_dir, bundles)
        try:
            async with asyncio.timeout(plan.seconds + 5 * SETTLE_SECONDS):
                await run.settled(WORKERS)
                await run.under_load()
                await run.at_rest()
        except TimeoutError:
            run.wrong("the soak did not come to its end in time")
    run.tell_bugs(log.read_text(errors="replace"))
    return run.report()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, help="instead of minutes")
    parser.add_argument("--models-dir", type=Path, default=ROOT / "models")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "soak.json")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float, default=400.0, help="most requests per second")
    for name, seconds in (("swap", 10.0), ("kill", 30.0), ("reload", 60.0), ("corrupt", 45.0)):
        parser.add_argument(f"--{name}-every", type=float, default=seconds, metavar="SECONDS")
    return parser.parse_args(argv)


# -- two bundles that answer differently -----------------------------------------------------


def two_bundles(source: Path, models_dir: Path) -> tuple[Bundle, Bundle]:
    """The current bundle of ``source`` and a shifted twin of it, in a models folder of our own.

    Raises
    ------
    HeartdxError
        There is no current bundle, or it does not verify.
    """
    folder = bundle.current_folder(source)
    original = bundle.load(folder)
    target = models_dir / bundle.BUNDLES / original.digest
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.joblib"))
    twin = write_twin(original, models_dir)
    atomic.write_text(models_dir / bundle.CURRENT, original.digest + "\n")
    return bundle.load(target), twin


def write_twin(original: Bundle, models_dir: Path) -> Bundle:
    """A whole bundle that differs in threshold and, where it is an equation, in calibration."""
    manifest = json.loads(json.dumps(original.manifest))
    manifest["threshold"] = round(original.threshold / 2 + 0.4, 6)
    files = {n: (original.folder / n).read_bytes() for n in manifest["files"] if _is_served(n)}
    for name, facts in manifest["panels"].items():
        if facts["model"] == "logreg":
            files.pop(f"{name}/{bundle.ONNX}", None)  # other runtimes' copy of the unshifted one
            equation = json.loads(files[f"{name}/{bundle.EQUATION}"])
            equation["calibration"]["intercept"] += SHIFT
            files[f"{name}/{bundle.EQUATION}"] = json.dumps(equation).encode()
    manifest["files"] = {n: hashlib.sha256(c).hexdigest() for n, c in sorted(files.items())}
    manifest["digest"] = _digest(manifest, files)
    manifest["version"] = manifest["digest"][:12]
    scorers = dict(original.scorers) | {
        name: bundle.Equation(json.loads(files[f"{name}/{bundle.EQUATION}"]))
        for name, facts in manifest["panels"].items()
        if facts["model"] == "logreg"
    }
    X = np.array(manifest["golden"]["records"], dtype=np.float64)
    scored = Bundle(original.folder, manifest, scorers).score(X)
    manifest["golden"]["probabilities"] = scored.probability.tolist()
    target = models_dir / bundle.BUNDLES / manifest["digest"]
    with atomic.folder(target) as draft:
        for name, content in files.items():
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_bytes(content)
        (draft / bundle.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return bundle.load(target)


def _is_served(name: str) -> bool:
    return not name.endswith(".joblib")


def _digest(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    panels = {}
    for name, facts in manifest["panels"].items():
        scoring = bundle.EQUATION if facts["model"] == "logreg" else bundle.ONNX
        kept = files.get(f"{name}/{bundle.RELIABILITY}")
        panels[name] = bundle.panel_content(facts, files[f"{name}/{scoring}"], kept)
    return bundle.content_digest(
        panels=panels,
        threshold=manifest["threshold"],
        harm_ratio=manifest["harm_ratio"],
        policy=manifest.get("policy"),
        schema=manifest["schema_version"],
    )


def damage(models_dir: Path, good: str, number: int) -> str:
    """A bundle that must be refused, in one of four ways; what ``current`` would say of it."""
    name = hashlib.sha256(f"damaged {number}".encode()).hexdigest()
    folder = models_dir / bundle.BUNDLES / name
    shutil.copytree(models_dir / bundle.BUNDLES / good, folder)
    manifest = folder / bundle.MANIFEST
    scoring = next(iter(sorted(folder.glob(f"*/{bundle.EQUATION}"))), manifest)
    match number % 4:
        case 0:
            scoring.write_bytes(scoring.read_bytes().replace(b"1", b"2", 1))
        case 1:
            manifest.write_bytes(manifest.read_bytes()[:-100])
        case 2:
            shutil.rmtree(scoring.parent)
        case _:
            return f"no digest {number}"
    return name


# -- what is asked, and what must come back --------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One kind of request.

    Parameters
    ----------
    door : its name in the report.
    method, path, media, body : what is sent.
    status : of a right answer.
    endpoint : as the service's metrics name it.
    right : raises ``AssertionError`` when the answer's document is not one bundle's own.
    """

    door: str
    method: str
    path: str
    media: str
    body: bytes
    status: int
    endpoint: str
    right: Callable[[bytes], str | None]

    def request(self, request_id: str) -> bytes:
        """The bytes to send."""
        head = (
            f"{self.method} {self.path} HTTP/1.1\r\nHost: soak\r\nX-Request-ID: {request_id}\r\n"
            f"Content-Type: {self.media}\r\nContent-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


class Oracle:
    """What each of the bundles answers to each patient."""

    def __init__(self, bundles: Sequence[Bundle], patients: Sequence[Mapping[str, object]]):
        self.patients = patients
        X = table([decode_record(patient) for patient in patients])
        self.X = X.tolist()
        self.bundles = {made.version: made for made in bundles}
        self.expected = {made.version: made.score(X).probability.tolist() for made in bundles}
        kinds = {facts["model"] for b in bundles for facts in b.manifest["panels"].values()}
        self.tolerance = TOLERANCE["logreg" if kinds == {"logreg"} else "onnx"]

    def one(self, answer: Mapping[str, Any], who: int, version: str | None = None) -> str:
        """Hold one patient's answer against the model that it names; returns the version."""
        version = version or answer["model_version"]
        assert version in self.bundles, "a version that was never served"
        made, expected = self.bundles[version], self.expected[version][who]
        found = answer["probability"]
        assert abs(found - expected) <= self.tolerance, "a probability of another model or patient"
        if answer["prediction"] not in (None, -1):
            assert answer["prediction"] == int(found >= made.threshold), "another threshold"
        if "threshold" in answer:
            assert answer["threshold"] == made.threshold, "another model's threshold"
        return version

    def full(self, answer: Mapping[str, Any], who: int) -> str:
        """The same of a full answer, whose reasons must add up."""
        version = self.one(answer, who)
        assert answer["model"]["digest"] == self.bundles[version].digest, "two models in one answer"
        if answer["reasons"] is not None:
            p = answer["probability"]
            logit = _logit_of(answer["reasons"])
            assert abs(logit - math.log(p / (1 - p))) <= 1e-6, "reasons of another probability"
        return version


def _logit_of(reasons: Mapping[str, Any]) -> float:
    """What the contributions make of the probability's logit: log-odds, or a forest's votes."""
    votes = reasons["scale"] == "votes"
    parts = [part["votes" if votes else "log_odds"] for part in reasons["contributions"]]
    total = float(reasons["base"] + sum(parts))
    if not votes:
        return total
    return float(reasons["calibration"]["slope"] * total + reasons["calibration"]["intercept"])


def some_patients(count: int = 40, *, seed: int = 4) -> list[dict[str, object]]:
    """Invented patients from the contract's ranges, a third for each panel, some values unknown."""
    draw = random.Random(seed)  # noqa: S311 - invented patients
    return [_patient(draw, PANELS[place % len(PANELS)].inputs) for place in range(count)]


def _patient(draw: random.Random, known: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for attribute in ATTRIBUTES:
        if attribute.name in known and not (attribute.imputed and draw.random() < 0.2):
            found[attribute.name] = (
                round(draw.uniform(*attribute.plausible), 1)
                if attribute.plausible
                else draw.choice(attribute.code_values)
            )
    return found


def cases(oracle: Oracle, model_name: str) -> list[list[Case]]:
    """Every door's requests, one list for each door."""
    people = range(len(oracle.patients))
    batches = [list(itertools.islice(itertools.cycle(people), p, p + 12)) for p in people]
    return [
        [_single(oracle, who, "/predict", "hot") for who in people],
        [_single(oracle, who, "/v1/predict", "hot") for who in people],
        [_worded(oracle, who) for who in people],
        [_full(oracle, who) for who in people],
        [_rows(oracle, who, lines=False) for who in batches],
        [_rows(oracle, who, lines=True) for who in batches],
        [_infer(oracle, who, model_name) for who in batches],
        _refused(oracle.patients[0]),
    ]


JSON = "application/json"


def _single(oracle: Oracle, who: int, path: str, way: str) -> Case:
    body = json.dumps(oracle.patients[who]).encode()
    right = lambda content: oracle.one(json.loads(content), who)  # noqa: E731
    return Case(f"{path} {way}", "POST", path, JSON, body, 200, path, right)


def _worded(oracle: Oracle, who: int) -> Case:
    """The same with words for the codes that have one."""
    patient = oracle.patients[who]
    named = {a.name: c.name for a in ATTRIBUTES for c in a.codes if c.value == patient.get(a.name)}
    words = {name: word for name, word in named.items() if not word.isdigit()}
    body = json.dumps({**patient, **words}).encode()
    right = lambda content: oracle.one(json.loads(content), who)  # noqa: E731
    return Case("/predict routed", "POST", "/predict", JSON, body, 200, "/predict", right)


def _full(oracle: Oracle, who: int) -> Case:
    body = json.dumps(oracle.patients[who]).encode()
    path = "/v1/predict?detail=full"
    right = lambda content: oracle.full(json.loads(content), who)  # noqa: E731
    return Case(path, "POST", path, JSON, body, 200, "/v1/predict", right)


def _rows(oracle: Oracle, who: Sequence[int], *, lines: bool) -> Case:
    """A batch whose last row must be refused."""
    bad = {**oracle.patients[who[0]], **_OUT_OF_RANGE}
    records = [*(oracle.patients[place] for place in who), bad]

    def right(content: bytes) -> str:
        if lines:
            *rows, end = map(json.loads, content.splitlines())
        else:
            document = json.loads(content)
            rows, end = document["rows"], document
        told = end["summary"]
        assert told["complete"], "a batch without its end"
        assert told["answered"] == len(who) == len(rows) - 1, "rows are gone"
        assert rows[-1]["error"][0]["field"] == NAMES[0], "a refusal of something else"
        assert rows[-1]["probability"] is None, "a number for a refused row"
        for row, place in zip(rows, who, strict=False):
            oracle.one(row, place, told["model_version"])
        assert told["threshold"] == oracle.bundles[told["model_version"]].threshold
        return str(told["model_version"])

    path = "/v1/predict/batch"
    if lines:
        body = "".join(json.dumps(record) + "\n" for record in records).encode()
        return Case(f"{path} NDJSON", "POST", path, "application/x-ndjson", body, 200, path, right)
    body = json.dumps({"records": records}).encode()
    return Case(f"{path} JSON", "POST", path, JSON, body, 200, path, right)


def _infer(oracle: Oracle, who: Sequence[int], model_name: str) -> Case:
    data = [None if math.isnan(v) else v for place in who for v in oracle.X[place]]
    shape = [len(who), len(NAMES)]
    tensor = {"name": "input", "datatype": "FP64", "shape": shape, "data": data}
    wanted = [{"name": "probability"}, {"name": "prediction"}]
    body = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()

    def right(content: bytes) -> str:
        answer = json.loads(content)
        probability, prediction = (output["data"] for output in answer["outputs"])
        assert len(probability) == len(who), "rows are gone"
        for place, p, label in zip(who, probability, prediction, strict=True):
            row = {"probability": p, "prediction": label}
            oracle.one(row, place, answer["model_version"])
        return str(answer["model_version"])

    path = f"/v2/models/{model_name}/infer"
    endpoint = "/v2/models/{model_name}/infer"
    return Case("/v2 infer", "POST", path, JSON, body, 200, endpoint, right)


_OUT_OF_RANGE = {NAMES[0]: (ATTRIBUTES[0].plausible or (0, 0))[1] + 1_000}


def _refused(patient: Mapping[str, object]) -> list[Case]:
    """Requests that must be refused, each with its own problem."""
    wrong = json.dumps({**patient, **_OUT_OF_RANGE}).encode()
    good = json.dumps(patient).encode()
    told: list[tuple[str, str, str, bytes, int, str, str]] = [
        ("POST", "/predict", JSON, wrong, 422, "/predict", "invalid-input"),
        ("POST", "/v1/predict", JSON, wrong, 422, "/v1/predict", "invalid-input"),
        ("POST", "/predict", JSON, good[:-1], 400, "/predict", "malformed-json"),
        ("POST", "/predict", "text/plain", good, 415, "/predict", "unsupported-media-type"),
        ("POST", "/nowhere", JSON, good, 404, "unmatched", "not-found"),
        ("DELETE", "/predict", JSON, b"", 405, "/predict", "method-not-allowed"),
    ]

    def holds(kind: str) -> Callable[[bytes], None]:
        def right(content: bytes) -> None:
            document = json.loads(content)
            assert document["type"] == f"urn:heartdx:problem:{kind}", "another problem"
            assert "probability" not in document, "a number in a refusal"

        return right

    return [Case("refused", *parts, holds(kind)) for *parts, kind in told]  # type: ignore[arg-type]


# -- one connection, byte by byte ------------------------------------------------------------


class Cut(Exception):  # noqa: N818 - an event, not an error
    """The connection ended before the answer did; ``got`` bytes of it had come."""

    def __init__(self, got: int):
        self.got = got
        super().__init__(f"{got} bytes")


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A connection that knows how much of an answer has come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self.port: int = writer.get_extra_info("sockname")[1]
        self.worker: int | None = None
        self.asked = 0
        self._got = 0

    @classmethod
    async def open(cls, port: int) -> Connection:
        """A new one."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> Answer:
        """One request and its answer.

        Raises
        ------
        Cut
            The other side went away.
        """
        self.asked += 1
        self._got = 0
        try:
            self._writer.write(request)
            await self._writer.drain()
            return await self._answer()
        except (ConnectionError, asyncio.IncompleteReadError) as cause:
            raise Cut(self._got + len(getattr(cause, "partial", b""))) from cause

    async def close(self) -> None:
        """Close it; the other side may be gone already."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _answer(self) -> Answer:
        first, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join([chunk async for chunk in self._chunks()])
        else:
            body = await self._exactly(int(headers.get("content-length", "0")))
        return Answer(int(first.split()[1]), headers, body)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._until(b"\r\n"), 16):
            yield (await self._exactly(size + 2))[:-2]
        await self._exactly(2)

    async def _until(self, end: bytes) -> bytes:
        found = await self._reader.readuntil(end)
        self._got += len(found)
        return found

    async def _exactly(self, count: int) -> bytes:
        found = await self._reader.readexactly(count)
        self._got += len(found)
        return found


# -- the service -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """``uvicorn src.api:app`` with several workers."""

    process: psutil.Popen
    port: int

    def workers(self) -> list[int]:
        """Process ids of the living workers, the oldest first."""
        try:
            children = [c for c in self.process.children() if _is_worker(c)]
            return [c.pid for c in sorted(children, key=lambda child: child.create_time())]
        except psutil.NoSuchProcess:
            return []

    def ports_of(self, worker: int) -> set[int]:
        """Our ends of the connections that a worker holds."""
        try:
            found = psutil.Process(worker).net_connections("tcp")
        except psutil.Error:
            return set()
        return {c.raddr.port for c in found if c.raddr and c.laddr.port == self.port}


def _is_worker(child: psutil.Process) -> bool:
    """Whether it is one of uvicorn's; multiprocessing's resource tracker is a child too."""
    try:
        living = child.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return living and any("spawn_main" in word for word in child.cmdline())
    except psutil.Error:
        return False


@contextlib.contextmanager
def served(models_dir: Path, place: Path, lines: Any) -> Iterator[Service]:
    """The service, ended with all its workers at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTDX_", "MODEL_"))}
    kept.pop("PROMETHEUS_MULTIPROC_DIR", None)
    settings = {"HEARTDX_MODELS_DIR": str(models_dir), "HEARTDX_POLL_SECONDS": "1"}
    process = psutil.Popen(
        [sys.executable, "-m", "uvicorn", "src.api:app", "--port", str(port),
         "--workers", str(WORKERS)],
        cwd=ROOT,
        env={**kept, **settings, "TMPDIR": str(place), "HEARTDX_LOG_LEVEL": "WARNING"},
        stdout=lines,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    service = Service(process, port)
    try:
        yield service
    finally:
        _end(service)


def _end(service: Service) -> None:
    """SIGTERM, then SIGKILL to what is left, each by its id."""
    try:
        processes = [service.process, *service.process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    service.process.terminate()
    _, left = psutil.wait_procs(processes, timeout=SETTLE_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


# -- the run ---------------------------------------------------------------------------------


@dataclass
class Counts:
    """What happened."""

    answered: Counter[tuple[str, str, str, int]] = field(default_factory=Counter)
    cut: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    cut_midway: int = 0
    closed_by_reload: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    by_worker: Counter[int] = field(default_factory=Counter)
    seconds: array.array = field(default_factory=lambda: array.array("d"))
    events: Counter[str] = field(default_factory=Counter)
    seen_workers: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Memory:
    """A worker's resident memory at one moment.

    Parameters
    ----------
    seconds : since the start of the load.
    worker : process id.
    mb : resident megabytes.
    answered : requests that this worker had answered by then, as far as known.
    """

    seconds: float
    worker: int
    mb: float
    answered: int


class Run:
    """One soak: connections that ask, one task that makes trouble, one that watches."""

    def __init__(self, plan: Plan, service: Service, models_dir: Path, bundles: Sequence[Bundle]):
        self.plan, self.service, self.models_dir = plan, service, models_dir
        self.bundles = bundles
        self.oracle = Oracle(bundles, some_patients())
        self.doors = cases(self.oracle, bundles[0].name)
        self.counts = Counts()
        self.memory: list[Memory] = []
        self.totals: dict[str, Any] = {}
        self._killed_ports: set[int] = set()
        self._reloading = False
        self._old: set[int] = set()
        self._began = time.monotonic()
        self._ids = itertools.count(1)
        self._damaged = itertools.count()
        self._draw = random.Random(7)  # noqa: S311 - the order of requests
        self._stop = asyncio.Event()

    def wrong(self, what: str) -> None:
        """Note that something is wrong."""
        self.counts.wrong[what] += 1

    @property
    def elapsed(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began

    async def under_load(self) -> None:
        """Ask, make trouble and watch until the time is over."""
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.plan.connections):
                tasks.create_task(self._asking())
            watching = tasks.create_task(self._watching())
            await self._trouble()
            self._stop.set()
            await watching

    # -- asking

    async def _asking(self) -> None:
        """One connection after the other, one request at a time."""
        pause = self.plan.connections / self.plan.rate
        connection: Connection | None = None
        due = time.monotonic() + self._draw.random() * pause
        while not self._stop.is_set():
            try:
                connection = connection or await Connection.open(self.service.port)
            except ConnectionError:
                self.wrong("a connection was refused")
            else:
                connection = await self._one(connection)
            due = max(due + pause, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        if connection is not None:
            await connection.close()

    async def _one(self, connection: Connection) -> Connection | None:
        """One request; the connection to go on with."""
        case = self._draw.choice(self._draw.choice(self.doors))
        request_id = f"soak-{next(self._ids)}"
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await connection.ask(case.request(request_id))
        except Cut as cut:
            await self._was_cut(connection, case, cut)
            return None
        except TimeoutError:
            self.wrong(f"{case.door}: no answer in {ANSWER_SECONDS:g} s")
            await connection.close()
            return None
        self.counts.seconds.append(time.monotonic() - began)
        self._check(case, request_id, answer)
        if connection.worker is None:
            connection.worker = await asyncio.to_thread(self._owner, connection.port)
        if connection.worker is not None:
            self.counts.by_worker[connection.worker] += 1
        if connection.asked >= REOPENED_AFTER or answer.headers.get("connection") == "close":
            await connection.close()
            return None
        return connection

    def _check(self, case: Case, request_id: str, answer: Answer) -> None:
        counted = (case.door, case.method, case.endpoint, answer.status)
        self.counts.answered[counted] += 1
        if answer.status != case.status:
            self.wrong(f"{case.door}: status {answer.status}, expected {case.status}")
            return
        if answer.headers.get("x-request-id") != request_id:
            self.wrong(f"{case.door}: the answer to another request")
        try:
            version = case.right(answer.body)
        except AssertionError as cause:
            self.wrong(f"{case.door}: {cause}")
        except (ValueError, KeyError, IndexError, TypeError) as cause:
            self.wrong(f"{case.door}: no such document ({type(cause).__name__})")
        else:
            if version is not None:
                self.counts.versions[version] += 1

    def _owner(self, port: int) -> int | None:
        workers = self.service.workers()
        return next((w for w in workers if port in self.service.ports_of(w)), None)

    async def _was_cut(self, connection: Connection, case: Case, cut: Cut) -> None:
        """Only a connection of a worker that was killed may break, or an idle one in a reload."""
        await connection.close()
        if connection.port in self._killed_ports:
            self.counts.cut[case.door, case.method, case.endpoint] += 1
            self.counts.cut_midway += cut.got > 0
            return
        of_old = connection.worker in self._old or (connection.worker is None and self._reloading)
        if of_old and not cut.got:
            self.counts.closed_by_reload += 1
        elif of_old:
            self.wrong(f"{case.door}: half an answer in a reload")
        else:
            self.wrong(f"{case.door}: cut by a worker that lives")

    # -- trouble

    async def _trouble(self) -> None:
        """One event after the other, each when it is due; none but swaps in the quiet time."""
        plan = self.plan
        every: dict[Callable[[], Any], float] = {
            self._swap: plan.swap_every,
            self._kill: plan.kill_every,
            self._reload: plan.reload_every,
            self._corrupt: plan.corrupt_every,
        }
        due = dict(every)
        loud = plan.seconds * (1 - QUIET_SHARE)
        while self.elapsed < plan.seconds:
            event = min(due, key=lambda one: due[one])
            wait = min(due[event], plan.seconds) - self.elapsed
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            if event == self._swap or self.elapsed < loud:
                await event()
            due[event] = max(due[event] + every[event], self.elapsed)

    async def _swap(self) -> None:
        now = bundle.current_folder(self.models_dir).name
        after = next(made.digest for made in self.bundles if made.digest != now)
        await asyncio.to_thread(store.switch, self.models_dir, after, by="soak")
        self.counts.events["swaps ordered"] += 1

    async def _kill(self) -> None:
        """Stop a worker, list its connections, kill it, and see another one come."""
        await self.settled(WORKERS)
        victim = self._draw.choice(self.service.workers())
        process = psutil.Process(victim)
        process.suspend()
        self._killed_ports |= self.service.ports_of(victim)
        process.kill()
        self.counts.events["workers killed"] += 1
        await self.settled(WORKERS, without={victim})

    async def _reload(self) -> None:
        """SIGHUP: one worker after the other is replaced."""
        await self.settled(WORKERS)
        before = set(self.service.workers())
        self._old |= before
        self._reloading = True
        self.service.process.send_signal(signal.SIGHUP)
        await self.settled(WORKERS, without=before)
        self._reloading = False
        self.counts.events["reloads"] += 1

    async def _corrupt(self) -> None:
        """Name a damaged bundle current: every worker refuses it and goes on with the old one."""
        await self.settled(WORKERS)
        good = bundle.current_folder(self.models_dir).name
        pointer = damage(self.models_dir, good, next(self._damaged))
        before = await self._sample("heartdx_model_swaps_total", outcome="refused")
        atomic.write_text(self.models_dir / bundle.CURRENT, pointer + "\n")
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            refused = await self._sample("heartdx_model_swaps_total", outcome="refused")
            if refused - before >= WORKERS:
                break
            if time.monotonic() > end:
                self.wrong("a damaged bundle was not refused by every worker")
                break
            await asyncio.sleep(0.1)
        atomic.write_text(self.models_dir / bundle.CURRENT, good + "\n")
        shutil.rmtree(self.models_dir / bundle.BUNDLES / pointer, ignore_errors=True)
        self.counts.events["damaged bundles refused"] += 1

    async def settled(self, count: int, *, without: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        """Wait until so many workers, and none of some, run and have a model."""
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            workers = set(self.service.workers())
            self.counts.seen_workers |= workers
            if len(workers) == count and not workers & without and self._have_counted(workers):
                with contextlib.suppress(Cut, ConnectionError):
                    if await self._sample("heartdx_model_ready") == 1:
                        return
            await asyncio.sleep(0.1)
        self.wrong(f"the workers were not back in {SETTLE_SECONDS:g} s")

    def _have_counted(self, workers: set[int]) -> bool:
        """Whether each worker has begun to count, so that its readiness is in the sum."""
        place = self.models_dir.parent
        return all(any(place.glob(f"*/gauge_livemin_{worker}.db")) for worker in workers)

    # -- watching

    async def _watching(self) -> None:
        """The workers' memory each second, a line each ten."""
        told = 0
        while not self._stop.is_set():
            for worker in self.service.workers():
                self.counts.seen_workers.add(worker)
                with contextlib.suppress(psutil.Error):
                    mb = psutil.Process(worker).memory_info().rss / 1e6
                    answered = self.counts.by_worker[worker]
                    self.memory.append(Memory(self.elapsed, worker, mb, answered))
            if self.elapsed >= 10 * (told + 1):
                told += 1
                print(self._line(), file=sys.stderr, flush=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)

    def _line(self) -> str:
        c = self.counts
        events = ", ".join(f"{n} {name}" for name, n in sorted(c.events.items()))
        return (
            f"soak {self.elapsed:4.0f} s: {c.answered.total()} answered, {c.wrong.total()} wrong, "
            f"{c.cut.total()} cut by kills; {events}"
        )

    # -- at rest

    async def at_rest(self) -> None:
        """Every worker has the model that was ordered last, and the counts agree."""
        await self.settled(WORKERS)
        await self._last_model()
        found = await self._metrics()
        self.totals = compared(self.counts, found["api_requests_total"])
        for what in self.totals["differences"]:
            self.wrong(f"api_requests_total differs: {what}")
        swaps = found["heartdx_model_swaps_total"]
        for labels, number in swaps.items():
            self.counts.events[f"workers' swaps {dict(labels)['outcome']}"] = int(number)
        if self.counts.events["swaps ordered"] and len(self.counts.versions) < 2:
            self.wrong("one of the models never answered")

    async def _last_model(self) -> None:
        """Ask over new connections until no worker answers with an older model."""
        wanted = bundle.current_folder(self.models_dir).name[:12]
        end, recent = time.monotonic() + SETTLE_SECONDS, deque[bool](maxlen=16)
        while not (len(recent) == recent.maxlen and all(recent)):
            if time.monotonic() > end:
                self.wrong("a worker kept an older model")
                return
            connection = await Connection.open(self.service.port)
            answer = await connection.ask(_GET.replace(b"PATH", b"/readyz"))
            await connection.close()
            recent.append(answer.status == 200 and wanted in answer.body.decode())

    async def _metrics(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        connection = await Connection.open(self.service.port)
        try:
            answer = await connection.ask(_GET.replace(b"PATH", b"/metrics"))
        finally:
            await connection.close()
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
        for family in text_string_to_metric_families(answer.body.decode()):
            for sample in family.samples:
                found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
        return found

    async def _sample(self, name: str, **labels: str) -> float:
        """One number of the metrics; 0 when it is not there."""
        found = await self._metrics()
        return found[name].get(tuple(sorted(labels.items())), 0.0)

    # -- the report

    def tell_bugs(self, log: str) -> None:
        """What the service's own log says of bugs."""
        if "Traceback" in log or '"request_failed"' in log:
            self.wrong("the service's log tells of a bug")
            print(log[-4000:], file=sys.stderr)

    def report(self) -> dict[str, Any]:
        """All figures."""
        c = self.counts
        memory = memory_of(self.memory, quiet_from=self.plan.seconds * (1 - QUIET_SHARE))
        if memory and memory["largest_mb"] > MAX_WORKER_MB:
            self.wrong(f"a worker had more than {MAX_WORKER_MB:g} MB")
        growth = memory.get("growth_kb_per_1000_requests")
        if growth is not None and growth > MAX_GROWTH_KB:
            self.wrong(f"workers grew by more than {MAX_GROWTH_KB:g} kB for 1,000 requests")
        by_door: dict[str, dict[str, int]] = defaultdict(dict)
        for (door, _, _, status), number in sorted(c.answered.items()):
            by_door[door][str(status)] = by_door[door].get(str(status), 0) + number
        return {
            "plan": asdict(self.plan),
            "answered": c.answered.total(),
            "by_door_and_status": by_door,
            "by_model": dict(c.versions),
            "wrong": {"count": c.wrong.total(), "what": dict(c.wrong.most_common(TOLD))},
            "cut_by_kills": c.cut.total(),
            "cut_by_kills_midway": c.cut_midway,
            "closed_by_reloads_unanswered": c.closed_by_reload,
            "events": dict(sorted(c.events.items())),
            "workers_started": len(c.seen_workers),
            "milliseconds": percentiles(c.seconds),
            "memory": memory,
            "metrics": self.totals,
        }


_GET = b"GET PATH HTTP/1.1\r\nHost: soak\r\nContent-Length: 0\r\n\r\n"


def compared(counts: Counts, metric: Mapping[tuple[tuple[str, str], ...], float]) -> dict[str, Any]:
    """The service's count of requests against ours, by method, endpoint and status.

    Each must be at least what was answered, and all of an endpoint together at most that and
    what was cut by kills: such a request may have been counted before it was cut, or not.
    """
    ours: Counter[tuple[str, str, int]] = Counter()
    for (_, method, endpoint, status), number in counts.answered.items():
        ours[method, endpoint, status] += number
    cut: Counter[tuple[str, str]] = Counter()
    for (_, method, endpoint), number in counts.cut.items():
        cut[method, endpoint] += number
    theirs = {
        (d["method"], d["endpoint"], int(d["http_status"])): int(number)
        for labels, number in metric.items()
        for d in [dict(labels)]
        if (d["method"], d["endpoint"]) in {key[:2] for key in ours}
    }
    differences = [
        f"{method} {endpoint} {status}: theirs {theirs.get((method, endpoint, status), 0)}, "
        f"ours {number}"
        for (method, endpoint, status), number in ours.items()
        if theirs.get((method, endpoint, status), 0) < number
    ]
    for method, endpoint in {key[:2] for key in ours}:
        more = sum(n - ours[key] for key, n in theirs.items() if key[:2] == (method, endpoint))
        if more > cut[method, endpoint]:
            differences.append(
                f"{method} {endpoint}: theirs {more} more than answered, "
                f"{cut[method, endpoint]} were cut"
            )
    return {
        "api_requests_total": sum(theirs.values()),
        "answered": sum(ours.values()),
        "differences": differences,
    }


def memory_of(samples: Sequence[Memory], *, quiet_from: float) -> dict[str, Any]:
    """Workers' memory over the run, and its growth in the quiet time."""
    if not samples:
        return {}
    end = samples[-1].seconds
    quiet: dict[int, list[Memory]] = defaultdict(list)
    for sample in samples:
        if sample.seconds >= quiet_from:
            quiet[sample.worker].append(sample)
    grown = sum(s[-1].mb - s[0].mb for s in quiet.values())
    asked = sum(s[-1].answered - s[0].answered for s in quiet.values())
    return {
        "start_mb": _around(samples, 0.0),
        "middle_mb": _around(samples, end / 2),
        "end_mb": _around(samples, end),
        "largest_mb": round(max(sample.mb for sample in samples), 1),
        "quiet_requests": asked,
        "growth_kb_per_1000_requests": round(1e6 * grown / asked, 1)
        if asked >= LEAST_REQUESTS
        else None,
    }


def _around(samples: Sequence[Memory], seconds: float) -> list[float]:
    """Each worker's memory at a moment."""
    nearest = min(samples, key=lambda sample: abs(sample.seconds - seconds)).seconds
    return [round(s.mb, 1) for s in samples if abs(s.seconds - nearest) < 0.5]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the longest, in milliseconds.

    Examples
    --------
    >>> percentiles([0.001] * 99 + [0.5])["p50"]
    1.0
    """
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100)
    named = {"p50": cuts[49], "p99": cuts[98], "longest": max(seconds)}
    return {name: round(1000 * value, 2) for name, value in named.items()}


def summary(report: Mapping[str, Any]) -> str:
    """The figures in a few lines."""
    lines = [
        f"answered {report['answered']}, wrong {report['wrong']['count']}, cut by kills "
        f"{report['cut_by_kills']} (midway {report['cut_by_kills_midway']}), closed by reloads "
        f"{report['closed_by_reloads_unanswered']}",
        "events: " + ", ".join(f"{n} {name}" for name, n in report["events"].items()),
        f"ms: {report['milliseconds']}",
        f"memory: {report['memory']}",
        f"counted by the service: {report['metrics'].get('api_requests_total')}",
        *(f"WRONG {number} times: {what}" for what, number in report["wrong"]["what"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
