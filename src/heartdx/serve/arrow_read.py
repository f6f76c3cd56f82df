"""Arrow IPC streams, read message by message within a bounded memory.

A stream is a schema, then record batches, then an end marker; each message says how long it is
before it comes. One record batch at a time is held, and its columns are read where they lie, so
nothing grows when it is read. Only what a table of patients needs is understood: numbers,
booleans, text, dictionaries of these. No library is loaded for it, and a hostile stream meets
no code but this.

Refused, because a few bytes could stand for gigabytes: compressed buffers, batches beyond
``MAX_BATCH_BYTES`` and ``MAX_BATCH_ROWS``, large dictionaries. Text is cut before it is copied,
since a hostile sender may let the texts of many rows overlap.

References
----------
.. [1] Apache Arrow. Columnar format: serialization and interprocess communication (IPC).
   https://arrow.apache.org/docs/format/Columnar.html, Schema.fbs and Message.fbs.
.. [2] FlatBuffers. Internals: tables and vtables. https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import functools
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from heartdx.contract import NAMES
from heartdx.errors import FieldProblem
from heartdx.records import ALWAYS_REQUIRED, DECODERS, Coding
from heartdx.serve.problems import InputError, Located, RequestError
from heartdx.serve.tables import SLICE_ROWS, Chunks, Limits, Slice, checked, columns

MAX_METADATA = 1024 * 1024
MAX_BATCH_BYTES = 16 * 1024 * 1024
"""About 150 000 rows of 13 float64 columns."""
MAX_BATCH_ROWS = 1_000_000
MAX_WORDS = 10_000
"""Entries of one dictionary; the contract has some thirty words."""

_WORD = 64
"""Bytes of a text that are looked at; the contract's longest word has 30."""
_CONTINUES = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_NULL, _INT, _FLOAT, _UTF8, _BOOL, _LARGE_UTF8, _UTF8_VIEW = 1, 2, 3, 5, 6, 20, 24
_FORMS = {form: struct.Struct(form) for form in ("<B", "<H", "<h", "<i", "<I", "<q", "<qq")}
_KEPT_SCHEMAS = 16
_LARGEST_KEPT = 16 * 1024
"""Bytes of a schema that is kept; one of the contract's columns has two thousand."""
_INLINE = 12
"""Bytes of a text that stand in its view itself."""

Value = str | float | bool | None


async def from_arrow(chunks: Chunks, coding: Coding, limits: Limits) -> AsyncIterator[Slice]:
    """Slices of an Arrow IPC stream with the contract's columns.

    Numbers may be of any width, codes may also be words (text, dictionaries) and, where the
    contract has yes and no, booleans; null and NaN are missing.

    Raises
    ------
    RequestError
        Torn, compressed, without its end marker, a message too large, too many rows.
    InputError
        A column is unknown, stands twice, has another type, or a required one is not there.
    """
    source = _Source(chunks)
    begin = await _message(source)
    if begin is None or begin.kind != _SCHEMA:
        _broken("begins with no schema")
    fields, places = _understood(begin.header)
    words: dict[int, list[Value]] = {}
    first = 0
    while (message := await _message(source)) is not None:
        if message.kind == _DICTIONARY:
            _learn(message, fields, words)
        elif message.kind == _BATCH:
            batch = _Batch(message.header, message.body, fields, words)
            limits.refuse_rows(first + max(batch.rows, 1))
            for start in range(0, batch.rows, SLICE_ROWS):
                yield batch.slice(first + start, start, places, coding)
            first += batch.rows
        else:
            _broken("has a message that is neither batch nor dictionary")
    if await source.take(1):
        _broken("goes on after its end marker")


# -- messages --------------------------------------------------------------------------------


class _Source:
    """Chunks as one run of bytes."""

    def __init__(self, chunks: Chunks):
        self._chunks = chunks
        self._held = bytearray()

    async def take(self, count: int) -> bytes:
        """The next bytes; fewer at the end of the body."""
        while len(self._held) < count:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                break
            self._held += chunk
        with memoryview(self._held) as held:
            taken = bytes(held[:count])
        del self._held[:count]
        return taken

    async def take_all(self, count: int) -> bytes:
        """Exactly the next bytes."""
        taken = await self.take(count)
        if len(taken) < count:
            _broken("is cut; it has no end marker")
        return taken


@dataclass(frozen=True)
class _Message:
    """One message: its kind, its header (a table of that kind), its body."""

    kind: int
    header: _Table
    body: bytes


async def _message(source: _Source) -> _Message | None:
    """The next message; None at the end marker."""
    prefix = await source.take_all(8)
    if not prefix.startswith(_CONTINUES):
        _broken("is no Arrow IPC stream; write the stream format, not the file format")
    (size,) = struct.unpack("<i", prefix[4:])
    if size == 0:
        return None
    if not 8 <= size <= MAX_METADATA:
        _broken("has a message whose head is too large")
    raw = await source.take_all(size)
    message = _Table(raw, _Table(raw, 0).u32(0))
    body = message.number("<q", 3)
    if not 0 <= body <= MAX_BATCH_BYTES:
        _broken(f"has a batch beyond {MAX_BATCH_BYTES} bytes; write at most 100000 rows a batch")
    return _Message(message.number("<B", 1), message.table(2), await source.take_all(body))


@dataclass(frozen=True)
class _Table:
    """A FlatBuffers table: fields are found through the offsets in its vtable.

    Every read is inside the message's head, or the stream is broken.
    """

    raw: bytes
    start: int

    def u32(self, place: int) -> int:
        return self._read("<I", place)

    def _read(self, form: str, place: int) -> int:
        known = _FORMS[form]
        if not 0 <= place <= len(self.raw) - known.size:
            _broken("has a message that cannot be read")
        number: int = known.unpack_from(self.raw, place)[0]
        return number

    def _place(self, slot: int) -> int:
        """Where a field stands, 0 when it is not there."""
        vtable = self.start - self._read("<i", self.start)
        entry = 4 + 2 * slot
        if entry + 2 > self._read("<H", vtable):
            return 0
        offset = self._read("<H", vtable + entry)
        return self.start + offset if offset else 0

    def has(self, slot: int) -> bool:
        return self._place(slot) != 0

    def number(self, form: str, slot: int) -> int:
        place = self._place(slot)
        return self._read(form, place) if place else 0

    def table(self, slot: int) -> _Table:
        place = self._place(slot)
        if not place:
            _broken("has a message that cannot be read")
        return _Table(self.raw, place + self.u32(place))

    def vector(self, slot: int, size: int) -> tuple[int, int]:
        """Count and first place of elements of a size."""
        place = self._place(slot)
        if not place:
            return 0, 0
        start = place + self.u32(place)
        count = self.u32(start)
        if start + 4 + count * size > len(self.raw):
            _broken("has a message that cannot be read")
        return count, start + 4

    def tables(self, slot: int) -> list[_Table]:
        count, first = self.vector(slot, 4)
        places = range(first, first + 4 * count, 4)
        return [_Table(self.raw, place + self.u32(place)) for place in places]

    def pairs(self, slot: int) -> list[tuple[int, int]]:
        """Structs of two 64-bit numbers."""
        count, first = self.vector(slot, 16)
        return list(_FORMS["<qq"].iter_unpack(self.raw[first : first + 16 * count]))

    def text(self, slot: int) -> str:
        count, first = self.vector(slot, 1)
        return self.raw[first : first + count].decode("utf-8", "replace")


# -- the schema ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Field:
    """A column as the schema declares it.

    Parameters
    ----------
    name : of the column.
    kind : of its values, or of the dictionary's; 0 for what is not understood.
    form : NumPy's name of a number, or of a text's offsets.
    dictionary : its id; None for a column that holds its values.
    index : NumPy's name of the numbers that point into the dictionary.
    """

    name: str
    kind: int
    form: str = ""
    dictionary: int | None = None
    index: str = ""


def _understood(schema: _Table) -> tuple[list[_Field], tuple[int, ...]]:
    """The columns of a schema and their places in the contract.

    Raises
    ------
    RequestError, InputError
        It cannot be read, or is not one of the contract's.
    """
    return (_kept if len(schema.raw) <= _LARGEST_KEPT else _looked_at)(schema)


def _looked_at(schema: _Table) -> tuple[list[_Field], tuple[int, ...]]:
    fields = _fields(schema)
    places = columns([field.name for field in fields])
    _refuse_foreign(fields)
    return fields, places


# A client sends one schema again and again, and to read it costs as much as to score its rows.
_kept = functools.lru_cache(maxsize=_KEPT_SCHEMAS)(_looked_at)


def _fields(schema: _Table) -> list[_Field]:
    if schema.number("<h", 0) != 0:
        _broken("is big-endian; write it little-endian")
    return [_field(table) for table in schema.tables(1)]


def _field(table: _Table) -> _Field:
    name, kind = table.text(0), table.number("<B", 2)
    form = _form(kind, table.table(3)) if kind else None
    if form is None:
        return _Field(name, 0)
    if not table.has(4):
        return _Field(name, kind, form)
    encoding = table.table(4)
    index = _form(_INT, encoding.table(1)) if encoding.has(1) else "<i4"
    return _Field(name, kind if index else 0, form, encoding.number("<q", 0), index or "")


def _form(kind: int, about: _Table) -> str | None:
    """NumPy's name of what a column's main buffer holds; None for a type that is not understood."""
    if kind == _INT:
        bits = about.number("<i", 0)
        letter = "i" if about.number("<B", 1) else "u"
        return f"<{letter}{bits // 8}" if bits in (8, 16, 32, 64) else None
    if kind == _FLOAT:
        precision = about.number("<h", 0)
        return ("<f2", "<f4", "<f8")[precision] if 0 <= precision <= 2 else None
    return {_NULL: "", _BOOL: "", _UTF8: "<i4", _LARGE_UTF8: "<i8", _UTF8_VIEW: ""}.get(kind)


def _refuse_foreign(fields: Sequence[_Field]) -> None:
    """A column whose type can hold no value of its attribute."""
    found = [
        FieldProblem(field.name, "type", "a column of numbers or words", "cast the column")
        for field in fields
        if field.kind == 0
        or (field.kind == _NULL and field.name in ALWAYS_REQUIRED)
        or (field.kind == _BOOL and isinstance(DECODERS["uci"][field.name](True), FieldProblem))
    ]
    if found:
        raise InputError([Located(problem, "") for problem in found])


# -- columns ---------------------------------------------------------------------------------


def _learn(message: _Message, fields: Sequence[_Field], words: dict[int, list[Value]]) -> None:
    """Take in a dictionary, or what is new in one."""
    number = message.header.number("<q", 0)
    field = next((field for field in fields if field.dictionary == number), None)
    if field is None:
        _broken("has a dictionary of no column")
    entries = _Field(field.name, field.kind, field.form)
    batch = _Batch(message.header.table(1), message.body, [entries], {})
    if batch.rows > MAX_WORDS:
        _broken(f"has a dictionary of more than {MAX_WORDS} entries")
    kept = words.get(number, []) if message.header.number("<B", 2) else []
    words[number] = [*kept, *batch.columns[0].values(0, batch.rows)]
    if len(words[number]) > MAX_WORDS:
        _broken(f"has a dictionary of more than {MAX_WORDS} entries")


class _Batch:
    """A record batch: its columns as they lie in the body.

    Parameters
    ----------
    header : of the batch.
    body : its buffers.
    fields : of the schema.
    words : the dictionaries by id.
    """

    def __init__(
        self,
        header: _Table,
        body: bytes,
        fields: Sequence[_Field],
        words: dict[int, list[Value]],
    ):
        if header.has(3):
            _broken("is compressed; write it without compression")
        self.rows = header.number("<q", 0)
        if not 0 <= self.rows <= MAX_BATCH_ROWS:
            _broken(f"has a batch of more than {MAX_BATCH_ROWS} rows")
        if [rows for rows, _ in header.pairs(1)] != [self.rows] * len(fields):
            _broken("has columns of different length")
        buffers = _Buffers(header, body)
        self.columns = [_Column(field, self.rows, buffers, words) for field in fields]

    def slice(self, first: int, start: int, places: Sequence[int], coding: Coding) -> Slice:
        """Some rows, checked against the contract; ``first`` is the number of the first."""
        stop = min(start + SLICE_ROWS, self.rows)
        numbers = np.full((stop - start, len(NAMES)), np.nan)
        words: dict[int, list[Value]] = {}
        for place, column in zip(places, self.columns, strict=True):
            if column.is_numeric:
                numbers[:, place] = column.numbers(start, stop)
            else:
                words[place] = column.values(start, stop)
                numbers[:, place] = [_as_number(value) for value in words[place]]

        def cell(row: int, place: int) -> object:
            if place in words:
                return words[place][row]
            value = float(numbers[row, place])
            return None if np.isnan(value) else value

        return checked(first, numbers, cell, coding)


def _as_number(value: Value) -> float:
    """As ``checked`` takes it: infinite for what is no number."""
    if value is None:
        return np.nan
    return value if isinstance(value, float) else np.inf


class _Buffers:
    """A batch's buffers, taken one after the other."""

    def __init__(self, header: _Table, body: bytes):
        self._body = body
        self._left = iter(header.pairs(2))
        count, first = header.vector(4, 8)
        self._variadic = iter(np.frombuffer(header.raw, "<i8", count, first).tolist())

    def take(self, form: str, count: int) -> np.ndarray:
        """The next buffer, of at least ``count`` numbers."""
        offset, size = next(self._left, (-1, 0))
        width = np.dtype(form).itemsize
        if offset < 0 or offset + size > len(self._body) or size < count * width:
            _broken("has a column that is not in its batch")
        return np.frombuffer(self._body, form, size // width, offset)

    def take_known(self, rows: int) -> np.ndarray | None:
        """The next buffer as one bit a row; None when it is left out."""
        bits = self.take("<u1", 0)
        if not bits.size:
            return None
        if bits.size * 8 < rows:
            _broken("has a column that is not in its batch")
        return np.unpackbits(bits, count=rows, bitorder="little").astype(bool)

    def take_variadic(self) -> list[np.ndarray]:
        """The next buffers of texts that are not in their views."""
        count = next(self._variadic, 0)
        if not 0 <= count <= MAX_METADATA:
            _broken("has a column that is not in its batch")
        return [self.take("<u1", 0) for _ in range(count)]


class _Column:
    """One column of a batch."""

    def __init__(self, field: _Field, rows: int, buffers: _Buffers, words: dict[int, list[Value]]):
        self._kind = field.kind
        self._words: list[Value] | None = None
        self._known = None if field.kind == _NULL else buffers.take_known(rows)
        if field.dictionary is not None:
            self._words = words.get(field.dictionary, [])
            self._main = buffers.take(field.index, rows)
        elif field.kind in (_INT, _FLOAT):
            self._main = buffers.take(field.form, rows)
        elif field.kind in (_UTF8, _LARGE_UTF8):
            self._main = buffers.take(field.form, rows + 1 if rows else 0)
            self._texts = [buffers.take("<u1", 0)]
        elif field.kind == _UTF8_VIEW:
            self._main = buffers.take("<i4", 4 * rows)
            self._texts = buffers.take_variadic()
        elif field.kind == _BOOL:
            self._main = buffers.take("<u1", (rows + 7) // 8)

    @property
    def is_numeric(self) -> bool:
        """Whether it holds numbers itself."""
        return self._words is None and self._kind in (_INT, _FLOAT, _NULL)

    def numbers(self, start: int, stop: int) -> np.ndarray:
        """Numbers of some rows as float64, NaN where null."""
        if self._kind == _NULL:
            return np.full(stop - start, np.nan)
        numbers = self._main[start:stop].astype(np.float64)
        if self._known is not None:
            numbers[~self._known[start:stop]] = np.nan
        return numbers

    def values(self, start: int, stop: int) -> list[Value]:
        """Values of some rows, None where null; text is cut."""
        if self.is_numeric:
            numbers = self.numbers(start, stop).tolist()
            return [None if number != number else number for number in numbers]
        known = self._known
        return [
            self._value(row) if known is None or known[row] else None for row in range(start, stop)
        ]

    def _value(self, row: int) -> Value:
        if self._words is not None:
            index = int(self._main[row])
            if not 0 <= index < len(self._words):
                _broken("has a word that is not in its dictionary")
            return self._words[index]
        if self._kind == _BOOL:
            return bool(self._main[row // 8] >> (row % 8) & 1)
        if self._kind == _UTF8_VIEW:
            return self._viewed(row)
        begin, end = int(self._main[row]), int(self._main[row + 1])
        return self._text(0, begin, end - begin)

    def _viewed(self, row: int) -> str:
        view = self._main[4 * row : 4 * row + 4]
        size = int(view[0])
        if not 0 <= size <= _INLINE:
            return self._text(int(view[2]), int(view[3]), size)
        return view[1:].tobytes()[:size].decode("utf-8", "replace")

    def _text(self, buffer: int, begin: int, size: int) -> str:
        if not (0 <= buffer < len(self._texts) and begin >= 0 and size >= 0):
            _broken("has a text that is not in its batch")
        text = self._texts[buffer]
        if begin + size > text.size:
            _broken("has a text that is not in its batch")
        return text[begin : begin + min(size, _WORD)].tobytes().decode("utf-8", "replace")


def _broken(what: str) -> NoReturn:
    raise RequestError("malformed-body", f"the Arrow stream {what}")
