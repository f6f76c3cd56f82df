"""Whether the model serves every group alike: by sex, by age, by hospital, by sex and age.

Prevalence differs between groups, and then so does sensitivity at one threshold even where the
model is equally right for all: where disease is common, the diseased have higher probabilities,
and more of them pass the threshold. Of two groups with different prevalence a model cannot give
both the same calibration and the same two error rates, unless it is never wrong [1]_ [2]_. Hence
calibration is compared beside sensitivity, and the one is not mended by a threshold for each group.

A group is compared with all other patients. Both parts are samples of their own, so their errors
add up; a hospital's others are several hospitals, and their AUC also rewards telling these apart.

References
----------
.. [1] Chouldechova A. Fair prediction with disparate impact: a study of bias in recidivism
   prediction instruments. Big Data 2017;5:153-163.
.. [2] Kleinberg J, Mullainathan S, Raghavan M. Inherent trade-offs in the fair determination of
   risk scores. ITCS 2017. doi:10.4230/LIPIcs.ITCS.2017.43
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from heartdx.contract import SITE_COLUMN
from heartdx.evaluation.values import fig, figs, number
from heartdx.performance import Interval, estimates, resampling_counts
from heartdx.performance.intervals import wilson
from heartdx.performance.weighted import RESAMPLES, ranking, recalibration

FEWEST_OF_AN_OUTCOME = 20
"""With fewer a sensitivity of one half has an interval of more than 0.4, so nothing is shown."""
SHOWN = (
    "auc",
    "calibration_in_the_large",
    "o_e",
    "sensitivity",
    "specificity",
    "net_benefit",
    "brier",
)
COMPARED = ("auc", "sensitivity", "calibration_in_the_large")
SEXES = {0.0: "women", 1.0: "men"}
AGES = {"under 50": (0, 50), "50 to 59": (50, 60), "60 and over": (60, math.inf)}
"""Band to its ages, the upper one excluded."""
NORMAL = NormalDist()
Z = NORMAL.inv_cdf(0.975)


@dataclass(frozen=True)
class Comparison:
    """One measure of a group minus that of all other patients.

    Parameters
    ----------
    difference : with its 95 % interval; NaN where the data cannot say.
    p_value : two-sided, of no difference; NaN likewise.
    """

    difference: Interval
    p_value: float


@dataclass(frozen=True)
class _Patients:
    """Outcomes y (n,), probabilities y_prob (n, repeats) and sites (n,)."""

    y: np.ndarray
    y_prob: np.ndarray
    sites: np.ndarray

    def take(self, rows: np.ndarray) -> _Patients:
        return _Patients(self.y[rows], self.y_prob[rows], self.sites[rows])


def section(
    frame: pd.DataFrame, y: np.ndarray, y_prob: np.ndarray, *, threshold: float, seed: int
) -> list[dict[str, Any]]:
    """Every group's measures, and how far they are from those of all other patients.

    Parameters
    ----------
    frame : n rows with the attributes and ``site``.
    y : shape (n,), 0 or 1.
    y_prob : shape (n,) or (n, repeats); a measure is the mean over the repeats.
    threshold : probability from which the answer is *disease*.
    seed : of the resampling.

    Returns
    -------
    ``policy.groups`` of the evaluation document: by sex, age, hospital (where there are two or
    more), sex and age. A group with fewer than 20 patients of an outcome has no numbers but
    ``patients`` and ``events``; ``reason`` says so. A group is compared where the others, too,
    have 20 of each outcome.

    Notes
    -----
    AUC and calibration in the large: normal interval and p value with the standard error of 500
    bootstrap samples of patients within hospitals, drawn apart for the group and the others [1]_.
    Sensitivity, where a group may have all its diseased found and a bootstrap then knows no error:
    Newcombe's interval [2]_ and the score test of two independent proportions. Adjusted p values
    are Holm's [3]_, over all comparisons of all groups; since women against men and men against
    women both count, they lean to caution.

    References
    ----------
    .. [1] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993.
    .. [2] Newcombe RG. Interval estimation for the difference between independent proportions:
       comparison of eleven methods. Stat Med 1998;17:873-890. (method 10)
    .. [3] Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat
       1979;6:65-70.
    """
    sites = frame[SITE_COLUMN].to_numpy(dtype=str)
    patients = _Patients(y, y_prob.reshape(len(y), -1), sites)
    found = [
        (*group, _comparisons(patients, group[2], threshold, seed)) for group in members(frame)
    ]
    adjusted = holm(np.array([c.p_value for *_, made in found for c in made.values()]))
    left = iter(adjusted)
    return [
        _entry(by, group, patients, rows, threshold, seed)
        | {
            "difference": {name: fig(c.difference) for name, c in made.items()},
            "p_value": {name: number(c.p_value) for name, c in made.items()},
            "p_adjusted": {name: number(next(left)) for name in made},
        }
        for by, group, rows, made in found
    ]


def members(frame: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    """What groups are made by, the group, and its rows as booleans of shape (n,).

    Examples
    --------
    >>> frame = pd.DataFrame({"age": [49.0, 60.0], "sex": [0.0, 1.0], "site": "va"})
    >>> [(group, rows.tolist()) for by, group, rows in members(frame) if by == "age"]
    [('under 50', [True, False]), ('50 to 59', [False, False]), ('60 and over', [False, True])]
    """
    sites = frame[SITE_COLUMN].to_numpy(dtype=str)
    sexes = {name: frame["sex"].to_numpy() == code for code, name in SEXES.items()}
    age = frame["age"].to_numpy(dtype=np.float64)
    ages = {name: (age >= low) & (age < high) for name, (low, high) in AGES.items()}
    yield from (("sex", name, rows) for name, rows in sexes.items())
    yield from (("age", name, rows) for name, rows in ages.items())
    if len(set(sites)) > 1:
        yield from (("site", str(site), sites == site) for site in np.unique(sites))
    for sex, of_sex in sexes.items():
        yield from (("sex × age", f"{sex} {a}", of_sex & of_age) for a, of_age in ages.items())


def too_few(y: np.ndarray) -> str | None:
    """Which outcome has fewer than 20 patients, in words; None where neither has.

    Examples
    --------
    >>> too_few(np.r_[np.ones(30), np.zeros(8)])
    '8 without disease, needed 20'
    >>> too_few(np.r_[np.ones(30), np.zeros(30)])
    """
    counts = {"with": int((y == 1).sum()), "without": int((y == 0).sum())}
    few = {word: count for word, count in counts.items() if count < FEWEST_OF_AN_OUTCOME}
    if not few:
        return None
    said = " and ".join(f"{count} {word}" for word, count in few.items())
    return f"{said} disease, needed {FEWEST_OF_AN_OUTCOME}{' of each' * (len(few) == 2)}"


def holm(p_values: np.ndarray) -> np.ndarray:
    """P values adjusted for their number by Holm's step-down procedure [1]_.

    Parameters
    ----------
    p_values : shape (m,); NaN is no comparison and stays NaN.

    References
    ----------
    .. [1] Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat
       1979;6:65-70.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).round(6).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: int((~np.isnan(p_values)).sum())]
    stepped = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepped))
    return adjusted


def sensitivity_difference(
    found: float, diseased: int, others_found: float, others: int
) -> Comparison:
    """Sensitivity of a group minus that of others, as two independent proportions.

    Parameters
    ----------
    found, diseased : of the group's diseased, those at or above the threshold, and all; the first
        may be a mean over repeats.
    others_found, others : the same for the others.

    References
    ----------
    .. [1] Newcombe RG. Interval estimation for the difference between independent proportions:
       comparison of eleven methods. Stat Med 1998;17:873-890. (method 10)

    Examples
    --------
    >>> print(sensitivity_difference(56, 70, 48, 80).difference)
    0.200 (0.052 to 0.334)
    """
    one, other = found / diseased, others_found / others
    (low, high), (others_low, others_high) = wilson(found, diseased), wilson(others_found, others)
    value = one - other
    both = (found + others_found) / (diseased + others)
    error = math.sqrt(both * (1 - both) * (1 / diseased + 1 / others))
    interval = Interval(
        value,
        value - math.hypot(one - low, others_high - other),
        value + math.hypot(high - one, other - others_low),
    )
    return Comparison(interval, 1.0 if error == 0 else _two_sided(value, error))


# -- one group -------------------------------------------------------------------------------


def _entry(
    by: str, group: str, patients: _Patients, rows: np.ndarray, threshold: float, seed: int
) -> dict[str, Any]:
    own = patients.take(rows)
    few, others_few = too_few(own.y), too_few(patients.y[~rows])
    reason = f"suppressed: {few}" if few else f"not compared: of the others {others_few}"
    return {
        "by": by,
        "group": group,
        "patients": len(own.y),
        "events": int(own.y.sum()),
        "shown": few is None,
        "reason": reason if few or others_few else None,
        "metrics": {} if few else _measures(own, threshold, seed),
    }


def _measures(own: _Patients, threshold: float, seed: int) -> dict[str, Any]:
    found = estimates(own.y, own.y_prob, threshold=threshold, sites=own.sites, seed=seed)
    return figs({name: found[name] for name in SHOWN})


def _comparisons(
    patients: _Patients, rows: np.ndarray, threshold: float, seed: int
) -> dict[str, Comparison]:
    own, others = patients.take(rows), patients.take(~rows)
    if too_few(own.y) or too_few(others.y):
        return {}
    drawn = _drawn(patients.sites, rows, seed)
    counts = [drawn[:, rows], drawn[:, ~rows]]
    made = {
        "auc": _resampled(_auc, (own, others), counts),
        "sensitivity": sensitivity_difference(*_found(own, threshold), *_found(others, threshold)),
        "calibration_in_the_large": _resampled(_in_the_large, (own, others), counts),
    }
    return {name: made[name] for name in COMPARED}


def _resampled(
    measure: Callable[[_Patients, np.ndarray], np.ndarray],
    parts: tuple[_Patients, _Patients],
    counts: Sequence[np.ndarray],
) -> Comparison:
    """Difference of a measure between independent samples, error by bootstrap."""
    one, other = (measure(part, c) for part, c in zip(parts, counts, strict=True))
    value = float(one[0] - other[0])
    errors = [float(np.nanstd(values[1:], ddof=1)) for values in (one, other)]
    if not min(errors) > 0:  # every resample alike (an AUC of 1): no error is known, not none
        return Comparison(Interval(value, math.nan, math.nan), math.nan)
    error = math.hypot(*errors)
    return Comparison(
        Interval(value, value - Z * error, value + Z * error), _two_sided(value, error)
    )


def _auc(part: _Patients, counts: np.ndarray) -> np.ndarray:
    return _mean(ranking(part.y, p, counts)["auc"] for p in part.y_prob.T)


def _in_the_large(part: _Patients, counts: np.ndarray) -> np.ndarray:
    return _mean(recalibration(part.y, p, counts)["in_the_large"] for p in part.y_prob.T)


def _found(part: _Patients, threshold: float) -> tuple[float, int]:
    """Diseased at or above the threshold, mean over the repeats, and all diseased."""
    diseased = part.y_prob[part.y == 1]
    return float((diseased >= threshold).mean(axis=1).sum()), len(diseased)


def _drawn(sites: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Group and others resampled apart, each keeping its size at every hospital.

    The sides are named by the first patient's, so that women against men are drawn as men against
    women and get the same p value.
    """
    sides = np.char.add(sites, np.where(rows == rows[0], "/first", "/other"))
    return np.vstack([np.ones(len(rows)), resampling_counts(sides, RESAMPLES, seed)])


def _mean(over_repeats: Iterator[np.ndarray]) -> np.ndarray:
    mean: np.ndarray = np.mean(list(over_repeats), axis=0)
    return mean


def _two_sided(value: float, error: float) -> float:
    return 2 * NORMAL.cdf(-abs(value) / error)
