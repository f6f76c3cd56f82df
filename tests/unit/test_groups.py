"""Groups of patients: who is in them, what is shown, and which differences are chance."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.stats import chi2_contingency, norm
from sklearn.metrics import brier_score_loss, roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from heartdx.evaluation import groups
from heartdx.performance.discrimination import auc_variance


def patients(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Probabilities that are right and have nothing to do with sex, age or hospital."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": generator.integers(35, 76, n).astype(float),
            "sex": generator.integers(0, 2, n).astype(float),
            "site": generator.choice(["here", "there"], n),
        }
    )
    y_prob = generator.uniform(0.05, 0.95, n)
    return frame, generator.binomial(1, y_prob).astype(float), y_prob


def of(found: list[dict], group: str) -> dict:
    return next(entry for entry in found if entry["group"] == group)


def section(frame, y, y_prob) -> list[dict]:
    return groups.section(frame, y, y_prob, threshold=0.5, seed=3)


@pytest.fixture(scope="module")
def fair() -> tuple[pd.DataFrame, np.ndarray, np.ndarray, list[dict]]:
    frame, y, y_prob = patients(500, 1)
    return frame, y, y_prob, section(frame, y, y_prob)


# -- who and what --------------------------------------------------------------------------------


def test_groups_are_by_sex_age_hospital_and_sex_with_age(fair) -> None:
    *_, found = fair

    assert [(entry["by"], entry["group"]) for entry in found] == [
        ("sex", "women"),
        ("sex", "men"),
        ("age", "under 50"),
        ("age", "50 to 59"),
        ("age", "60 and over"),
        ("site", "here"),
        ("site", "there"),
        ("sex × age", "women under 50"),
        ("sex × age", "women 50 to 59"),
        ("sex × age", "women 60 and over"),
        ("sex × age", "men under 50"),
        ("sex × age", "men 50 to 59"),
        ("sex × age", "men 60 and over"),
    ]


def test_every_patient_is_in_one_group_of_each_kind(fair) -> None:
    frame, y, _, found = fair

    for by in ("sex", "age", "site", "sex × age"):
        kind = [entry for entry in found if entry["by"] == by]
        assert sum(entry["patients"] for entry in kind) == len(frame)
        assert sum(entry["events"] for entry in kind) == y.sum()


def test_a_file_of_one_hospital_has_no_group_by_hospital() -> None:
    frame, y, y_prob = patients(200, 2)

    found = section(frame.assign(site="here"), y, y_prob)

    assert "site" not in {entry["by"] for entry in found}


def test_measures_are_those_of_the_groups_own_patients(fair) -> None:
    frame, y, y_prob, found = fair
    women = (frame["sex"] == 0).to_numpy()
    y, y_prob = y[women], y_prob[women]

    measured = of(found, "women")["metrics"]

    assert set(measured) == {
        "auc",
        "calibration_in_the_large",
        "o_e",
        "sensitivity",
        "specificity",
        "net_benefit",
        "brier",
    }
    assert measured["auc"]["value"] == pytest.approx(roc_auc_score(y, y_prob), abs=1e-6)
    assert measured["brier"]["value"] == pytest.approx(brier_score_loss(y, y_prob), abs=1e-6)
    assert measured["o_e"]["value"] == pytest.approx(y.sum() / y_prob.sum(), abs=1e-6)
    assert measured["sensitivity"]["value"] == pytest.approx(
        (y_prob >= 0.5)[y == 1].mean(), abs=1e-6
    )


def test_a_group_with_few_of_an_outcome_holds_no_number() -> None:
    frame, y, y_prob = patients(400, 4)
    old_women = ((frame["sex"] == 0) & (frame["age"] >= 60)).to_numpy()
    y[old_women] = np.r_[np.zeros(8), np.ones(old_women.sum() - 8)]

    hidden = of(section(frame, y, y_prob), "women 60 and over")

    assert hidden["shown"] is False
    assert hidden["reason"] == "suppressed: 8 without disease, needed 20"
    assert hidden["patients"] == old_women.sum()
    assert hidden["metrics"] == hidden["difference"] == {}
    assert hidden["p_value"] == hidden["p_adjusted"] == {}


def test_a_group_whose_others_are_few_is_shown_and_not_compared() -> None:
    frame, y, y_prob = patients(300, 5)
    frame["sex"] = np.r_[np.zeros(10), np.ones(290)]
    y[:10] = np.r_[np.zeros(6), np.ones(4)]

    men = of(section(frame, y, y_prob), "men")

    assert men["shown"] is True
    assert men["metrics"]["auc"]["value"] is not None
    assert men["difference"] == {}
    assert men["reason"] == (
        "not compared: of the others 4 with and 6 without disease, needed 20 of each"
    )


def test_repeats_that_agree_count_as_one() -> None:
    frame, y, y_prob = patients(200, 6)

    assert section(frame, y, np.column_stack([y_prob, y_prob])) == section(frame, y, y_prob)


def test_the_section_is_plain_json(fair) -> None:
    *_, found = fair

    assert json.dumps(found, allow_nan=False)


# -- differences ---------------------------------------------------------------------------------


def test_holm_is_the_procedure_of_statsmodels() -> None:
    p_values = np.random.default_rng(1).uniform(0, 0.2, 30) ** 2

    adjusted = groups.holm(p_values)

    np.testing.assert_allclose(adjusted, multipletests(p_values, method="holm")[1])


def test_a_comparison_that_cannot_be_made_does_not_count_in_holms_number() -> None:
    p_values = np.array([0.01, np.nan, 0.02])

    adjusted = groups.holm(p_values)

    np.testing.assert_allclose(adjusted, [0.02, np.nan, 0.02])


def test_adjusted_p_values_are_over_all_comparisons_of_all_groups(fair) -> None:
    *_, found = fair
    raw = [p for entry in found for p in entry["p_value"].values()]
    adjusted = [p for entry in found for p in entry["p_adjusted"].values()]

    assert len(raw) == 3 * len(found)
    np.testing.assert_allclose(adjusted, multipletests(raw, method="holm")[1], atol=1e-4)


@pytest.mark.parametrize(
    ("found", "diseased", "others_found", "others"),
    [(56, 70, 48, 80), (20, 20, 425, 500), (3, 25, 40, 200)],
)
def test_sensitivities_are_compared_by_newcombe_and_the_score_test(
    found: int, diseased: int, others_found: int, others: int
) -> None:
    interval = confint_proportions_2indep(found, diseased, others_found, others, method="newcomb")
    table = [[found, diseased - found], [others_found, others - others_found]]

    made = groups.sensitivity_difference(found, diseased, others_found, others)

    assert (made.difference.low, made.difference.high) == pytest.approx(interval, abs=1e-9)
    assert made.p_value == pytest.approx(chi2_contingency(table, correction=False).pvalue)


def test_sensitivities_that_are_both_whole_do_not_differ() -> None:
    made = groups.sensitivity_difference(20, 20, 30, 30)

    assert (made.difference.value, made.p_value) == (0, 1)


def test_the_error_of_an_auc_difference_is_delongs() -> None:
    frame, y, y_prob = patients(800, 7)
    frame["site"] = "here"
    women = (frame["sex"] == 0).to_numpy()

    made = of(section(frame, y, y_prob), "women")["difference"]["auc"]

    value = roc_auc_score(y[women], y_prob[women]) - roc_auc_score(y[~women], y_prob[~women])
    error = math.sqrt(
        auc_variance(y[women], y_prob[women]) + auc_variance(y[~women], y_prob[~women])
    )
    assert made["value"] == pytest.approx(value, abs=1e-6)
    assert (made["high"] - made["low"]) / 2 == pytest.approx(norm.ppf(0.975) * error, rel=0.1)


def test_the_error_of_a_calibration_difference_is_that_of_two_intercepts() -> None:
    frame, y, y_prob = patients(800, 7)
    frame["site"] = "here"
    women = (frame["sex"] == 0).to_numpy()
    logit = np.log(y_prob / (1 - y_prob))

    made = of(section(frame, y, y_prob), "women")["difference"]["calibration_in_the_large"]

    fits = [
        sm.GLM(
            y[rows], np.ones(rows.sum()), family=sm.families.Binomial(), offset=logit[rows]
        ).fit()
        for rows in (women, ~women)
    ]
    error = math.hypot(*(fit.bse[0] for fit in fits))
    assert made["value"] == pytest.approx(fits[0].params[0] - fits[1].params[0], abs=1e-5)
    assert (made["high"] - made["low"]) / 2 == pytest.approx(norm.ppf(0.975) * error, rel=0.1)


def test_women_against_men_is_men_against_women_turned_round(fair) -> None:
    *_, found = fair
    women, men = of(found, "women"), of(found, "men")

    assert women["p_value"] == men["p_value"]
    for name, difference in women["difference"].items():
        assert difference["value"] == -men["difference"][name]["value"]
        assert difference["low"] == -men["difference"][name]["high"]


def test_a_group_ranked_without_fault_has_no_known_error_of_its_auc() -> None:
    frame, y, y_prob = patients(400, 8)
    women = (frame["sex"] == 0).to_numpy()
    y_prob[women] = np.where(y[women] == 1, 0.9, 0.1)

    found = of(section(frame, y, y_prob), "women")

    assert found["metrics"]["auc"]["value"] == 1
    assert found["difference"]["auc"]["low"] is None
    assert found["p_value"]["auc"] is found["p_adjusted"]["auc"] is None


def test_probabilities_that_are_wrong_for_women_are_found() -> None:
    frame, y, y_prob = patients(1200, 9)
    women = (frame["sex"] == 0).to_numpy()
    logit = np.log(y_prob / (1 - y_prob)) + 1.2 * women
    y = np.random.default_rng(10).binomial(1, 1 / (1 + np.exp(-logit))).astype(float)

    found = of(section(frame, y, y_prob), "women")

    difference = found["difference"]["calibration_in_the_large"]
    assert difference["low"] < 1.2 < difference["high"]
    assert found["p_adjusted"]["calibration_in_the_large"] < 0.001


def test_groups_drawn_as_the_others_are_seldom_found_to_differ() -> None:
    runs = [section(*patients(300, seed)) for seed in range(100, 112)]

    alarms = sum(
        any(p is not None and p < 0.05 for entry in run for p in entry["p_adjusted"].values())
        for run in runs
    )

    # Of 12 families at 5 %, four or more with a false alarm would be a chance of 2 in 1000.
    assert alarms <= 3
