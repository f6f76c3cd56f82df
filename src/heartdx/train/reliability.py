"""What a bundle keeps so that an answer can say how sure it is and why, made from a training run.

Nothing is fitted again: the calibration range comes from the grouped out-of-fold probabilities
that the evaluation is made of, the population from the patients' own values.

References
----------
.. [1] Vovk V, Petej I, Fedorova V. Large-scale probabilistic predictors with and without
   guarantees of validity. NeurIPS 2015;28:892-900.
.. [2] Ledoit O, Wolf M. A well-conditioned estimator for large-dimensional covariance matrices.
   J Multivar Anal 2004;88:365-411.
.. [3] Vovk V. Cross-conformal predictors. Ann Math Artif Intell 2015;74:9-28.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.covariance import ledoit_wolf

from heartdx import equations
from heartdx.contract import ATTRIBUTES, BY_NAME, NAMES
from heartdx.evaluation.panels import PanelResult, Plan, Results
from heartdx.performance.intervals import wilson_interval
from heartdx.reliability import Calibration, Column, FalsePositives, Population, deviations
from heartdx.resampling import Patients, cross_validation_splits

STEPS = 500
"""A probability is taken to the nearest 1/500 before it is calibrated and looked up. The table is
then small whatever the number of patients, and a step is far narrower than any range."""
DECIMALS = 6
FAR_RATE = 0.01
"""How many patients like the training patients may be called far."""
FOLDS = 5
"""Of the distances' own cross-validation, whatever the protocol's. With two, a limit found from
half the patients is too far out."""
ABOUT = (
    "calibration: cross-Venn-Abers range by score, approximate; population: the panel's training "
    "patients; reference: their mean contribution to the log-odds, by attribute"
)
Folds = Sequence[tuple[np.ndarray, np.ndarray]]
"""Scores and outcomes of the patients of each calibrating fold."""


def documents(results: Results, plan: Plan) -> dict[str, bytes]:
    """``reliability.json`` of every trained panel."""
    return {
        name: (json.dumps(document(result, plan), separators=(",", ":")) + "\n").encode("utf-8")
        for name, result in results.panels.items()
    }


def document(result: PanelResult, plan: Plan) -> dict[str, Any]:
    """What one panel's answers can be judged by, as written into its bundle."""
    patients = result.patients
    calibration = cross_venn_abers(calibrating_folds(result, plan))
    served = result.chosen.pipeline.predict_proba(patients.X)[:, 1]
    low, high = calibration.ranges(served).T
    outside = float(np.mean((served < low) | (served > high)))
    used = equations.used_inputs(result.chosen)
    table = whole_table(patients)
    return {
        "about": ABOUT,
        "calibration": {
            "folds": plan.splits * plan.repeats,
            "patients": len(patients.y),
            "served_outside": round(outside, DECIMALS),
            **{name: list(getattr(calibration, name)) for name in ("breaks", "low", "high")},
            "point": list(calibration.point),
        },
        "population": population(table, patients.groups, used, seed=plan.seed).document(),
        "reference": reference(result.chosen, table),
    }


# -- calibration range -----------------------------------------------------------------------


def calibrating_folds(result: PanelResult, plan: Plan) -> Folds:
    """Out-of-fold scores and outcomes of every outer fold, of the candidate that was chosen."""
    splits = cross_validation_splits(
        result.patients, splits=plan.splits, repeats=plan.repeats, seed=plan.seed
    )
    y_prob = result.headline.y_prob
    return [(y_prob[s.test, int(s.key)], result.patients.y[s.test]) for s in splits]


def cross_venn_abers(folds: Folds) -> Calibration:
    """The table of steps of the folds' inductive Venn-Abers predictors, merged.

    Parameters
    ----------
    folds : of each fold, scores of shape (n,) by a model that saw none of its patients, and
        their outcomes, 0 or 1.

    References
    ----------
    .. [1] Vovk V, Petej I, Fedorova V. Large-scale probabilistic predictors with and without
       guarantees of validity. NeurIPS 2015;28:892-900.
    """
    pairs = np.array([venn_abers(scores, y) for scores, y in folds])
    p0, p1 = pairs[..., 0], pairs[..., 1]
    low, high = p0.mean(axis=0), p1.mean(axis=0)
    healthy, diseased = _geometric_mean(1 - p0), _geometric_mean(p1)
    point = diseased / (healthy + diseased)
    return _steps(np.column_stack([low, high, point]))


def venn_abers(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Inductive Venn-Abers probabilities of a new patient, for every score on the grid.

    Parameters
    ----------
    scores : shape (n,), of the calibrating patients; taken to the nearest 1/``STEPS``.
    y : shape (n,), 0 or 1.

    Returns
    -------
    array of shape (STEPS + 1, 2): p0 and p1 at 0, 1/``STEPS``, ..., 1.
    """
    grid = np.arange(STEPS + 1) / STEPS
    near = grid[np.floor(scores * STEPS + 0.5).astype(int)]
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        # The library silences NumPy for the whole process when it is imported: not outside here.
        from venn_abers.venn_abers import (  # type: ignore[import-untyped]
            calc_p0p1,
            calc_probs,
        )

        warnings.simplefilter("ignore", RuntimeWarning)  # 0/0 on its way, guarded there
        p0, p1, taken = calc_p0p1(np.column_stack([1 - near, near]), np.asarray(y, dtype=float))
        _, pair = calc_probs(p0, p1, taken, np.column_stack([1 - grid, grid]))
    found: np.ndarray = np.clip(pair, 0.0, 1.0)
    return found


def _geometric_mean(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        mean: np.ndarray = np.exp(np.log(p).mean(axis=0))
    return mean


def _steps(columns: np.ndarray) -> Calibration:
    """Equal neighbours of the grid as one step; a step begins half a grid width below its first."""
    rounded = np.maximum.accumulate(np.round(columns, DECIMALS) + 0.0, axis=0)
    first = np.flatnonzero(np.r_[True, (np.diff(rounded, axis=0) != 0).any(axis=1)])
    low, high, point = (tuple(column.tolist()) for column in rounded[first].T)
    breaks = tuple(np.round((first[1:] - 0.5) / STEPS, DECIMALS).tolist())
    return Calibration(breaks, low, high, point)


# -- population ------------------------------------------------------------------------------


def whole_table(patients: Patients) -> np.ndarray:
    """A panel's patients in contract order, NaN outside the panel: shape (n, 13)."""
    table = np.full((len(patients.y), len(NAMES)), np.nan)
    table[:, list(patients.panel.columns)] = patients.X
    return table


def population(
    X: np.ndarray, groups: np.ndarray, used: Sequence[str], *, seed: int, splits: int = FOLDS
) -> Population:
    """Who trained a panel, with a limit of the distance and how often it is passed.

    The limit is of distances to a population without the patient's own fold (no patient makes
    his own distance small). How often it calls a patient far who is like the others is then tried
    on patients left out of everything, this limit included.

    Parameters
    ----------
    X : shape (n, 13), training patients.
    groups : shape (n,), rows of the same record.
    used : attributes the panel looks at.
    seed : of the folds.
    splits : folds of both.

    References
    ----------
    .. [1] Vovk V. Cross-conformal predictors. Ann Math Artif Intell 2015;74:9-28.
    """
    whole = _limited(X, groups, used, splits=splits, seed=seed)
    called = 0
    for train, test in _grouped_folds(groups, splits=splits, seed=seed):
        part = _limited(X[train], groups[train], used, splits=splits, seed=seed + 1)
        called += int(part.far(X[test]).sum())
    rate = wilson_interval(called, len(X))
    measured, low, high = (round(n, DECIMALS) for n in (rate.value, rate.low, rate.high))
    tried = FalsePositives(FAR_RATE, measured, low, high, len(X))
    return replace(whole, false_positives=tried)


def _limited(
    X: np.ndarray, groups: np.ndarray, used: Sequence[str], *, splits: int, seed: int
) -> Population:
    """The population of these patients with its limit, not yet tried."""
    distances = np.empty(len(X))
    for train, test in _grouped_folds(groups, splits=splits, seed=seed):
        distances[test] = _described(X[train], used).distances(X[test])
    place = int(np.ceil((1 - FAR_RATE) * (len(X) + 1)))
    limit = np.sort(distances)[min(place, len(X)) - 1]
    return replace(_described(X, used), limit=round(float(limit), DECIMALS))


def _described(X: np.ndarray, used: Sequence[str]) -> Population:
    """Ranges, counts, means and covariance of these patients."""
    attributes = [attribute for attribute in ATTRIBUTES if attribute.name in used]
    known = {a.name: _known(X, a.name) for a in attributes}
    columns = [
        column for a in attributes for column in _columns(a.name, known[a.name], a.code_values)
    ]
    covariance, _ = ledoit_wolf(deviations(X, columns), assume_centered=True)
    factor = np.linalg.inv(np.linalg.cholesky(covariance))
    return Population(
        patients=len(X),
        numbers={
            a.name: (float(known[a.name].min()), float(known[a.name].max()))
            for a in attributes
            if a.kind == "number" and known[a.name].size
        },
        codes={
            a.name: {code: int((known[a.name] == code).sum()) for code in a.code_values}
            for a in attributes
            if a.kind == "code"
        },
        columns=tuple(columns),
        factor=tuple(
            tuple(round(float(weight), DECIMALS) + 0.0 for weight in row[: place + 1])
            for place, row in enumerate(factor)
        ),
        limit=np.inf,
        false_positives=FalsePositives(FAR_RATE, np.nan, np.nan, np.nan, 0),
    )


def _known(X: np.ndarray, name: str) -> np.ndarray:
    values = X[:, NAMES.index(name)]
    known: np.ndarray = values[~np.isnan(values)]
    return known


def _columns(name: str, known: np.ndarray, codes: Sequence[int]) -> Iterator[Column]:
    if BY_NAME[name].kind == "number":
        if known.size:
            spread = round(float(known.std()), DECIMALS) or 1.0
            yield Column(name, None, round(float(known.mean()), DECIMALS), spread)
        return
    for code in codes:
        share = float((known == code).mean()) if known.size else 0.0
        yield Column(name, code, round(share, DECIMALS), 1.0)


def _grouped_folds(
    groups: np.ndarray, *, splits: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row places (train, test) of folds drawn over groups."""
    found, of_row = np.unique(groups, return_inverse=True)
    number = np.random.default_rng(seed).permutation(len(found)) % splits
    for fold in range(splits):
        held_out = number[of_row] == fold
        yield np.flatnonzero(~held_out), np.flatnonzero(held_out)


# -- reasons ---------------------------------------------------------------------------------


def reference(model: equations.PanelModel, X: np.ndarray) -> dict[str, float] | None:
    """Mean contribution of each attribute to the training patients' log-odds; None for a forest.

    Parameters
    ----------
    X : shape (n, 13), the panel's training patients.
    """
    if model.model != "logreg":
        return None
    equation = equations.equation_of(model)
    means: dict[str, float] = {}
    for term in equation["terms"]:
        name = term["attribute"]
        values = X[:, NAMES.index(name)]
        values = np.where(np.isnan(values), equation["impute"].get(name, np.nan), values)
        mean = _mean_contribution(term, values) * equation["calibration"]["slope"]
        means[name] = means.get(name, 0.0) + mean
    return {name: means[name] for name in NAMES if name in means}


def _mean_contribution(term: Mapping[str, Any], values: np.ndarray) -> float:
    if "code" in term:
        return float(term["coefficient"] * np.mean(values == term["code"]))
    return float(term["coefficient"] * np.mean((values - term["center"]) / term["scale"]))
