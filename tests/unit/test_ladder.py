"""How many local patients mend a transferred probability: the recalibration ladder."""

from __future__ import annotations

import json

import numpy as np
import pytest

from heartdx.contract import NAMES, PANEL_BY_NAME
from heartdx.errors import ContractError
from heartdx.evaluation import ladder
from heartdx.pipelines import BY_CANDIDATE


def hospital(
    n: int = 400, *, shift: float = 0.0, stretch: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes whose true log-odds are ``shift + stretch`` times the transferred ones."""
    generator = np.random.default_rng(seed)
    log_odds = generator.normal(0, 1.5, n)
    truth = 1 / (1 + np.exp(-(shift + stretch * log_odds)))
    return (generator.random(n) < truth).astype(float), 1 / (1 + np.exp(-log_odds))


def brier(part: dict, step: str) -> np.ndarray:
    return np.array([each["value"] for each in part["steps"][step]["brier"]])


def test_where_the_level_is_wrong_the_intercept_mends_it() -> None:
    y, y_prob = hospital(shift=2.0)

    part = ladder.section(y, y_prob, seed=1, draws=50)

    assert (brier(part, "intercept") < brier(part, "none") - 0.02).all()
    assert part["picked"]["none"][-1] < 0.05


def test_where_nothing_is_wrong_the_closed_test_mostly_changes_nothing() -> None:
    """The test's level is 5 %; with 200 draws the share of changes stays below 10 %."""
    y, y_prob = hospital(n=2000)

    part = ladder.section(y, y_prob, seed=1, sizes=(100,))

    assert part["picked"]["none"][0] > 0.90


def test_where_the_spread_is_wrong_the_slope_is_mended_once_patients_suffice() -> None:
    y, y_prob = hospital(n=2000, stretch=0.2)

    part = ladder.section(y, y_prob, seed=1, sizes=(20, 400), draws=50)

    assert part["picked"]["intercept_slope"][1] > 0.9 > part["picked"]["intercept_slope"][0]
    assert brier(part, "intercept_slope")[1] < brier(part, "intercept")[1]


def test_the_bar_is_the_prevalence_of_the_same_patients() -> None:
    """Without information in the probabilities no recalibration beats it, and none is usable."""
    y, _ = hospital(n=600)
    blind = np.random.default_rng(9).uniform(0.2, 0.8, 600)

    part = ladder.section(y, blind, seed=1, sizes=(50, 100), draws=100)

    assert part["usable_from"] is None
    assert brier(part, "prevalence") == pytest.approx(np.mean(y) * (1 - np.mean(y)), abs=0.01)


def test_usable_means_from_here_on() -> None:
    y, y_prob = hospital(n=600)

    part = ladder.section(y, y_prob, seed=1, sizes=(30, 100), draws=50)

    assert part["usable_from"] == 30
    assert all(each["value"] < 0 for each in part["advantage"])


def test_the_advantage_is_paired() -> None:
    y, y_prob = hospital(n=300)

    part = ladder.section(y, y_prob, seed=3, draws=40)

    differences = brier(part, "closed_test") - brier(part, "prevalence")
    assert [each["value"] for each in part["advantage"]] == pytest.approx(differences, abs=2e-6)


def test_a_hospital_with_few_of_an_outcome_is_shown_and_proves_nothing() -> None:
    y, y_prob = hospital(n=123, shift=4.0)
    assert (y == 0).sum() < 20

    part = ladder.section(y, y_prob, seed=0, draws=30)

    assert part["gated"] is False
    assert json.loads(json.dumps(part, allow_nan=False)) == part


def test_draws_of_one_outcome_give_no_number_rather_than_a_made_up_one() -> None:
    y, y_prob = np.r_[np.zeros(1), np.ones(99)], np.linspace(0.2, 0.9, 100)

    part = ladder.section(y, y_prob, seed=0, sizes=(20,), draws=50)

    assert part["steps"]["prevalence"]["brier"][0]["value"] is not None
    assert part["steps"]["intercept"]["brier"][0]["value"] is not None  # draws that had both


def test_too_few_patients_to_judge_are_refused() -> None:
    with pytest.raises(ContractError, match="35 patients cannot give 20"):
        ladder.section(np.tile([0.0, 1.0, 1.0, 0.0, 1.0], 7), np.full(35, 0.5), seed=0)


def test_a_refit_learns_from_the_local_patients_only(loaded) -> None:
    """Other labels among the judged patients change nothing that is said of them."""
    here, there = np.arange(0, 100), np.arange(100, 303)
    table = loaded.frame[list(NAMES)].to_numpy(dtype=float)[:303]
    y = (loaded.frame["num"] > 0).to_numpy(dtype=float)[:303]
    pipelines = {
        name: BY_CANDIDATE["logreg"].pipeline(PANEL_BY_NAME[name], {"C": 0.3}, seed=0)
        for name in ("bedside", "exercise")
    }

    one = ladder.logistic_refit(table, y, pipelines)(here, there)
    flipped = np.r_[y[:100], 1 - y[100:]]
    two = ladder.logistic_refit(table, flipped, pipelines)(here, there)

    np.testing.assert_array_equal(one, two)
    assert ((one - y[there]) ** 2).mean() < 0.2
