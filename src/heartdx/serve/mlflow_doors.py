"""MLflow's scoring protocol before the same predictor: ``/invocations``, ``/ping``, ``/version``.

What clients of ``mlflow models serve`` send. The forms of tables that MLflow documents are read;
a value that pandas writes as NaN is missing, as it is there.

References
----------
.. [1] MLflow. Deploy MLflow Model as a Local Inference Server: Inference Server Specification.
   https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

import heartdx
from heartdx import records
from heartdx.contract import NAMES, OUTCOME, PANEL_NAMES
from heartdx.errors import ContractError
from heartdx.records import ALWAYS_REQUIRED
from heartdx.serve import problems, schemas
from heartdx.serve.body import JSON, media_type, parse, read_bytes
from heartdx.serve.doors import (
    Rows,
    answered,
    as_json,
    closed,
    loaded_bundle,
    ref,
    refuse_absent,
    refuse_count,
    refused,
    scored,
    table,
)
from heartdx.serve.inputs import MAX_FIELDS
from heartdx.serve.predictor import LABELS
from heartdx.serve.schemas import Responses, Schema
from heartdx.settings import Settings

CSV = "text/csv"
TEXT = "text/plain"
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
PARAMS = "params"
COLUMNS = {
    "probability": "probabilities",
    "prediction": "predictions",
    "label": "labels",
    "panel": "panels",
    "abstain": "abstained",
}
"""Every member of one patient's answer and its member of ``scored``'s document."""

_SPLIT = ("columns", "index", "data")

_INVOCATIONS_TEXT = (
    f"A JSON object with exactly one of {', '.join(f'`{form}`' for form in FORMS)}, or a CSV table "
    "with a header line. Columns have the contract's names and stand in any order; a list "
    f"of {len(NAMES)} values without names is in the order {', '.join(NAMES)}. Missing is null, "
    "NaN, -9, an empty cell, or a column that is left out; `age`, `sex` and `cp` are required. "
    f"`{PARAMS}` must be empty: this model has none. MLflow's protocol leaves the form of a "
    "prediction to the model; here it is an object, so that the answers make a table."
)
_EXAMPLES: dict[str, dict[str, Any]] = {
    "dataframe_split": {
        "summary": "A table as pandas splits it",
        "value": {
            "dataframe_split": {
                "columns": ["age", "sex", "cp"],
                "data": [[54, 0, 2], [61, "male", "asymptomatic"]],
            }
        },
    },
    "dataframe_records": {
        "summary": "A table as records",
        "value": {"dataframe_records": [{"age": 54, "sex": "female", "cp": "atypical angina"}]},
    },
    "instances": {
        "summary": "TensorFlow Serving's rows",
        "value": {"instances": [[58, 0, 2, 136, 270, 0, 0, 150, 0, 0.4, 1, 0, None]]},
    },
    "inputs": {
        "summary": "TensorFlow Serving's columns",
        "value": {"inputs": {"age": [54, 61], "sex": [0, 1], "cp": [2, 4]}},
    },
}
_CSV_EXAMPLES = {
    "csv": {"summary": "A CSV table", "value": "age,sex,cp\n54,0,2\n61,male,asymptomatic\n"}
}


# -- the doors -----------------------------------------------------------------------------------


def _problem(description: str) -> dict[str, Any]:
    return answered(description, {problems.MEDIA_TYPE: ref("Problem")})


_NOT_READY: Responses = {503: _problem("There is no verified model; `detail` says what to run.")}
_INVOCATIONS: Responses = {
    200: answered("One object for each patient.", {JSON: ref("MlflowPredictions")}),
    400: _problem("The body is not JSON."),
    413: _problem("The body is too large."),
    415: _problem("The body is declared as something else, or is compressed."),
    422: _problem("The form or a value is wrong: `errors` names field, row and mend."),
    500: _problem("The model gave no probability, or the service failed."),
    **_NOT_READY,
}
_PING: Responses = {200: answered("The model answers.", {JSON: ref("MlflowPing")}), **_NOT_READY}
_VERSION: Responses = {
    200: answered("heartdx's version: MLflow has no part in serving.", {TEXT: {"type": "string"}})
}
_BODY: Schema = {
    "required": True,
    "content": {
        JSON: {"schema": ref("MlflowRequest"), "examples": _EXAMPLES},
        CSV: {"schema": {"type": "string"}, "examples": _CSV_EXAMPLES},
    },
}

router = APIRouter(redirect_slashes=False, tags=["mlflow"], default_response_class=Response)


@router.post(
    "/invocations",
    summary="Predictions in MLflow's scoring protocol",
    description=_INVOCATIONS_TEXT,
    responses=_INVOCATIONS,
    openapi_extra={"requestBody": _BODY},
)
async def invocations(request: Request) -> Response:
    """Answer the patients of a table."""
    bundle = loaded_bundle(request)
    settings: Settings = request.app.state.settings
    raw = await read_bytes(request, limit=settings.max_body_bytes, media=(JSON, CSV))
    limit = settings.max_records
    if media_type(request.headers) == CSV:
        given = of_csv(raw, max_records=limit)
    else:
        given = of_json(parse(raw, nan_is_missing=True), max_records=limit)
    X = table(given, max_records=limit)
    batch = scored(request, bundle, X, given)
    columns = [batch[member] for member in COLUMNS.values()]
    answers = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    return as_json({"predictions": answers})


@router.get("/ping", summary="Ready, as MLflow asks", responses=_PING)
async def ping(request: Request) -> Response:
    """200 when `/invocations` can answer, else 503 with the reason."""
    loaded_bundle(request)
    return as_json({"status": "ready"})


@router.get("/version", summary="Version", responses=_VERSION)
async def version() -> Response:
    """The release that answers, as plain text."""
    return Response(heartdx.__version__, media_type=TEXT)


# -- the forms of a table ------------------------------------------------------------------------


def of_json(body: object, *, max_records: int) -> Rows:
    """The patients of a JSON body.

    Raises
    ------
    InputError
        Not exactly one of the forms, ``params`` that are not empty, or a broken form.

    Examples
    --------
    >>> of_json({"inputs": {"age": [54], "sex": [0], "cp": [2]}}, max_records=10).rows
    [{'age': 54, 'sex': 0, 'cp': 2}]
    >>> of_json([[54, 0, 2]], max_records=10)
    Traceback (most recent call last):
    ...
    heartdx.serve.problems.InputError: 1 problem(s) with the fields; ...
    """
    form = _form(body)
    assert isinstance(body, dict)
    content, base = body[form], f"/{form}"
    if form == "dataframe_split":
        return _split(content, base, max_records)
    if isinstance(content, dict) and form != "dataframe_records":
        return _columns(content, base, max_records)
    if not isinstance(content, list):
        raise refused(form, "type", "an array of rows", "send [{...}, ...]", pointer=base)
    return Rows(content, _pointer_in_rows(content, base), base)


def of_csv(raw: bytes, *, max_records: int) -> Rows:
    r"""The patients of a CSV body with a header line.

    Raises
    ------
    InputError
        No table, no header, or a header that lacks a required column.

    Examples
    --------
    >>> of_csv(b"age,sex,cp,chol\n54,0,2,?\n", max_records=10).rows
    [{'age': 54.0, 'sex': 0.0, 'cp': 2.0, 'chol': None}]
    """
    try:
        read = records.parse(raw, name="the body")
    except ContractError as cause:
        raise refused("body", "type", "a CSV table", str(cause), pointer="") from cause
    if not read.header:
        mend = "put the attributes' names into the first line"
        raise refused("body", "missing", "a header line", mend, pointer="")
    names = _named(read.header, "body", "")
    refuse_count(len(read.rows), max_records=max_records, pointer="")
    rows = [[records.cell(text) for text in row] for row in read.rows]
    return Rows(
        [dict(zip(names, row, strict=True)) for row in rows],
        lambda row, field: "",
        "",
    )


def _form(body: object) -> str:
    expected = "an object with exactly one of " + ", ".join(FORMS)
    forms = [form for form in FORMS if form in body] if isinstance(body, dict) else []
    if not isinstance(body, dict) or len(forms) != 1:
        raise refused("body", "type", expected, "send the table in one form", pointer="")
    if set(body) - {*forms, PARAMS}:
        raise refused("body", "unknown", expected, f"remove all but {forms[0]}", pointer="")
    if body.get(PARAMS) not in (None, {}):
        mend = "this model has no parameters"
        raise refused(PARAMS, "unknown", "an empty object", mend, pointer=f"/{PARAMS}")
    return forms[0]


def _split(content: object, base: str, max_records: int) -> Rows:
    if not isinstance(content, dict) or set(content) - set(_SPLIT):
        expected = "an object with " + ", ".join(_SPLIT)
        mend = "send what DataFrame.to_dict(orient='split') gives"
        raise refused("dataframe_split", "type", expected, mend, pointer=base)
    where = f"{base}/columns"
    columns, index, data = (content.get(member) for member in _SPLIT)
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise refused("columns", "type", "an array of names", "name them", pointer=where)
    if not isinstance(index, list | None):
        raise refused("index", "type", "an array", "leave it out", pointer=f"{base}/index")
    names = _named(columns, "columns", where)
    where = f"{base}/data"
    if not isinstance(data, list):
        raise refused("data", "type", "an array of rows", "send [[...], ...]", pointer=where)
    refuse_count(len(data), max_records=max_records, pointer=where)
    for place, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(names):
            expected = "an array with one value for each column"
            mend = "send null for what was not measured"
            raise refused("data", "type", expected, mend, pointer=f"{where}/{place}")
    rows = [dict(zip(names, row, strict=True)) for row in data]
    return Rows(rows, lambda row, field: f"{where}/{row}{_at(field, names)}", where)


def _columns(content: Mapping[str, object], base: str, max_records: int) -> Rows:
    names = _named(list(content), "columns", base)
    lengths: set[int] = set()
    for name, column in content.items():
        if not isinstance(column, list):
            raise refused(name, "type", "an array", "send [...]", pointer=f"{base}/{name}")
        lengths.add(len(column))
    if len(lengths) != 1:
        expected, mend = "columns of one length", "send null for what was not measured"
        raise refused("columns", "range", expected, mend, pointer=base)
    refuse_count(lengths.pop(), max_records=max_records, pointer=base)
    values = [column for column in content.values() if isinstance(column, list)]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    return Rows(rows, lambda row, field: f"{base}/{field}/{row}" if field in names else base, base)


def _named(columns: list[str] | tuple[str, ...], field: str, pointer: str) -> tuple[str, ...]:
    """Column names: of the contract, each once, with what every panel needs."""
    unknown = set(columns) - set(NAMES)
    if unknown or len(set(columns)) != len(columns) or len(columns) > MAX_FIELDS:
        expected = "each name once, among " + ", ".join(NAMES)
        raise refused(field, "unknown", expected, "remove the others", pointer=pointer)
    refuse_absent(columns, pointer=pointer)
    return tuple(columns)


def _pointer_in_rows(rows: list[object], base: str) -> Any:
    def pointer(row: int, field: str | None) -> str:
        given = rows[row]
        if isinstance(given, list):
            return f"{base}/{row}{_at(field, NAMES) if len(given) == len(NAMES) else ''}"
        known = isinstance(given, dict) and field in NAMES and field in given
        return f"{base}/{row}/{field}" if known else f"{base}/{row}"

    return pointer


def _at(field: str | None, names: tuple[str, ...]) -> str:
    return f"/{names.index(field)}" if field in names else ""


# -- the schemas -----------------------------------------------------------------------------


def components(*, max_records: int) -> Schema:
    """The protocol's named schemas.

    A request's schema cannot say that columns fit each other; what it refuses is refused, what
    it accepts may still be.
    """
    named = schemas.components(max_records=max_records)["Record"]["properties"]
    record, rows = ref("Record"), {"minItems": 1, "maxItems": max_records}
    listed = {"type": "array", "items": {"anyOf": [record, ref("MlflowRow")]}, **rows}
    columns = {
        **closed("Columns of one length.", {}),
        "properties": {
            name: {"type": "array", "items": field, **rows} for name, field in named.items()
        },
        "required": list(ALWAYS_REQUIRED),
    }
    either = {"anyOf": [listed, ref("MlflowColumns")]}
    forms: dict[str, Schema] = {
        "dataframe_split": ref("MlflowSplit"),
        "dataframe_records": listed,
        "instances": either,
        "inputs": either,
    }
    return {
        "MlflowRequest": {"oneOf": [_request(form, schema) for form, schema in forms.items()]},
        "MlflowColumns": columns,
        "MlflowRow": _row([named[name] for name in NAMES]),
        "MlflowSplit": closed(
            "A table as pandas splits it.",
            {
                "columns": {"type": "array", "items": {"enum": list(NAMES)}, "uniqueItems": True},
                "index": {"type": ["array", "null"], "description": "not used"},
                "data": {"type": "array", "items": {"type": "array"}, **rows},
            },
            optional=("index",),
        ),
        **_ANSWERS,
    }


def _request(form: str, schema: Schema) -> Schema:
    empty = {"type": ["object", "null"], "maxProperties": 0}
    return closed(f"The form {form}.", {form: schema, PARAMS: empty}, optional=(PARAMS,))


def _row(fields: list[Schema]) -> Schema:
    return {
        "type": "array",
        "description": "one patient's values in the order " + ", ".join(NAMES),
        "prefixItems": fields,
        "items": False,
        "minItems": len(fields),
        "maxItems": len(fields),
    }


_ANSWERS: Schema = {
    "MlflowPing": closed("The model answers.", {"status": {"const": "ready"}}),
    "MlflowPredictions": closed(
        "The answers, in the order of the patients.",
        {"predictions": {"type": "array", "items": ref("MlflowPrediction"), "minItems": 1}},
    ),
    "MlflowPrediction": closed(
        "The answer to one patient.",
        {
            "probability": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": f"of {OUTCOME.positive}",
            },
            "prediction": {"enum": [0, 1, None], "description": "null when the policy abstains"},
            "label": {"enum": [*LABELS, None]},
            "panel": {"enum": list(PANEL_NAMES)},
            "abstain": {"type": ["string", "null"], "description": "why the policy abstains"},
        },
    ),
}
