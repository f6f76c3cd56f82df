"""The AUC's interval is DeLong's as pROC has it; an answer's worth is statsmodels' tables."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.proportion import proportion_confint

from heartdx.performance import resampling_counts, weighted_metrics
from heartdx.performance.discrimination import (
    auc_delong,
    auc_variance,
    delong_difference,
    operating_point,
)
from heartdx.performance.intervals import Interval

R = json.loads((Path(__file__).parents[1] / "fixtures" / "rms_val_prob.json").read_text())
in_every_set = pytest.mark.parametrize("case", R["sets"], ids=lambda case: case["name"])


def sample(seed: int, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = np.r_[0, 0, 1, 1, generator.integers(0, 2, n - 4)]
    return y, np.round(1 / (1 + np.exp(-generator.normal(y, 1.2))), 2)


@in_every_set
def test_the_interval_of_an_auc_is_that_of_proc(case: dict[str, Any]) -> None:
    y, p = np.array(case["y"]), np.array(case["p"])

    found = auc_delong(y, p)

    expected = [case["delong"][end] for end in ("auc", "low", "high")]
    assert [found.value, found.low, found.high] == pytest.approx(expected, abs=1e-6)
    assert auc_variance(y, p) == pytest.approx(case["delong"]["variance"], abs=1e-9)


@in_every_set
def test_the_difference_of_two_aucs_on_the_same_patients_is_that_of_proc(
    case: dict[str, Any],
) -> None:
    y, p, q = (np.array(case[key]) for key in "ypq")

    found = delong_difference(y, p, q)

    assert found.value == pytest.approx(case["paired"]["difference"], abs=1e-6)
    assert found.p_value == pytest.approx(case["paired"]["p_value"], abs=1e-6)
    assert found.low == pytest.approx(case["paired"]["low"], abs=1e-6)
    assert found.high == pytest.approx(case["paired"]["high"], abs=1e-6)


@in_every_set
def test_the_auc_is_val_probs_c_as_far_as_its_bins_of_the_log_odds_allow(
    case: dict[str, Any],
) -> None:
    found = auc_delong(np.array(case["y"]), np.array(case["p"])).value

    assert found == pytest.approx(case["val_prob"]["C (ROC)"], abs=1e-3)
    assert 2 * found - 1 == pytest.approx(case["val_prob"]["Dxy"], abs=1e-3)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_only_the_order_of_the_probabilities_counts(seed: int) -> None:
    y, p = sample(seed)

    found = auc_delong(y, p)

    assert auc_delong(y, np.exp(3 * p)) == found
    assert found.value == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_difference_changes_its_sign_with_the_order_of_the_models(seed: int) -> None:
    (y, one), (_, other) = sample(seed), sample(seed + 1)

    forth, back = delong_difference(y, one, other), delong_difference(y, other, one)

    assert [back.value, back.low, back.high] == pytest.approx(
        [-forth.value, -forth.high, -forth.low], abs=1e-12
    )
    assert back.p_value == pytest.approx(forth.p_value, abs=1e-12)


def test_the_variance_is_that_of_resampling_patients() -> None:
    y, p = sample(3, 400)
    counts = resampling_counts(y, 4000, 1)  # the diseased and the healthy keep their numbers

    resampled = weighted_metrics(y, p, counts, threshold=0.5)["auc"].var()

    assert auc_variance(y, p) == pytest.approx(resampled, rel=0.1)


def test_a_perfect_ranking_has_no_variance_and_says_so() -> None:
    y = np.array([0, 0, 0, 1, 1])

    assert auc_delong(y, np.array([0.1, 0.2, 0.3, 0.6, 0.7])) == Interval(1.0, 1.0, 1.0)


def test_two_perfect_and_opposite_rankings_have_no_p_value() -> None:
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.7])

    found = delong_difference(y, p, 1 - p)

    assert found.value == 1
    assert math.isnan(found.p_value)


def test_one_outcome_alone_has_no_auc_and_a_single_patient_no_interval() -> None:
    p = np.array([0.1, 0.4, 0.8])

    assert all(math.isnan(part) for part in vars(auc_delong(np.ones(3), p)).values())
    single = auc_delong(np.array([0, 0, 1]), p)
    assert single.value == 1
    assert math.isnan(single.low)
    assert math.isnan(single.high)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_an_operating_point_has_the_intervals_of_statsmodels(threshold: float) -> None:
    """A likelihood ratio is the risk ratio of an answer, the diseased against the healthy."""
    y, p = sample(5, 150)

    found = operating_point(y, p, threshold=threshold)

    tp, fp, fn, tn = found.tp, found.fp, found.fn, found.tn
    shares = {"sensitivity": (tp, tp + fn), "specificity": (tn, tn + fp)}
    shares |= {"ppv": (tp, tp + fp), "npv": (tn, tn + fn)}
    for name, (hits, total) in shares.items():
        interval = getattr(found, name)
        assert interval.value == hits / total
        expected = proportion_confint(hits, total, method="wilson")
        assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)
    for interval, table in (
        (found.lr_positive, Table2x2([[tp, fn], [fp, tn]])),
        (found.lr_negative, Table2x2([[fn, tp], [tn, fp]])),
    ):
        assert interval.value == pytest.approx(table.riskratio, abs=1e-12)
        expected = table.riskratio_confint()
        assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-9)


def test_a_patient_at_the_threshold_is_called_diseased() -> None:
    y, p = np.array([0, 0, 1, 1]), np.array([0.2, 0.5, 0.5, 0.4])

    found = operating_point(y, p, threshold=0.5)

    assert (found.tp, found.fp, found.fn, found.tn) == (1, 1, 1, 1)


def test_a_ratio_that_divides_by_zero_is_unknown_not_infinite() -> None:
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.7])

    found = operating_point(y, p, threshold=0.5)

    assert math.isnan(found.lr_positive.value)
    assert found.lr_negative.value == 0
    assert math.isnan(found.lr_negative.high)


def test_where_nobody_is_called_diseased_there_is_no_predictive_value() -> None:
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.7])

    found = operating_point(y, p, threshold=0.9)

    assert math.isnan(found.ppv.value)
    assert math.isnan(found.ppv.low)
    assert found.npv.value == 0.5
