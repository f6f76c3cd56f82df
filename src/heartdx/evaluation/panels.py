"""What each candidate is worth on each panel, which is chosen, and the fits on all rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from heartdx import checks, equations, logs, performance
from heartdx.contract import NAMES, PANELS, SITE_COLUMN, Panel
from heartdx.errors import ContractError
from heartdx.evaluation.choice import Choice, choose
from heartdx.performance import Interval, countable_sites, mean_log_losses
from heartdx.pipelines import CANDIDATES, COMPARATORS, Candidate
from heartdx.resampling import (
    BETWEEN,
    EVERYTHING,
    WITHIN,
    OutOfSample,
    Patients,
    Split,
    cross_validation_splits,
    everything,
    leave_one_site_out_splits,
    score_all,
    trainable,
)

LOG = logs.get("train")
ELIGIBLE = tuple(candidate for candidate in CANDIDATES if candidate.role == "eligible")
BASELINES = tuple(candidate for candidate in CANDIDATES if candidate.role == "baseline")
PROCEDURE = "procedure"
"""Tuning and a choice made again inside every training fold, by the inner losses."""
AVERAGE = "average"
"""The mean of the log-odds of the eligible candidates, each tuned on its own."""
LABELS: Mapping[str, str] = {
    **{candidate.name: candidate.label for candidate in (*CANDIDATES, *COMPARATORS)},
    AVERAGE: "Logistic regression and forest averaged",
    PROCEDURE: "Choice inside each fold",
}
ROLES: Mapping[str, str] = {
    **{candidate.name: candidate.role for candidate in (*CANDIDATES, *COMPARATORS)},
    AVERAGE: "comparator",
    PROCEDURE: "procedure",
}
Progress = Callable[[Iterator[Any], int], Iterator[Any]]
"""(results as they come, how many) to the same results, telling on the way."""


@dataclass(frozen=True)
class Plan:
    """What a training run is asked to do.

    Parameters
    ----------
    splits, repeats : of the outer cross-validation.
    seed : of everything random.
    jobs : processes; the result does not depend on it.
    harm_ratio : harm of a missed patient over harm of a false alarm; sets the threshold.
    comparators : whether candidates that can never be served are evaluated beside the others.
    """

    splits: int = 5
    repeats: int = 2
    seed: int = 2024
    jobs: int = 1
    harm_ratio: float = 1.0
    comparators: bool = False

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Whom this run fits."""
        return (*CANDIDATES, *COMPARATORS) if self.comparators else CANDIDATES

    @property
    def threshold(self) -> float:
        """Probability from which the answer is *disease*."""
        return performance.threshold_from(self.harm_ratio)


@dataclass(frozen=True)
class Evaluation:
    """What one candidate was worth on one panel.

    Parameters
    ----------
    y_prob : shape (n, repeats), cross-validated probabilities.
    between : shape (n,), probabilities from models that never saw the patient's hospital; NaN
        where the hospital could not be held out.
    metrics : name to interval, cross-validated.
    within_site_auc : AUC inside each hospital, cross-validated, mean over repeats.
    by_site : held-out hospital to its metrics, from models that never saw the hospital.
    tuned_without : held-out hospital to the parameters tuned without it.
    """

    y_prob: np.ndarray
    between: np.ndarray
    metrics: Mapping[str, Interval]
    within_site_auc: Mapping[str, float]
    by_site: Mapping[str, Mapping[str, Interval]]
    tuned_without: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PanelResult:
    """Everything one panel's training found."""

    patients: Patients
    evaluations: Mapping[str, Evaluation]
    choice: Choice
    fits: Mapping[str, equations.PanelModel]

    @property
    def headline(self) -> Evaluation:
        """What the chosen candidate was worth out of sample."""
        return self.evaluations[self.choice.candidate]

    @property
    def chosen(self) -> equations.PanelModel:
        """The fitted model that goes into the bundle."""
        return self.fits[self.choice.candidate]


@dataclass(frozen=True)
class Results:
    """What a run found.

    Parameters
    ----------
    panels : panel name to its result, in the order of care.
    skipped : panel name to the reason why these data cannot train it.
    """

    panels: Mapping[str, PanelResult]
    skipped: Mapping[str, str]


def evaluate_and_fit(data: checks.Loaded, plan: Plan, *, progress: Progress) -> Results:
    """Score every candidate on every panel out of sample, choose, and fit on all rows.

    Raises
    ------
    ContractError
        The data cannot train the first panel, which every patient can fall back to.
    """
    tables, skipped = _tables(data, plan)
    scorings = score_all(_work(tables, plan), jobs=plan.jobs, progress=progress)
    found = {name: _by_candidate([s for s in scorings if s.panel == name], plan) for name in tables}
    pairs = [(panel, name) for panel in tables for name in found[panel]]
    evaluated = Parallel(n_jobs=plan.jobs)(
        delayed(_evaluation)(tables[panel], found[panel][name], plan) for panel, name in pairs
    )
    evaluations = dict(zip(pairs, evaluated, strict=True))
    panels = {
        panel: _panel_result(
            patients,
            found[panel],
            {name: evaluations[panel, name] for name in found[panel]},
        )
        for panel, patients in tables.items()
    }
    return Results(panels, skipped)


def panel_rows(panel: Panel, data: checks.Loaded) -> np.ndarray:
    """Places in the frame of the patients who meet a panel's rule."""
    return np.flatnonzero(data.frame[list(panel.required)].notna().all(axis=1).to_numpy())


def panel_patients(panel: Panel, data: checks.Loaded) -> Patients:
    """The rows that meet a panel's rule."""
    table = data.frame[list(NAMES)].to_numpy(dtype=np.float64)
    rows = panel_rows(panel, data)
    y = checks.outcome(data.frame)[rows].astype(np.float64)
    sites = data.frame[SITE_COLUMN].to_numpy(dtype=str)[rows]
    return Patients(panel, table[np.ix_(rows, panel.columns)], y, sites, data.groups[rows])


# -- one panel -------------------------------------------------------------------------------


def _tables(data: checks.Loaded, plan: Plan) -> tuple[dict[str, Patients], dict[str, str]]:
    tables: dict[str, Patients] = {}
    skipped: dict[str, str] = {}
    for panel in PANELS:
        patients = panel_patients(panel, data)
        if trainable(patients, splits=plan.splits):
            tables[panel.name] = patients
            continue
        counts = [int((patients.y == outcome).sum()) for outcome in (0, 1)]
        reason = (
            f"{len(patients.y)} patients have every input of the panel {panel.name}, {counts[0]} "
            f"without and {counts[1]} with disease: too few of one outcome for {plan.splits} folds"
        )
        if panel is PANELS[0]:
            raise ContractError(
                f"{data.name}: {reason}; use fewer --cv-splits, more patients or other hospitals"
            )
        skipped[panel.name] = reason
        logs.event(LOG, "panel skipped", level=logging.WARNING, panel=panel.name, reason=reason)
    return tables, skipped


def _work(tables: Mapping[str, Patients], plan: Plan) -> list[tuple[Candidate, Patients, Split]]:
    work = []
    for patients in tables.values():
        for split in _splits(patients, plan):
            work += [(candidate, patients, split) for candidate in plan.candidates]
        kept = everything(patients, seed=plan.seed)
        work += [(candidate, patients, kept) for candidate in ELIGIBLE]
    return work


def _splits(patients: Patients, plan: Plan) -> list[Split]:
    within = cross_validation_splits(
        patients, splits=plan.splits, repeats=plan.repeats, seed=plan.seed
    )
    return within + leave_one_site_out_splits(patients, seed=plan.seed)


def _by_candidate(scorings: list[OutOfSample], plan: Plan) -> dict[str, list[OutOfSample]]:
    found = {c.name: [s for s in scorings if s.candidate == c.name] for c in plan.candidates}
    if plan.comparators:
        found[AVERAGE] = _average(found)
    return {**found, PROCEDURE: _procedure(found)}


def _average(found: Mapping[str, list[OutOfSample]]) -> list[OutOfSample]:
    averaged = []
    for same_split in zip(*(found[c.name] for c in ELIGIBLE), strict=True):
        clipped = [np.clip(s.y_prob, 1e-12, 1 - 1e-12) for s in same_split]
        mean = np.mean([np.log(p / (1 - p)) for p in clipped], axis=0)
        averaged.append(replace(same_split[0], candidate=AVERAGE, y_prob=1 / (1 + np.exp(-mean))))
    return averaged


def _panel_result(
    patients: Patients,
    found: Mapping[str, list[OutOfSample]],
    evaluations: Mapping[str, Evaluation],
) -> PanelResult:
    choice = _choice(patients, found)
    logs.event(LOG, "panel evaluated", panel=patients.panel.name, reason=choice.reason)
    fits = {
        c.name: _model(c, patients, found[c.name], evaluations[c.name], choice) for c in ELIGIBLE
    }
    return PanelResult(patients, evaluations, choice, fits)


def _procedure(found: Mapping[str, list[OutOfSample]]) -> list[OutOfSample]:
    """On each split the candidate that the rule picks from the inner losses of that split."""
    chosen = []
    for same_split in zip(*(found[c.name] for c in ELIGIBLE), strict=True):
        strata = same_split[0].tuning.strata
        scored = ~np.isnan(same_split[0].tuning.losses)
        losses = {s.candidate: s.tuning.losses[scored] for s in same_split}
        picked = choose(losses, strata[scored], candidates=ELIGIBLE, measured="inner folds")
        chosen += [s for s in same_split if s.candidate == picked.candidate]
    return chosen


def _choice(patients: Patients, by_candidate: Mapping[str, list[OutOfSample]]) -> Choice:
    """By held-out hospitals where there are any, else within the one hospital there is."""
    protocol = BETWEEN
    measured = "mean over held-out hospitals, none of which trained the model that scored it"
    if not any(s.split.protocol == protocol for s in by_candidate[ELIGIBLE[0].name]):
        protocol = WITHIN
        countable = " and ".join(countable_sites(patients.y, patients.sites)) or "all rows"
        measured = f"cross-validation within {countable}; transfer is not estimable from these data"
    losses: dict[str, np.ndarray] = {}
    for candidate in ELIGIBLE:
        y_prob = _assembled(patients, by_candidate[candidate.name], protocol)
        losses[candidate.name] = mean_log_losses(patients.y, y_prob)
    rows = ~np.isnan(losses[ELIGIBLE[0].name])
    if countable_sites(patients.y, patients.sites):
        rows &= np.isin(patients.sites, countable_sites(patients.y, patients.sites))
    kept = {name: values[rows] for name, values in losses.items()}
    return choose(kept, patients.sites[rows], candidates=ELIGIBLE, measured=measured)


def _assembled(patients: Patients, scorings: list[OutOfSample], protocol: str) -> np.ndarray:
    """Out-of-sample probabilities, shape (n, repeats); NaN for a row no split scored."""
    of_protocol = [s for s in scorings if s.split.protocol == protocol]
    if protocol == BETWEEN:
        y_prob = np.full((len(patients.y), 1), np.nan)
        for scoring in of_protocol:
            y_prob[scoring.split.test, 0] = scoring.y_prob
        return y_prob
    keys = sorted({s.split.key for s in of_protocol})
    y_prob = np.full((len(patients.y), len(keys)), np.nan)
    for scoring in of_protocol:
        y_prob[scoring.split.test, keys.index(scoring.split.key)] = scoring.y_prob
    return y_prob


def _evaluation(patients: Patients, scorings: list[OutOfSample], plan: Plan) -> Evaluation:
    y_prob = _assembled(patients, scorings, WITHIN)
    settings: dict[str, Any] = {"threshold": plan.threshold, "seed": plan.seed}
    metrics = performance.estimates(patients.y, y_prob, sites=patients.sites, **settings)
    within = [performance.within_site_auc(patients.y, p, patients.sites) for p in y_prob.T]
    by_site = {
        s.split.key: performance.estimates(
            patients.y[s.split.test], s.y_prob, sites=patients.sites[s.split.test], **settings
        )
        for s in scorings
        if s.split.protocol == BETWEEN
    }
    mean_within = {site: float(np.mean([w[site] for w in within])) for site in within[0]}
    between = _assembled(patients, scorings, BETWEEN)[:, 0]
    tuned_without = {
        s.split.key: s.tuning.parameters for s in scorings if s.split.protocol == BETWEEN
    }
    return Evaluation(y_prob, between, metrics, mean_within, by_site, tuned_without)


def _model(
    candidate: Candidate,
    patients: Patients,
    scorings: list[OutOfSample],
    headline: Evaluation,
    choice: Choice,
) -> equations.PanelModel:
    (kept,) = [s for s in scorings if s.split.protocol == EVERYTHING]
    assert kept.pipeline is not None
    facts = {
        "label": candidate.label,
        "parameters": dict(kept.tuning.parameters),
        "patients": len(patients.y),
        "diseased": int(patients.y.sum()),
        "reason": choice.reason,
        "metrics": intervals(headline.metrics),
        "held_out_hospitals": {s: intervals(m) for s, m in headline.by_site.items()},
    }
    return equations.PanelModel(patients.panel, candidate.name, kept.pipeline, facts)


def intervals(metrics: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    """Metrics as JSON values; NaN becomes null."""
    return {
        name: {
            key: None if np.isnan(number) else round(number, 6)
            for key, number in (("value", i.value), ("low", i.low), ("high", i.high))
        }
        for name, i in metrics.items()
    }
