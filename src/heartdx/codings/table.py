"""What a converted file is, and how lines and counts are named in messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

UNKNOWN_SITE = "unknown"
SHOWN_LINES = 5


@dataclass(frozen=True)
class Finding:
    """Something found in a file, and what was done about it; counts only, never a value.

    Parameters
    ----------
    kind : a stable word, for example ``coding``, ``duplicates``, ``filled_in``, ``zeros``.
    message : what was found and what was done.
    count : rows or cells concerned.
    column : the attribute, None when it concerns rows.
    level : ``warning`` when the file deceives; ``strict`` refuses those.
    """

    kind: str
    message: str
    count: int
    column: str | None = None
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class HomeTable:
    """A file in the home coding.

    Parameters
    ----------
    X : array of shape (n, 13), UCI codes in contract order, NaN missing.
    num : array of shape (n,), 0-4, or 0 and 1 where the file only says whether; NaN where a cell
        is blank; None when the file has no outcome column.
    site : the hospital of each row, ``unknown`` where the file does not say.
    lines : 1-based line of each row in the file.
    coding : ``uci``, ``kaggle`` or ``worded``: what the file was written in.
    findings : everything found and done.
    """

    X: np.ndarray
    num: np.ndarray | None
    site: tuple[str, ...]
    lines: tuple[int, ...]
    coding: str
    findings: tuple[Finding, ...]

    @property
    def diseased(self) -> np.ndarray | None:
        """1 where num > 0, 0 where it is 0, NaN where it is missing; None without an outcome."""
        if self.num is None:
            return None
        return np.where(np.isnan(self.num), np.nan, self.num > 0)

    def rows(self, keep: np.ndarray) -> HomeTable:
        """The table with the rows of a boolean array only."""
        return self.take(np.flatnonzero(keep))

    def take(self, places: np.ndarray) -> HomeTable:
        """The table's rows at these places, in that order, repeats included."""
        return HomeTable(
            self.X[places],
            None if self.num is None else self.num[places],
            tuple(self.site[i] for i in places),
            tuple(self.lines[i] for i in places),
            self.coding,
            self.findings,
        )


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    Examples
    --------
    >>> counted(1, "cell"), counted(3, "cell")
    ('1 cell', '3 cells')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def said_lines(lines: Iterable[int]) -> str:
    """Lines in words, shortened.

    Examples
    --------
    >>> said_lines([4]), said_lines([9, 4]), said_lines(range(2, 100))
    ('line 4', 'lines 4 and 9', 'lines 2, 3, 4, 5, 6 and 93 more')
    """
    listed = sorted(set(lines))
    shown, more = [str(n) for n in listed[:SHOWN_LINES]], len(listed) - SHOWN_LINES
    if more > 0:
        return f"lines {', '.join(shown)} and {more} more"
    if len(shown) == 1:
        return f"line {shown[0]}"
    return f"lines {', '.join(shown[:-1])} and {shown[-1]}"
