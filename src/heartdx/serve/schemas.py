"""The service's OpenAPI document; every request field is made from the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from heartdx.contract import (
    ATTRIBUTES,
    MISSING_NUMBER,
    NAMES,
    OUTCOME,
    PANEL_NAMES,
    PANELS,
    Attribute,
)
from heartdx.records import ALWAYS_REQUIRED, CODINGS, Coding
from heartdx.serve import problems
from heartdx.serve.body import JSON
from heartdx.serve.inputs import CODING, RECORDS, VALUES
from heartdx.serve.middleware import REQUEST_ID
from heartdx.serve.predictor import LABELS
from heartdx.serve.telemetry import CONTENT_TYPE

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

ABOUT = (
    "Diagnostic probability of significant coronary artery disease at angiography, for patients "
    "sent to angiography. It tells of the time of the examination, not of the future, and "
    "supports a clinician's judgement; it does not replace it."
)
PREDICT_TEXT = (
    "Send one patient's fields, or several in `records`. "
    f"{', '.join(f'`{name}`' for name in ALWAYS_REQUIRED)} are required; what was not measured "
    "is null or left out. The richest panel whose inputs are known answers, and is named:\n\n"
    + "\n".join(f"- *{p.name}* ({p.label}) needs {', '.join(p.required)}" for p in PANELS)
    + "\n\nCodes are UCI's, or their names. For the popular Kaggle file's codes add `\"coding\": "
    '"kaggle"`; codes that exist only there are refused otherwise.'
)
EXAMPLES: dict[str, dict[str, Any]] = {
    "words": {
        "summary": "Codes by name, which no coding can confuse",
        "value": {
            "age": 54,
            "sex": "female",
            "cp": "atypical angina",
            "trestbps": 130,
            "chol": 246,
            "fbs": False,
            "restecg": "normal",
        },
    },
    "exercise": {
        "summary": "With an exercise test; cholesterol not measured",
        "value": {
            "age": 61,
            "sex": 1,
            "cp": 4,
            "trestbps": 140,
            "chol": None,
            "fbs": 0,
            "restecg": 2,
            "thalach": 128,
            "exang": 1,
            "oldpeak": 1.8,
            "slope": 2,
        },
    },
    "kaggle": {
        "summary": "The Kaggle file's codes, said so",
        "value": {"coding": "kaggle", "age": 48, "sex": 1, "cp": 0, "thal": 2, "ca": 0},
    },
    "batch": {
        "summary": "Several patients, named or in the source's order",
        "value": {
            "records": [
                {"age": 66, "sex": "male", "cp": "asymptomatic", "trestbps": 150},
                {"values": [58, 0, 2, 136, 270, 0, 0, 150, 0, 0.4, 1, 0, 3]},
                {"values": [47, 1, 3, 118, None, 0, None, 160, 0, 0, None, None, None]},
            ]
        },
    },
}
"""Bodies that `/predict` answers with 200; a test sends each."""


# -- the request -----------------------------------------------------------------------------


def field(attribute: Attribute, coding: Coding) -> Schema:
    """The JSON schema of one attribute in one coding.

    Examples
    --------
    >>> field(ATTRIBUTES[0], "uci")["minimum"]
    18
    """
    about = {"title": attribute.label, "description": _field_text(attribute)}
    if attribute.unit:
        about["x-unit"] = attribute.unit
    if attribute.plausible is None:
        return {**about, "enum": _codes(attribute, coding)}
    low, high = attribute.plausible
    number = {"type": "number", "minimum": low, "maximum": high}
    if attribute.name in ALWAYS_REQUIRED:
        return {**about, **number}
    return {**about, "anyOf": [number, {"enum": [None, int(MISSING_NUMBER)]}]}


def _codes(attribute: Attribute, coding: Coding) -> list[object]:
    numbers: list[object] = [c.kaggle if coding == "kaggle" else c.value for c in attribute.codes]
    if coding == "kaggle" and attribute.kaggle_missing is not None:
        numbers.append(attribute.kaggle_missing)
    words = [w for c in attribute.codes for w in (c.name, *c.words) if not w.isdigit()]
    truths: list[object] = [False, True] if "true" in words else []
    missing = [] if attribute.name in ALWAYS_REQUIRED else [None, int(MISSING_NUMBER)]
    return [*numbers, *words, *truths, *missing]


def _field_text(attribute: Attribute) -> str:
    needed = "Required." if attribute.name in ALWAYS_REQUIRED else "Missing: null."
    return f"{attribute.description} In UCI's coding {attribute.expected}. {needed}"


def _properties(coding: Coding) -> Schema:
    return {attribute.name: field(attribute, coding) for attribute in ATTRIBUTES}


def _coding_field(coding: Coding) -> Schema:
    accepted = [coding] if coding == "kaggle" else [coding, None]
    return {"enum": accepted, "description": f"one of {', '.join(CODINGS)}; UCI's when left out"}


def _patient(coding: Coding) -> Schema:
    required = [*ALWAYS_REQUIRED, *([CODING] if coding == "kaggle" else [])]
    return {
        "title": f"One patient, {coding} codes",
        "type": "object",
        "properties": {**_properties(coding), CODING: _coding_field(coding)},
        "required": required,
        "additionalProperties": False,
    }


def _record(coding: Coding) -> Schema:
    return {
        "title": f"One patient of several, {coding} codes",
        "type": "object",
        "properties": _properties(coding),
        "required": list(ALWAYS_REQUIRED),
        "additionalProperties": False,
    }


def _values(coding: Coding) -> Schema:
    count = len(NAMES)
    return {
        "title": f"One patient's values, {coding} codes",
        "type": "object",
        "properties": {
            VALUES: {
                "type": "array",
                "description": "In the order " + ", ".join(NAMES),
                "prefixItems": [field(attribute, coding) for attribute in ATTRIBUTES],
                "items": False,
                "minItems": count,
                "maxItems": count,
            }
        },
        "required": [VALUES],
        "additionalProperties": False,
    }


def _batch(coding: Coding, max_records: int) -> Schema:
    either = [_ref(f"Record{_suffix(coding)}"), _ref(f"Values{_suffix(coding)}")]
    records = {
        "type": "array",
        "items": {"oneOf": either},
        "minItems": 1,
        "maxItems": max_records,
    }
    return {
        "title": f"Several patients, {coding} codes",
        "type": "object",
        "properties": {RECORDS: records, CODING: _coding_field(coding)},
        "required": [RECORDS, *([CODING] if coding == "kaggle" else [])],
        "additionalProperties": False,
    }


def _suffix(coding: Coding) -> str:
    return "" if coding == "uci" else coding.capitalize()


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


# -- the answers -----------------------------------------------------------------------------


def _object(description: str, properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


_TEXT: Schema = {"type": "string"}
_PROBABILITY: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_PREDICTION: Schema = {"enum": [0, 1], "description": f"1: {OUTCOME.positive}, 0: not"}
_LABEL: Schema = {"enum": list(LABELS)}
_PANEL: Schema = {"enum": list(PANEL_NAMES)}
_MODEL: Schema = {
    "threshold": {**_PROBABILITY, "description": "probability from which the prediction is 1"},
    "model_name": _TEXT,
    "model_version": _TEXT,
}


def _list(of: Schema, description: str) -> Schema:
    return {"type": "array", "items": of, "description": description}


_ANSWERS: Schema = {
    "Prediction": _object(
        "The answer to one patient.",
        {
            "prediction": _PREDICTION,
            "label": _LABEL,
            "probability": {**_PROBABILITY, "description": f"of {OUTCOME.positive}"},
            "confidence": {**_PROBABILITY, "description": "probability of the named label"},
            "panel": {**_PANEL, "description": "the panel that answered"},
            "unused_inputs": _list({"enum": list(NAMES)}, "sent, but not used by the panel"),
            **_MODEL,
        },
    ),
    "Predictions": _object(
        "The answers to several patients, in their order.",
        {
            "predictions": _list(_PREDICTION, "one for each record"),
            "probabilities": _list(_PROBABILITY, f"of {OUTCOME.positive}"),
            "labels": _list(_LABEL, "the predictions in words"),
            "panels": _list(_PANEL, "the panels that answered"),
            **_MODEL,
        },
    ),
    "Health": _object(
        "The verified model.",
        {
            "status": {"const": "ok"},
            "model_name": _TEXT,
            "model_version": _TEXT,
            "model_digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "panels": _list(_PANEL, "the panels the model has"),
        },
    ),
    "Alive": _object("The process answers.", {"status": {"const": "alive"}}),
    "Ready": _object(
        "Predictions can be asked for.", {"status": {"const": "ready"}, "model_version": _TEXT}
    ),
    "FieldProblem": _object(
        "What is wrong with one field; never its value.",
        {
            "field": _TEXT,
            "kind": {"enum": ["missing", "unknown", "type", "range", "code", "coding"]},
            "expected": {**_TEXT, "description": "what would have been right"},
            "mend": {**_TEXT, "description": "what to do next"},
            "pointer": {**_TEXT, "description": "JSON pointer into the request body"},
            "record": {"type": "integer", "minimum": 0, "description": "place in the batch"},
        },
        optional=("record",),
    ),
    "Problem": _object(
        "Why there is no answer (RFC 9457).",
        {
            "type": {"enum": [problems.TYPE_PREFIX + kind for kind in problems.KINDS]},
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": {**_TEXT, "description": "one sentence that says how to mend it"},
            "request_id": {**_TEXT, "description": f"the {REQUEST_ID} of this answer"},
            "errors": _list(_ref("FieldProblem"), "each field and its mend"),
        },
        optional=("errors",),
    ),
}
_HEADERS: Schema = {
    REQUEST_ID: {
        "description": "the request's own if it was fit, else a new one",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    }
}


def _answer(description: str, schema: Schema, media: str = JSON) -> dict[str, Any]:
    return {
        "description": description,
        "headers": _HEADERS,
        "content": {media: {"schema": schema}},
    }


def _problem(description: str) -> dict[str, Any]:
    return _answer(description, _ref("Problem"), problems.MEDIA_TYPE)


_NO_MODEL: Responses = {503: _problem("There is no verified model; `detail` says what to run.")}
PREDICT_BODY: Schema = {
    "required": True,
    "content": {JSON: {"schema": _ref("PredictRequest"), "examples": EXAMPLES}},
}
PREDICT_RESPONSES: Responses = {
    200: _answer(
        "One patient's answer, or a batch's.",
        {"oneOf": [_ref("Prediction"), _ref("Predictions")]},
    ),
    400: _problem("The body is not strict JSON."),
    413: _problem("The body is too large."),
    415: _problem("The body is not declared as JSON, or is compressed."),
    422: _problem("A field is wrong: `errors` names field, range and mend."),
    500: _problem("The model gave no probability, or the service failed."),
    **_NO_MODEL,
}
HEALTH_RESPONSES: Responses = {200: _answer("A verified model.", _ref("Health")), **_NO_MODEL}
READY_RESPONSES: Responses = {200: _answer("Ready.", _ref("Ready")), **_NO_MODEL}
LIVE_RESPONSES: Responses = {200: _answer("Alive.", _ref("Alive"))}
METRICS_RESPONSES: Responses = {
    200: {
        "description": "All metrics.",
        "headers": _HEADERS,
        "content": {CONTENT_TYPE.partition(";")[0]: {"schema": _TEXT}},
    }
}


# -- the document ----------------------------------------------------------------------------


def components(*, max_records: int) -> Schema:
    """All named schemas of the document."""
    requests: Schema = {}
    for coding in CODINGS:
        suffix = _suffix(coding)
        requests[f"Patient{suffix}"] = _patient(coding)
        requests[f"Record{suffix}"] = _record(coding)
        requests[f"Values{suffix}"] = _values(coding)
        requests[f"Batch{suffix}"] = _batch(coding, max_records)
    shapes = [f"{shape}{_suffix(coding)}" for coding in CODINGS for shape in ("Patient", "Batch")]
    requests["PredictRequest"] = {"oneOf": [_ref(shape) for shape in shapes]}
    return {**requests, **_ANSWERS}


def install(app: FastAPI, *, max_records: int) -> None:
    """Make the application publish its routes together with our schemas."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generated()
            document["components"] = {"schemas": components(max_records=max_records)}
            for path in document["paths"].values():
                for operation in path.values():
                    _keep_documented_media(operation["responses"])
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _keep_documented_media(responses: Mapping[str, Any]) -> None:
    """FastAPI adds an empty JSON answer to every route; drop it where the answer is not JSON."""
    for response in responses.values():
        content = response.get("content", {})
        if len(content) > 1:
            content.pop(JSON, None)
