"""Instructions a request costs, counted by callgrind: the same on a busy machine as on a quiet one.

The server runs under valgrind on the real loopback, uncounted until it is warm; then a small and
a larger number of requests are sent and the difference is divided by the difference in number,
so what the run itself costs cancels, and what an idle server does by the clock is taken off. The
hash seed is fixed; the garbage collector is as it is.

References
----------
Weidendorfer, Kowarschik, Trinitis (2004). A tool suite for simulation based analysis of memory
access behavior. ICCS 2004, LNCS 3038:440-447 (callgrind).
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.load import Request, generate
from benchmarks.servers import NOOP, OURS, Running, Server, running, uvicorn

COUNTS = (50, 250)
REPEATS = 3
"""Differences of which the median counts: a timer or a full garbage collection falls in one."""
WARM_UP = 50
IDLE_SECONDS = 0.5
"""Timers run by the clock, and valgrind stretches it some thirty times: what they cost while
there are no requests is taken off."""
_START = 300.0
_CONTROL = 60.0
_SUMMARY = re.compile(r"^summary: (\d+)", re.MULTILINE)
_MISSING = (
    "{tool} is not installed; instructions are counted with valgrind: on Debian or Ubuntu "
    "`apt-get install valgrind`, on Fedora `dnf install valgrind`"
)


def beside_the_limit(
    requests: Sequence[Request],
    *,
    counts: tuple[int, int] = COUNTS,
    environment: Mapping[str, str] | None = None,
) -> tuple[float, list[float]]:
    """Instructions of the no-op application and of the service's requests, counted at once.

    The two servers run side by side on two cores, as counts do not suffer from it: what the gate
    divides.

    Parameters
    ----------
    requests : to the service; the first also goes to the no-op application.
    counts : two numbers of requests, the smaller first.
    environment : of the service, added to this process's; which model to serve, for instance.
    """
    with ThreadPoolExecutor(2) as pool:
        limit = pool.submit(instructions_per_request, NOOP, requests[0], counts=counts)
        ours = pool.submit(counted, OURS, requests, counts=counts, environment=environment)
        return limit.result(), ours.result()


def instructions_per_request(
    app: str,
    request: Request,
    *,
    counts: tuple[int, int] = COUNTS,
    environment: Mapping[str, str] | None = None,
) -> float:
    """Instructions one request costs an ASGI application on one uvicorn worker.

    Parameters
    ----------
    app : as uvicorn takes it: ``module:name``.
    request : sent again and again over one keep-alive connection.
    counts : two numbers of requests, the smaller first.
    environment : added to this process's.

    Raises
    ------
    RuntimeError
        Valgrind is missing, the application did not start, or an answer was not 200.
    """
    return counted(app, (request,), counts=counts, environment=environment)[0]


def counted(
    app: str,
    requests: Sequence[Request],
    *,
    counts: tuple[int, int] = COUNTS,
    environment: Mapping[str, str] | None = None,
) -> list[float]:
    """The same for several requests to one start of the server, in the order given."""
    for tool in ("valgrind", "callgrind_control"):
        if shutil.which(tool) is None:
            raise RuntimeError(_MISSING.format(tool=tool))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "callgrind.out"
        fixed = {"PYTHONHASHSEED": "0"} | dict(environment or {})
        server = _under_valgrind(uvicorn(app, name=app, environment=fixed), output)
        with running(server, requests[0], patience=_START) as started:
            _control(started, "--instr=on")
            return [_difference(started, request, counts, output) for request in requests]


def _under_valgrind(server: Server, output: Path) -> Server:
    options = ("--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}")
    return replace(server, command=("valgrind", *options, *server.command))


def _difference(started: Running, request: Request, counts: tuple[int, int], output: Path) -> float:
    """Instructions a request costs, without what the server does by itself as time passes."""
    meter = _Meter(started, output)
    _send(started, request, WARM_UP)
    meter.read()
    idle_per_second = _idle_per_second(meter)
    few, many = counts
    found = []
    for _ in range(REPEATS):
        costs = []
        for count in counts:
            _send(started, request, count)
            cost, seconds = meter.read()
            costs.append(cost - idle_per_second * seconds)
        found.append((costs[1] - costs[0]) / (many - few))
    return statistics.median(found)


def _idle_per_second(meter: _Meter) -> float:
    rates = []
    for _ in range(REPEATS):
        time.sleep(IDLE_SECONDS)
        cost, seconds = meter.read()
        rates.append(cost / seconds)
    return statistics.median(rates)


class _Meter:
    """Instructions and seconds since it was last read."""

    def __init__(self, started: Running, output: Path):
        self.started, self.output = started, output
        self.last = time.perf_counter()

    def read(self) -> tuple[float, float]:
        cost = _cost(self.started, self.output)
        last, self.last = self.last, time.perf_counter()
        return cost, self.last - last


def _send(started: Running, request: Request, count: int) -> None:
    seen = generate(started.port, request, connections=1, requests=count, seconds=_START)
    if seen.errors or seen.requests != count:
        raise RuntimeError(f"{request.path}: {seen.errors} of {count} answers were not 200")


def _cost(started: Running, output: Path) -> int:
    """Instructions since the last call, from a dump that sets the counter to 0."""
    for old in output.parent.glob(f"{output.name}.*"):
        old.unlink()
    _control(started, "--dump")
    dumps = output.parent.glob(f"{output.name}.*")
    costs = [int(cost) for dump in dumps for cost in _SUMMARY.findall(dump.read_text())]
    if not costs:
        raise RuntimeError("callgrind wrote no dump; is the temporary folder full?")
    return sum(costs)


def _control(started: Running, word: str) -> None:
    command = ["callgrind_control", word, str(started.pid)]
    finished = subprocess.run(  # noqa: S603 - valgrind's own tool, no shell
        command, capture_output=True, text=True, timeout=_CONTROL, check=False
    )
    if "OK." not in finished.stdout:
        raise RuntimeError(f"callgrind_control {word} failed: {finished.stdout}{finished.stderr}")
