"""What a real training run keeps so that an answer can say how sure it is and why."""

from __future__ import annotations

import json

import numpy as np
import pytest

from heartdx import bundle, equations
from heartdx.contract import BY_NAME, NAMES, PANEL_BY_NAME, PANEL_NAMES
from heartdx.reliability import contributions
from heartdx.train.reliability import reference

MOST_BYTES = 20_000


@pytest.fixture(scope="module")
def served(trained) -> bundle.Bundle:
    return trained.bundle


def document(served: bundle.Bundle, panel: str) -> dict:
    return json.loads((served.folder / panel / bundle.RELIABILITY).read_text())


def panel_table(loaded, panel: str) -> np.ndarray:
    """The patients who trained a panel: shape (n, 13)."""
    required = list(PANEL_BY_NAME[panel].required)
    frame = loaded.frame[loaded.frame[required].notna().all(axis=1)]
    return frame[list(NAMES)].to_numpy(dtype=np.float64)


def answers(served: bundle.Bundle, panel: str, table: np.ndarray) -> np.ndarray:
    return served.scorers[panel].probability(table[:, PANEL_BY_NAME[panel].columns])


@pytest.mark.parametrize("panel", PANEL_NAMES)
def test_every_trained_panel_keeps_a_small_file_that_the_manifest_lists(served, panel):
    path = served.folder / panel / bundle.RELIABILITY

    assert path.stat().st_size <= MOST_BYTES
    assert f"{panel}/{bundle.RELIABILITY}" in served.manifest["files"]
    assert panel in served.reliability
    assert served.manifest["policy"] == {"abstain_when": []}


@pytest.mark.parametrize("panel", PANEL_NAMES)
def test_each_patient_of_each_fold_calibrates(served, panel, loaded):
    calibration = document(served, panel)["calibration"]

    assert calibration["folds"] == 2  # two folds, once
    assert calibration["patients"] == len(panel_table(loaded, panel))


@pytest.mark.parametrize("panel", PANEL_NAMES)
def test_it_is_told_how_often_the_served_probability_lies_outside_its_own_range(
    served, panel, loaded
):
    p = answers(served, panel, panel_table(loaded, panel))

    low, high = served.reliability[panel].calibration.ranges(p).T

    outside = np.mean((p < low) | (p > high))
    assert document(served, panel)["calibration"]["served_outside"] == pytest.approx(
        outside, abs=1e-6
    )


@pytest.mark.parametrize("panel", PANEL_NAMES)
def test_the_mean_outcome_lies_between_the_means_of_low_and_high(served, panel, loaded):
    table = panel_table(loaded, panel)
    facts = served.manifest["panels"][panel]

    low, high = served.reliability[panel].calibration.ranges(answers(served, panel, table)).T

    assert low.mean() < facts["diseased"] / facts["patients"] < high.mean()


@pytest.mark.parametrize("panel", PANEL_NAMES)
def test_the_population_is_that_of_the_patients_who_trained_the_panel(served, panel, loaded):
    people = served.reliability[panel].population
    table = panel_table(loaded, panel)

    assert people.patients == len(table)
    assert people.used == served.used(panel)
    for name in people.used:
        known = table[:, NAMES.index(name)]
        known = known[~np.isnan(known)]
        if BY_NAME[name].codes:
            counts = {code: int((known == code).sum()) for code in BY_NAME[name].code_values}
            assert people.codes[name] == counts
        else:
            assert people.numbers[name] == (known.min(), known.max())


@pytest.mark.parametrize("panel", PANEL_NAMES)
def test_one_training_patient_in_a_hundred_is_called_far(served, panel, loaded):
    people = served.reliability[panel].population
    tested = people.false_positives

    assert tested.nominal == 0.01
    assert tested.low < tested.nominal < tested.high
    assert people.far(panel_table(loaded, panel)).mean() < tested.high


@pytest.mark.parametrize("panel", PANEL_NAMES)
def test_a_logistic_regression_keeps_reasons_and_a_forest_does_not(served, panel):
    is_equation = served.manifest["panels"][panel]["model"] == "logreg"

    assert (served.reliability[panel].reasons is not None) == is_equation


@pytest.mark.parametrize("panel", PANEL_NAMES)
def test_reasons_sum_to_the_logit_of_every_patient_and_cancel_over_all_of_them(
    logreg, panel, loaded
):
    table = panel_table(loaded, panel)
    equation = equations.equation_of(logreg.models[panel])
    p = answers(logreg.bundle, panel, table)

    means = reference(logreg.models[panel], table)
    told = [contributions(equation, means, row) for row in table.tolist()]

    sums = [one.base + sum(one.by_attribute.values()) for one in told]
    np.testing.assert_allclose(sums, np.log(p / (1 - p)), rtol=0, atol=1e-11)
    for name in means:
        assert np.mean([one.by_attribute[name] for one in told]) == pytest.approx(0, abs=1e-12)
