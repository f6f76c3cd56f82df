"""Curves of the evaluation document: what is drawn, point by point."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from statsmodels.nonparametric.smoothers_lowess import lowess

from heartdx.evaluation import curves

y = np.random.default_rng(1).integers(0, 2, 300)
y_prob = np.clip(0.3 * y + np.random.default_rng(2).uniform(0, 0.7, 300), 0.01, 0.99)
SITES = np.repeat(["here", "there"], 150)


def test_the_area_under_the_roc_points_is_the_auc() -> None:
    curve = curves.roc(y, y_prob)

    area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])

    assert area == pytest.approx(roc_auc_score(y, y_prob), abs=1e-5)


def test_the_roc_runs_from_nobody_flagged_to_everybody_flagged() -> None:
    curve = curves.roc(y, y_prob)

    ends = [(curve["false_positive_rate"][i], curve["true_positive_rate"][i]) for i in (0, -1)]

    assert ends == [(0, 0), (1, 1)]


def test_without_one_outcome_there_is_no_roc() -> None:
    assert curves.roc(np.ones(5), y_prob[:5]) == {
        "false_positive_rate": [],
        "true_positive_rate": [],
    }


def test_a_picture_of_several_repeats_is_that_of_the_mean_probabilities() -> None:
    apart = 0.05 * np.random.default_rng(3).uniform(-1, 1, len(y))
    repeats = np.column_stack([y_prob + apart, y_prob - apart])
    settings = {"sites": SITES, "seed": 4, "resamples": 20}
    mean = repeats.mean(axis=1)

    assert curves.roc(y, repeats) == curves.roc(y, mean)
    assert curves.decision(y, repeats, **settings) == curves.decision(y, mean, **settings)
    assert curves.calibration_curve(y, repeats, **settings) == curves.calibration_curve(
        y, mean, **settings
    )


def test_the_calibration_curve_is_clevelands_lowess() -> None:
    curve = curves.calibration_curve(y, y_prob, sites=SITES, seed=4, resamples=20)
    smooth = lowess(y, y_prob, frac=2 / 3, it=0, delta=0.01 * np.ptp(y_prob))

    expected = np.interp(curve["grid"], smooth[:, 0], smooth[:, 1])

    assert curve["observed"] == pytest.approx(expected, abs=2e-3)


def test_the_histogram_holds_every_patient_once_in_a_bin_of_a_twentieth() -> None:
    curve = curves.calibration_curve(y, y_prob, sites=SITES, seed=4, resamples=20)

    assert len(curve["edges"]) == 21
    assert (curve["edges"][0], curve["edges"][1], curve["edges"][-1]) == (0, 0.05, 1)
    for count, outcome in (("events", 1), ("non_events", 0)):
        expected = [
            int(((y == outcome) & (y_prob >= low) & (y_prob < low + 0.05)).sum())
            for low in np.arange(20) / 20
        ]
        assert curve[count] == expected


def test_net_benefit_is_true_less_weighed_false_positives() -> None:
    curve = curves.decision(y, y_prob, sites=SITES, seed=4, resamples=20)
    place = 29
    threshold = curve["thresholds"][place]
    flagged = y_prob >= threshold

    gain = (flagged & (y == 1)).mean() - (flagged & (y == 0)).mean() * threshold / (1 - threshold)

    assert threshold == 0.3
    assert curve["model"][place] == pytest.approx(gain, abs=1e-6)


def test_treating_all_is_worth_nothing_at_the_prevalence() -> None:
    outcome = np.r_[np.ones(40), np.zeros(60)]
    curve = curves.decision(outcome, outcome, sites=np.zeros(100), seed=4, resamples=20)

    at_prevalence = curve["treat_all"][curve["thresholds"].index(0.4)]

    assert at_prevalence == pytest.approx(0, abs=1e-9)


def test_every_threshold_from_a_hundredth_on_has_its_numbers() -> None:
    curve = curves.decision(y, y_prob, sites=SITES, seed=4, resamples=20)

    assert {len(values) for values in curve.values()} == {99}
    assert (curve["thresholds"][0], curve["thresholds"][-1]) == (0.01, 0.99)


def test_a_curve_without_a_band_holds_nulls_and_no_nan() -> None:
    curve = curves.calibration_curve(y, y_prob, sites=SITES, seed=4, resamples=0)

    assert set(curve["low"]) == {None}
    assert json.dumps(curve, allow_nan=False)
