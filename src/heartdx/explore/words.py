"""What the data say, in sentences computed from the data; nothing here is written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from heartdx.contract import ATTRIBUTES, BY_NAME, OUTCOME
from heartdx.explore.tables import DISEASE, NUMBERS, OVERALL, Cohort, percent
from heartdx.figures.style import site_label

REFERRED = (
    "Every patient here was sent to coronary angiography. The shares hold for such referred "
    "patients, not for the public, and the outcome is a diagnosis at the time of the examination, "
    "not a future event."
)
ENOUGH_TO_COMPARE = 20
"""Patients with and without a value, below which their outcomes are not compared."""
MARKED_GAP = 0.2
"""A difference in prevalence that a model could use to recognise who was examined."""
SHOWN = 3


@dataclass(frozen=True)
class Words:
    """The sentences beside each picture."""

    patients: tuple[str, ...]
    outcome: tuple[str, ...]
    attributes: tuple[str, ...]
    associations: tuple[str, ...]
    missing: tuple[str, ...]


def words(
    patients: Cohort, outcomes: pd.DataFrame, missing: pd.DataFrame, with_outcome: pd.DataFrame
) -> Words:
    """The sentences of a page.

    Parameters
    ----------
    patients : the cohort.
    outcomes, missing, with_outcome : as ``tables.outcome_by_site``, ``missing_by_site`` and
        ``outcome_associations`` give them.
    """
    return Words(
        patients=_patients(patients, outcomes),
        outcome=_outcome(outcomes),
        attributes=_attributes(patients),
        associations=_associations(with_outcome),
        missing=(*_missing(missing), *_speaking_gaps(patients)),
    )


def _patients(patients: Cohort, outcomes: pd.DataFrame) -> tuple[str, ...]:
    n, sites = len(patients.frame), len(patients.sites)
    known = int(outcomes["patients"].sum()) if len(outcomes) else 0
    diseased = int(outcomes["diseased"].sum()) if len(outcomes) else 0
    start = f"{_count(n, 'patient')} from {_count(sites, 'hospital')}"
    if not known:
        return (f"{start}; no diagnosis is known.", REFERRED)
    share = f"{start}; {diseased} of {known} with a known diagnosis ({percent(diseased / known)})"
    return (
        f"{share} have {OUTCOME.positive}.",
        f"What {OUTCOME.name} says. {OUTCOME.description}",
        REFERRED,
    )


def _outcome(outcomes: pd.DataFrame) -> tuple[str, ...]:
    known = outcomes[outcomes["patients"] > 0] if len(outcomes) else outcomes
    if not len(known):
        return ("No hospital has a known diagnosis.",)
    shares = {site: _with_interval(row) for site, row in known.to_dict("index").items()}
    if len(known) == 1:
        (site, share) = next(iter(shares.items()))
        return (f"{site_label(site)}: {share} of its patients have disease.",)
    low, high = (str(known["prevalence"].idxmin()), str(known["prevalence"].idxmax()))
    spread = (
        f"The share with disease runs from {shares[low]} at {site_label(low)} "
        f"to {shares[high]} at {site_label(high)} (Wilson 95 % intervals). "
        "Whatever differs between hospitals therefore looks associated with disease when the "
        "hospitals are thrown together: read each pooled number beside the hospitals' own."
    )
    return (spread, *_merged_grades(known))


def _merged_grades(known: pd.DataFrame) -> tuple[str, ...]:
    higher = [f"grade_{grade}" for grade in range(2, OUTCOME.highest + 1)]
    merged = known[(known[higher].sum(axis=1) == 0) & (known["diseased"] >= ENOUGH_TO_COMPARE)]
    return tuple(
        f"{site_label(site)} records {OUTCOME.name} as 0 or 1 only; its grades cannot be told "
        "apart."
        for site in merged.index
    )


def _attributes(patients: Cohort) -> tuple[str, ...]:
    sentences = tuple(s for name in NUMBERS if (s := _medians(patients, name)))
    if not sentences:
        return ("The two outcome groups cannot be compared: one of them is empty.",)
    return (
        *sentences,
        "In the pictures of codes, a marker away from its bar shows that the same code goes with "
        "another share of disease in that hospital.",
    )


def _medians(patients: Cohort, name: str) -> str:
    pooled = _median_pair(patients, patients.frame, name)
    if pooled is None:
        return ""
    own = [_median_pair(patients, patients.at(site), name) for site in patients.sites]
    pairs = [pair for pair in own if pair is not None]
    higher = sum(with_ > without for without, with_ in pairs)
    without, with_ = pooled
    return (
        f"{BY_NAME[name].label} ({BY_NAME[name].unit}): median {with_:g} with disease, "
        f"{without:g} without, all hospitals together; higher with disease in {higher} of "
        f"{_count(len(pairs), 'hospital')} where both are known."
    )


def _median_pair(patients: Cohort, frame: pd.DataFrame, name: str) -> tuple[float, float] | None:
    without, with_ = (pd.Series(group).dropna() for group in patients.by_outcome(frame, name))
    if without.empty or with_.empty:
        return None
    return round(float(without.median()), 1), round(float(with_.median()), 1)


def _associations(with_outcome: pd.DataFrame) -> tuple[str, ...]:
    pooled = with_outcome[OVERALL].dropna().sort_values(ascending=False)
    if pooled.empty:
        return ("Too few patients with or without disease for any association.",)
    parts = [
        f"{BY_NAME[str(name)].label} {value:.2f}{_inside(with_outcome.T[str(name)])}"
        for name, value in pooled.head(SHOWN).items()
    ]
    return (
        f"Most associated with disease, all hospitals together: {'; '.join(parts)}.",
        "The range is over hospitals with enough patients of both outcomes. An association is "
        "not a cause, and a high one in a single hospital may not travel.",
        "V and η are never negative: they tell strength, not direction. η is not corrected for "
        "small numbers, so small values in small hospitals mean little.",
    )


def _inside(row: pd.Series) -> str:
    own = row.drop(OVERALL).dropna()
    if own.empty:
        return ""
    if len(own) == 1:
        return f" ({site_label(str(own.index[0]))} only: {own.iloc[0]:.2f})"
    return f" (inside hospitals {own.min():.2f} to {own.max():.2f})"


def _missing(missing: pd.DataFrame) -> tuple[str, ...]:
    overall = missing[OVERALL].sort_values(ascending=False, kind="stable")
    gaps = overall[overall > 0]
    if gaps.empty:
        return ("No value is missing.",)
    parts = []
    for name, share in gaps.head(SHOWN).items():
        own = missing.T[str(name)].drop(OVERALL)
        inside = (
            f", by hospital {percent(own.min())} to {percent(own.max())}" if len(own) > 1 else ""
        )
        parts.append(f"{BY_NAME[str(name)].label} {percent(share)}{inside}")
    return (f"Most often missing: {'; '.join(parts)}.", *_zero_rules(missing))


def _zero_rules(missing: pd.DataFrame) -> tuple[str, ...]:
    """Which zeros the contract reads as missing, for the hospitals present."""
    sentences = []
    for attribute in ATTRIBUTES:
        rules = attribute.zero.counts if attribute.zero else {}
        here = [site_label(site) for site in rules if site in missing.columns]
        if here and attribute.zero:
            sentences.append(
                f"{attribute.label}: a zero at {' and '.join(here)} counts as missing "
                f"({attribute.zero.evidence})."
            )
    return tuple(sentences)


def _speaking_gaps(patients: Cohort) -> tuple[str, ...]:
    """The hospital and attribute where being unexamined tells most about the outcome."""
    widest, sentence = MARKED_GAP, ""
    for site in patients.sites:
        frame = patients.at(site)
        frame = frame[frame[DISEASE].notna()]
        for attribute in ATTRIBUTES:
            absent = frame[attribute.name].isna()
            if min(absent.sum(), (~absent).sum()) < ENOUGH_TO_COMPARE:
                continue
            unknown, known = frame.loc[absent, DISEASE].mean(), frame.loc[~absent, DISEASE].mean()
            if abs(known - unknown) > widest:
                widest = abs(known - unknown)
                sentence = (
                    f"Missing is not random: at {site_label(site)}, {percent(unknown)} of the "
                    f"patients without {attribute.label} ({attribute.name}) have disease, "
                    f"{percent(known)} of those with it."
                )
    return (sentence,) if sentence else ()


def _with_interval(row: Mapping) -> str:
    if math.isnan(row["prevalence"]):
        return "unknown"
    bounds = f"{100 * row['low']:.0f} to {100 * row['high']:.0f}"
    return f"{percent(row['prevalence'])} ({bounds})"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"
