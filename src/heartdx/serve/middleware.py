"""One pure ASGI layer: request id, count, log line, and the 500 of what nobody expected.

A request is counted before its last byte leaves, so whoever has an answer finds it counted.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heartdx import logs
from heartdx.serve import problems
from heartdx.serve.paths import ALWAYS_OPEN, DOCUMENTS, PREDICTIONS, route_path
from heartdx.serve.telemetry import METHODS, OTHER, UNMATCHED, Telemetry

REQUEST_ID = "X-Request-ID"
GONE = 499
"""What a client that left before the answer is counted as; nothing is sent."""

_ID_HEADER = REQUEST_ID.lower().encode()
FIT_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""A request id that is taken over; anything else is replaced."""
_KNOWN = PREDICTIONS | ALWAYS_OPEN | DOCUMENTS
"""Routes whose template is their path: known even of a request that is refused before routing."""
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_LOG = logs.get("serve")


class Watch:
    """Wraps the application; see the module's docstring.

    Parameters
    ----------
    app : the application inside.
    telemetry : where requests are counted.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry):
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send, self.telemetry)
        try:
            await self.app(exchange.scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.finish(GONE)
        except Exception as bug:  # noqa: BLE001 - the service's outermost door: log, count, 500
            await exchange.fail(bug)


class Exchange:
    """One request and its answer.

    Parameters
    ----------
    scope : the ASGI scope as received.
    send : the server's channel.
    telemetry : where the request is counted.
    """

    def __init__(self, scope: Scope, send: Send, telemetry: Telemetry):
        self.began = time.perf_counter()
        self.telemetry = telemetry
        self.method = scope["method"]
        self.request_id = _request_id(scope)
        self.facts: dict[str, Any] = {}
        state = {**scope.get("state", {}), "request_id": self.request_id, "facts": self.facts}
        routed = "GET" if self.method == "HEAD" else self.method
        self.scope: Scope = {**scope, "method": routed, "state": state}
        self._send = send
        self._status = 0
        self._finished = False

    async def send(self, message: Message) -> None:
        """Pass a message on, with our headers; count the request before its last one."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            mine = [(_ID_HEADER, self.request_id.encode()), _NOSNIFF]
            message = {**message, "headers": [*message.get("headers", ()), *mine]}
        elif message["type"] == "http.response.body":
            if self.method == "HEAD":
                message = {**message, "body": b""}
            if not message.get("more_body", False):
                self.finish(self._status)
        await self._send(message)

    def finish(self, status: int) -> None:
        """Count and log the request, once."""
        if self._finished:
            return
        self._finished = True
        seconds = time.perf_counter() - self.began
        endpoint = self._endpoint()
        self.telemetry.count_request(self.method, endpoint, status, seconds)
        logs.event(
            _LOG,
            "request",
            method=self.method if self.method in METHODS else OTHER,
            endpoint=endpoint,
            status=status,
            ms=round(seconds * 1000, 3),
            request_id=self.request_id,
            **self.facts,
        )

    def _endpoint(self) -> str:
        """The route's template; of what the guard refused too, which no route has seen."""
        route = self.scope.get("route")
        if route is not None:
            return str(route.path)
        path = route_path(self.scope)
        return path if path in _KNOWN else UNMATCHED

    async def fail(self, bug: Exception) -> None:
        """Answer 500; the log names the place of the bug, never its message or values."""
        logs.event(
            _LOG,
            "request_failed",
            level=logging.ERROR,
            request_id=self.request_id,
            error=type(bug).__name__,
            where=logs.places(bug),
        )
        if self._status:
            self.finish(500)
            raise RuntimeError("the answer was cut; see request_failed in the log") from None
        answer = problems.INTERNAL.response(self.request_id, path=route_path(self.scope))
        await answer(self.scope, _never, self.send)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _ID_HEADER and FIT_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(8)


async def _never() -> Message:
    return {"type": "http.disconnect"}
