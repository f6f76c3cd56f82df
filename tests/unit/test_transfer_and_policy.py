"""The panels as one model, its transfer, and paired comparisons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from heartdx.contract import PANEL_NAMES, PANELS
from heartdx.evaluation import comparison, transfer
from heartdx.evaluation.panels import Plan, evaluate_and_fit, panel_rows
from heartdx.evaluation.policy import answers


def hospitals(k: int, n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    log_odds = generator.normal(0, 1.5, k * n)
    y = (generator.random(k * n) < 1 / (1 + np.exp(-log_odds))).astype(float)
    return y, 1 / (1 + np.exp(-log_odds)), np.repeat([f"h{i}" for i in range(k)], n)


# -- transfer --------------------------------------------------------------------------------


def test_the_slopes_standard_error_is_that_of_statsmodels() -> None:
    y, y_prob, _ = hospitals(1)
    log_odds = np.log(y_prob / (1 - y_prob))

    slope, error = transfer.slope_with_error(y, y_prob)

    fitted = sm.GLM(y, sm.add_constant(log_odds), family=sm.families.Binomial()).fit()
    assert slope == pytest.approx(fitted.params[1], abs=1e-8)
    assert error == pytest.approx(fitted.bse[1], abs=1e-6)


def test_probabilities_without_spread_have_no_slope() -> None:
    assert np.isnan(transfer.slope_with_error(np.array([0.0, 1.0]), np.array([0.4, 0.4]))).all()


def test_alike_hospitals_pool_to_the_overall_auc_and_a_right_level() -> None:
    y, y_prob, sites = hospitals(6, n=400)

    found = transfer.pooled(y, y_prob, sites)

    assert found["auc"].natural_mean.value == pytest.approx(roc_auc_score(y, y_prob), abs=0.01)
    assert found["o_e"].natural_mean.low < 1 < found["o_e"].natural_mean.high
    assert found["calibration_slope"].mean.low < 1 < found["calibration_slope"].mean.high


def test_a_hospital_whose_auc_is_1_is_left_out_of_the_pool_not_made_up() -> None:
    y, y_prob, sites = hospitals(4)
    y[sites == "h0"] = (y_prob[sites == "h0"] > 0.5).astype(float)

    found = transfer.pooled(y, y_prob, sites)

    assert found["auc"].k == 3
    assert found["o_e"].k == 4


def test_one_hospital_alone_says_nothing_about_another() -> None:
    y, y_prob, sites = hospitals(1)

    assert transfer.pooled(y, y_prob, sites) is None
    assert transfer.pooled_document(None) is None


# -- panel policy ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(loaded):
    plan = Plan(splits=2, repeats=1)
    return evaluate_and_fit(loaded, plan, progress=lambda results, _: results)


def test_every_patient_is_answered_by_the_richest_panel_met(loaded, evaluated) -> None:
    found = answers(loaded, evaluated)

    expected = np.zeros(920, dtype=int)
    for place, panel in enumerate(PANELS):
        expected[panel_rows(panel, loaded)] = place
    np.testing.assert_array_equal(found.panel, expected)
    assert not np.isnan(found.y_prob).any()
    assert found.panels_of(np.ones(920, dtype=bool)) == {
        "bedside": 63,
        "exercise": 558,
        "imaging": 299,
    }


def test_an_unseen_hospital_is_answered_without_imaging_which_no_second_hospital_has(
    loaded, evaluated
) -> None:
    found = answers(loaded, evaluated)

    assert found.held_out_sites == ("cleveland", "hungary", "switzerland", "va")
    assert set(found.between_panel) == {PANEL_NAMES.index(n) for n in ("bedside", "exercise")}
    assert not np.isnan(found.between).any()


def test_no_label_of_a_hospital_reaches_its_own_held_out_answers(loaded, evaluated) -> None:
    """Every outcome at VA turned round: VA's held-out answers stay, the other hospitals' change."""
    frame = loaded.frame.copy()
    there = frame["site"] == "va"
    frame.loc[there, "num"] = np.where(frame.loc[there, "num"] > 0, 0.0, 1.0)
    turned = dataclasses.replace(loaded, frame=frame)
    plan = Plan(splits=2, repeats=1)

    again = answers(
        turned,
        evaluate_and_fit(turned, plan, progress=lambda results, _: results),
        candidates=dict.fromkeys(PANEL_NAMES, "logreg"),
    )
    before = answers(loaded, evaluated, candidates=dict.fromkeys(PANEL_NAMES, "logreg"))

    np.testing.assert_array_equal(again.between[there], before.between[there])
    assert np.abs(again.between[~there] - before.between[~there]).max() > 0.01


# -- paired differences ----------------------------------------------------------------------


def test_differences_are_those_of_scikit_learn_on_the_same_patients() -> None:
    y, one, sites = hospitals(2)
    other = np.clip(one + np.random.default_rng(1).normal(0, 0.1, len(y)), 0.01, 0.99)

    found = comparison.differences(
        y, {"one": one[:, None], "other": other[:, None]}, reference="one", sites=sites, seed=0
    )

    assert list(found) == ["other"]
    for metric, score in {
        "auc": roc_auc_score,
        "brier": brier_score_loss,
        "log_loss": log_loss,
    }.items():
        assert found["other"][metric].value == pytest.approx(score(y, other) - score(y, one))
        assert (
            found["other"][metric].low < found["other"][metric].value < found["other"][metric].high
        )


def test_a_paired_interval_is_narrower_than_the_two_apart() -> None:
    from heartdx.performance import estimates

    y, one, sites = hospitals(2)
    other = np.clip(one + np.random.default_rng(1).normal(0, 0.02, len(y)), 0.01, 0.99)

    found = comparison.differences(
        y, {"one": one[:, None], "other": other[:, None]}, reference="one", sites=sites, seed=0
    )["other"]["auc"]

    alone = estimates(y, one, threshold=0.5, sites=sites, seed=0)["auc"]
    assert found.high - found.low < 0.5 * (alone.high - alone.low)
