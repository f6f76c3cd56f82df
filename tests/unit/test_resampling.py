"""Folds, tuning and scoring: nothing that scores a patient has seen the patient."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartdx.contract import PANELS
from heartdx.errors import ContractError
from heartdx.pipelines import BY_CANDIDATE
from heartdx.resampling import (
    Patients,
    cross_validation_splits,
    fitted,
    fitted_with,
    folds,
    leave_one_site_out_splits,
    log_losses,
    mean_of_means,
    score_all,
)

BEDSIDE = PANELS[0]


def some_patients(n: int = 120, seed: int = 0, sites: int = 2) -> Patients:
    """Synthetic bedside patients whose outcome depends on age and sex."""
    generator = np.random.default_rng(seed)
    age = generator.uniform(30, 75, n).round()
    sex = generator.integers(0, 2, n).astype(float)
    X = np.column_stack(
        [
            age,
            sex,
            generator.integers(1, 5, n),
            generator.uniform(100, 180, n).round(),
            np.where(generator.random(n) < 0.2, np.nan, generator.uniform(150, 300, n).round()),
            generator.integers(0, 2, n),
            generator.integers(0, 3, n),
        ]
    ).astype(float)
    logit = 0.1 * (age - 52) + sex - 0.5
    y = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    names = np.array([f"site{place % sites}" for place in range(n)])
    return Patients(BEDSIDE, X, y, names, np.arange(n))


@given(st.integers(0, 1000), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_every_patient_is_scored_once_and_no_group_is_divided(seed: int, splits: int) -> None:
    patients = some_patients(seed=seed)
    groups = np.random.default_rng(seed).integers(0, 70, 120)
    y = np.array([patients.y[groups == group][0] for group in groups])
    patients = Patients(BEDSIDE, patients.X, y, patients.sites, groups)

    pairs = folds(patients, splits=splits, seed=seed)

    tested = np.concatenate([test for _, test in pairs])
    assert sorted(tested) == list(range(120))
    for train, test in pairs:
        assert not set(groups[train]) & set(groups[test])
        assert len(train) + len(test) == 120


def test_folds_are_stratified_by_outcome_and_hospital() -> None:
    patients = some_patients(n=400)

    for _, test in folds(patients, splits=5, seed=1):
        for site in ("site0", "site1"):
            rows = patients.sites[test] == site
            whole = patients.sites == site
            assert patients.y[test][rows].mean() == pytest.approx(
                patients.y[whole].mean(), abs=0.03
            )


def test_ucis_own_duplicates_share_a_fold(loaded) -> None:
    table = loaded.frame.to_numpy(dtype=object)
    pairs = [
        np.flatnonzero(loaded.groups == group)
        for group in np.unique(loaded.groups)
        if (loaded.groups == group).sum() > 1
    ]

    assert [len(pair) for pair in pairs] == [2, 2]
    assert [table[pair[0], -1] for pair in pairs] == ["hungary", "va"]


def test_too_few_of_one_outcome_is_a_clear_error() -> None:
    patients = some_patients()
    y = np.zeros(120)
    y[:3] = 1

    with pytest.raises(ContractError, match="3 patients of one outcome cannot fill 5 folds"):
        folds(Patients(BEDSIDE, patients.X, y, patients.sites, patients.groups), splits=5, seed=0)


def test_a_held_out_hospital_trains_nothing() -> None:
    patients = some_patients(sites=3)

    splits = leave_one_site_out_splits(patients, seed=0)

    assert [split.key for split in splits] == ["site0", "site1", "site2"]
    for split in splits:
        assert set(patients.sites[split.test]) == {split.key}
        assert split.key not in set(patients.sites[split.train])


def test_one_hospital_alone_cannot_be_left_out() -> None:
    assert leave_one_site_out_splits(some_patients(sites=1), seed=0) == []


def state(pipeline) -> list[np.ndarray]:
    """Everything a fitted pipeline learnt, as arrays."""
    import pickle

    return [np.frombuffer(pickle.dumps(pipeline), dtype=np.uint8)]


@pytest.mark.parametrize("name", ["age_sex", "logreg", "forest"])
def test_what_is_fitted_never_depends_on_the_patients_it_will_score(name: str) -> None:
    """The leakage test: other values and labels in the test rows change nothing learnt."""
    patients = some_patients()
    split = cross_validation_splits(patients, splits=3, repeats=1, seed=0)[0]
    scrambled_X, scrambled_y = patients.X.copy(), patients.y.copy()
    scrambled_X[split.test] = patients.X[split.test][::-1] + 7
    scrambled_y[split.test] = 1 - patients.y[split.test]
    other = Patients(BEDSIDE, scrambled_X, scrambled_y, patients.sites, patients.groups)

    one, first = fitted(BY_CANDIDATE[name], patients.take(split.train), seed=5)
    two, second = fitted(BY_CANDIDATE[name], other.take(split.train), seed=5)

    assert first.parameters == second.parameters
    np.testing.assert_array_equal(first.losses, second.losses)
    np.testing.assert_array_equal(state(one)[0], state(two)[0])


def test_imputing_before_the_split_would_be_seen_by_the_leakage_test() -> None:
    """The test above can fail: the same comparison on a pipeline that saw all rows differs."""
    patients = some_patients()
    changed = patients.X.copy()
    changed[100:] += 7

    one, _ = fitted(BY_CANDIDATE["logreg"], patients, seed=5)
    two, _ = fitted(
        BY_CANDIDATE["logreg"],
        Patients(BEDSIDE, changed, patients.y, patients.sites, patients.groups),
        seed=5,
    )

    assert state(one)[0].tobytes() != state(two)[0].tobytes()


def test_labels_without_information_score_no_better_than_chance() -> None:
    """A selection or tuning that peeked would find something in noise."""
    aucs = []
    for seed in range(5):
        patients = some_patients(n=200, seed=seed)
        noise = np.random.default_rng(seed + 99).permutation(patients.y)
        blind = Patients(BEDSIDE, patients.X, noise, patients.sites, patients.groups)
        splits = cross_validation_splits(blind, splits=4, repeats=1, seed=seed)
        work = [(BY_CANDIDATE["logreg"], blind, split) for split in splits]
        y_prob = np.empty(200)
        for scoring in score_all(work, jobs=1, progress=lambda results, _: results):
            y_prob[scoring.split.test] = scoring.y_prob
        better = (y_prob[noise == 1][:, None] > y_prob[noise == 0][None, :]).mean()
        aucs.append(better)

    assert np.mean(aucs) < 0.58


def test_the_result_does_not_depend_on_the_number_of_jobs() -> None:
    patients = some_patients()
    splits = cross_validation_splits(patients, splits=2, repeats=1, seed=0)
    work = [(BY_CANDIDATE[name], patients, s) for s in splits for name in ("logreg", "forest")]

    one = score_all(work, jobs=1, progress=lambda results, _: results)
    two = score_all(work, jobs=2, progress=lambda results, _: results)

    assert [s.candidate for s in one] == [s.candidate for s in two] == ["logreg", "forest"] * 2
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first.y_prob, second.y_prob)


def test_log_loss_of_each_patient_averages_to_scikit_learns() -> None:
    from sklearn.metrics import log_loss

    y, y_prob = np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.9, 0.0])

    assert log_losses(y[:2], y_prob[:2]).mean() == pytest.approx(log_loss(y[:2], y_prob[:2]))
    assert np.isfinite(log_losses(y, y_prob)).all()


def four_hospitals(seed: int = 0) -> Patients:
    """Cholesterol tells in the first hospital and misleads in the three others."""
    patients = some_patients(n=800, seed=seed, sites=4)
    generator = np.random.default_rng(seed)
    X = patients.X.copy()
    sign = np.where(patients.sites == "site0", 1.0, -1.0)
    X[:, 4] = 225 + 60 * sign * (patients.y - 0.5) + generator.normal(0, 15, 800)
    return Patients(BEDSIDE, X, patients.y, patients.sites, patients.groups)


def test_settings_are_chosen_by_leaving_training_hospitals_out() -> None:
    """In the mixture cholesterol helps, in a hospital left out it harms: it is not used."""
    patients = four_hospitals()

    tuning = fitted(BY_CANDIDATE["logreg"], patients, seed=0)[1]

    assert tuning.parameters["inputs"] == "required"
    np.testing.assert_array_equal(tuning.strata, patients.sites)


def test_inside_one_hospital_no_input_is_left_out() -> None:
    patients = four_hospitals()
    alone = patients.take(np.flatnonzero(patients.sites == "site1"))

    pipeline, tuning = fitted(BY_CANDIDATE["logreg"], alone, seed=0)

    assert tuning.parameters["inputs"] == "all"
    assert set(tuning.strata) == {0.0}
    assert np.abs(pipeline[-1].coef_).max() > 1  # cholesterol, which tells here


def test_hospitals_weigh_the_same_in_tuning_whatever_their_size() -> None:
    """A hospital of 20 that is scored badly counts as much as one of 400."""
    values, strata = np.r_[np.full(400, 0.2), np.full(20, 1.0)], np.repeat(["a", "b"], [400, 20])

    assert mean_of_means(values, strata) == pytest.approx(0.6)


@pytest.mark.parametrize("name", ["logreg_balanced", "spline", "boosting"])
def test_a_comparator_answers_missing_values_and_never_sees_what_it_scores(name: str) -> None:
    patients = some_patients(sites=3)
    split = cross_validation_splits(patients, splits=3, repeats=1, seed=0)[0]
    turned = patients.y.copy()
    turned[split.test] = 1 - turned[split.test]
    other = Patients(BEDSIDE, patients.X, turned, patients.sites, patients.groups)

    one, _ = fitted(BY_CANDIDATE[name], patients.take(split.train), seed=5)
    two, _ = fitted(BY_CANDIDATE[name], other.take(split.train), seed=5)

    y_prob = one.predict_proba(patients.X[split.test])[:, 1]
    assert ((y_prob > 0) & (y_prob < 1)).all()
    np.testing.assert_array_equal(y_prob, two.predict_proba(patients.X[split.test])[:, 1])


def test_boosting_only_rises_and_falls_as_the_contract_says() -> None:
    """Older is never less probable, whatever the noise."""
    patients = some_patients(n=300, sites=3)
    pipeline, _ = fitted(BY_CANDIDATE["boosting"], patients, seed=0)
    older = np.repeat(patients.X[:20], 60, axis=0)
    older[:, 0] = np.tile(np.arange(20, 80), 20)

    y_prob = pipeline.predict_proba(older)[:, 1].reshape(20, 60)

    assert (np.diff(y_prob, axis=1) >= -1e-12).all()
    assert np.ptp(y_prob) > 0.1


def test_balanced_weights_make_hospitals_of_any_size_count_the_same() -> None:
    patients = some_patients(n=120, sites=3)
    sites = np.repeat(["large", "small"], [100, 20])
    lopsided = Patients(BEDSIDE, patients.X, patients.y, sites, patients.groups)
    repeated = lopsided.take(np.r_[np.arange(100), np.tile(np.arange(100, 120), 5)])
    parameters = {"C": 1.0, "inputs": "required"}

    weighed = fitted_with(BY_CANDIDATE["logreg_balanced"], lopsided, parameters, seed=0)
    copied = fitted_with(BY_CANDIDATE["logreg"], repeated, parameters, seed=0)

    # five copies of each patient of the small hospital: 100 against 100, under another penalty
    assert np.sign(weighed[-1].coef_) == pytest.approx(np.sign(copied[-1].coef_))
    assert weighed.predict_proba(lopsided.X)[:, 1] == pytest.approx(
        copied.predict_proba(lopsided.X)[:, 1], abs=0.05
    )
