"""The rule that picks a model, and the gates that refuse one."""

from __future__ import annotations

import numpy as np
import pytest

from heartdx import performance
from heartdx.errors import GateError
from heartdx.performance import Interval
from heartdx.pipelines import BY_CANDIDATE
from heartdx.train.choice import choose
from heartdx.train.gates import Gate, enforce, judge

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


def verdicts(*, informed: float = 2.0, n: int = 200, within_low: float = 0.7) -> dict[str, bool]:
    """The gates of a model whose log-odds follow the outcome that strongly."""
    generator = np.random.default_rng(0)
    y = (np.arange(n) % 2).astype(float)
    y_prob = 1 / (1 + np.exp(-(informed * (y - 0.5) + generator.normal(0, 0.5, n))))
    within = {"auc_within": Interval(within_low + 0.1, within_low, within_low + 0.2)}
    gates = judge(
        "exercise",
        y=y,
        y_prob=y_prob[:, None],
        baselines={"prevalence only": np.full((n, 1), 0.5)},
        metrics=within,
    )
    return {gate.name.removeprefix("exercise: "): gate.passed for gate in gates}


def test_a_good_model_passes_every_gate() -> None:
    assert verdicts() == {
        "enough patients": True,
        "better than chance inside hospitals": True,
        "better than prevalence only": True,
    }


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        ({"n": 30}, "enough patients"),
        ({"within_low": 0.49}, "better than chance inside hospitals"),
        ({"within_low": float("nan")}, "better than chance inside hospitals"),
        ({"informed": 0.0}, "better than prevalence only"),
        ({"informed": -1.0}, "better than prevalence only"),
    ],
)
def test_each_gate_can_fail_alone(broken: dict, failing: str) -> None:
    found = verdicts(**broken)

    assert [name for name, passed in found.items() if not passed] == [failing]


def test_a_model_that_only_recognises_the_hospital_is_refused(loaded) -> None:
    """Each hospital's own prevalence: a fair pooled AUC, and nothing known of the patient."""
    y = (loaded.frame["num"] > 0).to_numpy(dtype=float)
    sites = loaded.frame["site"].to_numpy(dtype=str)
    y_prob = np.array([y[sites == site].mean() for site in sites])

    metrics = performance.estimates(y, y_prob, threshold=0.5, sites=sites, seed=0)
    gates = judge("bedside", y=y, y_prob=y_prob[:, None], baselines={}, metrics=metrics)

    assert metrics["auc"].low > 0.65
    assert [g.passed for g in gates if "inside hospitals" in g.name] == [False]


def test_a_failed_gate_is_named_with_its_figure_and_has_its_exit_code() -> None:
    with pytest.raises(
        GateError, match=r"1 of 2 quality gates failed: a: b \(1, needed 2\)"
    ) as caught:
        enforce([Gate("a: b", False, "1, needed 2"), Gate("a: c", True, "")])
    assert caught.value.exit_code == 4


def test_passed_gates_let_the_model_through() -> None:
    enforce([Gate("a: b", True, "")])
