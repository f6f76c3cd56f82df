"""Which column of a file is what, judged by its header alone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from heartdx.codings.table import Finding
from heartdx.contract import (
    ATTRIBUTES,
    HEADER,
    NAMES,
    OUTCOME,
    SITE_ALIASES,
    SITE_COLUMN,
)
from heartdx.errors import CodingError
from heartdx.records import ALWAYS_REQUIRED, RawFile

FETCH_MEND = "`python data/download_data.py --output data/raw/heart.csv` makes a right one"
_SEPARATORS = re.compile(r"[\s_.\-]+")
_READABLE = re.compile(r"[^\w .,()/%-]")
_BOOKKEEPING = ("", "id", "patientid", "patient id", "unnamed: 0", "index")


@dataclass(frozen=True)
class Quirk:
    """A number that means missing in one known file.

    Parameters
    ----------
    headers : normalised names that only that file has.
    column, number : where, and what.
    evidence : how it is known.
    """

    headers: frozenset[str]
    column: str
    number: float
    evidence: str


QUIRKS = (
    Quirk(
        frozenset({"resting bp s", "st slope"}),
        "slope",
        0.0,
        "UCI has no slope for that patient, and the file's other codes are UCI's",
    ),
)


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Parameters
    ----------
    places : contract name (13 names, outcome, site) to column number.
    outcome_header : the outcome column's name as written, normalised; empty when there is none
        or no header.
    quirks : the known quirks of this header.
    findings : columns left out, columns not there.
    """

    places: dict[str, int]
    outcome_header: str
    quirks: tuple[Quirk, ...]
    findings: tuple[Finding, ...]


def column_layout(raw: RawFile) -> Layout:
    """Match the columns of a file to the contract.

    Raises
    ------
    CodingError
        Two columns for one attribute, a headerless file of another width, or no column for an
        attribute that every panel needs.
    """
    if not raw.header:
        return _headerless(raw)
    names = [normalised(name) for name in raw.header]
    spelled = [_SPELLINGS.get(name) for name in names]
    _refuse_twins(raw, spelled)
    places = {name: place for place, name in enumerate(spelled) if name is not None}
    _refuse_foreign(raw, places)
    quirks = tuple(quirk for quirk in QUIRKS if quirk.headers <= set(names))
    ignored = [
        written
        for written, name, known in zip(raw.header, names, spelled, strict=True)
        if known is None and name not in _BOOKKEEPING
    ]
    outcome_header = names[places[OUTCOME.name]] if OUTCOME.name in places else ""
    return Layout(places, outcome_header, quirks, (*_left_out(ignored), *_absent(places)))


def normalised(name: str) -> str:
    """A column name without case, and with one kind of separator.

    Examples
    --------
    >>> normalised("ST_Slope"), normalised(" Max  HR")
    ('st slope', 'max hr')
    """
    return _SEPARATORS.sub(" ", name.strip().lower()).strip()


def _spellings() -> dict[str, str]:
    known = {OUTCOME.name: OUTCOME.aliases, SITE_COLUMN: SITE_ALIASES}
    known |= {attribute.name: attribute.aliases for attribute in ATTRIBUTES}
    return {normalised(word): name for name, words in known.items() for word in (name, *words)}


_SPELLINGS = _spellings()


def _headerless(raw: RawFile) -> Layout:
    width = len(raw.rows[0])
    if not len(NAMES) <= width <= len(HEADER):
        raise CodingError(
            f"{raw.name}: no header and {width} columns; a headerless file has UCI's 13 or 14 "
            f"columns; add a header line with {', '.join(HEADER)}"
        )
    places = {name: place for place, name in enumerate(HEADER[:width])}
    return Layout(places, "", (), ())


def _refuse_twins(raw: RawFile, spelled: list[str | None]) -> None:
    for name in dict.fromkeys(filter(None, spelled)):
        twins = [raw.header[i] for i, known in enumerate(spelled) if known == name]
        if len(twins) > 1:
            raise CodingError(
                f"{raw.name}: columns {' and '.join(map(_shown, twins))} both mean {name}; "
                "remove one"
            )


def _refuse_foreign(raw: RawFile, places: dict[str, int]) -> None:
    absent = [name for name in ALWAYS_REQUIRED if name not in places]
    if absent:
        found = ", ".join(_shown(name) for name in raw.header[:8])
        raise CodingError(
            f"{raw.name}: no column for {', '.join(absent)}, which every panel needs; found "
            f"{found}{' …' if len(raw.header) > 8 else ''}; rename the columns to "
            f"{', '.join(HEADER)}, or {FETCH_MEND}"
        )


def _left_out(ignored: list[str]) -> list[Finding]:
    if not ignored:
        return []
    named = ", ".join(map(_shown, ignored))
    return [Finding("ignored", f"columns not in the contract left out: {named}", len(ignored))]


def _absent(places: dict[str, int]) -> list[Finding]:
    absent = [name for name in NAMES if name not in places]
    if not absent:
        return []
    said = f"columns not in the file, read as missing everywhere: {', '.join(absent)}"
    return [Finding("absent", said, len(absent))]


def _shown(name: str) -> str:
    return f'"{_READABLE.sub("?", name)[:40]}"'
