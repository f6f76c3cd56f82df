"""The Open Inference Protocol, version 2, in front of the same predictor.

What Triton, KServe, MLServer and their clients speak. The model answers under its own name; its
version is the first 12 digits of the bundle's digest, or the whole digest. Problems are RFC 9457
bodies with the protocol's member ``error`` beside the others.

References
----------
.. [1] KServe. Open Inference Protocol, version 2: HTTP/REST.
   https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

import heartdx
from heartdx.bundle import MODEL_NAME, Bundle
from heartdx.contract import ATTRIBUTES, NAMES
from heartdx.serve import problems, schemas, tensors
from heartdx.serve.body import JSON, parse, read_bytes
from heartdx.serve.doors import (
    answered,
    as_json,
    closed,
    loaded_bundle,
    ref,
    refused,
    scored,
    table,
    to_json,
)
from heartdx.serve.problems import RequestError
from heartdx.serve.schemas import Responses, Schema
from heartdx.serve.tensors import DATATYPES, HEADER_LENGTH, OUTPUTS, TABLE
from heartdx.settings import Settings

BINARY = "application/octet-stream"
PLATFORM = "heartdx_bundle"
EXTENSIONS = ["binary_tensor_data"]

_TEXT: Schema = {"type": "string"}

# -- the parts of the OpenAPI document ------------------------------------------------------


def _problem(description: str) -> dict[str, Any]:
    return answered(description, {problems.MEDIA_TYPE: ref("InferenceProblem")})


_NOT_READY: Responses = {503: _problem("There is no verified model; `error` says what to run.")}
_NO_SUCH_MODEL: Responses = {404: _problem("There is no model of this name and version.")}
_LIVE: Responses = {200: answered("Alive.", {JSON: ref("ServerLive")})}
_READY: Responses = {200: answered("Ready.", {JSON: ref("ServerReady")}), **_NOT_READY}
_SERVER: Responses = {200: answered("The server.", {JSON: ref("ServerMetadata")})}
_MODEL: Responses = {
    200: answered("The model.", {JSON: ref("ModelMetadata")}),
    **_NO_SUCH_MODEL,
    **_NOT_READY,
}
_MODEL_READY: Responses = {
    200: answered("The model answers.", {JSON: ref("ModelReady")}),
    **_NO_SUCH_MODEL,
    **_NOT_READY,
}
_INFER: Responses = {
    200: answered(
        f"The outputs; binary ones follow the object, whose length is then in `{HEADER_LENGTH}`.",
        {JSON: ref("InferenceResponse"), BINARY: {"type": "string", "format": "binary"}},
    ),
    400: _problem("The body, or its part before the binary data, is not strict JSON."),
    413: _problem("The body is too large."),
    415: _problem("The body is declared as something else, or is compressed."),
    422: _problem("A tensor or a value is wrong: `errors` names tensor, row and mend."),
    500: _problem("The model gave no probability, or the service failed."),
    **_NO_SUCH_MODEL,
    **_NOT_READY,
}
_INFER_TEXT = (
    f"Inputs are named tensors of shape [n] or [n, 1] ({', '.join(f'`{n}`' for n in NAMES)}), or "
    f"one tensor `{TABLE}` of shape [n, {len(NAMES)}] in this order, FP64 or FP32. Codes are "
    "UCI's, or their names in BYTES tensors. Missing is NaN, null or -9, an empty text, or an "
    "optional attribute without a tensor; `age`, `sex` and `cp` are required. All tensors have "
    f"as many rows. With the header `{HEADER_LENGTH}` the body is a JSON object of so many bytes "
    "and binary data behind it (the binary tensor data extension). FP32 has seven digits: an "
    "answer to FP32 data differs from that to the same numbers in FP64 by about 1e-7."
)
_EXAMPLES = {
    "named": {
        "summary": "One tensor for each attribute, two patients",
        "value": {
            "id": "42",
            "inputs": [
                {"name": "age", "shape": [2], "datatype": "FP64", "data": [54, 61]},
                {"name": "sex", "shape": [2], "datatype": "INT64", "data": [0, 1]},
                {
                    "name": "cp",
                    "shape": [2],
                    "datatype": "BYTES",
                    "data": ["atypical angina", "asymptomatic"],
                },
                {"name": "chol", "shape": [2], "datatype": "FP64", "data": [246, None]},
                {"name": "fbs", "shape": [2], "datatype": "BOOL", "data": [False, True]},
            ],
            "outputs": [{"name": "probability"}, {"name": "panel"}],
        },
    },
    "table": {
        "summary": "One tensor in the source's order",
        "value": {
            "inputs": [
                {
                    "name": "input",
                    "shape": [1, 13],
                    "datatype": "FP64",
                    "data": [[58, 0, 2, 136, 270, 0, 0, 150, 0, 0.4, 1, 0, None]],
                }
            ]
        },
    },
}
_BODY: Schema = {
    "required": True,
    "content": {
        JSON: {"schema": ref("InferenceRequest"), "examples": _EXAMPLES},
        BINARY: {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": f"`InferenceRequest` in `{HEADER_LENGTH}` bytes, then the data",
            }
        },
    },
}


def _in_path(name: str, description: str, **more: object) -> Schema:
    schema = {"type": "string", "minLength": 1}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
        **more,
    }


_NAME = _in_path("model_name", "the served model's name", example=MODEL_NAME)
_VERSION = _in_path("model_version", "first 12 digits of the bundle's digest, or all of it")
_OF_MODEL: dict[str, Any] = {"parameters": [_NAME]}
_OF_VERSION: dict[str, Any] = {"parameters": [_NAME, _VERSION]}


# -- the doors -----------------------------------------------------------------------------------

router = APIRouter(
    prefix=problems.INFERENCE_PREFIX,
    redirect_slashes=False,
    tags=["open inference protocol"],
    default_response_class=Response,
)


@router.get("", summary="Server metadata", responses=_SERVER)
@router.get("/", include_in_schema=False)
async def server_metadata() -> Response:
    """Name, version and extensions of this server."""
    return as_json({"name": "heartdx", "version": heartdx.__version__, "extensions": EXTENSIONS})


@router.get("/health/live", summary="Server live", responses=_LIVE)
async def server_live() -> Response:
    """200 while the process answers."""
    return as_json({"live": True})


@router.get("/health/ready", summary="Server ready", responses=_READY)
async def server_ready(request: Request) -> Response:
    """200 when the model answers, else 503 with the reason."""
    loaded_bundle(request)
    return as_json({"ready": True})


@router.get(
    "/models/{model_name}", summary="Model metadata", responses=_MODEL, openapi_extra=_OF_MODEL
)
@router.get(
    "/models/{model_name}/versions/{model_version}",
    summary="Model metadata of a version",
    responses=_MODEL,
    openapi_extra=_OF_VERSION,
)
async def model_metadata(request: Request) -> Response:
    """Versions, inputs and outputs of the model."""
    bundle = _asked_for(request)
    return as_json(
        {
            "name": bundle.name,
            "versions": [bundle.version],
            "platform": PLATFORM,
            "inputs": [_metadata(attribute.name, "FP64") for attribute in ATTRIBUTES],
            "outputs": [_metadata(name, datatype) for name, (datatype, _) in OUTPUTS.items()],
        }
    )


@router.get(
    "/models/{model_name}/ready",
    summary="Model ready",
    responses=_MODEL_READY,
    openapi_extra=_OF_MODEL,
)
@router.get(
    "/models/{model_name}/versions/{model_version}/ready",
    summary="Model ready in a version",
    responses=_MODEL_READY,
    openapi_extra=_OF_VERSION,
)
async def model_ready(request: Request) -> Response:
    """200 when this model answers."""
    return as_json({"name": _asked_for(request).name, "ready": True})


@router.post(
    "/models/{model_name}/infer",
    summary="Inference",
    description=_INFER_TEXT,
    responses=_INFER,
    openapi_extra={**_OF_MODEL, "requestBody": _BODY},
)
@router.post(
    "/models/{model_name}/versions/{model_version}/infer",
    summary="Inference by a version",
    description=_INFER_TEXT,
    responses=_INFER,
    openapi_extra={**_OF_VERSION, "requestBody": _BODY},
)
async def infer(request: Request) -> Response:
    """Answer the patients of the input tensors."""
    bundle = _asked_for(request)
    settings: Settings = request.app.state.settings
    raw = await read_bytes(request, limit=settings.max_body_bytes, media=(JSON, BINARY, ""))
    header, binary = _parted(raw, request.headers.get(HEADER_LENGTH))
    document = parse(header, nan_is_missing=True)
    asked = tensors.inference(document, binary, max_records=settings.max_records)
    X = table(asked.given, max_records=settings.max_records)
    batch = scored(request, bundle, X, asked.given)
    outputs, behind = tensors.outputs(asked.wanted, batch)
    answer: dict[str, object] = {
        "model_name": bundle.name,
        "model_version": bundle.version,
        **({} if asked.id is None else {"id": asked.id}),
        "outputs": outputs,
    }
    return _with_binary(to_json(answer), behind) if behind else as_json(answer)


def _asked_for(request: Request) -> Bundle:
    """The served model, if the path names it."""
    bundle = loaded_bundle(request)
    asked = request.path_params
    versions = (bundle.version, bundle.digest)
    if (
        asked["model_name"] != bundle.name
        or asked.get("model_version", versions[0]) not in versions
    ):
        raise RequestError(
            "not-found",
            f"this service answers as model {bundle.name}, version {bundle.version}, only",
        )
    return bundle


def _parted(raw: bytes, length: str | None) -> tuple[bytes, bytes]:
    """The JSON object and the bytes behind it."""
    if length is None:
        return raw, b""
    is_number = length.isascii() and length.isdecimal() and len(length) <= 18
    if not is_number or int(length) > len(raw):
        raise refused(
            HEADER_LENGTH,
            "range",
            "the number of bytes of the JSON object, at most the body's",
            "count the bytes of the object, or send no such header and no binary data",
            pointer="",
        )
    return raw[: int(length)], raw[int(length) :]


def _with_binary(header: bytes, behind: bytes) -> Response:
    return Response(header + behind, media_type=BINARY, headers={HEADER_LENGTH: str(len(header))})


def _metadata(name: str, datatype: str) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": [-1]}


# -- the schemas -----------------------------------------------------------------------------


def components(*, max_records: int) -> Schema:
    """The protocol's named schemas.

    A request's schema cannot say that data fit their shape and tensors fit each other; what it
    refuses is refused, what it accepts may still be.
    """
    problem = schemas.components(max_records=max_records)["Problem"]
    return {
        "InferenceProblem": {
            **problem,
            "description": "Why there is no answer (RFC 9457, and the protocol's `error`).",
            "properties": {**problem["properties"], "error": _TEXT},
            "required": [*problem["required"], "error"],
        },
        **_REQUEST,
        **_ANSWERS,
    }


def _parameters(properties: Schema) -> Schema:
    """Parameters we read, and others of the protocol's types, which change nothing."""
    return {
        "type": ["object", "null"],
        "properties": properties,
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    }


_SHAPE: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 1},
    "minItems": 1,
    "maxItems": 2,
}
_ELEMENT: Schema = {"type": ["number", "string", "boolean", "null"]}
_REQUEST: Schema = {
    "InferenceRequest": closed(
        "Tensors of one or more patients.",
        {
            "id": {"type": ["string", "null"], "pattern": tensors.ID_PATTERN},
            "parameters": _parameters({tensors.BINARY_OUTPUT: {"type": "boolean"}}),
            "inputs": {
                "type": "array",
                "items": ref("InferenceInput"),
                "minItems": 1,
                "maxItems": len(NAMES),
            },
            "outputs": {"type": ["array", "null"], "items": ref("InferenceWanted")},
        },
        optional=("id", "parameters", "outputs"),
    ),
    "InferenceInput": closed(
        "One input tensor; its elements are flat or nested as the shape says.",
        {
            "name": {"enum": [*NAMES, TABLE]},
            "shape": _SHAPE,
            "datatype": {"enum": list(DATATYPES)},
            "parameters": _parameters({tensors.BINARY_SIZE: {"type": "integer", "minimum": 0}}),
            "data": {
                "type": ["array", "null"],
                "minItems": 1,
                "items": {"anyOf": [_ELEMENT, {"type": "array", "items": _ELEMENT}]},
            },
        },
        optional=("parameters", "data"),
    ),
    "InferenceWanted": closed(
        "One requested output.",
        {
            "name": {"enum": list(OUTPUTS)},
            "parameters": _parameters({tensors.BINARY_DATA: {"type": "boolean"}}),
        },
        optional=("parameters",),
    ),
}
_TENSOR_METADATA: Schema = {
    "type": "array",
    "items": closed(
        "One tensor; -1 is any number of rows.",
        {
            "name": _TEXT,
            "datatype": {"enum": list(DATATYPES)},
            "shape": {"type": "array", "items": {"type": "integer"}},
        },
    ),
}
_ANSWERS: Schema = {
    "ServerLive": closed("The process answers.", {"live": {"const": True}}),
    "ServerReady": closed("Inference can be asked for.", {"ready": {"const": True}}),
    "ServerMetadata": closed(
        "This server.",
        {"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}},
    ),
    "ModelReady": closed("This model answers.", {"name": _TEXT, "ready": {"const": True}}),
    "ModelMetadata": closed(
        "The model's tensors.",
        {
            "name": _TEXT,
            "versions": {"type": "array", "items": _TEXT},
            "platform": _TEXT,
            "inputs": _TENSOR_METADATA,
            "outputs": _TENSOR_METADATA,
        },
    ),
    "InferenceResponse": closed(
        "The outputs, one element for each patient.",
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "id": {**_TEXT, "description": "the request's"},
            "outputs": {"type": "array", "items": ref("InferenceOutput"), "minItems": 1},
        },
        optional=("id",),
    ),
    "InferenceOutput": closed(
        "One output tensor.",
        {
            "name": {"enum": list(OUTPUTS)},
            "datatype": {"enum": list(DATATYPES)},
            "shape": _SHAPE,
            "parameters": closed("Where the data are.", {tensors.BINARY_SIZE: {"type": "integer"}}),
            "data": {"type": "array", "items": {"type": ["number", "string"]}},
        },
        optional=("parameters", "data"),
    ),
}
