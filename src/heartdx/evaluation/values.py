"""Numbers as the evaluation document holds them: rounded, and null where nothing can be said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from heartdx.performance import Interval

DIGITS = 6


def number(value: float) -> float | None:
    """A float of the document; NaN and infinity become null.

    Examples
    --------
    >>> number(0.12345678), number(float("nan"))
    (0.123457, None)
    """
    return round(float(value), DIGITS) if np.isfinite(value) else None


def numbers(values: Iterable[float]) -> list[float | None]:
    """The same for a sequence."""
    return [number(value) for value in values]


def fig(interval: Interval) -> dict[str, float | None]:
    """An estimate with its 95 % interval."""
    parts = (("value", interval.value), ("low", interval.low), ("high", interval.high))
    return {name: number(value) for name, value in parts}


def figs(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """Named estimates with their intervals."""
    return {name: fig(interval) for name, interval in intervals.items()}
