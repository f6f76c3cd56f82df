"""The pictures of the evaluation; each draws one part of the evaluation document.

An estimate is a mapping with ``value``, ``low`` and ``high``; None means not estimable, and is
said or left out, never drawn as a number.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from heartdx.figures.style import (
    BLUE,
    GREY,
    INK,
    LINES,
    MARKERS,
    OUTCOME_COLOURS,
    PALE,
    SERIES,
    VERMILLION,
    blank,
    headline,
    margins,
    say,
    site_label,
    styled,
)

Part = Mapping[str, Any]
"""A mapping of the evaluation document."""

REFERENCE: dict[str, Any] = {"color": GREY, "linewidth": 1.1, "linestyle": (0, (2, 3))}
LONGEST_NAME = 34
"""Characters of a name that comes from a file; a longer one would push the picture aside."""


@dataclass(frozen=True)
class Measure:
    """One column of a forest plot.

    Parameters
    ----------
    name : metric of the document.
    label : words for the axis.
    right : the value a perfect model has; None when there is none to compare with.
    widest : the most the axis shows; an interval that goes on ends in an arrow.
    ratio : whether the axis is logarithmic.
    """

    name: str
    label: str
    right: float | None
    widest: tuple[float, float]
    ratio: bool = False


BY_HOSPITAL = (
    Measure("auc", "AUC", None, (0.3, 1.0)),
    Measure("calibration_slope", "calibration slope (1 is right)", 1, (-0.5, 3.0)),
    Measure("o_e", "observed : expected (1 is right)", 1, (0.2, 5.0), ratio=True),
)
BY_GROUP = (
    Measure("auc", "AUC", None, (0.3, 1.0)),
    Measure("calibration_in_the_large", "calibration in the large (0 is right)", 0, (-3.0, 3.0)),
    Measure("sensitivity", "sensitivity", None, (0.0, 1.0)),
)
BY_WORDS = {"site": "hospital"}


@dataclass(frozen=True)
class _Row:
    """One line of a forest plot; ``kind``: estimate, heading, mean or prediction."""

    label: str
    shown: Mapping[str, Part] = field(default_factory=dict)
    kind: str = "estimate"


# -- discrimination, calibration, decisions ----------------------------------------------------


@styled
def roc(curves: Mapping[str, Part], *, title: str, note: str = "") -> Figure:
    """Receiver operating characteristic of each candidate.

    Parameters
    ----------
    curves : the key is the legend's text: put the AUC and its interval there; each holds
        ``false_positive_rate`` and ``true_positive_rate``, of one length, in [0, 1].
    title, note : what was evaluated, on whom.
    """
    legend = 0.22 * (len(curves) + 1)
    figure = blank(7, 7.35 + legend)
    top = _head(figure, title, note)
    axes = figure.subplots()
    margins(figure, left=0.85, right=0.3, top=top, bottom=0.75 + legend)
    axes.plot([0, 1], [0, 1], label="chance", **REFERENCE)
    for rank, (name, curve) in enumerate(curves.items()):
        wrong, right = _floats(curve["false_positive_rate"]), _floats(curve["true_positive_rate"])
        axes.plot(wrong, right, label=_plain(name, 80), **_line(rank))
    axes.set_xlabel("1 − specificity (share of the well flagged)")
    axes.set_ylabel("sensitivity (share of the diseased found)")
    _unit_axes(axes)
    axes.set_ylim(-0.01, 1.01)
    _legend_below(figure, axes)
    return figure


@styled
def calibration(curve: Part, *, title: str, note: str = "") -> Figure:
    """Observed share with disease against the probability, with the patients below.

    Parameters
    ----------
    curve : ``grid``, ``observed``, ``low``, ``high`` of one length, in [0, 1]; ``edges`` of the
        bins, one more than the counts ``events`` and ``non_events``.
    title, note : what was evaluated, on whom.

    References
    ----------
    .. [1] Austin PC, Steyerberg EW. Graphical assessment of internal and external calibration of
       logistic regression models by using loess smoothers. Stat Med 2014;33:517-535.
    .. [2] Van Calster B et al. Calibration: the Achilles heel of predictive analytics.
       BMC Med 2019;17:230.
    """
    figure = blank(7, 9.0)
    top = _head(figure, title, note)
    above, below = figure.subplots(2, 1, height_ratios=(4.4, 1), sharex=True)
    margins(figure, left=0.85, right=0.3, top=top, bottom=1.75, hspace=0.08)
    _calibration_curve(above, curve)
    _outcome_counts(below, curve)
    above.set_ylabel("observed share with disease")
    below.set_xlabel("predicted probability")
    below.set_ylabel("patients")
    _legend_below(figure, above, below)
    return figure


@styled
def held_out_calibration(
    curves: Mapping[str, Part], *, title: str, note: str = "", across: int = 4
) -> Figure:
    """The calibration picture of every hospital that the model had not seen.

    Parameters
    ----------
    curves : hospital to its curve, as in :func:`calibration`.
    title, note : what was evaluated, on whom.
    across : hospitals in a row.
    """
    across = max(1, min(across, len(curves)))
    down = max(1, math.ceil(len(curves) / across))
    figure = blank(max(6.6, 0.8 + 3.05 * across), 1.9 + 4.3 * down)
    top = _head(figure, title, note)
    grid = figure.subplots(2 * down, across, height_ratios=(4, 1) * down, squeeze=False)
    margins(figure, left=0.8, right=0.25, top=top + 0.25, bottom=1.4, hspace=0.3, wspace=0.25)
    for axes in grid.ravel():
        axes.set_axis_off()
    for place, (site, curve) in enumerate(curves.items()):
        row, column = 2 * (place // across), place % across
        above, below = grid[row, column], grid[row + 1, column]
        for axes in (above, below):
            axes.set_axis_on()
        _calibration_curve(above, curve)
        _outcome_counts(below, curve)
        above.set_title(_site(site))
        above.tick_params(labelbottom=False)
        above.set_ylabel("observed share" if not column else "")
        below.set_ylabel("patients" if not column else "")
        below.set_xlabel("predicted probability")
    _legend_below(figure, grid[0, 0], grid[1, 0], columns=2)
    return figure


@styled
def decision(curve: Part, *, title: str, threshold: float, note: str = "") -> Figure:
    """Net benefit over thresholds against treating all and none, and the work it saves.

    Parameters
    ----------
    curve : ``thresholds`` and, of the same length, ``model``, ``low``, ``high``, ``treat_all``,
        ``avoided``, ``avoided_low``, ``avoided_high``.
    title, note : what was evaluated, on whom.
    threshold : the one in use, marked.

    References
    ----------
    .. [1] Vickers AJ, Elkin EB. Decision curve analysis: a novel method for evaluating prediction
       models. Med Decis Making 2006;26:565-574.
    """
    figure = blank(11.5, 5.9)
    top = _head(figure, title, note)
    benefit, work = figure.subplots(1, 2)
    margins(figure, left=0.85, right=0.3, top=top + 0.25, bottom=1.45, wspace=0.22)
    x, everyone = _floats(curve["thresholds"]), _floats(curve["treat_all"])
    _band(benefit, x, curve["model"], curve["low"], curve["high"], "the model, 95 % interval")
    benefit.plot(x, everyone, color=VERMILLION, linestyle="--", label="treat all")
    benefit.axhline(0, color=INK, linewidth=1.1, label="treat none")
    _decision_limits(benefit, curve)
    benefit.set_title("Net benefit")
    benefit.set_ylabel("net benefit (true positives per patient)")
    _band(work, x, curve["avoided"], curve["avoided_low"], curve["avoided_high"])
    work.axhline(0, color=GREY, linewidth=1)
    work.set_title("Net interventions avoided, against treating all")
    work.set_ylabel("avoided per 100 patients")
    for axes in (benefit, work):
        axes.axvline(threshold, label=f"threshold in use, {threshold:.3f}", **REFERENCE)
        axes.set_xlabel("threshold (probability from which one would treat)")
        axes.grid()
    _legend_below(figure, benefit, columns=2)
    return figure


# -- forests -----------------------------------------------------------------------------------


@styled
def forest_by_hospital(
    held_out: Mapping[str, Part],
    pooled: Mapping[str, Part] | None,
    *,
    title: str,
    note: str = "",
) -> Figure:
    """AUC, slope and observed : expected of each hospital, their mean, and the next hospital's.

    Parameters
    ----------
    held_out : hospital to ``patients``, ``events`` and ``metrics``.
    pooled : metric to ``mean`` and ``prediction``; None leaves mean and prediction out.
    title, note : what was evaluated, on whom.

    References
    ----------
    .. [1] Riley RD, Higgins JPT, Deeks JJ. Interpretation of random effects meta-analyses.
       BMJ 2011;342:d549.
    """
    rows = [_Row(_counted(_site(s), part), part["metrics"]) for s, part in held_out.items()]
    if pooled:
        means = {name: part["mean"] for name, part in pooled.items()}
        next_ = {name: {"value": None, **part["prediction"]} for name, part in pooled.items()}
        rows.append(_Row("mean of hospitals", means, "mean"))
        rows.append(_Row("prediction interval\nfor a new hospital", next_, "prediction"))
    return _forest(BY_HOSPITAL, rows, title=title, note=note)


@styled
def forest_by_group(groups: Sequence[Part], *, title: str, note: str = "") -> Figure:
    """AUC, calibration in the large and sensitivity of each group of patients.

    Parameters
    ----------
    groups : each with ``by``, ``group``, ``patients``, ``events``, ``shown``, ``reason`` and
        ``metrics``. One that is not shown is named below and not drawn.
    title, note : what was evaluated, on whom.
    """
    rows: list[_Row] = []
    hidden: list[str] = []
    for by in dict.fromkeys(str(group["by"]) for group in groups):
        members = [group for group in groups if group["by"] == by]
        shown = [group for group in members if group["shown"]]
        rows += [_Row(_plain(BY_WORDS.get(by, by)), kind="heading")] * bool(shown)
        rows += [_Row(_counted(_group(g), g), g["metrics"]) for g in shown]
        hidden += [
            f"{_plain(BY_WORDS.get(by, by))}: {_group(g)} ({_plain(g['reason'], 90)})"
            for g in members
            if not g["shown"]
        ]
    below = f"Not drawn: {'; '.join(hidden)}." if hidden else ""
    return _forest(BY_GROUP, rows, title=title, note=note, below=below)


def _forest(
    measures: Sequence[Measure], rows: Sequence[_Row], *, title: str, note: str, below: str = ""
) -> Figure:
    below = textwrap.fill(below, 150)
    room = 0.17 * (below.count("\n") + 1) + 0.12 if below else 0.0
    figure = blank(13.6, 1.75 + 0.42 * max(len(rows), 2) + room)
    top = _head(figure, title, note)
    columns = figure.subplots(1, len(measures), squeeze=False)[0]
    margins(figure, left=2.75, right=1.8, top=top + 0.05, bottom=0.65 + room, wspace=1.05)
    for axes, measure in zip(columns, measures, strict=True):
        _forest_column(axes, measure, rows)
    _forest_names(columns[0], rows)
    figure.text(0.012, 0.08 / figure.get_figheight(), below, fontsize=9, color=GREY, va="bottom")
    return figure


def _forest_column(axes: Axes, measure: Measure, rows: Sequence[_Row]) -> None:
    limits = _limits(
        measure, [row.shown[measure.name] for row in rows if measure.name in row.shown]
    )
    if measure.ratio:
        axes.set_xscale("log")
        _ratio_ticks(axes, limits)
    axes.set_xlim(limits)
    axes.grid(axis="x")
    if measure.right is not None:
        axes.axvline(measure.right, color=INK, linewidth=1)
    for place, row in enumerate(rows):
        if row.kind != "heading":
            _forest_line(axes, row.shown.get(measure.name, {}), row.kind, place, limits)
    axes.set_xlabel(measure.label)
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def _forest_line(
    axes: Axes, estimate: Part, kind: str, place: int, limits: tuple[float, float]
) -> None:
    value, low, high = _estimate(estimate)
    text = _words(estimate, interval_only=kind == "prediction")
    axes.text(1.06, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    if kind == "mean" and math.isfinite(low + high):
        ends = np.clip([low, value, high, value], *limits)
        axes.fill(ends, [place, place - 0.24, place, place + 0.24], color=VERMILLION, linewidth=0)
    elif kind == "prediction":
        _whisker(axes, low, high, place, limits, colour=VERMILLION, width=3)
    else:
        _whisker(axes, low, high, place, limits, colour=BLUE, width=1.8)
        if limits[0] <= value <= limits[1]:
            axes.plot(value, place, "s", color=BLUE, markersize=6.5)


def _whisker(
    axes: Axes,
    low: float,
    high: float,
    place: float,
    limits: tuple[float, float],
    *,
    colour: str,
    width: float,
) -> None:
    """An interval; where it leaves the axis it ends in an arrow."""
    if not math.isfinite(low + high):
        return
    ends = np.clip([low, high], *limits)
    axes.plot(ends, [place, place], color=colour, linewidth=width, solid_capstyle="butt")
    for beyond, end, marker in (
        (low < limits[0], limits[0], "<"),
        (high > limits[1], limits[1], ">"),
    ):
        if beyond:
            axes.plot(end, place, marker, color=colour, markersize=7, clip_on=False)


def _forest_names(axes: Axes, rows: Sequence[_Row]) -> None:
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=9.5)
    axes.tick_params(axis="y", length=0, pad=8)
    for name, row in zip(axes.get_yticklabels(), rows, strict=True):
        if row.kind != "estimate":
            name.set_fontweight("bold")


def _limits(measure: Measure, estimates: Sequence[Part]) -> tuple[float, float]:
    """From the lowest to the highest number to show, never wider than the measure allows."""
    numbers = [n for estimate in estimates for n in _estimate(estimate) if math.isfinite(n)]
    if measure.right is not None:
        numbers.append(measure.right)
    low, high = (min(numbers), max(numbers)) if numbers else measure.widest
    if measure.ratio:
        low, high = low / 1.12, high * 1.12
    else:
        spare = 0.06 * max(high - low, 0.05)
        low, high = low - spare, high + spare
    return max(low, measure.widest[0]), min(high, measure.widest[1])


def _ratio_ticks(axes: Axes, limits: tuple[float, float]) -> None:
    wide = limits[1] / limits[0] > 4
    steps = (0.2, 0.5, 1, 2, 5) if wide else (0.33, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 3)
    ticks = [tick for tick in steps if limits[0] <= tick <= limits[1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


# -- stability and the lottery -----------------------------------------------------------------


@styled
def instability(part: Part, *, title: str, note: str = "") -> Figure:
    """How far a patient's probability moves when the model is made again from other patients.

    Parameters
    ----------
    part : ``p``, the model's own probabilities, and ``low`` and ``high``, the 2.5 and 97.5 %
        points over bootstrap models, of one length.
    title, note : what was evaluated, on whom.

    References
    ----------
    .. [1] Riley RD, Collins GS. Stability of clinical prediction models developed using
       statistical or machine learning methods. Biom J 2023;65:2200302.
    """
    figure = blank(7, 7.8)
    top = _head(figure, title, note)
    axes = figure.subplots()
    margins(figure, left=0.85, right=0.3, top=top, bottom=1.0)
    p, low, high = (_floats(part[key]) for key in ("p", "low", "high"))
    axes.vlines(p, low, high, color=BLUE, alpha=0.35, linewidth=1, label="95 % of bootstrap models")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.1, label="no change")
    axes.set_xlabel("the model's own probability")
    axes.set_ylabel("probability of the same patient over bootstrap models")
    _unit_axes(axes)
    axes.set_ylim(-0.01, 1.01)
    _legend_below(figure, axes, columns=2)
    return figure


@styled
def lottery(part: Part, *, title: str, note: str = "") -> Figure:
    """What single splits into training and test would have reported.

    Parameters
    ----------
    part : ``aucs`` of the splits, ``interval`` (the estimate of this evaluation), ``low`` and
        ``high`` of the splits, and ``seed_42``.
    title, note : what was evaluated, on whom.
    """
    figure = blank(9, 5.2)
    top = _head(figure, title, note)
    axes = figure.subplots()
    margins(figure, left=0.75, right=0.3, top=top, bottom=1.35)
    aucs = _floats(part["aucs"])
    axes.hist(aucs[np.isfinite(aucs)], 24, color=PALE, edgecolor=GREY, label="single splits")
    value, low, high = _estimate(part["interval"])
    if math.isfinite(low + high):
        axes.axvspan(low, high, color=BLUE, alpha=0.15, linewidth=0, label="95 % interval here")
    if math.isfinite(value):
        axes.axvline(value, color=BLUE, linewidth=2, label=f"estimate here, {value:.3f}")
    if part["seed_42"] is not None:
        name = f"the split of seed 42, {part['seed_42']:.3f}"
        axes.axvline(part["seed_42"], color=VERMILLION, linestyle="--", linewidth=2, label=name)
    axes.set_xlabel("AUC on the test part of one split")
    axes.set_ylabel("splits")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    _legend_below(figure, axes, columns=2)
    return figure


# -- few local patients ------------------------------------------------------------------------


@styled
def ladder(
    sites: Mapping[str, Part], *, labels: Mapping[str, str], title: str, note: str = ""
) -> Figure:
    """Brier score against the number of local patients, a line per way to use them.

    Parameters
    ----------
    sites : hospital to ``patients``, ``events``, ``sizes``, ``steps`` (name to ``brier``, one
        estimate a size) and ``usable_from``.
    labels : step to words; ``prevalence`` is drawn as the reference, ``closed_test`` with its
        band.
    title, note : what was evaluated, on whom.

    References
    ----------
    .. [1] Vergouwe Y et al. A closed testing procedure to select an appropriate method for
       updating prediction models. Stat Med 2017;36:4529-4539.
    """
    across = max(1, min(2, len(sites)))
    down = max(1, math.ceil(len(sites) / across))
    figure = blank(max(6.6, 5.6 * across), 2.1 + 3.5 * down)
    top = _head(figure, title, note)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    margins(figure, left=0.8, right=0.25, top=top + 0.25, bottom=1.65, hspace=0.42, wspace=0.2)
    for axes in grid[len(sites) :]:
        axes.set_axis_off()
    for axes, (site, part) in zip(grid, sites.items(), strict=False):
        axes.set_title(_counted(_site(site), part).replace("\n", ", "))
        _ladder_lines(axes, part, labels)
        axes.set_xlabel("local patients used")
    for axes in grid[: len(sites) : across]:
        axes.set_ylabel("Brier score (lower is better)")
    _legend_below(figure, *grid[: len(sites)], columns=2)
    return figure


def _ladder_lines(axes: Axes, part: Part, labels: Mapping[str, str]) -> None:
    sizes = _floats(part["sizes"])
    for rank, (step, name) in enumerate(labels.items()):
        if step not in part["steps"]:
            continue
        value, low, high = np.array([_estimate(e) for e in part["steps"][step]["brier"]]).T
        style = {**REFERENCE, "linewidth": 1.8} if step == "prevalence" else _line(rank)
        if step != "prevalence":
            style["marker"] = MARKERS[rank % len(MARKERS)]
        axes.plot(sizes, value, label=_plain(name, 60), markersize=5, **style)
        if step == "closed_test":
            colour = SERIES[rank % len(SERIES)]
            axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    if part["usable_from"] is not None:
        axes.axvline(part["usable_from"], color=INK, linewidth=1, label="usable from here")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes.tolist()))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{size:g}" for size in sizes]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid()


# -- missing inputs ----------------------------------------------------------------------------


@styled
def input_worth(entries: Sequence[Part], *, title: str, note: str = "") -> Figure:
    """What is lost when one input is missing, a marker per panel.

    Parameters
    ----------
    entries : each with ``panel``, ``attribute``, ``auc_loss`` and ``log_loss_gain``.
    title, note : what was evaluated, on whom.
    """
    worth: dict[str, float] = {}
    for entry in entries:
        gain = _estimate(entry["log_loss_gain"])[0]
        name = str(entry["attribute"])
        worth[name] = max(worth.get(name, -math.inf), gain if math.isfinite(gain) else -math.inf)
    rows = sorted(worth, key=lambda name: -worth[name])
    panels = list(dict.fromkeys(str(entry["panel"]) for entry in entries))
    points = [(panels.index(str(e["panel"])), rows.index(str(e["attribute"])), e) for e in entries]
    columns = (("auc_loss", "AUC lost"), ("log_loss_gain", "log loss gained (nats)"))
    figure = blank(11, 2.35 + 0.44 * max(len(rows), 2))
    return _dots(
        figure, columns, rows, [f"{p} panel" for p in panels], points, title, note, zero=True
    )


@styled
def strategies(entries: Sequence[Part], *, title: str, note: str = "") -> Figure:
    """AUC and Brier score of each strategy for missing data in each held-out hospital.

    Parameters
    ----------
    entries : each with ``label`` and ``held_out``, hospital to ``auc`` and ``brier``.
    title, note : what was evaluated, on whom.
    """
    sites = list(dict.fromkeys(str(site) for entry in entries for site in entry["held_out"]))
    points = [
        (rank, sites.index(str(site)), found)
        for rank, entry in enumerate(entries)
        for site, found in entry["held_out"].items()
    ]
    columns = (("auc", "AUC (higher is better)"), ("brier", "Brier score (lower is better)"))
    series = [str(entry["label"]) for entry in entries]
    height = 2.1 + 0.11 * len(series) + max(0.6, 0.2 * len(series)) * max(len(sites), 2)
    figure = blank(11, height)
    return _dots(figure, columns, [_site(site) for site in sites], series, points, title, note)


def _dots(
    figure: Figure,
    columns: Sequence[tuple[str, str]],
    rows: Sequence[str],
    series: Sequence[str],
    points: Sequence[tuple[int, int, Part]],
    title: str,
    note: str,
    *,
    zero: bool = False,
) -> Figure:
    top = _head(figure, title, note)
    grid = figure.subplots(1, len(columns), sharey=True)
    legend = 0.22 * math.ceil(len(series) / 2)
    margins(figure, left=1.9, right=0.3, top=top + 0.05, bottom=0.75 + legend, wspace=0.08)
    for axes, (key, label) in zip(grid, columns, strict=True):
        for rank, place, part in points:
            shift = 0.7 * ((rank + 0.5) / max(len(series), 1) - 0.5)
            _dot(axes, part[key], place + shift, rank)
        for rank, name in enumerate(series):
            axes.plot([], [], label=_plain(name, 60), **_marker(rank))
        for place in range(len(rows) - 1):
            axes.axhline(place + 0.5, color=PALE, linewidth=1)
        if zero:
            axes.axvline(0, color=INK, linewidth=1)
        axes.grid(axis="x")
        axes.set_xlabel(label)
        axes.tick_params(axis="y", length=0)
    grid[0].set_yticks(range(len(rows)), [_plain(row) for row in rows], fontsize=9.5)
    grid[0].set_ylim(len(rows) - 0.4, -0.6)
    _legend_below(figure, grid[0], columns=2)
    return figure


def _dot(axes: Axes, estimate: Part, place: float, rank: int) -> None:
    value, low, high = _estimate(estimate)
    if math.isfinite(low + high):
        axes.plot([low, high], [place, place], color=SERIES[rank % len(SERIES)], linewidth=1.4)
    if math.isfinite(value):
        axes.plot(value, place, **_marker(rank))


def _marker(rank: int) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": MARKERS[rank % len(MARKERS)],
        "color": SERIES[rank % len(SERIES)],
        "markersize": 6,
    }


# -- parts of several pictures -----------------------------------------------------------------


def _calibration_curve(axes: Axes, curve: Part) -> None:
    if not len(curve["grid"]):
        say(axes, "not estimable")
        return
    axes.plot([0, 1], [0, 1], label="perfect", **REFERENCE)
    _band(axes, _floats(curve["grid"]), curve["observed"], curve["low"], curve["high"], _SMOOTH)
    _unit_axes(axes)
    axes.set_ylim(-0.02, 1.02)


_SMOOTH = "smoothed, 95 % interval"


def _outcome_counts(axes: Axes, curve: Part) -> None:
    """Patients with disease upwards, those without downwards, over the probability."""
    edges = _floats(curve["edges"])
    if len(edges) < 2:
        say(axes, "no patients")
        return
    for counts, sign, colour, name in (
        (curve["events"], 1, OUTCOME_COLOURS[1], "patients with disease (upwards)"),
        (curve["non_events"], -1, OUTCOME_COLOURS[0], "patients without (downwards)"),
    ):
        heights = sign * _floats(counts)
        axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=colour, label=name)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlim(-0.02, 1.02)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{abs(count):g}"))


def _decision_limits(axes: Axes, curve: Part) -> None:
    """Down to a little below doing nothing: treating all falls without end near threshold 1."""
    numbers = np.concatenate([_floats(curve[key]) for key in ("model", "low", "high", "treat_all")])
    numbers = numbers[np.isfinite(numbers)]
    highest = float(numbers.max()) if len(numbers) else 1.0
    axes.set_ylim(-0.18 * max(highest, 0.05), 1.08 * max(highest, 0.05))


def _band(
    axes: Axes,
    x: np.ndarray,
    middle: Sequence[float | None],
    low: Sequence[float | None],
    high: Sequence[float | None],
    label: str = "",
) -> None:
    axes.fill_between(x, _floats(low), _floats(high), color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(x, _floats(middle), color=BLUE, linewidth=2, label=label)


def _head(figure: Figure, title: str, note: str) -> float:
    """Title and note over the picture; the inches they take from the top."""
    width = figure.get_figwidth()
    wrapped = textwrap.fill(_plain(note, 600), int(12.4 * width))
    headline(
        figure, textwrap.shorten(_plain(title, 200), int(8.6 * width), placeholder=" …"), wrapped
    )
    return 0.6 + 0.17 * (wrapped.count("\n") + 1) * bool(note)


def _legend_below(figure: Figure, *every: Axes, columns: int = 1) -> None:
    """One legend for all axes, each name once, below them."""
    entries: dict[str, Any] = {}
    for axes in every:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="lower left",
            bbox_to_anchor=(0.06, 0.005),
            handlelength=2.6,
            ncols=columns,
        )


def _unit_axes(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.grid()


def _line(rank: int) -> dict[str, Any]:
    colour, line = SERIES[rank % len(SERIES)], LINES[rank % len(LINES)]
    return {"color": colour, "linestyle": line, "linewidth": 1.9}


def _floats(numbers: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if n is None else n for n in numbers], dtype=float)


def _estimate(part: Part) -> tuple[float, float, float]:
    value, low, high = _floats([part.get(key) for key in ("value", "low", "high")])
    return float(value), float(low), float(high)


def _words(part: Part, *, interval_only: bool) -> str:
    value, low, high = _estimate(part)
    if not math.isfinite(low + high) or (not interval_only and not math.isfinite(value)):
        return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else "not estimable"
    text = f"{low:.3f} to {high:.3f}"
    return (text if interval_only else f"{value:.3f} ({text})").replace("-", "−")


def _counted(name: str, part: Part) -> str:
    return f"{name}\n{part['patients']} patients, {part['events']} diseased"


def _site(site: object) -> str:
    return _plain(site_label(site))


def _group(group: Part) -> str:
    return _site(group["group"]) if group["by"] == "site" else _plain(group["group"])


def _plain(text: object, longest: int = LONGEST_NAME) -> str:
    """Text of a file as it stands: never read as a formula, never wider than its place."""
    words = " ".join(str(text).split())
    cut = words if len(words) <= longest else words[: longest - 1] + "…"
    return cut.replace("$", r"\$")
