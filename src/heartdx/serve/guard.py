"""What stands before every request: keys, rates, load, time, the stop and the drain marker.

::

    SecurityHeaders ─ Watch ─ Cors ─ GuardMiddleware ─ routes      the hot path asks Guard itself

The order of the checks: who asks (401), how often (429), whether predictions are stopped (503),
whether there is room (503). The doors of ``paths.ALWAYS_OPEN`` pass all of them: what watches the
service must reach it in trouble.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heartdx import logs
from heartdx.errors import UsageError
from heartdx.serve import keys
from heartdx.serve.browsers import origins
from heartdx.serve.limits import Buckets, Patience, peer
from heartdx.serve.paths import (
    ALWAYS_OPEN,
    DOCS,
    DOCUMENTS,
    HEALTH,
    METRICS,
    READINESS,
    STREAMS,
    is_prediction,
    route_path,
)
from heartdx.serve.problems import RequestError, of_refusal
from heartdx.settings import Settings

CLIENT = "heartdx.client"
"""Where the ASGI scope holds the name of the key that asks."""
MOST_HEADERS = 100
"""More in one request are refused; browsers and proxies send about twenty."""
Mark = tuple[int, int, int]

_VERDICT = "heartdx.verdict"
_LOG = logs.get("serve")
_KEY_HEADER = keys.HEADER.lower().encode()
_BEARER = b"bearer "
_POLL_SECONDS = 1.0
_SWEEPS_A_SECOND = 2

_UNKNOWN = RequestError(
    "unauthorized",
    f"send a valid API key as {keys.HEADER} or Authorization: Bearer",
    {"WWW-Authenticate": 'Bearer realm="heartdx"'},
)
_MANY_HEADERS = RequestError(
    "headers-too-large", f"send at most {MOST_HEADERS} headers", {"Connection": "close"}
)
_FULL = RequestError(
    "overloaded", "the service works on as much as it can; ask again", {"Retry-After": "1"}
)
_DRAINING = RequestError("draining", "this worker is about to stop; ask another one")
_ELSEWHERE = RequestError("not-found", "metrics are on the admin port")


class Guard:
    """Decides about requests; holds the counts and no request.

    Parameters
    ----------
    settings : the limits.
    known : the keys that may ask; None lets anybody.
    stopped : tells why predictions are stopped, None while they are not.

    Attributes
    ----------
    active : whether a prediction can be refused at all; while False :meth:`refusal` need not be
        asked.
    in_flight : requests worked on, those that wait for their client not counted.
    refused : refusals since the start, by kind of problem.
    tell_in_flight, tell_refused : called with the number or the kind at each change.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        known: keys.Keys | None = None,
        stopped: Callable[[], str | None] | None = None,
    ):
        self.in_flight = 0
        self.most_in_flight = settings.max_in_flight
        self.refused: Counter[str] = Counter()
        self.tell_in_flight: Callable[[int], None] = _nobody
        self.tell_refused: Callable[[str], None] = _nobody
        self.seconds = float(settings.request_seconds)
        self.patience = Patience(most=settings.max_in_flight)
        self.origins = origins(settings.cors_origins)
        self._known = known
        self._keys_file = settings.api_keys_file
        self._keys_seen: Mark | None = (0, 0, 0)
        self._drain_file = settings.drain_file
        self._metrics_elsewhere = settings.admin_port > 0
        self._stopped = stopped
        self._reason: str | None = None
        burst = settings.rate_burst or 2 * settings.rate_limit
        rate = settings.rate_limit
        self._buckets = Buckets(rate=rate, burst=burst) if rate else None
        self._judge()

    @classmethod
    def from_settings(
        cls, settings: Settings, *, stopped: Callable[[], str | None] | None = None
    ) -> Guard:
        """A guard, its keys read.

        Raises
        ------
        UsageError
            The file of keys cannot be read, is malformed or empty; or an origin is not one.
        """
        known = None
        if settings.api_keys_file is not None:
            known = keys.read(settings.api_keys_file)
            if not known.entries:
                raise UsageError(
                    f"{settings.api_keys_file}: holds no key, so nobody could ask; add one with "
                    "`heartdx key new`"
                )
        return cls(settings, known=known, stopped=stopped)

    # -- decisions --------------------------------------------------------------------------

    def refusal(self, scope: Scope, now: float) -> RequestError | None:
        """Why a request is refused before its body is read, None when it may pass.

        Parameters
        ----------
        scope : of the request; gets the client's name under ``CLIENT`` when a key is known, and
            keeps the verdict: a request asked about twice is counted and charged once.
        now : seconds of a clock that never goes back.
        """
        if _VERDICT in scope:
            kept: RequestError | None = scope[_VERDICT]
            return kept
        found = scope[_VERDICT] = self._refusal(scope, route_path(scope), now)
        if found is not None:
            self.count_refused(found.kind)
        return found

    def leaves_to_routes(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the hot path must hand a request on, unread; the routes say what is wrong.

        Parameters
        ----------
        scope : of the request.
        headers : of the request, by name.
        """
        return (
            len(headers) > MOST_HEADERS
            or (b"origin" in headers and bool(self.origins))
            or (self.active and self.refusal(scope, time.monotonic()) is not None)
        )

    async def first(self, waits_for: object, steps: Generator[Any, Any, Any]) -> Message:
        """A request's first message, for the hot path that found it not there yet.

        The hot path takes the first step of ``receive()`` itself: a body that is there already
        costs a third of asking here.

        Parameters
        ----------
        waits_for : what the first step gave.
        steps : of ``receive().__await__()``.

        Raises
        ------
        RequestError
            ``request-timeout``; hand the request on with :func:`late` for its channel.
        """
        until = time.monotonic() + self.seconds
        message: Message = await self.patience.begun(waits_for, steps, until=until)
        return message

    def enter(self) -> bool:
        """Count a request in; False when there is no room for it."""
        if self.in_flight >= self.most_in_flight:
            self.count_refused(_FULL.kind)
            return False
        self.count_in_flight(1)
        return True

    def leave(self) -> None:
        """Count out a request that was counted in."""
        self.count_in_flight(-1)

    def count_in_flight(self, change: int) -> None:
        """Count requests in or out, and tell how many there are."""
        self.in_flight += change
        self.tell_in_flight(self.in_flight)

    def count_refused(self, kind: str) -> None:
        """Count a refusal by its kind of problem, and tell it."""
        self.refused[kind] += 1
        self.tell_refused(kind)

    def draining(self) -> bool:
        """Whether the marker stands that takes this worker out of service."""
        return self._drain_file is not None and self._drain_file.exists()

    @property
    def stopped(self) -> str | None:
        """Why predictions are stopped, None while they are not; as of the last look."""
        return self._reason

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of those who have a key."""
        return self._known.names if self._known else ()

    def authenticated(self, scope: Scope) -> bool:
        """Whether a request brings a known key, or none is asked for; notes the client's name."""
        if self._known is None:
            return True
        key = _key(scope)
        client = self._known.owner(key) if key else None
        if client is not None:
            scope[CLIENT] = client
        return client is not None

    def _refusal(self, scope: Scope, path: str, now: float) -> RequestError | None:
        if len(scope["headers"]) > MOST_HEADERS:
            return _MANY_HEADERS
        if path == METRICS and self._metrics_elsewhere:
            return _ELSEWHERE
        if path in READINESS and self.draining():
            return _DRAINING
        if path == "/health" and self._reason is not None:
            return _stop(self._reason)
        if path in HEALTH:
            return None
        public = path in DOCUMENTS or path.startswith(f"{DOCS}/")
        welcome = self.authenticated(scope) or public
        wait = self._wait(scope, now) if path not in ALWAYS_OPEN or not welcome else 0.0
        if wait:
            return RequestError(
                "rate-limited",
                "this client asks too often; wait as long as Retry-After says",
                {"Retry-After": str(int(wait) + 1)},
            )
        if not welcome:
            return _UNKNOWN
        if self._reason is not None and is_prediction(path):
            return _stop(self._reason)
        return None

    def _wait(self, scope: Scope, now: float) -> float:
        """A client is its key's name, else its address; forwarding headers are uvicorn's to trust.

        A key's name and an address never share a bucket.
        """
        if self._buckets is None:
            return 0.0
        name = scope.get(CLIENT)
        address = scope.get("client")
        client = f"key {name}" if name else peer(address[0] if address else "")
        return self._buckets.wait(client, now)

    # -- looking ----------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look at the files again: the keys, and whether predictions are stopped."""
        self._refresh_keys()
        before, self._reason = self._reason, self._read_stop()
        if before != self._reason:
            what = "predictions_go_on" if self._reason is None else "predictions_stopped"
            logs.event(_LOG, what, level=logging.WARNING, reason=self._reason or "")
        self._judge()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """While entered, files are looked at each second and late clients ended."""
        self.refresh()
        tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._end_late())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)  # a folder on the network may hang
            except Exception as bug:  # noqa: BLE001 - the next look must come: it may find a stop
                error, where = type(bug).__name__, logs.places(bug)
                logs.event(_LOG, "look_failed", level=logging.ERROR, error=error, where=where)

    async def _end_late(self) -> None:
        while True:
            await asyncio.sleep(1 / _SWEEPS_A_SECOND)
            self.patience.end_late(time.monotonic())

    def _refresh_keys(self) -> None:
        """Keys as the file says now; the last good ones when it says nothing that can be read."""
        if self._keys_file is None:
            return
        mark = _mark(self._keys_file)
        if mark == self._keys_seen:
            return
        self._keys_seen = mark
        try:
            self._known = keys.read(self._keys_file)
        except UsageError as refusal:
            logs.event(_LOG, "keys_kept", level=logging.ERROR, reason=str(refusal))
        else:
            logs.event(_LOG, "keys_read", keys=len(self._known.entries), clients=self.clients)

    def _read_stop(self) -> str | None:
        """A stop that cannot be read is a stop."""
        try:
            return self._stopped() if self._stopped is not None else None
        except OSError as cause:
            return f"the stop marker cannot be read ({cause.strerror or cause})"

    def _judge(self) -> None:
        self.active = (
            self._known is not None or self._buckets is not None or self._reason is not None
        )


class GuardMiddleware:
    """Applies a guard to what the hot path does not answer.

    Parameters
    ----------
    app : the application inside.
    guard : decides.
    """

    def __init__(self, app: ASGIApp, guard: Guard):
        self.app = app
        self.guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        guard, path = self.guard, route_path(scope)
        found = guard.refusal(scope, time.monotonic())
        _note(scope, CLIENT, "client")
        if found is None and path not in ALWAYS_OPEN and not guard.enter():
            found = _FULL
        if found is not None:
            await _refuse(found, scope, receive, send)
            return
        exchange = _Exchange(guard, receive, send, path)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except RequestError as refusal:  # a client too slow for what answers outside the routes
            if exchange.started:
                raise
            await _refuse(refusal, scope, receive, send)
        finally:
            if path not in ALWAYS_OPEN:
                guard.leave()


class _Exchange:
    """The channels of one request, each wait for the client bounded.

    While it waits for its client a request has no place among those worked on.

    Parameters
    ----------
    guard : bounds the waits and counts.
    receive, send : the channels outside.
    path : of the request.
    """

    def __init__(self, guard: Guard, receive: Receive, send: Send, path: str):
        self.started = False
        self._guard = guard
        self._receive = receive
        self._send = send
        self._counted = path not in ALWAYS_OPEN
        self._parts = path in STREAMS
        self._whole = False
        self._waits = 0
        self._until = time.monotonic() + guard.seconds

    async def receive(self) -> Message:
        """The next message; after the body's end it is awaited without limit: a disconnect."""
        if self._whole:
            return await self._receive()
        message = await self._waiting(self._receive)
        self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send, as long as the client takes what is sent."""
        self.started = True

        async def sending() -> Message:
            await self._send(message)
            return message

        if self._parts:
            await self._waiting(sending)
        else:
            await self._send(message)

    async def _waiting(self, client: Callable[[], Awaitable[Message]]) -> Message:
        if self._parts:
            self._until = time.monotonic() + self._guard.seconds
        self._waits += 1
        if self._waits == 1:  # a stream may read and write at once
            self._guard.count_in_flight(-self._counted)
        try:
            return await self._guard.patience.on(client, until=self._until)
        except RequestError as refusal:
            self._guard.count_refused(refusal.kind)
            raise
        finally:
            self._waits -= 1
            if self._waits == 0:
                self._guard.count_in_flight(self._counted)


def late(refusal: RequestError) -> Receive:
    """The channel of a request whose client was too late: it gives the refusal."""

    async def receive() -> Message:
        raise refusal

    return receive


def _nobody(_: object) -> None:
    """Whom the guard tells when nobody listens."""


def _key(scope: Scope) -> bytes:
    """The key a request brings; two different headers for it count as none."""
    found: set[bytes] = set()
    for name, value in scope["headers"]:
        if name == _KEY_HEADER:
            found.add(value.strip())
        elif name == b"authorization":
            named = value[: len(_BEARER)].lower() == _BEARER
            found.add(value[len(_BEARER) :].strip() if named else b"")
    return found.pop() if len(found) == 1 else b""


def _mark(place: Path) -> Mark | None:
    """What changes when a file does; None for a file that is not there."""
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _stop(reason: str) -> RequestError:
    return RequestError("stopped", f"predictions are stopped: {reason}")


def _note(scope: Scope, source: str, fact: str) -> None:
    facts = scope.get("state", {}).get("facts")
    if facts is not None and source in scope:
        facts[fact] = scope[source]


async def _refuse(found: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    state = scope.get("state", {})
    if "facts" in state:
        state["facts"]["problem"] = found.kind
    problem = of_refusal(found).response(state.get("request_id", ""), path=route_path(scope))
    await problem(scope, receive, send)
