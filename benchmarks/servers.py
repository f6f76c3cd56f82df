"""Servers under measurement: started on a free port, asked until they answer, ended by id."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from benchmarks.load import HOST, PATIENCE, Request, generate

ROOT = Path(__file__).resolve().parent.parent
NOOP = "benchmarks.noop:app"
OURS = "src.api:app"
PORT = "{port}"
"""Stands for the free port in a command or an environment value; each further one: {port2}."""
START = 120.0
"""Seconds a server may take until its first good answer."""
_STEP = 0.01
_END = 10.0


@dataclass(frozen=True)
class Server:
    """How a server is started.

    Parameters
    ----------
    name : for people.
    command : words, ``{port}`` and ``{port2}``, ``{port3}`` replaced by free ports.
    environment : added to this process's, replaced likewise.
    folder : where it runs.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = ROOT


@dataclass(frozen=True)
class Memory:
    """Of a server's processes together, in MB of 10**6 bytes.

    Parameters
    ----------
    rss : resident; pages shared between processes count in each.
    pss : resident; a page shared by n processes counts 1/n in each.
    """

    rss: float
    pss: float


@dataclass(frozen=True)
class Running:
    """A server that has given its first good answer.

    Parameters
    ----------
    port : where it listens.
    pid : of its first process.
    start_seconds : from the start of the process to the first good answer.
    first_answer : the body of that answer.
    """

    port: int
    pid: int
    start_seconds: float
    first_answer: bytes

    def cpu_seconds(self) -> float:
        """User and system time so far, of all its processes."""
        used = 0.0
        for process in _tree(self.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def memory(self) -> Memory:
        """What all its processes hold now."""
        rss = pss = 0
        for process in _tree(self.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                held = process.memory_full_info()
                rss, pss = rss + held.rss, pss + held.pss
        return Memory(rss / 1e6, pss / 1e6)


def uvicorn(app: str, *, name: str, environment: Mapping[str, str] | None = None) -> Server:
    """An ASGI application on one uvicorn worker: uvloop, httptools, no access log."""
    command = (sys.executable, "-m", "uvicorn", app, "--host", HOST, "--port", PORT)
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log")
    quiet = ("--log-level", "warning")
    return Server(name, (*command, *options, *quiet), environment or {})


@contextlib.contextmanager
def running(server: Server, request: Request, *, patience: float = START) -> Iterator[Running]:
    """The server, once it answers this request with 200; all its processes end afterwards.

    Its output goes to a file, as a pipe nobody reads would stop it.

    Raises
    ------
    RuntimeError
        It ended, or did not answer in time; the last line it wrote is told.
    """
    with tempfile.TemporaryFile() as output:
        ports = free_ports(3)
        begun = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - commands of this folder, no shell
            [_filled(word, ports) for word in server.command],
            cwd=server.folder,
            env=os.environ | {k: _filled(v, ports) for k, v in server.environment.items()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            answer = _first_answer(process, ports[0], request, begun + patience)
            if answer is None:
                raise RuntimeError(f"{server.name}: no answer; its last words: {_last(output)}")
            yield Running(ports[0], process.pid, time.perf_counter() - begun, answer)
        finally:
            _end(process)


def status_of(port: int, request: Request) -> int:
    """The status of the answer to one request; 0 when the connection broke.

    Asked with the load generator: a long body must be sent while its answer is read.
    """
    seen = generate(port, request, connections=1, requests=1, seconds=PATIENCE)
    return http.HTTPStatus.OK if seen.requests else seen.refusal


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nothing listens on now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def _filled(word: str, ports: Sequence[int]) -> str:
    for place, port in enumerate(ports, start=1):
        word = word.replace("{port}" if place == 1 else f"{{port{place}}}", str(port))
    return word


def _first_answer(
    process: subprocess.Popen[bytes], port: int, request: Request, until: float
) -> bytes | None:
    while process.poll() is None and time.perf_counter() < until:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, body = _ask(port, request)
            if status == http.HTTPStatus.OK:
                return body
        time.sleep(_STEP)
    return None


def _ask(port: int, request: Request) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        headers = {"Content-Type": request.content_type}
        connection.request("POST", request.path, request.body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and the processes it started, by their ids."""
    tree = _tree(process.pid)
    for one in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()
    _, alive = psutil.wait_procs(tree, timeout=_END)
    for one in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def _last(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300].replace(str(ROOT), ".") if lines else "none"
