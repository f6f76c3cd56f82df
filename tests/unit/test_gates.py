"""The gates that refuse a model: each can fail, and alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heartdx import performance
from heartdx.errors import GateError
from heartdx.performance import Interval
from heartdx.performance.pooling import pool
from heartdx.train import limits
from heartdx.train.gates import (
    Agreement,
    Gate,
    HeldOut,
    enforce,
    export_gate,
    findings,
    judge,
)

NOTHING = Interval(math.nan, math.nan, math.nan)
HOSPITALS = {
    "large": HeldOut(Interval(0.80, 0.70, 0.90), patients=100, events=50),
    "few healthy": HeldOut(Interval(0.75, 0.48, 0.97), patients=123, events=115),
}


def log_odds(y: np.ndarray, *, informed: float, seed: int) -> np.ndarray:
    """Of a model whose log-odds follow the outcome that strongly."""
    return informed * (y - 0.5) + np.random.default_rng(seed).normal(0, 0.5, len(y))


def probability(log_odds: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-log_odds)))[:, None]


def a_good_panel() -> dict[str, Any]:
    """Arguments of ``judge`` that pass: 200 patients, every other one diseased.

    The present model is a poor one, so that a new one has to be poor indeed to be worse.
    """
    y = (np.arange(200) % 2).astype(float)
    return {
        "y": y,
        "y_prob": probability(log_odds(y, informed=2.0, seed=0)),
        "baselines": {"prevalence only": np.full((200, 1), 0.5)},
        "metrics": {
            "auc_within": Interval(0.8, 0.7, 0.9),
            "calibration_slope": Interval(1.0, 0.8, 1.2),
            "o_e": Interval(1.0, 0.9, 1.1),
        },
        "held_out": HOSPITALS,
        "groups": {"women": np.arange(200) < 40, "men": np.arange(200) >= 40},
        "champion": probability(log_odds(y, informed=-2.0, seed=1)),
    }


def verdicts(panel: Mapping[str, Any]) -> dict[str, bool]:
    gates = judge("exercise", **panel)
    return {gate.name.removeprefix("exercise: "): gate.passed for gate in gates}


def failed(panel: Mapping[str, Any]) -> list[str]:
    return [name for name, passed in verdicts(panel).items() if not passed]


# -- ways to break one thing -------------------------------------------------------------------


def few_patients(panel: dict[str, Any]) -> dict[str, Any]:
    rows = np.arange(30)
    return {
        **panel,
        "y": panel["y"][rows],
        "y_prob": panel["y_prob"][rows],
        "baselines": {name: p[rows] for name, p in panel["baselines"].items()},
        "groups": {name: mask[rows] for name, mask in panel["groups"].items()},
        "champion": panel["champion"][rows],
    }


def with_metric(name: str, estimate: Interval):
    return lambda panel: {**panel, "metrics": {**panel["metrics"], name: estimate}}


def informed(strength: float):
    def broken(panel: dict[str, Any]) -> dict[str, Any]:
        return {**panel, "y_prob": probability(log_odds(panel["y"], informed=strength, seed=0))}

    return broken


def with_hospital(site: str, auc: Interval):
    def broken(panel: dict[str, Any]) -> dict[str, Any]:
        return {**panel, "held_out": {**HOSPITALS, site: replace(HOSPITALS[site], auc=auc)}}

    return broken


def a_better_present_model(panel: dict[str, Any]) -> dict[str, Any]:
    """Better by so little that it is certain in 200 patients and not in 40 of them."""
    own = np.log(panel["y_prob"] / (1 - panel["y_prob"]))[:, 0]
    shift = (2 * panel["y"] - 1) * np.where(np.arange(200) // 2 % 2, 1.4, -0.4)
    fifths = {f"fifth {k}": np.arange(200) // 40 == k for k in range(5)}
    return {**panel, "champion": probability(own + shift), "groups": fifths}


def a_present_model_better_for_women(panel: dict[str, Any]) -> dict[str, Any]:
    women = panel["groups"]["women"][:, None]
    useful = probability(log_odds(panel["y"], informed=6.0, seed=1))
    return {**panel, "champion": np.where(women, useful, panel["champion"])}


BROKEN = {
    "too few patients": (few_patients, "enough patients"),
    "no ranking inside hospitals": (
        with_metric("auc_within", Interval(0.59, 0.49, 0.69)),
        "better than chance inside hospitals",
    ),
    "ranking inside hospitals unknown": (
        with_metric("auc_within", NOTHING),
        "better than chance inside hospitals",
    ),
    "knows nothing": (informed(0.0), "better than prevalence only"),
    "knows the opposite": (informed(-1.0), "better than prevalence only"),
    "overfitted": (
        with_metric("calibration_slope", Interval(0.79, 0.7, 0.9)),
        "calibration slope",
    ),
    "too timid": (with_metric("calibration_slope", Interval(1.26, 1.0, 1.5)), "calibration slope"),
    "slope unknown": (with_metric("calibration_slope", NOTHING), "calibration slope"),
    "too few expected": (with_metric("o_e", Interval(1.11, 1.0, 1.2)), "observed over expected"),
    "too many expected": (with_metric("o_e", Interval(0.89, 0.8, 1.0)), "observed over expected"),
    "barely ranks in a hospital": (
        with_hospital("large", Interval(0.80, 0.55, 0.90)),
        "held-out large",
    ),
    "ranks the wrong way round": (
        with_hospital("few healthy", Interval(0.5, 0.3, 0.7)),
        "held-out few healthy",
    ),
    "AUC of a hospital unknown": (with_hospital("large", NOTHING), "held-out large"),
    "the present model is better": (a_better_present_model, "not worse than the present model"),
    "worse for women only": (a_present_model_better_for_women, "no group worse off"),
}


def test_a_good_model_passes_every_gate() -> None:
    assert verdicts(a_good_panel()) == {
        "enough patients": True,
        "better than chance inside hospitals": True,
        "better than prevalence only": True,
        "calibration slope": True,
        "observed over expected": True,
        "held-out large": True,
        "held-out few healthy": True,
        "not worse than the present model": True,
        "no group worse off": True,
    }


@pytest.mark.parametrize(("broken", "failing"), BROKEN.values(), ids=BROKEN)
def test_each_gate_can_fail_alone(broken, failing: str) -> None:
    assert failed(broken(a_good_panel())) == [failing]


def test_no_gate_is_left_without_a_way_to_fail() -> None:
    assert {failing for _, failing in BROKEN.values()} == set(verdicts(a_good_panel()))


def test_every_gate_says_why_it_is_there_and_what_was_needed() -> None:
    for gate in judge("exercise", **a_good_panel()):
        assert gate.reason.endswith("."), gate.name
        assert "needed" in gate.figure, gate.name


def test_a_model_that_only_recognises_the_hospital_is_refused(loaded) -> None:
    """Each hospital's own prevalence: a fair pooled AUC, and nothing known of the patient."""
    y = (loaded.frame["num"] > 0).to_numpy(dtype=float)
    sites = loaded.frame["site"].to_numpy(dtype=str)
    y_prob = np.array([y[sites == site].mean() for site in sites])

    metrics = performance.estimates(y, y_prob, threshold=0.5, sites=sites, seed=0)
    gates = judge("bedside", y=y, y_prob=y_prob[:, None], baselines={}, metrics=metrics)

    assert metrics["auc"].low > 0.65
    assert [g.passed for g in gates if "inside hospitals" in g.name] == [False]


# -- the present model and the groups -----------------------------------------------------------


def test_the_first_model_has_nobody_to_be_worse_than() -> None:
    panel = {**a_good_panel(), "champion": None, "groups": {}}

    (gate,) = [g for g in judge("exercise", **panel) if "present" in g.name]

    assert gate.passed
    assert gate.figure == "no present model"


def test_the_same_model_again_is_not_worse_than_itself() -> None:
    panel = a_good_panel()

    assert failed({**panel, "champion": panel["y_prob"]}) == []


@pytest.mark.parametrize(("cost", "passed"), [(0.009, True), (0.011, False)])
def test_worse_by_less_than_the_margin_is_let_through(cost: float, passed: bool) -> None:
    """Every patient's log loss is 0.5 nats with the present model, and more with the new one."""
    panel = {**a_good_panel(), "groups": {}}
    of_truth = {"champion": math.exp(-0.5), "y_prob": math.exp(-0.5 - cost)}
    models = {name: np.where(panel["y"] == 1, p, 1 - p)[:, None] for name, p in of_truth.items()}

    found = verdicts({**panel, **models})

    assert found["not worse than the present model"] is passed


def test_a_present_model_without_a_probability_fails_rather_than_passes() -> None:
    panel = {**a_good_panel(), "groups": {}}
    champion = panel["champion"].copy()
    champion[0] = np.nan

    assert failed({**panel, "champion": champion}) == ["not worse than the present model"]


def test_the_difference_from_the_present_model_is_the_paired_t_tests() -> None:
    """With 200 patients Student's interval is 1 % wider than the normal one that is used."""
    from scipy import stats
    from sklearn.metrics import log_loss

    panel = a_good_panel()
    y, new, old = panel["y"], panel["y_prob"][:, 0], panel["champion"][:, 0]
    own, others = (-np.log(np.where(y == 1, p, 1 - p)) for p in (new, old))
    interval = stats.ttest_rel(own, others).confidence_interval()

    (gate,) = [g for g in judge("exercise", **panel) if "present" in g.name]
    figures = [float(word.strip("()")) for word in gate.figure.split()[4:8] if word != "to"]

    assert figures[0] == pytest.approx(log_loss(y, new) - log_loss(y, old), abs=5e-4)
    assert figures[1:] == pytest.approx([interval.low, interval.high], abs=3e-3)


def test_before_there_is_a_present_model_groups_are_compared_with_age_and_sex() -> None:
    panel = a_good_panel()
    women = panel["groups"]["women"]
    useful = probability(np.where(women, 6.0, 0.0) * (panel["y"] - 0.5))
    baselines = {"age and sex": useful}

    gates = judge("exercise", **{**panel, "champion": None, "baselines": baselines})
    (gate,) = [g for g in gates if "group" in g.name]

    assert not gate.passed
    assert "from age and sex in 2 of 2 groups, women" in gate.figure


@pytest.mark.parametrize(("diseased", "passed"), [(19, True), (20, False)])
def test_a_group_needs_twenty_of_both_outcomes_to_be_judged(diseased: int, passed: bool) -> None:
    panel = a_present_model_better_for_women(a_good_panel())
    women = panel["groups"]["women"].copy()
    women[np.flatnonzero(women & (panel["y"] == 1))[diseased:]] = False

    (gate,) = [
        g for g in judge("exercise", **{**panel, "groups": {"women": women}}) if "group" in g.name
    ]

    assert gate.passed is passed


def test_the_margin_is_what_seven_percentage_points_cost_near_one_half() -> None:
    """Expected log loss of one half, while the truth is 7 (8) points off, above the least."""

    def cost(off: float) -> float:
        p, q = 0.5, 0.5 + off
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    assert cost(0.07) <= limits.LOSS_MARGIN < cost(0.08)


# -- hospitals that trained nothing -------------------------------------------------------------


def test_the_lower_bound_counts_only_where_both_outcomes_are_there_twenty_times() -> None:
    wide = Interval(0.75, 0.48, 0.97)

    found = {
        healthy: failed({**a_good_panel(), "held_out": {"site": HeldOut(wide, 100, 100 - healthy)}})
        for healthy in (19, 20)
    }

    assert found == {19: [], 20: ["held-out site"]}


@pytest.mark.parametrize(
    "too_little",
    [HeldOut(Interval(0.2, 0.1, 0.3), patients=19, events=9), HeldOut(NOTHING, 50, 50)],
)
def test_a_hospital_that_says_nothing_is_told_and_not_gated(too_little: HeldOut) -> None:
    panel = {**a_good_panel(), "held_out": {"tiny": too_little}}

    told = findings(
        "exercise", y=panel["y"], held_out={"tiny": too_little}, groups={}, pooled_auc=None
    )

    assert not any("held-out" in name for name in verdicts(panel))
    assert any("tiny" in sentence and "too few to be gated" in sentence for sentence in told)


@pytest.mark.parametrize(("of_each", "auc"), [(20, 0.71), (100, 0.63)])
def test_the_floor_asks_for_the_auc_that_its_reason_states(of_each: int, auc: float) -> None:
    """Hanley and McNeil's standard error, Radiology 1982;143:29-36, equation 1."""
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (of_each - 1) * (one + two - 2 * auc**2)
    low = auc - 1.96 * math.sqrt(variance) / of_each

    assert low == pytest.approx(limits.HELD_OUT_FLOOR, abs=0.01)


# -- findings, export, refusal ------------------------------------------------------------------


def test_what_to_expect_in_the_next_hospital_is_told_and_never_gated() -> None:
    panel = a_good_panel()
    pooled = pool(np.array([1.6, 1.7, 1.1, 0.9]), np.full(4, 0.15), scale="logit")
    few = {"women over 80": np.arange(200) < 9}

    told = findings("exercise", y=panel["y"], held_out=HOSPITALS, groups=few, pooled_auc=pooled)

    assert told == [
        "exercise: in a hospital not seen yet the AUC is likely between "
        f"{pooled.natural_prediction.low:.2f} and {pooled.natural_prediction.high:.2f} (95 % "
        "prediction interval from 4 hospitals); it is not gated, for so few hospitals cannot make "
        "it narrow",
        "exercise: held-out few healthy has 8 of the rarer outcome, AUC 0.750 (0.480 to 0.970): "
        "its lower bound is not gated",
        "exercise: groups with fewer than 20 of an outcome are not gated: women over 80",
    ]


def test_that_transfer_is_not_estimable_is_told() -> None:
    told = findings("imaging", y=np.ones(3), held_out={}, groups={}, pooled_auc=None)

    assert told == ["imaging: no hospital could be held out, so transfer is not estimable"]


def test_an_export_that_agrees_passes_with_its_largest_difference() -> None:
    gate = export_gate("exercise", {"equation": Agreement(2e-16, 1e-9, 977)})

    assert gate.passed
    assert gate.name == "exercise: export agrees with the fitted pipeline"
    assert gate.figure == "equation: largest difference 2e-16 over 977 rows, allowed 1e-09"


@pytest.mark.parametrize(
    "forms",
    [
        {"equation": Agreement(2e-9, 1e-9, 977)},
        {"equation": Agreement(math.nan, 1e-9, 977)},
        {"equation": Agreement(0.0, 1e-9, 0)},
        {"equation": Agreement(0.0, 1e-9, 977), "onnx": Agreement(1e-5, 1e-6, 977)},
        {},
    ],
    ids=["too far", "no number", "no rows", "one form of two", "nothing compared"],
)
def test_an_export_fails_when_any_form_differs_or_was_not_compared(
    forms: dict[str, Agreement],
) -> None:
    assert not export_gate("exercise", forms).passed


def test_a_failed_gate_is_named_with_its_figure_and_has_its_exit_code() -> None:
    gates = [Gate("a: b", False, "1, needed 2", "Why."), Gate("a: c", True, "", "Why.")]

    with pytest.raises(
        GateError, match=r"1 of 2 quality gates failed: a: b \(1, needed 2\)"
    ) as caught:
        enforce(gates)
    assert caught.value.exit_code == 4


def test_passed_gates_let_the_model_through() -> None:
    enforce([Gate("a: b", True, "", "Why.")])
