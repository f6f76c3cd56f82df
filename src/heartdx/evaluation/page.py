"""``evaluation.html``: the evaluation document as one page, with nothing outside the file.

The page is a function of the document alone: no script, no network, no clock. What the document
says is not estimable is said; a part that is None is left out.
"""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heartdx.figures import Figure, evaluation
from heartdx.figures.style import data_uri, png, site_label

Part = Mapping[str, Any]
"""A mapping of the evaluation document."""

NOT_ESTIMABLE = "not estimable"
PLAIN = "logreg"
"""The candidate that differences are taken from."""
ALSO_CALLED = {"sensitivity": "recall", "precision": "precision"}
DISCRIMINATION = ("auc", "auc_within", "pr_auc")
PROBABILITIES = (
    "log_loss",
    "brier",
    "scaled_brier",
    "calibration_slope",
    "calibration_in_the_large",
    "ici",
    "o_e",
)
DECISIONS = ("sensitivity", "specificity", "precision", "npv", "accuracy", "f1", "net_benefit")
TRANSFER = (
    "auc",
    "brier",
    "log_loss",
    "calibration_slope",
    "calibration_in_the_large",
    "o_e",
    "sensitivity",
    "specificity",
    "net_benefit",
)
OPERATING = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "lr_positive": "Likelihood ratio of a positive answer",
    "lr_negative": "Likelihood ratio of a negative answer",
}
COUNTS = {
    "tp": "True positives (diseased, flagged)",
    "fp": "False positives (well, flagged)",
    "fn": "False negatives (diseased, not flagged)",
    "tn": "True negatives (well, not flagged)",
}
CALIBRATION = {
    "intercept": "Calibration intercept, fitted with the slope",
    "slope": "Calibration slope (1 is right)",
    "in_the_large": "Calibration in the large (0 is right)",
    "o_e": "Observed : expected (1 is right)",
    "ici": "ICI: mean distance from the smooth curve",
    "e50": "E50: median distance",
    "e90": "E90: 90th percentile of the distance",
    "emax": "Emax: largest distance",
    "brier": "Brier score (lower is better)",
    "scaled_brier": "Scaled Brier score (1 is perfect, 0 is the prevalence)",
    "log_loss": "Log loss, nats (lower is better)",
    "auc_delong": "AUC, DeLong's interval",
}
STEPS = {
    "none": "As shipped",
    "intercept": "New intercept",
    "intercept_slope": "New intercept and slope",
    "refit": "Refitted",
    "closed_test": "Closed test picks",
    "prevalence": "Local prevalence only (reference)",
}
KINDS = {
    "quick": "The quick evaluation that every training makes.",
    "full": "The full evaluation of the protocol.",
    "file": "A shipped model on the patients of one file.",
}

CSS = """
:root{color-scheme:light;--ink:#1f2933;--soft:#4b5763;--line:#d0d6dc;--accent:#005a8e}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:1.2rem 1.1rem 4rem;background:#fff;color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI","DejaVu Sans",Arial,sans-serif;
overflow-wrap:break-word}
h1{font-size:1.75rem;line-height:1.25;margin:.3rem 0 .4rem}
h2{font-size:1.3rem;margin:2.6rem 0 .6rem;padding-top:.6rem;border-top:2px solid var(--line)}
h3{font-size:1.06rem;margin:1.8rem 0 .4rem}
p,li{max-width:75ch}p{margin:.5rem 0}
.soft{color:var(--soft);font-size:.92rem}
.first{font-size:1.08rem;border-left:5px solid var(--accent);padding:.2rem 0 .2rem 1rem;
margin:1.2rem 0}
.first h2,.limits h2{border:0;margin:0;padding:0;font-size:1.2rem}
.limits{border-left:5px solid #b45309;padding:.2rem 0 .2rem 1rem;margin:1.2rem 0}
.warning{border:3px solid #b91c1c;border-radius:6px;padding:.6rem 1rem;margin:1rem 0;
font-weight:600}
nav{background:#f2f5f7;border-radius:6px;padding:.5rem 1rem;margin:1.4rem 0}
nav h2{border:0;margin:.2rem 0;padding:0;font-size:1.05rem}
nav ol{columns:2;margin:.4rem 0;padding-left:1.6rem}
a{color:var(--accent)}
figure{margin:1rem 0}
img{display:block;max-width:100%;height:auto}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:0 0 .4rem}
caption span{display:block;max-width:min(75ch,calc(100vw - 3.6rem));font-weight:600}
th,td{padding:.25rem .6rem;text-align:left;vertical-align:top}
td{white-space:nowrap}
thead th{border-bottom:2px solid var(--ink);vertical-align:bottom;min-width:5.5rem}
tbody th{font-weight:400;min-width:11rem;max-width:24rem}
tbody th,tbody td{border-top:1px solid var(--line)}
tbody tr.chosen th,tbody tr.chosen td{background:#eef5fa;font-weight:600}
td.prose{white-space:normal;min-width:16rem;max-width:60ch}
@media (max-width:640px){nav ol{columns:1}tbody th{min-width:7rem}
figure{overflow-x:auto}img{max-width:none;width:auto}
figure img{min-width:100%;max-height:none;max-width:46rem}}
@media print{@page{size:A4 landscape;margin:12mm}body{max-width:none;padding:0;font-size:10pt}
nav{background:none;padding:0}a{color:inherit;text-decoration:none}.wide{overflow:visible}
table{font-size:7.4pt}th,td{padding:.1rem .3rem;white-space:normal}thead th,tbody th{min-width:0}
figure,tr{break-inside:avoid}h2,h3,caption{break-after:avoid}img{max-height:165mm}
thead{display:table-header-group}}
""".strip()


@dataclass(frozen=True)
class _Picture:
    """What to draw, and the sentence for those who cannot see it."""

    draw: Callable[[], Figure]
    alt: str


@dataclass(frozen=True)
class _Section:
    anchor: str
    title: str
    body: str


def page(document: Part, *, drawn: Mapping[str, bytes] | None = None) -> str:
    """The whole page as HTML; the same document gives the same text.

    Parameters
    ----------
    document : as parsed from ``evaluation.json``, schema 1.
    drawn : what :func:`figures` gave for this document, where it was called already.
    """
    images = figures(document) if drawn is None else drawn
    embedded = {
        name: _image(images[name], picture.alt) for name, picture in _pictures(document).items()
    }
    sections = [s for s in _sections(document, embedded) if s.body]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # A reader's own check that the file loads nothing: the browser is told to refuse it.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{_text(_title(document))}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"{_opening(document)}{_contents(sections)}<main>\n"
        + "\n".join(map(_section, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


def figures(document: Part) -> dict[str, bytes]:
    """Every picture of the page as PNG, by name; the same document gives the same bytes.

    Parameters
    ----------
    document : as parsed from ``evaluation.json``, schema 1.
    """
    return {name: png(picture.draw()) for name, picture in _pictures(document).items()}


# -- the top of the page -----------------------------------------------------------------------


def _opening(document: Part) -> str:
    overlap, model = document["overlap"], document["model"]
    warning = f'<p class="warning" role="note">{_text(_overlap(overlap))}</p>\n' if overlap else ""
    named = (
        f"Model {model['name']}, version {model['version']}, digest {model['digest']}."
        if model
        else "No single model: the protocol that makes models is judged."
    )
    about = f"{KINDS[document['kind']]} {named} heartdx {document['heartdx_version']}."
    return (
        f"<header><h1>{_text(_title(document))}</h1>\n"
        f'<p class="soft">{_text(about)}</p>\n{warning}</header>\n'
        + _box("first", "summary", "In plain words", document["summary"])
        + _box("limits", "not-estimable", "What could not be estimated", _limits(document))
        + _box("first", "findings", "What was found", document["findings"])
    )


def _overlap(part: Part) -> str:
    rows = f"{_integer(part['rows'])} of {_integer(part['of'])} rows"
    message = str(part["message"])
    return message if rows in message else f"{message} ({rows} are known from training.)"


def _title(document: Part) -> str:
    name = document["data"]["name"]
    if document["kind"] == "file":
        return f"How the model answers the patients of {name}"
    return f"How good is the model? Evaluation on {name}"


def _limits(document: Part) -> list[str]:
    """What the document says, and every transfer that nobody could estimate."""
    if _is_file(document):
        return list(document["not_estimable"])
    told = " ".join(document["not_estimable"])
    missing = [
        f"Transfer of the {name} panel to hospitals it never saw: {NOT_ESTIMABLE}."
        for name, panel in document["panels"].items()
        if panel["pooled"] is None and f"{name} panel" not in told
    ]
    if document["policy"]["pooled"] is None:
        missing.append(f"Transfer to hospitals the model never saw: {NOT_ESTIMABLE}.")
    return [*document["not_estimable"], *missing]


def _box(kind: str, anchor: str, title: str, sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    if kind == "first":
        said = "".join(f"<p>{_text(sentence)}</p>" for sentence in sentences)
    else:
        said = f"<ul>{''.join(f'<li>{_text(s)}</li>' for s in sentences)}</ul>"
    return f'<section class="{kind}" id="{anchor}"><h2>{_text(title)}</h2>{said}</section>\n'


def _contents(sections: Sequence[_Section]) -> str:
    lines = "".join(f'<li><a href="#{s.anchor}">{_text(s.title)}</a></li>' for s in sections)
    return (
        f'<nav aria-labelledby="contents"><h2 id="contents">Contents</h2><ol>{lines}</ol></nav>\n'
    )


def _sections(document: Part, images: Mapping[str, str]) -> Iterator[_Section]:
    yield _Section("candidates", "The candidates compared", _candidates(document, images))
    yield _Section("all-patients", "All patients, each by the richest panel", _policy(document))
    yield _Section("threshold", "At the threshold in use", _operating_points(document))
    yield _Section(
        "calibration", "Calibration: do the probabilities hold?", _calibration(document, images)
    )
    yield _Section("decisions", "Decision curves: is it worth using?", _decisions(document, images))
    hospitals = "Hospital by hospital" if _is_file(document) else "Hospitals the model never saw"
    yield _Section("hospitals", hospitals, _hospitals(document, images))
    yield _Section("ladder", "With a few local patients", _ladder(document, images))
    yield _Section("missing", "Missing inputs", _missing(document, images))
    yield _Section("groups", "Groups of patients", _groups(document, images))
    yield _Section("stability", "Stability and sample size", _stability(document, images))
    yield _Section("lottery", "Appendix: one split is a lottery", _lottery(document, images))
    yield _Section("gates", "Appendix: quality gates", _gates(document))
    yield _Section("methods", "Appendix: methods and their sources", _methods(document))
    yield _Section("data", "Appendix: data and plan", _data(document))


# -- candidates, threshold, calibration, decisions ---------------------------------------------


def _candidates(document: Part, images: Mapping[str, str]) -> str:
    scored = (
        "Every patient is answered by the model as it is; nothing is fitted."
        if _is_file(document)
        else "Every patient is scored by models that were fitted without that patient."
    )
    said = _paragraphs(
        f"{scored} AUC: the chance that a diseased patient gets a higher probability than a well "
        "one; 0.5 is a coin.",
        "AUC over all patients also rewards telling hospitals apart, since their prevalences "
        "differ; AUC inside hospitals does not, and stands beside it.",
    )
    return said + "".join(
        _panel_candidates(document, name, panel, images)
        for name, panel in document["panels"].items()
    )


def _panel_candidates(document: Part, name: str, panel: Part, images: Mapping[str, str]) -> str:
    sites = ", ".join(f"{site_label(site)} {n}" for site, n in panel["sites"].items())
    said = _paragraphs(
        f"{panel['label']}. {panel['patients']} patients, {panel['events']} diseased ({sites}).",
        f"Inputs: {', '.join(panel['inputs'])}. Must be known: {', '.join(panel['required'])}. "
        f"Used by the chosen model: {', '.join(panel['used'])}.",
        f"Chosen: {_label(document, panel['chosen'])}. {panel['reason']}",
    )
    return (
        _h3(f"{_capital(name)} panel")
        + said
        + _candidate_table(document, name, panel, "ranking", DISCRIMINATION)
        + _candidate_table(document, name, panel, "probabilities", PROBABILITIES)
        + _candidate_table(document, name, panel, "decisions at the threshold", DECISIONS)
        + _differences(document, name, panel)
        + _within_sites(document, name, panel)
        + images.get(f"roc_{name}", "")
        + _parameters(document, name, panel)
    )


def _candidate_table(
    document: Part, name: str, panel: Part, what: str, metrics: Sequence[str]
) -> str:
    rows = [
        (
            _label(document, candidate),
            *([_role(document, candidate)] if metrics is DISCRIMINATION else []),
            *_estimates(found["metrics"], metrics),
        )
        for candidate, found in panel["candidates"].items()
    ]
    role = ("Role",) if metrics is DISCRIMINATION else ()
    return _table(
        f"{_capital(name)} panel, {what}: {_protocol(document)}; estimates with 95 % intervals.",
        ("Candidate", *role, *(_metric(document, metric) for metric in metrics)),
        rows,
        chosen=_label(document, panel["chosen"]),
    )


def _differences(document: Part, name: str, panel: Part) -> str:
    compared = {c: found["difference"] for c, found in panel["candidates"].items()}
    metrics = list(dict.fromkeys(m for found in compared.values() for m in found))
    rows = [(_label(document, c), *_estimates(f, metrics)) for c, f in compared.items() if f]
    return _table(
        f"{_capital(name)} panel: paired difference from {_label(document, PLAIN).lower()}, the "
        "same patients; the candidate minus it. An AUC above 0 is better, a loss below 0 is "
        "better; an interval that holds 0 is compatible with none.",
        ("Candidate", *(_metric(document, metric) for metric in metrics)),
        rows,
        chosen=_label(document, panel["chosen"]),
    )


def _within_sites(document: Part, name: str, panel: Part) -> str:
    found = {c: part["within_sites"] for c, part in panel["candidates"].items()}
    sites = list(dict.fromkeys(site for part in found.values() for site in part))
    rows = [
        (
            _label(document, candidate),
            _estimate(panel["candidates"][candidate]["metrics"].get("auc", {})),
            *(_number(part.get(site)) for site in sites),
        )
        for candidate, part in found.items()
    ]
    return _table(
        f"{_capital(name)} panel: AUC over all patients, and inside each hospital.",
        ("Candidate", "All patients", *map(site_label, sites)),
        rows if sites else [],
        chosen=_label(document, panel["chosen"]),
    )


def _parameters(document: Part, name: str, panel: Part) -> str:
    rows = [
        (_label(document, candidate), _said(parameters))
        for candidate, parameters in panel["parameters"].items()
    ]
    caption = f"{_capital(name)} panel: settings of each candidate."
    return _table(caption, ("Candidate", "Settings"), rows, prose={1})


def _policy(document: Part) -> str:
    policy = document["policy"]
    answered = ", ".join(f"{name} {n}" for name, n in policy["panels"].items())
    metrics = [m for m in document["metrics"] if m in policy["metrics"] and m != "recall"]
    within = policy["within_sites"].items()
    return (
        _paragraphs(
            f"{policy['patients']} patients, {policy['events']} with disease, each answered by "
            f"the richest panel whose inputs are known ({answered}): {_protocol(document)}."
        )
        + _table(
            "All patients together: estimates with 95 % intervals.",
            ("Measure", "Estimate"),
            [(_metric(document, m), _estimate(policy["metrics"][m])) for m in metrics],
        )
        + _table(
            "AUC inside each hospital.",
            ("Hospital", "AUC"),
            [(site_label(site), _number(auc)) for site, auc in within],
        )
    )


def _operating_points(document: Part) -> str:
    points = {name: panel["operating_point"] for name, panel in document["panels"].items()}
    rows = [("Threshold", *(_number(p["threshold"]) for p in points.values()))]
    rows += [
        (label, *(_integer(p["counts"][key]) for p in points.values()))
        for key, label in COUNTS.items()
    ]
    rows += [
        (label, *(_estimate(p[key], 2 if key.startswith("lr_") else 3) for p in points.values()))
        for key, label in OPERATING.items()
    ]
    ratio = document["plan"]["harm_ratio"]
    return _paragraphs(
        f"Missing a diseased patient is taken to be {ratio:g} times as harmful as a false alarm; "
        "that declared ratio, not the data, sets the threshold. Predictive values hold only where "
        "disease is as common as here."
    ) + _table(
        "The chosen candidate of each panel at the threshold, 95 % intervals.",
        ("", *(f"{_capital(name)} panel" for name in points)),
        rows,
    )


def _calibration(document: Part, images: Mapping[str, str]) -> str:
    panels = document["panels"]
    rows = [
        (label, *(_estimate(panel["calibration"][key]) for panel in panels.values()))
        for key, label in CALIBRATION.items()
    ]
    return (
        _paragraphs(
            "Of 100 patients told 30 %, 30 should have the disease. A slope below 1 means "
            "probabilities that are too extreme; calibration in the large above 0 means that they "
            "are too low."
        )
        + _table(
            "Calibration and overall performance of the chosen candidate, 95 % intervals.",
            ("", *(f"{_capital(name)} panel" for name in panels)),
            rows,
        )
        + _panel_pictures(panels, "calibration", images)
    )


def _decisions(document: Part, images: Mapping[str, str]) -> str:
    return _paragraphs(
        "Net benefit counts the diseased who are found, less the false alarms weighed by the "
        "threshold. The model is worth using at thresholds where its line is above both treating "
        "all and treating none."
    ) + _panel_pictures(document["panels"], "decision", images)


def _panel_pictures(panels: Part, kind: str, images: Mapping[str, str]) -> str:
    return "".join(
        _h3(f"{_capital(name)} panel") + images[f"{kind}_{name}"]
        for name in panels
        if f"{kind}_{name}" in images
    )


# -- hospitals -----------------------------------------------------------------------------------


def _hospitals(document: Part, images: Mapping[str, str]) -> str:
    policy = document["policy"]
    if _is_file(document):
        return (
            _held_out_table(document)
            + images.get("hospitals", "")
            + images.get("held_out_calibration", "")
        )
    said = _paragraphs(
        "Each hospital in turn is left out of all fitting and choosing, then scored. The "
        "prediction interval says what to expect in one further hospital of this kind; it is "
        "wider than the interval of the mean, and with few hospitals it is wide."
    )
    parts = (
        _h3("All patients, each by the richest panel"),
        _held_out_table(document),
        _pooled_table("All patients", document, policy["pooled"]),
        images.get("hospitals", ""),
        images.get("held_out_calibration", ""),
        _single_hospital(policy["single_hospital"]),
        *(_panel_hospitals(document, name, panel) for name, panel in document["panels"].items()),
    )
    return said + "".join(parts)


def _held_out_table(document: Part) -> str:
    rows = [
        (
            site_label(site),
            _integer(part["patients"]),
            _integer(part["events"]),
            _number(part["prevalence"]),
            ", ".join(f"{name} {n}" for name, n in part["panels"].items()),
            *_estimates(part["metrics"], TRANSFER),
        )
        for site, part in document["policy"]["held_out"].items()
    ]
    heads = ("Hospital", "Patients", "Diseased", "Prevalence", "Answered by")
    return _table(
        f"{_scored_hospitals(document)} 95 % intervals.",
        (*heads, *(_metric(document, metric) for metric in TRANSFER)),
        rows,
    )


def _pooled_table(whose: str, document: Part, pooled: Part | None) -> str:
    if pooled is None:
        return _paragraphs(
            f"{whose}: the mean over hospitals and what to expect in a new one are {NOT_ESTIMABLE}."
        )
    rows = [
        (
            _metric(document, name),
            _estimate(part["mean"]),
            _span(part["prediction"]),
            _number(part["tau"]),
            _percent(part["i_squared"]),
            _integer(part["hospitals"]),
            part["scale"],
        )
        for name, part in pooled.items()
    ]
    heads = ("Mean over hospitals", "Prediction interval, a new hospital", "τ", "I²")
    return _table(
        f"{whose}: mean over hospitals and what to expect in a new one. τ: spread between "
        "hospitals on the scale named; I²: share of the variance that is between hospitals.",
        ("Measure", *heads, "Hospitals", "Scale"),
        rows,
    )


def _panel_hospitals(document: Part, name: str, panel: Part) -> str:
    losses = {c: found["held_out"] for c, found in panel["candidates"].items()}
    sites = list(dict.fromkeys(site for found in losses.values() for site in found))
    compared = [
        (_label(document, c), *(_estimate(f.get(s, {}).get("log_loss", {})) for s in sites))
        for c, f in losses.items()
    ]
    chosen = panel["candidates"][panel["chosen"]]["held_out"]
    measures = ("auc", *PROBABILITIES, *DECISIONS)
    return (
        _h3(f"{_capital(name)} panel")
        + _table(
            f"{_capital(name)} panel: {_label(document, panel['chosen']).lower()} in each hospital "
            "it never saw, 95 % intervals.",
            ("Hospital", *(_metric(document, metric) for metric in measures)),
            [(site_label(site), *_estimates(found, measures)) for site, found in chosen.items()],
        )
        + _table(
            f"{_capital(name)} panel: log loss of every candidate in each hospital it never saw.",
            ("Candidate", *map(site_label, sites)),
            compared if sites else [],
            chosen=_label(document, panel["chosen"]),
        )
        + _pooled_table(f"{_capital(name)} panel", document, panel["pooled"])
    )


def _single_hospital(part: Part | None) -> str:
    if part is None:
        return ""
    trained_on = site_label(part["trained_on"])
    rows = [
        (
            site_label(site),
            _integer(found["patients"]),
            _estimate(found["metrics"]["auc"]),
            _estimate(found["metrics"]["brier"]),
        )
        for site, found in part["held_out"].items()
    ]
    return _table(
        f"Trained on {trained_on} alone and scored elsewhere: what one hospital teaches.",
        ("Hospital", "Patients", "AUC", "Brier score"),
        rows,
    )


def _ladder(document: Part, images: Mapping[str, str]) -> str:
    if not document["ladder"]:
        return ""
    said = _paragraphs(
        "A hospital with some patients of known outcome can adjust the model to itself, from the "
        "intercept alone up to a new fit. The reference is stating the local prevalence, which "
        "needs no model."
    )
    sites = "".join(_ladder_site(site, part) for site, part in document["ladder"].items())
    return said + images.get("ladder", "") + sites


def _ladder_site(site: str, part: Part) -> str:
    name, sizes = site_label(site), [_integer(size) for size in part["sizes"]]
    usable = part["usable_from"]
    sentence = (
        f"{part['patients']} patients, {part['events']} with disease; {part['draws']} random draws "
        "of local patients a size; "
        + ("counts for the quality gate; " if part["gated"] else "does not count for the gate; ")
        + (f"usable from {usable} local patients." if usable else "no size makes it usable here.")
    )
    return (
        _h3(name)
        + _paragraphs(sentence)
        + _table(
            f"{name}: Brier score of the closed test minus that of the local prevalence; below 0 "
            "the model is better. Range: 2.5 to 97.5 % of the draws.",
            ("Local patients", "Advantage"),
            [(size, _estimate(e)) for size, e in zip(sizes, part["advantage"], strict=True)],
        )
        + _steps_table(name, "Brier score", "brier", sizes, part["steps"])
        + _steps_table(name, "log loss (nats)", "log_loss", sizes, part["steps"])
        + _table(
            f"{name}: share of draws in which the closed test picks each step.",
            ("Local patients", *(STEPS.get(step, step) for step in part["picked"])),
            [
                (size, *(_number(shares[place]) for shares in part["picked"].values()))
                for place, size in enumerate(sizes)
            ],
        )
    )


def _steps_table(name: str, what: str, metric: str, sizes: Sequence[str], steps: Part) -> str:
    return _table(
        f"{name}: {what} by number of local patients, lower is better.",
        ("Local patients", *(STEPS.get(step, step) for step in steps)),
        [
            (size, *(_estimate(found[metric][place]) for found in steps.values()))
            for place, size in enumerate(sizes)
        ],
    )


# -- missing inputs and groups -------------------------------------------------------------------


def _missing(document: Part, images: Mapping[str, str]) -> str:
    part = document["missing"]
    if part is None:
        return ""
    return (
        _missing_by_site(part["by_site"])
        + _table(
            "The same patients answered by a poorer panel: what the richer one adds. These AUCs "
            "compare patients of all hospitals together.",
            ("Patients of panel", "Answered by", "AUC", "Brier score"),
            [
                (w["patients_of"], w["panel"], _estimate(w["auc"]), _estimate(w["brier"]))
                for w in part["panel_worth"]
            ],
        )
        + images.get("input_worth", "")
        + _table(
            "What is lost without one input: AUC lost and log loss gained, above 0 is a loss. "
            "These AUCs compare patients of all hospitals together.",
            ("Panel", "Input", "AUC lost", "Log loss gained (nats)"),
            [
                (
                    w["panel"],
                    w["attribute"],
                    _estimate(w["auc_loss"]),
                    _estimate(w["log_loss_gain"]),
                )
                for w in part["input_worth"]
            ],
        )
        + images.get("strategies", "")
        + _strategies(part["strategies"])
        + _further_panels(part["further_panels"])
    )


def _missing_by_site(by_site: Part) -> str:
    attributes = list(dict.fromkeys(name for found in by_site.values() for name in found))
    rows = [
        (name, *(_missing_share(found.get(name)) for found in by_site.values()))
        for name in attributes
    ]
    caption = "Patients without the value, of all patients, in each hospital."
    return _table(caption, ("Input", *map(site_label, by_site)), rows)


def _missing_share(part: Part | None) -> str:
    if part is None or not part["patients"]:
        return NOT_ESTIMABLE
    share = 100 * part["missing"] / part["patients"]
    return f"{part['missing']} of {part['patients']} ({share:.0f} %)"


def _strategies(strategies: Sequence[Part]) -> str:
    sites = list(dict.fromkeys(site for entry in strategies for site in entry["held_out"]))
    tables = []
    for metric, words in (("auc", "AUC"), ("brier", "Brier score")):
        rows = [
            (
                entry["label"],
                _number(entry[f"mean_{metric}"]),
                *(_estimate(entry["held_out"].get(s, {}).get(metric, {})) for s in sites),
                *([_estimate(entry["difference"])] if metric == "brier" else []),
            )
            for entry in strategies
        ]
        last = ("Difference (see methods)",) if metric == "brier" else ()
        tables.append(
            _table(
                f"Strategies for missing values: {words} in each hospital never seen, and mean.",
                ("Strategy", "Mean", *map(site_label, sites), *last),
                rows,
            )
        )
    return "".join(tables)


def _further_panels(panels: Sequence[Part]) -> str:
    rows = [
        (
            panel["name"],
            ", ".join(panel["inputs"]),
            _integer(panel["patients"]),
            "kept" if panel["kept"] else "not kept",
            panel["reason"],
            site_label(site),
            *_estimates(found, ("auc", "brier", "difference")),
        )
        for panel in panels
        for site, found in (panel["held_out"] or {"": {}}).items()
    ]
    heads = ("Panel", "Inputs", "Patients", "Verdict", "Reason", "Hospital")
    return _table(
        "Further panels that were tried, in each hospital never seen.",
        (*heads, "AUC", "Brier score", "Difference (see methods)"),
        rows,
        prose={1, 4},
    )


def _groups(document: Part, images: Mapping[str, str]) -> str:
    groups = document["policy"]["groups"]
    shown, hidden = ([g for g in groups if g["shown"] is kept] for kept in (True, False))
    if not groups:
        return ""
    metrics = list(dict.fromkeys(metric for group in shown for metric in group["metrics"]))
    return (
        _paragraphs(
            "Does the model serve every group alike? Many comparisons find a difference by chance; "
            "the adjusted p values allow for that. A group's AUC compares its patients of all "
            "hospitals together, except where the group is one hospital."
        )
        + images.get("groups", "")
        + _table(
            f"Each group: estimates with 95 % intervals, {_protocol(document)}.",
            ("Group", "By", *("Patients", "Diseased"), *(_metric(document, m) for m in metrics)),
            [(*_who(group), *_estimates(group["metrics"], metrics)) for group in shown],
        )
        + _group_differences(document, shown)
        + _table(
            "Groups too small to say anything about.",
            ("Group", "By", "Patients", "Diseased", "Reason"),
            [(*_who(group), group["reason"] or "") for group in hidden],
            prose={4},
        )
    )


def _group_differences(document: Part, groups: Sequence[Part]) -> str:
    metrics = list(dict.fromkeys(metric for group in groups for metric in group["difference"]))
    heads = [
        head
        for m in metrics
        for head in (f"{_metric(document, m)}, difference", "p", "p, adjusted")
    ]
    rows = [
        (
            *_who(group)[:2],
            *(
                cell
                for m in metrics
                for cell in (
                    _estimate(group["difference"].get(m, {})),
                    _number(group["p_value"].get(m)),
                    _number(group["p_adjusted"].get(m)),
                )
            ),
        )
        for group in groups
        if group["difference"]
    ]
    return _table("Differences between groups, 95 % intervals.", ("Group", "By", *heads), rows)


def _who(group: Part) -> tuple[str, str, str, str]:
    name = site_label(group["group"]) if group["by"] == "site" else group["group"]
    by = "hospital" if group["by"] == "site" else group["by"]
    return name, by, _integer(group["patients"]), _integer(group["events"])


# -- stability, lottery, gates, methods, data ----------------------------------------------------


def _stability(document: Part, images: Mapping[str, str]) -> str:
    panels = document["panels"]
    stable = {n: p["stability"] for n, p in panels.items() if p["stability"] is not None}
    sized = {n: p["sample_size"] for n, p in panels.items() if p["sample_size"] is not None}
    return (
        "".join(_optimism(document, name, part) for name, part in stable.items())
        + (_instability(stable) if stable else "")
        + _panel_pictures(stable, "instability", images)
        + (_sample_sizes(sized) if sized else "")
    )


def _optimism(document: Part, name: str, part: Part) -> str:
    rows = [
        (
            _metric(document, metric),
            _number(found["apparent"]),
            _number(found["optimism"]),
            _estimate({**found, "value": found["corrected"]}),
        )
        for metric, found in part["optimism"].items()
    ]
    return _table(
        f"{_capital(name)} panel: optimism from {part['bootstraps']} bootstrap models. Apparent: "
        "on the patients the model was fitted to; optimism: how much that flatters.",
        ("Measure", "Apparent", "Optimism", "Corrected"),
        rows,
    )


def _instability(stable: Mapping[str, Part]) -> str:
    words = {
        "mape": "Mean change of a patient's probability",
        "mape_max": "Largest mean change of a patient's probability",
        "changed_decisions": "Share of decisions that change",
    }
    rows = [
        (label, *(_number(part["instability"][key]) for part in stable.values()))
        for key, label in words.items()
    ]
    heads = ("", *(f"{_capital(name)} panel" for name in stable))
    return _table("How much answers move over bootstrap models.", heads, rows)


def _sample_sizes(sized: Mapping[str, Part]) -> str:
    criteria = list(dict.fromkeys(name for part in sized.values() for name in part["criteria"]))
    rows = [
        ("Parameters", *(_integer(part["parameters"]) for part in sized.values())),
        ("Events per parameter", *(_number(p["events_per_parameter"], 1) for p in sized.values())),
        ("Cox and Snell's R²", *(_number(part["r2_cox_snell"]) for part in sized.values())),
        *(
            (f"Patients for: {c}", *(_integer(part["criteria"].get(c)) for part in sized.values()))
            for c in criteria
        ),
        ("Patients needed", *(_integer(part["needed"]) for part in sized.values())),
        ("Enough", *("yes" if part["enough"] else "no" for part in sized.values())),
    ]
    heads = ("", *(f"{_capital(name)} panel" for name in sized))
    return _table("Are there enough patients for a model of this size?", heads, rows)


def _lottery(document: Part, images: Mapping[str, str]) -> str:
    part = document["lottery"]
    if part is None:
        return ""
    rows = [
        ("Single splits", _integer(part["draws"])),
        ("Range of the single splits' AUC (2.5 to 97.5 %)", _span(part)),
        ("The split of seed 42", _number(part["seed_42"])),
        ("Estimate of this evaluation", _estimate(part["interval"])),
    ]
    return (
        _paragraphs(
            "A report from one split into training and test shows one of these AUCs, by luck. "
            "This evaluation uses every patient and gives an interval."
        )
        + images.get("lottery", "")
        + _table(
            f"AUC on the test part of single splits, {site_label(part['site'])}.", ("", ""), rows
        )
    )


def _gates(document: Part) -> str:
    rows = [
        (
            gate["name"],
            "passed" if gate["passed"] else "FAILED",
            gate["figure"] if isinstance(gate["figure"], str) else _number(gate["figure"]),
            gate["reason"],
        )
        for gate in document["gates"]
    ]
    caption = "What a model must meet before it may be served."
    return _table(caption, ("Gate", "Verdict", "Figure", "Reason"), rows, prose={3})


def _methods(document: Part) -> str:
    rows = [(key, part["says"], part["source"]) for key, part in document["methods"].items()]
    return _table(
        "How each number was made.", ("Method", "What it is", "Source"), rows, prose={1, 2}
    )


def _data(document: Part) -> str:
    data = document["data"]
    facts = [
        ("File", data["name"]),
        ("SHA-256", data["sha256"]),
        ("Coding", data["coding"]),
        ("Patients", _integer(data["patients"])),
        ("With disease", _integer(data["events"])),
    ]
    sites = [
        (
            site_label(site),
            _integer(part["patients"]),
            _integer(part["events"]),
            _integer(part["women"]),
            _number(part["age_median"], 1),
        )
        for site, part in data["sites"].items()
    ]
    plan = [(name.replace("_", " ").capitalize(), v) for name, v in document["plan"].items()]
    return (
        _table("The data.", ("Fact", "Value"), facts, prose={1})
        + _table(
            "The hospitals.", ("Hospital", "Patients", "Diseased", "Women", "Median age"), sites
        )
        + "".join(f"<p>{_text(finding)}</p>" for finding in data["findings"])
        + _table(
            "The plan.",
            ("Setting", "Value"),
            [(name, _said(value)) for name, value in plan if value is not None],
        )
    )


# -- pictures ------------------------------------------------------------------------------------


def _pictures(document: Part) -> dict[str, _Picture]:
    """Every picture there is something to draw for, in the order of the page."""
    found: dict[str, _Picture] = {}
    for name, panel in document["panels"].items():
        found |= _panel_parts(document, name, panel)
    return found | _policy_pictures(document) | _full_pictures(document)


def _panel_parts(document: Part, name: str, panel: Part) -> dict[str, _Picture]:
    chosen, curves = _label(document, panel["chosen"]), panel["curves"]
    note = f"{panel['label']}; {panel['patients']} patients, {panel['events']} with disease. "
    auc = _estimate(panel["candidates"][panel["chosen"]]["metrics"].get("auc", {}))
    slope = _estimate(panel["calibration"]["slope"])
    threshold = panel["operating_point"]["threshold"]
    crossed = f"{note}{chosen}, {_protocol(document)}."
    draw = functools.partial
    found = {
        f"calibration_{name}": _Picture(
            draw(
                evaluation.calibration,
                curves["calibration"],
                title=f"Calibration, {name} panel",
                note=f"{crossed} Slope {slope}.",
            ),
            f"Calibration curve of the {name} panel with a histogram of the probabilities of "
            f"patients with and without disease; calibration slope {slope}.",
        ),
        f"decision_{name}": _Picture(
            draw(
                evaluation.decision,
                curves["decision"],
                title=f"Decision curve, {name} panel",
                threshold=threshold,
                note=crossed,
            ),
            f"Decision curve of the {name} panel: net benefit of the model, of treating all and of "
            "treating none over thresholds, and net interventions avoided; the threshold in use "
            f"is {_number(threshold)}.",
        ),
    }
    if curves["roc"]:
        legend = _roc_legend(document, panel)
        found = {
            f"roc_{name}": _Picture(
                draw(evaluation.roc, legend, title=f"ROC curves, {name} panel", note=note),
                f"ROC curves of the candidates on the {name} panel; the chosen one, {chosen}, has "
                f"an AUC of {auc}.",
            )
        } | found
    if panel["stability"] is not None:
        part = panel["stability"]["instability"]
        changed = _number(part["changed_decisions"])
        found[f"instability_{name}"] = _Picture(
            draw(
                evaluation.instability,
                part,
                title=f"Instability, {name} panel",
                note=f"{note}Mean change {_number(part['mape'])}; share of decisions that change "
                f"{changed}.",
            ),
            f"Range of each patient's probability over bootstrap models of the {name} panel "
            f"against the model's own probability; share of decisions that change {changed}.",
        )
    return found


def _roc_legend(document: Part, panel: Part) -> dict[str, Part]:
    """Curves by what the legend says: AUC and, beside it, AUC inside hospitals."""
    legend = {}
    for candidate, curve in panel["curves"]["roc"].items():
        metrics = panel["candidates"][candidate]["metrics"]
        auc, within = _estimate(metrics.get("auc", {})), _number(_value(metrics, "auc_within"))
        legend[f"{_label(document, candidate)}: {auc}; inside hospitals {within}"] = curve
    return legend


def _policy_pictures(document: Part) -> dict[str, _Picture]:
    found: dict[str, _Picture] = {}
    policy, is_file = document["policy"], _is_file(document)
    held_out, curves = policy["held_out"], policy["curves"]["held_out_calibration"]
    unseen = _scored_hospitals(document)
    if held_out:
        aucs = _listed({s: _estimate(h["metrics"].get("auc", {})) for s, h in held_out.items()})
        found["hospitals"] = _Picture(
            lambda: evaluation.forest_by_hospital(
                held_out,
                policy["pooled"],
                title="Hospital by hospital" if is_file else "Hospitals never seen",
                note=f"{unseen} Squares: estimates with 95 % intervals; an arrow: it goes on.",
            ),
            "Forest plot by held-out hospital of AUC, calibration slope and observed : expected"
            f"{', with their mean and prediction interval' if policy['pooled'] else ''}; AUC "
            f"{aucs}.",
        )
    if curves:
        found["held_out_calibration"] = _Picture(
            lambda: evaluation.held_out_calibration(
                curves,
                title="Calibration by hospital"
                if is_file
                else "Calibration in hospitals never seen",
                note=unseen,
            ),
            "Calibration curves with histograms, a panel for each held-out hospital: "
            f"{', '.join(map(site_label, curves))}.",
        )
    if any(group["shown"] for group in policy["groups"]):
        drawn = sum(group["shown"] for group in policy["groups"])
        found["groups"] = _Picture(
            lambda: evaluation.forest_by_group(
                policy["groups"],
                title="Groups of patients",
                note=f"{_capital(_protocol(document))}, 95 % intervals; an arrow: it goes on.",
            ),
            "Forest plot by group of AUC, calibration in the large and sensitivity; "
            f"{drawn} groups drawn, {len(policy['groups']) - drawn} too small to draw. The numbers "
            "are in the table below.",
        )
    return found


def _full_pictures(document: Part) -> dict[str, _Picture]:
    found: dict[str, _Picture] = {}
    ladder, missing, lottery = document["ladder"], document["missing"], document["lottery"]
    if ladder:
        usable = {site: part["usable_from"] or "at no size" for site, part in ladder.items()}
        found["ladder"] = _Picture(
            lambda: evaluation.ladder(
                ladder,
                labels=STEPS,
                title="With a few local patients",
                note="Mean over random draws; band: 2.5 to 97.5 % of the draws for the step that "
                "the closed test picks.",
            ),
            "Brier score against the number of local patients, a small panel for each hospital; "
            f"usable from: {_listed(usable)}.",
        )
    if missing and missing["input_worth"]:
        inputs = len({entry["attribute"] for entry in missing["input_worth"]})
        found["input_worth"] = _Picture(
            lambda: evaluation.input_worth(
                missing["input_worth"],
                title="What is lost without one input",
                note="Right of the line: a loss. 95 % intervals.",
            ),
            f"Dot plot of AUC lost and log loss gained without each of {inputs} inputs; the "
            "numbers are in the table below.",
        )
    if missing and missing["strategies"]:
        names = ", ".join(entry["label"] for entry in missing["strategies"])
        found["strategies"] = _Picture(
            lambda: evaluation.strategies(
                missing["strategies"],
                title="Strategies for missing values",
                note="In each hospital never seen, 95 % intervals.",
            ),
            f"Dot plot by hospital of AUC and Brier score of these strategies: {names}; the "
            "numbers are in the table below.",
        )
    if lottery:
        found["lottery"] = _Picture(
            lambda: evaluation.lottery(
                lottery,
                title="One split is a lottery",
                note=f"{site_label(lottery['site'])}: {lottery['draws']} single splits.",
            ),
            f"Histogram of the AUC of {lottery['draws']} single splits, {_span(lottery)}; the "
            f"estimate here is {_estimate(lottery['interval'])}, the split of seed 42 gives "
            f"{_number(lottery['seed_42'])}.",
        )
    return found


# -- numbers and words ---------------------------------------------------------------------------


def _estimate(part: Part, digits: int = 3) -> str:
    """A number with its interval, or that there is none."""
    if part.get("value") is None:
        return NOT_ESTIMABLE
    return f"{_number(part['value'], digits)} ({_span(part, digits)})"


def _span(part: Part, digits: int = 3) -> str:
    if part.get("low") is None or part.get("high") is None:
        return f"interval {NOT_ESTIMABLE}"
    return f"{_number(part['low'], digits)} to {_number(part['high'], digits)}"


def _estimates(parts: Part, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(_estimate(parts.get(name, {})) for name in names)


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return NOT_ESTIMABLE
    text = f"{value:.{digits}f}"
    # Rounding may leave a zero with a sign, which says nothing.
    return text.lstrip("-") if not float(text) else text.replace("-", "−")


def _integer(value: int | None) -> str:
    return NOT_ESTIMABLE if value is None else f"{value:g}" if value < 1e5 else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return NOT_ESTIMABLE if value is None else f"{value:.0f} %"


def _value(metrics: Part, name: str) -> float | None:
    found: float | None = metrics.get(name, {}).get("value")
    return found


def _said(value: object) -> str:
    """Settings as text: "C 0.1, penalty l2"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(part)}" for name, part in value.items()) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _listed(by_site: Mapping[str, object]) -> str:
    return "; ".join(f"{site_label(site)} {value}" for site, value in by_site.items())


def _is_file(document: Part) -> bool:
    """Whether a hospital's own file was judged with a model as it is."""
    return bool(document["kind"] == "file")


def _protocol(document: Part) -> str:
    return "the model as it is" if _is_file(document) else "cross-validated"


def _scored_hospitals(document: Part) -> str:
    if _is_file(document):
        return "Each hospital of the file, answered by the model as it is."
    return "Each hospital scored by models that never saw a patient of it."


def _metric(document: Part, name: str) -> str:
    label = str(document["metrics"].get(name, name))
    return f"{label} ({ALSO_CALLED[name]})" if name in ALSO_CALLED else label


def _label(document: Part, candidate: str) -> str:
    known = document["candidates"].get(candidate)
    return str(known["label"]) if known else candidate


def _role(document: Part, candidate: str) -> str:
    known = document["candidates"].get(candidate)
    return str(known["role"]) if known else ""


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


# -- HTML ----------------------------------------------------------------------------------------


def _table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    prose: set[int] | None = None,
    chosen: str = "",
) -> str:
    """A table whose first column names the row; nothing without rows.

    ``prose`` are the columns that wrap; the row named ``chosen`` is set off.
    """
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in heads)
    body = "".join(_row(row, prose or set(), bool(chosen) and row[0] == chosen) for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{_text(caption)}"><table>'
        f"<caption><span>{_text(caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _row(row: Sequence[object], prose: set[int], is_chosen: bool) -> str:
    cells = "".join(
        f"<td{' class="prose"' if place in prose else ''}>{_text(cell)}</td>"
        for place, cell in enumerate(row[1:], start=1)
    )
    kind = ' class="chosen"' if is_chosen else ""
    return f'<tr{kind}><th scope="row">{_text(row[0])}</th>{cells}</tr>\n'


def _section(section: _Section) -> str:
    return (
        f'<section id="{section.anchor}"><h2>{_text(section.title)}</h2>\n{section.body}</section>'
    )


def _image(image: bytes, alt: str) -> str:
    return f'<figure><img src="{data_uri(image)}" alt="{_text(alt)}"></figure>\n'


def _h3(title: str) -> str:
    return f"<h3>{_text(title)}</h3>\n"


def _paragraphs(*sentences: str) -> str:
    return "".join(f"<p>{_text(sentence)}</p>\n" for sentence in sentences)


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)
