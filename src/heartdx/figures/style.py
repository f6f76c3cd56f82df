"""How every picture looks and how it is saved: fonts, colours, PNG bytes, data URIs."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 110

# Okabe and Ito's palette, told apart with every common colour blindness.
# https://jfly.uni-koeln.de/color/
BLUE, VERMILLION = "#0072B2", "#D55E00"
GREEN, PINK, ORANGE, SKY = "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
INK, GREY, PALE = "#1F2933", "#6B7680", "#E4E7EB"

OUTCOME_COLOURS = (BLUE, VERMILLION)
"""Without and with disease, in every picture."""
SERIES = (BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY, INK)
"""Candidates and curves, in order; repeated with another line when there are more."""
SITE_COLOURS = (GREEN, INK, PINK, ORANGE, SKY, BLUE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
"""Shape repeats what colour says, for print in grey."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same letters on every machine
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "hatch.linewidth": 0.8,
}


def styled[**P](draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with the project's style, leaving matplotlib's global settings as they were."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return in_style


def blank(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, drawn by Agg."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def headline(figure: Figure, title: str, note: str = "") -> None:
    """Title and one explaining note at the top left, at the same height in every picture."""
    height = figure.get_figheight()
    figure.text(
        0.012, 1 - 0.12 / height, title, fontsize=13, fontweight="bold", va="top", ha="left"
    )
    if note:
        figure.text(0.012, 1 - 0.42 / height, note, fontsize=9.5, color=GREY, va="top", ha="left")


def margins(
    figure: Figure, *, left: float, right: float, top: float, bottom: float, **gaps: float
) -> None:
    """Place the axes; margins in inches, so that text never moves when the figure grows."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=bottom / height,
        **gaps,
    )


def say(axes: Axes, text: str) -> None:
    """Write a sentence where a picture would be empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def site_label(site: object) -> str:
    """A hospital's short name for an axis.

    Examples
    --------
    >>> site_label("cleveland"), site_label("va")
    ('Cleveland', 'VA')
    """
    name = str(site)
    return name.upper() if len(name) <= 3 else name[:1].upper() + name[1:]


def text_colour(red: float, green: float, blue: float) -> str:
    """Black or white, whichever is easier to read on that colour.

    References
    ----------
    .. [1] W3C. Web Content Accessibility Guidelines 2.2, relative luminance.
    """

    def linear(channel: float) -> float:
        return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4

    luminance = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    return INK if luminance > 0.2 else "white"


def png(figure: Figure) -> bytes:
    """The picture as PNG; the same figure gives the same bytes (no time, no version inside)."""
    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def data_uri(image: bytes) -> str:
    """A PNG as text to embed in a page."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
