"""What the OpenAPI document says of ``/v1/predict/batch``."""

from __future__ import annotations

from typing import Any

from heartdx.contract import NAMES, PANEL_NAMES
from heartdx.records import CODINGS
from heartdx.serve import arrow_read, tables
from heartdx.serve.batch_answers import ARROW, CSV, NDJSON, CsvWriter
from heartdx.serve.body import JSON
from heartdx.serve.inputs import CODING, RECORDS
from heartdx.serve.middleware import REQUEST_ID
from heartdx.serve.predictor import ABSTENTIONS, LABELS
from heartdx.serve.problems import MEDIA_TYPE
from heartdx.serve.schemas import Responses, Schema

TEXT = f"""Every row that can be answered is answered; a row that cannot stands in its place with
an `error` (field, kind, expected, mend). The status is 200 as soon as the body can be read;
count `answered` and `refused`. The rows of the answer are in the order of the body, `row` from 0.

| body and answer | a row is | the answer's end |
|---|---|---|
| `{JSON}` | an object of `records`, as in `/predict` | `summary` |
| `{NDJSON}` | a line: an object as in `records` | the last line, `{{"summary": ...}}` |
| `{CSV}` | a line; the header names the attributes; empty, `?` or `NA` is missing | `# complete` |
| `{ARROW}` | a row of a record batch; columns named as the attributes | the stream's end marker |

Ask for another type of answer with `Accept`. JSON is read whole, within the limits of `/predict`.
The others are streamed: answers go out while the body still comes, so a client must read while
it sends (a client that cannot should send at most some 50,000 rows a request). If the body
breaks after answers went out, the end says so: `summary.complete` is false and
`summary.problem` tells why, CSV ends with `# incomplete`, and an Arrow stream ends in a torn
message on which every reader fails; an answer without its end is cut.

Two rows as NDJSON and as CSV:

    {{"age": 66, "sex": "male", "cp": "asymptomatic"}}
    {{"age": 47, "sex": 1, "cp": 3, "chol": 240}}

    age,sex,cp,chol
    66,male,asymptomatic,?
    47,1,3,240

A line has at most {tables.MAX_LINE} bytes. An Arrow record batch has at most
{arrow_read.MAX_BATCH_BYTES} bytes (write some 100,000 rows a batch), uncompressed; compressed
buffers are refused. An Arrow answer names the model in its schema's metadata; its `error`
column, and that of CSV, holds JSON."""

EXAMPLE: dict[str, Any] = {
    "records": [
        {"age": 66, "sex": "male", "cp": "asymptomatic", "trestbps": 150},
        {"values": [58, 0, 2, 136, 270, 0, 0, 150, 0, 0.4, 1, 0, 3]},
        {"age": 47, "sex": 1, "cp": 3, "chol": 12},
    ]
}
"""A body whose last row is refused; a test sends it."""

PARAMETERS = [
    {
        "name": CODING,
        "in": "query",
        "required": False,
        "description": "of the codes; a JSON body's own `coding` comes before it",
        "schema": {"enum": list(CODINGS), "default": "uci"},
    }
]
_LINES: Schema = {"type": "string"}
_BINARY: Schema = {"type": "string", "format": "binary"}
BODY: Schema = {
    "required": True,
    "content": {
        JSON: {
            "schema": {"$ref": "#/components/schemas/RowsRequest"},
            "examples": {"the last row is refused": {"value": EXAMPLE}},
        },
        NDJSON: {"schema": _LINES},
        CSV: {"schema": _LINES},
        ARROW: {"schema": _BINARY},
    },
}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(description: str, properties: Schema) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_RANGE: Schema = {"type": "array", "items": _SHARE, "minItems": 2, "maxItems": 2}
_ERROR = _object(
    "What is wrong with one field of a row.",
    {
        "field": {**_TEXT, "description": f"one of {', '.join(NAMES)}, or what stands for it"},
        "kind": {**_TEXT, "description": "missing, unknown, type, range, code or coding"},
        "expected": _TEXT,
        "mend": _TEXT,
    },
)


def components(*, max_records: int) -> Schema:
    """The named schemas of this door.

    Parameters
    ----------
    max_records : most records of a JSON body.
    """
    anything: Schema = {"description": "whatever else is refused in its row"}
    one = ["Record", "Values", "RecordKaggle", "ValuesKaggle"]
    records = {
        "type": "array",
        "items": {"anyOf": [*({"$ref": f"#/components/schemas/{n}"} for n in one), anything]},
        "minItems": 1,
        "maxItems": max_records,
    }
    coding = {"enum": [*CODINGS, None], "description": "comes before the query's"}
    return {
        "RowsRequest": {
            "type": "object",
            "properties": {RECORDS: records, CODING: coding},
            "required": [RECORDS],
            "additionalProperties": False,
        },
        "RowError": _ERROR,
        "Row": _object(
            "The answer to one row, or its error.",
            {
                "row": {**_COUNT, "description": "place in the body, from 0"},
                "probability": _nullable(_SHARE),
                "calibration_range": _nullable(
                    {**_RANGE, "description": "approximate; not valid for an unseen hospital"}
                ),
                "prediction": {"enum": [0, 1, None]},
                "label": {"enum": [*LABELS, None]},
                "panel": {"enum": [*PANEL_NAMES, None]},
                "abstain": {
                    "enum": [*ABSTENTIONS, None],
                    "description": "why the model's policy gives no prediction",
                },
                "error": _nullable(
                    {"type": "array", "items": {"$ref": "#/components/schemas/RowError"}}
                ),
            },
        ),
        "RowsSummary": _object(
            "The end of an answer.",
            {
                "complete": {"type": "boolean", "description": "every row of the body is here"},
                "answered": _COUNT,
                "refused": _COUNT,
                "model_name": _TEXT,
                "model_version": _TEXT,
                "threshold": _SHARE,
                "problem": _nullable({"$ref": "#/components/schemas/Problem"}),
            },
        ),
        "Rows": _object(
            "The answer to many rows.",
            {
                "rows": {"type": "array", "items": {"$ref": "#/components/schemas/Row"}},
                "summary": {"$ref": "#/components/schemas/RowsSummary"},
            },
        ),
    }


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {REQUEST_ID: {"required": True, "schema": _TEXT}},
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


_MODEL = {"required": True, "schema": _TEXT}
RESPONSES: Responses = {
    200: {
        "description": f"A row for every row of the body. CSV has the columns {CsvWriter.HEADER}.",
        "headers": {
            REQUEST_ID: {"required": True, "schema": _TEXT},
            "X-Model-Name": {**_MODEL, "description": "the model that answers all rows"},
            "X-Model-Version": {**_MODEL, "description": "its version"},
        },
        "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/Rows"}},
            NDJSON: {"schema": _LINES},
            CSV: {"schema": _LINES},
            ARROW: {"schema": _BINARY},
        },
    },
    400: _problem("The body cannot be read as what its Content-Type says."),
    406: _problem("No type of answer that `Accept` wants."),
    413: _problem("The body is too large or has too many rows."),
    415: _problem("The body is of another type, or is compressed."),
    422: _problem("No row at all, a wrong column or coding; `errors` names it."),
    500: _problem("The model gave no probability, or the service failed."),
    503: _problem("There is no verified model; `detail` says what to run."),
}
