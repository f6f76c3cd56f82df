"""Before every request: who asks, how often, whether predictions are stopped, whether there is
room, whether the client is in time; and what a browser is told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import random
import stat
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny_bundle
from service_kit import PATIENT, started
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from heartdx import cli, logs, store
from heartdx.errors import UsageError
from heartdx.serve import app as application
from heartdx.serve import connections, keys, page
from heartdx.serve.browsers import Cors, SecurityHeaders
from heartdx.serve.guard import Guard, GuardMiddleware, late
from heartdx.serve.limits import Buckets, Patience
from heartdx.serve.middleware import Watch
from heartdx.serve.problems import RequestError
from heartdx.serve.telemetry import Telemetry
from heartdx.settings import Settings

PREDICTION_DOORS = [
    "/predict",
    "/v1/predict",
    "/v1/predict/batch",
    "/invocations",
    "/v2/models/heartdx/infer",
    "/v2/models/heartdx/versions/1/infer",
]
HEALTH_DOORS = ["/livez", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready"]
PUBLIC_DOORS = [*HEALTH_DOORS, "/docs", "/docs/assets/swagger-ui.css", "/openapi.json"]
ORIGIN = "https://ward.example"


class Door:
    """A service of one answer behind the guard, at every path."""

    def __init__(self, settings: Settings, *, stopped: Callable[[], str | None] | None = None):
        self.guard = Guard.from_settings(settings, stopped=stopped)
        inside = Starlette(
            routes=[Route("/{path:path}", _echo, methods=["GET", "POST"])],
            exception_handlers={RequestError: application._refused},
        )
        inside.state.telemetry = Telemetry(None)
        inner = GuardMiddleware(inside, guard=self.guard)
        guarded = Cors(inner, origins=self.guard.origins)
        watched = Watch(guarded, telemetry=inside.state.telemetry)
        self.app = SecurityHeaders(watched, page=page.page("heartdx"))
        self.client = TestClient(self.app)

    def status(self, path: str, *, key: str | None = None, method: str = "GET") -> int:
        headers = {} if key is None else {"X-API-Key": key}
        return self.client.request(method, path, headers=headers).status_code


async def _echo(request: Request) -> Response:
    return Response(await request.body())


class Events(logging.Handler):
    """The log lines of the project as they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logs.JsonFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def requests(self) -> list[dict]:
        parsed = [json.loads(line) for line in self.lines]
        return [line for line in parsed if line["event"] == "request"]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def events() -> Iterator[Events]:
    handler = Events()
    logger = logging.getLogger(logs.LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


# -- keys ----------------------------------------------------------------------------------------


def test_without_a_file_of_keys_anybody_may_ask_and_the_hot_path_need_not():
    door = Door(Settings())

    assert door.status("/predict", method="POST") == 200
    assert not door.guard.active


@pytest.mark.parametrize("header", ["X-API-Key", "x-api-key", "Authorization"])
def test_a_key_opens_in_either_header(keys_file, header):
    key = keys.new("ward", place=keys_file)
    door = Door(Settings(api_keys_file=keys_file))

    value = f"Bearer {key}" if header == "Authorization" else key
    assert door.client.post("/predict", headers={header: value}).status_code == 200
    assert door.guard.active


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "hdx_guess"},
        {"Authorization": "Basic KEY"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "KEY", "Authorization": "Bearer hdx_other"},
        {"X-API-Key": "HASH"},
        {"X-API-Key": "SHORTER"},
        {"Cookie": "X-API-Key=KEY"},
    ],
    ids=str,
)
def test_anything_but_one_known_key_is_401_and_told_how_to_send_one(keys_file, headers):
    key = keys.new("ward", place=keys_file)
    door = Door(Settings(api_keys_file=keys_file))
    words = {"KEY": key, "HASH": hashlib.sha256(key.encode()).hexdigest(), "SHORTER": key[:-1]}
    filled = {
        name: " ".join(words.get(word, word) for word in value.split(" "))
        for name, value in headers.items()
    }

    refused = door.client.post("/predict", headers=filled)

    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="heartdx"'
    assert refused.json()["type"] == "urn:heartdx:problem:unauthorized"
    assert refused.json()["request_id"] == refused.headers["X-Request-ID"]


def test_two_different_keys_in_one_request_open_nothing(keys_file):
    first, second = (keys.new(name, place=keys_file) for name in ("ward", "clinic"))
    client = Door(Settings(api_keys_file=keys_file)).client

    both = {"X-API-Key": first, "Authorization": f"Bearer {second}"}
    same = {"X-API-Key": first, "Authorization": f"Bearer {first}"}

    assert client.post("/predict", headers=both).status_code == 401
    assert client.post("/predict", headers=same).status_code == 200


@pytest.mark.parametrize("path", PUBLIC_DOORS)
def test_health_and_documents_stay_open_without_a_key(keys_file, path):
    keys.new("ward", place=keys_file)

    assert Door(Settings(api_keys_file=keys_file)).status(path) == 200


@pytest.mark.parametrize("path", [*PREDICTION_DOORS, "/v1/model", "/metrics", "/nothing", "/docsy"])
def test_every_other_path_is_closed_without_a_key(keys_file, path):
    keys.new("ward", place=keys_file)

    assert Door(Settings(api_keys_file=keys_file)).status(path) == 401


def test_a_key_is_replaced_without_a_restart_and_without_a_gap(keys_file):
    old = keys.new("ward", place=keys_file)
    door = Door(Settings(api_keys_file=keys_file))

    new = keys.new("ward", place=keys_file)
    door.guard.refresh()
    both = [door.status("/predict", key=key) for key in (old, new)]
    keys_file.write_text(keys_file.read_text().splitlines()[1] + "\n")
    door.guard.refresh()

    assert both == [200, 200]
    assert [door.status("/predict", key=key) for key in (old, new)] == [401, 200]


@pytest.mark.parametrize("content", ["ward\n", "ward secret\n", b"\xff\xfe", None], ids=str)
def test_a_file_of_keys_that_breaks_later_changes_nothing_and_is_logged_once(
    keys_file, events, content
):
    key = keys.new("ward", place=keys_file)
    door = Door(Settings(api_keys_file=keys_file))
    door.guard.refresh()

    if content is None:
        keys_file.unlink()
    else:
        keys_file.write_bytes(content if isinstance(content, bytes) else content.encode())
    door.guard.refresh()
    door.guard.refresh()

    assert [door.status("/predict", key=k) for k in (key, "other")] == [200, 401]
    assert [json.loads(line)["event"] for line in events.lines].count("keys_kept") == 1
    assert "secret" not in "".join(events.lines)


def test_a_file_from_which_every_key_was_removed_lets_nobody_in(keys_file):
    key = keys.new("ward", place=keys_file)
    door = Door(Settings(api_keys_file=keys_file))

    keys_file.write_text("# nobody\n")
    door.guard.refresh()

    assert door.status("/predict", key=key) == 401


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
        ("ward " + "0" * 64 + "\nward secret\n", "line 2: expected `name sha256`"),
        ("ward " + "A" * 64, "line 1"),
        ("ward " + "0" * 63, "line 1"),
        ("w/d " + "0" * 64, "line 1"),
        ("ward " + "0" * 64 + " more", "line 1"),
        ("é " + "0" * 64, "not ASCII"),
    ],
)
def test_a_file_of_keys_that_is_none_stops_the_start_and_says_why(keys_file, content, told):
    if content is not None:
        keys_file.write_text(content, encoding="utf-8")

    with pytest.raises(UsageError) as refused:
        Guard.from_settings(Settings(api_keys_file=keys_file))

    assert str(keys_file) in str(refused.value)
    assert told in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_request_is_logged_with_the_clients_name_and_never_with_a_key(keys_file, events):
    key = keys.new("ward", place=keys_file)
    door = Door(Settings(api_keys_file=keys_file))

    door.status("/predict", key=key)
    door.status("/predict", key="hdx_wrong")

    known, unknown = events.requests()
    assert known["client"] == "ward"
    assert "client" not in unknown
    assert unknown["problem"] == "unauthorized"
    assert key not in "".join(events.lines)
    assert "hdx_" not in "".join(events.lines)


def test_the_command_prints_a_key_once_and_keeps_only_its_hash(keys_file, capsys):
    code = cli.main(["key", "new", "--name", "ward", "--file", str(keys_file)])
    key = capsys.readouterr().out.strip()

    assert code == 0
    assert keys_file.read_text() == f"ward {hashlib.sha256(key.encode()).hexdigest()}\n"
    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o600
    assert len(base64.urlsafe_b64decode(key.removeprefix("hdx_") + "=")) == 32


def test_the_command_adds_to_what_is_there_and_each_key_differs(keys_file, capsys):
    keys_file.write_text("# ours\nclinic " + "0" * 64)
    keys_file.chmod(0o644)

    for name in ("ward", "ward"):
        cli.main(["key", "new", "--name", name, "--file", str(keys_file)])
    made = capsys.readouterr().out.split()

    first, second, *rest = keys_file.read_text().splitlines()
    assert (first, second) == ("# ours", "clinic " + "0" * 64)
    assert rest == [f"ward {hashlib.sha256(key.encode()).hexdigest()}" for key in made]
    assert stat.S_IMODE(keys_file.stat().st_mode) == 0o600
    assert list(keys_file.parent.iterdir()) == [keys_file]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "#a", "é", "a" * 65])
def test_the_command_refuses_a_name_that_the_file_could_not_hold(keys_file, name, capsys):
    assert cli.main(["key", "new", "--name", name, "--file", str(keys_file)]) == 2
    assert not keys_file.exists()
    assert "--name: expected 1 to 64" in capsys.readouterr().err


def test_the_command_spoils_no_other_file(tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("call the ward\n")

    assert cli.main(["key", "new", "--name", "ward", "--file", str(notes)]) == 2
    assert notes.read_text() == "call the ward\n"
    assert capsys.readouterr().out == ""


# -- rates ---------------------------------------------------------------------------------------


def test_no_window_ever_lets_more_pass_than_the_burst_and_the_rate_allow():
    draw = random.Random(7)
    buckets = Buckets(rate=5, burst=10)
    now, passed = 0.0, []
    for _ in range(3_000):
        now += draw.expovariate(20)
        if not buckets.wait("ward", now):
            passed.append(now)

    most = max(
        len([t for t in passed[i:] if t <= start + 2.0]) for i, start in enumerate(passed[:500])
    )
    assert most <= 10 + 5 * 2.0
    assert len(passed) == pytest.approx(5 * now, rel=0.05)


def test_after_the_told_wait_and_not_before_the_client_may_ask_again():
    buckets = Buckets(rate=4, burst=1)
    buckets.wait("ward", 0.0)
    wait = buckets.wait("ward", 0.1)

    assert wait == pytest.approx(0.15)
    assert buckets.wait("ward", 0.1 + wait - 0.001) > 0
    assert buckets.wait("ward", 0.1 + wait) == 0


def test_the_table_of_clients_stays_bounded_and_forgets_the_longest_silent():
    buckets = Buckets(rate=1, burst=1, most=100)
    buckets.wait("first", 0.0)
    buckets.wait("second", 0.0)
    buckets.wait("first", 0.1)

    for number in range(99):
        buckets.wait(f"client {number}", 0.2)

    assert len(buckets) == 100
    assert buckets.wait("first", 0.2) > 0
    assert buckets.wait("second", 0.2) == 0


def test_a_client_that_asks_too_often_gets_429_and_when_to_come_back():
    door = Door(Settings(rate_limit=1, rate_burst=3))

    statuses = [door.status("/predict", method="POST") for _ in range(4)]
    refused = door.client.post("/predict")

    assert statuses == [200, 200, 200, 429]
    assert refused.json()["type"] == "urn:heartdx:problem:rate-limited"
    assert refused.headers["Retry-After"] == "1"
    assert door.guard.refused["rate-limited"] == 2


def test_the_burst_is_twice_the_rate_when_it_is_not_set():
    door = Door(Settings(rate_limit=3))

    assert [door.status("/predict") for _ in range(7)] == [200] * 6 + [429]


def test_clients_with_keys_are_counted_by_name_and_do_not_wear_each_other_down(keys_file):
    old, new, other = (keys.new(name, place=keys_file) for name in ("ward", "ward", "clinic"))
    door = Door(Settings(api_keys_file=keys_file, rate_limit=1, rate_burst=2))

    asked = [door.status("/predict", key=key) for key in (old, new, old, other)]

    assert asked == [200, 200, 429, 200]


def test_guesses_of_a_key_are_counted_by_address(keys_file):
    key = keys.new("ward", place=keys_file)
    door = Door(Settings(api_keys_file=keys_file, rate_limit=1, rate_burst=2))

    guesses = [door.status("/metrics", key=f"hdx_{n}") for n in range(3)]

    assert guesses == [401, 401, 429]
    assert door.status("/predict", key=key) == 200


def test_a_forwarding_header_makes_no_new_client():
    door = Door(Settings(rate_limit=1, rate_burst=1))

    statuses = [
        door.client.get("/predict", headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code
        for n in range(2)
    ]

    assert statuses == [200, 429]


@pytest.mark.parametrize("path", [*HEALTH_DOORS, "/metrics"])
def test_what_watches_the_service_is_never_rate_limited(path):
    door = Door(Settings(rate_limit=1, rate_burst=1))

    assert {door.status(path) for _ in range(5)} == {200}


def test_a_request_asked_about_twice_is_charged_once():
    guard = Guard.from_settings(Settings(rate_limit=1, rate_burst=1))
    scope = {"path": "/predict", "headers": [], "client": ("192.0.2.1", 5)}

    assert guard.refusal(scope, 0.0) is None
    assert guard.refusal(scope, 0.0) is None
    assert guard.refusal(dict(scope, headers=[]), 0.0) is None
    later = {"path": "/predict", "headers": [], "client": ("192.0.2.1", 6)}
    assert guard.refusal(later, 0.0).kind == "rate-limited"


# -- stop and drain ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PREDICTION_DOORS)
def test_a_stop_answers_503_with_its_reason_at_every_door_of_predictions(path):
    reasons = ["the calibration of 2026-11 is wrong"]
    door = Door(Settings(), stopped=lambda: reasons[-1])
    door.guard.refresh()

    refused = door.client.post(path)
    reasons.append(None)
    door.guard.refresh()

    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:heartdx:problem:stopped"
    assert reasons[0] in refused.json()["detail"]
    assert door.status(path, method="POST") == 200
    assert not door.guard.active


@pytest.mark.parametrize("prefix", ["/heart", "/heart/v1"])
def test_a_stop_holds_behind_a_path_prefix_too(prefix):
    door = Door(Settings(), stopped=lambda: "wrong")
    door.guard.refresh()

    with TestClient(door.app, root_path=prefix) as client:
        assert client.post(f"{prefix}/predict").status_code == 503


def test_under_a_stop_health_says_so_and_the_service_stays_reachable_to_say_why():
    door = Door(Settings(), stopped=lambda: "wrong")
    door.guard.refresh()

    assert door.client.get("/health").json()["detail"] == "predictions are stopped: wrong"
    assert {door.status(path) for path in ("/livez", "/readyz", "/v1/model", "/docs")} == {200}


def test_a_stop_that_cannot_be_read_is_a_stop():
    def unreadable() -> str | None:
        raise PermissionError(13, "Permission denied")

    door = Door(Settings(), stopped=unreadable)
    door.guard.refresh()

    assert "Permission denied" in door.client.post("/predict").json()["detail"]


def test_a_stop_and_its_end_are_logged_once_each(events):
    reasons: list[str | None] = ["wrong", "wrong", None, None]
    door = Door(Settings(), stopped=lambda: reasons.pop(0))

    for _ in range(4):
        door.guard.refresh()

    logged = [json.loads(line) for line in events.lines]
    assert [line["event"] for line in logged] == ["predictions_stopped", "predictions_go_on"]
    assert logged[0]["reason"] == "wrong"


def test_files_are_looked_at_again_each_second_while_the_service_runs():
    reasons: list[str | None] = [None]
    guard = Guard.from_settings(Settings(), stopped=lambda: reasons[-1])

    async def run() -> tuple[bool, bool]:
        async with guard.watching():
            before = guard.active
            reasons.append("wrong")
            await asyncio.sleep(1.3)
            return before, guard.active

    assert asyncio.run(run()) == (False, True)


def test_the_drain_marker_takes_readiness_away_while_predictions_go_on(tmp_path):
    marker = tmp_path / "draining"
    door = Door(Settings(drain_file=marker))

    before = door.status("/readyz")
    marker.touch()

    assert before == 200
    refused = door.client.get("/readyz")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:heartdx:problem:draining")
    assert door.status("/v2/health/ready") == 503
    assert {door.status(path) for path in ("/predict", "/livez", "/health")} == {200}


# -- load and time -------------------------------------------------------------------------------


def _scope(path: str, method: str = "POST") -> dict:
    return {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(b"content-type", b"application/json")],
        "client": ("192.0.2.1", 5), "server": ("x", 80), "scheme": "http", "http_version": "1.1",
        "root_path": "", "state": {},
    }  # fmt: skip


class Exchange:
    """One request by hand: its body comes as the test says."""

    def __init__(self, app, path: str = "/predict"):
        self.sent: list[dict] = []
        self.coming: asyncio.Queue = asyncio.Queue()
        self.task = asyncio.ensure_future(app(_scope(path), self.coming.get, self._send))

    async def _send(self, message: dict) -> None:
        self.sent.append(message)

    def give(self, body: bytes = b"", *, more: bool = False) -> None:
        self.coming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


async def _turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Busy:
    """An application whose work on a whole request ends when the test says."""

    def __init__(self, settings: Settings):
        self.done = asyncio.Event()
        self.guard = Guard.from_settings(settings)
        self.app = GuardMiddleware(self._work, guard=self.guard)

    async def _work(self, scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        await self.done.wait()
        await Response(b"done")(scope, receive, send)


def test_beyond_the_most_in_flight_a_request_gets_503_at_once_and_no_queue_grows():
    async def run() -> None:
        busy = Busy(Settings(max_in_flight=2))
        worked = [Exchange(busy.app) for _ in range(2)]
        for exchange in worked:
            exchange.give()
        await _turns()
        shed = Exchange(busy.app)
        await _turns()
        assert shed.status == 503
        assert shed.headers[b"retry-after"] == b"1"
        assert busy.guard.in_flight == 2

        alive = Exchange(busy.app, "/livez")
        alive.give()
        busy.done.set()
        await _turns()
        assert [e.status for e in [*worked, alive]] == [200, 200, 200]
        assert busy.guard.in_flight == 0
        again = Exchange(busy.app)
        again.give()
        await _turns()
        assert again.status == 200

    asyncio.run(run())


def test_clients_that_never_finish_keep_out_nobody():
    async def run() -> None:
        busy = Busy(Settings(max_in_flight=2))
        busy.done.set()
        slow = [Exchange(busy.app) for _ in range(3)]
        await _turns()
        assert [e.status for e in slow] == [408, None, None]  # the oldest made room
        assert busy.guard.in_flight == 0

        whole = Exchange(busy.app)
        whole.give()
        await _turns()
        assert whole.status == 200

        slow[2].give()
        await _turns()
        assert slow[2].status == 200
        slow[1].task.cancel()

    asyncio.run(run())


def test_a_request_that_came_whole_ends_nobodys_wait():
    async def run() -> None:
        busy = Busy(Settings(max_in_flight=2))
        busy.done.set()
        slow = [Exchange(busy.app) for _ in range(2)]
        await _turns()

        for _ in range(5):
            whole = Exchange(busy.app)
            whole.give()
            await _turns()
            assert whole.status == 200

        assert [e.status for e in slow] == [None, None]
        for exchange in slow:
            exchange.task.cancel()

    asyncio.run(run())


def test_a_stream_that_reads_and_writes_at_once_is_counted_once():
    async def both(scope, receive, send) -> None:
        await asyncio.gather(receive(), receive())
        await Response(b"done")(scope, receive, send)

    async def run() -> tuple[int, int]:
        guard = Guard.from_settings(Settings())
        streamed = Exchange(GuardMiddleware(both, guard=guard), "/v1/predict/batch")
        await _turns()
        while_waiting = guard.in_flight
        streamed.give(more=True)
        streamed.give()
        await streamed.task
        return while_waiting, guard.in_flight

    assert asyncio.run(run()) == (0, 0)


def test_a_body_that_is_not_whole_in_time_gets_408_and_its_connection_is_closed():
    async def run() -> Exchange:
        busy = Busy(Settings(request_seconds=1))
        async with busy.guard.watching():
            dribbling = Exchange(busy.app)
            for _ in range(30):
                dribbling.give(b" ", more=True)
                await asyncio.sleep(0.1)
                if dribbling.status:
                    break
        return dribbling

    began = time.monotonic()
    dribbling = asyncio.run(run())

    assert dribbling.status == 408
    assert dribbling.headers[b"connection"] == b"close"
    assert 1.0 <= time.monotonic() - began < 2.0


def test_a_streamed_batch_may_take_long_as_long_as_its_parts_keep_coming():
    async def run() -> tuple[int | None, int | None]:
        busy = Busy(Settings(request_seconds=1))
        busy.done.set()
        async with busy.guard.watching():
            streamed = Exchange(busy.app, "/v1/predict/batch")
            for _ in range(5):
                streamed.give(b"row", more=True)
                await asyncio.sleep(0.4)
            streamed.give()
            silent = Exchange(busy.app, "/v1/predict/batch")
            silent.give(b"row", more=True)
            await asyncio.sleep(1.7)
            return streamed.status, silent.status

    assert asyncio.run(run()) == (200, 408)


def test_work_on_a_whole_request_is_not_cut_by_the_limit_on_its_body():
    async def run() -> int | None:
        busy = Busy(Settings(request_seconds=1))
        async with busy.guard.watching():
            worked = Exchange(busy.app)
            worked.give()
            await asyncio.sleep(1.7)
            busy.done.set()
            await _turns()
            return worked.status

    assert asyncio.run(run()) == 200


def test_listening_for_the_clients_leave_while_answering_is_not_limited_in_time():
    async def listening(scope, receive, send) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        await Response(b"done")(scope, receive, send)

    async def run() -> int | None:
        guard = Guard.from_settings(Settings(request_seconds=1))
        async with guard.watching():
            answered = Exchange(GuardMiddleware(listening, guard=guard))
            answered.give()
            await asyncio.sleep(1.7)
            answered.coming.put_nowait({"type": "http.disconnect"})
            await answered.task
        return answered.status

    assert asyncio.run(run()) == 200


def test_a_cancel_from_elsewhere_is_not_taken_for_a_late_client():
    async def run() -> None:
        patience = Patience(most=5)
        waiting = asyncio.ensure_future(patience.on(asyncio.Event().wait, until=1e9))
        await _turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(patience) == 0

    asyncio.run(run())


def test_a_late_client_leaves_no_trace_of_a_cancel_and_hides_none_from_elsewhere():
    async def run() -> tuple[int, bool]:
        patience = Patience(most=5)

        async def late_client() -> int:
            with pytest.raises(RequestError, match="did not come whole in time"):
                await patience.on(asyncio.Event().wait, until=0.0)
            return asyncio.current_task().cancelling()

        ended = asyncio.ensure_future(late_client())
        await _turns()
        patience.end_late(1.0)
        cancelled = await ended

        both = asyncio.ensure_future(patience.on(asyncio.Event().wait, until=0.0))
        await _turns()
        patience.end_late(1.0)
        both.cancel()
        await asyncio.wait([both])
        return cancelled, both.cancelled()

    assert asyncio.run(run()) == (0, True)


def test_a_request_with_too_many_headers_gets_431():
    door = Door(Settings())

    refused = door.client.get("/predict", headers={f"X-{n}": "a" for n in range(101)})

    assert refused.status_code == 431
    assert refused.json()["type"] == "urn:heartdx:problem:headers-too-large"


# -- the hot path asks by itself -----------------------------------------------------------------

PLAIN = {b"content-type": b"application/json"}


def _hot(path: str = "/predict") -> dict:
    return {"path": path, "headers": list(PLAIN.items()), "client": ("192.0.2.1", 5)}


def test_by_default_the_hot_path_answers_by_itself():
    guard = Guard.from_settings(Settings())

    assert not guard.leaves_to_routes(_hot(), PLAIN)


def test_what_the_routes_must_refuse_is_left_to_them(keys_file):
    keys.new("ward", place=keys_file)
    stopped = Guard.from_settings(Settings(), stopped=lambda: "wrong")
    stopped.refresh()
    limited = Guard.from_settings(Settings(rate_limit=1, rate_burst=1))
    many = {b"x-%d" % number: b"a" for number in range(101)}

    assert stopped.leaves_to_routes(_hot(), PLAIN)
    assert Guard.from_settings(Settings(api_keys_file=keys_file)).leaves_to_routes(_hot(), PLAIN)
    assert Guard.from_settings(Settings()).leaves_to_routes(_hot(), many)
    assert [limited.leaves_to_routes(_hot(), PLAIN) for _ in range(2)] == [False, True]


def test_a_page_of_a_listed_origin_is_answered_by_the_routes_which_add_its_headers():
    from_page = {**PLAIN, b"origin": ORIGIN.encode()}

    assert Guard.from_settings(Settings(cors_origins=ORIGIN)).leaves_to_routes(_hot(), from_page)
    assert not Guard.from_settings(Settings()).leaves_to_routes(_hot(), from_page)


def test_a_client_late_for_the_hot_path_is_refused_by_the_routes_and_counted_once():
    async def run() -> tuple[int | None, int]:
        busy = Busy(Settings(request_seconds=1))
        async with busy.guard.watching():
            steps = asyncio.Event().wait().__await__()
            with pytest.raises(RequestError) as refused:
                await busy.guard.first(next(steps), steps)
        channel = late(refused.value)
        sent: list[dict] = []

        async def send(message: dict) -> None:
            sent.append(message)

        await busy.app(_scope("/predict"), channel, send)
        return sent[0]["status"], busy.guard.refused["request-timeout"]

    assert asyncio.run(run()) == (408, 1)


# -- in the whole service ------------------------------------------------------------------------


def test_the_stop_file_stops_a_running_service_and_its_removal_starts_it_again(tmp_path):
    tiny_bundle.write(tmp_path)
    stop = tmp_path / store.STOPPED

    with started(Settings(models_dir=tmp_path)) as client:
        before = client.post("/predict", json=PATIENT)
        stop.write_text("recalibrating")
        stopped = _answer(client, 503)
        stop.unlink()
        after = _answer(client, 200)

    assert before.status_code == 200
    assert stopped.json()["detail"] == "predictions are stopped: recalibrating"
    assert after.json()["probability"] == before.json()["probability"]


def test_the_drain_file_is_seen_at_once_by_a_running_service(models_dir, tmp_path):
    marker = tmp_path / "draining"

    with started(Settings(models_dir=models_dir, drain_file=marker)) as client:
        before = client.get("/readyz").status_code
        marker.touch()
        after = client.get("/readyz").status_code
        predicted = client.post("/predict", json=PATIENT).status_code

    assert (before, after, predicted) == (200, 503, 200)


def test_a_running_service_asks_for_keys_and_limits_the_rate(models_dir, keys_file):
    key = keys.new("ward", place=keys_file)
    settings = Settings(models_dir=models_dir, api_keys_file=keys_file, rate_limit=1, rate_burst=2)

    with started(settings) as client:
        without = client.post("/predict", json=PATIENT).status_code
        mine = {"X-API-Key": key}
        asked = [client.post("/predict", json=PATIENT, headers=mine).status_code for _ in range(3)]

    assert without == 401
    assert asked == [200, 200, 429]


def test_every_answer_of_a_running_service_carries_the_security_headers(models_dir):
    with started(Settings(models_dir=models_dir)) as client:
        predicted = client.post("/predict", json=PATIENT).headers
        routed = client.post("/predict", json={**PATIENT, "sex": "male"}).headers

    for headers in (predicted, routed):
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def _answer(client: TestClient, status: int) -> Response:
    """The first answer of this status, looked for during three seconds."""
    end = time.monotonic() + 3
    while (answer := client.post("/predict", json=PATIENT)).status_code != status:
        assert time.monotonic() < end, answer.status_code
        time.sleep(0.1)
    return answer


def test_another_server_than_uvicorn_is_served_and_the_log_says_what_is_not_bounded(events):
    async def receive() -> dict:
        return {"type": "lifespan.startup"}

    assert not connections.bound(receive, seconds=1)
    assert [json.loads(line)["event"] for line in events.lines] == ["heads_not_bounded"]


# -- what a browser is told ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/model", "/health", "/docs", "/nothing"])
def test_every_answer_a_browser_may_show_carries_the_security_headers(path):
    headers = Door(Settings()).client.get(path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", PREDICTION_DOORS)
def test_no_cache_keeps_a_prediction(path):
    client = Door(Settings()).client

    assert client.post(path).headers.get_list("Cache-Control") == ["no-store"]
    assert "Cache-Control" not in client.get("/docs").headers


class Scripts(HTMLParser):
    """The inline scripts, event attributes and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self._within = False

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        self._within = tag == "script" and "src" not in given
        self.links += [given[name] for name in ("src", "href") if name in given]
        self.handlers += [name for name in given if name.startswith("on")]

    def handle_data(self, data) -> None:
        if self._within:
            self.inline.append(data)

    def handle_endtag(self, tag) -> None:
        self._within = False


def test_the_documentation_pages_policy_allows_exactly_its_own_scripts():
    policy = Door(Settings()).client.get("/docs").headers["Content-Security-Policy"]
    found = Scripts()
    found.feed(page.page("heartdx").decode())

    (script,) = found.inline
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["script-src"] == f"'self' 'sha256-{digest}'"
    assert rules["connect-src"] == "'self'"
    assert found.handlers == []
    assert not [link for link in found.links if ":" in link or link.startswith("/")]


def test_a_page_of_another_origin_is_told_nothing_by_default():
    client = Door(Settings()).client
    ask = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}

    preflight = client.options("/predict", headers=ask)
    answered = client.post("/predict", headers={"Origin": ORIGIN})

    assert preflight.status_code == 405
    names = {name.lower() for name in [*preflight.headers, *answered.headers]}
    assert not [name for name in names if name.startswith("access-control")]


def test_a_listed_origin_may_ask_even_where_keys_are_asked_for_and_no_other_may(keys_file):
    keys.new("ward", place=keys_file)
    client = Door(Settings(cors_origins=f"{ORIGIN}, http://b", api_keys_file=keys_file)).client
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}

    listed = client.options("/predict", headers={**ask, "Origin": ORIGIN})
    foreign = client.options("/predict", headers={**ask, "Origin": "https://other.example"})
    refused = client.post("/predict", headers={"Origin": ORIGIN})

    assert listed.status_code == 200
    assert listed.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Access-Control-Allow-Credentials" not in listed.headers
    assert foreign.status_code == 400
    assert "Access-Control-Allow-Origin" not in foreign.headers
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN


@pytest.mark.parametrize(
    "listed", ["*", "https://*.example", "https://a/", "ward.example", "null", "https://a:b@c"]
)
def test_an_origin_that_is_not_exact_stops_the_start(listed):
    with pytest.raises(UsageError, match="HEARTDX_CORS_ORIGINS: expected exact origins"):
        Guard.from_settings(Settings(cors_origins=listed))
