"""The measurements of one run, side by side: the limit, the service and its peers."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from benchmarks import instructions, score
from benchmarks.load import PATIENCE, Request, load
from benchmarks.peers import Patients, Peer
from benchmarks.servers import NOOP, OURS, ROOT, Memory, Running, running, status_of, uvicorn

NO_OP_LABEL = "no-op ASGI application (the limit)"
PATIENT: Mapping[str, float] = {
    "age": 63, "sex": 1, "cp": 1, "trestbps": 145, "chol": 233, "fbs": 1, "restecg": 2,
    "thalach": 150, "exang": 0, "oldpeak": 2.3, "slope": 3, "ca": 0, "thal": 6,
}  # fmt: skip
"""The first patient of the UCI file, in its codes."""
PATHS = ("/predict", "/v1/predict", "/v1/predict?detail=full")
BATCH_PATH = "/v1/predict/batch"
BATCH_ROWS = 1_000
CONNECTIONS = (1, 16)
GROWTH_CONNECTIONS = (1, 4, 16, 64)
GROWTH_ROWS = (1_000, 10_000, 100_000)
FILE_ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
ENDLESS = 1_000_000
"""More requests than any measurement's seconds allow."""
LIFTED = {
    "HEARTDX_MAX_BODY_BYTES": str(10**9),
    "HEARTDX_MAX_RECORDS": str(10**6),
}
"""Settings of the start that is asked bodies beyond the default limits."""


_IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Effort:
    """How long a run may measure.

    Parameters
    ----------
    seconds : of one measurement under load.
    rounds : in which the limit and the service take turns; the median counts.
    starts : of which the fastest counts.
    growth_rows : sizes of a body in the growth curve.
    file_rows : sizes of a file for ``heartdx score`` in the same curve.
    """

    seconds: float
    rounds: int
    starts: int
    growth_rows: tuple[int, ...]
    file_rows: tuple[int, ...] = ()


FULL = Effort(seconds=2.0, rounds=3, starts=3, growth_rows=GROWTH_ROWS, file_rows=FILE_ROWS)
QUICK = Effort(seconds=0.7, rounds=2, starts=1, growth_rows=GROWTH_ROWS[:2])


@dataclass(frozen=True)
class Cost:
    """What a request costs under load.

    Parameters
    ----------
    cpu_us : user and system time of the server's processes per good answer, microseconds.
    per_second : good answers per second.
    p50_ms, p99_ms : latency, milliseconds.
    errors : answers that were not 200.
    """

    cpu_us: float
    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True)
class Served:
    """One row of the load table.

    Parameters
    ----------
    label : what answered.
    costs : number of connections to cost.
    note : why there is none.
    beside : a peer's: what the service cost a moment later, under the most connections.
    """

    label: str
    costs: Mapping[int, Cost] = field(default_factory=dict)
    note: str = ""
    beside: Cost | None = None


@dataclass(frozen=True)
class Counted:
    """Instructions of one request; nan with a note when there is no such door."""

    label: str
    instructions: float
    note: str = ""


@dataclass(frozen=True)
class Batch:
    """CPU per row of a body of many rows, microseconds; nan with a note when not answered."""

    label: str
    cpu_us_per_row: float
    note: str = ""


@dataclass(frozen=True)
class Start:
    """Seconds from the start to the first good answer, and memory after it was asked."""

    label: str
    seconds: float
    memory: Memory


@dataclass(frozen=True)
class Results:
    """Everything one run measured.

    Parameters
    ----------
    instructions : the limit first, then the service's doors.
    served : the limit first, then the service's doors, then peers.
    batches : bodies of ``BATCH_ROWS`` rows.
    starts : the limit first, then the service, then peers.
    growth_requests : label to connections to CPU per request, microseconds.
    growth_rows : body format, or ``heartdx score``, to rows to CPU per row, microseconds.
    imports : packages that cost most of the service's start, with their own milliseconds.
    """

    instructions: Sequence[Counted]
    served: Sequence[Served]
    batches: Sequence[Batch]
    starts: Sequence[Start]
    growth_requests: Mapping[str, Mapping[int, float]]
    growth_rows: Mapping[str, Mapping[int, float]]
    imports: Sequence[tuple[str, float]] = ()


def measure(
    paths: Sequence[str], peers: Sequence[Peer], *, pipeline: Path, effort: Effort
) -> Results:
    """Measure everything.

    Parameters
    ----------
    paths : doors of the service for one patient, the query included.
    peers : to measure beside it.
    pipeline : the bundle's scikit-learn pipeline, which the peers serve.
    effort : how long.
    """
    requests = {path: Request(path, json.dumps(PATIENT).encode()) for path in paths}
    patients = complete_patients(BATCH_ROWS)
    _tell("the limit and the service take turns")
    with ExitStack() as servers:
        limit = servers.enter_context(_started(NOOP, requests[paths[0]]))
        ours = servers.enter_context(_started(OURS, requests[paths[0]]))
        closed = _closed(ours, requests)
        open_ = {path: one for path, one in requests.items() if path not in closed}
        served = _in_turns(limit, ours, open_, effort)
        growth = _growth_of_requests(limit, ours, requests[paths[0]], effort)
        batches = _batches(limit, ours, patients, effort)
    served += [Served(f"heartdx `{path}`", note=note) for path, note in closed.items()]
    _tell("instructions, under valgrind")
    counts = _instructions(open_, closed)
    _tell("starts")
    starts = [_start(app, requests[paths[0]], effort) for app in (NOOP, OURS)]
    _tell("growth with the rows of a body and of a file")
    rows = _growth_of_rows(requests[paths[0]], effort)
    rows |= score.growth(effort.file_rows, formats=score.FORMATS, models=ROOT / "models")
    for peer in peers:
        _tell(peer.name)
        row, batch, start = _peer(peer, requests[paths[0]], pipeline, patients, effort)
        served.append(row)
        batches += batch
        starts += start
    return Results(counts, served, batches, starts, growth, rows, slowest_imports())


def complete_patients(count: int) -> list[dict[str, float]]:
    """So many patients with all 13 values, the file's over and over."""
    with (ROOT / "data" / "raw" / "heart.csv").open(newline="") as file:
        rows = [
            {name: float(row[name]) for name in PATIENT}
            for row in csv.DictReader(file)
            if all(row[name] not in ("", "?") for name in PATIENT)
        ]
    return list(islice(cycle(_without_implausible(rows)), count))


def _without_implausible(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Cleveland's kind of row: a 0 for cholesterol or pressure means it was not measured."""
    return [row for row in rows if row["chol"] > 0 and row["trestbps"] > 0]


def ratio(part: float, whole: float) -> float:
    """The first in units of the second; nan when either is unknown or the second is 0.

    Examples
    --------
    >>> ratio(3.0, 4.0)
    0.75
    >>> ratio(3.0, 0.0)
    nan
    """
    return part / whole if whole else math.nan


# -- one request -----------------------------------------------------------------------------


def _started(app: str, request: Request) -> AbstractContextManager[Running]:
    return running(uvicorn(app, name=_label(app)), request)


def _label(app: str) -> str:
    return NO_OP_LABEL if app == NOOP else "heartdx"


def _closed(ours: Running, requests: Mapping[str, Request]) -> dict[str, str]:
    """Doors that do not answer 200, with the status."""
    statuses = {path: status_of(ours.port, request) for path, request in requests.items()}
    return {path: f"answered {status}" for path, status in statuses.items() if status != 200}


def cost(server: Running, request: Request, *, connections: int, seconds: float) -> Cost:
    """What a request costs this server under this many connections, after a short warm-up."""
    load(server.port, request, connections=connections, requests=ENDLESS, seconds=seconds / 5)
    before = server.cpu_seconds()
    seen = load(server.port, request, connections=connections, requests=ENDLESS, seconds=seconds)
    used = server.cpu_seconds() - before
    cpu_us = ratio(1e6 * used, seen.requests)
    return Cost(cpu_us, seen.per_second, seen.p50_ms, seen.p99_ms, seen.errors)


def _in_turns(
    limit: Running, ours: Running, requests: Mapping[str, Request], effort: Effort
) -> list[Served]:
    first = next(iter(requests.values()))
    asked = [(NO_OP_LABEL, limit, first)]
    asked += [(f"heartdx `{path}`", ours, request) for path, request in requests.items()]
    rounds: dict[str, dict[int, list[Cost]]] = {
        label: {connections: [] for connections in CONNECTIONS} for label, _, _ in asked
    }
    for _ in range(effort.rounds):
        for connections in CONNECTIONS:
            for label, server, request in asked:
                seen = cost(server, request, connections=connections, seconds=effort.seconds)
                rounds[label][connections].append(seen)
    return [
        Served(label, {connections: median_cost(seen) for connections, seen in by.items()})
        for label, by in rounds.items()
    ]


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Each figure's median over the rounds; errors add up."""

    def median(figure: Callable[[Cost], float]) -> float:
        return statistics.median(figure(one) for one in costs)

    return Cost(
        median(lambda one: one.cpu_us),
        median(lambda one: one.per_second),
        median(lambda one: one.p50_ms),
        median(lambda one: one.p99_ms),
        sum(one.errors for one in costs),
    )


def _instructions(requests: Mapping[str, Request], closed: Mapping[str, str]) -> list[Counted]:
    limit, each = instructions.beside_the_limit(tuple(requests.values()))
    ours = [
        Counted(f"heartdx `{path}`", number) for path, number in zip(requests, each, strict=True)
    ]
    missing = [Counted(f"heartdx `{path}`", math.nan, note) for path, note in closed.items()]
    return [Counted(NO_OP_LABEL, limit), *ours, *missing]


def _start(app: str, request: Request, effort: Effort) -> Start:
    seconds, held = [], []
    for _ in range(effort.starts):
        with _started(app, request) as server:
            load(server.port, request, connections=4, requests=500, seconds=effort.seconds)
            seconds.append(server.start_seconds)
            held.append(server.memory())
    return Start(_label(app), min(seconds), max(held, key=lambda memory: memory.rss))


def slowest_imports(count: int = 6) -> list[tuple[str, float]]:
    """The packages whose import costs the service most: where to look when the start is slow."""
    command = [sys.executable, "-X", "importtime", "-c", "import src.api"]
    finished = subprocess.run(  # noqa: S603 - our interpreter, no shell
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return import_times(finished.stderr)[:count]


def import_times(text: str) -> list[tuple[str, float]]:
    r"""Package to the milliseconds of its own modules, the slowest first.

    Parameters
    ----------
    text : what ``python -X importtime`` writes: own and cumulative microseconds, module.

    Examples
    --------
    >>> import_times("import time: 1500 | 9000 | a\nimport time: 500 | 500 |   a.b")
    [('a', 2.0)]
    """
    spent: dict[str, float] = {}
    for own, module in _IMPORT.findall(text):
        package = module.split(".")[0]
        spent[package] = spent.get(package, 0.0) + int(own) / 1000
    return sorted(spent.items(), key=lambda item: -item[1])


# -- many rows -------------------------------------------------------------------------------


def as_json(patients: Patients) -> bytes:
    """``{"records": [...]}``."""
    return json.dumps({"records": patients}).encode()


def as_ndjson(patients: Patients) -> bytes:
    """One object a line."""
    return b"".join(json.dumps(patient).encode() + b"\n" for patient in patients)


def as_csv(patients: Patients) -> bytes:
    """A line of names, then one line a patient."""
    lines = [",".join(patients[0]), *(",".join(map(str, p.values())) for p in patients)]
    return "\n".join(lines).encode() + b"\n"


def as_arrow(patients: Patients) -> bytes:
    """An Arrow IPC stream."""
    import io

    import polars as pl

    stream = io.BytesIO()
    pl.DataFrame(list(patients)).write_ipc_stream(stream)
    return stream.getvalue()


FORMATS: Mapping[str, tuple[str, str, Callable[[Patients], bytes]]] = {
    "JSON": (BATCH_PATH, "application/json", as_json),
    "NDJSON": (BATCH_PATH, "application/x-ndjson", as_ndjson),
    "CSV": (BATCH_PATH, "text/csv", as_csv),
    "Arrow IPC": (BATCH_PATH, "application/vnd.apache.arrow.stream", as_arrow),
    "JSON to `/predict`": ("/predict", "application/json", as_json),
}
"""Name to door, content type and how patients become a body of it."""


def batch_requests(patients: Patients) -> Iterator[tuple[str, Request]]:
    """The body of these patients in every format."""
    for name, (path, media, encode) in FORMATS.items():
        yield name, Request(path, encode(patients), media)


def _batches(limit: Running, ours: Running, patients: Patients, effort: Effort) -> list[Batch]:
    first = next(iter(batch_requests(patients)))[1]
    found = [_batch(f"{NO_OP_LABEL}, the same JSON body", limit, first, len(patients), effort)]
    for name, request in batch_requests(patients):
        found.append(_batch(f"heartdx, {name}", ours, request, len(patients), effort))
    return found


def _batch(label: str, server: Running, request: Request, rows: int, effort: Effort) -> Batch:
    try:
        status = status_of(server.port, request)
        if status != 200:
            return Batch(label, math.nan, f"answered {status}")
        seen = cost(server, request, connections=1, seconds=effort.seconds)
    except (RuntimeError, TimeoutError) as failure:
        return Batch(label, math.nan, str(failure))
    return Batch(label, seen.cpu_us / rows, f"{seen.errors} errors" if seen.errors else "")


# -- growth ----------------------------------------------------------------------------------


def _growth_of_requests(
    limit: Running, ours: Running, request: Request, effort: Effort
) -> dict[str, dict[int, float]]:
    return {
        label: {
            connections: cost(
                server, request, connections=connections, seconds=effort.seconds
            ).cpu_us
            for connections in GROWTH_CONNECTIONS
        }
        for label, server in (("no-op", limit), (f"heartdx {request.path}", ours))
    }


def _growth_of_rows(request: Request, effort: Effort) -> dict[str, dict[int, float]]:
    """CPU per row by format and rows; the formats that answer 200 at the smallest size."""
    found: dict[str, dict[int, float]] = {}
    with running(uvicorn(OURS, name="heartdx", environment=LIFTED), request) as ours:
        for rows in effort.growth_rows:
            patients = complete_patients(rows)
            for name, asked in batch_requests(patients):
                seen = _batch(name, ours, asked, rows, effort)
                if not math.isnan(seen.cpu_us_per_row):
                    found.setdefault(name, {})[rows] = seen.cpu_us_per_row
    return found


# -- peers -----------------------------------------------------------------------------------


def _peer(
    peer: Peer, ours: Request, pipeline: Path, patients: Patients, effort: Effort
) -> tuple[Served, list[Batch], list[Start]]:
    """A peer's rows; one that cannot be installed or started has a note instead of numbers."""
    request, seconds = peer.single(PATIENT), effort.seconds
    try:
        with running(peer.server(pipeline), request) as server:
            costs = {
                connections: cost(server, request, connections=connections, seconds=seconds)
                for connections in CONNECTIONS
            }
            start = Start(peer.label, server.start_seconds, server.memory())
            with _started(OURS, ours) as service:
                beside = cost(service, ours, connections=CONNECTIONS[-1], seconds=seconds)
            batches = []
            if peer.batch is not None:
                many = peer.batch(patients)
                batches = [_batch(peer.label, server, many, len(patients), effort)]
    except (RuntimeError, OSError) as failure:
        return Served(peer.label, note=str(failure)), [], []
    note = "" if agrees(server.first_answer, pipeline) else "another probability than the bundle's"
    return Served(peer.label, costs, note, beside), batches, [start]


def agrees(answer: bytes, pipeline: Path) -> bool:
    """Whether an answer holds the pipeline's probability for ``PATIENT`` to 8 digits."""
    import joblib
    import numpy as np

    model = joblib.load(pipeline)
    expected = model.predict_proba(np.array([list(PATIENT.values())], dtype=float))[0, 1]
    return f"{expected:.9f}"[:-1].encode() in answer


def _tell(step: str) -> None:
    print(f"bench: {step}", file=sys.stderr, flush=True)
