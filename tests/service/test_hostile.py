"""A real service under clients that mean it no good: each gets a clean refusal or loses its
connection, and the next patient is answered as if nothing had been."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import brotli
import httpx2
import psutil
import pytest
from service_kit import PATIENT, Served

from heartdx import bundle
from heartdx.bundle import CURRENT
from heartdx.records import decode_record, table

SECONDS = 1
"""What this service gives a head, and a body."""
LATE = 1.5 * SECONDS + 0.5
"""When the connection of a slow client must be over, the looks of the sweeps included."""
MOST_IN_FLIGHT = 16
MOST_GROWTH = 16_000_000
MOST_BODY = 100_000

POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
PATIENT_JSON = json.dumps(PATIENT).encode()


@dataclass(frozen=True)
class Service:
    """The running service and what it should answer."""

    served: Served
    admin: str
    probability: float

    @property
    def port(self) -> int:
        return self.served.port

    def status(self) -> dict:
        return httpx2.get(self.admin + "/admin/status").json()

    def is_well(self) -> None:
        answer = httpx2.post(self.served.url + "/predict", json=PATIENT)
        assert answer.status_code == 200
        assert answer.json()["probability"] == pytest.approx(self.probability, abs=1e-9)


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        admin_port = probe.getsockname()[1]
    served = Served(
        {
            "HEARTDX_MODELS_DIR": str(models_dir),
            "HEARTDX_MAX_BODY_BYTES": str(MOST_BODY),
            "HEARTDX_MAX_IN_FLIGHT": str(MOST_IN_FLIGHT),
            "HEARTDX_REQUEST_SECONDS": str(SECONDS),
            "HEARTDX_ADMIN_PORT": str(admin_port),
        }
    )
    served.wait_until_alive()
    model = bundle.load(models_dir / bundle.BUNDLES / (models_dir / CURRENT).read_text().strip())
    scored = model.score(table([decode_record(PATIENT)]))
    running = Service(served, f"http://127.0.0.1:{admin_port}", float(scored.probability[0]))
    printed: list[str] = []
    reader = threading.Thread(target=lambda: printed.extend(served.process.stdout or ()))
    reader.start()  # a full pipe would stop the service
    running.is_well()
    yield running
    served.process.terminate()
    reader.join()
    if served.process.stdout:
        served.process.stdout.close()
    assert served.process.wait() == -signal.SIGTERM
    assert not [line for line in printed if "Traceback" in line or "request_failed" in line]


# -- talking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What came back until the service closed the connection."""

    statuses: list[int]
    text: bytes
    seconds: float


def talk(port: int, parts: Iterable[bytes], *, pause: float = 0.0) -> Heard:
    """Send parts, then read until the other side closes; a reset is a close, too."""
    began = time.monotonic()
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                if pause:
                    connection.settimeout(pause)
                    heard += _heard_in_time(connection)
                    connection.settimeout(10)
        except OSError:
            pass
        try:
            while received := connection.recv(65_536):
                heard += received
        except ConnectionError:
            pass
    statuses = [int(piece[:3]) for piece in heard.split(b"HTTP/1.1 ")[1:]]
    return Heard(statuses, heard, time.monotonic() - began)


def _heard_in_time(connection: socket.socket) -> bytes:
    try:
        received = connection.recv(65_536)
    except TimeoutError:
        return b""
    if not received:
        raise ConnectionResetError
    return received


def posted(body: bytes, headers: bytes = b"", media: bytes = b"application/json") -> list[bytes]:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: " + media
    return [head + b"\r\nContent-Length: %d\r\n" % len(body) + headers + b"\r\n" + body]


def got(path: bytes) -> list[bytes]:
    return [b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]


def zstd_bomb() -> bytes:
    """A frame of 1 GB of zeros in blocks of one repeated byte (RFC 8878, 3.1.1.2)."""
    size = 131_072
    block = ((size << 3) | (1 << 1)).to_bytes(3, "little") + b"\0"
    last = ((size << 3) | (1 << 1) | 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x58" + block * 8191 + last


# -- bodies --------------------------------------------------------------------------------------

BODIES: dict[str, tuple[list[bytes], int, str]] = {
    "NaN": (posted(b'{"age":NaN,"sex":1,"cp":4}'), 400, "malformed-json"),
    "Infinity": (posted(b'{"age":Infinity,"sex":1,"cp":4}'), 400, "malformed-json"),
    "minus Infinity": (posted(b'{"age":-Infinity,"sex":1,"cp":4}'), 400, "malformed-json"),
    "a number beyond floats": (posted(b'{"age":1e999,"sex":1,"cp":4}'), 422, "invalid-input"),
    "100,000 digits": (posted(b'{"age":' + b"9" * 90_000 + b"}"), 400, "malformed-json"),
    "a name twice": (posted(b'{"age":61,"age":62,"sex":1,"cp":4}'), 400, "malformed-json"),
    "a name twice, once escaped": (
        posted(b'{"age":61,"\\u0061ge":62,"sex":1,"cp":4}'), 400, "malformed-json",
    ),
    "arrays nested 90,000 deep": (posted(b"[" * 90_000), 400, "malformed-json"),
    "objects nested 16,000 deep": (posted(b'{"a":' * 16_000), 400, "malformed-json"),
    "UTF-16": (posted(PATIENT_JSON.decode().encode("utf-16")), 400, "malformed-json"),
    "UTF-32": (posted(PATIENT_JSON.decode().encode("utf-32")), 400, "malformed-json"),
    "latin-1": (posted('{"é":1}'.encode("latin-1")), 400, "malformed-json"),
    "a byte order mark": (posted(b"\xef\xbb\xbf" + PATIENT_JSON), 400, "malformed-json"),
    "overlong UTF-8": (posted(b'{"\xc0\x80":1}'), 400, "malformed-json"),
    "UTF-16, said so": (
        posted(PATIENT_JSON, media=b"application/json; charset=utf-16"),
        415, "unsupported-media-type",
    ),
    "null bytes": (posted(b"\0" * 100), 400, "malformed-json"),
    "a null byte in a name": (posted(b'{"age\\u0000":61}'), 422, "invalid-input"),
    "half a surrogate": (posted(b'{"\\ud800":61}'), 422, "invalid-input"),
    "nothing": (posted(b""), 400, "malformed-json"),
    "a gzip bomb": (
        posted(gzip.compress(b" " * 50_000_000), b"Content-Encoding: gzip\r\n"),
        415, "unsupported-media-type",
    ),
    "a brotli bomb": (
        posted(brotli.compress(b" " * 50_000_000, quality=5), b"Content-Encoding: br\r\n"),
        415, "unsupported-media-type",
    ),
    "a zstd bomb": (
        posted(zstd_bomb(), b"Content-Encoding: zstd\r\n"), 415, "unsupported-media-type",
    ),
    "too much, declared": (posted(b" " * (MOST_BODY + 1)), 413, "body-too-large"),
    "too much, declared only": (
        [POST + b"Connection: close\r\nContent-Length: 999999999999\r\n\r\n"],
        413, "body-too-large",
    ),
    "too much, in chunks": (
        [POST + b"Connection: close\r\n" + CHUNKED, *[b"8000\r\n" + b" " * 32_768 + b"\r\n"] * 4],
        413, "body-too-large",
    ),
    "less than was declared": (
        [POST + b"Content-Length: 500\r\n\r\n" + PATIENT_JSON], 408, "request-timeout",
    ),
    "a chunk that never ends its extension": (
        [POST + CHUNKED + b"1;", *[b"a" * 60_000] * 20], 408, "request-timeout",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_gets_one_clean_refusal(service, name):
    parts, status, kind = BODIES[name]

    heard = talk(service.port, parts)

    assert heard.statuses == [status]
    assert f"urn:heartdx:problem:{kind}".encode() in heard.text
    service.is_well()


# -- requests ------------------------------------------------------------------------------------

REQUESTS: dict[str, tuple[list[bytes], list[int]]] = {
    "a length and chunks (smuggling)": (
        [POST + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\nGET /livez HTTP/1.1\r\n\r\n"],
        [400],
    ),
    "chunks and a length (smuggling)": (
        [POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"], [400],
    ),
    "two lengths": ([POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456"], [400]),
    "a negative length": ([POST + b"Content-Length: -5\r\n\r\n"], [400]),
    "a length with a sign": ([POST + b"Content-Length: +5\r\n\r\n12345"], [400]),
    "a length beyond 64 bits": ([POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n"], [400]),
    "a disguised encoding": ([POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"], [400]),
    "an encoding after chunked": (
        [POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"], [400],
    ),
    "a blank before the colon": ([POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"], [400]),
    "a chunk beyond 64 bits": ([POST + CHUNKED + b"F" * 19 + b"\r\n"], [400]),
    "a chunk of no number": ([POST + CHUNKED + b"zz\r\n"], [400]),
    "a header folded over lines": ([GET + b"X: a\r\n b\r\n\r\n"], [400]),
    "a bare carriage return": ([GET + b"X: a\rb\r\n\r\n"], [400]),
    "bare line feeds": ([b"GET /livez HTTP/1.1\nHost: x\n\n"], [400]),
    "a null byte in the path": ([b"GET /li\0vez HTTP/1.1\r\nHost: x\r\n\r\n"], [400]),
    "a null byte in a header": ([GET + b"X: a\0b\r\n\r\n"], [400]),
    "a path of no ASCII": (got(b"/\xff\xfe"), [400]),
    "an unknown method": ([b"FOO /predict HTTP/1.1\r\nHost: x\r\n\r\n"], [400]),
    "a method in lower case": ([b"get /livez HTTP/1.1\r\nHost: x\r\n\r\n"], [400]),
    "CONNECT": ([b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"], [400]),
    "TRACE": ([b"TRACE /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], [405]),
    "DELETE": ([b"DELETE /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], [405]),
    "an unknown version": ([b"GET /livez HTTP/3.0\r\nHost: x\r\n\r\n"], [400]),
    "HTTP/2 without asking": ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], [400]),
    "TLS where none is": ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], [400]),
    "a header of 10 MB": ([GET + b"X: ", *[b"a" * 65_536] * 160], [431]),
    "a path of 10 MB": ([b"GET /", *[b"a" * 65_536] * 160], [431]),
    "10,000 headers": (
        posted(PATIENT_JSON, b"".join(b"X-%d: a\r\n" % number for number in range(10_000))),
        [431],
    ),
    "101 headers": ([GET + b"Connection: close\r\n" + b"X: a\r\n" * 101 + b"\r\n"], [431]),
    "a path out of the documents": (got(b"/docs/assets/../../../../etc/passwd"), [404]),
    "the same, encoded": (got(b"/docs/assets/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd"), [404]),
    "the same, encoded twice": (got(b"/docs/assets/%252e%252e%252fetc%252fpasswd"), [404]),
    "the same with backslashes": (got(b"/docs/assets/..%5c..%5cetc%5cpasswd"), [404]),
    "an absolute path": (got(b"/docs/assets//etc/passwd"), [404]),
    "a name cut by a null byte": (got(b"/docs/assets/swagger-ui.css%00.png"), [404]),
    "a name that is no UTF-8": (got(b"/docs/assets/%ff%fe"), [404]),
    "more than was declared": (
        [POST + b"Content-Length: 2\r\n\r\n{}" + b"}" * 50], [400],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_a_hostile_request_gets_a_clean_refusal_and_no_second_life(service, name):
    parts, statuses = REQUESTS[name]

    heard = talk(service.port, parts)

    assert heard.statuses == statuses
    assert b"root:" not in heard.text
    service.is_well()


def test_pipelined_requests_are_answered_each_and_in_their_order(service):
    young = json.dumps({**PATIENT, "age": 30}).encode()
    predicted = [
        POST + b"X-Request-ID: %d\r\nContent-Length: %d\r\n\r\n" % (number, len(body)) + body
        for number, body in enumerate([PATIENT_JSON, young, b"{}", PATIENT_JSON])
    ]

    heard = talk(service.port, [b"".join([*predicted, *got(b"/livez")])])

    assert heard.statuses == [200, 200, 422, 200, 200]
    answers = heard.text.split(b"HTTP/1.1 ")[1:]
    assert [f"x-request-id: {n}".encode() in answers[n] for n in range(4)] == [True] * 4
    documents = [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in answers]
    first, second, _, fourth, _ = documents
    assert first["probability"] == fourth["probability"]
    assert first["probability"] == pytest.approx(service.probability, abs=1e-9)
    assert second["probability"] != first["probability"]


def test_long_heads_that_come_in_parts_do_not_add_up_over_a_connection(service):
    half = [GET + b"X: ", b"a" * 30_000]
    rest = [b"a" * 10_000 + b"\r\n\r\n"]

    heard = talk(service.port, [*half, *rest] * 4 + got(b"/livez"), pause=0.05)

    assert heard.statuses == [200] * 5


# -- clients that take their time ----------------------------------------------------------------


def dribbled(first: bytes, then: bytes) -> list[bytes]:
    return [first, *[then] * 200]


SLOW: dict[str, tuple[list[bytes], list[int]]] = {
    "says nothing": (dribbled(b"", b""), []),
    "dribbles its head": (dribbled(b"POST /predict HTTP/1.1\r\n", b"X: a\r\n"), []),
    "dribbles its second head": (dribbled(GET + b"\r\nGET /l", b"i"), [200]),
    "sends a head and nothing more": (
        dribbled(POST + b"Content-Length: 500\r\n\r\n", b""), [408],
    ),
    "dribbles its body": (dribbled(POST + b"Content-Length: 500\r\n\r\n", b" "), [408]),
    "dribbles its chunks": (dribbled(POST + CHUNKED, b"1\r\n \r\n"), [408]),
    "dribbles a body nobody asked for": (
        dribbled(GET + b"Content-Length: 500\r\n\r\n", b" "), [200],
    ),
    "dribbles the body of a refused request": (
        dribbled(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n", b" "), [404],
    ),
}  # fmt: skip


def test_a_client_that_takes_too_long_loses_its_connection_whatever_it_dribbles(service):
    heard = at_once({name: _slow(service.port, name) for name in SLOW})

    assert {name: found.statuses for name, found in heard.items()} == {
        name: statuses for name, (_, statuses) in SLOW.items()
    }
    late = {name: found.seconds for name, found in heard.items() if found.seconds > LATE}
    assert late == {}
    service.is_well()


def _slow(port: int, name: str) -> Callable[[], Heard]:
    return lambda: talk(port, SLOW[name][0], pause=0.1)


def at_once(asked: dict[str, Callable[[], Heard]]) -> dict[str, Heard]:
    """What each call gives, all of them running together."""
    heard: dict[str, Heard] = {}

    def ask(name: str) -> None:
        heard[name] = asked[name]()

    threads = [threading.Thread(target=ask, args=(name,)) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return heard


def test_hundreds_of_bodies_that_never_end_keep_out_no_patient(service):
    held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(300)]
    try:
        for connection in held:
            connection.sendall(POST + b"Content-Length: 500\r\n\r\n{")
        for _ in range(20):
            service.is_well()
        assert service.status()["waiting_for_clients"] <= MOST_IN_FLIGHT
    finally:
        for connection in held:
            connection.close()


def test_clients_that_leave_in_the_middle_leave_nothing_behind(service):
    for start in (b"", b"POST /pre", POST, POST + b"Content-Length: 500\r\n\r\n{", POST + CHUNKED):
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                connection.sendall(start)

    service.is_well()
    end = time.monotonic() + 5
    while (status := service.status())["waiting_for_clients"] and time.monotonic() < end:
        time.sleep(0.05)
    assert (status["in_flight"], status["waiting_for_clients"]) == (0, 0)


def test_the_worst_of_it_again_and_again_takes_no_memory(service):
    process = psutil.Process(service.served.process.pid)
    quick = [parts for parts, status, _ in BODIES.values() if status != 408]
    quick += [parts for parts, _ in REQUESTS.values()]
    quick.append([GET + b"Connection: close\r\n\r\n"])
    for parts in quick:
        talk(service.port, parts)
    before = process.memory_info().rss

    for _ in range(3):
        for parts in quick:
            talk(service.port, parts)

    assert process.memory_info().rss - before < MOST_GROWTH
    service.is_well()
