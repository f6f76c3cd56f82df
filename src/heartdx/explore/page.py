"""``eda.html``: one file with everything inside; no script, no network, no patient's row."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from heartdx.contract import OUTCOME, SITES, SOURCE
from heartdx.contract import VERSION as CONTRACT_VERSION
from heartdx.explore.tables import OVERALL, ROW_COLUMNS, SMD, SMD_WITHIN
from heartdx.figures.style import data_uri, site_label

if TYPE_CHECKING:
    from heartdx.codings import Finding

TITLE = "Who the patients are: exploration of the heart disease data"


CITATION = (
    "Janosi A, Steinbrunn W, Pfisterer M, Detrano R. Heart Disease. UCI Machine Learning "
    "Repository, 1989. doi:10.24432/C52P4X. Licence CC BY 4.0 "
    "(creativecommons.org/licenses/by/4.0). Changed here: cells that mean missing are blank."
)
"""Named in words and without a scheme, so that the page refers to no network address."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows, for those who cannot see it.

    Parameters
    ----------
    image : PNG bytes.
    alt : one sentence.
    """

    image: bytes
    alt: str


@dataclass(frozen=True)
class Section:
    """One chapter of the page.

    Parameters
    ----------
    anchor, title : for the contents.
    sentences : plain text.
    body : ready HTML below them.
    """

    anchor: str
    title: str
    sentences: Sequence[str] = ()
    body: str = ""


def page(sections: Iterable[Section]) -> str:
    """The whole page; the same sections give the same text."""
    listed = tuple(sections)
    contents = "".join(f'<li><a href="#{s.anchor}">{_text(s.title)}</a></li>' for s in listed)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(TITLE)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{_text(TITLE)}</h1></header>\n"
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>\n<main>\n'
        + "\n".join(_section(section) for section in listed)
        + "\n</main>\n</body>\n</html>\n"
    )


def figure(picture: Picture) -> str:
    """A picture embedded in the page."""
    uri, alt = data_uri(picture.image), html.escape(picture.alt, quote=True)
    return f'<figure><img src="{uri}" alt="{alt}"></figure>'


def table1_table(table: pd.DataFrame) -> str:
    """Table 1 with one heading row per attribute."""
    groups = [name for name in table.columns if name not in ROW_COLUMNS]
    head = "".join(f'<th scope="col">{_text(_heading(name))}</th>' for name in groups)
    rows, last = [], None
    for record in table.to_dict("records"):
        if record["attribute"] != last and record["attribute"]:
            rows.append(_attribute_row(record, groups))
        last = record["attribute"]
        rows.append(_statistic_row(record, groups))
    caption = (
        f"Percentages of codes are of the known values. {_heading(SMD)}: absolute "
        f"standardized difference between {OUTCOME.negative} and {OUTCOME.positive}, all hospitals "
        "together; beside it, its lowest and highest value inside single hospitals."
    )
    return (
        f'<p>{_text(caption)}</p><div class="wide"><table class="one">'
        f'<thead><tr><th scope="col"></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def findings_table(findings: Iterable[Finding]) -> str:
    """What the checks found, worst first as given."""
    rows = "".join(
        f"<tr><td>{_text(f.level)}</td><td>{_text(f.column or '')}</td>"
        f'<td class="number">{f.count}</td><td class="prose">{_text(f.message)}</td></tr>'
        for f in findings
    )
    if not rows:
        return "<p>The checks found nothing to report.</p>"
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Level", "Column", "Count", "What"))
    return (
        f'<div class="wide"><table class="plain"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def provenance_list(facts: Mapping[str, str]) -> str:
    """Where the data come from."""
    hospitals = "; ".join(f"{site_label(site.name)}: {site.label}" for site in SITES)
    everything = {
        **facts,
        "Contract": f"version {CONTRACT_VERSION}; attributes, units and codes from {SOURCE}",
        "Hospitals of the contract": hospitals,
        "Their data": CITATION,
    }
    lines = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in everything.items())
    return f"<dl>{lines}</dl>"


def _section(section: Section) -> str:
    sentences = "".join(f"<p>{_text(sentence)}</p>" for sentence in section.sentences)
    return (
        f'<section id="{section.anchor}"><h2>{_text(section.title)}</h2>'
        f"{sentences}{section.body}</section>"
    )


def _attribute_row(record: Mapping, groups: Sequence[str]) -> str:
    name = f"{record['label']} ({record['attribute']})"
    numbers = [group for group in groups if group in (SMD, SMD_WITHIN)]
    cells = "".join(f"<td>{_text(record[group])}</td>" for group in numbers)
    span = 1 + len(groups) - len(numbers)
    return (
        f'<tr class="attribute"><th scope="rowgroup" colspan="{span}">{_text(name)}</th>'
        f"{cells}</tr>"
    )


def _statistic_row(record: Mapping, groups: Sequence[str]) -> str:
    cells = "".join(
        f"<td>{'' if group in (SMD, SMD_WITHIN) else _text(record[group])}</td>" for group in groups
    )
    name = (
        record["statistic"] if record["attribute"] else f"{record['label']}, {record['statistic']}"
    )
    return f'<tr><th scope="row">{_text(name)}</th>{cells}</tr>'


def _heading(name: str) -> str:
    known = {
        OVERALL: "All",
        OUTCOME.negative: OUTCOME.negative.capitalize(),
        OUTCOME.positive: OUTCOME.positive.capitalize(),
        SMD: "SMD",
        SMD_WITHIN: "SMD inside hospitals",
    }
    return known.get(name) or site_label(name)


def _text(text: object) -> str:
    return html.escape(str(text), quote=False)


_CSS = """
:root{color-scheme:light;--ink:#1f2933;--soft:#52606d;--line:#d9dee4;--accent:#0072b2}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:1.5rem 1.25rem 4rem;background:#fff;color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI","DejaVu Sans",Arial,sans-serif}
h1{font-size:1.8rem;line-height:1.25;margin:.3rem 0 1rem}
h2{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--line)}
p{max-width:75ch;margin:.5rem 0}
nav{background:#f4f6f8;border-radius:6px;padding:.4rem 1rem}
nav ol{columns:2;margin:.4rem 0;padding-left:1.4rem}
a{color:var(--accent)}
figure{margin:1rem 0}
img{display:block;max-width:100%;height:auto}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;margin:1rem 0}
th,td{padding:.2rem .6rem;text-align:right;white-space:nowrap;vertical-align:top}
table.one{font-size:.8rem}table.one th,table.one td{padding:.15rem .45rem}
table.one thead th{white-space:normal}
thead th{border-bottom:2px solid var(--ink);vertical-align:bottom}
tbody th{text-align:left;font-weight:400;padding-left:1.4rem}
tbody tr.attribute th{font-weight:600;padding-left:0}
tbody tr.attribute th,tbody tr.attribute td{border-top:1px solid var(--line);padding-top:.4rem}
table.plain th,table.plain td{text-align:left}
table.plain td{border-top:1px solid var(--line)}
table.plain td.number{text-align:right}
td.prose{white-space:normal;max-width:75ch}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem;font-size:.92rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
@media (max-width:640px){nav ol{columns:1}dl{grid-template-columns:1fr}dt{margin-top:.4rem}}
@media print{@page{size:A4 landscape;margin:12mm}body{max-width:none;padding:0;font-size:10.5pt}
nav{background:none;padding:0}a{color:inherit;text-decoration:none}
.wide{overflow:visible}table{font-size:7.6pt}th,td{padding:.1rem .35rem}
figure,tr{break-inside:avoid}h2{break-after:avoid}img{max-height:165mm;margin:0 auto}
thead{display:table-header-group}}
""".strip()
