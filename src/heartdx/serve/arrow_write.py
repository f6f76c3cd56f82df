"""Arrow IPC streams, written: a schema with metadata, record batches, an end.

Only what an answer needs (whole numbers, float64, text), so that no library is loaded for it.
Metadata is a FlatBuffer; here every field of a table takes eight bytes, which keeps all
alignments right at the price of a few bytes a message.

References
----------
.. [1] Apache Arrow. Columnar format: serialization and interprocess communication (IPC).
   https://arrow.apache.org/docs/format/Columnar.html, Schema.fbs and Message.fbs.
.. [2] FlatBuffers. Internals: tables and vtables. https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["int64", "int8", "float64", "text"]

MEDIA = "application/vnd.apache.arrow.stream"
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
TORN = b"\xff\xff\xff\xff\x08\x00\x00\x00"
"""Begins a message that never comes: every reader fails on it, none takes it for the end."""

_CONTINUES = b"\xff\xff\xff\xff"
_VERSION = struct.pack("<h", 4)
_SCHEMA, _BATCH = 1, 3
_INT, _FLOAT, _TEXT = 2, 3, 5
_DOUBLE = 2

_Structs = tuple[int, bytes]
_Value = Any
"""Of a field: bytes (inline), str, dict (a table), list of dicts, ``_Structs``."""


def schema(columns: Mapping[str, Kind], facts: Mapping[str, str]) -> bytes:
    """The message a stream begins with.

    Parameters
    ----------
    columns : name to kind; every column may hold null.
    facts : the schema's metadata.
    """
    fields = [_field(name, kind) for name, kind in columns.items()]
    metadata = [{0: key, 1: value} for key, value in facts.items()]
    return _message(_SCHEMA, {1: fields, 2: metadata}, b"")


@dataclass(frozen=True)
class Numbers:
    """A column of numbers.

    Parameters
    ----------
    values : shape (n,); what stands where nothing is known does not matter.
    known : shape (n,), bool.
    """

    values: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class Words:
    """A column of text.

    Parameters
    ----------
    places : shape (n,), of the row's text in ``words``; negative for null.
    words : the different texts.
    """

    places: np.ndarray
    words: Sequence[str]

    @property
    def known(self) -> np.ndarray:
        """Shape (n,), bool."""
        return self.places >= 0


Column = Numbers | Words


def batch(columns: Mapping[str, Kind], content: Sequence[Column]) -> bytes:
    """A record batch; the content's columns in the schema's order, of equal length."""
    body, nodes, buffers = bytearray(), bytearray(), bytearray()
    for kind, column in zip(columns.values(), content, strict=True):
        known = column.known
        nodes += struct.pack("<qq", len(known), len(known) - np.count_nonzero(known))
        for buffer in (_validity(known), *_buffers(kind, column)):
            buffers += struct.pack("<qq", len(body), len(buffer))
            body += buffer + bytes(-len(buffer) % 8)
    header = {
        0: struct.pack("<q", len(content[0].known)),
        1: (len(nodes) // 16, bytes(nodes)),
        2: (len(buffers) // 16, bytes(buffers)),
    }
    return _message(_BATCH, header, bytes(body))


def _validity(known: np.ndarray) -> bytes:
    """One bit a row; nothing at all when no row is null."""
    return b"" if known.all() else np.packbits(known, bitorder="little").tobytes()


def _buffers(kind: Kind, column: Column) -> list[bytes]:
    if isinstance(column, Numbers):
        return [column.values.astype(kind).tobytes()]
    texts = [*(word.encode() for word in column.words), b""]  # place -1 is the empty one
    lengths = np.array([len(text) for text in texts])
    ends = np.zeros(len(column.places) + 1, dtype=np.int32)
    np.cumsum(lengths[column.places], out=ends[1:])
    if not ends[-1]:
        return [ends.tobytes(), b""]
    first = column.places[0]
    if (column.places == first).all():  # most slices have one panel
        return [ends.tobytes(), texts[first] * len(column.places)]
    return [ends.tobytes(), b"".join(map(texts.__getitem__, column.places.tolist()))]


def _field(name: str, kind: Kind) -> dict[int, _Value]:
    code, about = _type(kind)
    return {0: name, 1: b"\x01", 2: struct.pack("<B", code), 3: about, 5: []}


def _type(kind: Kind) -> tuple[int, dict[int, _Value]]:
    if kind == "text":
        return _TEXT, {}
    if kind == "float64":
        return _FLOAT, {0: struct.pack("<h", _DOUBLE)}
    bits = 8 * np.dtype(kind).itemsize
    return _INT, {0: struct.pack("<i", bits), 1: b"\x01"}


def _message(kind: int, header: dict[int, _Value], body: bytes) -> bytes:
    content = {
        0: _VERSION,
        1: struct.pack("<B", kind),
        2: header,
        3: struct.pack("<q", len(body)),
    }
    metadata = _flatbuffer(content)
    return _CONTINUES + struct.pack("<i", len(metadata)) + metadata + body


# -- FlatBuffers -----------------------------------------------------------------------------


def _flatbuffer(root: dict[int, _Value]) -> bytes:
    out = bytearray(8)
    _point(out, 0, _table(out, root))
    return bytes(out) + bytes(-len(out) % 8)


def _table(out: bytearray, fields: dict[int, _Value]) -> int:
    """Append a table with its vtable and all it points to; where it stands."""
    entries = [0] * (max(fields, default=-1) + 1)
    for order, slot in enumerate(fields):
        entries[slot] = 8 + 8 * order
    vtable = struct.pack(
        f"<{2 + len(entries)}H", 4 + 2 * len(entries), 8 + 8 * len(fields), *entries
    )
    out += bytes(-(len(out) + len(vtable)) % 8) + vtable
    start = len(out)
    out += struct.pack("<i4x", len(vtable)) + bytes(8 * len(fields))
    for order, value in enumerate(fields.values()):
        place = start + 8 + 8 * order
        if isinstance(value, bytes):
            out[place : place + len(value)] = value
        else:
            _point(out, place, _appended(out, value))
    return start


def _appended(out: bytearray, value: _Value) -> int:
    if isinstance(value, dict):
        return _table(out, value)
    if isinstance(value, str):
        return _vector(out, len(value.encode()), value.encode() + b"\x00")
    if isinstance(value, tuple):
        return _vector(out, *value)
    start = _vector(out, len(value), bytes(4 * len(value)))
    for order, entry in enumerate(value):
        _point(out, start + 4 + 4 * order, _table(out, entry))
    return start


def _vector(out: bytearray, count: int, content: bytes) -> int:
    """Append a count and what follows it, the latter at a multiple of eight."""
    out += bytes(-(len(out) + 4) % 8)
    start = len(out)
    out += struct.pack("<I", count) + content
    return start


def _point(out: bytearray, place: int, target: int) -> None:
    struct.pack_into("<I", out, place, target - place)
