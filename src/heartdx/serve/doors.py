"""What the doors of other protocols share: rows to the one table, its answers, their documents.

A protocol brings its own shape of a request. Its values still pass through
``heartdx.records``, row by row, and what is refused is told at the place where the protocol
holds it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fastapi import Request, Response

from heartdx import records
from heartdx.bundle import Bundle
from heartdx.contract import BY_NAME, NAMES
from heartdx.errors import FieldProblem, RecordError
from heartdx.records import ALWAYS_REQUIRED
from heartdx.serve import predictor, schemas
from heartdx.serve.body import JSON
from heartdx.serve.inputs import MAX_FIELDS, MAX_PROBLEMS, Ask
from heartdx.serve.predictor import Answers, Loaded
from heartdx.serve.problems import InputError, Located
from heartdx.serve.schemas import Schema

Pointer = Callable[[int, str | None], str]
"""Row and field to the JSON pointer of their place in the request; no field: the row's."""


@dataclass(frozen=True)
class Rows:
    """The patients of a request and where each of their fields stands in it.

    Parameters
    ----------
    rows : each a mapping of attribute names to values, or 13 values in contract order.
    pointer : tells the place of a row's field.
    whole : JSON pointer of what holds the rows.
    """

    rows: Sequence[object]
    pointer: Pointer
    whole: str


def table(given: Rows, *, max_records: int) -> np.ndarray:
    """The patients as an array of shape (n_patients, 13), every value checked.

    Raises
    ------
    InputError
        Every problem found, up to ``MAX_PROBLEMS``; no value is repeated.

    Examples
    --------
    >>> rows = Rows([{"age": 63, "sex": "male", "cp": 4}], lambda row, field: f"/{row}", "")
    >>> table(rows, max_records=10)[0, :3]
    array([63.,  1.,  4.])
    >>> table(rows, max_records=0)
    Traceback (most recent call last):
    ...
    heartdx.serve.problems.InputError: 1 problem(s) with the fields; ...
    """
    refuse_count(len(given.rows), max_records=max_records, pointer=given.whole)
    decoded: list[list[float]] = []
    found: list[Located] = []
    for place, row in enumerate(given.rows):
        try:
            decoded.append(_decoded(row, place))
        except RecordError as refusal:
            found += [Located(p, given.pointer(place, p.field)) for p in refusal.problems]
        if len(found) > MAX_PROBLEMS:
            raise InputError(found[:MAX_PROBLEMS], cut=True)
    if found:
        raise InputError(found)
    return records.table(decoded)


def refuse_count(rows: int, *, max_records: int, pointer: str) -> None:
    """Refuse no patient, and more than are answered at once.

    Raises
    ------
    InputError
        ``rows`` is not from 1 to ``max_records``.
    """
    if not 1 <= rows <= max_records:
        mend = "send several requests" if rows > 0 else "send at least one patient"
        problem = FieldProblem("records", "range", f"1 to {max_records} patients", mend)
        raise InputError([Located(problem, pointer)])


def refuse_absent(present: Sequence[str], *, pointer: str) -> None:
    """Refuse columns that lack what every panel needs, once for all rows.

    Raises
    ------
    InputError
        Names each column that is not ``present``.
    """
    mend = "every panel needs it; send the column"
    absent = [name for name in ALWAYS_REQUIRED if name not in present]
    if absent:
        problems = [FieldProblem(name, "missing", BY_NAME[name].expected, mend) for name in absent]
        raise InputError([Located(problem, pointer) for problem in problems])


def refused(field: str, kind: str, expected: str, mend: str, *, pointer: str) -> InputError:
    """The refusal of one part of a request.

    Examples
    --------
    >>> refused("inputs", "type", "an array", "send [{...}]", pointer="/inputs").problems[0].pointer
    '/inputs'
    """
    return InputError([Located(FieldProblem(field, kind, expected, mend), pointer)])


def loaded_bundle(request: Request) -> Bundle:
    """The model that answers this request.

    Raises
    ------
    RequestError
        There is none; the service answers 503.
    """
    loaded: Loaded = request.app.state.loaded
    return loaded.require()


def scored(request: Request, bundle: Bundle, X: np.ndarray, given: Rows) -> dict[str, Any]:
    """The columns of the answers to a table, counted for metrics and log line.

    They are those of ``/predict``'s batch.

    Raises
    ------
    RequestError
        The model has no panel for a patient, or gave no probability.
    """
    try:
        answers = predictor.answers(bundle, Ask(X, is_batch=True))
    except InputError as refusal:
        raise InputError([_moved(located, given) for located in refusal.problems]) from refusal
    note(request, answers, is_batch=True)
    return answers.of_batch()


def note(request: Request, answers: Answers, *, is_batch: bool) -> None:
    """Count answers, leave them to a challenger, and tell the log their panels, no value."""
    app = request.app
    app.state.telemetry.count_answers(answers)
    if is_batch:
        app.state.telemetry.count_batch(len(answers.X))
    if app.shadow is not None:
        app.shadow.offer_table(answers)
    request.state.facts["panels"] = dict(Counter(answers.panels))


def as_json(document: Mapping[str, object]) -> Response:
    """A document as an answer."""
    return Response(to_json(document), media_type=JSON)


def to_json(document: Mapping[str, object]) -> bytes:
    """A document as bytes; a number that is not finite is a bug, never an answer."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def _decoded(row: object, place: int) -> list[float]:
    if isinstance(row, dict):
        if len(row) > MAX_FIELDS:
            raise RecordError([replace(_MANY_FIELDS, record=place)])
        return records.decode_record(row, record=place)
    if isinstance(row, list | tuple):
        return records.decode_values(row, record=place)
    raise RecordError([replace(_ROW, record=place)])


def _moved(located: Located, given: Rows) -> Located:
    row = located.problem.record or 0
    return replace(located, pointer=given.pointer(row, located.problem.field))


_ROW = FieldProblem(
    "record", "type", "an object of named fields, or an array", "send the patient as one of both"
)
_MANY_FIELDS = FieldProblem(
    "record", "unknown", "fields among " + ", ".join(NAMES), "remove the other fields"
)


# -- their part of the OpenAPI document -----------------------------------------------------


def ref(name: str) -> Schema:
    """A reference to a named schema of the document.

    Examples
    --------
    >>> ref("Record")
    {'$ref': '#/components/schemas/Record'}
    """
    return {"$ref": f"#/components/schemas/{name}"}


def answered(description: str, content: Mapping[str, Schema]) -> dict[str, Any]:
    """A documented answer: media type to schema."""
    return {
        "description": description,
        "headers": schemas.LIVE_RESPONSES[200]["headers"],
        "content": {media: {"schema": schema} for media, schema in content.items()},
    }


def closed(description: str, properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    """The schema of an object that has these properties and no other."""
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }
