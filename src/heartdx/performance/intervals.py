"""An estimate with what is known of it: percentile intervals, and Wilson's for a proportion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile interval.

    Parameters
    ----------
    value, low, high : NaN where the data cannot say.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Band:
    """A curve with its pointwise 95 % percentile band.

    Parameters
    ----------
    value, low, high : shape (points,), NaN where the data cannot say.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def percentile_interval(values: np.ndarray) -> Interval:
    """The 95 % percentile interval of resampled estimates.

    Parameters
    ----------
    values : shape (1 + resamples,), first the estimate, then its resamples; NaN are left out.

    References
    ----------
    .. [1] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993.

    Examples
    --------
    >>> print(percentile_interval(np.r_[0.5, np.linspace(0, 1, 101)]))
    0.500 (0.025 to 0.975)
    """
    resampled = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(resampled, [2.5, 97.5]) if len(resampled) else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))


def percentile_band(curves: np.ndarray) -> Band:
    """The 95 % percentile band of resampled curves, point by point.

    Parameters
    ----------
    curves : shape (1 + resamples, points), first the estimate, then its resamples.
    """
    points = [percentile_interval(column) for column in curves.T]
    return Band(*(np.array([getattr(i, end) for i in points]) for end in ("value", "low", "high")))


def wilson_interval(successes: float, n: float) -> Interval:
    """A proportion with Wilson's 95 % interval; NaN when ``n`` is 0.

    Examples
    --------
    >>> print(wilson_interval(8, 10))
    0.800 (0.490 to 0.943)
    """
    return Interval(float(successes / n) if n > 0 else math.nan, *wilson(successes, n))


def wilson(successes: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; honest for small n and near 0 or 1.

    Parameters
    ----------
    successes : count with the property.
    n : count of all; 0 gives NaN.
    level : coverage.

    Returns
    -------
    lower and upper bound, in [0, 1].

    References
    ----------
    .. [1] Wilson EB. Probable inference, the law of succession, and statistical inference.
       J Am Stat Assoc 1927;22:209-212.
    .. [2] Brown LD, Cai TT, DasGupta A. Interval estimation for a binomial proportion.
       Stat Sci 2001;16:101-133.

    Examples
    --------
    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n <= 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
