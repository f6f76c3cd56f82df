"""Which coding a file is written in, judged by its values; then every cell in UCI codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from heartdx import records
from heartdx.codings.layout import FETCH_MEND, Layout, normalised
from heartdx.codings.shipped import RECODED
from heartdx.codings.table import UNKNOWN_SITE, Finding, counted, said_lines
from heartdx.contract import (
    ATTRIBUTES,
    BY_NAME,
    MISSING_NUMBER,
    MISSING_TEXT,
    NAMES,
    OUTCOME,
    SITE_COLUMN,
    SITES,
    Attribute,
)
from heartdx.errors import CodingError, ContractError, FieldProblem
from heartdx.records import Coding, RawFile

Cell = float | str | None
Columns = dict[str, list[Cell]]

TELLING: tuple[str, ...] = tuple(
    a.name
    for a in ATTRIBUTES
    if any(c.kaggle != c.value for c in a.codes) or a.kaggle_missing is not None
)
"""Attributes whose numbers can betray the coding."""


@dataclass(frozen=True)
class Evidence:
    """How the file is written.

    Parameters
    ----------
    name : ``uci``, ``kaggle`` or ``worded``.
    numbers : the coding of the columns that hold numbers.
    """

    name: str
    numbers: Coding


@dataclass(frozen=True)
class Decoded:
    """Cells in UCI codes.

    Parameters
    ----------
    X : array of shape (n, 13).
    findings : zeros and known quirks read as missing.
    problems : cells that break the contract, by what is wrong; row numbers.
    """

    X: np.ndarray
    findings: tuple[Finding, ...]
    problems: dict[FieldProblem, list[int]]


def cells(raw: RawFile, layout: Layout) -> tuple[Columns, list[Finding]]:
    """The file's columns by contract name: numbers, words, None where missing."""
    columns: Columns = {
        name: [_cell(row[place]) for row in raw.rows] for name, place in layout.places.items()
    }
    findings = []
    for quirk in layout.quirks:
        column = columns[quirk.column]
        hits = [i for i, value in enumerate(column) if value == quirk.number]
        if hits and any(_betrays(columns, "uci").values()):
            columns[quirk.column] = [None if v == quirk.number else v for v in column]
            said = (
                f"{quirk.column}: {counted(len(hits), 'cell')} of {quirk.number:g} read as missing"
            )
            findings.append(Finding("quirk", f"{said}: {quirk.evidence}", len(hits), quirk.column))
    return columns, findings


def coding_evidence(raw: RawFile, columns: Columns) -> Evidence:
    """Judge the coding.

    Raises
    ------
    CodingError
        Both codings in one file, words beside numbers in one column, or no evidence at all.
    """
    _refuse_words_beside_numbers(raw, columns)
    worded = any(isinstance(v, str) for name in RECODED for v in columns.get(name, ()))
    ours, theirs = _betrays(columns, "uci"), _betrays(columns, "kaggle")
    if any(ours.values()) and any(theirs.values()):
        raise CodingError(_mixed(raw, ours, theirs))
    if any(theirs.values()):
        return Evidence("worded" if worded else "kaggle", "kaggle")
    numbered = [n for n in RECODED if any(isinstance(v, float) for v in columns.get(n, ()))]
    if numbered and not any(ours.values()) and not _carries_uci_marks(raw, columns):
        raise CodingError(
            f"{raw.name}: ambiguous: no code in {', '.join(numbered)} tells UCI's coding from the "
            f"Kaggle recoding; name the outcome column {OUTCOME.name} if the codes are UCI's, or "
            "write the codes' names instead of numbers"
        )
    return Evidence("worded" if worded else "uci", "uci")


def decoded(raw: RawFile, columns: Columns, found: Evidence, sites: Sequence[str]) -> Decoded:
    """Every cell of the 13 attributes through the one decoder."""
    X = np.full((len(raw.rows), len(NAMES)), np.nan)
    findings: list[Finding] = []
    problems: dict[FieldProblem, list[int]] = {}
    for place, attribute in enumerate(ATTRIBUTES):
        values = list(columns.get(attribute.name, ()))
        if attribute.zero:
            values, zeros = _without_zeros(attribute, values, sites)
            findings += zeros
        decode = records.DECODERS[found.numbers][attribute.name]
        for row, value in enumerate(values):
            answer = decode(value)
            if isinstance(answer, FieldProblem):
                problems.setdefault(answer, []).append(row)
            else:
                X[row, place] = answer
    return Decoded(X, tuple(findings), problems)


def refuse_problems(raw: RawFile, problems: dict[FieldProblem, list[int]]) -> None:
    """Raise for cells that break the contract, naming attribute, lines and mend.

    Raises
    ------
    CodingError
        At least one of them is a code or a word that the coding does not have.
    ContractError
        All of them are numbers out of range or words in a column of numbers.
    """
    if not problems:
        return
    said = [_said(raw, problem, rows) for problem, rows in problems.items()]
    coded = any(BY_NAME[problem.field].codes for problem in problems)
    raise (CodingError if coded else ContractError)(f"{raw.name}: {'; '.join(said)}")


def outcome(raw: RawFile, layout: Layout, columns: Columns) -> np.ndarray | None:
    """The outcome column as numbers, words read; not yet turned or counted from 0.

    Raises
    ------
    ContractError
        A word or a number that is no outcome; the lines are named.
    """
    if OUTCOME.name not in layout.places:
        return None
    words = dict.fromkeys(OUTCOME.negative_words, 0.0) | dict.fromkeys(OUTCOME.positive_words, 1.0)
    allowed = {float(grade) for grade in range(OUTCOME.highest + 1)}
    numbers, wrong = [], []
    for row, value in enumerate(columns[OUTCOME.name]):
        number = words.get(value.lower(), -1.0) if isinstance(value, str) else value
        if number is not None and number not in allowed:
            wrong.append(row)
        numbers.append(np.nan if number is None else number)
    if wrong:
        raise ContractError(
            f"{raw.name}: {OUTCOME.name}: {counted(len(wrong), 'cell')} ({_lines(raw, wrong)}) "
            f"without an outcome in it; expected 0 to {OUTCOME.highest}, or a word such as "
            f"{OUTCOME.positive_words[0]} or {OUTCOME.negative_words[0]}; correct or remove them"
        )
    return np.array(numbers, dtype=np.float64)


def site_names(raw: RawFile, layout: Layout) -> tuple[str, ...]:
    """The hospital of each row under the contract's name, where the file says."""
    if SITE_COLUMN not in layout.places:
        return (UNKNOWN_SITE,) * len(raw.rows)
    known = {word: site.name for site in SITES for word in (site.name, *site.aliases)}
    written = [row[layout.places[SITE_COLUMN]].strip().lower() for row in raw.rows]
    return tuple(known.get(word, UNKNOWN_SITE if _cell(word) is None else word) for word in written)


def _cell(text: str) -> Cell:
    value = records.cell(text)
    return None if value == MISSING_NUMBER else value


def _only(attribute: Attribute, coding: Coding) -> set[int]:
    """Codes that exist in one coding and not in the other."""
    ours = set(attribute.code_values)
    theirs = {code.kaggle for code in attribute.codes}
    if attribute.kaggle_missing is not None:
        theirs.add(attribute.kaggle_missing)
    return ours - theirs if coding == "uci" else theirs - ours


def _betrays(columns: Columns, coding: Coding) -> dict[str, list[int]]:
    """Rows whose number exists in that coding only, by column."""
    return {
        name: [i for i, v in enumerate(columns.get(name, ())) if v in _only(BY_NAME[name], coding)]
        for name in TELLING
    }


def _carries_uci_marks(raw: RawFile, columns: Columns) -> bool:
    """Marks that the Kaggle recoding never has: its name for the outcome, grades, ``?``, -9."""
    grades = any(isinstance(v, float) and v > 1 for v in columns.get(OUTCOME.name, ()))
    return (
        OUTCOME.name in map(normalised, raw.header)
        or (grades and bool(raw.header))
        or any(text == MISSING_TEXT for row in raw.rows for text in row)
        or any(records.cell(text) == MISSING_NUMBER for row in raw.rows for text in row)
    )


def _refuse_words_beside_numbers(raw: RawFile, columns: Columns) -> None:
    for name in RECODED:
        words = [i for i, v in enumerate(columns.get(name, ())) if isinstance(v, str)]
        numbers = [i for i, v in enumerate(columns.get(name, ())) if isinstance(v, float)]
        if words and numbers:
            fewer = min(words, numbers, key=len)
            raise CodingError(
                f"{raw.name}: mixed: {name} holds words in {counted(len(words), 'row')} and "
                f"numbers in {len(numbers)} ({_lines(raw, fewer)}); these are two files stacked "
                "or one mended by hand; convert each part by itself"
            )


def _mixed(raw: RawFile, ours: dict[str, list[int]], theirs: dict[str, list[int]]) -> str:
    def said(found: dict[str, list[int]]) -> str:
        return ", ".join(
            f"{name} in {counted(len(rows), 'row')} ({_lines(raw, rows)})"
            for name, rows in found.items()
            if rows
        )

    return (
        f"{raw.name}: mixed: codes that only UCI has stand in {said(ours)}; codes that only the "
        f"Kaggle recoding has stand in {said(theirs)}; these are two files stacked, or another "
        f"codebook; take the parts apart and convert each by itself, or {FETCH_MEND}"
    )


def _without_zeros(
    attribute: Attribute, values: list[Cell], sites: Sequence[str]
) -> tuple[list[Cell], list[Finding]]:
    rows = [row for row, value in enumerate(values) if value == 0]
    if not rows or attribute.zero is None:
        return values, []
    at = [sites[row] for row in rows]
    by_site = ", ".join(
        f"{site} {at.count(site)}" for site in dict.fromkeys(at) if site != UNKNOWN_SITE
    )
    where = f" ({by_site})" if by_site else ""
    said = f"{attribute.name}: {counted(len(rows), 'cell')} of 0 read as missing{where}"
    finding = Finding("zeros", f"{said}: {attribute.zero.evidence}", len(rows), attribute.name)
    return [None if value == 0 else value for value in values], [finding]


def _said(raw: RawFile, problem: FieldProblem, rows: list[int]) -> str:
    unit = BY_NAME[problem.field].unit
    check = f"check the unit ({unit})" if problem.kind == "range" and unit else "correct them"
    return (
        f"{problem.field}: {counted(len(rows), 'cell')} ({_lines(raw, rows)}) not as expected, "
        f"{problem.expected}; {check}, or leave them blank if not known"
    )


def _lines(raw: RawFile, rows: Sequence[int]) -> str:
    return said_lines(line_of(raw)(row) for row in rows)


def line_of(raw: RawFile) -> Callable[[int], int]:
    """Row number to the file's line."""
    return lambda row: raw.lines[row] if raw.lines else raw.first_line + row
