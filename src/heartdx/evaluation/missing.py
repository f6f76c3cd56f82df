"""What missing inputs cost, and what to do about them, judged inside hospitals.

Which inputs are missing is decided by the hospital: the three imaging inputs are Cleveland's. A
model that fills them in or is told that they are missing may look better on all patients together
because it recognises hospitals, so strategies are compared in hospitals that trained nothing, one
by one. The rule for a further panel was declared before its result was seen.

References
----------
.. [1] van Buuren S. Flexible imputation of missing data, 2nd ed. Chapman & Hall/CRC, 2018.
.. [2] Sperrin M, Martin GP, Sisk R, Peek N. Missing data should be handled differently for
   prediction than for description or causal explanation. J Clin Epidemiol 2020;125:183-187.
.. [3] Hoogland J et al. Handling missing predictor values when validating and applying a
   prediction model to new patients. Stat Med 2020;39:3591-3607.
.. [4] Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993. (percentile
   interval)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from heartdx import checks
from heartdx.contract import BY_NAME, NAMES, PANEL_BY_NAME, PANELS, SITE_COLUMN, Panel
from heartdx.evaluation.choice import choose
from heartdx.evaluation.panels import Plan, Progress, panel_patients, panel_rows
from heartdx.evaluation.values import fig, number
from heartdx.performance import RESAMPLES, countable_sites, log_losses, resampling_counts
from heartdx.performance.intervals import percentile_interval
from heartdx.performance.weighted import losses, mean_within_auc
from heartdx.pipelines import BY_CANDIDATE, INPUTS, Candidate, feature_kind
from heartdx.resampling import (
    OutOfSample,
    Patients,
    Split,
    cross_validation_splits,
    leave_one_site_out_splits,
    score_all,
)

EXERCISE = PANEL_BY_NAME["exercise"]
ELSEWHERE = ("slope", "thal")
"""Imaging inputs that hospitals other than Cleveland recorded for some patients too."""
FURTHER = (*((name,) for name in ELSEWHERE), ELSEWHERE)
"""What is added to the exercise panel for each further panel tried."""
FAST = {"solver": "newton-cholesky"}
"""Finds the same optimum of the inner loop's many small fits sooner."""
COUNTS = ("ca",)
"""Codes that count something and may be taken as a number."""
PRESENT = "panels"
"""The strategy in use, against which the others are held."""


@dataclass(frozen=True)
class InputSet(Panel):
    """Any set of inputs in the place of a panel.

    Parameters
    ----------
    name, label : of the panel that it stands in for.
    names : the attributes, in contract order.
    """

    names: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The attributes, in contract order."""
        return self.names


@dataclass(frozen=True)
class Question:
    """What is a candidate worth on these patients, scored on these splits?"""

    candidate: Candidate
    patients: Patients
    splits: Sequence[Split]


Ask = Callable[[Sequence[Question]], list[np.ndarray]]
"""Questions to out-of-sample probabilities, shape (n,) each; NaN for a row no split scored."""


def in_silence(results: Iterator[OutOfSample], _total: int) -> Iterator[OutOfSample]:
    """Progress that nobody is told of."""
    return results


def section(
    data: checks.Loaded,
    *,
    policy: Mapping[str, np.ndarray],
    plan: Plan,
    panels: Mapping[str, Patients],
    progress: Progress = in_silence,
) -> dict[str, Any]:
    """The part of the evaluation document about missing inputs.

    Parameters
    ----------
    data : all patients.
    policy : held-out hospital to the probabilities of all its patients, in the order of the
        frame, each from the richest panel met and from models that never saw the hospital. Empty
        when transfer cannot be estimated; strategies and further panels are then empty too.
    plan : folds, seed and jobs; one repeat is made.
    panels : panel name to its patients, in the order of care.
    progress : told of every fit.

    References
    ----------
    .. [1] Sperrin M, Martin GP, Sisk R, Peek N. Missing data should be handled differently for
       prediction than for description or causal explanation. J Clin Epidemiol 2020;125:183-187.
    """
    ask = partial(out_of_sample, jobs=plan.jobs, progress=progress)
    return {
        "by_site": missing_by_site(data),
        "panel_worth": panel_worth(panels, plan=plan, ask=ask),
        "input_worth": input_worth(panels, plan=plan, ask=ask),
        "strategies": strategies(data, policy, panels=panels, plan=plan, ask=ask),
        "further_panels": further_panels(data, policy, plan=plan, ask=ask),
    }


def missing_by_site(data: checks.Loaded) -> dict[str, dict[str, dict[str, int]]]:
    """How many patients lack each attribute, by hospital."""
    return {
        str(site): {
            name: {"missing": int(rows[name].isna().sum()), "patients": len(rows)} for name in NAMES
        }
        for site, rows in data.frame.groupby(SITE_COLUMN, sort=True)
    }


def out_of_sample(
    questions: Sequence[Question], *, jobs: int = 1, progress: Progress = in_silence
) -> list[np.ndarray]:
    """Out-of-sample probabilities of each question's patients.

    Parameters
    ----------
    questions : candidates, patients and splits.
    jobs : processes; the result does not depend on it.
    progress : told of every fit.

    Returns
    -------
    shape (n,) for each question; NaN for a row no split scored.
    """
    work = [(q.candidate, q.patients, split) for q in questions for split in q.splits]
    scorings = iter(score_all(work, jobs=jobs, progress=progress))
    answered = []
    for question in questions:
        y_prob = np.full(len(question.patients.y), np.nan)
        for split in question.splits:
            y_prob[split.test] = next(scorings).y_prob
        answered.append(y_prob)
    return answered


# -- what panels and inputs are worth ------------------------------------------------------------


def panel_worth(panels: Mapping[str, Patients], *, plan: Plan, ask: Ask) -> list[dict[str, Any]]:
    """What each panel and every poorer one is worth on the same patients.

    Logistic regression, cross-validated by patient on the same folds. ``auc_within`` is the mean
    of the hospitals' own AUCs: the AUC over all of them together also rewards telling them apart.

    Parameters
    ----------
    panels : panel name to its patients, in the order of care.
    plan : folds and seed.
    ask : scores the fits.
    """
    pairs = [
        (richer, poorer)
        for place, richer in enumerate(panels)
        for poorer in list(panels)[: place + 1]
    ]
    questions = [
        _by_patient("logreg", _seen_as(panels[richer], panels[poorer].panel), plan)
        for richer, poorer in pairs
    ]
    return [
        {"patients_of": richer, "panel": poorer, **_worth(question.patients, y_prob, plan.seed)}
        for (richer, poorer), question, y_prob in zip(pairs, questions, ask(questions), strict=True)
    ]


def input_worth(panels: Mapping[str, Patients], *, plan: Plan, ask: Ask) -> list[dict[str, Any]]:
    """What is lost when a panel's model is fitted anew without one of its inputs.

    Logistic regression on all inputs, cross-validated by patient, with and without the input on
    the same folds; above 0 is a loss. A panel that a single hospital can fill is judged on that
    hospital's patients. The intervals are paired and of the patients only: they take the fits
    as they are.

    Parameters
    ----------
    panels : panel name to its patients.
    plan : folds and seed.
    ask : scores the fits.
    """
    worth = []
    for name, patients in panels.items():
        judged = _of_the_one_hospital(patients)
        dropped = judged.panel.inputs
        sets = [dropped, *(tuple(n for n in dropped if n != attribute) for attribute in dropped)]
        questions = [
            _by_patient("logreg_all", _seen_as(judged, _input_set(judged.panel, names)), plan)
            for names in sets
        ]
        whole, *without = ask(questions)
        worth += [
            {"panel": name, "attribute": attribute, **_lost(judged, whole, y_prob, plan.seed)}
            for attribute, y_prob in zip(dropped, without, strict=True)
        ]
    return worth


def _by_patient(candidate: str, patients: Patients, plan: Plan) -> Question:
    splits = cross_validation_splits(patients, splits=plan.splits, repeats=1, seed=plan.seed)
    return Question(replace(BY_CANDIDATE[candidate], tuning=FAST), patients, splits)


def _input_set(panel: Panel, names: Sequence[str]) -> InputSet:
    return InputSet(panel.name, panel.label, tuple(names))


def _seen_as(patients: Patients, panel: Panel) -> Patients:
    """The same patients with fewer inputs; outcome, hospitals and so the folds stay."""
    places = [patients.panel.inputs.index(name) for name in panel.inputs]
    return replace(patients, panel=panel, X=patients.X[:, places])


def _of_the_one_hospital(patients: Patients) -> Patients:
    countable = countable_sites(patients.y, patients.sites)
    if len(countable) != 1:
        return patients
    return patients.take(np.flatnonzero(patients.sites == countable[0]))


def _worth(patients: Patients, y_prob: np.ndarray, seed: int) -> dict[str, Any]:
    y, sites, counts = patients.y, patients.sites, _weights(patients.sites, seed)
    found = {
        "auc": _auc(y, y_prob, counts),
        "brier": losses(y, y_prob, counts)["brier"],
        "auc_within": mean_within_auc(y, y_prob, counts, sites),
    }
    return {name: fig(percentile_interval(values)) for name, values in found.items()}


def _lost(patients: Patients, whole: np.ndarray, without: np.ndarray, seed: int) -> dict[str, Any]:
    y, sites, counts = patients.y, patients.sites, _weights(patients.sites, seed)
    auc, within, log_loss = (
        [measure(y_prob) for y_prob in (whole, without)]
        for measure in (
            lambda p: _auc(y, p, counts),
            lambda p: mean_within_auc(y, p, counts, sites),
            lambda p: losses(y, p, counts)["log_loss"],
        )
    )
    found = {
        "auc_loss": auc[0] - auc[1],
        "log_loss_gain": log_loss[1] - log_loss[0],
        "auc_within_loss": within[0] - within[1],
    }
    return {name: fig(percentile_interval(values)) for name, values in found.items()}


def _weights(sites: np.ndarray, seed: int) -> np.ndarray:
    """The patients as they are, then resampled within hospitals; shape (1 + resamples, n)."""
    return np.vstack([np.ones(len(sites)), resampling_counts(sites, RESAMPLES, seed)])


def _auc(y: np.ndarray, y_prob: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUC over all these patients together; NaN with too few."""
    return mean_within_auc(y, y_prob, counts, np.full(len(y), "together"))


# -- strategies for missing inputs ---------------------------------------------------------------


def strategies(
    data: checks.Loaded,
    policy: Mapping[str, np.ndarray],
    *,
    panels: Mapping[str, Patients],
    plan: Plan,
    ask: Ask,
) -> list[dict[str, Any]]:
    """Ways to answer every patient in spite of missing inputs, in hospitals that trained nothing.

    Each is tuned by leaving out hospitals inside the training hospitals. ``difference`` is the
    mean over hospitals of the Brier score minus that of the panels in use, paired, patients
    resampled within hospitals; above 0 is worse.

    Parameters
    ----------
    data : all patients.
    policy : held-out hospital to the probabilities of the panels in use; nothing when empty.
    panels : panel name to its patients, in the order of care.
    plan : seed.
    ask : scores the fits.
    """
    if not policy:
        return []
    y, sites = _outcome_and_sites(data)
    found = {PRESENT: _placed(policy, sites), **_alternatives(data, panels, plan, ask)}
    rows = ~np.isnan(np.array(list(found.values()))).any(axis=0)
    if not rows.any():
        return []
    counts = _weights(sites[rows], plan.seed)
    present = found[PRESENT][rows]
    return [
        {
            "name": name,
            "label": LABELS[name],
            **_in_hospitals(y[rows], y_prob[rows], present, sites[rows], counts),
        }
        for name, y_prob in found.items()
    ]


LABELS: Mapping[str, str] = {
    PRESENT: "Panels: the richest whose inputs are known",
    "median": "All 13 inputs, missing ones by median or commonest code",
    "indicators": "All 13 inputs, imputed, and which ones are missing",
    "boosting": "All 13 inputs, missing ones left to monotone boosting",
    "exercise_median": "No imaging inputs, missing ones by median",
    "balanced": "Panels, hospitals weighing the same in the fit",
}


def _alternatives(
    data: checks.Loaded, panels: Mapping[str, Patients], plan: Plan, ask: Ask
) -> dict[str, np.ndarray]:
    """Name to out-of-hospital probabilities, shape (all patients,); NaN where not scored."""
    everyone = _everyone(data)
    without_imaging = _seen_as(everyone, _input_set(EXERCISE, EXERCISE.inputs))
    logistic = BY_CANDIDATE["logreg_all"]
    whole = {
        "median": (replace(logistic, preprocess=impute_all), everyone),
        "indicators": (replace(logistic, preprocess=impute_all_and_say_so), everyone),
        "boosting": (_on_all_inputs(BY_CANDIDATE["boosting"]), everyone),
        "exercise_median": (replace(logistic, preprocess=impute_all), without_imaging),
    }
    tasks = [*whole.values(), *((BY_CANDIDATE["logreg_balanced"], p) for p in panels.values())]
    answers = ask([_by_hospital(candidate, patients, plan) for candidate, patients in tasks])
    balanced = np.full(len(everyone.y), np.nan)
    for patients, y_prob in zip(panels.values(), answers[len(whole) :], strict=True):
        scored = ~np.isnan(y_prob)
        balanced[panel_rows(patients.panel, data)[scored]] = y_prob[scored]
    return {**dict(zip(whole, answers[: len(whole)], strict=True)), "balanced": balanced}


def _by_hospital(candidate: Candidate, patients: Patients, plan: Plan) -> Question:
    return Question(candidate, patients, leave_one_site_out_splits(patients, seed=plan.seed))


def _everyone(data: checks.Loaded) -> Patients:
    """All patients with all 13 attributes, whatever is missing."""
    y, sites = _outcome_and_sites(data)
    table = data.frame[list(NAMES)].to_numpy(dtype=np.float64)
    return Patients(_input_set(PANELS[-1], NAMES), table, y, sites, data.groups)


def _outcome_and_sites(data: checks.Loaded) -> tuple[np.ndarray, np.ndarray]:
    y = checks.outcome(data.frame).astype(np.float64)
    return y, data.frame[SITE_COLUMN].to_numpy(dtype=str)


def _placed(policy: Mapping[str, np.ndarray], sites: np.ndarray) -> np.ndarray:
    placed = np.full(len(sites), np.nan)
    for site, y_prob in policy.items():
        placed[sites == site] = y_prob
    return placed


def _on_all_inputs(candidate: Candidate) -> Candidate:
    return replace(candidate, grid=tuple(s for s in candidate.grid if s[INPUTS] == "all"))


def impute_all(panel: Panel, names: Sequence[str]) -> ColumnTransformer:
    """Impute every input, scale numbers and one-hot code codes.

    Unlike the panels' own preparation it fills in what the contract never lets be imputed, and
    takes the number of vessels as a number: one column a code would give each of them a handful
    of patients where Cleveland is held out, and this strategy less than its due.

    Parameters
    ----------
    panel : whose inputs are the columns.
    names : the inputs used.

    Examples
    --------
    >>> panel = InputSet("bedside", "", ("age", "chol"))
    >>> table = np.array([[40.0, np.nan], [60.0, 200.0]])
    >>> impute_all(panel, panel.inputs).fit_transform(table).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    return ColumnTransformer(_imputing_steps(panel, names), sparse_threshold=0.0)


def impute_all_and_say_so(panel: Panel, names: Sequence[str]) -> ColumnTransformer:
    """The same with one column an input that says whether it was missing.

    Parameters
    ----------
    panel : whose inputs are the columns.
    names : the inputs used.
    """
    # Scaled as the numbers are, so that the ridge penalty treats both alike.
    scaled = Pipeline([("say", MissingIndicator(features="all")), ("scale", StandardScaler())])
    said = ("missing", scaled, _places(panel, names))
    return ColumnTransformer([*_imputing_steps(panel, names), said], sparse_threshold=0.0)


def _imputing_steps(
    panel: Panel, names: Sequence[str]
) -> list[tuple[str, BaseEstimator, list[int]]]:
    kinds: dict[str, list[str]] = {}
    for name in names:
        kind = "number" if name in COUNTS else feature_kind(BY_NAME[name])
        kinds.setdefault(kind, []).append(name)
    return [(kind, _imputing(kind, own), _places(panel, own)) for kind, own in kinds.items()]


def _imputing(kind: str, names: Sequence[str]) -> BaseEstimator:
    if kind == "number":
        return Pipeline([("impute", _imputer("median")), ("scale", StandardScaler())])
    if kind == "binary":
        return _imputer("most_frequent")
    categories = [[float(value) for value in BY_NAME[name].code_values] for name in names]
    one_hot = OneHotEncoder(categories=categories, handle_unknown="ignore", sparse_output=False)
    return Pipeline([("impute", _imputer("most_frequent")), ("one_hot", one_hot)])


def _imputer(strategy: str) -> SimpleImputer:
    return SimpleImputer(strategy=strategy, keep_empty_features=True)


def _places(panel: Panel, names: Sequence[str]) -> list[int]:
    return [panel.inputs.index(name) for name in names]


def _in_hospitals(
    y: np.ndarray, y_prob: np.ndarray, present: np.ndarray, sites: np.ndarray, counts: np.ndarray
) -> dict[str, Any]:
    aucs, briers, differences = {}, {}, []
    for site in np.unique(sites):
        rows = sites == site
        own = counts[:, rows]
        aucs[str(site)] = _auc(y[rows], y_prob[rows], own)
        briers[str(site)] = losses(y[rows], y_prob[rows], own)["brier"]
        differences.append(briers[str(site)] - losses(y[rows], present[rows], own)["brier"])
    return {
        "held_out": {
            site: {
                "auc": fig(percentile_interval(aucs[site])),
                "brier": fig(percentile_interval(briers[site])),
            }
            for site in aucs
        },
        "mean_auc": number(np.mean([values[0] for values in aucs.values()])),
        "mean_brier": number(np.mean([values[0] for values in briers.values()])),
        "difference": fig(percentile_interval(np.mean(differences, axis=0))),
    }


# -- further panels ------------------------------------------------------------------------------


def further_panels(
    data: checks.Loaded, policy: Mapping[str, np.ndarray], *, plan: Plan, ask: Ask
) -> list[dict[str, Any]]:
    """Whether the exercise panel with one or two imaging inputs more deserves to be a panel.

    Judged on the patients whose answer it would change, by hospitals that trained nothing. The
    rule, declared before: kept only if the log loss, mean over hospitals, is lower than that of
    the panels in use by more than one paired standard error. ``difference`` is the log loss minus
    theirs, paired; below 0 is better.

    Parameters
    ----------
    data : all patients.
    policy : held-out hospital to the probabilities of the panels in use; nothing when empty.
    plan : seed.
    ask : scores the fits.
    """
    if not policy:
        return []
    sets = [_input_set(EXERCISE, _in_order((*EXERCISE.inputs, *more))) for more in FURTHER]
    tables = [panel_patients(inputs, data) for inputs in sets]
    answers = ask([_by_hospital(BY_CANDIDATE["logreg"], patients, plan) for patients in tables])
    present = _placed(policy, _outcome_and_sites(data)[1])
    return [
        {
            "name": " + ".join((EXERCISE.name, *more)),
            "inputs": list(patients.panel.inputs),
            "patients": len(patients.y),
            **_judged(patients, y_prob, present[panel_rows(patients.panel, data)], plan.seed),
        }
        for more, patients, y_prob in zip(FURTHER, tables, answers, strict=True)
    ]


def _in_order(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in NAMES if name in names)


def _judged(
    patients: Patients, y_prob: np.ndarray, present: np.ndarray, seed: int
) -> dict[str, Any]:
    rows = ~np.isnan(y_prob) & ~np.isnan(present)
    if not rows.any():
        reason = (
            f"Not kept: {len(patients.y)} patients have its inputs, too few in any two hospitals "
            "to judge it where it was not trained."
        )
        return {"kept": False, "reason": reason, "held_out": {}}
    kept, reason = verdict(patients.take(rows), y_prob[rows], present[rows])
    counts = _weights(patients.sites, seed)
    held_out = {}
    for site in np.unique(patients.sites[rows]):
        here = patients.sites == site
        own, y = counts[:, here], patients.y[here]
        scores = losses(y, y_prob[here], own)
        found = {
            "auc": _auc(y, y_prob[here], own),
            "brier": scores["brier"],
            "difference": scores["log_loss"] - losses(y, present[here], own)["log_loss"],
        }
        held_out[str(site)] = {name: fig(percentile_interval(v)) for name, v in found.items()}
    return {"kept": kept, "reason": reason, "held_out": held_out}


def verdict(patients: Patients, y_prob: np.ndarray, present: np.ndarray) -> tuple[bool, str]:
    """Whether a further panel is kept, by the rule of the choice between candidates [1]_.

    The panels in use are the simpler choice.

    Parameters
    ----------
    patients : whose answer it would change, in hospitals that trained nothing.
    y_prob, present : shape (n,), probabilities of the further panel and of the panels in use.

    References
    ----------
    .. [1] Breiman L, Friedman JH, Olshen RA, Stone CJ. Classification and regression trees.
       Wadsworth, 1984, section 3.4.3 (the one-standard-error rule).
    """
    use, further = (
        replace(BY_CANDIDATE["logreg"], name=name, complexity=rank)
        for rank, name in enumerate((PRESENT, "further"))
    )
    by_name = {PRESENT: log_losses(patients.y, present), "further": log_losses(patients.y, y_prob)}
    choice = choose(by_name, patients.sites, candidates=(use, further), measured="")
    kept = choice.candidate == further.name
    difference = choice.losses[further.name] - choice.losses[PRESENT]
    sites = np.unique(patients.sites)
    return kept, (
        f"{'Kept' if kept else 'Not kept'}: log loss {choice.losses[further.name]:.4f} against "
        f"{choice.losses[PRESENT]:.4f} of the panels in use on the same {len(patients.y)} "
        f"patients, mean over {len(sites)} held-out hospitals (paired difference "
        f"{difference:+.4f}, standard error {choice.standard_error:.4f}); kept only when lower by "
        "more than one standard error."
    )
