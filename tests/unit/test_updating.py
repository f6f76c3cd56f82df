"""Recalibration agrees with statsmodels, closes its tests, and refuses what it cannot know."""

from __future__ import annotations

import time

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, stats

from heartdx.errors import ContractError, UsageError
from heartdx.performance.updating import (
    Update,
    closed_test,
    local_prevalence,
    update,
    update_many,
)


def sample(
    seed: int, n: int = 200, *, intercept: float = 0.0, slope: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Patients whose true log-odds are intercept + slope * the model's."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(0, 1.5, n)
    y = (generator.random(n) < 1 / (1 + np.exp(-(intercept + slope * logit)))).astype(float)
    return y, 1 / (1 + np.exp(-logit))


def log_odds(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def binomial(y: np.ndarray, design: np.ndarray, offset: np.ndarray | None = None) -> sm.GLM:
    return sm.GLM(y, design, family=sm.families.Binomial(), offset=offset).fit(tol=1e-14)


# -- one update ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [30, 200])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_intercept_is_that_of_statsmodels(seed: int, n: int) -> None:
    y, p = sample(seed, n, intercept=-1)

    found = update(y, p, step="intercept")

    assert found.intercept == pytest.approx(
        binomial(y, np.ones(n), log_odds(p)).params[0], abs=1e-8
    )
    assert found.slope == 1.0


@pytest.mark.parametrize("n", [30, 200])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_intercept_and_slope_are_those_of_statsmodels(seed: int, n: int) -> None:
    y, p = sample(seed, n, intercept=1, slope=0.6)

    found = update(y, p, step="intercept_slope")

    expected = binomial(y, sm.add_constant(log_odds(p))).params
    assert [found.intercept, found.slope] == pytest.approx(expected, abs=1e-8)


def test_no_update_changes_nothing() -> None:
    y, p = sample(0)
    p[:3] = 0.0, 1.0, 1e-9

    found = update(y, p, step="none")

    assert (found.step, found.intercept, found.slope) == ("none", 0.0, 1.0)
    assert (found.probability(p) == p).all()


def test_no_update_asks_for_no_second_outcome() -> None:
    assert update(np.ones(3), np.full(3, 0.5), step="none") == Update("none")


@pytest.mark.parametrize("step", ["intercept", "intercept_slope"])
def test_after_an_update_as_many_patients_are_expected_as_are_diseased(step: str) -> None:
    y, p = sample(4, 60, intercept=-0.7, slope=1.4)

    updated = update(y, p, step=step).probability(p)  # type: ignore[arg-type]

    assert updated.sum() == pytest.approx(y.sum(), abs=1e-8)


def test_an_update_keeps_the_order_of_patients() -> None:
    y, p = sample(4, intercept=-0.7, slope=0.5)

    updated = update(y, p, step="intercept_slope").probability(p)

    assert (np.argsort(updated) == np.argsort(p)).all()


def test_a_second_update_finds_nothing_left() -> None:
    y, p = sample(5, intercept=0.8, slope=1.5)
    updated = update(y, p, step="intercept_slope").probability(p)

    again = update(y, updated, step="intercept_slope")

    assert [again.intercept, again.slope] == pytest.approx([0, 1], abs=1e-7)


def test_certain_probabilities_are_still_recalibrated() -> None:
    y = np.array([0.0, 0, 1, 1, 1, 0])
    p = np.array([0.0, 0.2, 1.0, 0.9, 0.0, 1.0])

    found = update(y, p, step="intercept_slope").probability(p)

    assert np.isfinite(found).all()
    assert ((found > 0) & (found < 1)).all()


# -- separation ----------------------------------------------------------------------------------


def test_two_separated_groups_get_a_half_added_to_each_cell() -> None:
    """Firth 1993: in a saturated model Jeffreys' prior adds 1/2 to each cell."""
    y = np.r_[np.zeros(5), np.ones(4)]
    p = np.r_[np.full(5, 0.3), np.full(4, 0.6)]

    found = update(y, p, step="intercept_slope").probability(p)

    assert found == pytest.approx(np.r_[np.full(5, 0.5 / 6), np.full(4, 4.5 / 5)], abs=1e-9)


@pytest.mark.parametrize("y", [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], ids=str)
def test_a_separated_sample_has_the_slope_that_maximises_the_penalised_likelihood(
    y: list[int],
) -> None:
    labels, p = np.array(y, dtype=float), np.array([0.1, 0.25, 0.4, 0.45, 0.8, 0.95])
    design = sm.add_constant(log_odds(p))

    def penalised(b: np.ndarray) -> float:
        fitted = 1 / (1 + np.exp(-design @ b))
        information = design.T @ (design * (fitted * (1 - fitted))[:, None])
        loglik = stats.bernoulli.logpmf(labels, fitted).sum()
        return -float(loglik + np.linalg.slogdet(information)[1] / 2)

    expected = optimize.minimize(
        penalised, [0, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}
    ).x

    found = update(labels, p, step="intercept_slope")

    assert [found.intercept, found.slope] == pytest.approx(expected, abs=1e-6)


def test_a_sample_that_is_not_separated_is_not_penalised() -> None:
    """One patient on the wrong side, and maximum likelihood has a finite slope."""
    y = np.array([0.0, 0, 1, 0, 1, 1])
    p = np.array([0.1, 0.25, 0.4, 0.45, 0.8, 0.95])

    found = update(y, p, step="intercept_slope")

    expected = binomial(y, sm.add_constant(log_odds(p))).params
    assert [found.intercept, found.slope] == pytest.approx(expected, abs=1e-8)


# -- many samples --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["none", "intercept", "intercept_slope"])
@pytest.mark.parametrize("k", [8, 30, 100])
def test_many_updates_are_the_single_ones(step: str, k: int) -> None:
    y, p = sample(6, 300, intercept=-2, slope=1.3)
    samples = np.random.default_rng(1).integers(0, 300, (40, k))

    intercepts, slopes = update_many(y, p, samples, step=step)  # type: ignore[arg-type]

    for rows, intercept, slope in zip(samples, intercepts, slopes, strict=True):
        if step == "none" or len(set(y[rows])) == 2:
            single = update(y[rows], p[rows], step=step)  # type: ignore[arg-type]
            assert [intercept, slope] == pytest.approx([single.intercept, single.slope], abs=1e-8)
        else:
            assert np.isnan([intercept, slope]).all()


def test_a_draw_with_one_outcome_gives_no_number() -> None:
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.3, 0.4])

    intercepts, slopes = update_many(y, p, np.array([[0, 1, 0], [0, 2, 3]]), step="intercept")

    assert np.isnan(intercepts).tolist() == [True, False]
    assert np.isnan(slopes).tolist() == [True, False]


def test_a_draw_of_one_probability_has_no_slope() -> None:
    y, p = np.array([0, 1, 1, 0]), np.array([0.4, 0.4, 0.3, 0.9])

    intercepts, slopes = update_many(y, p, np.array([[0, 1, 1]]), step="intercept_slope")

    assert np.isnan([*intercepts, *slopes]).all()


def test_two_hundred_draws_take_a_third_of_a_second_at_most() -> None:
    y, p = sample(8, 300, intercept=-1, slope=0.8)
    generator = np.random.default_rng(2)
    draws = [generator.integers(0, 300, (200, k)) for k in (30, 50, 100)]

    begun = time.process_time()
    found = [update_many(y, p, samples, step="intercept_slope") for samples in draws]
    taken = time.process_time() - begun

    assert all(np.isfinite(slopes).all() for _, slopes in found)
    assert taken < 3 * 0.3


def test_samples_from_outside_the_patients_are_refused() -> None:
    y, p = sample(0, 10)

    with pytest.raises(ContractError, match="0 to 9"):
        update_many(y, p, np.array([[0, 10]]), step="intercept")
    with pytest.raises(ContractError, match="whole numbers"):
        update_many(y, p, np.array([[0.0, 1.0]]), step="intercept")


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["intercept", "intercept_slope"])
def test_one_outcome_only_is_refused(step: str) -> None:
    with pytest.raises(ContractError, match="all 5 patients have the same outcome"):
        update(np.ones(5), np.linspace(0.1, 0.9, 5), step=step)  # type: ignore[arg-type]


def test_one_probability_for_all_has_no_slope_and_is_refused() -> None:
    with pytest.raises(ContractError, match="update the intercept only"):
        update(np.array([0, 1, 1]), np.full(3, 0.4), step="intercept_slope")


def test_a_refit_is_no_recalibration() -> None:
    y, p = sample(0)

    with pytest.raises(UsageError, match="fit the model anew"):
        update(y, p, step="refit")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("y", "p", "said"),
    [
        ([0, 2], [0.1, 0.2], "each 0 or 1"),
        ([], [], "at least one patient"),
        ([0, 1], [0.1], "2 labels"),
        ([0, 1], [0.1, np.nan], "1 of 2 probabilities"),
        ([0, 1], [0.1, 1.5], "1 of 2 probabilities"),
    ],
)
def test_unusable_patients_are_refused_without_their_values(
    y: list[float], p: list[float], said: str
) -> None:
    with pytest.raises(ContractError, match=said):
        update(np.array(y), np.array(p), step="intercept")


# -- the closed test -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_without_a_refit_the_tests_are_the_likelihood_ratios_of_statsmodels(seed: int) -> None:
    y, p = sample(seed, 150, intercept=0.6, slope=0.5)
    x = log_odds(p)
    original = stats.bernoulli.logpmf(y, p).sum()
    intercept = binomial(y, np.ones(150), x).llf
    slope = binomial(y, sm.add_constant(x)).llf

    found = closed_test(y, p).tests

    assert found[0].against == "none"
    assert found[0].p_value == pytest.approx(stats.chi2.sf(2 * (slope - original), 2), abs=1e-9)
    for test in found[1:]:
        assert (test.against, test.degrees) == ("intercept", 1)
        assert test.p_value == pytest.approx(stats.chi2.sf(2 * (slope - intercept), 1), abs=1e-9)


@pytest.mark.parametrize(
    ("intercept", "slope", "step"),
    [(0.0, 1.0, "none"), (1.5, 1.0, "intercept"), (0.5, 0.3, "intercept_slope")],
)
def test_the_simplest_step_that_is_true_is_picked(
    intercept: float, slope: float, step: str
) -> None:
    y, p = sample(11, 2000, intercept=intercept, slope=slope)

    found = closed_test(y, p)

    assert found.step == step
    assert all(test.p_value < 0.05 for test in found.tests[:-1])


def test_a_model_fitted_anew_is_tested_against_each_step_with_the_degrees_of_vergouwe() -> None:
    """p + 1, p and p - 1 degrees of freedom for a refit of p predictors and an intercept."""
    y, p = sample(12, 400)
    generator = np.random.default_rng(12)
    other = generator.normal(0, 1, (400, 2))
    y = (generator.random(400) < 1 / (1 + np.exp(-(log_odds(p) + 2 * other[:, 0])))).astype(float)
    x = log_odds(p)
    refit = binomial(y, sm.add_constant(np.column_stack([x, other]))).llf

    found = closed_test(y, p, refit_loglik=float(refit), refit_df=4)

    assert found.step == "refit"
    assert [(t.against, t.degrees) for t in found.tests] == [
        ("none", 4),
        ("intercept", 3),
        ("intercept_slope", 2),
    ]
    two = binomial(y, sm.add_constant(x)).llf
    assert found.tests[2].p_value == pytest.approx(stats.chi2.sf(2 * (refit - two), 2), abs=1e-12)


def test_a_refit_that_gains_nothing_is_not_taken() -> None:
    y, p = sample(13, 300, intercept=1.0)
    best = binomial(y, sm.add_constant(log_odds(p))).llf

    assert closed_test(y, p, refit_loglik=float(best) + 0.5, refit_df=6).step == "intercept"
    assert closed_test(y, p, refit_loglik=-1e6, refit_df=6).step == "none"


def test_a_right_model_is_left_alone_at_the_stated_rate() -> None:
    """95 % of 1000 is 950; binomial 0.999 limits."""
    kept = sum(closed_test(*sample(seed, 200)).step == "none" for seed in range(1000))

    assert 925 <= kept <= 972


def test_half_a_refit_is_refused() -> None:
    y, p = sample(0)

    with pytest.raises(UsageError, match="together"):
        closed_test(y, p, refit_loglik=-100.0)
    with pytest.raises(UsageError, match="at least 3"):
        closed_test(y, p, refit_loglik=-100.0, refit_df=2)


# -- prevalence ----------------------------------------------------------------------------------


def test_the_local_prevalence_is_the_mean_of_the_beta_posterior() -> None:
    y = np.array([1, 0, 0, 1, 1, 1, 0])

    assert local_prevalence(y) == pytest.approx(stats.beta(4.5, 3.5).mean())
    assert local_prevalence(y, prior=1) == pytest.approx(stats.beta(5, 4).mean())


@pytest.mark.parametrize("outcome", [0, 1])
def test_one_outcome_among_few_patients_still_has_a_finite_log_loss(outcome: int) -> None:
    assert np.isfinite(np.log([local_prevalence(np.full(30, outcome))])).all()
    assert 0 < local_prevalence(np.full(30, outcome)) < 1


def test_no_patient_gives_no_prevalence() -> None:
    with pytest.raises(ContractError, match="at least one patient"):
        local_prevalence(np.array([]))
    with pytest.raises(UsageError, match="above 0"):
        local_prevalence(np.array([1]), prior=0)
