"""The pictures of the exploration."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from heartdx.contract import ATTRIBUTES, BY_NAME, OUTCOME, PANELS, Attribute
from heartdx.figures.style import (
    GREY,
    INK,
    MARKERS,
    OUTCOME_COLOURS,
    PALE,
    SITE_COLOURS,
    blank,
    headline,
    margins,
    say,
    site_label,
    styled,
    text_colour,
)

OUTCOME_NAMES = (OUTCOME.negative, OUTCOME.positive)
GRADE_COLOURS = ("#0072B2", "#FBD7B5", "#F2A25C", "#D55E00", "#8A3B00")
"""Blue without disease, then darker with severity."""
FEWEST_SHOWN = 5
"""A hospital's share is not drawn from fewer patients than this: it would be noise."""
FEW = 20
"""Below this many patients a hospital's marker is hollow."""
MOST_BINS = 18


@styled
def class_balance(outcomes: pd.DataFrame) -> Figure:
    """Patients with and without disease: all together, and in each hospital.

    Parameters
    ----------
    outcomes : one row per hospital with ``patients`` and ``diseased``.
    """
    figure = blank(11, 4.4)
    diseased = int(outcomes["diseased"].sum()) if len(outcomes) else 0
    total = int(outcomes["patients"].sum()) if len(outcomes) else 0
    headline(
        figure,
        "Class balance: how many patients have the disease",
        f"{total} patients with a known diagnosis; disease means a major vessel narrowed by "
        "50 % or more at angiography.",
    )
    together, apart = figure.subplots(1, 2, width_ratios=(1, 1.9))
    margins(figure, left=0.7, right=0.3, top=1.2, bottom=0.55, wspace=0.22)
    together.set_title("All hospitals together")
    apart.set_title("Each hospital")
    if not total:
        say(together, "no patient with a known diagnosis")
        say(apart, "no patient with a known diagnosis")
        return figure
    _counts(together, [total - diseased, diseased], total)
    _counts_by_site(apart, outcomes)
    return figure


@styled
def histograms_by_outcome(frame: pd.DataFrame, disease: pd.Series, sites: pd.Series) -> Figure:
    """Each number's distribution by outcome, and each code's share with disease.

    Parameters
    ----------
    frame : the 13 attributes.
    disease : 0, 1 or NaN for each patient.
    sites : the hospital of each patient, categorical in the order to show.
    """
    numbers = [a for a in ATTRIBUTES if a.kind == "number"]
    codes = [a for a in ATTRIBUTES if a.kind == "code"]
    across = 3
    above = math.ceil((len(numbers) + 1) / across)
    down = above + math.ceil((len(codes) + 1) / across)
    figure = blank(12.4, 0.9 + 2.95 * down)
    headline(
        figure,
        "The 13 attributes by outcome",
        "Numbers: share of each outcome group per bin (each colour adds up to 100 %), all "
        "hospitals together.  Codes: share with disease per code, with every hospital beside it.",
    )
    grid = figure.subplots(down, across).ravel()
    margins(figure, left=0.65, right=0.25, top=1.15, bottom=0.85, wspace=0.24, hspace=0.56)
    for axes, attribute in zip(grid, numbers, strict=False):
        _histogram(axes, attribute, frame[attribute.name], disease)
    for axes, attribute in zip(grid[above * across :], codes, strict=False):
        _share_by_code(axes, attribute, frame[attribute.name], disease, sites)
    _outcome_legend(grid[len(numbers)], disease)
    _site_legend(grid[above * across + len(codes)], sites)
    for axes in (
        *grid[len(numbers) + 1 : above * across],
        *grid[above * across + len(codes) + 1 :],
    ):
        axes.set_axis_off()
    return figure


@styled
def associations(
    values: pd.DataFrame,
    ranks: pd.DataFrame,
    counts: pd.DataFrame,
    with_outcome: pd.DataFrame,
    *,
    numbers: int,
) -> Figure:
    """Association of every pair of columns, and of each attribute with disease by hospital.

    Parameters
    ----------
    values, ranks, counts : square tables of the same order, numbers first, then codes; ranks
        hold Spearman's correlation for pairs of numbers.
    with_outcome : attributes down, all patients and each hospital across, values in [0, 1].
    numbers : how many of the columns are numbers.
    """
    figure = blank(14.2, 9.4)
    headline(
        figure,
        "Associations, each by the measure that fits its kind",
        "number–number: Pearson's r, Spearman's in brackets (−1 to 1)   ·   number–code: "
        "correlation ratio η (0 to 1)   ·   code–code: bias-corrected Cramér's V (0 to 1)",
    )
    pairs, outcome = figure.subplots(1, 2, width_ratios=(14, max(5.0, 1.2 * with_outcome.shape[1])))
    margins(figure, left=0.95, right=0.25, top=1.5, bottom=1.1, wspace=0.2)
    _pairs(pairs, values, ranks, counts, numbers)
    _outcome_columns(outcome, with_outcome.reindex(values.index), numbers)
    return figure


@styled
def missing_by_site(shares: pd.DataFrame, patients: Mapping[str, int]) -> Figure:
    """Share of missing values, attributes down, hospitals across.

    Parameters
    ----------
    shares : in [0, 1]; attributes down, all patients and each hospital across.
    patients : patients of each column.
    """
    figure = blank(3.4 + 1.35 * max(2, shares.shape[1]), 7.6)
    headline(
        figure,
        "Missing values by hospital",
        textwrap.fill(
            "Share of patients without the value; zeros written for missing count as missing. "
            f"Dashed lines part the panels: {', '.join(panel.name for panel in PANELS)}.",
            16 * shares.shape[1] + 28,
        ),
    )
    axes = figure.subplots()
    margins(figure, left=3.05, right=0.3, top=1.45, bottom=0.25)
    _cells(axes, shares.to_numpy(), "Greys", 0, 1.25)
    _percent_texts(axes, shares.to_numpy())
    axes.xaxis.tick_top()
    names = [f"{_group_label(name)}\nn = {patients[name]}" for name in shares.columns]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(shares)), [_label(name) for name in shares.index])
    _separate(axes, shares)
    return figure


@styled
def outcome_by_site(outcomes: pd.DataFrame) -> Figure:
    """Prevalence of disease in each hospital, and the angiographic grades.

    Parameters
    ----------
    outcomes : one row per hospital: ``patients``, ``prevalence``, ``low``, ``high`` and
        ``grade_0`` to the highest grade.
    """
    figure = blank(12, 2.4 + 0.62 * max(len(outcomes), 2))
    headline(
        figure,
        "Outcome by hospital",
        "Every patient was sent to angiography, so these are shares among referred patients, "
        "not among the public.",
    )
    shares, grades = figure.subplots(1, 2, sharey=True)
    margins(figure, left=1.5, right=0.4, top=1.15, bottom=1.1, wspace=0.12)
    shares.set_title("Share with disease, Wilson 95 % interval")
    grades.set_title(
        f"Grade at angiography ({OUTCOME.name}): 0 none, {OUTCOME.highest} most severe"
    )
    if not len(outcomes):
        say(shares, "no hospital")
        return figure
    _prevalences(shares, outcomes)
    _grades(grades, outcomes)
    names = [f"{site_label(s)}\nn = {n}" for s, n in outcomes["patients"].items()]
    shares.set_yticks(range(len(outcomes)), names, fontsize=10)
    shares.set_ylim(len(outcomes) - 0.4, -0.6)
    return figure


# -- class balance -----------------------------------------------------------------------------


def _counts(axes: Axes, counts: list[int], total: int) -> None:
    bars = axes.bar(OUTCOME_NAMES, counts, color=OUTCOME_COLOURS, width=0.62)
    texts = [f"{count}\n({100 * count / total:.0f} %)" for count in counts]
    axes.bar_label(bars, texts, padding=3, fontsize=10)
    axes.set_ylim(0, max(counts) * 1.32)
    axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_ylabel("patients")
    axes.tick_params(axis="x", labelsize=10, length=0)


def _counts_by_site(axes: Axes, outcomes: pd.DataFrame) -> None:
    places = np.arange(len(outcomes))
    well = (outcomes["patients"] - outcomes["diseased"]).to_numpy()
    for shift, counts, colour, name in (
        (-0.2, well, OUTCOME_COLOURS[0], OUTCOME_NAMES[0]),
        (0.2, outcomes["diseased"].to_numpy(), OUTCOME_COLOURS[1], OUTCOME_NAMES[1]),
    ):
        bars = axes.bar(places + shift, counts, width=0.38, color=colour, label=name)
        axes.bar_label(bars, padding=2, fontsize=9.5)
    axes.set_xticks(places, [site_label(site) for site in outcomes.index], fontsize=10)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, max(len(outcomes), 3) - 0.4)
    axes.set_ylim(0, max(1.0, float(np.max([well, outcomes["diseased"]]))) * 1.32)
    axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.legend(loc="upper right", ncols=2)


# -- histograms --------------------------------------------------------------------------------


def _histogram(axes: Axes, attribute: Attribute, column: pd.Series, disease: pd.Series) -> None:
    axes.set_title(attribute.label)
    known = column[column.notna() & disease.notna()]
    axes.set_xlabel(f"{attribute.name}, {attribute.unit}  (n = {len(known)})")
    if known.empty:
        say(axes, "no value known")
        return
    edges = _edges(known.to_numpy(dtype=float))
    for value, colour in zip((0, 1), OUTCOME_COLOURS, strict=True):
        group = known[disease[known.index] == value].to_numpy(dtype=float)
        if len(group):
            weights = np.full(len(group), 100 / len(group))
            axes.hist(group, edges, weights=weights, color=colour, alpha=0.28)
            axes.hist(group, edges, weights=weights, color=colour, histtype="step", linewidth=1.7)
    axes.set_ylabel("% of the group")
    axes.margins(x=0.02)


def _edges(values: np.ndarray) -> list[float]:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return [low - 0.5, low + 0.5]
    width = _round_width((high - low) / MOST_BINS)
    first, last = math.floor(low / width), math.floor(high / width) + 1
    return [width * step for step in range(first, last + 1)]


def _round_width(least: float) -> float:
    """The next width a person would choose, since pressures are noted in tens and alike."""
    scale = 10.0 ** math.floor(math.log10(least))
    return next(scale * step for step in (1, 2, 2.5, 4, 5, 10) if scale * step >= least)


def _share_by_code(
    axes: Axes, attribute: Attribute, column: pd.Series, disease: pd.Series, sites: pd.Series
) -> None:
    axes.set_title(attribute.label)
    axes.set_ylim(0, 105)
    axes.set_yticks(range(0, 101, 25))
    axes.grid(axis="y")
    axes.set_ylabel("% with disease")
    known = column.notna() & disease.notna()
    names = []
    for place, code in enumerate(attribute.codes):
        rows = known & (column == code.value)
        n = int(rows.sum())
        names.append(_code_text(attribute, code.name, n))
        if n:
            axes.bar(place, 100 * disease[rows].mean(), width=0.82, color="#F0B48A")
            _site_marks(axes, place, disease[rows], sites[rows])
    axes.set_xticks(range(len(names)), names, fontsize=8.5)
    axes.set_xlim(-0.55, len(names) - 0.45)
    axes.tick_params(axis="x", length=0)


def _code_text(attribute: Attribute, name: str, n: int) -> str:
    room = 14 if len(attribute.codes) > 3 else 18
    return "\n".join([*textwrap.wrap(name, room), f"n = {n}"])


def _site_marks(axes: Axes, place: float, disease: pd.Series, sites: pd.Series) -> None:
    order = list(sites.cat.categories)
    for rank, site in enumerate(order):
        here = disease[sites == site]
        if len(here) < FEWEST_SHOWN:
            continue
        colour = SITE_COLOURS[rank % len(SITE_COLOURS)]
        axes.plot(
            place + 0.66 * ((rank + 0.5) / len(order) - 0.5),
            100 * here.mean(),
            marker=MARKERS[rank % len(MARKERS)],
            color=colour,
            markerfacecolor=colour if len(here) >= FEW else "white",
            markersize=6.5,
            linestyle="none",
            clip_on=False,
        )


def _outcome_legend(axes: Axes, disease: pd.Series) -> None:
    axes.set_axis_off()
    handles = [
        Patch(facecolor=colour, alpha=0.5, label=f"{name} (n = {int((disease == value).sum())})")
        for value, name, colour in zip((0, 1), OUTCOME_NAMES, OUTCOME_COLOURS, strict=True)
    ]
    axes.legend(handles=handles, loc="center left", title="Numbers", **_LEGEND)


def _site_legend(axes: Axes, sites: pd.Series) -> None:
    axes.set_axis_off()
    handles: list[Patch | Line2D] = [Patch(facecolor="#F0B48A", label="all hospitals together")]
    for rank, site in enumerate(sites.cat.categories):
        colour = SITE_COLOURS[rank % len(SITE_COLOURS)]
        mark = MARKERS[rank % len(MARKERS)]
        handles.append(
            Line2D([], [], color=colour, marker=mark, linestyle="none", label=site_label(str(site)))
        )
    hollow = f"hollow: fewer than {FEW} patients;\nfewer than {FEWEST_SHOWN}: not drawn"
    handles.append(
        Line2D(
            [], [], color=GREY, marker="o", markerfacecolor="white", linestyle="none", label=hollow
        )
    )
    axes.legend(handles=handles, loc="center left", title="Codes: share with disease", **_LEGEND)


_LEGEND = {"fontsize": 10.5, "title_fontsize": 11, "alignment": "left", "labelspacing": 0.7}


# -- heatmaps ----------------------------------------------------------------------------------


def _cells(axes: Axes, values: np.ndarray, colours: str, low: float, high: float) -> None:
    palette = matplotlib.colormaps[colours].with_extremes(bad="white")
    axes.imshow(np.ma.masked_invalid(values), cmap=palette, vmin=low, vmax=high, aspect="auto")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(-0.5, values.shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, values.shape[0]), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)


def _ink(axes: Axes, value: float) -> str:
    image = axes.images[0]
    low, high = image.get_clim()
    red, green, blue, _ = image.cmap((value - low) / (high - low))
    return text_colour(red, green, blue)


def _pairs(
    axes: Axes, values: pd.DataFrame, ranks: pd.DataFrame, counts: pd.DataFrame, numbers: int
) -> None:
    size = len(values)
    shown = values.to_numpy(copy=True)
    shown[np.triu_indices(size)] = np.nan
    _cells(axes, shown, "RdBu_r", -1, 1)
    axes.set_title(
        "All hospitals together\nbelow the diagonal: association;  above: patients with both known",
        pad=10,
    )
    for row, column in np.ndindex(size, size):
        if row == column:
            axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, color=PALE))
        elif column > row:
            count = f"{int(counts.to_numpy()[row, column])}"
            axes.text(column, row, count, fontsize=8.5, color=GREY, ha="center", va="center")
        else:
            spearman = float(ranks.to_numpy()[row, column])
            below = "" if math.isnan(spearman) else f"\n({_two(spearman)})"
            _value_text(axes, row, column, float(values.to_numpy()[row, column]), below)
    short = [str(name) for name in values.columns]
    axes.set_xticks(range(size), short, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), short)
    axes.axhline(numbers - 0.5, color=INK, linewidth=1.2)
    axes.axvline(numbers - 0.5, color=INK, linewidth=1.2)


def _value_text(axes: Axes, row: int, column: int, value: float, below: str = "") -> None:
    absent = math.isnan(value)
    text, colour = ("–", GREY) if absent else (_two(value) + below, _ink(axes, value))
    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)


def _outcome_columns(axes: Axes, with_outcome: pd.DataFrame, numbers: int) -> None:
    values = with_outcome.to_numpy()
    _cells(axes, values, "RdBu_r", -1, 1)
    axes.set_title(f"With {OUTCOME.positive}: all together,\nthen inside each hospital", pad=10)
    attributes = [BY_NAME[str(name)] for name in with_outcome.index if name in BY_NAME]
    for row, column in np.ndindex(len(attributes), values.shape[1]):
        _value_text(axes, row, column, float(values[row, column]))
    names = [_group_label(name) for name in with_outcome.columns]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    marks = [f"{a.name}  {'V' if a.codes else 'η'}" for a in attributes]
    axes.set_yticks(range(len(marks)), marks)
    axes.plot([0.5, 0.5], [-0.5, len(attributes) - 0.5], color=INK, linewidth=1.2)
    axes.axhline(numbers - 0.5, color=INK, linewidth=1.2)
    axes.text(
        -0.45,
        len(attributes),
        "–: too few patients,\nor no variation",
        color=GREY,
        fontsize=9,
        va="center",
    )


def _separate(axes: Axes, table: pd.DataFrame) -> None:
    axes.axvline(0.5, color=INK, linewidth=1.2)
    reached = 0
    for panel in PANELS[:-1]:
        reached += sum(BY_NAME[str(name)].panel == panel.name for name in table.index)
        axes.axhline(reached - 0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))


def _percent_texts(axes: Axes, shares: np.ndarray) -> None:
    for row, column in np.ndindex(*shares.shape):
        share = float(shares[row, column])
        if math.isnan(share):
            continue
        text = f"{100 * share:.0f} %"
        text = "<1 %" if 0 < share < 0.005 else ">99 %" if 0.995 <= share < 1 else text
        colour = GREY if share == 0 else _ink(axes, share)
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)


def _two(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _label(name: str) -> str:
    attribute = BY_NAME[name]
    return f"{attribute.label} ({name})"


def _group_label(name: object) -> str:
    return "All" if name == "overall" else site_label(str(name))


# -- outcome by hospital -----------------------------------------------------------------------


def _prevalences(axes: Axes, outcomes: pd.DataFrame) -> None:
    columns = (100 * outcomes[["prevalence", "low", "high"]]).to_numpy(dtype=float).tolist()
    for place, (share, low, high) in enumerate(columns):
        if math.isnan(share):
            axes.text(2, place, "no known diagnosis", va="center", color=GREY)
            continue
        axes.barh(place, share, height=0.56, color=OUTCOME_COLOURS[1], alpha=0.55)
        axes.plot([low, high], [place, place], color=INK, linewidth=2)
        text = f"{share:.0f} %  ({low:.0f}–{high:.0f})"
        axes.text(min(high + 1.5, 102), place, text, va="center")
    axes.set_xlim(0, 130)
    axes.spines["bottom"].set_bounds(0, 100)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("% of patients", x=50 / 130)
    axes.tick_params(axis="y", length=0)


def _grades(axes: Axes, outcomes: pd.DataFrame) -> None:
    columns = [f"grade_{grade}" for grade in range(OUTCOME.highest + 1)]
    for place, counts in enumerate(outcomes[columns].to_numpy(dtype=float).tolist()):
        merged = sum(counts[2:]) == 0 and counts[1] >= FEW
        start = 0.0
        for grade, count in enumerate(counts):
            if count:
                width = 100 * count / sum(counts)
                colour = OUTCOME_COLOURS[1] if merged and grade else GRADE_COLOURS[grade]
                axes.barh(place, width, left=start, height=0.56, color=colour, edgecolor="white")
                text = f"{count:.0f} (grades merged)" if merged and grade else f"{count:.0f}"
                _bar_text(axes, start + width / 2, place, text if width > 3 else "", colour)
                start += width
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of patients; the numbers are counts")
    axes.tick_params(axis="y", length=0)
    handles = [Patch(color=colour, label=f"grade {g}") for g, colour in enumerate(GRADE_COLOURS)]
    axes.legend(
        handles=handles,
        ncols=len(handles),
        loc="lower right",
        bbox_to_anchor=(1, 0),
        bbox_transform=axes.figure.transFigure,
        handlelength=1.2,
    )


def _bar_text(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    ink = text_colour(*matplotlib.colors.to_rgb(colour))
    axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=9)
