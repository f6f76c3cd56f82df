"""The doors of the service. They compute nothing: decoding and scoring happen elsewhere."""

from __future__ import annotations

import json
from collections import Counter

from fastapi import APIRouter, Request, Response

from heartdx.serve import page, predictor, schemas
from heartdx.serve.body import JSON, read_json
from heartdx.serve.inputs import ask
from heartdx.serve.predictor import Answers, Loaded
from heartdx.serve.problems import RequestError
from heartdx.serve.telemetry import CONTENT_TYPE, Telemetry
from heartdx.settings import Settings

router = APIRouter(redirect_slashes=False)


@router.post(
    "/predict",
    tags=["prediction"],
    summary="Probability of disease for one patient or several",
    description=schemas.PREDICT_TEXT,
    responses=schemas.PREDICT_RESPONSES,
    openapi_extra={"requestBody": schemas.PREDICT_BODY},
)
async def predict(request: Request) -> Response:
    """Answer one patient or a batch."""
    bundle = _loaded(request).require()
    settings: Settings = request.app.state.settings
    body = await read_json(request, limit=settings.max_body_bytes)
    asked = ask(body, max_records=settings.max_records)
    answers = predictor.answers(bundle, asked)
    _note(request, answers)
    return _json(answers.of_batch() if asked.is_batch else answers.of_one(asked.X[0]))


@router.get("/health", tags=["operations"], summary="The model", responses=schemas.HEALTH_RESPONSES)
async def health(request: Request) -> Response:
    """Which verified model answers; 503 without one. For liveness use `/livez`."""
    return _json({"status": "ok", **predictor.facts(_loaded(request).require())})


@router.get("/livez", tags=["operations"], summary="Alive", responses=schemas.LIVE_RESPONSES)
async def livez() -> Response:
    """200 while the process answers, with or without a model."""
    return _json({"status": "alive"})


@router.get("/readyz", tags=["operations"], summary="Ready", responses=schemas.READY_RESPONSES)
async def readyz(request: Request) -> Response:
    """200 when `/predict` can answer, else 503 with the reason."""
    bundle = _loaded(request).require()
    return _json({"status": "ready", "model_version": bundle.version})


@router.get("/metrics", tags=["operations"], summary="Metrics", responses=schemas.METRICS_RESPONSES)
def metrics(request: Request) -> Response:
    """Prometheus' text format, added up over the workers."""
    telemetry: Telemetry = request.app.state.telemetry
    return Response(telemetry.exposition(), media_type=CONTENT_TYPE)


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return _json(request.app.openapi())


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The documentation page."""
    return Response(page.page(request.app.title), media_type="text/html")


@router.get("/docs/assets/{name}", include_in_schema=False)
def docs_asset(name: str) -> Response:
    """A file of the documentation page."""
    if name not in page.ASSETS:
        raise RequestError("not-found", "the documentation page has no such file")
    return Response(page.asset(name), media_type=page.ASSETS[name])


def _loaded(request: Request) -> Loaded:
    loaded: Loaded = request.app.state.loaded
    return loaded


def _json(document: dict[str, object]) -> Response:
    content = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return Response(content, media_type=JSON)


def _note(request: Request, answers: Answers) -> None:
    """Counts for the metrics and the log line: how many patients by panel, nothing of them."""
    request.app.state.telemetry.count_answers(answers)
    request.state.facts["panels"] = dict(Counter(answers.panels))
