"""Where the row groups of a Parquet file end, which polars uses but does not tell.

Whoever reads a file in pieces pays twice for a row group that two pieces share; so the pieces
should end where groups do.

References
----------
Parquet file format, https://parquet.apache.org/docs/file-format/ (FileMetaData, RowGroup).
Thrift compact protocol, https://github.com/apache/thrift/blob/master/doc/specs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

LARGEST_FOOTER = 16_000_000
"""Bytes read here; a footer has about 100 a column and group, so 10,000 groups of 13 columns."""

_MAGIC: Final = b"PAR1"
_END: Final = 8
_ROW_GROUPS, _NUM_ROWS = 4, 3
"""Numbers of the fields in FileMetaData and in RowGroup."""
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_WHOLE = (4, 5, 6)
_LONG_LIST = 15
_WHOLE_BITS = 64


def row_groups(file: Path) -> tuple[int, ...]:
    """Rows of each group in the order of the file; empty where the footer does not say.

    It serves speed only, so what cannot be read here is left to the reader of the table to refuse.
    """
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - _END, 0))
        end = stream.read()
        length = int.from_bytes(end[:4], "little")
        if end[4:] != _MAGIC or not 0 < length <= min(size - _END, LARGEST_FOOTER):
            return ()
        stream.seek(size - _END - length)
        footer = stream.read(length)
    try:
        return tuple(int(group[_NUM_ROWS]) for group in _Thrift(footer).struct()[_ROW_GROUPS])
    except (IndexError, KeyError, RecursionError, TypeError, ValueError):
        return ()


def pieces(groups: Sequence[int], rows: int, *, most: int) -> Iterator[tuple[int, int]]:
    """First row and rows of pieces that hold whole groups, or equal parts of one too large.

    Parameters
    ----------
    groups : rows of each; where they do not add up to ``rows``, the table counts as one group.
    rows : of the table.
    most : rows of a piece.

    Examples
    --------
    >>> list(pieces([4, 4, 4, 25], 37, most=10))
    [(0, 8), (8, 4), (12, 9), (21, 9), (30, 7)]
    """
    known = groups if sum(groups) == rows and min(groups, default=0) >= 0 else [rows]
    first = held = 0
    for group in known:
        if held and held + group > most:
            yield first, held
            first, held = first + held, 0
        if group > most:
            part = -(-group // -(-group // most))
            yield from ((first + at, min(part, group - at)) for at in range(0, group, part))
            first += group
        else:
            held += group
    if held:
        yield first, held


class _Thrift:
    """Values of the compact protocol, as far as Parquet uses it."""

    def __init__(self, content: bytes):
        self._content = content
        self._at = 0

    def struct(self) -> dict[int, Any]:
        """Number of a field to its value."""
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._whole()
            kind = head & 15
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        return found

    def _value(self, kind: int) -> Any:
        if kind in _WHOLE:
            return self._whole()
        if kind == _BINARY:
            return self._skipped(self._unsigned())
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            return self._list()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._skipped(8)
        raise ValueError(kind)

    def _list(self) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        if size == _LONG_LIST:
            size = self._unsigned()
        return [self._value(kind) for _ in itertools.repeat(None, size)]

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _skipped(self, size: int) -> None:
        self._at += size
        if self._at > len(self._content):
            raise IndexError(self._at)

    def _unsigned(self) -> int:
        number = 0
        for shift in range(0, _WHOLE_BITS, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError(number)

    def _whole(self) -> int:
        zigzag = self._unsigned()
        return zigzag >> 1 ^ -(zigzag & 1)
