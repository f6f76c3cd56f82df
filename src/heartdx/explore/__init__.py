"""Exploration: who the patients are, by outcome and by hospital, before any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from heartdx import __version__, atomic, logs
from heartdx.contract import NAMES, SITE_COLUMN
from heartdx.explore import page as pages
from heartdx.explore import tables
from heartdx.explore.words import Words, words
from heartdx.figures import eda, style

if TYPE_CHECKING:
    from heartdx.checks import Loaded

LOG = logs.get("explore")
CLASS_BALANCE = "class_balance.png"
HISTOGRAMS = "histograms_by_outcome.png"
ASSOCIATIONS = "associations.png"
MISSING = "missing_by_site.png"
OUTCOMES = "outcome_by_site.png"
SUMMARY = "data_summary.csv"
TABLE1 = "table1.csv"
PAGE = "eda.html"


@dataclass(frozen=True)
class Explored:
    """What was written.

    Parameters
    ----------
    html : the page with everything.
    files : pictures and tables, in the order of the page.
    patients : rows explored.
    sites : hospitals, in the order shown.
    """

    html: Path
    files: tuple[Path, ...]
    patients: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class _Results:
    outcomes: pd.DataFrame
    missing: pd.DataFrame
    with_outcome: pd.DataFrame
    summary: pd.DataFrame
    table1: pd.DataFrame
    words: Words


def explore(
    loaded: Loaded,
    *,
    out: Path = Path("reports/figures"),
    html: Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Explored:
    """Write the pictures, the tables and ``eda.html``.

    Parameters
    ----------
    loaded : checked data; any hospitals, any number of patients.
    out : folder of the pictures and tables.
    html : the page; by default ``eda.html`` beside ``out``.
    progress : told the name of each step as it starts.

    Returns
    -------
    Explored

    Raises
    ------
    UnavailableError
        A file cannot be written; what was there before is untouched.
    """
    out = Path(out)
    html = Path(html) if html else out.parent / PAGE
    progress("counting")
    patients = tables.cohort(loaded.frame)
    results = _results(patients)
    progress("drawing")
    pictures = _pictures(patients, results)
    progress("writing")
    files = _write(out, pictures, results)
    atomic.write_text(html, pages.page(_sections(loaded, results, pictures)))
    logs.event(LOG, "explored", patients=len(loaded.frame), sites=len(patients.sites), page=html)
    return Explored(html, files, len(loaded.frame), patients.sites)


def _results(patients: tables.Cohort) -> _Results:
    outcomes = tables.outcome_by_site(patients)
    missing = tables.missing_by_site(patients)
    with_outcome = tables.outcome_associations(patients)
    return _Results(
        outcomes=outcomes,
        missing=missing,
        with_outcome=with_outcome,
        summary=tables.data_summary(patients),
        table1=tables.table1(patients),
        words=words(patients, outcomes, missing, with_outcome),
    )


def _pictures(patients: tables.Cohort, results: _Results) -> dict[str, bytes]:
    frame = patients.frame
    sites = pd.Series(pd.Categorical(frame[SITE_COLUMN], categories=list(patients.sites)))
    pairs = tables.all_associations(patients)
    sizes = {site: len(patients.at(site)) for site in patients.sites} | {tables.OVERALL: len(frame)}
    drawn = {
        CLASS_BALANCE: eda.class_balance(results.outcomes),
        OUTCOMES: eda.outcome_by_site(results.outcomes),
        HISTOGRAMS: eda.histograms_by_outcome(frame[list(NAMES)], frame[tables.DISEASE], sites),
        ASSOCIATIONS: eda.associations(
            pairs.values,
            pairs.ranks,
            pairs.counts,
            results.with_outcome,
            numbers=len(pairs.numbers),
        ),
        MISSING: eda.missing_by_site(results.missing, sizes),
    }
    return {name: style.png(figure) for name, figure in drawn.items()}


def _write(out: Path, pictures: dict[str, bytes], results: _Results) -> tuple[Path, ...]:
    for name, image in pictures.items():
        atomic.write_bytes(out / name, image)
    for name, table in ((SUMMARY, results.summary), (TABLE1, results.table1)):
        atomic.write_text(out / name, table.to_csv(index=False, lineterminator="\n"))
    return tuple(out / name for name in (*pictures, SUMMARY, TABLE1))


def _sections(
    loaded: Loaded, results: _Results, pictures: dict[str, bytes]
) -> tuple[pages.Section, ...]:
    said = results.words

    def shown(name: str, alt: str) -> str:
        return pages.figure(pages.Picture(pictures[name], alt))

    return (
        pages.Section(
            "patients",
            "Patients and outcome",
            said.patients,
            shown(CLASS_BALANCE, "Bars: patients with and without disease, by hospital."),
        ),
        pages.Section(
            "hospitals",
            "Outcome by hospital",
            said.outcome,
            shown(OUTCOMES, "Bars: share with disease and angiographic grades by hospital."),
        ),
        pages.Section(
            "missing",
            "Missing values",
            said.missing,
            shown(MISSING, "Heat map: share of missing values by attribute and hospital."),
        ),
        pages.Section(
            "attributes",
            "Attributes by outcome",
            said.attributes,
            shown(HISTOGRAMS, "Histograms of the numbers and bars of the codes by outcome."),
        ),
        pages.Section(
            "associations",
            "Associations",
            said.associations,
            shown(ASSOCIATIONS, "Heat map: association of every pair, and with disease."),
        ),
        pages.Section("table1", "Table 1", (), pages.table1_table(results.table1)),
        pages.Section(
            "findings", "What the checks found", (), pages.findings_table(loaded.findings)
        ),
        pages.Section("provenance", "Where the data come from", (), _provenance(loaded)),
    )


def _provenance(loaded: Loaded) -> str:
    return pages.provenance_list(
        {
            "File": Path(loaded.name).name,  # never the folder: it names a machine
            "SHA-256": loaded.sha256,
            "Coding found": loaded.coding,
            "Patients": str(len(loaded.frame)),
            "Made by": f"heartdx {__version__}",
        }
    )
