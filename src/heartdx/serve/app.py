"""The application: settings in, FastAPI out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

import heartdx
from heartdx import bundle as bundles
from heartdx import logs
from heartdx.errors import BundleError, NoModelError
from heartdx.serve import predictor, problems, schemas, workers
from heartdx.serve.middleware import Watch
from heartdx.serve.problems import InputError, RequestError
from heartdx.serve.routes import router
from heartdx.serve.telemetry import Telemetry
from heartdx.settings import Settings

_LOG = logs.get("serve")


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application; the model loads in its lifespan.

    Raises
    ------
    UsageError
        ``settings.model_path`` names something that is never served.
    """
    _refuse_unservable(settings)
    telemetry = Telemetry(workers.shared_folder())
    app = FastAPI(
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
    app.state.loaded = predictor.NOT_STARTED
    app.include_router(router)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_middleware(Watch, telemetry=telemetry)
    schemas.install(app, max_records=settings.max_records)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    _set_up_logs(settings.log_level)
    app.state.loaded = predictor.load(settings)
    app.state.telemetry.started(app.state.loaded.bundle)
    _tell(app.state.loaded)
    try:
        yield
    finally:
        app.state.loaded = predictor.NOT_STARTED
        app.state.telemetry.stopped()


def _refuse_unservable(settings: Settings) -> None:
    with contextlib.suppress(NoModelError, BundleError):
        bundles.locate(models_dir=settings.models_dir, model_path=settings.model_path)


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
    return problems.of_refusal(refusal).response(request.state.request_id)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = problems.of_status(error.status_code, error.headers)
    return problem.response(request.state.request_id)
