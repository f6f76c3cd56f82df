"""The admin port: metrics, status and reload, apart from the port that patients' data come in.

A second server in the same event loop, on an address of its own (the loopback by default). With
several workers each has one on the same port: whoever is reached answers for itself, except
that ``/metrics`` adds up all of them, and a reload the others find by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import multiprocessing
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from heartdx.errors import UsageError
from heartdx.serve import connections, predictor, problems
from heartdx.serve.body import JSON
from heartdx.serve.guard import Guard
from heartdx.serve.middleware import Watch
from heartdx.serve.problems import RequestError
from heartdx.serve.telemetry import CONTENT_TYPE
from heartdx.settings import Settings

Reload = Callable[[], Awaitable[bool]]
"""Loads what the settings name now; whether it answers afterwards."""

_BACKLOG = 64
_CLOSING_SECONDS = 1
_STARTING_SECONDS = 0.005


def bound(settings: Settings) -> socket.socket | None:
    """The admin port, taken; None when the settings name none.

    Raises
    ------
    UsageError
        The address is none of this machine's, or the port is taken.
    """
    if not settings.admin_port:
        return None
    family = socket.AF_INET6 if ":" in settings.admin_address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if multiprocessing.parent_process() is not None:  # sister workers take the same port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((settings.admin_address, settings.admin_port))
        listening.listen(_BACKLOG)  # a port that another one listens on is refused only here
    except OSError as cause:
        listening.close()
        where = f"{settings.admin_address} port {settings.admin_port}"
        mend = (
            "another program listens there; choose another HEARTDX_ADMIN_PORT"
            if cause.errno == errno.EADDRINUSE
            else "choose HEARTDX_ADMIN_ADDRESS among this machine's addresses"
        )
        raise UsageError(f"HEARTDX_ADMIN_PORT: {where} cannot be taken; {mend}") from cause
    return listening


@contextlib.asynccontextmanager
async def serving(
    app: Starlette,
    listening: socket.socket | None,
    *,
    guard: Guard,
    reload: Reload | None = None,
) -> AsyncIterator[None]:
    """While entered, the admin port answers; without a socket nothing happens.

    Parameters
    ----------
    app : the service; its state's ``loaded``, ``telemetry`` and ``settings`` are shown.
    listening : what :func:`bound` gave; closed afterwards.
    guard : its counts are shown, and its keys guard what changes anything.
    reload : what ``POST /admin/reload`` does; without it there is no such door.
    """
    if listening is None:
        yield
        return
    config = uvicorn.Config(
        doors(app, guard=guard, reload=reload),
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
    )
    config.load()
    connections.watch(config, seconds=guard.seconds)
    server = _Server(config)
    running = asyncio.create_task(server.serve([listening]))
    try:
        while not server.started and not running.done():
            await asyncio.sleep(_STARTING_SECONDS)
        yield
    finally:
        server.should_exit = True
        await running


class _Server(uvicorn.Server):
    """A server that leaves the process's signals to the one of the public port."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def doors(app: Starlette, *, guard: Guard, reload: Reload | None = None) -> Starlette:
    """The application of the admin port.

    ``GET /metrics`` and ``GET /admin/status`` are open to whoever reaches the port;
    ``POST /admin/reload`` asks for a key where the service has keys.
    """
    began = time.monotonic()

    async def metrics(_: Request) -> Response:
        content = await run_in_threadpool(app.state.telemetry.exposition)
        return Response(content, media_type=CONTENT_TYPE)

    async def status(_: Request) -> Response:
        return _json(_status(app, guard, time.monotonic() - began))

    async def again(request: Request) -> Response:
        if not guard.authenticated(request.scope):
            raise RequestError("unauthorized", "send a valid API key: this door changes the model")
        assert reload is not None
        if not await reload():
            raise RequestError(
                "model-refused", "the old model stays; the log says why under swap_refused"
            )
        return _json(_status(app, guard, time.monotonic() - began))

    routes = [Route("/metrics", metrics), Route("/admin/status", status)]
    if reload is not None:
        routes.append(Route("/admin/reload", again, methods=["POST"]))
    return Starlette(
        routes=routes,
        middleware=[Middleware(Watch, telemetry=app.state.telemetry)],
        exception_handlers={RequestError: _refused, HTTPException: _not_routed},
    )


def _status(app: Starlette, guard: Guard, seconds: float) -> dict[str, object]:
    """What the person on call asks first; of this worker."""
    loaded: predictor.Loaded = app.state.loaded
    return {
        "pid": os.getpid(),
        "uptime_seconds": round(seconds, 1),
        "model": None if loaded.bundle is None else predictor.facts(loaded.bundle),
        "no_model_because": loaded.reason or None,
        "stopped": guard.stopped,
        "draining": guard.draining(),
        "in_flight": guard.in_flight,
        "waiting_for_clients": len(guard.patience),
        "refused": dict(guard.refused),
        "clients": list(guard.clients),
    }


def _json(document: Mapping[str, object]) -> Response:
    return Response(json.dumps(document, allow_nan=False), media_type=JSON)


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, RequestError)
    request.state.facts["problem"] = refusal.kind
    return problems.of_refusal(refusal).response(request.state.request_id)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = problems.of_status(error.status_code, error.headers)
    return problem.response(request.state.request_id)
