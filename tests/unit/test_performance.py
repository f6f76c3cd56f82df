"""Every metric agrees with a second library or an identity; intervals cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from heartdx import performance

SKLEARN = {
    "auc": lambda y, p, w: sk.roc_auc_score(y, p, sample_weight=w),
    "pr_auc": lambda y, p, w: sk.average_precision_score(y, p, sample_weight=w),
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p >= 0.5, sample_weight=w),
    "sensitivity": lambda y, p, w: sk.recall_score(y, p >= 0.5, sample_weight=w),
    "recall": lambda y, p, w: sk.recall_score(y, p >= 0.5, sample_weight=w),
    "specificity": lambda y, p, w: sk.recall_score(y, p >= 0.5, sample_weight=w, pos_label=0),
    "precision": lambda y, p, w: sk.precision_score(y, p >= 0.5, sample_weight=w),
    "npv": lambda y, p, w: sk.precision_score(y, p >= 0.5, sample_weight=w, pos_label=0),
    "f1": lambda y, p, w: sk.f1_score(y, p >= 0.5, sample_weight=w),
    "log_loss": lambda y, p, w: sk.log_loss(y, p, sample_weight=w),
    "brier": lambda y, p, w: sk.brier_score_loss(y, p, sample_weight=w),
}


def sample(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logit = generator.normal(0, 1.5, n)
    y = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    noisy = 1 / (1 + np.exp(-(logit + generator.normal(0, 0.5, n))))
    return y, np.round(np.clip(noisy, 0.01, 0.99), 2)  # rounded: ties in the ranking


@pytest.mark.parametrize("name", sorted(SKLEARN))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_weighted_metric_equals_scikit_learn(name: str, seed: int) -> None:
    y, y_prob = sample(seed)
    counts = performance.resampling_counts(np.zeros(len(y)), 5, seed)

    found = performance.weighted_metrics(y, y_prob, counts, threshold=0.5)[name]

    expected = [SKLEARN[name](y, y_prob, weights) for weights in counts]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_calibration_equals_a_logistic_model_of_statsmodels(seed: int) -> None:
    y, y_prob = sample(seed)
    logit = np.log(y_prob / (1 - y_prob))

    found = performance.weighted_metrics(y, y_prob, np.ones((1, len(y))), threshold=0.5)

    slope = sm.GLM(y, sm.add_constant(logit), family=sm.families.Binomial()).fit().params[1]
    in_the_large = (
        sm.GLM(y, np.ones(len(y)), family=sm.families.Binomial(), offset=logit).fit().params[0]
    )
    assert found["calibration_slope"][0] == pytest.approx(slope, abs=1e-8)
    assert found["calibration_in_the_large"][0] == pytest.approx(in_the_large, abs=1e-8)


def test_hanley_and_mcneils_printed_example_has_its_printed_auc() -> None:
    """Table I of Hanley and McNeil 1982: 109 CT images rated 1-5, area 0.893."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    ratings = np.array([1, 2, 3, 4, 5]) / 6
    y = np.r_[np.zeros(sum(normal)), np.ones(sum(abnormal))]
    y_prob = np.r_[np.repeat(ratings, normal), np.repeat(ratings, abnormal)]

    auc = performance.weighted_metrics(y, y_prob, np.ones((1, len(y))), threshold=0.5)["auc"][0]

    assert auc == pytest.approx(0.893, abs=5e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_flipping_labels_and_probabilities_leaves_the_auc(seed: int) -> None:
    y, y_prob = sample(seed, 60)
    ones = np.ones((1, 60))

    auc = performance.weighted_metrics(y, y_prob, ones, threshold=0.5)["auc"]
    flipped = performance.weighted_metrics(1 - y, 1 - y_prob, ones, threshold=0.5)["auc"]

    assert flipped == pytest.approx(auc, abs=1e-12, nan_ok=True)


def test_one_outcome_alone_gives_no_auc_and_no_made_up_number() -> None:
    found = performance.weighted_metrics(
        np.ones(3), np.array([0.2, 0.5, 0.9]), np.ones((1, 3)), threshold=0.5
    )

    assert np.isnan(found["auc"][0])
    assert np.isnan(found["pr_auc"][0])
    assert np.isnan(found["specificity"][0])


def test_a_constant_has_no_calibration_slope() -> None:
    y, _ = sample(0)

    found = performance.weighted_metrics(
        y, np.full(len(y), 0.4), np.ones((1, len(y))), threshold=0.5
    )

    assert np.isnan(found["calibration_slope"][0])
    assert found["auc"][0] == 0.5


def test_perfect_separation_has_no_finite_slope() -> None:
    y = np.r_[np.zeros(20), np.ones(20)]
    y_prob = np.r_[np.linspace(0.1, 0.4, 20), np.linspace(0.6, 0.9, 20)]

    found = performance.weighted_metrics(y, y_prob, np.ones((1, 40)), threshold=0.5)

    assert not found["calibration_slope"][0] < 50


def test_intervals_cover_the_true_auc_at_about_their_nominal_rate() -> None:
    """Two normals one apart have AUC Phi(1 / sqrt 2) = 0.7602; 200 draws, 95 % intervals."""
    truth, covered = 0.76025, 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        y = np.r_[np.zeros(75), np.ones(75)]
        score = 1 / (1 + np.exp(-(generator.normal(0, 1, 150) + y)))
        auc = performance.estimates(y, score, threshold=0.5, sites=y, seed=seed, resamples=200)[
            "auc"
        ]
        covered += auc.low <= truth <= auc.high

    assert 180 <= covered <= 198  # 95 % of 200 is 190; binomial 0.999 limits


def test_resampling_keeps_each_hospitals_size() -> None:
    sites = np.array(["a"] * 30 + ["b"] * 7)

    counts = performance.resampling_counts(sites, 50, 1)

    assert (counts[:, :30].sum(axis=1) == 30).all()
    assert (counts[:, 30:].sum(axis=1) == 7).all()


def test_the_threshold_follows_from_the_harm_ratio() -> None:
    """At the threshold the expected harms are equal: p * ratio = 1 - p."""
    for ratio in (0.5, 1.0, 4.0, 9.0):
        p = performance.threshold_from(ratio)

        assert p * ratio == pytest.approx(1 - p)


def test_the_confusion_matrix_has_truth_in_rows() -> None:
    y = np.array([0, 0, 0, 1, 1])
    y_prob = np.array([0.1, 0.5, 0.7, 0.2, 0.9])

    assert performance.confusion(y, y_prob, threshold=0.5).tolist() == [[1, 2], [1, 1]]


def test_a_pooled_auc_can_come_from_telling_hospitals_apart_and_the_inner_one_shows_it() -> None:
    sites = np.repeat(["low", "high"], 50)
    y = np.r_[np.tile([0, 0, 0, 0, 1], 10), np.tile([1, 1, 1, 1, 0], 10)].astype(float)
    y_prob = np.where(sites == "low", 0.2, 0.8)

    pooled = performance.weighted_metrics(y, y_prob, np.ones((1, 100)), threshold=0.5)["auc"][0]
    inside = performance.within_site_auc(y, y_prob, sites)
    estimates = performance.estimates(y, y_prob, threshold=0.5, sites=sites, seed=0)

    assert pooled > 0.75
    assert inside == {"low": 0.5, "high": 0.5}
    assert estimates["auc_within"].value == estimates["auc_within"].high == 0.5


def test_the_auc_inside_hospitals_is_the_mean_of_theirs() -> None:
    y, y_prob = sample(4)
    sites = np.array(["a", "b"] * 95 + ["few"] * 10)

    found = performance.estimates(y, y_prob, threshold=0.5, sites=sites, seed=0)["auc_within"]

    each = [sk.roc_auc_score(y[sites == site], y_prob[sites == site]) for site in "ab"]
    assert found.value == pytest.approx(np.mean(each))
    assert found.low < found.value < found.high
