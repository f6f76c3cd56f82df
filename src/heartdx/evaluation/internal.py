"""Internal validation by bootstrap: optimism, instability, and whether there were patients enough.

The whole way to the model is gone again in every bootstrap sample, tuning included; a patient
drawn twice is one group and never on both sides of an inner fold.

References
----------
.. [1] Harrell FE, Lee KL, Mark DB. Multivariable prognostic models. Stat Med 1996;15:361-387.
.. [2] Riley RD, Collins GS. Stability of clinical prediction models developed using statistical or
   machine learning methods. Biom J 2023;65:2200302.
.. [3] Riley RD et al. Calculating the sample size required for developing a clinical prediction
   model. BMJ 2020;368:m441.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from heartdx import equations
from heartdx.evaluation.values import number, numbers
from heartdx.performance import weighted_metrics
from heartdx.performance.sample_size import events_per_parameter, minimum_sample, r2_from_auc
from heartdx.performance.stability import classification_instability, instability, optimism
from heartdx.pipelines import Candidate
from heartdx.resampling import Patients, fewest, fitted

STATISTICS = ("auc", "brier", "log_loss", "calibration_slope", "calibration_in_the_large")
SHRINKAGE = 0.9


@dataclass(frozen=True)
class Bootstrap:
    """One bootstrap model.

    Parameters
    ----------
    y_prob : shape (n,), its probabilities for the original patients.
    on_sample, on_original : statistic name to value, on its own sample and on the original.
    """

    y_prob: np.ndarray
    on_sample: Mapping[str, float]
    on_original: Mapping[str, float]


def bootstraps(
    candidate: Candidate,
    patients: Patients,
    *,
    models: int,
    seed: int,
    jobs: int,
    progress: Callable[[Iterator[Bootstrap], int], Iterator[Bootstrap]],
) -> list[Bootstrap]:
    """The candidate tuned and fitted on bootstrap samples drawn within hospitals."""
    generator = np.random.default_rng(seed)
    samples = [_drawn(patients, generator) for _ in range(models)]
    runner = Parallel(n_jobs=jobs, return_as="generator")
    results = runner(
        delayed(_bootstrap)(candidate, patients, sample, seed + number)
        for number, sample in enumerate(samples)
    )
    return list(progress(results, models))


def stability(
    pipeline: Any, patients: Patients, models: list[Bootstrap], *, threshold: float
) -> dict[str, Any]:
    """Optimism of the statistics and instability of the probabilities, for the document.

    Parameters
    ----------
    pipeline : the fitted model that all patients trained.
    patients : those patients.
    models : bootstrap models of the same procedure.
    threshold : of the decision.
    """
    y_prob = pipeline.predict_proba(patients.X)[:, 1]
    apparent = _statistics(patients.y, y_prob)
    table = np.array([model.y_prob for model in models])
    shaken = instability(y_prob, table)
    changed = classification_instability(y_prob, table, threshold=threshold)
    order = np.argsort(y_prob, kind="stable")
    return {
        "bootstraps": len(models),
        "optimism": {name: _optimism(name, apparent[name], models) for name in STATISTICS},
        "instability": {
            "mape": number(shaken.mean),
            "mape_max": number(shaken.largest),
            "changed_decisions": number(changed.mean()),
            "p": numbers(y_prob[order]),
            "low": numbers(shaken.low[order]),
            "high": numbers(shaken.high[order]),
        },
    }


def sample_size(model: equations.PanelModel, patients: Patients, auc: float) -> dict[str, Any]:
    """Riley's minimum sample size for the parameters that were estimated.

    Parameters
    ----------
    model : the fitted logistic regression; a forest has no number of parameters to count.
    patients : who trained it.
    auc : cross-validated, from which the expected R^2 follows.
    """
    parameters = len(equations.features_of(model)[0])
    prevalence = float(patients.y.mean())
    r2 = r2_from_auc(auc, prevalence)
    needed = minimum_sample(
        parameters=parameters, prevalence=prevalence, r2_cox_snell=r2, shrinkage=SHRINKAGE
    )
    return {
        "parameters": parameters,
        "events_per_parameter": number(events_per_parameter(fewest(patients), parameters)),
        "r2_cox_snell": number(r2),
        "needed": needed.n,
        "criteria": {
            "shrinkage": needed.shrinkage,
            "optimism": needed.optimism,
            "overall_risk": needed.overall_risk,
        },
        "enough": len(patients.y) >= needed.n,
    }


def _drawn(patients: Patients, generator: np.random.Generator) -> np.ndarray:
    rows = [np.flatnonzero(patients.sites == site) for site in np.unique(patients.sites)]
    return np.concatenate([generator.choice(each, len(each)) for each in rows])


def _bootstrap(candidate: Candidate, patients: Patients, rows: np.ndarray, seed: int) -> Bootstrap:
    sample = patients.take(rows)
    with threadpool_limits(limits=1):
        pipeline, _ = fitted(candidate, sample, seed=seed)
        own = pipeline.predict_proba(sample.X)[:, 1]
        y_prob = pipeline.predict_proba(patients.X)[:, 1]
    return Bootstrap(y_prob, _statistics(sample.y, own), _statistics(patients.y, y_prob))


def _statistics(y: np.ndarray, y_prob: np.ndarray) -> dict[str, float]:
    found = weighted_metrics(y, y_prob, np.ones((1, len(y))), threshold=0.5)
    return {name: float(found[name][0]) for name in STATISTICS}


def _optimism(name: str, apparent: float, models: list[Bootstrap]) -> dict[str, float | None]:
    found = optimism(
        apparent,
        np.array([model.on_sample[name] for model in models]),
        np.array([model.on_original[name] for model in models]),
    )
    return {
        "apparent": number(found.apparent),
        "optimism": number(found.optimism),
        "corrected": number(found.corrected.value),
        "low": number(found.corrected.low),
        "high": number(found.corrected.high),
    }
