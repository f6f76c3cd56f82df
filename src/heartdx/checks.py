"""A data file as a checked table, with everything that was found in it.

The pandera schema is derived from the contract; training reads files through ``load`` only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from heartdx import codings, logs, records
from heartdx.codings import UNKNOWN_SITE, Finding, HomeTable
from heartdx.contract import ATTRIBUTES, HEADER, NAMES, OUTCOME, SITE_COLUMN, SITES, Attribute
from heartdx.errors import ContractError, UsageError

logger = logs.get("checks")


@dataclass(frozen=True)
class Loaded:
    """A file, converted and checked.

    Parameters
    ----------
    frame : the 13 attributes (float64, UCI codes, NaN missing), ``num`` (float64), ``site``.
    findings : everything found and done, with the missing counts by hospital.
    coding : what the file was written in: ``uci``, ``kaggle`` or ``worded``.
    sha256 : of the file's bytes.
    name : the path as given.
    groups : array of int, shape (n,); patients with the same 13 values share one, and belong in
        one fold.
    lines : line of the file of each patient, for messages; empty when the table is not of a file.
    """

    frame: pd.DataFrame
    findings: tuple[Finding, ...]
    coding: str
    sha256: str
    name: str
    groups: np.ndarray
    lines: tuple[int, ...] = ()


def load(
    path: Path,
    *,
    strict: bool = False,
    sites: Sequence[str] | None = None,
    need_outcome: bool = True,
) -> Loaded:
    """Read, convert, check and tell.

    Parameters
    ----------
    path : a CSV file in any known coding.
    strict : refuse a file that deceives instead of mending it.
    sites : keep these hospitals only.
    need_outcome : refuse a file without an outcome for every row; otherwise it is NaN.

    Raises
    ------
    ContractError
        The file breaks the contract, or lacks an outcome that is needed.
    UsageError
        A hospital that the file does not have.
    UnavailableError
        The file cannot be read.
    """
    raw = records.read_file(Path(path))
    home = codings.to_home(raw, strict=strict)
    if need_outcome:
        _refuse_without_outcome(home, raw.name)
    frame = validated(home_frame(home), name=raw.name)
    lines = home.lines
    if sites is not None:
        kept = of_sites(frame, sites, name=raw.name)
        lines = tuple(lines[row] for row in kept.index)
        frame = kept.reset_index(drop=True)
    findings = (*home.findings, *missing_findings(frame))
    groups = duplicate_groups(frame)
    loaded = Loaded(frame, findings, home.coding, raw.sha256, raw.name, groups, lines)
    _tell(loaded)
    return loaded


def outcome(frame: pd.DataFrame) -> np.ndarray:
    """The label that models answer: 1 where num > 0, else 0.

    Returns
    -------
    array of int, shape (n,).

    Raises
    ------
    ContractError
        A patient without an outcome.

    Examples
    --------
    >>> outcome(pd.DataFrame({"num": [0.0, 3.0]})).tolist()
    [0, 1]
    """
    num = frame[OUTCOME.name].to_numpy(dtype=np.float64)
    if np.isnan(num).any():
        raise ContractError(
            f"{OUTCOME.name}: {int(np.isnan(num).sum())} of {len(num)} rows have no outcome; "
            "remove them"
        )
    return (num > 0).astype(np.int64)


def schema() -> pa.DataFrameSchema:
    """The pandera schema of a home frame, derived from the contract."""
    grades = [float(grade) for grade in range(OUTCOME.highest + 1)]
    columns = {attribute.name: _column(attribute) for attribute in ATTRIBUTES}
    columns[OUTCOME.name] = pa.Column(float, pa.Check.isin(grades), nullable=True)
    columns[SITE_COLUMN] = pa.Column(str, pa.Check.str_length(min_value=1))
    return pa.DataFrameSchema(columns, strict=True, ordered=True)


def validated(frame: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """The frame itself when it keeps the contract.

    Raises
    ------
    ContractError
        It does not; columns and counts are named, values are not.
    """
    try:
        return schema().validate(frame, lazy=True)
    except pa.errors.SchemaErrors as cause:
        cases = cause.failure_cases
        counts = cases.groupby(cases["column"].fillna("table").astype(str)).size()
        said = "; ".join(f"{column}: {count} cells" for column, count in counts.items())
        # No `from cause`: pandera's text lists the values, and they are patients'.
        raise ContractError(
            f"{name}: breaks the contract ({said}); docs/contract.md says what is expected"
        ) from None


def home_frame(home: HomeTable) -> pd.DataFrame:
    """A converted file as a frame, columns in the contract's order."""
    frame = pd.DataFrame(home.X, columns=list(NAMES))
    frame[OUTCOME.name] = np.full(len(home.X), np.nan) if home.num is None else home.num
    frame[SITE_COLUMN] = pd.Series(home.site, dtype=str)
    return frame[list(HEADER)]


def of_sites(frame: pd.DataFrame, sites: Sequence[str], *, name: str) -> pd.DataFrame:
    """The rows of these hospitals, each with the index it had.

    Raises
    ------
    UsageError
        A hospital of which the file has no row.
    """
    known = {alias: site.name for site in SITES for alias in (site.name, *site.aliases)}
    wanted = [known.get(site.strip().lower(), site.strip().lower()) for site in sites]
    there = list(dict.fromkeys(frame[SITE_COLUMN]))
    absent = [site for site in wanted if site not in there]
    if absent:
        raise UsageError(
            f"{name}: no patient of site {', '.join(absent)}; the file has {', '.join(there)}"
        )
    return frame[frame[SITE_COLUMN].isin(wanted)]


def duplicate_groups(frame: pd.DataFrame) -> np.ndarray:
    """A number for each patient; rows with the same 13 values share it.

    Examples
    --------
    >>> frame = pd.DataFrame({name: [1.0, 2.0, 1.0] for name in NAMES})
    >>> duplicate_groups(frame).tolist()
    [0, 1, 0]
    """
    grouped = frame.groupby(list(NAMES), sort=False, dropna=False)
    return grouped.ngroup().to_numpy(dtype=np.int64)


def missing_findings(frame: pd.DataFrame) -> list[Finding]:
    """Missing cells by column, counted at each hospital."""
    findings = []
    blank = frame[list(NAMES)].isna()
    by_site = blank.groupby(frame[SITE_COLUMN], sort=False).agg(["sum", "size"])
    for name in NAMES:
        count = int(blank[name].sum())
        if count:
            said = ", ".join(
                f"{site} {row['sum']} of {row['size']}" for site, row in by_site[name].iterrows()
            )
            findings.append(Finding("missing", f"{name}: missing at {said}", count, name))
    return findings


def _column(attribute: Attribute) -> pa.Column:
    if attribute.plausible:
        low, high = attribute.plausible
        check = pa.Check.in_range(low, high)
    else:
        check = pa.Check.isin([float(value) for value in attribute.code_values])
    return pa.Column(float, check, nullable=True)


def _refuse_without_outcome(home: HomeTable, name: str) -> None:
    if home.num is None:
        raise ContractError(
            f"{name}: no outcome column; expected {OUTCOME.name} (0 to {OUTCOME.highest}) or one "
            f"of {', '.join(OUTCOME.aliases)}; training and evaluation need it"
        )
    unlabelled = [home.lines[row] for row in np.flatnonzero(np.isnan(home.num))]
    if unlabelled:
        raise ContractError(
            f"{name}: {OUTCOME.name} is blank at {codings.said_lines(unlabelled)}; training and "
            "evaluation need it; remove these rows or write the outcome"
        )


def _tell(loaded: Loaded) -> None:
    by_site = loaded.frame[SITE_COLUMN].value_counts(sort=False)
    where = ",".join(f"{s}:{n}" for s, n in by_site.items() if s != UNKNOWN_SITE)
    logs.event(
        logger,
        "loaded",
        file=loaded.name,
        rows=len(loaded.frame),
        coding=loaded.coding,
        sites=where or UNKNOWN_SITE,
        sha256=loaded.sha256[:12],
    )
    for finding in loaded.findings:
        level = logging.WARNING if finding.level == "warning" else logging.INFO
        quiet = finding.kind == "missing"
        logs.event(
            logger,
            "found",
            level=logging.DEBUG if quiet else level,
            kind=finding.kind,
            count=finding.count,
            said=finding.message,
        )
