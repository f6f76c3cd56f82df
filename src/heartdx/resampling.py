"""Repeated nested cross-validation, leave-one-hospital-out and bootstrap refits.

Tuning sees only the training rows of the split that it serves; exact duplicates share a fold.
Where at least three hospitals train, tuning itself leaves one hospital out after the other, each
weighing the same: what carries over to another hospital is chosen, not what fits this mixture.

References
----------
.. [1] Varma S, Simon R. Bias in error estimation when using cross-validation for model selection.
   BMC Bioinformatics 2006;7:91.
.. [2] Steyerberg EW, Harrell FE. Prediction models need appropriate internal, internal-external,
   and external validation. J Clin Epidemiol 2016;69:245-247.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from heartdx.contract import Panel
from heartdx.errors import ContractError
from heartdx.performance import countable_sites, log_losses
from heartdx.pipelines import INPUTS, Candidate, used_names

FEWEST_TO_TRAIN = 3
"""Patients of each outcome that a training part must hold, to be tuned and calibrated."""
FEWEST_HOSPITALS_TO_TUNE_BETWEEN = 3
"""With two, each would be judged by a model of the other alone."""
WITHIN, BETWEEN, EVERYTHING = "cross-validation", "leave-one-site-out", "all"
BOOTSTRAP = "bootstrap"


@dataclass(frozen=True)
class Patients:
    """The rows of one panel.

    Parameters
    ----------
    panel : the panel.
    X : shape (n, panel inputs), NaN where missing.
    y : shape (n,), 0 or 1.
    sites : shape (n,), hospital of each row.
    groups : shape (n,), rows with the same number are the same record and share a fold.
    """

    panel: Panel
    X: np.ndarray
    y: np.ndarray
    sites: np.ndarray
    groups: np.ndarray

    def take(self, rows: np.ndarray) -> Patients:
        """These rows only."""
        return Patients(self.panel, self.X[rows], self.y[rows], self.sites[rows], self.groups[rows])


@dataclass(frozen=True)
class Split:
    """One outer split: which rows train, which are scored, and its name.

    Parameters
    ----------
    protocol : ``cross-validation``, ``leave-one-site-out``, or ``all`` for the fit that is kept.
    key : repeat number, the held-out site, or empty.
    train, test : row places.
    seed : of everything random in this split.
    """

    protocol: str
    key: str
    train: np.ndarray
    test: np.ndarray
    seed: int


@dataclass(frozen=True)
class Tuning:
    """What the inner loop found.

    Parameters
    ----------
    parameters : the setting with the lowest mean log loss.
    losses : shape (n_train,), inner out-of-fold log loss of each training patient under it; NaN
        for patients of a hospital too small to be left out.
    strata : shape (n_train,); the strata weigh the same: hospitals where they were left out one
        by one, otherwise all patients are one stratum.
    """

    parameters: Mapping[str, Any]
    losses: np.ndarray
    strata: np.ndarray


@dataclass(frozen=True)
class OutOfSample:
    """Out-of-sample probabilities of one candidate on one split.

    Parameters
    ----------
    y_prob : shape (n_test,).
    pipeline : the fitted pipeline, of the split that holds nothing out only.
    """

    candidate: str
    panel: str
    split: Split
    y_prob: np.ndarray
    tuning: Tuning
    pipeline: Pipeline | None = None


def cross_validation_splits(
    patients: Patients, *, splits: int, repeats: int, seed: int
) -> list[Split]:
    """Outer splits, stratified by outcome and hospital.

    Raises
    ------
    ContractError
        Fewer patients of one outcome than folds.
    """
    found = []
    for repeat in range(repeats):
        pairs = folds(patients, splits=splits, seed=seed + repeat)
        for number, (train, test) in enumerate(pairs):
            split_seed = seed + 1000 * (repeat + 1) + number
            found.append(Split(WITHIN, str(repeat), train, test, split_seed))
    return found


def leave_one_site_out_splits(patients: Patients, *, seed: int) -> list[Split]:
    """One split for each countable hospital, all other rows training.

    None when there are fewer than two countable hospitals, or too few patients remain to train on:
    transfer cannot be estimated then.
    """
    sites = countable_sites(patients.y, patients.sites)
    found = []
    for number, site in enumerate(sites if len(sites) > 1 else ()):
        held_out = patients.sites == site
        train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        if fewest(patients.take(train)) >= FEWEST_TO_TRAIN:
            found.append(Split(BETWEEN, site, train, test, seed + 500 + number))
    return found


def fewest(patients: Patients) -> int:
    """Distinct records of the rarer outcome."""
    distinct = [len(np.unique(patients.groups[patients.y == outcome])) for outcome in (0, 1)]
    return min(distinct)


def trainable(patients: Patients, *, splits: int) -> bool:
    """Whether every training part of that many folds holds enough of both outcomes."""
    rarer = fewest(patients)
    largest_fold = -(-rarer // splits)
    return rarer >= splits and rarer - largest_fold >= FEWEST_TO_TRAIN


def everything(patients: Patients, *, seed: int) -> Split:
    """The split that trains on all rows and scores none."""
    return Split(EVERYTHING, "", np.arange(len(patients.y)), np.arange(0), seed)


def folds(patients: Patients, *, splits: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row places (train, test) of each fold; a group is never divided."""
    _, first, group = np.unique(patients.groups, return_index=True, return_inverse=True)
    strata = _strata(patients.y[first], patients.sites[first], splits)
    counts = np.bincount(patients.y[first].astype(int), minlength=2)
    if counts.min() < splits:
        raise ContractError(
            f"panel {patients.panel.name}: {counts.min()} patients of one outcome cannot fill "
            f"{splits} folds; use fewer --cv-splits or more data"
        )
    divider = StratifiedKFold(splits, shuffle=True, random_state=seed)
    of_group = np.empty(len(first), dtype=int)
    for number, (_, test) in enumerate(divider.split(first, strata)):
        of_group[test] = number
    of_row = of_group[group]
    return [
        (np.flatnonzero(of_row != number), np.flatnonzero(of_row == number))
        for number in range(splits)
    ]


def tuned(candidate: Candidate, patients: Patients, *, seed: int) -> Tuning:
    """The candidate's setting with the lowest mean log loss over inner folds.

    The inner folds are hospitals when at least three can be left out, each weighing the same.
    Otherwise they are drawn from the patients, and a setting that leaves inputs out is not tried:
    whether an input carries over cannot be judged inside one hospital.
    """
    inner, strata = _inner_folds(candidate, patients, seed=seed)
    between = len(np.unique(strata)) > 1
    grid = [s for s in candidate.grid if between or s.get(INPUTS, "all") == "all"]
    losses = np.full((len(grid), len(patients.y)), np.nan)
    for train, test in inner:
        for names in dict.fromkeys(used_names(patients.panel, setting) for setting in grid):
            preprocess = candidate.preprocess(patients.panel, names)
            fitted_on = preprocess.fit_transform(patients.X[train])
            scored_on = preprocess.transform(patients.X[test])
            weights = _weights(candidate, patients.sites[train])
            for place, setting in enumerate(grid):
                if used_names(patients.panel, setting) != names:
                    continue
                classifier = candidate.tuning_classifier(patients.panel, setting, seed=seed)
                classifier.fit(fitted_on, patients.y[train], sample_weight=weights)
                y_prob = classifier.predict_proba(scored_on)[:, 1]
                losses[place, test] = log_losses(patients.y[test], y_prob)
    scored = ~np.isnan(losses[0])
    means = [mean_of_means(row[scored], strata[scored]) for row in losses]
    best = int(np.argmin(means))
    return Tuning(grid[best], losses[best], strata)


def mean_of_means(values: np.ndarray, strata: np.ndarray) -> float:
    """Mean of each stratum's mean: the strata weigh the same, whatever their size."""
    return float(np.mean([values[strata == stratum].mean() for stratum in np.unique(strata)]))


def fitted(candidate: Candidate, patients: Patients, *, seed: int) -> tuple[Pipeline, Tuning]:
    """The candidate tuned and fitted on these patients, and its tuning."""
    tuning = tuned(candidate, patients, seed=seed)
    return fitted_with(candidate, patients, tuning.parameters, seed=seed), tuning


def fitted_with(
    candidate: Candidate, patients: Patients, parameters: Mapping[str, Any], *, seed: int
) -> Pipeline:
    """The candidate with these parameters, fitted on these patients."""
    pipeline = candidate.pipeline(patients.panel, parameters, seed=seed)
    weights = _weights(candidate, patients.sites)
    settings = {} if weights is None else {"classifier__sample_weight": weights}
    return pipeline.fit(patients.X, patients.y, **settings)


def _inner_folds(
    candidate: Candidate, patients: Patients, *, seed: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    sites = countable_sites(patients.y, patients.sites)
    pairs = [
        (np.flatnonzero(patients.sites != site), np.flatnonzero(patients.sites == site))
        for site in sites
    ]
    enough = all(fewest(patients.take(train)) >= FEWEST_TO_TRAIN for train, _ in pairs)
    if len(sites) >= FEWEST_HOSPITALS_TO_TUNE_BETWEEN and enough:
        return pairs, patients.sites
    splits = min(candidate.inner_splits, fewest(patients))
    return folds(patients, splits=splits, seed=seed), np.zeros(len(patients.y))


def _weights(candidate: Candidate, sites: np.ndarray) -> np.ndarray | None:
    """Weights with mean 1 under which each hospital counts the same; None where all count 1."""
    if not candidate.balanced:
        return None
    _, place, counts = np.unique(sites, return_inverse=True, return_counts=True)
    weights: np.ndarray = (len(sites) / len(counts) / counts)[place]
    return weights


def score_all(
    work: Sequence[tuple[Candidate, Patients, Split]],
    *,
    jobs: int,
    progress: Callable[[Iterator[OutOfSample], int], Iterator[OutOfSample]],
) -> list[OutOfSample]:
    """Every candidate on every split, in the order of ``work`` whatever ``jobs`` is."""
    costly_first = sorted(range(len(work)), key=lambda place: -work[place][0].complexity)
    tasks = (delayed(_scored)(place, *work[place]) for place in costly_first)
    runner = Parallel(n_jobs=jobs, return_as="generator_unordered")
    results: dict[int, OutOfSample] = {}

    def collected() -> Iterator[OutOfSample]:
        for place, scoring in runner(tasks):
            results[place] = scoring
            yield scoring

    for _ in progress(collected(), len(work)):
        pass
    return [results[place] for place in range(len(work))]


def _scored(
    place: int, candidate: Candidate, patients: Patients, split: Split
) -> tuple[int, OutOfSample]:
    with threadpool_limits(limits=1):
        pipeline, tuning = fitted(candidate, patients.take(split.train), seed=split.seed)
        y_prob = np.empty(0)
        if len(split.test):
            y_prob = pipeline.predict_proba(patients.X[split.test])[:, 1]
    kept = pipeline if split.protocol == EVERYTHING else None
    return place, OutOfSample(candidate.name, patients.panel.name, split, y_prob, tuning, kept)


def _strata(y: np.ndarray, sites: np.ndarray, splits: int) -> np.ndarray:
    """Outcome and hospital together; a hospital with too few joins the outcome's largest."""
    strata = np.array([f"{outcome:.0f} {site}" for outcome, site in zip(y, sites, strict=True)])
    for outcome in np.unique(y):
        rows = y == outcome
        names, counts = np.unique(strata[rows], return_counts=True)
        rare = names[counts < splits]
        strata[rows & np.isin(strata, rare)] = names[counts.argmax()]
    return strata
