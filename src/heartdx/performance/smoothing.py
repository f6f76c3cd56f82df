"""Cleveland's lowess for many weightings of the same patients at once.

With every weight 1 it is R's ``lowess(x, y, f = 2/3, iter = 0)``: local lines with tricube
weights, fitted at anchors at least a hundredth of the range apart and joined by straight lines.
Other weights multiply the tricube weights; anchors and bandwidths stay those of the patients at
hand, which is what makes a thousand smooths five matrix products.

References
----------
.. [1] Cleveland WS. Robust locally weighted regression and smoothing scatterplots. J Am Stat Assoc
   1979;74:829-836.
.. [2] Cleveland WS. LOWESS: a program for smoothing scatterplots by robust locally weighted
   regression. Am Stat 1981;35:54.
"""

from __future__ import annotations

import numpy as np

SPAN = 2 / 3
SKIPPED = 0.01
"""Share of the range inside which a fit is interpolated, R's default."""
INNER, OUTER = 0.001, 0.999
"""Shares of the bandwidth: nearer weighs 1, farther 0, as in Cleveland's program."""
FLAT = 0.001
"""Share of the range: where the spread of a neighbourhood is below it, its mean, not its line."""


def lowess(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray, *, at: np.ndarray | None = None
) -> np.ndarray:
    """The smooth of ``y`` over ``x`` for every row of weights.

    Parameters
    ----------
    x, y : shape (n,).
    counts : shape (resamples, n), how often each patient counts.
    at : shape (points,), where the smooth is wanted, by default at each ``x``; outside the range
        of ``x`` it is the value at its end.

    Returns
    -------
    shape (resamples, points); NaN where no patient of a neighbourhood counts.

    References
    ----------
    .. [1] Cleveland WS. Robust locally weighted regression and smoothing scatterplots. J Am Stat
       Assoc 1979;74:829-836.

    Examples
    --------
    >>> x = np.linspace(0, 1, 9)
    >>> lowess(x, 2 * x, np.ones((1, 9)), at=np.array([0.5])).round(6)
    array([[1.]])
    """
    anchors = _anchors(np.sort(x))
    fitted = _local_lines(x, y, counts, anchors)
    return _interpolated(fitted, anchors, x if at is None else at)


def _anchors(ordered: np.ndarray) -> np.ndarray:
    """Where lines are fitted: each the farthest value within reach of the one before."""
    reach = SKIPPED * (ordered[-1] - ordered[0])
    values = np.unique(ordered)
    anchors, last = [values[0]], 0
    while last < len(values) - 1:
        within = int(np.searchsorted(values, values[last] + reach, side="right")) - 1
        last = max(last + 1, within)
        anchors.append(values[last])
    return np.array(anchors)


def _local_lines(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray, anchors: np.ndarray
) -> np.ndarray:
    """Value at each anchor of the line fitted around it; shape (resamples, anchors)."""
    kernel = _tricube(np.abs(x[:, None] - anchors), _bandwidths(np.sort(x), anchors))
    # Centred at each anchor, so that the line's value there is its intercept.
    centred = kernel * (x[:, None] - anchors)
    total = counts @ kernel
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x = counts @ centred / total
        mean_y = (counts * y) @ kernel / total
        spread = counts @ (centred * (x[:, None] - anchors)) / total - mean_x**2
        shared = (counts * y) @ centred / total - mean_x * mean_y
        sloped = np.sqrt(np.maximum(spread, 0)) > FLAT * np.ptp(x)
        slope = np.divide(shared, spread, out=np.zeros_like(shared), where=sloped)
    fitted: np.ndarray = mean_y - slope * mean_x
    return fitted


def _bandwidths(ordered: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Distance from each anchor to the farthest of its nearest patients, a share SPAN of all."""
    n = len(ordered)
    near = min(n, max(2, int(SPAN * n + 1e-7)))
    # Sums of the patient before and the one after a window grow with its place, so the nearest
    # window is the first whose left end is not farther than the patient after its right end.
    sums = ordered[: n - near] + ordered[near:]
    left = np.searchsorted(sums, 2 * anchors, side="left")
    widths: np.ndarray = np.maximum(anchors - ordered[left], ordered[left + near - 1] - anchors)
    return widths


def _tricube(distances: np.ndarray, widths: np.ndarray) -> np.ndarray:
    share = np.divide(distances, widths, out=np.zeros_like(distances), where=widths > 0)
    weights = np.where(distances <= INNER * widths, 1.0, (1 - np.minimum(share, 1) ** 3) ** 3)
    return np.where(distances <= OUTER * widths, weights, 0.0)


def _interpolated(fitted: np.ndarray, anchors: np.ndarray, at: np.ndarray) -> np.ndarray:
    if len(anchors) == 1:
        return np.repeat(fitted, len(at), axis=1)
    at = np.clip(at, anchors[0], anchors[-1])
    left = np.clip(np.searchsorted(anchors, at, side="right") - 1, 0, len(anchors) - 2)
    share = (at - anchors[left]) / (anchors[left + 1] - anchors[left])
    smooth: np.ndarray = fitted[:, left] * (1 - share) + fitted[:, left + 1] * share
    return smooth
