"""Pooling over hospitals agrees with R's metafor, and says what it cannot know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from heartdx.errors import ContractError, UsageError
from heartdx.performance.pooling import log_o_e, logit_auc, pool

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "metafor_pool.json"
CASES: list[dict[str, Any]] = json.loads(FIXTURE.read_text(encoding="utf-8"))["cases"]


@pytest.fixture(params=CASES, ids=lambda case: case["name"])
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_mean_and_knapp_hartung_interval_are_metafors(case: dict[str, Any]) -> None:
    found = pool(np.array(case["yi"]), np.array(case["sei"]), scale="identity").mean

    assert found.value == pytest.approx(case["mean"], rel=1e-6, abs=1e-6)
    assert found.low == pytest.approx(case["low"], rel=1e-6, abs=1e-6)
    assert found.high == pytest.approx(case["high"], rel=1e-6, abs=1e-6)


def test_heterogeneity_is_metafors(case: dict[str, Any]) -> None:
    found = pool(np.array(case["yi"]), np.array(case["sei"]), scale="identity")

    assert found.tau**2 == pytest.approx(case["tau2"], rel=1e-5, abs=1e-5)
    assert 100 * found.i_squared == pytest.approx(case["i2"], rel=1e-6, abs=1e-6)
    assert found.q == pytest.approx(case["q"], rel=1e-9, abs=1e-9)
    assert found.k == case["k"]


def test_the_prediction_interval_is_that_of_higgins_thompson_and_spiegelhalter(
    case: dict[str, Any],
) -> None:
    found = pool(np.array(case["yi"]), np.array(case["sei"]), scale="identity").prediction
    expected = [
        np.nan if case[name] is None else case[name]
        for name in ("prediction_low", "prediction_high")
    ]

    assert found.value == pytest.approx(case["mean"], rel=1e-6, abs=1e-6)
    assert [found.low, found.high] == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


def test_a_new_hospital_is_less_certain_than_the_mean(case: dict[str, Any]) -> None:
    found = pool(np.array(case["yi"]), np.array(case["sei"]), scale="identity")

    if case["k"] >= 3:
        assert found.prediction.low <= found.mean.low <= found.mean.high <= found.prediction.high


def test_the_printed_bcg_example_has_its_printed_numbers() -> None:
    """Viechtbauer, J Stat Softw 2010;36(3), section 3.1: estimate -0.7145, tau^2 0.3132."""
    bcg = CASES[0]

    found = pool(np.array(bcg["yi"]), np.array(bcg["sei"]), scale="log")

    assert round(found.mean.value, 4) == -0.7145
    assert round(found.tau**2, 4) == 0.3132
    assert round(100 * found.i_squared, 2) == 92.22


@pytest.mark.parametrize("estimates", [[1e-3, 5.0, -3.0, 2.0], [0.5, 0.5001, 0.4, 9.0]])
def test_no_other_tau_has_a_higher_restricted_likelihood(estimates: list[float]) -> None:
    y, errors = np.array(estimates), np.array([0.1, 1.0, 0.3, 2.0])

    def restricted(tau: float) -> float:
        w = 1 / (errors**2 + tau**2)
        mean = (w @ y) / w.sum()
        return float(np.log(w).sum() - np.log(w.sum()) - w @ (y - mean) ** 2)

    found = pool(y, errors, scale="identity").tau

    assert restricted(found) >= max(restricted(t) for t in np.linspace(0, 20, 2001)) - 1e-9


def test_hospitals_measured_with_the_same_precision_pool_to_a_plain_t_interval() -> None:
    y = np.array([0.1, 0.7, 1.9, 0.4])
    spread = y.std(ddof=1) / 2

    found = pool(y, np.full(4, 0.3), scale="identity").mean

    assert found.value == pytest.approx(y.mean())
    assert found.high - found.value == pytest.approx(3.182446305284264 * spread)  # t, 3 df


@pytest.mark.parametrize(
    ("scale", "back"),
    [("logit", lambda x: 1 / (1 + np.exp(-x))), ("log", np.exp), ("identity", lambda x: x)],
)
def test_the_summary_is_given_on_the_measures_own_scale_too(scale: Any, back: Any) -> None:
    found = pool(np.array([0.4, 1.5, 0.9]), np.array([0.2, 0.3, 0.2]), scale=scale)

    for natural, pooled in (
        (found.natural_mean, found.mean),
        (found.natural_prediction, found.prediction),
    ):
        assert [natural.value, natural.low, natural.high] == pytest.approx(
            [back(pooled.value), back(pooled.low), back(pooled.high)], rel=1e-12
        )


def test_an_auc_predicted_for_a_new_hospital_stays_between_0_and_1() -> None:
    found = pool(np.array([-30.0, 2.0, 40.0]), np.full(3, 0.1), scale="logit").natural_prediction

    assert 0 <= found.low < found.value < found.high <= 1


def test_two_hospitals_predict_nothing_about_a_third() -> None:
    found = pool(np.array([0.4, 0.8]), np.array([0.2, 0.2]), scale="logit")

    assert np.isfinite([found.mean.low, found.mean.high]).all()
    assert found.prediction.value == found.mean.value
    assert np.isnan([found.prediction.low, found.prediction.high]).all()


def test_one_hospital_is_its_own_mean_and_nothing_more_is_known() -> None:
    found = pool(np.array([0.4]), np.array([0.2]), scale="identity")

    assert found.mean.value == found.prediction.value == 0.4
    assert found.k == 1
    unknown = [found.mean.low, found.mean.high, found.prediction.low, found.prediction.high]
    assert np.isnan([*unknown, found.tau, found.i_squared, found.q]).all()


def share_of_new_hospitals_covered(hospitals: int, tau: float) -> float:
    """By 1000 prediction intervals, standard errors around 0.2."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(1000):
        true = generator.normal(1.0, tau, hospitals + 1)
        errors = generator.uniform(0.15, 0.25, hospitals)
        measured = true[:-1] + generator.normal(0, errors)
        found = pool(measured, errors, scale="logit").prediction
        covered += found.low <= true[-1] <= found.high
    return covered / 1000


def test_prediction_intervals_of_many_hospitals_cover_a_new_one_at_their_nominal_rate() -> None:
    """95 %, within binomial 0.999 limits of 1000 draws."""
    assert 0.925 <= share_of_new_hospitals_covered(20, tau=2.0) <= 0.972


def test_prediction_intervals_of_few_hospitals_are_too_short_as_partlett_and_riley_found() -> None:
    """The limit told in the docstring: about 91 %, within binomial 0.999 limits."""
    assert 0.875 <= share_of_new_hospitals_covered(6, tau=0.4) <= 0.938


@pytest.mark.parametrize(
    ("estimates", "errors", "said"),
    [
        ([], [], "at least one hospital"),
        ([0.1, 0.2], [0.1], "shape"),
        ([0.1, np.nan], [0.1, 0.1], "1 of 2 hospitals"),
        ([0.1, 0.2], [0.1, 0.0], "1 of 2 hospitals"),
    ],
)
def test_what_cannot_be_pooled_is_refused(
    estimates: list[float], errors: list[float], said: str
) -> None:
    with pytest.raises(ContractError, match=said):
        pool(np.array(estimates), np.array(errors), scale="identity")


def test_an_unknown_scale_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="logit, log, identity"):
        pool(np.array([0.1]), np.array([0.1]), scale="probit")  # type: ignore[arg-type]


def test_the_standard_error_of_a_logit_auc_is_that_of_simulated_aucs() -> None:
    generator = np.random.default_rng(3)
    aucs = generator.normal(0.8, 0.01, 200_000)

    estimate, error = logit_auc(0.8, 0.01**2)

    logits = np.log(aucs / (1 - aucs))
    assert estimate == pytest.approx(logits.mean(), abs=2e-3)
    assert error == pytest.approx(logits.std(), rel=0.01)


@pytest.mark.filterwarnings("ignore:The Log link function does not respect the domain")
def test_log_o_e_has_the_estimate_and_error_of_a_log_binomial_model() -> None:
    """A binomial model with log link, one constant and the log of E/n as offset."""
    y = np.r_[np.ones(37), np.zeros(83)]
    family = sm.families.Binomial(link=sm.families.links.Log())
    fit = sm.GLM(y, np.ones(120), family=family, offset=np.full(120, np.log(45 / 120))).fit(
        start_params=[-0.1], tol=1e-14
    )

    estimate, error = log_o_e(37, 45, 120)

    assert estimate == pytest.approx(fit.params[0], abs=1e-8)
    assert error == pytest.approx(fit.bse[0], rel=1e-6)


@pytest.mark.parametrize(("auc", "variance"), [(1.0, 0.01), (0.0, 0.01), (0.8, 0.0), (np.nan, 1)])
def test_an_auc_without_a_logit_or_a_weight_is_refused(auc: float, variance: float) -> None:
    with pytest.raises(ContractError, match="leave the hospital out"):
        logit_auc(auc, variance)


@pytest.mark.parametrize(("observed", "expected"), [(0, 5.0), (20, 5.0), (5, 0.0), (5, np.nan)])
def test_a_ratio_without_a_log_is_refused(observed: float, expected: float) -> None:
    with pytest.raises(ContractError, match="20 patients"):
        log_o_e(observed, expected, 20)
