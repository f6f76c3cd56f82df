"""Files that deceive: turned labels, repeated patients, gaps filled in, wrong codebooks.

Each function takes a table in UCI codes and returns it mended with its findings, or refuses.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Literal

import numpy as np

from heartdx.codings import shipped
from heartdx.codings.evidence import Evidence
from heartdx.codings.layout import FETCH_MEND, Layout
from heartdx.codings.table import UNKNOWN_SITE, Finding, HomeTable, counted, said_lines
from heartdx.contract import BY_NAME, NAMES, OUTCOME, Attribute
from heartdx.errors import CodingError
from heartdx.records import ALWAYS_REQUIRED, RawFile

Direction = Literal["rises", "falls", "unclear", "untestable"]

CLEAR_Z = 3.0
"""A marker's correlation with the outcome counts when it is this many standard errors from 0."""
FEWEST_PER_CLASS = 10
SYSTEMATIC = 0.9
"""A code is misread by a codebook, not by hand, when this share of its patients is."""
FEWEST_MISREAD = 10
CONTRADICTED = 0.05
"""More outcomes than this share against the shipped ones cannot be typing errors."""

_Key = tuple[float | str | None, ...]


def direction(X: np.ndarray, y: np.ndarray) -> Direction:
    """Whether the markers of disease rise with an outcome.

    Parameters
    ----------
    X : array of shape (n, 13), UCI codes.
    y : array of shape (n,), larger means sicker if the label is right; NaN unknown.

    Returns
    -------
    ``rises`` or ``falls`` when every marker that is clear says so (all that can be tested must
    fall for ``falls``), ``unclear`` otherwise, ``untestable`` when no marker has enough rows.

    Notes
    -----
    ``exang``, ``oldpeak`` and ``ca`` rise with disease at each of the four hospitals.
    """
    z = [_z(X[:, NAMES.index(name)], y) for name in OUTCOME.markers]
    tested = [value for value in z if value is not None]
    if not tested:
        return "untestable"
    if max(tested) < -CLEAR_Z:
        return "falls"
    return "rises" if max(tested) > CLEAR_Z and min(tested) > -CLEAR_Z else "unclear"


def turned(
    raw: RawFile, layout: Layout, found: Evidence, table: HomeTable
) -> tuple[HomeTable, list[Finding]]:
    """The outcome as UCI writes it: 0 healthy, above 0 diseased.

    In the Kaggle recoding 1 is healthy (proven on 303 of 303 joined rows), so it is turned and
    said. In UCI codes an inverted label is refused, not turned: no published file is like that,
    the grades are lost, and a program that flips diagnoses on a statistic alone flips them for
    a hospital whose patients differ.

    Raises
    ------
    CodingError
        The label is inverted under UCI codes or words, or its meaning cannot be told.
    """
    if table.num is None:
        return table, []
    known = table.num[~np.isnan(table.num)]
    if found.name == "kaggle":
        return _turned_kaggle(raw, layout, table, known)
    if set(known) == {1.0, 2.0} and layout.outcome_header != OUTCOME.name:
        return _counted_from_one(raw, table)
    seen = direction(table.X, table.num > 0)
    if seen == "falls":
        raise CodingError(
            f"{raw.name}: inverted: {', '.join(OUTCOME.markers)} fall with the outcome, and they "
            "rise with disease at every hospital, so 0 must mean disease here; write 1 - outcome "
            f"into a column {OUTCOME.name} and load again"
        )
    if seen == "unclear":
        said = (
            f"none of {', '.join(OUTCOME.markers)} clearly rises with the outcome, as they do at "
            "every hospital; the outcome may be another one, or made up; left as it is"
        )
        return table, [Finding("unrelated_label", said, len(known), OUTCOME.name, "warning")]
    return table, []


def without_repeats(table: HomeTable) -> tuple[HomeTable, list[Finding]]:
    """The table with exact duplicates dropped, but for those that UCI itself ships.

    UCI's two pairs stay in a file that names hospitals, or whose every row is UCI's.
    """
    keys = [row_key(table, row, with_site=True) for row in range(len(table.X))]
    allowed = _shipped_repeats(table)
    seen: Counter[_Key] = Counter()
    keep = np.zeros(len(keys), dtype=bool)
    for row, key in enumerate(keys):
        seen[key] += 1
        keep[row] = seen[key] <= allowed.get(key, 1)
    kept = Counter(key for key, stays in zip(keys, keep, strict=True) if stays)
    pairs, dropped = sum(count - 1 for count in kept.values()), int((~keep).sum())
    findings = []
    if pairs:
        said = f"{counted(pairs, 'patient')} repeated by UCI itself kept, in one group each"
        findings.append(Finding("repeats_kept", said, pairs))
    if dropped:
        said = f"{counted(dropped, 'exact duplicate')} dropped; {int(keep.sum())} rows are left"
        findings.append(Finding("duplicates", said, dropped, None, "warning"))
    return table.rows(keep), findings


def with_repeats(read: HomeTable, distinct: HomeTable, mended: HomeTable) -> HomeTable:
    """Every row that was read, as its distinct row was mended.

    Parameters
    ----------
    read : all rows as they were read.
    distinct : the rows that ``without_repeats`` left of them.
    mended : the same rows after mending.
    """
    place_of = {row_key(distinct, row, with_site=True): row for row in range(len(distinct.X))}
    places = [place_of[row_key(read, row, with_site=True)] for row in range(len(read.X))]
    return dataclasses.replace(mended.take(np.array(places, dtype=int)), lines=read.lines)


def refuse_wrong_codebook(raw: RawFile, table: HomeTable, match: shipped.Match) -> None:
    """Compare the codes of recognised patients with UCI's.

    Raises
    ------
    CodingError
        A code is read as another for nearly all the patients who have it.
    """
    misread = [
        said
        for name in shipped.RECODED
        for said in _misread(table, match, BY_NAME[name], NAMES.index(name))
    ]
    if misread:
        raise CodingError(
            f"{raw.name}: wrong codebook: of {int(match.strong.sum())} patients recognised among "
            f"UCI's 920, {'; '.join(misread)}; nothing in the file says which other cells are "
            f"wrong; {FETCH_MEND}"
        )


def refuse_contradicted_label(raw: RawFile, table: HomeTable, match: shipped.Match) -> None:
    """Compare the outcome of recognised patients with UCI's.

    Raises
    ------
    CodingError
        More than a twentieth of them have the opposite outcome.
    """
    sure = match.strong
    if table.num is None or not sure.any():
        return
    theirs, ours = table.num[sure], shipped.patients().num[match.patient[sure]]
    opposite = int(((theirs > 0) != (ours > 0))[~np.isnan(theirs)].sum())
    if opposite >= FEWEST_MISREAD and opposite > CONTRADICTED * len(theirs):
        raise CodingError(
            f"{raw.name}: the outcome of {opposite} of {len(theirs)} patients recognised among "
            f"UCI's 920 is the opposite of UCI's; the label is inverted or mixed; {FETCH_MEND}"
        )


def with_right_sites(table: HomeTable, match: shipped.Match) -> tuple[HomeTable, list[Finding]]:
    """Site labels of surely recognised patients as UCI has them, where the file names sites."""
    known = shipped.patients()
    sites = list(table.site)
    for row in np.flatnonzero(match.strong):
        if sites[row] != UNKNOWN_SITE:
            sites[row] = known.site[match.patient[row]]
    wrong = [row for row, site in enumerate(sites) if site != table.site[row]]
    if not wrong:
        return table, []
    lines = said_lines(table.lines[row] for row in wrong)
    said = f"{counted(len(wrong), 'site label')} ({lines}) not as in UCI's files; corrected"
    finding = Finding("site_label", said, len(wrong), "site", "warning")
    return dataclasses.replace(table, site=tuple(sites)), [finding]


def without_fills(table: HomeTable, match: shipped.Match) -> tuple[HomeTable, list[Finding]]:
    """Cells that recognised patients do not have in UCI's files, blanked."""
    known, joined = shipped.patients(), match.patient >= 0
    absent = np.isnan(known.X[match.patient]) & joined[:, np.newaxis]
    filled = absent & ~np.isnan(table.X)
    findings = _recognised(table, match)
    for place, name in enumerate(NAMES):
        cells = filled[:, place]
        if cells.any():
            said = (
                f"{name}: filled in where UCI has nothing, {counted(int(cells.sum()), 'cell')}"
                f"{_from_the_label(table, cells, place)}; blanked"
            )
            findings.append(Finding("filled_in", said, int(cells.sum()), name, "warning"))
    return dataclasses.replace(table, X=np.where(filled, np.nan, table.X)), findings


def gaps(table: HomeTable) -> list[Finding]:
    """Rows that no panel can use, and rows without an outcome."""
    findings = []
    needed = [NAMES.index(name) for name in ALWAYS_REQUIRED]
    unusable = int(np.isnan(table.X[:, needed]).any(axis=1).sum())
    if unusable:
        said = (
            f"{counted(unusable, 'row')} without one of {', '.join(ALWAYS_REQUIRED)}; no panel can "
            "use them"
        )
        findings.append(Finding("unusable", said, unusable, None, "warning"))
    unlabelled = 0 if table.num is None else int(np.isnan(table.num).sum())
    if unlabelled:
        said = f"{counted(unlabelled, 'row')} without an outcome"
        findings.append(Finding("unlabelled", said, unlabelled, OUTCOME.name, "warning"))
    return findings


# -- the label -------------------------------------------------------------------------------


def _z(marker: np.ndarray, y: np.ndarray) -> float | None:
    known = ~np.isnan(marker) & ~np.isnan(y)
    m, label = marker[known], y[known].astype(float)
    if len(label) == 0 or np.ptp(m) == 0:
        return None
    if min((label == label.min()).sum(), (label > label.min()).sum()) < FEWEST_PER_CLASS:
        return None
    return float(np.corrcoef(m, label)[0, 1] * np.sqrt(len(m)))


def _turned_kaggle(
    raw: RawFile, layout: Layout, table: HomeTable, known: np.ndarray
) -> tuple[HomeTable, list[Finding]]:
    assert table.num is not None
    if not set(known) <= {0.0, 1.0}:
        raise CodingError(
            f"{raw.name}: {OUTCOME.name} has grades above 1 beside Kaggle codes; these are two "
            f"codings in one file; {FETCH_MEND}"
        )
    seen = direction(table.X, table.num)
    if seen == "rises":
        said = "outcome already has 1 for disease, unlike the Kaggle file; left as it is"
        return table, [Finding("label", said, len(known), OUTCOME.name, "warning")]
    if seen != "falls" and layout.outcome_header not in OUTCOME.kaggle_aliases:
        raise CodingError(
            f"{raw.name}: ambiguous: the codes are Kaggle's, where 1 means healthy, but the "
            f"outcome is not called {OUTCOME.kaggle_aliases[0]} and the rows are too few to "
            "tell; convert with the whole file, or name it as that file does"
        )
    said = "outcome inverted as in the Kaggle file (1 is healthy there); turned to 1 for disease"
    return (
        dataclasses.replace(table, num=1 - table.num),
        [Finding("label", said, len(known), OUTCOME.name)],
    )


def _counted_from_one(raw: RawFile, table: HomeTable) -> tuple[HomeTable, list[Finding]]:
    assert table.num is not None
    if direction(table.X, table.num) != "rises":
        raise CodingError(
            f"{raw.name}: ambiguous: the outcome holds 1 and 2 only, which Statlog writes for "
            "absence and presence and UCI for two grades of disease; write 0 to "
            f"{OUTCOME.highest} in a column {OUTCOME.name}"
        )
    said = "outcome 1 and 2 read as absence and presence, as in Statlog; written as 0 and 1"
    finding = Finding("label", said, int((~np.isnan(table.num)).sum()), OUTCOME.name)
    return dataclasses.replace(table, num=table.num - 1), [finding]


# -- the patients ----------------------------------------------------------------------------


def row_key(table: HomeTable, row: int, *, with_site: bool) -> _Key:
    """What two rows share when one repeats the other."""
    cells = [*table.X[row], *([] if table.num is None else [table.num[row]])]
    values = tuple(None if np.isnan(v) else float(v) for v in cells)
    return (*values, table.site[row]) if with_site else values


def _shipped_repeats(table: HomeTable) -> dict[_Key, int]:
    """How often each row may stand in this file because UCI ships it that often."""
    known = shipped.patients()
    ours = HomeTable(known.X, known.num, known.site, (), "uci", ())
    if table.num is None:
        ours = dataclasses.replace(ours, num=None)
    names_sites = set(table.site) != {UNKNOWN_SITE}
    times = Counter(row_key(ours, row, with_site=names_sites) for row in range(len(known.X)))
    if names_sites:
        return dict(times)
    theirs = Counter(row_key(table, row, with_site=False) for row in range(len(table.X)))
    if not theirs <= times:
        return {}
    return {(*key, UNKNOWN_SITE): count for key, count in times.items()}


def _misread(table: HomeTable, match: shipped.Match, attribute: Attribute, place: int) -> list[str]:
    sure = match.strong
    theirs, ours = table.X[sure, place], shipped.patients().X[match.patient[sure], place]
    said = []
    for code in attribute.codes:
        read = theirs[(ours == code.value) & ~np.isnan(theirs)]
        wrong = read[read != code.value]
        if len(wrong) >= FEWEST_MISREAD and len(wrong) >= SYSTEMATIC * len(read):
            names = {c.value: c.name for c in attribute.codes}
            instead = names[int(Counter(wrong).most_common(1)[0][0])]
            said.append(
                f"{len(wrong)} whose {attribute.name} is '{code.name}' read '{instead}' here"
            )
    return said


def _recognised(table: HomeTable, match: shipped.Match) -> list[Finding]:
    joined = int((match.patient >= 0).sum())
    if not joined:
        return []
    at = Counter(shipped.patients().site[p] for p in match.patient if p >= 0)
    by_site = ", ".join(f"{site} {count}" for site, count in sorted(at.items()))
    said = (
        f"{joined} of {len(table.X)} rows are patients of UCI's four files ({by_site}); they are "
        "no new evidence for a model trained on those"
    )
    return [Finding("shipped_patients", said, joined)]


def _from_the_label(table: HomeTable, cells: np.ndarray, place: int) -> str:
    """Says so when the filled value only repeats the outcome."""
    diseased = table.diseased
    if diseased is None or not BY_NAME[NAMES[place]].codes:
        return ""
    values, label = table.X[cells, place], diseased[cells]
    usual = [Counter(values[label == side]).most_common(1) for side in (0, 1)]
    if not all(usual) or usual[0][0][0] == usual[1][0][0]:
        return ""
    repeating = usual[0][0][1] + usual[1][0][1]
    return f" ({repeating} of {len(values)} only repeat the outcome)"
