"""The recalibration ladder in a new hospital: how many local patients make probabilities usable.

Local patients are drawn again and again from a hospital that trained nothing; each draw mends the
transferred probabilities step by step (nothing, intercept, intercept and slope, all anew), and the
hospital's other patients judge. The bar is the simplest thing a hospital can do with the same
patients: state their prevalence.

References
----------
.. [1] Steyerberg EW et al. Validation and updating of predictive logistic regression models: a
   study on sample size and shrinkage. Stat Med 2004;23:2567-2586.
.. [2] Vergouwe Y et al. A closed testing procedure to select an appropriate method for updating
   prediction models. Stat Med 2017;36:4529-4539.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from heartdx.errors import ContractError
from heartdx.evaluation.values import number, numbers
from heartdx.performance import log_losses
from heartdx.performance.updating import closed_test, local_prevalence, update_many

SIZES = (20, 30, 50, 100)
DRAWS = 200
FEWEST_TO_SCORE = 20
"""Fewer patients left over say nothing about a draw."""
FEWEST_OF_AN_OUTCOME = 20
"""With fewer of one outcome a hospital's ladder is reported and proves nothing (Switzerland: 8)."""
Refit = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(places of local patients, places of the others) to the others' probabilities, NaN if refused."""


def section(
    y: np.ndarray,
    y_prob: np.ndarray,
    *,
    seed: int,
    refit: Refit | None = None,
    sizes: Sequence[int] = SIZES,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """One hospital's ladder, as the evaluation document holds it.

    Parameters
    ----------
    y : shape (n,), 0 or 1, all patients of the hospital.
    y_prob : shape (n,), transferred probabilities.
    seed : of the draws.
    refit : a model fitted anew on the local patients; left out when None.
    sizes : numbers of local patients; those that leave fewer than 20 others are left out.
    draws : for each size, without replacement.

    Raises
    ------
    ContractError
        No size leaves enough patients to judge.
    """
    kept = [size for size in sizes if len(y) - size >= FEWEST_TO_SCORE]
    if not kept:
        raise ContractError(
            f"{len(y)} patients cannot give {min(sizes)} for recalibration and leave "
            f"{FEWEST_TO_SCORE} to judge it; use more patients"
        )
    generator = np.random.default_rng(seed)
    by_size = [_at_size(y, y_prob, size, generator, draws, refit) for size in kept]
    names = list(by_size[0].scores)
    advantage = [
        found.scores_of("closed_test") - found.scores_of("prevalence") for found in by_size
    ]
    rarer = int(min(y.sum(), len(y) - y.sum()))
    return {
        "patients": len(y),
        "events": int(y.sum()),
        "gated": rarer >= FEWEST_OF_AN_OUTCOME,
        "sizes": kept,
        "draws": draws,
        "steps": {
            name: {
                "brier": [_over_draws(found.scores[name][0]) for found in by_size],
                "log_loss": [_over_draws(found.scores[name][1]) for found in by_size],
            }
            for name in names
        },
        "advantage": [_over_draws(differences) for differences in advantage],
        "better_share": [number(np.nanmean(d < 0)) for d in advantage],
        "picked": {
            step: numbers(np.mean([p == step for p in found.picked]) for found in by_size)
            for step in ("none", "intercept", "intercept_slope")
        },
        "usable_from": _usable_from(kept, advantage) if rarer >= FEWEST_OF_AN_OUTCOME else None,
    }


class _AtSize:
    """Scores of every step at one number of local patients.

    Parameters
    ----------
    scores : step to (Brier, log loss), each of shape (draws,).
    picked : step that the closed test took, for each draw.
    """

    def __init__(self, draws: int, names: Sequence[str]) -> None:
        self.scores: dict[str, tuple[np.ndarray, np.ndarray]] = {
            name: (np.full(draws, np.nan), np.full(draws, np.nan)) for name in names
        }
        self.picked: list[str] = []

    def keep(self, name: str, draw: int, y: np.ndarray, y_prob: np.ndarray) -> None:
        if not np.isnan(y_prob).any():
            self.scores[name][0][draw] = ((y_prob - y) ** 2).mean()
            self.scores[name][1][draw] = log_losses(y, y_prob).mean()

    def scores_of(self, name: str) -> np.ndarray:
        return self.scores[name][0]


def _at_size(
    y: np.ndarray,
    y_prob: np.ndarray,
    size: int,
    generator: np.random.Generator,
    draws: int,
    refit: Refit | None,
) -> _AtSize:
    steps = ["none", "intercept", "intercept_slope", "closed_test", "prevalence"]
    found = _AtSize(draws, [*steps, "refit"] if refit else steps)
    places = np.array([generator.permutation(len(y)) for _ in range(draws)])
    local, others = places[:, :size], places[:, size:]
    updates = {
        step: update_many(y, y_prob, local, step=step)
        for step in ("none", "intercept", "intercept_slope")
    }
    for draw in range(draws):
        here, there = local[draw], others[draw]
        mended = {
            step: _recalibrated(y_prob[there], intercepts[draw], slopes[draw])
            for step, (intercepts, slopes) in updates.items()
        }
        picked = _picked(y[here], y_prob[here])
        found.picked.append(picked)
        mended["closed_test"] = mended[picked]
        mended["prevalence"] = np.full(len(there), local_prevalence(y[here]))
        if refit:
            mended["refit"] = refit(here, there)
        for step, probabilities in mended.items():
            found.keep(step, draw, y[there], probabilities)
    return found


def _picked(y: np.ndarray, y_prob: np.ndarray) -> str:
    """The closed test's step; a draw of one outcome cannot be tested and changes nothing."""
    if len(np.unique(y)) < 2 or len(np.unique(y_prob)) < 2:
        return "none"
    return closed_test(y, y_prob).step


def _recalibrated(y_prob: np.ndarray, intercept: float, slope: float) -> np.ndarray:
    p = np.clip(y_prob, 1e-12, 1 - 1e-12)
    mended: np.ndarray = 1 / (1 + np.exp(-(intercept + slope * np.log(p / (1 - p)))))
    return mended


def _over_draws(values: np.ndarray) -> dict[str, float | None]:
    """Mean over the draws that gave a number, and where 95 % of them lie."""
    usable = values[np.isfinite(values)]
    if not len(usable):
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(usable, [2.5, 97.5])
    return {"value": number(usable.mean()), "low": number(low), "high": number(high)}


def _usable_from(sizes: Sequence[int], advantage: Sequence[np.ndarray]) -> int | None:
    """The smallest size from which on the mended probabilities beat the prevalence on average."""
    found = None
    for size, differences in zip(reversed(sizes), reversed(advantage), strict=True):
        if not np.nanmean(differences) < 0:
            break
        found = size
    return found


def logistic_refit(table: np.ndarray, y: np.ndarray, pipelines: Mapping[str, Any]) -> Refit:
    """A refit of the panels on local patients only; the richest that can answers a patient.

    Parameters
    ----------
    table : shape (n, 13), all patients of the hospital.
    y : shape (n,).
    pipelines : panel name to an unfitted pipeline, the richest last.
    """
    from sklearn.base import clone

    from heartdx.contract import NAMES, PANEL_BY_NAME

    def refitted(here: np.ndarray, there: np.ndarray) -> np.ndarray:
        y_prob = np.full(len(there), np.nan)
        for name, pipeline in reversed(list(pipelines.items())):
            panel = PANEL_BY_NAME[name]
            known = ~np.isnan(table[:, [NAMES.index(n) for n in panel.required]]).any(axis=1)
            local, scored = here[known[here]], np.flatnonzero(known[there])
            waiting = np.isnan(y_prob[scored])
            if len(np.unique(y[local])) < 2 or not waiting.any():
                continue  # a fit costs the most here, and a richer panel has answered them all
            fitted = clone(pipeline).fit(table[np.ix_(local, panel.columns)], y[local])
            answers = fitted.predict_proba(table[np.ix_(there[scored], panel.columns)])[:, 1]
            y_prob[scored[waiting]] = answers[waiting]
        return y_prob

    return refitted
