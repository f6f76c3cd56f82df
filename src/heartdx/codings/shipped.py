"""The four hospitals' 920 patients as a table, and the search for them in another file.

Most heart disease files in the wild were made from these patients. Finding a file's rows among
them proves what its header cannot: which cells were filled in, which codebook was used.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heartdx import embedded, records
from heartdx.contract import ATTRIBUTES, BY_NAME, MISSING_NUMBER, NAMES, SITES, Site
from heartdx.errors import ContractError

RECODED: tuple[str, ...] = tuple(
    a.name for a in ATTRIBUTES if any(code.kaggle != code.value for code in a.codes)
)
"""Attributes whose numbers differ between the codings in circulation."""
STABLE = np.array([name not in RECODED for name in NAMES])
"""Places of the attributes that are written alike in every coding: the key of the search."""
STRONG_CELLS = 7
"""So many equal stable cells, and none that differs, make one patient."""
RECOGNISED = 0.5
"""A file is taken for the shipped patients when this share of its rows is surely theirs."""


@dataclass(frozen=True)
class SiteTable:
    """One hospital's file, read.

    Parameters
    ----------
    X : array of shape (n_patients, 13), UCI codes, NaN missing.
    num : array of shape (n_patients,), the file's outcome.
    blanked : column to the number of zeros read as missing.
    """

    X: np.ndarray
    num: np.ndarray
    blanked: dict[str, int]


@dataclass(frozen=True)
class Patients:
    """All shipped patients in site order.

    Parameters
    ----------
    X : array of shape (920, 13).
    num : array of shape (920,).
    site : the hospital of each row.
    """

    X: np.ndarray
    num: np.ndarray
    site: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """Which shipped patient each row of a file is.

    Parameters
    ----------
    patient : array of int, place among the 920, -1 where the row is nobody's.
    strong : array of bool, whether at least ``STRONG_CELLS`` stable cells were equal.
    """

    patient: np.ndarray
    strong: np.ndarray


def site_table(content: bytes, site: Site) -> SiteTable:
    """UCI's file of one hospital as a table; zeros that mean missing there are blanked.

    Raises
    ------
    ContractError
        The bytes are not that hospital's 14-column table.
    """
    raw = records.parse(content, name=site.file)
    if raw.header or len(raw.rows[0]) != len(NAMES) + 1 or len(raw.rows) != site.patients:
        raise ContractError(
            f"{site.file}: expected {site.patients} rows of {len(NAMES) + 1} cells without a "
            f"header, found {len(raw.rows)} of {len(raw.rows[0]) if raw.rows else 0}; get it again"
        )
    numbers = np.array([[_number(text, site) for text in row] for row in raw.rows])
    X, num = numbers[:, : len(NAMES)], numbers[:, len(NAMES)]
    return SiteTable(X, num, _blank_zeros(X, site))


@functools.cache
def patients() -> Patients:
    """The shipped patients, read once.

    Examples
    --------
    >>> patients().X.shape
    (920, 13)
    """
    tables = [site_table(embedded.site_bytes(site), site) for site in SITES]
    X = np.concatenate([table.X for table in tables])
    num = np.concatenate([table.num for table in tables])
    X.flags.writeable = num.flags.writeable = False
    names = tuple(site.name for site in SITES for _ in range(site.patients))
    return Patients(X, num, names)


def match(
    X: np.ndarray, diseased: np.ndarray | None = None, *, foreign: np.ndarray | None = None
) -> Match:
    """Join a file's distinct rows to the shipped patients on the cells both have, one to one.

    Recoded columns and the outcome never decide whether a row fits, so that a wrong codebook or
    an inverted label cannot hide a patient; they only choose among patients that fit. Rows with
    the very gaps of a patient go first. Rows with few cells are joined only when most of the
    file was recognised by rows with many.

    Parameters
    ----------
    X : array of shape (n, 13), NaN missing.
    diseased : array of shape (n,), 1 or 0 or NaN; None without an outcome.
    foreign : array of bool, rows that the file gives to another hospital: few cells in common
        with one of the 920 are chance there.

    Examples
    --------
    >>> int(match(patients().X[5:6]).patient[0])
    5
    """
    label = np.full(len(X), np.nan) if diseased is None else diseased
    found = _candidates(np.column_stack([X, label]))
    sure = np.array([candidates.shared >= STRONG_CELLS for candidates in found])
    weak_too = sure.mean() >= RECOGNISED
    local = np.ones(len(X), dtype=bool) if foreign is None else ~foreign
    held = _one_to_one([candidates.exact for candidates in found])
    taken = set(held[held >= 0].tolist())
    rest = [
        [patient for patient in candidates.fitting if patient not in taken]
        if held[row] < 0 and (sure[row] or (weak_too and local[row]))
        else []
        for row, candidates in enumerate(found)
    ]
    patient = np.where(held >= 0, held, _one_to_one(rest))
    shared = (patients().X[patient] == X)[:, STABLE].sum(axis=1)
    patient[(shared < STRONG_CELLS) & ~(weak_too & local)] = -1
    return Match(patient, (patient >= 0) & (shared >= STRONG_CELLS))


@dataclass(frozen=True)
class _Candidates:
    """Patients that one row may be, best first; those with its very gaps; most cells shared."""

    fitting: list[int]
    exact: list[int]
    shared: int


def _candidates(rows: np.ndarray) -> list[_Candidates]:
    known = patients()
    everything = np.column_stack([known.X, known.num > 0])
    there, stable = ~np.isnan(everything), np.append(STABLE, False)
    written = stable & ~np.isnan(rows).all(axis=0)
    found = []
    for row in rows:
        equal, both = row == everything, ~np.isnan(row) & there
        fits = np.flatnonzero((equal | ~both)[:, stable].all(axis=1))
        score = 2 * equal[fits].sum(axis=1) - both[fits].sum(axis=1)
        ranked = fits[np.argsort(-score, kind="stable")]
        exact = (~np.isnan(row) == there[ranked])[:, written].all(axis=1)
        shared = equal[fits][:, stable].sum(axis=1).max(initial=0)
        found.append(_Candidates(ranked.tolist(), ranked[exact].tolist(), int(shared)))
    return found


def _number(text: str, site: Site) -> float:
    value = records.cell(text)
    if isinstance(value, str):
        raise ContractError(f"{site.file}: holds a word where UCI has numbers; get it again")
    return np.nan if value is None or value == MISSING_NUMBER else value


def _blank_zeros(X: np.ndarray, site: Site) -> dict[str, int]:
    blanked = {}
    for place, name in enumerate(NAMES):
        rule = BY_NAME[name].zero
        if rule and site.name in rule.counts:
            zero = X[:, place] == 0
            X[zero, place] = np.nan
            blanked[name] = int(zero.sum())
    return blanked


def _one_to_one(wanted: Sequence[Sequence[int]]) -> np.ndarray:
    """Maximum matching by shortest augmenting paths, rows with the fewest choices first."""
    held, holder = np.full(len(wanted), -1), np.full(len(patients().X), -1)
    for start in sorted(range(len(wanted)), key=lambda row: len(wanted[row])):
        asked_by: dict[int, int] = {}
        queue, free = [start], -1
        for row in queue:
            fresh = [patient for patient in wanted[row] if patient not in asked_by]
            asked_by.update(dict.fromkeys(fresh, row))
            free = next((patient for patient in fresh if holder[patient] < 0), -1)
            if free >= 0:
                break
            queue += [int(holder[patient]) for patient in fresh]
        while free >= 0:
            row = asked_by[free]
            holder[free], free, held[row] = row, int(held[row]), free
    return held
