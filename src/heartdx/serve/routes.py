"""The doors of the service. They compute nothing: decoding and scoring happen elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from heartdx.bundle import Bundle
from heartdx.serve import about, page, predictor, schemas
from heartdx.serve.answer import DETAILS, Detail, Ids, document
from heartdx.serve.body import read_json
from heartdx.serve.doors import as_json, loaded_bundle, note
from heartdx.serve.inputs import ask
from heartdx.serve.predictor import Answers
from heartdx.serve.problems import InputError, RequestError
from heartdx.serve.telemetry import CONTENT_TYPE, Telemetry
from heartdx.settings import Settings

if TYPE_CHECKING:
    pass

router = APIRouter(redirect_slashes=False)


@router.post(
    "/predict",
    tags=["prediction"],
    summary="Probability of disease for one patient or several",
    description=schemas.PREDICT_TEXT,
    responses=schemas.PREDICT_RESPONSES,
    openapi_extra={"requestBody": schemas.PREDICT_BODY, "parameters": [schemas.DETAIL]},
)
async def predict(request: Request) -> Response:
    """Answer one patient or a batch."""
    bundle = loaded_bundle(request)
    detail = _detail(request)
    answers, is_batch = await _asked(request, bundle)
    return as_json(answers.of_batch() if is_batch else _document(request, answers, detail))


@router.post(
    "/v1/predict",
    tags=["prediction"],
    summary="Probability of disease for one patient",
    description=schemas.PREDICT_ONE_TEXT,
    responses=schemas.PREDICT_ONE_RESPONSES,
    openapi_extra={"requestBody": schemas.PREDICT_ONE_BODY, "parameters": [schemas.DETAIL]},
)
async def predict_one(request: Request) -> Response:
    """Answer one patient."""
    bundle = loaded_bundle(request)
    detail = _detail(request)
    answers, _ = await _asked(request, bundle, one=True)
    return as_json(_document(request, answers, detail))


@router.get("/v1/model", tags=["model"], summary="The model", responses=schemas.MODEL_RESPONSES)
async def model(request: Request) -> Response:
    """What answers, for whom, how well it did in validation, and its card."""
    return as_json(about.model(loaded_bundle(request)))


@router.get(
    "/v1/schema", tags=["model"], summary="The contract", responses=schemas.CONTRACT_RESPONSES
)
async def contract(request: Request) -> Response:
    """The 13 attributes with units, ranges and codes, and the panels."""
    return as_json(about.contract())


@router.get("/health", tags=["operations"], summary="The model", responses=schemas.HEALTH_RESPONSES)
async def health(request: Request) -> Response:
    """Which verified model answers; 503 without one. For liveness use `/livez`."""
    return as_json({"status": "ok", **predictor.facts(loaded_bundle(request))})


@router.get("/livez", tags=["operations"], summary="Alive", responses=schemas.LIVE_RESPONSES)
async def livez() -> Response:
    """200 while the process answers, with or without a model."""
    return as_json({"status": "alive"})


@router.get("/readyz", tags=["operations"], summary="Ready", responses=schemas.READY_RESPONSES)
async def readyz(request: Request) -> Response:
    """200 when `/predict` can answer, else 503 with the reason."""
    bundle = loaded_bundle(request)
    return as_json({"status": "ready", "model_version": bundle.version})


@router.get("/metrics", tags=["operations"], summary="Metrics", responses=schemas.METRICS_RESPONSES)
def metrics(request: Request) -> Response:
    """Prometheus' text format, added up over the workers."""
    telemetry: Telemetry = request.app.state.telemetry
    return Response(telemetry.exposition(), media_type=CONTENT_TYPE)


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return as_json(request.app.openapi())


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


async def _asked(request: Request, bundle: Bundle, *, one: bool = False) -> tuple[Answers, bool]:
    """The answers to a body, counted, and whether it is a batch."""
    settings: Settings = request.app.state.settings
    body = await read_json(request, limit=settings.max_body_bytes)
    asked = ask(body, max_records=settings.max_records, one=one)
    answers = predictor.answers(bundle, asked)
    note(request, answers, is_batch=asked.is_batch)
    return answers, asked.is_batch


def _document(request: Request, answers: Answers, detail: Detail) -> dict[str, object]:
    ids = Ids(request.app.ids.next(), request.state.request_id)
    return document(answers, 0, detail, ids)


def _detail(request: Request) -> Detail:
    asked = request.query_params.get("detail", "standard")
    if asked not in DETAILS:
        raise InputError([schemas.WRONG_DETAIL])
    return asked
