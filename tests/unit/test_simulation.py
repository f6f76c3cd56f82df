"""The method itself, tried on patients of whom the truth is known.

Where a share of simulated answers is judged, its limits are the 0.1 % and 99.9 % quantiles of the
binomial distribution that the stated rate would give in that many draws: by chance alone one such
check in 500 would fail, and the seeds are fixed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import expit, logit
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from threadpoolctl import threadpool_limits

from heartdx.contract import PANELS
from heartdx.performance import estimates, weighted_metrics
from heartdx.performance.discrimination import auc_delong, auc_variance
from heartdx.performance.intervals import Interval, percentile_interval
from heartdx.performance.pooling import logit_auc, pool
from heartdx.performance.stability import optimism
from heartdx.performance.weighted import logistic_fit, recalibration, resampling_counts
from heartdx.pipelines import BY_CANDIDATE
from heartdx.resampling import Patients, cross_validation_splits, fitted
from heartdx.train.gates import judge

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], Pipeline | LogisticRegression]
"""(X, y, places of the training rows) to a fitted model."""
THRESHOLD = 0.3


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Arrays this small lose more to waiting threads than they win."""
    with threadpool_limits(limits=1):
        yield


def binomial_limits(rate: float, draws: int) -> tuple[float, float]:
    """Shares between which a rate stays in 998 of 1000 simulations of that many draws."""
    low, high = stats.binom.ppf([0.001, 0.999], draws, rate) / draws
    return float(low), float(high)


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


# -- (a) intervals hold the truth as often as they say -------------------------------------------
#
# The log-odds of disease are normal. The model is fixed beforehand and wrong: its log-odds are
# INTERCEPT + SLOPE times the true ones, so that none of its true figures is 0 or 1 by construction.

MEAN, SPREAD = -0.4, 1.3
INTERCEPT, SLOPE = 0.2, 0.8


def sample(n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and the model's probabilities."""
    eta = generator.normal(MEAN, SPREAD, n)
    y = (generator.random(n) < expit(eta)).astype(float)
    return y, expit(INTERCEPT + SLOPE * eta)


def truth() -> dict[str, float]:
    """By summing over a fine grid of log-odds; nothing of the package is used."""
    eta = np.linspace(MEAN - 9 * SPREAD, MEAN + 9 * SPREAD, 200_001)
    mass = stats.norm.pdf(eta, MEAN, SPREAD)
    mass /= mass.sum()
    p, q = expit(eta), expit(INTERCEPT + SLOPE * eta)
    healthy = np.cumsum(mass * (1 - p))
    treated = q >= THRESHOLD
    odds = THRESHOLD / (1 - THRESHOLD)
    return {
        "auc": float((mass * p) @ (healthy - mass * (1 - p) / 2) / (mass @ p) / healthy[-1]),
        "brier": float(mass @ ((q - p) ** 2 + p * (1 - p))),
        "calibration_slope": 1 / SLOPE,
        "calibration_in_the_large": optimize.brentq(
            lambda shift: mass @ (expit(shift + logit(q)) - p), -2, 2
        ),
        "net_benefit": float(mass @ (treated * (p - (1 - p) * odds))),
    }


COVERAGE_DRAWS, COVERAGE_PATIENTS, COVERAGE_RESAMPLES = 600, 250, 200


@pytest.fixture(scope="module")
def coverage() -> dict[str, float]:
    """Measure to the share of samples whose 95 % interval holds the truth."""
    generator, true = np.random.default_rng(20), truth()
    held: dict[str, list[bool]] = {name: [] for name in (*true, "auc by DeLong")}
    for draw in range(COVERAGE_DRAWS):
        y, y_prob = sample(COVERAGE_PATIENTS, generator)
        counts = resampling_counts(np.zeros(len(y)), COVERAGE_RESAMPLES, seed=draw)
        counts = np.vstack([np.ones(len(y)), counts])
        found = weighted_metrics(y, y_prob, counts, threshold=THRESHOLD)
        for name, value in true.items():
            held[name].append(covers(percentile_interval(found[name]), value))
        held["auc by DeLong"].append(covers(auc_delong(y, y_prob), true["auc"]))
    return {name: float(np.mean(answers)) for name, answers in held.items()}


@pytest.mark.parametrize(
    "measure",
    [
        "auc by DeLong",
        "auc",
        "brier",
        "calibration_slope",
        "calibration_in_the_large",
        "net_benefit",
    ],
)
def test_95_percent_intervals_hold_the_truth_95_times_of_100(
    coverage: dict[str, float], measure: str
) -> None:
    low, high = binomial_limits(0.95, COVERAGE_DRAWS)

    assert low <= coverage[measure] <= high


def test_intervals_that_are_too_short_would_be_noticed() -> None:
    """As many 90 % intervals as is asked for above would hold in one simulation of ten at most."""
    low, _ = binomial_limits(0.95, COVERAGE_DRAWS)

    assert stats.binom.sf(low * COVERAGE_DRAWS - 1, COVERAGE_DRAWS, 0.90) < 0.1


# -- (b) an over-fitted model is caught ----------------------------------------------------------


BEDSIDE = PANELS[0]


def some_patients(
    X: np.ndarray, y: np.ndarray, generator: np.random.Generator
) -> tuple[Patients, list[tuple[np.ndarray, np.ndarray]]]:
    """One hospital's patients and the house's own five folds."""
    patients = Patients(BEDSIDE, X, y, np.full(len(y), "hospital"), np.arange(len(y)))
    seed = int(generator.integers(1000))
    splits = cross_validation_splits(patients, splits=5, repeats=1, seed=seed)
    return patients, [(split.train, split.test) for split in splits]


def cross_validated(
    fit: Fit, X: np.ndarray, y: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    y_prob = np.empty(len(y))
    for train, test in folds:
        y_prob[test] = fit(X, y, train).predict_proba(X[test])[:, 1]
    return y_prob


def slope(y: np.ndarray, y_prob: np.ndarray) -> float:
    return float(recalibration(y, y_prob, np.ones((1, len(y))))["slope"][0])


def unpenalised(X: np.ndarray, y: np.ndarray, train: np.ndarray) -> LogisticRegression:
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    return model.fit(X[train], y[train])


def noisy_patients(inputs: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """200 patients; two inputs matter, the others are noise."""
    X = generator.normal(0, 1, (200, inputs))
    y = (generator.random(200) < expit(X[:, 0] - X[:, 1])).astype(float)
    return X, y


@pytest.mark.parametrize(("inputs", "overfitted"), [(25, True), (2, False)])
def test_the_cross_validated_slope_tells_an_overfitted_model_that_looks_calibrated(
    inputs: int, overfitted: bool
) -> None:
    """Maximum likelihood makes the apparent slope 1, whatever was fitted."""
    generator = np.random.default_rng(3)
    X, y = noisy_patients(inputs, generator)
    _, folds = some_patients(X, y, generator)

    apparent = unpenalised(X, y, np.arange(200)).predict_proba(X)[:, 1]
    y_prob = cross_validated(unpenalised, X, y, folds)
    metrics = estimates(y, y_prob, threshold=0.5, sites=np.full(200, "hospital"), seed=0)
    gates = judge("bedside", y=y, y_prob=y_prob[:, None], baselines={}, metrics=metrics)

    assert slope(y, apparent) == pytest.approx(1, abs=1e-3)
    assert (metrics["calibration_slope"].high < 1) is overfitted
    assert [gate.passed for gate in gates if "calibration slope" in gate.name] == [not overfitted]


@pytest.mark.parametrize(("inputs", "overfitted"), [(25, True), (2, False)])
def test_the_bootstrap_finds_the_optimism_of_an_overfitted_model(
    inputs: int, overfitted: bool
) -> None:
    generator = np.random.default_rng(3)
    X, y = noisy_patients(inputs, generator)
    everyone = np.arange(200)
    on_sample, on_original = [], []
    for _ in range(100):
        rows = generator.integers(0, 200, 200)
        model = unpenalised(X, y, rows)
        on_sample.append(slope(y[rows], model.predict_proba(X[rows])[:, 1]))
        on_original.append(slope(y, model.predict_proba(X)[:, 1]))

    apparent = slope(y, unpenalised(X, y, everyone).predict_proba(X)[:, 1])
    found = optimism(apparent, np.array(on_sample), np.array(on_original))

    assert found.apparent == pytest.approx(1, abs=1e-3)
    assert (found.optimism > 0.2) is overfitted
    assert (found.corrected.value < 0.8) is overfitted


# -- (c) a leaky pipeline is caught --------------------------------------------------------------


def steps() -> Pipeline:
    """Imputation and a choice of the 10 inputs that go best with the outcome."""
    return make_pipeline(SimpleImputer(), SelectKBest(k=10))


def honest(X: np.ndarray, y: np.ndarray, train: np.ndarray) -> Pipeline:
    return make_pipeline(steps(), LogisticRegression()).fit(X[train], y[train])


def leaky(X: np.ndarray, y: np.ndarray, train: np.ndarray) -> Pipeline:
    """The steps have seen everybody before the split; the classifier has not."""
    seen = steps().fit(X, y)
    classifier = LogisticRegression().fit(seen.transform(X[train]), y[train])
    return Pipeline([("steps", seen), ("classifier", classifier)])


def leaky_imputation(X: np.ndarray, y: np.ndarray, train: np.ndarray) -> Pipeline:
    """Only the means of the inputs have seen everybody: too little to show in an AUC."""
    imputer = SimpleImputer().fit(X)
    classifier = LogisticRegression().fit(imputer.transform(X[train]), y[train])
    return Pipeline([("impute", imputer), ("classifier", classifier)])


def of_the_house(X: np.ndarray, y: np.ndarray, train: np.ndarray) -> Pipeline:
    """Logistic regression as ``heartdx train`` fits it, tuning included."""
    X = X[:, : len(BEDSIDE.inputs)]
    X = np.where(np.isin(BEDSIDE.inputs, BEDSIDE.required), np.nan_to_num(X), X)
    patients = Patients(BEDSIDE, X, y, np.full(len(y), "hospital"), np.arange(len(y)))
    pipeline, _ = fitted(BY_CANDIDATE["logreg"], patients.take(train), seed=5)
    return pipeline


def depends_on_whom_it_scores(
    fit: Fit, X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray
) -> bool:
    """Whether other values and labels of the scored patients change anything that was learnt."""
    other_X, other_y = X.copy(), y.copy()
    other_X[test] = X[test][::-1] + 7
    other_y[test] = 1 - y[test]
    return pickle.dumps(fit(X, y, train)) != pickle.dumps(fit(other_X, other_y, train))


def pure_noise(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """100 patients of 500 inputs, one value in twenty missing, and an outcome drawn by lot."""
    X = generator.normal(0, 1, (100, 500))
    X[generator.random(X.shape) < 0.05] = np.nan
    return X, generator.permutation(np.repeat([0.0, 1.0], 50))


def test_selecting_before_the_split_finds_something_in_noise_and_within_folds_does_not() -> None:
    """Ten inputs of 500 that go with the outcome by chance, Ambroise and McLachlan's example."""
    generator, draws = np.random.default_rng(7), 20
    aucs: dict[Fit, list[Interval]] = {honest: [], leaky: []}
    for _ in range(draws):
        X, y = pure_noise(generator)
        _, folds = some_patients(X, y, generator)
        for fit, found in aucs.items():
            found.append(auc_delong(y, cross_validated(fit, X, y, folds)))
    _, at_most = binomial_limits(0.05, draws)

    assert all(auc.low > 0.5 for auc in aucs[leaky])
    assert np.mean([not covers(auc, 0.5) for auc in aucs[honest]]) <= at_most


@pytest.mark.parametrize(
    ("fit", "leaks"),
    [(honest, False), (of_the_house, False), (leaky, True), (leaky_imputation, True)],
)
def test_the_leakage_test_flags_what_has_seen_the_scored_patients(fit: Fit, leaks: bool) -> None:
    generator = np.random.default_rng(11)
    X, y = pure_noise(generator)
    _, ((train, test), *_) = some_patients(X, y, generator)

    assert depends_on_whom_it_scores(fit, X, y, train, test) is leaks


# -- (d) the prediction interval holds a new hospital's AUC --------------------------------------
#
# Healthy patients have inputs around 0, the diseased around d times a separation of their hospital.
# A linear model w then has the AUC Phi(separation * w'd / (|w| sqrt 2)) in a hospital, exactly.

HOSPITALS, OF_EACH_OUTCOME = 8, 80
DIRECTION = np.array([0.6, 0.8])
SEPARATION, BETWEEN_HOSPITALS = 1.3, 0.35
POOLING_DRAWS = 400


def hospital(separation: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y = np.repeat([0.0, 1.0], OF_EACH_OUTCOME)
    X = generator.normal(0, 1, (len(y), 2)) + separation * y[:, None] * DIRECTION
    return np.column_stack([np.ones(len(y)), X]), y


def weights(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    return logistic_fit(y, np.ones((1, len(y))), X, np.zeros(len(y)))[0]


def held_out_aucs(hospitals: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Logit AUC and its standard error in each hospital, by a model of the others."""
    found = []
    for place, (X, y) in enumerate(hospitals):
        others = [h for other, h in enumerate(hospitals) if other != place]
        model = weights(np.vstack([h[0] for h in others]), np.concatenate([h[1] for h in others]))
        y_prob = expit(X @ model)
        found.append(logit_auc(auc_delong(y, y_prob).value, auc_variance(y, y_prob)))
    values, errors = np.array(found).T
    return values, errors


def test_the_prediction_interval_holds_a_new_hospitals_auc_and_the_means_interval_does_not() -> (
    None
):
    """The t interval of Higgins et al. is a little short with few hospitals: 91 % is let pass."""
    generator = np.random.default_rng(13)
    predicted, meant = [], []
    for _ in range(POOLING_DRAWS):
        separations = generator.normal(SEPARATION, BETWEEN_HOSPITALS, HOSPITALS + 1)
        hospitals = [hospital(each, generator) for each in separations[:-1]]
        pooled = pool(*held_out_aucs(hospitals), scale="logit")
        model = weights(*map(np.concatenate, zip(*hospitals, strict=True)))[1:]
        aligned = model @ DIRECTION / np.linalg.norm(model)
        new = stats.norm.cdf(separations[-1] * aligned / np.sqrt(2))
        predicted.append(covers(pooled.natural_prediction, new))
        meant.append(covers(pooled.natural_mean, new))

    low, high = binomial_limits(0.91, POOLING_DRAWS)[0], binomial_limits(0.95, POOLING_DRAWS)[1]
    assert low <= np.mean(predicted) <= high
    assert np.mean(meant) < 0.7
