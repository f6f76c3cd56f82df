"""The service's OpenAPI document; every request field is made from the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

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
from heartdx.errors import FieldProblem
from heartdx.records import ALWAYS_REQUIRED, CODINGS, Coding
from heartdx.reliability import BANDS, RANGE_HOLDS_FOR
from heartdx.serve import answer, problems
from heartdx.serve.body import JSON
from heartdx.serve.inputs import CODING, RECORDS, VALUES
from heartdx.serve.middleware import REQUEST_ID
from heartdx.serve.paths import ALWAYS_OPEN
from heartdx.serve.predictor import ABSTENTIONS, LABELS
from heartdx.serve.problems import Located
from heartdx.serve.telemetry import CONTENT_TYPE

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]


class Part(Protocol):
    """Makes the named schemas of some doors."""

    def __call__(self, *, max_records: int) -> Schema: ...


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
PREDICT_ONE_TEXT = (
    "As `/predict`, for exactly one patient. `detail` chooses how much the answer says: `none` "
    "the bare numbers, `standard` how sure it is and who answered, `full` also the reasons "
    "(in log-odds, or a forest's in votes), the quality of the data and the model's whole identity."
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


def _or_null(of: Schema) -> Schema:
    return {"anyOf": [of, {"type": "null"}]}


_BARE: Schema = {
    "prediction": {**_or_null(_PREDICTION), "description": "null when the policy abstains"},
    "label": _or_null(_LABEL),
    "probability": {**_PROBABILITY, "description": f"of {OUTCOME.positive}"},
}
_STANDARD: Schema = {
    "confidence": {**_PROBABILITY, "description": "probability of the named label"},
    "calibration_range": {
        **_or_null({"type": "array", "items": _PROBABILITY, "minItems": 2, "maxItems": 2}),
        "description": RANGE_HOLDS_FOR,
    },
    "band": {"enum": [band.name for band in BANDS], "description": "the probability in words"},
    "threshold": {**_PROBABILITY, "description": "probability from which the prediction is 1"},
    "panel": {**_PANEL, "description": "the panel that answered"},
    "unused_inputs": _list({"enum": list(NAMES)}, "sent, but not used by the panel"),
    "abstain": {"type": "boolean", "description": "the model's policy gives no prediction"},
    "abstain_reason": _or_null({"enum": list(ABSTENTIONS)}),
    "model_name": _TEXT,
    "model_version": _TEXT,
}
_FULL: Schema = {
    "threshold_name": {**_TEXT, "description": "the rule that the threshold follows from"},
    "calibration_range_note": _TEXT,
    "reasons": {
        "anyOf": [_ref("Reasons"), _ref("VoteReasons"), {"type": "null"}],
        "description": "by `scale`: of a logistic regression `log-odds`, of a forest `votes`; null "
        "in a model made without what they are told against",
    },
    "data_quality": _or_null(_ref("DataQuality")),
    "model": _ref("ModelIdentity"),
    "intended_use": _TEXT,
}
_IDS: Schema = {
    "prediction_id": {**_TEXT, "description": "unique for each answered patient"},
    "request_id": {**_TEXT, "description": f"the {REQUEST_ID} of this answer"},
}
_NAME: Schema = {"enum": list(NAMES)}


def _contributions(unit: str) -> Schema:
    parts = {"attribute": _NAME, "label": _TEXT, unit: {"type": "number"}}
    return _list(
        _object("One attribute's part, the largest first.", parts),
        "exact, regrouped to the attributes",
    )


_DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_ANSWERS: Schema = {
    "Reasons": {
        **_object(
            "What the probability is made of: base and contributions add up to its log-odds.",
            {
                "scale": {"const": "log-odds"},
                "reference": _TEXT,
                "base": {"type": "number", "description": "log-odds of the reference patient"},
                "contributions": _contributions("log_odds"),
            },
        ),
        "examples": [
            {
                "scale": "log-odds",
                "reference": "mean of the panel's training patients",
                "base": 0.29,
                "contributions": [
                    {"attribute": "cp", "label": "Chest pain type", "log_odds": 0.735},
                    {"attribute": "age", "label": "Age", "log_odds": -0.12},
                ],
            }
        ],
    },
    "VoteReasons": {
        **_object(
            "What a forest's votes are made of: base and contributions add up to `votes`. The "
            "calibration that makes the probability of them stands apart: "
            "1 / (1 + exp(-(slope * votes + intercept))).",
            {
                "scale": {"const": "votes"},
                "reference": _TEXT,
                "base": {**_PROBABILITY, "description": "votes for the reference patient"},
                "contributions": _contributions("votes"),
                "votes": {**_PROBABILITY, "description": "mean over the trees, for this patient"},
                "calibration": _object(
                    "The same for every patient of the panel.",
                    {"slope": {"type": "number"}, "intercept": {"type": "number"}},
                ),
            },
        ),
        "examples": [
            {
                "scale": "votes",
                "reference": "typical training patient of the panel: means and most frequent codes",
                "base": 0.6,
                "contributions": [
                    {"attribute": "cp", "label": "Chest pain type", "votes": -0.25},
                    {"attribute": "age", "label": "Age", "votes": 0.05},
                ],
                "votes": 0.4,
                "calibration": {"slope": 7.2, "intercept": -3.6},
            }
        ],
    },
    "DataQuality": _object(
        "How usual the patient's values are; names only.",
        {
            "missing": _list(_NAME, "not known"),
            "imputed": _list(_NAME, "of these, what the panel put a typical value for"),
            "implausible": _list({"type": "object"}, "rules that the values break"),
            "out_of_range": _list(_NAME, "outside the training patients' range"),
            "rare": _list(_NAME, "codes that few training patients had"),
            "distance": {"type": "number", "description": "from the training population"},
            "distance_limit": {"type": "number"},
            "far": {"type": "boolean", "description": "farther than the limit"},
        },
    ),
    "ModelIdentity": _object(
        "What answered.",
        {"name": _TEXT, "version": _TEXT, "digest": _DIGEST, "contract": _DIGEST},
    ),
    "Model": _object(
        "The model that answers.",
        {
            "name": _TEXT,
            "version": _TEXT,
            "digest": _DIGEST,
            "contract": _DIGEST,
            "intended_use": _TEXT,
            "threshold": _PROBABILITY,
            "threshold_name": _TEXT,
            "abstain_when": _list({"enum": list(ABSTENTIONS)}, "the declared policy"),
            "panels": {
                "type": "object",
                "propertyNames": _PANEL,
                "additionalProperties": {"type": "object"},
                "description": "each panel's model, inputs and validation",
            },
            "card": {**_or_null(_TEXT), "description": "the model card, Markdown"},
        },
    ),
    "Contract": _object(
        "The 13 attributes and the panels.",
        {
            "version": _TEXT,
            "fingerprint": _DIGEST,
            "outcome": {"type": "object"},
            "attributes": _list({"type": "object"}, "in the source's order"),
            "panels": _list({"type": "object"}, "in the order of care"),
        },
    ),
    "Prediction": _object(
        "The answer to one patient.",
        {
            **_BARE,
            **_STANDARD,
            **_FULL,
            **_IDS,
        },
        optional=(*_STANDARD, *_FULL),
    ),
    "Predictions": _object(
        "The answers to several patients, in their order.",
        {
            "predictions": _list(
                _or_null(_PREDICTION), "one for each record; null where the policy abstains"
            ),
            "probabilities": _list(_PROBABILITY, f"of {OUTCOME.positive}"),
            "labels": _list(_or_null(_LABEL), "the predictions in words"),
            "panels": _list(_PANEL, "the panels that answered"),
            "abstained": _list(
                _or_null({"enum": list(ABSTENTIONS)}), "why the policy abstains, null where not"
            ),
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
GUARDED: dict[str, dict[str, Any]] = {
    "401": _problem("The service asks for an API key, and none that it knows came."),
    "408": _problem("The body did not come in time."),
    "429": _problem("The client asks too often; `Retry-After` says when to ask again."),
    "431": _problem("The request has too many headers."),
}
"""What the guard may answer at every door that is not always open."""
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
_ONE_EXAMPLES = {name: example for name, example in EXAMPLES.items() if name != "batch"}
PREDICT_ONE_BODY: Schema = {
    "required": True,
    "content": {JSON: {"schema": _ref("PredictOneRequest"), "examples": _ONE_EXAMPLES}},
}
PREDICT_ONE_RESPONSES: Responses = {
    **PREDICT_RESPONSES,
    200: _answer("The patient's answer.", _ref("Prediction")),
}
DETAIL: dict[str, Any] = {
    "name": "detail",
    "in": "query",
    "required": False,
    "description": "how much one patient's answer says",
    "schema": {"enum": list(answer.DETAILS), "default": "standard"},
}
WRONG_DETAIL = Located(
    FieldProblem("detail", "code", "one of " + ", ".join(answer.DETAILS), "leave it out"), ""
)
MODEL_RESPONSES: Responses = {200: _answer("The model.", _ref("Model")), **_NO_MODEL}
CONTRACT_RESPONSES: Responses = {200: _answer("The contract.", _ref("Contract"))}
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
    alone = [f"Patient{_suffix(coding)}" for coding in CODINGS]
    requests["PredictOneRequest"] = {"oneOf": [_ref(shape) for shape in alone]}
    return {**requests, **_ANSWERS}


def install(app: FastAPI, *, max_records: int, parts: tuple[Part, ...] = ()) -> None:
    """Make the application publish its routes together with our schemas.

    Parameters
    ----------
    max_records : most patients in one request.
    parts : ``components`` of doors that have schemas of their own.
    """
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generated()
            named = components(max_records=max_records)
            for part in parts:
                named |= part(max_records=max_records)
            document["components"] = {"schemas": named}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _keep_documented_media(operation["responses"])
                    if path not in ALWAYS_OPEN:
                        operation["responses"] = GUARDED | operation["responses"]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _keep_documented_media(responses: Mapping[str, Any]) -> None:
    """FastAPI adds an empty JSON answer to every route; drop it where the answer is not JSON."""
    for response in responses.values():
        content = response.get("content", {})
        if len(content) > 1 and content.get(JSON) == {"schema": {}}:
            del content[JSON]
