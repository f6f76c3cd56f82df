"""Net benefit is that of the package dcurves; the identities of decision curves hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartdx.errors import UsageError
from heartdx.performance import estimates
from heartdx.performance.net_benefit import DecisionCurve, decision_curve, net_benefit

DCURVES = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "dcurves_net_benefit.json").read_text()
)
in_every_set = pytest.mark.parametrize("case", DCURVES["sets"], ids=range(len(DCURVES["sets"])))


def sample(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    p = generator.random(n).round(2)
    return (generator.random(n) < p).astype(float), p


def curve(y: np.ndarray, p: np.ndarray, *thresholds: float, resamples: int = 0) -> DecisionCurve:
    return decision_curve(
        y,
        p,
        thresholds=np.array(thresholds),
        sites=np.zeros(len(y)),
        seed=0,
        resamples=resamples,
    )


@in_every_set
def test_net_benefit_and_interventions_avoided_are_those_of_dcurves(case: dict[str, Any]) -> None:
    y, p = np.array(case["y"]), np.array(case["p"])

    found = curve(y, p, *DCURVES["thresholds"])

    assert found.model.value == pytest.approx(np.array(case["net_benefit"]), abs=1e-9)
    assert found.treat_all == pytest.approx(np.array(case["treat_all"]), abs=1e-9)
    assert found.avoided.value == pytest.approx(np.array(case["avoided_per_100"]), abs=1e-9)


def test_the_fixture_has_patients_exactly_at_a_threshold() -> None:
    """Without them it could not tell *reaches* from *exceeds*."""
    at_thresholds = [set(case["p"]) & set(DCURVES["thresholds"]) for case in DCURVES["sets"]]

    assert all(len(shared) > 10 for shared in at_thresholds)


def test_a_patient_at_the_threshold_is_treated() -> None:
    assert net_benefit(np.array([1, 0]), np.array([0.3, 0.1]), 0.3) == 0.5


def test_treating_everybody_is_worth_nothing_at_a_threshold_of_the_prevalence() -> None:
    y = np.repeat([0.0, 1.0], [70, 30])

    found = curve(y, np.ones(100), 0.3)

    assert found.treat_all == pytest.approx([0], abs=1e-12)
    assert found.treat_none.tolist() == [0]


@given(st.integers(0, 10_000), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_no_model_is_worth_more_than_the_truth_which_is_worth_the_prevalence(
    seed: int, threshold: float
) -> None:
    y, p = sample(seed)

    assert net_benefit(y, y, threshold) == pytest.approx(y.mean())
    assert net_benefit(y, p, threshold) <= y.mean() + 1e-12


@given(st.integers(0, 10_000), st.floats(0.01, 0.99))
@settings(max_examples=50, deadline=None)
def test_a_model_that_calls_everybody_is_treating_everybody(seed: int, threshold: float) -> None:
    y, _ = sample(seed)

    found = curve(y, np.ones(len(y)), threshold)

    assert found.model.value == pytest.approx(found.treat_all, abs=1e-12)
    assert found.avoided.value == pytest.approx([0], abs=1e-9)


def test_the_advantage_is_over_the_better_of_all_and_none() -> None:
    y, p = sample(1)
    thresholds = np.linspace(0.05, 0.95, 19)

    found = curve(y, p, *thresholds)

    better = np.maximum(found.treat_all, found.treat_none)
    assert found.advantage.value == pytest.approx(found.model.value - better)
    assert (found.treat_all > 0).any()
    assert (found.treat_all < 0).any()


def test_net_benefit_is_the_mean_over_the_repeats() -> None:
    y, p = sample(2)
    repeats = np.column_stack([p, 1 - p])

    found = curve(y, repeats, 0.2, 0.4)

    for place, threshold in enumerate((0.2, 0.4)):
        each = [net_benefit(y, column, threshold) for column in repeats.T]
        assert found.model.value[place] == pytest.approx(np.mean(each))
        assert net_benefit(y, repeats, threshold) == pytest.approx(np.mean(each))


def test_bands_hold_their_curves_and_narrow_with_more_patients() -> None:
    few, many = (curve(*sample(3, n), 0.2, 0.4, 0.6, resamples=300) for n in (100, 1600))

    for band in (few.model, few.advantage, few.avoided):
        assert (band.low < band.value).all()
        assert (band.value < band.high).all()
    ratio = (few.model.high - few.model.low) / (many.model.high - many.model.low)
    assert ratio == pytest.approx(4, rel=0.4)  # the square root of 16


def test_intervals_cover_the_true_net_benefit_at_about_their_nominal_rate() -> None:
    """Uniform probabilities that are right: at t the net benefit is (1 - t) / 2."""
    covered = 0
    for seed in range(200):
        found = curve(*sample(seed, 200), 0.405, resamples=200)
        covered += found.model.low[0] <= (1 - 0.405) / 2 <= found.model.high[0]

    assert 180 <= covered <= 198  # 95 % of 200 is 190; binomial 0.999 limits


def test_the_metric_of_a_model_is_the_curve_at_its_threshold() -> None:
    y, p = sample(4)
    sites = np.full(len(y), "one")

    metric = estimates(y, p, threshold=0.3, sites=sites, seed=0, resamples=50)["net_benefit"]

    band = curve(y, p, 0.3, resamples=50).model
    assert (metric.value, metric.low, metric.high) == (band.value[0], band.low[0], band.high[0])


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_threshold_that_is_no_probability_between_0_and_1_is_refused(threshold: float) -> None:
    y, p = sample(5)

    with pytest.raises(UsageError, match=r"^thresholds: expected probabilities above 0 and below"):
        net_benefit(y, p, threshold)
    with pytest.raises(UsageError, match="leave them out"):
        curve(y, p, 0.5, threshold)
