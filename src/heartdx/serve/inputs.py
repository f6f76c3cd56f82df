"""What a ``/predict`` body asks: one patient or several, and the table they make.

Every value passes through ``heartdx.records``; this module only finds the records in the body
and names the place of what was refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from heartdx import records
from heartdx.contract import BY_NAME, NAMES
from heartdx.errors import FieldProblem, RecordError
from heartdx.records import CODINGS, Coding
from heartdx.serve.problems import InputError, Located

RECORDS = "records"
CODING = "coding"
VALUES = "values"
MAX_FIELDS = 2 * len(NAMES)
"""Beyond this a record is not a patient with a slip; naming each field would only cost time."""
MAX_PROBLEMS = 100
"""Most problems listed in one answer."""


@dataclass(frozen=True)
class Ask:
    """A body understood.

    Parameters
    ----------
    X : array of shape (n_patients, 13) from ``records.table``.
    is_batch : whether the body had ``records``.
    """

    X: np.ndarray
    is_batch: bool


def ask(body: object, *, max_records: int, one: bool = False) -> Ask:
    """The patients of a body.

    Parameters
    ----------
    body : parsed JSON: one patient's fields, or ``records``; beside either, ``coding``.
    max_records : most patients accepted.
    one : accept a single patient only.

    Raises
    ------
    InputError
        Every problem found, up to ``MAX_PROBLEMS``; no value is repeated.

    Examples
    --------
    >>> ask({"age": 63, "sex": "male", "cp": 4}, max_records=10).X[0, :3]
    array([63.,  1.,  4.])
    >>> ask({"records": []}, max_records=10)
    Traceback (most recent call last):
    ...
    heartdx.serve.problems.InputError: 1 problem(s) with the fields; ...
    """
    if not isinstance(body, dict):
        raise InputError([_BODY])
    coding = _coding(body)
    if RECORDS in body and one:
        raise InputError([_ONE])
    if RECORDS in body:
        return Ask(_batch(body, coding, max_records), is_batch=True)
    fields = {name: value for name, value in body.items() if name != CODING}
    found: list[Located] = []
    row = _decoded(fields, coding, None, found)
    if found:
        raise InputError(found)
    return Ask(records.table([row]), is_batch=False)


def _batch(body: Mapping[str, object], coding: Coding, max_records: int) -> np.ndarray:
    listed = _listed(body, max_records)
    rows: list[list[float]] = []
    found: list[Located] = []
    for place, record in enumerate(listed):
        rows.append(_decoded_record(record, coding, place, found))
        if len(found) >= MAX_PROBLEMS:
            raise InputError(found[:MAX_PROBLEMS], cut=True)
    if found:
        raise InputError(found)
    return records.table(rows)


def _listed(body: Mapping[str, object], max_records: int) -> list[object]:
    if set(body) - {RECORDS, CODING}:
        raise InputError([_BESIDE])
    listed = body[RECORDS]
    if not isinstance(listed, list):
        raise InputError([_records("type", "an array", "send [{...}, ...]")])
    if not 1 <= len(listed) <= max_records:
        mend = "send several requests" if listed else "send at least one patient"
        raise InputError([_records("range", f"1 to {max_records} records", mend)])
    return listed


def _decoded_record(
    record: object, coding: Coding, place: int, found: list[Located]
) -> list[float]:
    if not isinstance(record, dict):
        found.append(Located(replace(_RECORD, record=place), f"/{RECORDS}/{place}"))
    elif VALUES not in record:
        return _decoded(record, coding, place, found)
    elif len(record) > 1:
        found.append(Located(replace(_VALUES_ALONE, record=place), f"/{RECORDS}/{place}"))
    elif not isinstance(record[VALUES], list):
        found.append(Located(replace(_VALUES, record=place), f"/{RECORDS}/{place}/{VALUES}"))
    else:
        return _decoded(record[VALUES], coding, place, found)
    return []


def _decoded(
    given: dict[str, object] | list[object],
    coding: Coding,
    place: int | None,
    found: list[Located],
) -> list[float]:
    """A row, or problems added to ``found``."""
    if isinstance(given, dict) and len(given) > MAX_FIELDS:
        found.append(Located(replace(_MANY_FIELDS, record=place), _pointer(None, place, given)))
        return []
    try:
        if isinstance(given, dict):
            return records.decode_record(given, coding=coding, record=place)
        return records.decode_values(given, coding=coding, record=place)
    except RecordError as refusal:
        for problem in refusal.problems:
            mend = _MISPLACED.get(problem.field) if problem.kind == "unknown" else None
            told = replace(problem, mend=mend) if mend else problem
            found.append(Located(told, _pointer(problem.field, place, given)))
        return []


def _pointer(field: str | None, place: int | None, given: object) -> str:
    base = "" if place is None else f"/{RECORDS}/{place}"
    if isinstance(given, list):
        return f"{base}/{VALUES}" + (f"/{NAMES.index(field)}" if field in BY_NAME else "")
    return f"{base}/{field}" if field and isinstance(given, dict) and _is_plain(field) else base


def _is_plain(field: str) -> bool:
    return not set(field) & set("/~(")


def _coding(body: Mapping[str, object]) -> Coding:
    coding = body.get(CODING)
    if coding is None:
        return "uci"
    if coding not in CODINGS:
        raise InputError([_WRONG_CODING])
    return coding


def _records(kind: str, expected: str, mend: str) -> Located:
    return Located(FieldProblem(RECORDS, kind, expected, mend), f"/{RECORDS}")


_BODY = Located(
    FieldProblem("body", "type", "an object", 'send {"age": ..., ...} or {"records": [...]}'), ""
)
_BESIDE = Located(
    FieldProblem("body", "unknown", f"{RECORDS} and {CODING} only", "put fields into the records"),
    "",
)
_ONE = Located(
    FieldProblem(RECORDS, "unknown", "one patient's fields", "send several to /v1/predict/batch"),
    f"/{RECORDS}",
)
_WRONG_CODING = Located(
    FieldProblem(CODING, "coding", "one of " + ", ".join(CODINGS), "leave it out for UCI's codes"),
    f"/{CODING}",
)
_RECORD = FieldProblem(RECORDS, "type", "an object", 'send {"age": ..., ...} or {"values": [...]}')
_VALUES = FieldProblem(
    VALUES, "type", f"an array of {len(NAMES)} values", "send null for what was not measured"
)
_VALUES_ALONE = FieldProblem(
    VALUES, "unknown", "values alone, or named fields alone", "send the patient in one form"
)
_MANY_FIELDS = FieldProblem(
    "record", "unknown", "fields among " + ", ".join(NAMES), "remove the other fields"
)
_MISPLACED = {
    VALUES: 'send {"records": [{"values": [...]}]}',
    CODING: "put coding beside records, once for all of them",
    RECORDS: "send records at the top of the body",
}
