"""How often the probability shift fires though nothing shifted, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from staging import PROMETHEUS

ALERTS = (PROMETHEUS / "rules" / "alerts.yaml").read_text()
RECORDED = (PROMETHEUS / "rules" / "recording.yaml").read_text()
YEARS = 60
STEP, RECENT, REFERENCE = 15, 6 * 60, 7 * 24 * 60
"""Minutes."""


def false_alarms_a_year(patients: int, *, spread: float, seed: int = 2024) -> float:
    """Of one panel whose patients are independent and have a mean of 0.5 all the time.

    Parameters
    ----------
    patients : expected in 6 hours.
    spread : standard deviation of the probabilities; at 0.5 they are 0 or 1.
    """
    draw = np.random.default_rng(seed)
    came = draw.poisson(patients * STEP / RECENT, YEARS * 365 * 24 * 60 // STEP)
    noise = draw.normal(0, 1, came.size) * np.sqrt(came) * spread
    answered = draw.binomial(came, 0.5) if spread == 0.5 else came * 0.5 + noise
    counts, sums = (np.concatenate([[0.0], of.cumsum()]) for of in (came, answered))
    now = np.arange((RECENT + REFERENCE) // STEP, counts.size)
    before, start = now - RECENT // STEP, now - (RECENT + REFERENCE) // STEP
    n, n_before = counts[now] - counts[before], counts[before] - counts[start]
    mean = (sums[now] - sums[before]) / np.maximum(n, 1)
    mean_before = (sums[before] - sums[start]) / np.maximum(n_before, 1)
    variance = mean * (1 - mean) / np.maximum(n, 1) + mean_before * (1 - mean_before) / n_before
    distance = np.abs(mean - mean_before)
    true = (n >= 100) & (n_before >= 500) & (distance > 0.1) & (distance > 4 * np.sqrt(variance))
    firing = true[1:] & true[:-1]  # for: 15m
    return float((firing[1:] & ~firing[:-1]).sum()) / YEARS


def test_the_simulation_is_of_the_rule_as_it_stands():
    [rule] = [
        rule
        for group in yaml.safe_load(ALERTS)["groups"]
        for rule in group["rules"]
        if rule["alert"] == "HeartApiProbabilityShift"
    ]

    assert rule["for"] == f"{STEP}m"
    assert ") > 0.1\nand" in rule["expr"]
    assert "> 4 * sqrt(" in rule["expr"]
    assert 'heartdx_probability_count{job="heart-api"}[6h])) >= 100' in RECORDED
    assert 'heartdx_probability_count{job="heart-api"}[7d])) >= 500' in RECORDED


@pytest.mark.parametrize("patients", [100, 200, 400])
def test_in_the_worst_case_it_is_about_one_a_year(patients: int):
    assert 0.2 < false_alarms_a_year(patients, spread=0.5) < 1.5


@pytest.mark.parametrize("patients", [100, 400])
def test_with_the_spread_of_the_real_models_it_is_none(patients: int):
    assert false_alarms_a_year(patients, spread=0.34) == 0
