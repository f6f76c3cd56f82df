"""The tables of the exploration: who the patients are, by outcome and by hospital."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from heartdx.contract import ATTRIBUTES, NAMES, OUTCOME, SITE_COLUMN, SITE_NAMES, Attribute
from heartdx.explore.statistics import (
    Associations,
    association,
    associations,
    difference_of_codes,
    difference_of_numbers,
)
from heartdx.figures.style import site_label
from heartdx.performance.intervals import wilson

DISEASE = OUTCOME.positive
"""The derived column: 1 when ``num`` is above 0, NaN where the diagnosis is unknown."""
OVERALL = "overall"
SMD = "smd"
SMD_WITHIN = "smd_within_hospitals"
ROW_COLUMNS = ("attribute", "label", "statistic")

SMALLEST_GROUP = 5
"""Fewer patients than this with or without disease say nothing about a hospital on its own."""

SMALLEST_PAIR = 10
"""Below this many patients with both values an association is noise: three give 1.00 by chance."""

NUMBERS = tuple(a.name for a in ATTRIBUTES if a.kind == "number")
CODES = tuple(a.name for a in ATTRIBUTES if a.kind == "code")


@dataclass(frozen=True)
class Cohort:
    """The patients, ready to be counted.

    Parameters
    ----------
    frame : 13 attributes, ``num``, ``site`` and the derived column ``disease``.
    sites : hospitals present; the contract's in its order, then others by name.
    """

    frame: pd.DataFrame
    sites: tuple[str, ...]

    def at(self, site: str) -> pd.DataFrame:
        """The patients of one hospital."""
        return self.frame[self.frame[SITE_COLUMN] == site]

    def by_outcome(self, frame: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One column without and with disease."""
        values = frame[name].to_numpy(dtype=float)
        return values[(frame[DISEASE] == 0).to_numpy()], values[(frame[DISEASE] == 1).to_numpy()]


def cohort(frame: pd.DataFrame) -> Cohort:
    """The patients with the derived outcome, and the hospitals in a fixed order."""
    frame = frame.reset_index(drop=True)
    grade = frame[OUTCOME.name].astype(float)
    frame = frame.assign(**{DISEASE: (grade > 0).astype(float).where(grade.notna())})
    present = set(frame[SITE_COLUMN].dropna().astype(str))
    known = tuple(site for site in SITE_NAMES if site in present)
    return Cohort(frame, (*known, *sorted(present - set(known))))


def outcome_by_site(patients: Cohort) -> pd.DataFrame:
    """One row per hospital: patients, diseased, prevalence with Wilson's interval, grades.

    Patients without a known diagnosis are not counted here.
    """
    rows = []
    for site in patients.sites:
        grades = patients.at(site)[OUTCOME.name].dropna().astype(float)
        n, diseased = len(grades), int((grades > 0).sum())
        low, high = wilson(diseased, n)
        rows.append(
            {
                "site": site,
                "patients": n,
                "diseased": diseased,
                "prevalence": diseased / n if n else math.nan,
                "low": low,
                "high": high,
                **{f"grade_{g}": int((grades == g).sum()) for g in range(OUTCOME.highest + 1)},
            }
        )
    return pd.DataFrame(rows).set_index("site") if rows else pd.DataFrame()


def missing_by_site(patients: Cohort) -> pd.DataFrame:
    """Share missing in [0, 1], attributes down, all patients and each hospital across."""
    absent = patients.frame[list(NAMES)].isna()
    shares = {OVERALL: absent.mean()}
    shares |= {site: patients.at(site)[list(NAMES)].isna().mean() for site in patients.sites}
    return pd.DataFrame(shares, index=list(NAMES))


def all_associations(patients: Cohort) -> Associations:
    """Every pair of attributes and the outcome, all hospitals together.

    A pair known for fewer than ``SMALLEST_PAIR`` patients has NaN.
    """
    pairs = associations(patients.frame, numbers=NUMBERS, codes=(*CODES, DISEASE))
    enough = pairs.counts >= SMALLEST_PAIR
    return replace(pairs, values=pairs.values.where(enough), ranks=pairs.ranks.where(enough))


def outcome_associations(patients: Cohort) -> pd.DataFrame:
    """Association of each attribute with disease: together, then inside each hospital.

    A hospital with fewer than ``SMALLEST_GROUP`` known values with or without disease has NaN.
    """
    groups = {OVERALL: patients.frame} | {site: patients.at(site) for site in patients.sites}
    return pd.DataFrame(
        {
            group: [_with_disease(patients, frame, attribute) for attribute in ATTRIBUTES]
            for group, frame in groups.items()
        },
        index=list(NAMES),
    )


def data_summary(patients: Cohort) -> pd.DataFrame:
    """One row per attribute; means and quartiles for numbers only (codes have no mean)."""
    return pd.DataFrame([_summary(patients, attribute) for attribute in ATTRIBUTES])


def table1(patients: Cohort) -> pd.DataFrame:
    """Table 1 as text: all patients, without and with disease, and each hospital.

    Numbers have mean (SD) and median [quartiles], codes n (% of known), and every attribute its
    missing n (% of patients). ``smd`` is the absolute standardized difference between diseased
    and not, all hospitals together; ``smd_within_hospitals`` its lowest and highest value inside
    the hospitals with at least ``SMALLEST_GROUP`` known values on each side.

    References
    ----------
    .. [1] Yang D, Dalton JE. A unified approach to measuring the effect size between two groups
       using SAS. SAS Global Forum 2012, paper 335.
    """
    groups = _groups(patients)
    rows = [_row("", "Patients", "n", {name: str(len(g)) for name, g in groups.items()})]
    rows.append(_outcome_row(groups))
    for attribute in ATTRIBUTES:
        lines = _number_rows if attribute.kind == "number" else _code_rows
        section = [*lines(attribute, groups), _missing_row(attribute, groups)]
        section[0] |= _differences(patients, attribute)
        rows += section
    columns = [*ROW_COLUMNS, *groups, SMD, SMD_WITHIN]
    return pd.DataFrame(rows, columns=columns).fillna("")


def of_total(count: int, total: int) -> str:
    """``12 (40 %)``; a dash when there is nothing to count.

    Examples
    --------
    >>> of_total(12, 30), of_total(1, 303), of_total(302, 303), of_total(0, 0)
    ('12 (40 %)', '1 (<1 %)', '302 (>99 %)', '–')
    """
    return f"{count} ({percent(count / total)})" if total else "–"


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage that never rounds some to none or nearly all to all.

    Examples
    --------
    >>> percent(0.0), percent(0.003), percent(0.554), percent(0.997), percent(1.0)
    ('0 %', '<1 %', '55 %', '>99 %', '100 %')
    """
    if math.isnan(share):
        return "–"
    if 0 < share < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def _with_disease(patients: Cohort, frame: pd.DataFrame, attribute: Attribute) -> float:
    if not _big_enough(*patients.by_outcome(frame, attribute.name)):
        return math.nan
    values = frame[attribute.name].to_numpy(dtype=float)
    outcome = frame[DISEASE].to_numpy(dtype=float)
    is_code = attribute.kind == "code"
    return association(values, outcome, first_is_code=is_code, second_is_code=True)


def _big_enough(without: np.ndarray, with_: np.ndarray) -> bool:
    known = min(int((~np.isnan(group)).sum()) for group in (without, with_))
    return known >= SMALLEST_GROUP


def _summary(patients: Cohort, attribute: Attribute) -> dict[str, object]:
    column = patients.frame[attribute.name]
    known, missing = column.dropna(), int(column.isna().sum())
    facts: dict[str, object] = {
        "attribute": attribute.name,
        "label": attribute.label,
        "unit": attribute.unit,
        "kind": attribute.kind,
        "n": len(known),
        "missing": missing,
        "missing_percent": round(100 * missing / len(column), 1) if len(column) else math.nan,
    }
    for site in patients.sites:
        facts[f"missing_{site}"] = int(patients.at(site)[attribute.name].isna().sum())
    return facts | _spread(known, attribute) | {"distinct": known.nunique()}


def _spread(known: pd.Series, attribute: Attribute) -> dict[str, float]:
    names = ("mean", "sd", "min", "q1", "median", "q3", "max")
    if attribute.kind == "code" or known.empty:
        return dict.fromkeys(names, math.nan)
    low, q1, median, q3, high = known.quantile([0, 0.25, 0.5, 0.75, 1])
    values = (known.mean(), known.std(), low, q1, median, q3, high)
    return {name: round(float(value), 3) for name, value in zip(names, values, strict=True)}


def _groups(patients: Cohort) -> dict[str, pd.DataFrame]:
    frame = patients.frame
    return {
        OVERALL: frame,
        OUTCOME.negative: frame[frame[DISEASE] == 0],
        OUTCOME.positive: frame[frame[DISEASE] == 1],
        **{site: patients.at(site) for site in patients.sites},
    }


def _row(attribute: str, label: str, statistic: str, cells: dict[str, str]) -> dict[str, str]:
    return {**dict(zip(ROW_COLUMNS, (attribute, label, statistic), strict=True)), **cells}


def _outcome_row(groups: dict[str, pd.DataFrame]) -> dict[str, str]:
    cells = {
        name: of_total(int(group[DISEASE].sum()), int(group[DISEASE].notna().sum()))
        for name, group in groups.items()
    }
    return _row(OUTCOME.name, OUTCOME.label, f"{OUTCOME.positive}, n (%)", cells)


def _number_rows(attribute: Attribute, groups: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    label = f"{attribute.label}, {attribute.unit}" if attribute.unit else attribute.label
    means, medians = {}, {}
    for name, group in groups.items():
        known = group[attribute.name].dropna()
        if known.empty:
            means[name] = medians[name] = "–"
            continue
        sd = f"{known.std():.1f}" if len(known) > 1 else "–"
        q1, median, q3 = known.quantile([0.25, 0.5, 0.75])
        means[name] = f"{known.mean():.1f} ({sd})"
        medians[name] = f"{_short(median)} [{_short(q1)}, {_short(q3)}]"
    return [
        _row(attribute.name, label, "mean (SD)", means),
        _row(attribute.name, label, "median [quartiles]", medians),
    ]


def _short(value: float) -> str:
    return f"{round(value, 1):g}"


def _code_rows(attribute: Attribute, groups: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    return [
        _row(
            attribute.name,
            attribute.label,
            f"{code.name}, n (%)",
            {
                name: of_total(
                    int((group[attribute.name] == code.value).sum()),
                    int(group[attribute.name].notna().sum()),
                )
                for name, group in groups.items()
            },
        )
        for code in attribute.codes
    ]


def _missing_row(attribute: Attribute, groups: dict[str, pd.DataFrame]) -> dict[str, str]:
    cells = {
        name: of_total(int(group[attribute.name].isna().sum()), len(group))
        for name, group in groups.items()
    }
    return _row(attribute.name, attribute.label, "missing, n (%)", cells)


def _differences(patients: Cohort, attribute: Attribute) -> dict[str, str]:
    difference = difference_of_numbers if attribute.kind == "number" else difference_of_codes
    within: dict[str, float] = {}
    for site in patients.sites:
        pair = patients.by_outcome(patients.at(site), attribute.name)
        if _big_enough(*pair):
            within[site] = difference(*pair)
    pooled = difference(*patients.by_outcome(patients.frame, attribute.name))
    return {
        SMD: "–" if math.isnan(pooled) else f"{pooled:.2f}",
        SMD_WITHIN: _range({site: v for site, v in within.items() if not math.isnan(v)}),
    }


def _range(values: dict[str, float]) -> str:
    if len(values) == 1:
        [(site, value)] = values.items()
        return f"{value:.2f} ({site_label(site)})"
    return f"{min(values.values()):.2f} to {max(values.values()):.2f}" if values else "–"
