"""The rule that picks a model."""

from __future__ import annotations

import numpy as np
import pytest

from heartdx.evaluation.choice import choose
from heartdx.pipelines import BY_CANDIDATE

ELIGIBLE = (BY_CANDIDATE["logreg"], BY_CANDIDATE["forest"])
ONE_SITE = np.zeros(100)


def picked(logreg: np.ndarray, forest: np.ndarray, strata: np.ndarray = ONE_SITE):
    losses = {"logreg": logreg, "forest": forest}
    return choose(losses, strata, candidates=ELIGIBLE, measured="in a test")


def test_the_better_model_wins_when_it_is_clearly_better() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 100)

    choice = picked(np.full(100, 0.6), 0.4 + noise)

    assert choice.candidate == choice.best == "forest"
    assert "lowest mean log loss" in choice.reason
    assert choice.compared_with == "logreg"
    assert choice.difference == pytest.approx(-0.2, abs=0.01)


def test_the_simplest_wins_within_one_paired_standard_error() -> None:
    noise = np.random.default_rng(0).normal(0, 1.0, 100)

    choice = picked(0.5 + noise - noise.mean() + 0.05, np.full(100, 0.5))

    assert choice.candidate == "logreg"
    assert choice.best == "forest"
    assert 0 < choice.difference <= choice.standard_error
    assert "within one paired standard error" in choice.reason


def test_the_order_of_the_candidates_does_not_matter() -> None:
    losses = {"logreg": np.full(100, 0.6), "forest": np.full(100, 0.4)}

    one = choose(losses, ONE_SITE, candidates=ELIGIBLE, measured="")
    other = choose(losses, ONE_SITE, candidates=ELIGIBLE[::-1], measured="")

    assert one.candidate == other.candidate == "forest"


def test_hospitals_weigh_the_same_whatever_their_size() -> None:
    strata = np.repeat(["large", "small"], [90, 10])
    logreg = np.where(strata == "large", 0.40, 0.90)
    forest = np.where(strata == "large", 0.45, 0.50)

    choice = picked(logreg, forest, strata)

    assert logreg.mean() < forest.mean()
    assert choice.candidate == "forest"
    assert choice.losses["logreg"] == pytest.approx(0.65)


def test_the_standard_error_is_that_of_a_paired_mean() -> None:
    generator = np.random.default_rng(3)
    logreg, forest = generator.random(50), generator.random(50)

    choice = picked(logreg, forest, np.zeros(50))

    d = logreg - forest if choice.candidate == "logreg" else forest - logreg
    assert choice.difference == pytest.approx(d.mean())
    assert choice.standard_error == pytest.approx(d.std(ddof=1) / np.sqrt(50))


def test_a_missing_candidate_is_an_error_and_never_a_silent_winner() -> None:
    with pytest.raises(KeyError):
        choose({"logreg": np.ones(3)}, np.zeros(3), candidates=ELIGIBLE, measured="")
