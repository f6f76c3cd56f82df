"""The pictures of the models."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from heartdx.figures.style import (
    BLUE,
    GREY,
    INK,
    LINES,
    MARKERS,
    OUTCOME_COLOURS,
    PALE,
    SERIES,
    blank,
    headline,
    margins,
    say,
    site_label,
    styled,
    text_colour,
)
from heartdx.performance.intervals import wilson

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Legend text to ``y`` (0 or 1) and ``y_prob``, each of shape (n_samples,)."""

PATIENTS_PER_BIN = 20
"""Fewer patients make a calibration point whose interval spans the picture."""
MOST_BINS = 10
TITLE_WIDTH = 62


@styled
def roc(curves: Curves, *, title: str) -> Figure:
    """Receiver operating characteristic of each curve.

    Parameters
    ----------
    curves : the key is shown as it is: put the AUC and its interval there.
    title : what was evaluated, on whom.
    """
    figure, axes = _square(title, len(curves) + 1)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (2, 3)), label="chance")
    for rank, (name, (y, y_prob)) in enumerate(curves.items()):
        if _both_outcomes(y):
            wrong, right, _ = roc_curve(y, y_prob)
            axes.plot(wrong, right, label=name, **_line(rank))
    axes.set_xlabel("1 − specificity (share of the well flagged)")
    axes.set_ylabel("sensitivity (share of the diseased found)")
    _unit_axes(axes)
    _legend_below(figure, axes)
    return figure


@styled
def precision_recall(curves: Curves, *, title: str) -> Figure:
    """Precision (PPV) against recall (sensitivity), with the prevalence as the floor.

    Parameters
    ----------
    curves : the key is shown as it is: put the average precision there.
    title : what was evaluated, on whom.
    """
    prevalences = sorted({round(float(np.mean(y)), 2) for y, _ in curves.values() if len(y)})
    figure, axes = _square(title, len(curves) + len(prevalences))
    for prevalence in prevalences:
        chance = f"prevalence {prevalence:.2f}: a model that knows nothing"
        axes.axhline(prevalence, color=GREY, linewidth=1, linestyle=(0, (2, 3)), label=chance)
    for rank, (name, (y, y_prob)) in enumerate(curves.items()):
        if _both_outcomes(y):
            precision, recall, _ = precision_recall_curve(y, y_prob)
            axes.plot(recall, precision, drawstyle="steps-pre", label=name, **_line(rank))
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision (PPV)")
    _unit_axes(axes)
    _legend_below(figure, axes)
    return figure


@styled
def calibration(curves: Curves, *, title: str) -> Figure:
    """Observed share with disease against the predicted probability, in quantile bins.

    Parameters
    ----------
    curves : the key is shown as it is: put slope and intercept there.
    title : what was evaluated, on whom.

    References
    ----------
    .. [1] Van Calster B et al. Calibration: the Achilles heel of predictive analytics.
       BMC Med 2019;17:230.
    .. [2] Wilson EB. J Am Stat Assoc 1927;22:209-212 (the bars).
    """
    figure = blank(7, 8.0 + 0.22 * len(curves))
    headline(figure, _wrapped(title))
    axes, below = figure.subplots(2, 1, height_ratios=(4.6, 1), sharex=True)
    bottom = 0.75 + 0.22 * (len(curves) + 1)
    margins(figure, left=0.85, right=0.3, top=0.75, bottom=bottom, hspace=0.1)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (2, 3)), label="perfect")
    for rank, (name, (y, y_prob)) in enumerate(curves.items()):
        _calibration_points(axes, rank, name, np.asarray(y), np.asarray(y_prob))
        _probability_histogram(below, rank, np.asarray(y_prob))
    axes.set_ylabel("observed share with disease, 95 % interval")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid()
    below.set_ylabel("patients")
    below.set_xlabel("predicted probability")
    _legend_below(figure, axes)
    return figure


@styled
def confusion(
    matrix: np.ndarray, *, title: str, threshold: float, labels: tuple[str, str]
) -> Figure:
    """Counts of right and wrong answers, with the share of each row and column.

    Parameters
    ----------
    matrix : shape (2, 2); rows are the angiography, columns the model, negative first.
    title : what was evaluated, on whom.
    threshold : the probability from which the model says ``labels[1]``.
    labels : negative, positive.
    """
    counts = np.asarray(matrix, dtype=float)
    figure = blank(7, 5.2)
    headline(figure, _wrapped(title))
    axes = figure.subplots()
    margins(figure, left=1.6, right=1.75, top=1.1, bottom=1.15)
    largest = max(1.0, counts.max())
    for row, column in np.ndindex(2, 2):
        _confusion_cell(axes, row, column, float(counts[row, column]), largest)
    axes.set_xlim(-0.5, 1.5)
    axes.set_ylim(1.5, -0.5)
    axes.set_xticks([0, 1], [f"model: {name}" for name in labels], fontsize=10)
    axes.set_yticks([0, 1], [f"angiography:\n{name}" for name in labels], fontsize=10)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _confusion_margins(axes, counts)
    figure.text(
        0.012,
        0.02,
        f"The model says {labels[1]} from a probability of {threshold:.2f}. "
        "In brackets: Wilson 95 % intervals.",
        color=GREY,
        va="bottom",
    )
    return figure


@styled
def coefficients(names: Sequence[str], values: Sequence[float], *, title: str) -> Figure:
    """Log-odds of a logistic model: per standard deviation for numbers, per code for codes.

    Parameters
    ----------
    names : shown as they are, first on top.
    values : log-odds.
    title : which model.
    """
    figure = blank(9, 2.0 + 0.3 * max(len(names), 2))
    headline(figure, _wrapped(title, 84), "Right: more probable disease.  Left: less probable.")
    axes = figure.subplots()
    margins(figure, left=_room(names), right=0.35, top=0.95, bottom=0.75)
    if not len(names):
        say(axes, "no coefficients")
        return figure
    log_odds = np.asarray(values, dtype=float)
    colours = [OUTCOME_COLOURS[1] if value > 0 else OUTCOME_COLOURS[0] for value in log_odds]
    bars = axes.barh(range(len(names)), log_odds, color=colours, height=0.68)
    axes.bar_label(bars, [_signed(value) for value in log_odds], padding=4, fontsize=9)
    axes.axvline(0, color=INK, linewidth=1)
    _rows(axes, names)
    reach = 1.22 * max(0.1, float(np.abs(log_odds).max()))
    axes.set_xlim(-reach if (log_odds < 0).any() else 0, reach if (log_odds > 0).any() else 0)
    axes.set_xlabel("log-odds (per standard deviation for numbers, per code for codes)")
    return figure


@styled
def importances(
    names: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    title: str,
) -> Figure:
    """Importance of each attribute with its interval, the largest on top.

    Parameters
    ----------
    names, values, lows, highs : of one length; ``lows <= values <= highs``.
    title : which model, and what the importance is (for example: loss when permuted).
    """
    order = np.argsort(-np.asarray(values, dtype=float), kind="stable")
    figure = blank(9, 1.7 + 0.34 * max(len(names), 2))
    headline(figure, _wrapped(title, 84))
    axes = figure.subplots()
    ordered = [names[place] for place in order]
    margins(figure, left=_room(ordered), right=0.35, top=0.7, bottom=0.7)
    if not len(names):
        say(axes, "no importances")
        return figure
    for row, place in enumerate(order):
        axes.plot([lows[place], highs[place]], [row, row], color=BLUE, linewidth=2)
        axes.plot(values[place], row, "o", color=BLUE, markersize=7)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.grid(axis="x")
    _rows(axes, ordered)
    axes.set_xlabel("importance, with its interval")
    return figure


@styled
def losses_by_site(losses: Mapping[str, Mapping[str, float]], *, title: str) -> Figure:
    """Log loss of each candidate in each hospital it had not seen.

    Parameters
    ----------
    losses : candidate to hospital to log loss; a hospital may be absent.
    title : which panel, and how it was held out.
    """
    sites = list(dict.fromkeys(site for by_site in losses.values() for site in by_site))
    figure = blank(9, 1.75 + 0.22 * len(losses) + 0.62 * max(len(sites), 2))
    headline(figure, _wrapped(title, 84), "Further left is better: lower log loss.")
    axes = figure.subplots()
    margins(figure, left=_room(sites), right=0.35, top=0.95, bottom=0.7 + 0.22 * len(losses))
    for rank, (candidate, by_site) in enumerate(losses.items()):
        shift = 0.5 * ((rank + 0.5) / len(losses) - 0.5)
        axes.plot(
            list(by_site.values()),
            [sites.index(site) + shift for site in by_site],
            linestyle="none",
            marker=MARKERS[rank % len(MARKERS)],
            color=SERIES[rank % len(SERIES)],
            markersize=8,
            label=candidate,
        )
    for row in range(len(sites) - 1):
        axes.axhline(row + 0.5, color=PALE, linewidth=1)
    axes.grid(axis="x")
    _rows(axes, [site_label(site) for site in sites])
    axes.set_xlabel("log loss in the held-out hospital")
    _legend_below(figure, axes)
    return figure


# -- curves ------------------------------------------------------------------------------------


def _square(title: str, legend_lines: int) -> tuple[Figure, Axes]:
    bottom = 0.75 + 0.22 * legend_lines
    figure = blank(7, 0.75 + 5.85 + bottom)
    headline(figure, _wrapped(title))
    axes = figure.subplots()
    margins(figure, left=0.85, right=0.3, top=0.75, bottom=bottom)
    return figure, axes


def _wrapped(title: str, width: int = TITLE_WIDTH) -> str:
    return textwrap.fill(title, width)


def _line(rank: int) -> dict:
    return {
        "color": SERIES[rank % len(SERIES)],
        "linestyle": LINES[rank % len(LINES)],
        "linewidth": 2,
    }


def _unit_axes(axes: Axes) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.grid()


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, names, loc="lower left", bbox_to_anchor=(0.1, 0.01), handlelength=2.6
        )


def _both_outcomes(y: np.ndarray) -> bool:
    """A curve needs patients with and without disease; without both it is left out."""
    return len(np.unique(y)) == 2


def _calibration_points(
    axes: Axes, rank: int, name: str, y: np.ndarray, y_prob: np.ndarray
) -> None:
    colour = SERIES[rank % len(SERIES)]
    points = []
    for rows in quantile_bins(y_prob):
        low, high = wilson(float(y[rows].sum()), len(rows))
        points.append((y_prob[rows].mean(), y[rows].mean()))
        axes.plot([points[-1][0]] * 2, [low, high], color=colour, linewidth=1.2, alpha=0.7)
    predicted, observed = zip(*points, strict=True) if points else ((), ())
    marker = MARKERS[rank % len(MARKERS)]
    axes.plot(predicted, observed, marker=marker, markersize=6.5, label=name, **_line(rank))


def quantile_bins(y_prob: np.ndarray) -> list[np.ndarray]:
    """Row numbers of patients with neighbouring probabilities, in bins of nearly equal size.

    Equal probabilities share a bin, so a bin never depends on the order of the rows.

    Examples
    --------
    >>> [len(rows) for rows in quantile_bins(np.linspace(0, 1, 60))]
    [20, 20, 20]
    >>> [len(rows) for rows in quantile_bins(np.full(60, 0.5))]
    [60]
    """
    if not len(y_prob):
        return []
    wanted = int(np.clip(len(y_prob) // PATIENTS_PER_BIN, 1, MOST_BINS))
    inner = np.quantile(y_prob, np.arange(1, wanted) / wanted)
    place = np.searchsorted(np.unique(inner), y_prob, side="right")
    return [np.flatnonzero(place == bin_) for bin_ in np.unique(place)]


def _probability_histogram(axes: Axes, rank: int, y_prob: np.ndarray) -> None:
    colour = SERIES[rank % len(SERIES)]
    edges = np.linspace(0, 1, 26).tolist()
    axes.hist(y_prob, edges, histtype="step", color=colour, linewidth=1.5)


# -- confusion matrix --------------------------------------------------------------------------


def _confusion_cell(axes: Axes, row: int, column: int, count: float, largest: float) -> None:
    right = row == column
    strength = 0.12 + 0.5 * count / largest
    base = np.array([0, 114, 178] if right else [213, 94, 0]) / 255
    red, green, blue = 1 - strength * (1 - base)
    axes.fill_between(
        [column - 0.485, column + 0.485], row - 0.485, row + 0.485, color=(red, green, blue)
    )
    colour = text_colour(red, green, blue)
    axes.text(column, row, f"{count:.0f}", fontsize=20, ha="center", va="center", color=colour)
    verdict = f"{'true' if right else 'false'} {'positives' if column else 'negatives'}"
    axes.text(column, row + 0.27, verdict, ha="center", va="center", color=colour)


def _confusion_margins(axes: Axes, counts: np.ndarray) -> None:
    rows = ("specificity", "sensitivity")
    columns = ("NPV", "PPV")
    for place in range(2):
        axes.text(
            1.53,
            place,
            _with_interval(rows[place], counts[place, place], counts[place].sum()),
            va="center",
        )
        axes.text(
            place,
            1.56,
            _with_interval(columns[place], counts[place, place], counts[:, place].sum()),
            va="top",
            ha="center",
        )


def _with_interval(name: str, hits: float, total: float) -> str:
    if not total:
        return f"{name}\nnobody to count"
    low, high = wilson(hits, total)
    return f"{name} {100 * hits / total:.0f} %\n({100 * low:.0f} to {100 * high:.0f})"


# -- horizontal rows ---------------------------------------------------------------------------


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=9.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _room(names: Sequence[str]) -> float:
    """Inches that the longest name takes at the left of the axes."""
    return 0.35 + 0.082 * max((len(name) for name in names), default=0)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
