"""The statistics of the exploration: association of any two columns, and group differences.

All take arrays with NaN for missing, use the patients for whom both values are known, and give
NaN where the statistic does not exist; never a made-up 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Associations:
    """Every pair of columns, each by the measure that fits its kinds.

    Parameters
    ----------
    numbers, codes : column names of each kind; the tables' order is numbers, then codes.
    values : Pearson (number, number), correlation ratio (number, code) or bias-corrected
        Cramér's V (code, code).
    ranks : Spearman for pairs of numbers, NaN elsewhere.
    counts : patients with both values known.
    """

    numbers: tuple[str, ...]
    codes: tuple[str, ...]
    values: pd.DataFrame
    ranks: pd.DataFrame
    counts: pd.DataFrame


def associations(
    frame: pd.DataFrame, *, numbers: tuple[str, ...], codes: tuple[str, ...]
) -> Associations:
    """The association of every pair of columns, pairwise complete."""
    names = [*numbers, *codes]
    values = pd.DataFrame(np.nan, index=names, columns=names)
    columns = {name: frame[name].to_numpy(dtype=float) for name in names}
    for place, first in enumerate(names):
        for second in names[place:]:
            kinds = (first in codes, second in codes)
            value = _association(columns[first], columns[second], kinds)
            values.loc[first, second] = values.loc[second, first] = value
    known = frame[names].notna().astype(int)
    ranks = frame[list(numbers)].corr(method="spearman").reindex(index=names, columns=names)
    return Associations(numbers, codes, values, ranks, known.T @ known)


def association(
    first: np.ndarray, second: np.ndarray, *, first_is_code: bool, second_is_code: bool
) -> float:
    """Pearson, correlation ratio or Cramér's V, by the kinds of the two columns."""
    return _association(first, second, (first_is_code, second_is_code))


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two numbers, in [-1, 1].

    Examples
    --------
    >>> round(pearson(np.array([1.0, 2, 3]), np.array([2.0, 4, 7])), 3)
    0.993
    >>> pearson(np.array([1.0, 1, 1]), np.array([2.0, 4, 7]))
    nan
    """
    x, y = _both_known(first, second)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))


def cramers_v(first: np.ndarray, second: np.ndarray) -> float:
    """Bias-corrected Cramér's V of two codes, in [0, 1].

    The plain V of independent codes is above 0 by an amount that grows as n falls; Bergsma's
    correction takes that amount away.

    References
    ----------
    .. [1] Bergsma W. A bias-correction for Cramér's V and Tschuprow's T.
       J Korean Stat Soc 2013;42:323-328.

    Examples
    --------
    >>> cramers_v(np.array([0.0, 0, 1, 1]), np.array([3.0, 3, 7, 7]))
    1.0
    >>> cramers_v(np.array([0.0, 0, 0]), np.array([3.0, 3, 7]))
    nan
    """
    counts = _cross_table(*_both_known(first, second))
    n, (r, k) = counts.sum(), counts.shape
    if n < 2 or r < 2 or k < 2:
        return math.nan
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    phi2 = ((counts - expected) ** 2 / expected).sum() / n
    phi2 = max(0.0, phi2 - (r - 1) * (k - 1) / (n - 1))
    most = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    return float(min(1.0, math.sqrt(phi2 / most))) if most > 1e-12 else math.nan


def correlation_ratio(codes: np.ndarray, numbers: np.ndarray) -> float:
    """Correlation ratio eta, in [0, 1]: the root of the variance share that lies between codes.

    References
    ----------
    .. [1] Fisher RA. Statistical Methods for Research Workers. 1925, section 45.

    Examples
    --------
    >>> round(correlation_ratio(np.array([0.0, 0, 1, 1]), np.array([1.0, 2, 3, 4])), 3)
    0.894
    """
    groups, x = _both_known(codes, numbers)
    labels, place = np.unique(groups, return_inverse=True)
    if len(labels) < 2 or np.ptp(x) == 0:
        return math.nan
    sizes = np.bincount(place)
    means = np.bincount(place, weights=x) / sizes
    between = (sizes * (means - x.mean()) ** 2).sum()
    return float(min(1.0, math.sqrt(between / ((x - x.mean()) ** 2).sum())))


def difference_of_numbers(without: np.ndarray, with_: np.ndarray) -> float:
    """Absolute standardized difference of two groups' means, in standard deviations.

    References
    ----------
    .. [1] Yang D, Dalton JE. A unified approach to measuring the effect size between two groups
       using SAS. SAS Global Forum 2012, paper 335.

    Examples
    --------
    >>> difference_of_numbers(np.array([1.0, 2, 3]), np.array([2.0, 3, 4]))
    1.0
    """
    a, b = without[~np.isnan(without)], with_[~np.isnan(with_)]
    if len(a) < 2 or len(b) < 2:
        return math.nan
    pooled = (a.var(ddof=1) + b.var(ddof=1)) / 2
    return float(abs(b.mean() - a.mean()) / math.sqrt(pooled)) if pooled > 0 else math.nan


def difference_of_codes(without: np.ndarray, with_: np.ndarray) -> float:
    """Absolute standardized difference of two groups' code shares (a Mahalanobis distance).

    For two codes it is the usual ``|p1 - p0| / sqrt((p1 q1 + p0 q0) / 2)``. NaN when the groups
    share no code, or hold one code only, since the distance is then infinite or undefined.

    References
    ----------
    .. [1] Yang D, Dalton JE. A unified approach to measuring the effect size between two groups
       using SAS. SAS Global Forum 2012, paper 335.

    Examples
    --------
    >>> round(difference_of_codes(np.array([0.0, 0, 0, 1]), np.array([0.0, 1, 1, 1])), 3)
    1.155
    """
    a, b = without[~np.isnan(without)], with_[~np.isnan(with_)]
    seen = np.union1d(a, b)[1:]  # one code is implied by the others
    if not len(a) or not len(b) or not len(seen):
        return math.nan
    p, q = (np.array([(group == code).mean() for code in seen]) for group in (a, b))
    covariance = (np.diag(p) - np.outer(p, p) + np.diag(q) - np.outer(q, q)) / 2
    if np.linalg.matrix_rank(covariance) < len(seen):
        return math.nan
    return float(math.sqrt((q - p) @ np.linalg.solve(covariance, q - p)))


def _association(first: np.ndarray, second: np.ndarray, is_code: tuple[bool, bool]) -> float:
    if is_code == (True, True):
        return cramers_v(first, second)
    if is_code == (False, False):
        return pearson(first, second)
    return correlation_ratio(first, second) if is_code[0] else correlation_ratio(second, first)


def _both_known(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = ~(np.isnan(first) | np.isnan(second))
    return first[known], second[known]


def _cross_table(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    rows, row = np.unique(first, return_inverse=True)
    columns, column = np.unique(second, return_inverse=True)
    counts = np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns))
    return counts.reshape(len(rows), len(columns)).astype(float)
