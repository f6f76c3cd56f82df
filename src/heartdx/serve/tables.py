"""Bodies of many patients, read slice by slice: JSON, NDJSON and CSV.

::

    chunks ─ lines ─ slices of numbers ─ checked against the contract, column by column
                                    └─ rows that are not plain numbers: records, one by one

A slice of numbers and words is decoded and checked as a whole, about a microsecond a row. Whatever
else there is (a wrong value, records of mixed shapes) takes the strict road of one patient, which
alone says what is wrong. A row that is refused
stays beside the others with its problems; a body that is broken as a whole is a ``RequestError``.
"""

from __future__ import annotations

import csv
import functools
import itertools
import math
import operator
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NoReturn, cast

import msgspec
import numpy as np

from heartdx import records
from heartdx.contract import ATTRIBUTES, MISSING_NUMBER, NAMES
from heartdx.errors import FieldProblem, RecordError
from heartdx.records import ALWAYS_REQUIRED, CODINGS, Coding
from heartdx.serve.body import parse
from heartdx.serve.inputs import CODING, MAX_PROBLEMS, RECORDS, VALUES, ask
from heartdx.serve.problems import InputError, Located, RequestError

Chunks = AsyncIterator[bytes]
Cell = Callable[[int, int], object]

SLICE_ROWS = 2_048
"""Rows scored before other requests get their turn: about 10 ms, 60 ms when all are refused."""
SLICE_BYTES = 256 * 1024
MAX_LINE = 64 * 1024
"""Bytes of one line; a patient needs 200."""
_KEPT_CELLS = 10_000
_LONGEST_WORD = 64
_LOOK = math.inf
"""Stands for a cell that is no plain number, or for a number that the contract refuses."""


@dataclass(frozen=True)
class Slice:
    """Consecutive rows of a body.

    Parameters
    ----------
    first : number of the first row in its body, from 0.
    X : array of shape (n_rows, 13), UCI codes, missing as NaN; a refused row is all NaN.
    refused : place in the slice to the problems of that row.
    """

    first: int
    X: np.ndarray
    refused: dict[int, tuple[FieldProblem, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """How much is read.

    Parameters
    ----------
    body_bytes : of a JSON body, which is read whole.
    records : patients of a JSON body.
    stream_rows : rows (lines, for text) of any other body.
    """

    body_bytes: int
    records: int
    stream_rows: int

    def refuse_rows(self, rows: int) -> None:
        """Stop a stream that is longer than the limit.

        Raises
        ------
        RequestError
            ``rows`` is beyond ``stream_rows``.
        """
        if rows > self.stream_rows:
            raise RequestError(
                "body-too-large",
                f"the body has more than {self.stream_rows} rows; send several requests",
            )


# -- a whole slice against the contract ------------------------------------------------------


class _Rules:
    """The contract's ranges and codes as arrays, for one coding."""

    def __init__(self, coding: Coding):
        ranges = [attribute.plausible or (-np.inf, np.inf) for attribute in ATTRIBUTES]
        self.low, self.high = np.array(ranges, dtype=np.float64).T
        self.coded = np.array([place for place, a in enumerate(ATTRIBUTES) if a.codes])
        self.highest = max(max(code.value, code.kaggle) for a in ATTRIBUTES for code in a.codes)
        self.meaning = np.full((len(self.coded), self.highest + 2), _LOOK)
        for row, place in enumerate(self.coded):
            attribute = ATTRIBUTES[place]
            for code in attribute.codes:
                self.meaning[row, code.kaggle if coding == "kaggle" else code.value] = code.value
            if coding == "kaggle" and attribute.kaggle_missing is not None:
                self.meaning[row, attribute.kaggle_missing] = np.nan
        self.rows = np.arange(len(self.coded))

    def decoded(self, numbers: np.ndarray) -> np.ndarray:
        """UCI's codes and plausible numbers; ``_LOOK`` where the contract says no."""
        X = np.where(numbers == MISSING_NUMBER, np.nan, numbers)
        codes = X[:, self.coded]
        is_code = (codes >= 0) & (codes <= self.highest) & (codes == np.floor(codes))
        place = np.where(is_code, codes, self.highest + 1).astype(np.intp)
        X[:, self.coded] = np.where(np.isnan(codes), np.nan, self.meaning[self.rows, place])
        X[np.less(X, self.low) | np.greater(X, self.high)] = _LOOK
        return X


_RULES: dict[Coding, _Rules] = {coding: _Rules(coding) for coding in CODINGS}
_REQUIRED = [NAMES.index(name) for name in ALWAYS_REQUIRED]


def checked(first: int, numbers: np.ndarray, cell: Cell, coding: Coding) -> Slice:
    """Rows of numbers and words against the contract.

    Parameters
    ----------
    first : number of the first row.
    numbers : array of shape (n_rows, 13) in the sender's coding: NaN where missing, infinite
        where a cell is something else than a number.
    cell : row and place of an attribute to the value as sent; asked only where a look is needed.
    coding : of the codes.

    Examples
    --------
    >>> sent = [[63, "male", 4] + 10 * [None], [630, 1, 4] + 10 * [None]]
    >>> numbers = np.array([[np.nan if v is None else np.inf if v == "male" else v for v in row]
    ...                     for row in sent])
    >>> read = checked(0, numbers, lambda row, place: sent[row][place], "uci")
    >>> read.X[0, :3], [problem.kind for problem in read.refused[1]]
    (array([63.,  1.,  4.]), ['range'])
    """
    X = _RULES[coding].decoded(numbers)
    for row, place in np.argwhere(np.isinf(X)).tolist():
        X[row, place] = _meaning(coding, place, cell(row, place))
    refused: dict[int, tuple[FieldProblem, ...]] = {}
    look = np.isinf(X).any(axis=1) | np.isnan(X[:, _REQUIRED]).any(axis=1)
    for row in np.flatnonzero(look).tolist():
        sent = {name: cell(row, place) for place, name in enumerate(NAMES)}
        try:
            X[row] = records.decode_record(sent, coding=coding)
        except RecordError as refusal:
            X[row], refused[row] = np.nan, refusal.problems
    return Slice(first, X, refused)


def _meaning(coding: Coding, place: int, value: object) -> float:
    """The number of a word; ``_LOOK`` when there is none."""
    if isinstance(value, str) and len(value) <= _LONGEST_WORD:
        return _meaning_of_word(coding, place, value)
    return _decoded(coding, place, value)


@functools.lru_cache(maxsize=1_000)
def _meaning_of_word(coding: Coding, place: int, word: str) -> float:
    return _decoded(coding, place, word)


def _decoded(coding: Coding, place: int, value: object) -> float:
    decoded = records.DECODERS[coding][NAMES[place]](value)
    return _LOOK if isinstance(decoded, FieldProblem) else decoded


# -- JSON ------------------------------------------------------------------------------------

_Plain: Any = msgspec.defstruct(
    "_Plain", [(name, float | None) for name in NAMES], forbid_unknown_fields=True, gc=False
)
# An absent field is infinite: no JSON number is, so the names that were sent can be counted.
_Value = float | str | bool | None
_Named: Any = msgspec.defstruct(
    "_Named", [(name, _Value, _LOOK) for name in NAMES], forbid_unknown_fields=True, gc=False
)
_Listed: Any = msgspec.defstruct(
    "_Listed",
    [(VALUES, Annotated[list[_Value], msgspec.Meta(min_length=len(NAMES), max_length=len(NAMES))])],
    forbid_unknown_fields=True,
)


class _Shape:
    """A shape of records that is decoded as a type: all names, some names, or ``values``."""

    def __init__(self, record: Any, values: Callable[[Any], Sequence[Any]]):
        said = str | None | msgspec.UnsetType
        batch: Any = msgspec.defstruct(
            "_Batch",
            [(RECORDS, list[record]), (CODING, said, msgspec.UNSET)],
            forbid_unknown_fields=True,
        )
        self.decode_batch = msgspec.json.Decoder(batch).decode
        self.decode_record = msgspec.json.Decoder(record).decode
        self.values = values


_PLAIN = _Shape(_Plain, msgspec.structs.astuple)
_NAMED = _Shape(_Named, msgspec.structs.astuple)
_LISTED = _Shape(_Listed, operator.attrgetter(VALUES))
_SHAPES = (_PLAIN, _NAMED, _LISTED)
"""In the order in which they are tried: most bodies are plain, any other fails in its first row."""
_NOT_OF_THE_TYPE = (msgspec.MsgspecError, UnicodeDecodeError)


async def from_json(chunks: Chunks, coding: Coding, limits: Limits) -> AsyncIterator[Slice]:
    """Slices of ``{"records": [...], "coding": ...}``, which is read whole.

    Raises
    ------
    RequestError
        Not strict JSON, too large, or no object with ``records``.
    """
    received = bytearray()
    async for chunk in chunks:
        received += chunk
        if len(received) > limits.body_bytes:
            raise RequestError(
                "body-too-large",
                f"the body is larger than {limits.body_bytes} bytes; send several requests, or "
                "NDJSON, CSV or Arrow, which have no such limit",
            )
    raw = bytes(received)
    typed = _typed_batch(raw)
    if typed is not None and 1 <= len(typed.numbers) <= limits.records:
        for first in range(0, len(typed.numbers), SLICE_ROWS):
            yield typed.slice(first, typed.coding or coding)
        return
    listed, coding = _strict_batch(parse(raw), coding, limits.records)
    for first, part in _parts(listed):
        yield _row_by_row(first, part, coding)


@dataclass(frozen=True)
class _Typed:
    """Records of one shape.

    Parameters
    ----------
    values : 13 for each record, as sent; infinite where absent.
    numbers : the same, shape (n_rows, 13), as ``checked`` takes them.
    coding : what a batch said of it.
    """

    values: list[Any]
    numbers: np.ndarray
    coding: Coding | None = None

    def slice(self, first: int, coding: Coding, number: int | None = None) -> Slice:
        """Rows from ``first`` on, called row ``number`` and the following."""

        def cell(row: int, place: int) -> object:
            value = self.values[(first + row) * len(NAMES) + place]
            return None if value is _LOOK else value

        numbers = self.numbers[first : first + SLICE_ROWS]
        return checked(first if number is None else number, numbers, cell, coding)


def _typed_batch(raw: bytes) -> _Typed | None:
    """A body whose records have one shape; None for any other, also for what is no JSON."""
    for shape in _SHAPES:
        try:
            batch = shape.decode_batch(raw)
        except _NOT_OF_THE_TYPE:
            continue
        said = batch.coding
        if isinstance(said, str) and said not in CODINGS:
            return None
        around = 1 if said is msgspec.UNSET else 2 if said is None else 3
        typed = _typed(shape, batch.records, raw, around)
        return typed and replace(typed, coding=said or None)
    return None


def _typed_lines(lines: list[bytes]) -> _Typed | None:
    for shape in _SHAPES:
        try:
            rows = [shape.decode_record(line) for line in lines]
        except _NOT_OF_THE_TYPE:
            continue
        return _typed(shape, rows, b"\n".join(lines), 0)
    return None


def _typed(shape: _Shape, rows: Sequence[Any], raw: bytes, around: int) -> _Typed | None:
    """Decoded records, if each name stands once in its object.

    The decoder takes the last of two equal names. But each name and each text has two quotes,
    and without a backslash there are no others: more quotes than that are a name said twice.

    Parameters
    ----------
    rows : decoded from ``raw``.
    around : names and texts of ``raw`` beside those of the records.
    """
    values = list(itertools.chain.from_iterable(map(shape.values, rows)))
    quotes = raw.count(b'"')
    if shape is _PLAIN:
        if quotes != 2 * (around + len(values)):
            return None
        numbers = np.fromiter(values, np.float64, len(values))
        return _Typed(values, numbers.reshape(-1, len(NAMES)))
    names = len(rows) if shape is _LISTED else len(values) - values.count(_LOOK)
    if quotes == 2 * (around + names) and b"true" not in raw and b"false" not in raw:
        numbers = np.fromiter(values, np.float64, len(values))
        numbers[np.isinf(numbers)] = np.nan
    else:
        texts = sum(type(value) is str for value in values)
        if b"\\" in raw or quotes != 2 * (around + names + texts):
            return None
        numbers = np.array([_number(value) for value in values])
    return _Typed(values, numbers.reshape(-1, len(NAMES)))


def _number(value: float | str | bool | None) -> float:
    if type(value) is float:
        return math.nan if value is _LOOK else value
    return math.nan if value is None else _LOOK


def _strict_batch(body: object, coding: Coding, limit: int) -> tuple[list[object], Coding]:
    """The records of a body and their coding; the body around them as ``/predict`` takes it."""
    if not isinstance(body, dict) or RECORDS not in body:
        raise InputError([_NO_RECORDS])
    said = body if body.get(CODING) is not None else {**body, CODING: coding}
    listed = body[RECORDS]
    fits = isinstance(listed, list) and 1 <= len(listed) <= limit
    ask({**said, RECORDS: [_ANYBODY] if fits else listed}, max_records=limit)
    return cast("list[object]", listed), said[CODING]


def _row_by_row(first: int, rows: Sequence[object], coding: Coding) -> Slice:
    """Records of any shape, each as ``/predict`` takes it."""
    X = np.full((len(rows), len(NAMES)), np.nan)
    refused: dict[int, tuple[FieldProblem, ...]] = {}
    for place, record in enumerate(rows):
        try:
            X[place] = ask({RECORDS: [record], CODING: coding}, max_records=1).X[0]
        except InputError as refusal:
            refused[place] = tuple(located.problem for located in refusal.problems)
    return Slice(first, X, refused)


def _parts(rows: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    for first in range(0, len(rows), SLICE_ROWS):
        yield first, rows[first : first + SLICE_ROWS]


# -- lines -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lines:
    """Consecutive lines without their ends; ``number`` is the first one's, from 1."""

    number: int
    lines: list[bytes]


async def _lines(chunks: Chunks, limits: Limits) -> AsyncIterator[_Lines]:
    """A body's lines, as many as make a slice, at most ``SLICE_BYTES`` held at a time."""
    number = 1
    async for block in _blocks(chunks):
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for _, part in _parts(lines):
            for place, line in enumerate(part):
                if len(line) > MAX_LINE:
                    _broken(number + place, f"is longer than {MAX_LINE} bytes")
            yield _Lines(number, list(part))
            number += len(part)
            limits.refuse_rows(number - 1)


async def _blocks(chunks: Chunks) -> AsyncIterator[bytes]:
    """Whole lines, and at the end whatever is left."""
    held = bytearray()
    async for chunk in chunks:
        for start in range(0, len(chunk), SLICE_BYTES):
            held += chunk[start : start + SLICE_BYTES]
            if len(held) >= SLICE_BYTES:
                end = held.rfind(b"\n") + 1 or len(held)
                yield bytes(held[:end])
                del held[:end]
    if held:
        yield bytes(held)


# -- NDJSON ----------------------------------------------------------------------------------


async def from_ndjson(chunks: Chunks, coding: Coding, limits: Limits) -> AsyncIterator[Slice]:
    """Slices of a body with one JSON record a line; blank lines are no rows.

    Raises
    ------
    RequestError
        A line is not strict JSON or too long, or there are too many.
    """
    first = 0
    async for block in _lines(chunks, limits):
        lines = [(block.number + n, line) for n, line in enumerate(block.lines) if line.strip()]
        if lines:
            yield _ndjson(first, lines, coding)
            first += len(lines)


def _ndjson(first: int, lines: list[tuple[int, bytes]], coding: Coding) -> Slice:
    typed = _typed_lines([line for _, line in lines])
    if typed is not None:
        return typed.slice(0, coding, number=first)
    return _row_by_row(first, [_parsed(number, line) for number, line in lines], coding)


def _parsed(number: int, line: bytes) -> object:
    try:
        return parse(line)
    except RequestError as refusal:
        raise RequestError(refusal.kind, f"line {number}: {refusal}") from refusal


# -- CSV -------------------------------------------------------------------------------------


class _Cells(dict[str, float]):
    """Text of a cell to its number; the few hundred different texts are read once."""

    def __missing__(self, text: str) -> float:
        value = records.cell(text)
        number = math.nan if value is None else value if isinstance(value, float) else _LOOK
        if len(self) < _KEPT_CELLS:
            self[text] = number
        return number


@dataclass(frozen=True)
class _Header:
    """The columns of a CSV body: their names and places in the contract's order."""

    names: tuple[str, ...]
    places: tuple[int, ...]


async def from_csv(chunks: Chunks, coding: Coding, limits: Limits) -> AsyncIterator[Slice]:
    """Slices of a CSV body: comma, a header with the contract's names, one patient a line.

    Raises
    ------
    RequestError
        Not UTF-8, a quote that is not closed on its line, a line too long, too many lines.
    InputError
        A column is unknown, stands twice, or a required one is not there.
    """
    header: _Header | None = None
    cells, first = _Cells(), 0
    async for block in _lines(chunks, limits):
        rows = _csv_rows(block)
        if header is None and rows:
            header = _header(rows.pop(0))
        if header is not None and rows:
            yield _csv(first, rows, header, cells, coding)
            first += len(rows)


def _csv_rows(block: _Lines) -> list[list[str]]:
    if any(line.count(b'"') % 2 for line in block.lines):
        odd = next(n for n, line in enumerate(block.lines) if line.count(b'"') % 2)
        _broken(block.number + odd, "has a quote that is not closed; no cell holds a line break")
    try:
        text = b"\n".join(block.lines).decode("utf-8")
    except UnicodeDecodeError as cause:
        ends = cause.object[: cause.start].count(b"\n")
        _broken(block.number + ends, "is not UTF-8")
    if block.number == 1:
        text = text.removeprefix("\ufeff")
    reader = csv.reader(text.split("\n"), skipinitialspace=True, strict=True)
    try:
        return [row for row in reader if row]
    except csv.Error:
        _broken(block.number + reader.line_num - 1, "is not CSV; quote by the rules of RFC 4180")


def _header(row: list[str]) -> _Header:
    names = tuple(name.strip() for name in row)
    return _Header(names, columns(names))


def columns(names: Sequence[str]) -> tuple[int, ...]:
    """Places of a table's columns in the contract's order.

    Raises
    ------
    InputError
        A column is unknown, stands twice, or a required one is not there.

    Examples
    --------
    >>> columns(["cp", "age", "sex"])
    (2, 0, 1)
    """
    found: list[FieldProblem] = []
    try:
        records.decode_record(dict.fromkeys(names))
    except RecordError as refusal:
        found += [p for p in refusal.problems if p.kind == "unknown" or p.field not in names]
    twice = [name for name in NAMES if names.count(name) > 1]
    found += [FieldProblem(name, "unknown", "each column once", "remove one") for name in twice]
    if found:
        raise InputError(
            [Located(problem, "") for problem in found[:MAX_PROBLEMS]],
            cut=len(found) > MAX_PROBLEMS,
        )
    return tuple(NAMES.index(name) for name in names)


def _csv(
    first: int, rows: list[list[str]], header: _Header, cells: _Cells, coding: Coding
) -> Slice:
    width = len(header.names)
    uneven = [place for place, row in enumerate(rows) if len(row) != width]
    for place in uneven:
        rows[place] = [""] * width
    texts = itertools.chain.from_iterable(rows)
    read = np.fromiter(map(cells.__getitem__, texts), np.float64, len(rows) * width)
    numbers = np.full((len(rows), len(NAMES)), np.nan)
    numbers[:, header.places] = read.reshape(-1, width)

    column = {place: n for n, place in enumerate(header.places)}

    def cell(row: int, place: int) -> object:
        return records.cell(rows[row][column[place]]) if place in column else None

    decoded = checked(first, numbers, cell, coding)
    told = FieldProblem("record", "type", f"{width} cells, as in the header", "mend the line")
    decoded.refused.update(dict.fromkeys(uneven, (told,)))
    return decoded


def _broken(line: int, what: str) -> NoReturn:
    raise RequestError("malformed-body", f"line {line} {what}")


_ANYBODY = {VALUES: [50, 1, 1, *[None] * (len(NAMES) - 3)]}
_NO_RECORDS = Located(
    FieldProblem("body", "type", f"an object with {RECORDS}", 'send {"records": [{...}, ...]}'), ""
)
