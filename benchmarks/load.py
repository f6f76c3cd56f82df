"""The load generator: keep-alive connections that each send, wait for the whole answer, repeat.

It runs as a process of its own, so its cost never counts as the server's, and uses epoll and the
standard library alone: about 12 µs a request, an eighth of what the no-op server needs.

    python benchmarks/load.py --port 8000 --path /predict --body body.json --requests 1000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
PATIENCE = 30.0
"""Seconds without any answer after which a run gives up."""
_READ = 1 << 18
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_OK = 200


@dataclass(frozen=True)
class Request:
    """What is sent, again and again.

    Parameters
    ----------
    path : with the query.
    body : bytes as they go over the wire.
    content_type : of the body.
    """

    path: str
    body: bytes
    content_type: str = "application/json"

    def wire(self) -> bytes:
        """The bytes of one HTTP/1.1 request."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {HOST}\r\naccept: */*\r\n"
            f"content-type: {self.content_type}\r\ncontent-length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@dataclass(frozen=True)
class Load:
    """What a run of the generator saw.

    Parameters
    ----------
    requests : answers of status 200.
    errors : other answers and broken connections.
    seconds : from the first byte sent to the last answer.
    p50_ms, p99_ms : latency of the answers of status 200, milliseconds.
    refusal : status of the last other answer; 0 when there was none or the connection broke.
    """

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refusal: int = 0

    @property
    def per_second(self) -> float:
        """Good answers per second."""
        return self.requests / self.seconds if self.seconds else math.nan


def load(port: int, request: Request, *, connections: int, requests: int, seconds: float) -> Load:
    """Run the generator as a process of its own and give what it saw.

    Parameters
    ----------
    port : of a server on the loopback address.
    request : what is sent.
    connections : open at the same time.
    requests, seconds : whichever comes first ends the run.

    Raises
    ------
    RuntimeError
        The server refused the connections or stopped answering.
    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(request.body)
        body.flush()
        command = [sys.executable, "-I", str(Path(__file__).resolve()), "--port", str(port)]
        command += ["--path", request.path, "--content-type", request.content_type]
        command += ["--body", body.name, "--connections", str(connections)]
        command += ["--requests", str(requests), "--seconds", str(seconds)]
        finished = subprocess.run(  # noqa: S603 - this very file, no shell
            command, capture_output=True, text=True, timeout=seconds + 2 * PATIENCE, check=False
        )
    if finished.returncode:
        raise RuntimeError(f"{request.path}: {finished.stderr.strip().splitlines()[-1]}")
    return Load(**json.loads(finished.stdout))


def generate(
    port: int, request: Request, *, connections: int, requests: int, seconds: float
) -> Load:
    """Send from this process; see :func:`load`."""
    wire = request.wire()
    wheel = selectors.DefaultSelector()
    lanes = [_Lane(port) for _ in range(min(connections, requests))]
    latencies: list[float] = []
    errors, sent, waiting, refusal = 0, 0, 0, 0
    begun = time.perf_counter()
    end = begun + seconds
    try:
        for lane in lanes:
            wheel.register(lane.open(), selectors.EVENT_READ, lane)
            lane.begin(wire, wheel)
            sent, waiting = sent + 1, waiting + 1
        while waiting:
            ready = wheel.select(PATIENCE)
            if not ready:
                raise TimeoutError(f"no answer within {PATIENCE:.0f} s")
            for key, events in ready:
                lane = key.data
                if events & selectors.EVENT_WRITE:
                    lane.send_on(wheel)
                outcome = lane.read() if events & selectors.EVENT_READ else None
                if outcome is None:
                    continue
                if outcome:
                    latencies.append(time.perf_counter() - lane.sent_at)
                else:
                    errors += 1
                    refusal = lane.status
                if lane.closed:
                    wheel.unregister(key.fileobj)
                    wheel.register(lane.open(), selectors.EVENT_READ, lane)
                if sent < requests and time.perf_counter() < end:
                    lane.begin(wire, wheel)
                    sent += 1
                else:
                    waiting -= 1
        took = time.perf_counter() - begun
    finally:
        wheel.close()
        for lane in lanes:
            lane.close()
    milliseconds = [1000 * latency for latency in latencies]
    p50, p99 = (percentile(milliseconds, percent) for percent in (50, 99))
    return Load(len(latencies), errors, took, p50, p99, refusal)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least this percentage of the values do not exceed.

    Parameters
    ----------
    values : in any order; none gives nan.
    percent : in (0, 100].

    References
    ----------
    Hyndman, Fan (1996). Sample quantiles in statistical packages. The American Statistician
    50:361-365, definition 1 (the inverse of the empirical distribution function).

    Examples
    --------
    >>> percentile([30, 10, 20, 40], 50)
    20
    """
    if not values:
        return math.nan
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[rank - 1]


@dataclass
class _Lane:
    """One keep-alive connection and the answer that is coming in on it."""

    port: int
    sent_at: float = 0.0
    closed: bool = False
    status: int = 0
    _socket: socket.socket | None = None
    _got: bytearray = field(default_factory=bytearray)
    _wanted: int | None = None
    _rest: memoryview = field(default_factory=lambda: memoryview(b""))
    _writes: bool = False

    def open(self) -> socket.socket:
        self.close()
        self._socket = socket.create_connection((HOST, self.port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self.closed = self._writes = False
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def begin(self, wire: bytes, wheel: selectors.BaseSelector) -> None:
        self._got.clear()
        self._wanted = None
        self._rest = memoryview(wire)
        self.sent_at = time.perf_counter()
        self.send_on(wheel)

    def send_on(self, wheel: selectors.BaseSelector) -> None:
        """Send what the socket takes; a long body waits for room while the answer is read."""
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError, ConnectionError):  # told by the next read
            self._rest = self._rest[self._socket.send(self._rest) :]
        if bool(self._rest) != self._writes:
            self._writes = bool(self._rest)
            write = selectors.EVENT_WRITE if self._writes else 0
            wheel.modify(self._socket, selectors.EVENT_READ | write, self)

    def read(self) -> bool | None:
        """Whether the answer is good, None while it is not whole."""
        assert self._socket is not None
        try:
            some = self._socket.recv(_READ)
        except BlockingIOError:
            return None
        except ConnectionError:
            some = b""
        if not some:
            self.closed, self.status = True, 0
            return False
        self._got += some
        if self._wanted is None and not self._head():
            return None
        return self.status == _OK if self._whole() else None

    def _head(self) -> bool:
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._got[:end])
        self.status = int(head[9:12])
        length = _LENGTH.search(head)
        if length is None and not _CHUNKED.search(head):
            raise ValueError("the answer says neither its length nor that it is chunked")
        self._wanted = end + 4 + int(length[1]) if length else -1
        return True

    def _whole(self) -> bool:
        if self._wanted == -1:
            return self._got.endswith(b"\r\n0\r\n\r\n")
        return len(self._got) >= (self._wanted or 0)


def main() -> None:
    """Read the options, send, print what was seen as JSON."""
    parser = argparse.ArgumentParser(description="Keep-alive HTTP load on the loopback address.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--content-type", default="application/json")
    parser.add_argument("--body", type=Path, required=True, help="file with the body")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    seen = generate(
        options.port,
        Request(options.path, options.body.read_bytes(), options.content_type),
        connections=options.connections,
        requests=options.requests,
        seconds=options.seconds,
    )
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
