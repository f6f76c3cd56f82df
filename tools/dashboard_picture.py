"""Draw a dashboard from real samples: `python tools/dashboard_picture.py URL [--minutes 6]`.

Grafana is not needed: every query of ops/grafana/service.json is asked of a Prometheus over its
API, and the answers are drawn with matplotlib in the dashboard's own grid, with its titles,
legends, units, colours and thresholds. The picture says so.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "ops" / "grafana" / "service.json"
PICTURE = ROOT / "docs" / "images" / "dashboard.png"
HONEST = "drawn from real samples through Prometheus' API, not a screenshot of Grafana"
SCRAPE_SECONDS = 15.0
"""How often Prometheus asks, unless the caller knows better."""
POINTS = 240
"""Samples over the width of a picture; a panel is about 400 points wide."""

COLUMNS, COLUMN, LINE, GAP, EDGE, HEAD = 24, 58.0, 30.0, 6.0, 16.0, 58.0
"""The grid in pixels: a column's width, a row's height, and the space around and above."""
DPI = 100
LEGEND_LINE = 15.0
MARGINS = {"stat": (8, 8, 26, 6), "bargauge": (104, 20, 32, 22)}
"""Left, right, top and bottom of an axes inside its card, where it is not as usual."""
PAPER, CARD, FRAME, INK, FAINT, GRID = (
    "#F4F5F5",
    "#FFFFFF",
    "#DCDEE0",
    "#24292E",
    "#6E7680",
    "#ECEDEF",
)
PALETTE = (
    "#3274D9", "#56A64B", "#E0922F", "#8F5BC4", "#D44A3A", "#2A9D8F", "#B8860B", "#D6669E",
    "#5E7A8A", "#7A9A01", "#A0522D", "#4B5FAA", "#8E8E8E",
)  # fmt: skip
MARK = "#8F5BC4"
"""Annotations."""
SUFFIXES = {"reqps": " req/s", "percentunit": "%", "s": " s", "short": "", "string": ""}


@dataclass(frozen=True)
class Series:
    """One series of an answer.

    Parameters
    ----------
    labels : its label names and values.
    times, values : arrays of shape (n_samples,); Unix seconds, and what was measured.
    """

    labels: Mapping[str, str]
    times: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Asked:
    """The samples of a dashboard over some time.

    Parameters
    ----------
    start, end : Unix seconds.
    answers : for each panel's id and query's letter the result of ``query_range``; the
        annotations are under ``swaps``.
    """

    start: float
    end: float
    answers: Mapping[str, list[dict[str, Any]]]

    def series(self, key: str) -> list[Series]:
        """An answer's series, in the order of their labels; samples that are no number left out."""
        found = []
        for part in sorted(self.answers.get(key, []), key=lambda p: sorted(p["metric"].items())):
            samples = np.array([(float(t), float(v)) for t, v in part["values"]]).reshape(-1, 2)
            kept = samples[np.isfinite(samples[:, 1])]
            if len(kept):
                found.append(Series(part["metric"], kept[:, 0], kept[:, 1]))
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("prometheus", help="its address, such as http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=6.0, help="how far back (default 6)")
    parser.add_argument("--scrape", type=float, default=SCRAPE_SECONDS, help="scrape interval, s")
    parser.add_argument("--dashboard", type=Path, default=DASHBOARD)
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args(argv)
    dashboard = json.loads(arguments.dashboard.read_text(encoding="utf-8"))
    end = time.time()
    found = asked(
        dashboard,
        arguments.prometheus,
        start=end - 60 * arguments.minutes,
        end=end,
        scrape=arguments.scrape,
    )
    arguments.out.write_bytes(png(drawn(dashboard, found)))
    print(f"{arguments.out}: {arguments.out.stat().st_size // 1000} kB", file=sys.stderr)
    return 0


# -- asking ----------------------------------------------------------------------------------


def asked(
    dashboard: Mapping[str, Any], url: str, *, start: float, end: float, scrape: float
) -> Asked:
    """Every query of a dashboard, asked of a Prometheus over a time.

    Parameters
    ----------
    dashboard : Grafana's document.
    url : of the Prometheus.
    start, end : Unix seconds.
    scrape : seconds between two scrapes, from which Grafana takes ``$__rate_interval``.
    """
    step = max(1.0, (end - start) / POINTS)
    known = variables(dashboard, seconds=end - start, step=step, scrape=scrape)
    queries = {
        f"{panel['id']}{target['refId']}": target["expr"]
        for panel in panels(dashboard)
        for target in panel["targets"]
    }
    queries["swaps"] = dashboard["annotations"]["list"][0]["expr"]
    answers = {
        key: query_range(url, substituted(expr, known), start, end, step)
        for key, expr in queries.items()
    }
    return Asked(start, end, answers)


def panels(dashboard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The panels of a dashboard without the titles of its rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(
    dashboard: Mapping[str, Any], *, seconds: float, step: float, scrape: float
) -> dict[str, str]:
    """What Grafana puts in place of the variables in a query.

    ``$__rate_interval`` is four scrapes, or one scrape and a step when that is longer:
    https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
    """
    interval = max(step + scrape, 4 * scrape)
    known = {
        "__rate_interval": f"{math.ceil(interval)}s",
        "__interval": f"{math.ceil(step)}s",
        "__range": f"{math.ceil(seconds)}s",
    }
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            every = variable.get("includeAll")
            known[variable["name"]] = (
                variable["allValue"] if every else variable["current"]["value"]
            )
    return known


def substituted(expr: str, known: Mapping[str, str]) -> str:
    """A query with its variables replaced.

    Raises
    ------
    KeyError
        The query uses a variable that is not known.

    Examples
    --------
    >>> substituted('rate(x{job="$job"}[$__rate_interval])', {"job": "a", "__rate_interval": "4s"})
    'rate(x{job="a"}[4s])'
    """
    return re.sub(r"\$(\w+)", lambda found: known[found[1]], expr)


def query_range(url: str, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
    """The series of a query over a time, as Prometheus' API gives them."""
    asked_for = {"query": expr, "start": start, "end": end, "step": step}
    # The address is the caller's own Prometheus.
    with urllib.request.urlopen(  # noqa: S310
        f"{url}/api/v1/query_range", urllib.parse.urlencode(asked_for).encode(), timeout=30
    ) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


# -- drawing ---------------------------------------------------------------------------------


def drawn(dashboard: Mapping[str, Any], found: Asked) -> Figure:
    """The dashboard with its samples: one axes a panel, labelled with its title."""
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"])
    width_px, height_px = COLUMNS * COLUMN + 2 * EDGE, height * LINE + HEAD + EDGE
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 7.5, "text.color": INK}):
        figure = Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI, facecolor=PAPER)
        FigureCanvasAgg(figure)  # measures texts
        _head(figure, dashboard, found)
        for panel in dashboard["panels"]:
            box = _box(panel["gridPos"])
            if panel["type"] == "row":
                _text(figure, box.x + 2, box.y + LINE / 2, panel["title"], size=10, weight="bold")
            else:
                _card(figure, box)
                axes = _axes(figure, panel, box)
                DRAW[panel["type"]](axes, panel, found, box)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a small PNG, its colours reduced to 128."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=DPI)
    Image.open(full).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y is counted from the top."""

    x: float
    y: float
    w: float
    h: float


def _box(place: Mapping[str, float]) -> Box:
    return Box(
        EDGE + place["x"] * COLUMN + GAP / 2,
        HEAD + place["y"] * LINE + GAP / 2,
        place["w"] * COLUMN - GAP,
        place["h"] * LINE - GAP,
    )


def _head(figure: Figure, dashboard: Mapping[str, Any], found: Asked) -> None:
    begun, ended = (datetime.fromtimestamp(t, UTC) for t in (found.start, found.end))
    when = f"{begun:%Y-%m-%d %H:%M} to {ended:%H:%M} UTC"
    _text(figure, EDGE + 4, 20, dashboard["title"], size=15, weight="bold")
    _text(figure, EDGE + 4, 43, f"{when} · {HONEST}", size=9, color=FAINT)
    mark = dashboard["annotations"]["list"][0]
    right = COLUMNS * COLUMN + EDGE - 4
    _text(figure, right, 43, f"▲ {mark['name']}", size=9, color=MARK, ha="right")


def _text(figure: Figure, x: float, y: float, text: str, **style: Any) -> Any:
    style.setdefault("va", "center")
    width, height = figure.get_size_inches() * DPI
    return figure.text(x / width, 1 - y / height, text, **style)


def _card(figure: Figure, box: Box) -> None:
    width, height = figure.get_size_inches() * DPI
    figure.add_artist(
        FancyBboxPatch(
            (box.x / width, 1 - (box.y + box.h) / height),
            box.w / width,
            box.h / height,
            boxstyle="square,pad=0",
            facecolor=CARD,
            edgecolor=FRAME,
            linewidth=0.8,
            transform=figure.transFigure,
            zorder=-1,
        )
    )


def _axes(figure: Figure, panel: Mapping[str, Any], box: Box) -> Axes:
    _text(figure, box.x + 10, box.y + 14, panel["title"], size=8.5, weight="bold")
    width, height = figure.get_size_inches() * DPI
    left, right, top, bottom = MARGINS.get(panel["type"], (58, 14, 32, 22))
    axes = figure.add_axes(
        (
            (box.x + left) / width,
            1 - (box.y + box.h - bottom) / height,
            (box.w - left - right) / width,
            (box.h - top - bottom) / height,
        ),
        label=panel["title"],
    )
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, labelsize=7.5, labelcolor=FAINT, pad=5)
    return axes


# -- kinds of panel --------------------------------------------------------------------------


def named(panel: Mapping[str, Any], found: Asked) -> Iterator[tuple[str, Series]]:
    """Every series of a panel and what its legend calls it."""
    for target in panel["targets"]:
        for series in found.series(f"{panel['id']}{target['refId']}"):
            yield _legend(target["legendFormat"], series.labels), series


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)


def _lines(axes: Axes, panel: Mapping[str, Any], found: Asked, box: Box) -> None:
    custom = panel["fieldConfig"]["defaults"]["custom"]
    drawn_series = list(named(panel, found))
    names = [name for name, _ in drawn_series]
    colours = [_colour(panel, name, place) for place, name in enumerate(names)]
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    below = _Stack(drawn_series) if stacked else None
    for (name, series), colour in zip(drawn_series, colours, strict=True):
        times, values = series.times, series.values
        if custom.get("drawStyle") == "bars":
            width = (found.end - found.start) / POINTS
            axes.bar(times, values, width, color=colour, label=name)
            continue
        floor, top = below.add(series) if below else (np.zeros_like(values), values)
        times, floor, top = (below.times, floor, top) if below else (times, floor, top)
        alpha = custom.get("fillOpacity", 0) / 100
        axes.fill_between(times, floor, top, color=colour, alpha=alpha, linewidth=0)
        width = 0.65 * custom["lineWidth"]
        axes.plot(times, top, color=colour, linewidth=width, label=name, solid_joinstyle="round")
    _time_axis(axes, found)
    _value_axis(axes, panel)
    _threshold_lines(axes, panel)
    _swap_lines(axes, found)
    _legend_below(axes, names, colours, box)


class _Stack:
    """Series on top of one another, each at all times; where it has no sample it is 0."""

    def __init__(self, drawn_series: Sequence[tuple[str, Series]]):
        self.times = np.unique(np.concatenate([s.times for _, s in drawn_series] or [np.zeros(0)]))
        self._reached = np.zeros_like(self.times)

    def add(self, series: Series) -> tuple[np.ndarray, np.ndarray]:
        """The lower and the upper edge of one more series."""
        below = self._reached.copy()
        self._reached[np.searchsorted(self.times, series.times)] += series.values
        return below, self._reached.copy()


def _number(axes: Axes, panel: Mapping[str, Any], found: Asked, box: Box) -> None:
    options = panel["options"]
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    shown = [(name, series) for name, series in named(panel, found) if _is_last(series, found)]
    told = [(name, float(series.values[-1])) for name, series in shown]
    if options["textMode"] == "name":
        _names(axes, [name for name, _ in told], panel)
        return
    several = len(told) > 1
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for place, (name, value) in enumerate(told):
        at = (place + 0.5) / len(told)
        high = 0.72 if options["graphMode"] == "area" else 0.5
        axes.text(
            at, high, _told(value, unit), ha="center", va="center", fontsize=18, weight="bold",
            color=_step_colour(panel, value),
        )  # fmt: skip
        if several:
            axes.text(at, 0.1, name, ha="center", va="center", fontsize=8, color=FAINT)
    if options["graphMode"] == "area":
        for name, series in shown:
            over = (series.times - found.start) / (found.end - found.start)
            top = 0.4 * series.values / max(series.values.max(), 1e-9)
            colour = _step_colour(panel, float(series.values[-1]))
            axes.fill_between(over, 0, top, color=colour, alpha=0.15, linewidth=0)
            axes.plot(over, top, color=colour, linewidth=1.2, label=name)


def _names(axes: Axes, names: Sequence[str], panel: Mapping[str, Any]) -> None:
    colour = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"]
    for place, name in enumerate(names):
        at = 1 - (place + 0.5) / len(names)
        axes.text(0.5, at, name, ha="center", va="center", fontsize=10, weight="bold", color=colour)


def _is_last(series: Series, found: Asked) -> bool:
    """Whether a series goes on to the end: one that stopped is not the newest value."""
    return bool(found.end - series.times[-1] <= 2 * (found.end - found.start) / POINTS + 1)


def _timeline(axes: Axes, panel: Mapping[str, Any], found: Asked, box: Box) -> None:
    drawn_series = list(named(panel, found))
    steps = {round(float(d), 6) for _, s in drawn_series for d in np.diff(s.times)}
    step = min(steps, default=1.0)
    for place, (_, series) in enumerate(drawn_series):
        for begun, ended, value in _runs(series, step):
            axes.add_patch(
                Rectangle(
                    (begun, place - 0.32), ended - begun, 0.64, linewidth=0, alpha=0.85,
                    facecolor=_step_colour(panel, value),
                )
            )  # fmt: skip
            if ended - begun > 0.04 * (found.end - found.start):
                axes.text(
                    (begun + ended) / 2, place, f"{value:g}", ha="center", va="center",
                    color="white", weight="bold", fontsize=8,
                )  # fmt: skip
    _time_axis(axes, found)
    axes.set_ylim(max(len(drawn_series), 2) - 0.3, -0.7)
    axes.set_yticks([])
    for place, (name, _) in enumerate(drawn_series):
        axes.text(
            found.start, place - 0.36, name, ha="left", va="bottom", fontsize=7.5, color=FAINT
        )


def _runs(series: Series, step: float) -> Iterator[tuple[float, float, float]]:
    """From when to when a series had one value."""
    changes = np.flatnonzero(np.diff(series.values)) + 1
    for first, last in zip([0, *changes], [*changes, len(series.values)], strict=True):
        yield series.times[first], series.times[last - 1] + step, float(series.values[first])


def _heat(axes: Axes, panel: Mapping[str, Any], found: Asked, box: Box) -> None:
    buckets = sorted(named(panel, found), key=lambda part: float(part[0]))
    times = np.unique(np.concatenate([s.times for _, s in buckets] or [np.zeros(0)]))
    reached = np.zeros((len(buckets), len(times)))
    for place, (_, series) in enumerate(buckets):
        reached[place, np.searchsorted(times, series.times)] = series.values
    counts = np.diff(reached, axis=0, prepend=0.0)
    if len(times):
        edges = np.arange(len(buckets) + 1)
        axes.pcolormesh(np.append(times, found.end), edges, counts, cmap="Blues", shading="flat")
    axes.set_yticks(range(1, len(buckets) + 1), [name for name, _ in buckets])
    _time_axis(axes, found)


def _bars(axes: Axes, panel: Mapping[str, Any], found: Asked, box: Box) -> None:
    told = [(name, float(series.values[-1])) for name, series in named(panel, found)]
    told.sort(key=lambda part: part[1])
    for place, (_, value) in enumerate(told):
        axes.barh(place, value, 0.7, color=_step_colour(panel, value))
    axes.set_yticks(range(len(told)), [name for name, _ in told])
    _value_axis(axes, panel, along="x")


DRAW = {
    "timeseries": _lines,
    "stat": _number,
    "state-timeline": _timeline,
    "heatmap": _heat,
    "bargauge": _bars,
}


# -- axes, units, colours --------------------------------------------------------------------


def _time_axis(axes: Axes, found: Asked) -> None:
    axes.set_xlim(found.start, found.end)
    minutes = max(1, round((found.end - found.start) / 60 / 4))
    first = math.ceil(found.start / 60) * 60
    ticks = np.arange(first, found.end, 60 * minutes)
    axes.set_xticks(ticks, [f"{datetime.fromtimestamp(t, UTC):%H:%M}" for t in ticks])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _value_axis(axes: Axes, panel: Mapping[str, Any], along: Literal["x", "y"] = "y") -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axis, limits = (axes.yaxis, axes.set_ylim) if along == "y" else (axes.xaxis, axes.set_xlim)
    if defaults.get("custom", {}).get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log")
        if not _has_height(axes):
            axes.set_ylim(0.001, 1)
        axes.tick_params(which="minor", length=0, labelleft=False)
        axis.set_major_formatter(lambda value, _: _told(value, defaults["unit"]))
        axes.grid(axis=along, color=GRID, linewidth=0.8)
        return
    if "max" in defaults:
        limits(0, defaults["max"])
    else:
        top = (axes.get_ylim() if along == "y" else axes.get_xlim())[1]
        limits(0, top * 1.05 if _has_height(axes) else 1)
    axis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axis.set_major_formatter(lambda value, _: _told(value, defaults["unit"]))
    axes.grid(axis=along, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _has_height(axes: Axes) -> bool:
    """Whether anything above 0 is drawn: else matplotlib's own limits are a speck around it."""
    return any(np.asarray(line.get_ydata()).max(initial=0) > 0 for line in axes.lines) or bool(
        axes.patches
    )


def _told(value: float, unit: str) -> str:
    """A value with its unit, in three digits."""
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit.startswith("suffix:"):
        return f"{value:.3g}{unit.removeprefix('suffix:')}"
    return f"{value:,.0f}{SUFFIXES[unit]}" if value >= 100 else f"{value:.3g}{SUFFIXES[unit]}"


def _threshold_lines(axes: Axes, panel: Mapping[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    if defaults["custom"].get("thresholdsStyle", {}).get("mode") != "dashed":
        return
    for step in defaults["thresholds"]["steps"][1:]:
        if step["value"] < axes.get_ylim()[1]:
            axes.axhline(step["value"], color=step["color"], linewidth=1, linestyle=(0, (5, 4)))


def _swap_lines(axes: Axes, found: Asked) -> None:
    for series in found.series("swaps"):
        gaps = np.diff(series.times, prepend=-np.inf)
        for begun in series.times[gaps > 3 * np.median(np.diff(series.times, append=np.inf))]:
            axes.axvline(begun, color=MARK, linewidth=1, linestyle=(0, (2, 2)))
            foot = axes.get_xaxis_transform()
            axes.plot(begun, 0, "^", color=MARK, markersize=5, clip_on=False, transform=foot)


def _legend_below(axes: Axes, names: Sequence[str], colours: Sequence[str], box: Box) -> None:
    """Names beside their colours under the axes, which gets what they leave of the card."""
    figure: Any = axes.get_figure()
    placed = list(_in_lines([28 + _width(figure, name) for name in names], box.w - 14))
    lines = 1 + max((line for _, line in placed), default=0)
    top = box.y + box.h - 14 - LEGEND_LINE * (lines - 1)
    for (x, line), name, colour in zip(placed, names, colours, strict=True):
        y = top + LEGEND_LINE * line
        _text(figure, box.x + 14 + x, y, "━", size=8, color=colour, weight="bold")
        _text(figure, box.x + 28 + x, y, name, size=7.5)
    bottom = 1 - (top - 29) / (figure.get_size_inches()[1] * DPI)
    place = axes.get_position()
    axes.set_position((place.x0, bottom, place.width, place.y1 - bottom))


def _in_lines(widths: Sequence[float], width: float) -> Iterator[tuple[float, int]]:
    """Where each part begins and on which line, when parts flow into lines of a width.

    Examples
    --------
    >>> list(_in_lines([40, 50, 30], 100))
    [(0.0, 0), (40.0, 0), (0.0, 1)]
    """
    x, line = 0.0, 0
    for wide in widths:
        if x and x + wide > width:
            x, line = 0.0, line + 1
        yield x, line
        x += wide


def _width(figure: Any, text: str) -> float:
    """Pixels that a legend's name takes."""
    drawn_text = figure.text(0, 0, text, size=7.5)
    wide: float = drawn_text.get_window_extent(figure.canvas.get_renderer()).width
    drawn_text.remove()
    return wide


def _colour(panel: Mapping[str, Any], name: str, place: int) -> str:
    """A series' colour; of several overrides that fit the last counts, as in Grafana."""
    fitting = [
        str(override["properties"][0]["value"]["fixedColor"])
        for override in panel["fieldConfig"]["overrides"]
        if re.search(override["matcher"]["options"], name)
    ]
    return fitting[-1] if fitting else PALETTE[place % len(PALETTE)]


def _step_colour(panel: Mapping[str, Any], value: float) -> str:
    colour = GRID
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return colour


if __name__ == "__main__":
    sys.exit(main())
