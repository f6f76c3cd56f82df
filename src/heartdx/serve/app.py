"""The application: settings in, FastAPI out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

from fastapi import Request, Response
from starlette.exceptions import HTTPException

import heartdx
from heartdx import bundle as bundles
from heartdx import logs, store
from heartdx.errors import BundleError, NoModelError, UsageError
from heartdx.serve import (
    admin,
    batch,
    batch_schemas,
    mlflow_doors,
    open_inference,
    page,
    predictor,
    problems,
    schemas,
    swap,
    workers,
)
from heartdx.serve.browsers import Cors, SecurityHeaders
from heartdx.serve.front import Service
from heartdx.serve.guard import Guard, GuardMiddleware
from heartdx.serve.middleware import Watch
from heartdx.serve.paths import route_path
from heartdx.serve.problems import InputError, RequestError
from heartdx.serve.routes import router
from heartdx.serve.shadow import Shadow
from heartdx.serve.telemetry import Telemetry
from heartdx.settings import Settings, variable

_LOG = logs.get("serve")


def create_app(settings: Settings) -> Service:
    """The service as an ASGI application; the model loads in its lifespan.

    Raises
    ------
    UsageError
        ``settings.model_path`` or ``settings.shadow_path`` names something that is never served.
    """
    _refuse_unservable(settings)
    telemetry = Telemetry(workers.shared_folder())
    app = Service(
        title="heartdx",
        version=heartdx.__version__,
        description=schemas.ABOUT,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.telemetry = telemetry
    guard = Guard.from_settings(settings, stopped=lambda: store.stopped(settings.models_dir))
    guard.tell_in_flight, guard.tell_refused = telemetry.in_flight.set, telemetry.count_shed
    app.prepare(telemetry, guard, max_body_bytes=settings.max_body_bytes)
    app.state.guard, app.state.admin = guard, admin.bound(settings)
    app.include_router(router)
    app.include_router(batch.router)
    app.include_router(open_inference.router)
    app.include_router(mlflow_doors.router)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_middleware(GuardMiddleware, guard=guard)
    app.add_middleware(Cors, origins=guard.origins)
    app.add_middleware(Watch, telemetry=telemetry)
    app.add_middleware(SecurityHeaders, page=page.page(app.title))
    parts = (open_inference.components, mlflow_doors.components, batch_schemas.components)
    schemas.install(app, max_records=settings.max_records, parts=parts)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Service) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    _set_up_logs(settings.log_level)
    app.state.swapping = asyncio.Lock()
    try:
        app.state.telemetry.started()
        app.serve(predictor.load(settings))
        _tell(app.state.loaded)
        app.lines.start(asyncio.get_running_loop().call_later)
        reload = functools.partial(swap.swap, app)
        administered = admin.serving(app, app.state.admin, guard=app.guard, reload=reload)
        async with _background(app), app.guard.watching(), administered:
            yield
    finally:  # after a start that failed too
        if app.state.admin is not None:
            app.state.admin.close()
        app.serve(predictor.NOT_STARTED)
        app.lines.flush()
        app.state.telemetry.stopped()


@contextlib.asynccontextmanager
async def _background(app: Service) -> AsyncIterator[None]:
    """What runs beside the answers, ended with the service."""
    settings: Settings = app.state.settings
    tasks = []
    if settings.poll_seconds and settings.model_path is None:
        tasks.append(asyncio.create_task(swap.follow(app)))
    if settings.shadow_path is not None:
        challenger = _challenger(settings)
        if challenger.bundle is None:
            logs.event(_LOG, "shadow_refused", level=logging.ERROR, reason=challenger.reason)
        else:
            logs.event(_LOG, "shadow", digest=challenger.bundle.digest)
            app.shadow = Shadow(challenger.bundle, app.state.telemetry)
            tasks.append(asyncio.create_task(app.shadow.run()))
    try:
        yield
    finally:
        app.shadow = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _challenger(settings: Settings) -> predictor.Loaded:
    """The bundle beside the one that answers, as strictly verified."""
    return predictor.load(replace(settings, model_path=settings.shadow_path))


def _refuse_unservable(settings: Settings) -> None:
    with contextlib.suppress(NoModelError, BundleError):
        bundles.locate(models_dir=settings.models_dir, model_path=settings.model_path)
    if settings.shadow_path is not None and settings.shadow_path.is_file():
        raise UsageError(
            f"{variable('shadow_path')}={settings.shadow_path}: expected a bundle folder "
            "(models/bundles/<digest>); a file is never loaded"
        )


def _set_up_logs(level: str) -> None:
    """Our lines as JSON, uvicorn's too; its access log would print query strings."""
    logs.set_up(level=level, as_json=True)
    for handler in logging.getLogger("uvicorn").handlers:
        handler.setFormatter(logs.JsonFormatter())
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def _tell(loaded: predictor.Loaded) -> None:
    if loaded.bundle is None:
        logs.event(_LOG, "not_ready", level=logging.WARNING, reason=loaded.reason)
    else:
        logs.event(_LOG, "ready", **predictor.facts(loaded.bundle))


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, RequestError)
    if isinstance(refusal, InputError):
        request.app.state.telemetry.count_rejected(refusal.problems)
    request.state.facts["problem"] = refusal.kind
    problem = problems.of_refusal(refusal)
    return problem.response(request.state.request_id, path=route_path(request.scope))


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = problems.of_status(error.status_code, error.headers)
    return problem.response(request.state.request_id, path=route_path(request.scope))
