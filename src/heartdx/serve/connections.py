"""Connections that ASGI cannot see: a head that never ends or never stops, an answer not taken.

uvicorn bounds the pause between two requests (``--timeout-keep-alive``) and nothing else: a new
connection may send its head one byte an hour, or gigabytes of it, and the rest of a refused body
as slowly. The application sees none of this. uvicorn hands the lifespan its configuration,
though, and opens its sockets afterwards; :func:`bound` puts a thin layer over the configured
protocol there. With another server it does nothing and says so in the log.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.types import Receive

from heartdx import logs

LARGEST_HEAD = 65_536
"""Bytes of a request's line and headers before their end: h11's own limit, httptools has none.

A head that comes whole in one read of the socket (256 KiB) is the guard's to refuse."""

MOST_FIELDS = 20_000
"""Headers and trailers of one request (uvicorn adds these to those); the guard refuses far fewer
headers, but does not see what comes after the body."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)
_LOG = logs.get("serve")
_LOOKS = 4
"""Looks at the connections during the allowed time: an end comes at most a quarter late."""


def bound(receive: Receive, *, seconds: float) -> bool:
    """Let the server that runs this lifespan end connections that make no progress.

    Parameters
    ----------
    receive : the lifespan's channel as the server gave it, not one wrapped by a framework.
    seconds : time for a request's head, or for a closed connection to take its last answer.

    Returns
    -------
    Whether it could be done.
    """
    config = getattr(getattr(receive, "__self__", None), "config", None)
    if not isinstance(getattr(config, "http_protocol_class", None), type):
        logs.event(_LOG, "heads_not_bounded", level=logging.WARNING, reason="not uvicorn")
        return False
    watch(config, seconds=seconds)
    return True


def watch(config: Any, *, seconds: float) -> None:
    """The same for a server of our own, by its loaded ``uvicorn.Config``."""
    config.http_protocol_class = _watched(config.http_protocol_class, Progress(seconds))


def _watched(protocol: type, progress: Progress) -> type:
    """The protocol, its connections looked at from their beginning to their end."""
    parse = protocol.data_received  # type: ignore[attr-defined]

    class Watched(protocol):  # type: ignore[misc]
        head = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            progress.add(self)

        def connection_lost(self, error: Exception | None) -> None:
            progress.discard(self)
            super().connection_lost(error)

        def data_received(self, data: bytes) -> None:
            parse(self, data)
            cycle = self.cycle
            if cycle is not None and self.scope is cycle.scope:  # no head has begun since
                self.head = 0
                if len(self.headers) > MOST_FIELDS:
                    self.transport.close()
                return
            self.head += len(data)
            if self.head > LARGEST_HEAD and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    return Watched


class Progress:
    """Ends connections that stand still.

    A connection stands still while it waits for the same head, or is closed and the same answer
    is not taken. A pause between two requests is uvicorn's to end; a request being answered is
    the guard's.

    Parameters
    ----------
    seconds : how long one may stand still.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._since: dict[Any, tuple[object, float]] = {}
        self._next: asyncio.TimerHandle | None = None

    def add(self, connection: Any) -> None:
        """Look at a connection from now on."""
        loop = asyncio.get_running_loop()
        self._since[connection] = (_stage(connection), loop.time())
        if self._next is None:
            self._next = loop.call_later(self.seconds / _LOOKS, self._look)

    def discard(self, connection: Any) -> None:
        """Look at it no more."""
        self._since.pop(connection, None)

    def _look(self) -> None:
        """One look at all; the next one is due while there is any connection."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection, (before, since) in list(self._since.items()):
            stage = _stage(connection)
            if stage is None or stage != before:
                self._since[connection] = (stage, now)
            elif now - since >= self.seconds:
                self.discard(connection)
                connection.transport.abort()
        self._next = loop.call_later(self.seconds / _LOOKS, self._look) if self._since else None


def _stage(connection: Any) -> object:
    """What a connection waits for, None while others bound its wait."""
    cycle = connection.cycle
    if connection.transport.is_closing():
        return ("closing", cycle)
    being_answered = cycle is not None and not cycle.response_complete
    if being_answered or connection.timeout_keep_alive_task is not None:
        return None
    return ("head", cycle)
