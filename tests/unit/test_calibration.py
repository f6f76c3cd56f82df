"""Calibration is that of R's rms::val.prob and of statsmodels; identities hold."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from heartdx.performance import estimates, resampling_counts
from heartdx.performance.calibration import Calibration, calibration, calibration_errors
from heartdx.performance.smoothing import lowess

R = json.loads((Path(__file__).parents[1] / "fixtures" / "rms_val_prob.json").read_text())
in_every_set = pytest.mark.parametrize("case", R["sets"], ids=lambda case: case["name"])
CLOSED = ("in_the_large", "intercept", "slope", "o_e", "brier", "scaled_brier", "log_loss")
DISTANCES = ("ici", "e50", "e90", "emax")


def arrays(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(case["y"], float), np.array(case["p"])


def sample(seed: int, n: int, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logit = generator.normal(0, 1.3, n)
    y = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    return y, 1 / (1 + np.exp(-logit - bias))


def found_in(y: np.ndarray, p: np.ndarray, resamples: int = 0) -> Calibration:
    return calibration(y, p, sites=np.zeros(len(y)), seed=0, resamples=resamples)


@in_every_set
def test_intercept_slope_and_brier_score_are_those_of_val_prob(case: dict[str, Any]) -> None:
    found = found_in(*arrays(case))

    assert found.brier.value == pytest.approx(case["val_prob"]["Brier"], abs=1e-6)
    assert found.intercept.value == pytest.approx(case["val_prob"]["Intercept"], abs=1e-6)
    assert found.slope.value == pytest.approx(case["val_prob"]["Slope"], abs=1e-6)


@in_every_set
def test_calibration_in_the_large_is_that_of_rs_glm_with_an_offset(case: dict[str, Any]) -> None:
    found = found_in(*arrays(case))

    assert found.in_the_large.value == pytest.approx(case["glm"]["in_the_large"], abs=1e-8)
    assert found.slope.value == pytest.approx(case["glm"]["slope"], abs=1e-8)


@in_every_set
def test_distances_from_the_smooth_curve_are_those_of_val_prob(case: dict[str, Any]) -> None:
    found = found_in(*arrays(case))

    assert found.ici.value == pytest.approx(case["val_prob"]["Eavg"], abs=1e-6)
    assert found.e50.value == pytest.approx(case["e50"], abs=1e-6)
    assert found.e90.value == pytest.approx(case["val_prob"]["E90"], abs=1e-6)
    assert found.emax.value == pytest.approx(case["val_prob"]["Emax"], abs=1e-6)


@in_every_set
def test_the_smooth_curve_is_rs_lowess(case: dict[str, Any]) -> None:
    y, p = arrays(case)
    at = np.array(case["lowess"]["at"])

    found = lowess(p, y, np.ones((1, len(y))), at=at)[0]

    assert found == pytest.approx(np.array(case["lowess"]["smooth"]), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_smooth_curve_is_statsmodels_lowess(seed: int) -> None:
    y, p = sample(seed, 300, 0.5)

    found = lowess(p, y, np.ones((1, len(y))))[0]

    expected = sm.nonparametric.lowess(
        y, p, frac=2 / 3, it=0, delta=0.01 * np.ptp(p), return_sorted=False
    )
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_weighted_smooth_is_the_local_line_of_weighted_least_squares() -> None:
    y, p = sample(1, 90, 0.5)
    counts = resampling_counts(np.zeros(90), 3, 3)
    at = p.min()  # always an anchor, so nothing is interpolated there
    width = np.sort(p - at)[59]  # reaches two thirds of the 90
    tricube = (1 - np.minimum((p - at) / width, 1) ** 3) ** 3

    found = lowess(p, y, counts, at=np.array([at]))[:, 0]

    lines = [sm.WLS(y, sm.add_constant(p - at), weights=tricube * each).fit() for each in counts]
    assert found == pytest.approx(np.array([line.params[0] for line in lines]), abs=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_resampled_distance_counts_a_patient_as_often_as_drawn(name: str) -> None:
    y, p = sample(2, 120, 0.4)
    counts = resampling_counts(np.zeros(120), 8, 5)
    errors = np.abs(lowess(p, y, counts) - p)
    by_numpy = {
        "ici": np.mean,
        "e50": np.median,
        "e90": lambda drawn: np.quantile(drawn, 0.9),
        "emax": np.max,
    }[name]

    found = calibration_errors(y, p, counts)[name]

    drawn = [np.repeat(e, c.astype(int)) for e, c in zip(errors, counts, strict=True)]
    assert found == pytest.approx(np.array([by_numpy(each) for each in drawn]), abs=1e-12)


def test_a_resampled_smooth_is_near_the_one_fitted_to_the_drawn_patients() -> None:
    """Anchors and bandwidths are kept from the patients at hand; that costs this little."""
    y, p = sample(3, 400, 0.4)
    counts = resampling_counts(np.zeros(400), 20, 5)

    kept = calibration_errors(y, p, counts)["ici"]

    rows = [np.repeat(np.arange(400), each.astype(int)) for each in counts]
    again = [calibration_errors(y[r], p[r], np.ones((1, 400)))["ici"][0] for r in rows]
    assert kept == pytest.approx(np.array(again), abs=5e-3)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_a_smooth_of_a_straight_line_is_the_line(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.random(60)
    counts = resampling_counts(np.zeros(60), 3, seed)

    found = lowess(x, 0.2 + 0.5 * x, counts)

    assert found == pytest.approx(np.tile(0.2 + 0.5 * x, (3, 1)), abs=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_after_recalibration_intercept_slope_and_expected_are_right(seed: int) -> None:
    y, p = sample(seed, 200, 0.8)
    first = found_in(y, p)
    logit = first.intercept.value + first.slope.value * np.log(p / (1 - p))

    found = found_in(y, 1 / (1 + np.exp(-logit)))

    assert found.intercept.value == pytest.approx(0, abs=1e-6)
    assert found.slope.value == pytest.approx(1, abs=1e-6)
    assert found.in_the_large.value == pytest.approx(0, abs=1e-6)
    assert found.o_e.value == pytest.approx(1, abs=1e-6)


def test_the_prevalence_alone_has_scaled_brier_0_and_o_e_1_and_the_truth_1() -> None:
    y, _ = sample(0, 100)

    prevalence, truth = found_in(y, np.full(100, y.mean())), found_in(y, y)

    assert prevalence.scaled_brier.value == pytest.approx(0, abs=1e-12)
    assert prevalence.o_e.value == pytest.approx(1)
    assert prevalence.ici.value == pytest.approx(0, abs=1e-12)
    assert np.isnan(prevalence.slope.value)
    assert np.isnan(prevalence.intercept.value)
    assert truth.scaled_brier.value == 1


def test_a_constant_is_as_far_off_as_the_prevalence_is() -> None:
    y = np.repeat([0.0, 1.0], [70, 30])

    found = found_in(y, np.full(100, 0.5))

    assert [getattr(found, name).value for name in DISTANCES] == pytest.approx([0.2] * 4)
    assert found.curve.probability.tolist() == [0.5]
    assert found.curve.observed == pytest.approx([0.3])


def test_one_outcome_alone_has_no_scaled_brier() -> None:
    found = found_in(np.ones(30), np.linspace(0.2, 0.9, 30))

    assert np.isnan(found.scaled_brier.value)
    assert found.o_e.value == pytest.approx(1 / 0.55)


def test_losses_are_those_of_scikit_learn() -> None:
    y, p = sample(4, 200)

    found = found_in(y, p)

    assert found.log_loss.value == pytest.approx(sk.log_loss(y, p))
    assert found.brier.value == pytest.approx(sk.brier_score_loss(y, p))


@pytest.mark.parametrize("name", [*CLOSED, *DISTANCES])
def test_each_statistic_is_the_mean_over_the_repeats(name: str) -> None:
    y, p = sample(6, 200)
    _, noise = sample(7, 200)
    repeats = np.column_stack([p, 0.7 * p + 0.3 * noise])

    found = getattr(found_in(y, repeats), name).value

    each = [getattr(found_in(y, column), name).value for column in repeats.T]
    assert found == pytest.approx(np.mean(each), abs=1e-12)


def test_the_curve_is_the_mean_of_the_curves_of_the_repeats() -> None:
    y, p = sample(8, 150)
    other = 0.1 + 0.7 * p[::-1]

    curve = found_in(y, np.column_stack([p, other])).curve

    each = [lowess(x, y, np.ones((1, 150)), at=curve.probability)[0] for x in (p, other)]
    assert curve.observed == pytest.approx(np.mean(each, axis=0), abs=1e-12)


def test_a_bands_grid_stays_inside_the_predictions_of_every_repeat() -> None:
    y, p = sample(8, 150)

    curve = found_in(y, np.column_stack([p, 0.1 + 0.7 * p]), resamples=100).curve

    assert len(curve.probability) <= 101
    assert curve.probability.min() >= max(p.min(), 0.1 + 0.7 * p.min())
    assert curve.probability.max() <= min(p.max(), 0.1 + 0.7 * p.max())
    assert (curve.low < curve.high).all()
    assert (curve.low <= curve.observed).mean() > 0.95


def test_intervals_cover_the_true_slope_at_about_their_nominal_rate() -> None:
    covered = 0
    for seed in range(200):
        y, p = sample(seed, 200)
        found = calibration(y, p, sites=np.zeros(200), seed=seed, resamples=200)
        covered += found.slope.low <= 1 <= found.slope.high

    assert 180 <= covered <= 198  # 95 % of 200 is 190; binomial 0.999 limits


def test_a_band_covers_the_true_curve_in_its_middle_at_about_the_nominal_rate() -> None:
    """Probabilities that are right: the curve is the diagonal, at 0.5 almost without bias."""
    covered = 0
    for seed in range(200):
        y, p = sample(seed, 250)
        curve = calibration(y, p, sites=np.zeros(250), seed=seed, resamples=100).curve
        low, high = (np.interp(0.5, curve.probability, end) for end in (curve.low, curve.high))
        covered += low <= 0.5 <= high

    assert 176 <= covered <= 198


def test_the_metrics_of_a_model_hold_the_same_numbers() -> None:
    y, p = sample(9, 200, 0.3)
    sites = np.repeat(["a", "b"], 100)

    found = calibration(y, p, sites=sites, seed=4, resamples=50)
    metrics = estimates(y, p, threshold=0.5, sites=sites, seed=4, resamples=50)

    same = {"calibration_slope": "slope", "calibration_in_the_large": "in_the_large"}
    same |= {name: name for name in ("ici", "o_e", "scaled_brier", "brier", "log_loss")}
    assert {metric: metrics[metric] for metric in same} == {
        metric: getattr(found, name) for metric, name in same.items()
    }


def test_five_hundred_resamples_of_920_patients_take_seconds_at_most() -> None:
    y, p = sample(10, 920)
    started = time.process_time()

    calibration(y, p, sites=np.zeros(920), seed=0)

    assert (
        time.process_time() - started < 10
    )  # about half a second; the margin is for slow machines
