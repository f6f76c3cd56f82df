"""Files in other codings become the home coding, UCI's, or are refused with the reason.

A file is judged by its header and by the evidence in its values, never by its name. What can be
converted exactly is converted and told; what is ambiguous, mixed or deceptive beyond mending is
refused. Nothing is converted silently.

======================  ==========================================================================
coding                  how it is known
======================  ==========================================================================
``uci``                 cp 4, slope 3, thal 6 or 7; else ``num``, ``?``, -9 or grades above 1
``kaggle``              cp 0, slope 0, thal 0, 1 or 2, ca 4
``worded``              words where the codings' numbers differ
======================  ==========================================================================
"""

from __future__ import annotations

import dataclasses

import numpy as np

from heartdx.codings import deceptions, shipped
from heartdx.codings.evidence import (
    Evidence,
    cells,
    coding_evidence,
    decoded,
    line_of,
    outcome,
    refuse_problems,
    site_names,
)
from heartdx.codings.layout import column_layout
from heartdx.codings.table import UNKNOWN_SITE, Finding, HomeTable, said_lines
from heartdx.contract import ATTRIBUTES, NAMES, SITE_NAMES
from heartdx.errors import CodingError, ContractError, FieldProblem
from heartdx.records import RawFile

__all__ = [
    "UNKNOWN_SITE",
    "Finding",
    "HomeTable",
    "from_kaggle",
    "said_lines",
    "to_home",
    "to_kaggle",
]


def to_home(raw: RawFile, *, strict: bool = False, keep_repeats: bool = False) -> HomeTable:
    r"""A file's patients in UCI codes, with everything that was found and done.

    Parameters
    ----------
    raw : the file as text cells.
    strict : refuse a file that deceives (any finding of level ``warning``) instead of mending it.
    keep_repeats : keep patients with equal cells; for scoring, where every line wants an answer.

    Raises
    ------
    CodingError
        Mixed, ambiguous or unknown coding; wrong codebook; inverted label under UCI codes.
    ContractError
        No rows, cells out of range, no outcome in an outcome cell.

    Examples
    --------
    >>> from heartdx.records import parse
    >>> home = to_home(parse(b"age,sex,cp,slope,target\n63,1,3,0,1\n", name="kaggle.csv"))
    >>> home.coding, home.X[0, :3].tolist(), home.num.tolist()
    ('kaggle', [63.0, 1.0, 1.0], [0.0])
    >>> to_home(parse(b"age,sex,cp\n63,1,3\n", name="short.csv"))
    Traceback (most recent call last):
    ...
    heartdx.errors.CodingError: short.csv: ambiguous: no code in cp tells UCI's coding from ...
    """
    table, read = _read(raw)
    table, mended = _mended(raw, table, keep_repeats=keep_repeats)
    findings = (*read, *mended, *deceptions.gaps(table))
    if strict:
        _refuse_deceptive(raw, findings)
    return dataclasses.replace(table, findings=findings)


def to_kaggle(X: np.ndarray, num: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """UCI codes and outcome as the popular ``heart.csv`` writes them.

    Parameters
    ----------
    X : array of shape (n, 13), UCI codes, NaN missing.
    num : array of shape (n,), 0-4.

    Returns
    -------
    codes : array of shape (n, 13); missing ca is 4, missing thal is 0, other gaps stay NaN.
    target : array of shape (n,), 1 for healthy, 0 for disease.

    Examples
    --------
    >>> X = np.array([[63, 1, 1, 145, 233, 1, 2, 150, 0, 2.3, 3, np.nan, 6]])
    >>> codes, target = to_kaggle(X, np.array([0]))
    >>> codes[0].tolist()[2:]
    [3.0, 145.0, 233.0, 1.0, 0.0, 150.0, 0.0, 2.3, 0.0, 4.0, 1.0]
    >>> target.tolist()
    [1.0]
    """
    codes = X.copy()
    for place, attribute in enumerate(ATTRIBUTES):
        for code in attribute.codes:
            codes[X[:, place] == code.value, place] = code.kaggle
        if attribute.kaggle_missing is not None:
            codes[np.isnan(X[:, place]), place] = attribute.kaggle_missing
    return codes, 1.0 - (num > 0)


def from_kaggle(codes: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of ``to_kaggle``; the outcome comes back as 0 or 1.

    Examples
    --------
    >>> X = np.array([[63, 1, 1, 145, 233, 1, 2, 150, 0, 2.3, 3, 0, 6]])
    >>> again, num = from_kaggle(*to_kaggle(X, np.array([2])))
    >>> bool((again == X).all()), num.tolist()
    (True, [1.0])
    """
    X = codes.copy()
    for place, attribute in enumerate(ATTRIBUTES):
        for code in attribute.codes:
            X[codes[:, place] == code.kaggle, place] = code.value
        if attribute.kaggle_missing is not None:
            X[codes[:, place] == attribute.kaggle_missing, place] = np.nan
    return X, 1.0 - target


def _read(raw: RawFile) -> tuple[HomeTable, list[Finding]]:
    """The file in UCI codes, its outcome the right way round."""
    if not raw.rows:
        raise ContractError(f"{raw.name}: a header and no patient; get the file again")
    columns_of = column_layout(raw)
    columns, quirks = cells(raw, columns_of)
    found = coding_evidence(raw, columns)
    sites = site_names(raw, columns_of)
    values = decoded(raw, columns, found, sites)
    lines = tuple(line_of(raw)(row) for row in range(len(raw.rows)))
    num = outcome(raw, columns_of, columns)
    table = HomeTable(values.X, num, sites, lines, found.name, ())
    if values.problems:
        _refuse_unreadable(raw, table, values.problems)
    table, label = deceptions.turned(raw, columns_of, found, table)
    told = [*_conversion(found, table), *columns_of.findings, *quirks, *values.findings, *label]
    return table, told


def _mended(
    raw: RawFile, read: HomeTable, *, keep_repeats: bool
) -> tuple[HomeTable, list[Finding]]:
    """The table without what was repeated or filled in upstream."""
    distinct, repeats = deceptions.without_repeats(read)
    match = _match(distinct)
    deceptions.refuse_contradicted_label(raw, distinct, match)
    deceptions.refuse_wrong_codebook(raw, distinct, match)
    table, relabelled = deceptions.with_right_sites(distinct, match)
    table, fills = deceptions.without_fills(table, match)
    if keep_repeats:
        table, repeats = deceptions.with_repeats(read, distinct, table), []
    return table, [*repeats, *relabelled, *fills]


def _match(table: HomeTable) -> shipped.Match:
    foreign = np.array([site not in (UNKNOWN_SITE, *SITE_NAMES) for site in table.site])
    return shipped.match(table.X, table.diseased, foreign=foreign)


def _refuse_unreadable(
    raw: RawFile, table: HomeTable, problems: dict[FieldProblem, list[int]]
) -> None:
    """A wrong codebook is the better reason than the words it left behind, so it goes first."""
    distinct, _ = deceptions.without_repeats(table)
    deceptions.refuse_wrong_codebook(raw, distinct, _match(distinct))
    refuse_problems(raw, problems)


def _conversion(found: Evidence, table: HomeTable) -> list[Finding]:
    changed = [
        name for name in shipped.RECODED if not np.isnan(table.X[:, NAMES.index(name)]).all()
    ]
    said = {
        "uci": "numbers are UCI's codes; nothing converted",
        "kaggle": f"Kaggle recoding: {', '.join(changed)} converted to UCI's codes",
        "worded": f"words ({', '.join(changed)}, and others) converted to UCI's codes",
    }
    return [Finding("coding", said[found.name], len(table.X))]


def _refuse_deceptive(raw: RawFile, findings: tuple[Finding, ...]) -> None:
    warnings = [finding.message for finding in findings if finding.level == "warning"]
    if warnings:
        raise CodingError(
            f"{raw.name}: refused by strict reading: {'; '.join(warnings)}; load without strict "
            "to have it mended and told, or start from UCI's data"
        )
