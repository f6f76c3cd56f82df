"""How sure an answer is and why: range, population, reasons, bands, abstaining."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from bundle_kit import manifest_of, tiny_bundle
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from heartdx import bundle, cli
from heartdx.contract import ATTRIBUTES, BY_NAME, NAMES
from heartdx.errors import BundleError, UsageError
from heartdx.reliability import (
    BANDS,
    FEW_PATIENTS,
    RANGE_HOLDS_FOR,
    RULES,
    Calibration,
    Policy,
    Population,
    Reliability,
    band,
    contributions,
    data_quality,
    implausible,
    reliability_of,
)
from heartdx.train.reliability import STEPS, cross_venn_abers, population, venn_abers

GRID = np.arange(STEPS + 1) / STEPS
SOME = slice(0, None, 5)
"""Every fifth score: those that patients of ``fold`` have, and one between each two."""
PATIENT = {
    "age": 54,
    "sex": 1,
    "cp": 4,
    "trestbps": 130,
    "chol": 240,
    "fbs": 0,
    "restecg": 0,
    "thalach": 150,
    "exang": 0,
}
PATIENT |= {"oldpeak": 1.0, "slope": 2, "ca": 0, "thal": 3}


def values_of(**changes: float | None) -> list[float | None]:
    return [(PATIENT | changes)[name] for name in NAMES]


# -- calibration range -----------------------------------------------------------------------


def by_definition(scores: np.ndarray, y: np.ndarray, score: float) -> tuple[float, float]:
    """Isotonic regression with the new patient added as healthy, and as diseased."""
    pair = []
    for label in (0, 1):
        isotonic = IsotonicRegression().fit(np.r_[scores, score], np.r_[y, label])
        pair.append(float(isotonic.predict([score])[0]))
    return pair[0], pair[1]


def fold(seed: int, n: int, *, power: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores on the grid, with ties, and outcomes of true probability ``score ** power``."""
    generator = np.random.default_rng(seed)
    scores = np.round(generator.beta(0.8, 0.8, n) * 50) / 50
    return scores, (generator.random(n) < scores**power).astype(float)


@pytest.mark.parametrize("seed", range(6))
def test_the_range_of_a_fold_is_what_refitting_with_the_patient_added_gives(seed):
    scores, y = fold(seed, 12 + 9 * seed)

    found = venn_abers(scores, y)[SOME]

    expected = [by_definition(scores, y, score) for score in GRID[SOME]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_a_fold_with_one_outcome_only_still_says_what_one_more_patient_would_change(outcome):
    scores, _ = fold(3, 9)

    found = venn_abers(scores, np.full(9, outcome))[SOME]

    expected = [by_definition(scores, np.full(9, outcome), score) for score in GRID[SOME]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_score_between_two_of_the_grid_is_taken_to_the_nearer():
    generator = np.random.default_rng(21)
    scores = generator.random(40)
    y = (generator.random(40) < scores).astype(float)

    found = venn_abers(scores, y)[SOME]

    nearer = np.round(scores * STEPS) / STEPS
    expected = [by_definition(nearer, y, score) for score in GRID[SOME]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_folds_are_merged_by_the_mean_of_both_ends_and_by_the_papers_point():
    folds = [fold(seed, 40) for seed in (11, 12, 13)]

    merged = cross_venn_abers(folds)

    for score in (0.0, 0.1, 0.3, 0.502, 0.75, 1.0):
        p0, p1 = np.transpose([by_definition(*one, score) for one in folds])
        assert merged.range(score) == pytest.approx((p0.mean(), p1.mean()), abs=1e-6)
        diseased, healthy = math.prod(p1) ** (1 / 3), math.prod(1 - p0) ** (1 / 3)
        assert merged.merged(score) == pytest.approx(diseased / (diseased + healthy), abs=1e-6)


def test_low_stays_below_high_where_folds_disagree_and_geometric_means_would_cross():
    scores = np.full(40, 0.5)
    healthy, diseased = np.r_[np.ones(4), np.zeros(36)], np.r_[np.ones(36), np.zeros(4)]
    p0, p1 = np.transpose([by_definition(scores, y, 0.5) for y in (healthy, diseased)])
    assert 1 - math.sqrt(math.prod(1 - p0)) > math.sqrt(math.prod(p1))

    low, high = cross_venn_abers([(scores, healthy), (scores, diseased)]).range(0.5)

    assert low < high


def test_one_probability_and_a_table_of_them_get_the_same_range():
    table = cross_venn_abers([fold(seed, 60) for seed in range(4)])
    p = np.r_[np.random.default_rng(0).random(500), GRID, table.breaks]

    ranges = table.ranges(p)

    assert ranges.shape == (len(p), 2)
    assert [tuple(pair) for pair in ranges.tolist()] == [table.range(one) for one in p.tolist()]


def test_a_score_at_a_break_belongs_to_the_step_above():
    table = Calibration((0.25, 0.5), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))

    assert table.range(0.5) == (0.3, 0.6)
    assert table.range(math.nextafter(0.5, 0)) == (0.2, 0.5)


DECILES = 10


def decile_ranges(seed: int, *, power: float, scores: np.ndarray) -> np.ndarray:
    """Mean range of each tenth of new, sorted scores, by five folds as large as bedside's."""
    table = cross_venn_abers([fold(100 * seed + k, 184, power=power) for k in range(5)])
    return table.ranges(scores).reshape(DECILES, -1, 2).mean(axis=1)


@pytest.mark.parametrize("power", [1.0, 0.4, 2.5], ids=["calibrated", "too low", "too high"])
def test_over_training_samples_the_risk_of_like_scores_lies_in_their_mean_range(power):
    scores = np.sort(np.random.default_rng(99).beta(0.8, 0.8, 20_000))
    risk = (scores**power).reshape(DECILES, -1).mean(axis=1)

    drawn = np.array([decile_ranges(seed, power=power, scores=scores) for seed in range(25)])

    low, high = drawn.mean(axis=0).T
    assert ((low < risk) & (risk < high)).all()
    outside = np.maximum(drawn[..., 0] - risk, risk - drawn[..., 1]).clip(0)
    assert np.quantile(outside, 0.95) < 0.04  # one sample's range is no confidence interval


def test_a_miscalibrated_score_lies_outside_its_own_range():
    table = cross_venn_abers([fold(seed, 400, power=2.5) for seed in range(10)])

    low, high = table.range(0.6)

    assert pytest.approx(0.279, abs=0.001) == 0.6**2.5  # the true share of diseased
    assert 0.2 < low < high < 0.35


def test_the_table_stays_small_and_rising_for_any_number_of_patients():
    generator = np.random.default_rng(5)
    scores = generator.random((5, 40_000))
    folds = [(s, (generator.random(len(s)) < s).astype(float)) for s in scores]

    table = cross_venn_abers(folds)

    assert len(table.low) <= STEPS + 1
    assert Calibration.of(vars(table)) == table
    assert len(json.dumps({name: vars(table)[name] for name in vars(table)})) < 20_000


def test_calibrating_leaves_the_process_numeric_warnings_as_they_were():
    before = np.geterr()

    venn_abers(*fold(1, 20))

    assert np.geterr() == before


def test_a_range_says_for_whom_it_holds():
    assert "approximate" in RANGE_HOLDS_FOR
    assert "not valid for a hospital that trained nothing" in RANGE_HOLDS_FOR


# -- population ------------------------------------------------------------------------------

USED = ("age", "sex", "cp", "chol", "thalach")


def patients(n: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    X = np.full((n, len(NAMES)), np.nan)
    age = generator.normal(55, 9, n).round()
    X[:, NAMES.index("age")] = age
    X[:, NAMES.index("sex")] = generator.random(n) < 0.7
    X[:, NAMES.index("cp")] = generator.choice([1, 2, 3, 4], n, p=[0.1, 0.2, 0.25, 0.45])
    X[:, NAMES.index("chol")] = generator.normal(240, 50, n).round()
    X[:, NAMES.index("thalach")] = (200 - age + generator.normal(0, 15, n)).round()
    X[generator.random(n) < 0.2, NAMES.index("chol")] = np.nan
    return X


@pytest.fixture(scope="module")
def trained_on() -> np.ndarray:
    return patients(600, seed=1)


@pytest.fixture(scope="module")
def people(trained_on) -> Population:
    return population(trained_on, np.arange(len(trained_on)), USED, seed=7)


def test_the_distance_is_mahalanobis_with_the_covariance_of_ledoit_and_wolf(trained_on, people):
    numbers = trained_on[:, [NAMES.index(n) for n in ("age", "chol", "thalach")]]
    standard = (numbers - np.nanmean(numbers, axis=0)) / np.nanstd(numbers, axis=0)
    codes = trained_on[:, [NAMES.index(n) for n in ("sex", "cp")]]
    hot = OneHotEncoder(sparse_output=False).fit_transform(codes)
    Z = np.column_stack([np.nan_to_num(standard), hot - hot.mean(axis=0)])
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(Z).covariance_)

    expected = [mahalanobis(z, np.zeros(Z.shape[1]), inverse) for z in Z]

    np.testing.assert_allclose(people.distances(trained_on), expected, rtol=1e-4)


def test_one_patient_is_as_far_alone_as_in_a_table(trained_on, people):
    new = np.vstack([trained_on[:100], patients(100, seed=2)])
    new[::7, NAMES.index("cp")] = np.nan

    alone = [people.distance([None if v != v else v for v in row]) for row in new.tolist()]

    np.testing.assert_allclose(alone, people.distances(new), rtol=0, atol=1e-9)
    assert alone == [people.distance(row) for row in new.tolist()]


def test_a_missing_value_adds_nothing_to_the_distance(people):
    typical = {c.attribute: c.mean for c in people.columns if c.code is None}

    known = people.distance(values_of(chol=typical["chol"]))

    assert people.distance(values_of(chol=None)) == pytest.approx(known, abs=1e-9)


def test_new_patients_of_the_same_kind_are_called_far_as_often_as_was_tested(people):
    tested = people.false_positives
    rate = people.far(patients(50_000, seed=3)).mean()

    assert tested.nominal == 0.01
    assert tested.patients == 600
    assert 0.005 < rate < 0.02
    assert tested.low < rate < tested.high
    assert tested.low < tested.measured < tested.high


def test_a_combination_nobody_had_is_far_though_each_value_is_in_range(people):
    odd = values_of(age=80, thalach=195)
    quality = data_quality(odd, people)

    assert quality.out_of_range == ()
    assert quality.far
    assert not data_quality(values_of(), people).far


def test_ranges_and_counts_are_those_of_the_training_patients(trained_on, people):
    age, cp = trained_on[:, NAMES.index("age")], trained_on[:, NAMES.index("cp")]

    assert people.numbers["age"] == (age.min(), age.max())
    assert people.codes["cp"] == {code: int((cp == code).sum()) for code in (1, 2, 3, 4)}
    assert people.used == USED


def test_what_was_written_is_read_back_whole(people):
    assert Population.of(json.loads(json.dumps(people.document()))) == people


def test_copies_of_a_patient_share_a_fold_so_that_none_hides_his_own_distance():
    X = patients(120, seed=4)
    X[0, NAMES.index("age")], X[0, NAMES.index("thalach")] = 99, 229
    twice = np.vstack([X, X[[0]]])
    groups = np.r_[np.arange(120), 0]

    together = population(twice, groups, USED, seed=1)
    apart = population(twice, np.arange(121), USED, seed=1)

    assert together.limit > apart.limit


# -- data quality ----------------------------------------------------------------------------


def test_missing_unusual_and_rare_values_are_named_as_far_as_the_panel_looks_at_them():
    X = patients(300, seed=5)
    few = [1] * (FEW_PATIENTS - 1) + [2] * FEW_PATIENTS
    X[:, NAMES.index("cp")] = few + [4] * (300 - len(few))
    people = population(X, np.arange(300), USED, seed=1)

    quality = data_quality(values_of(chol=None, ca=None, age=97, cp=1, oldpeak=9.9), people)

    assert quality.missing == ("chol", "ca")
    assert quality.imputed == ("chol",)
    assert quality.out_of_range == ("age",)
    assert quality.rare == ("cp",)
    assert data_quality(values_of(cp=2), people).rare == ()


def test_the_document_names_attributes_and_never_repeats_a_value(people):
    odd = values_of(age=97.125, thalach=226.375, trestbps=79.625, chol=None)

    text = json.dumps(data_quality(odd, people).document())

    assert {"missing", "imputed", "implausible", "out_of_range", "rare", "distance"} < set(
        json.loads(text)
    )
    for value in ("97.125", "226.375", "79.625"):
        assert value not in text


BROKEN = [
    ("heart_rate_above_age", {"age": 50, "thalach": 213}, {"age": 50, "thalach": 214}),
    ("heart_rate_below_rest", {"thalach": 50}, {"thalach": 49}),
    ("shock_and_exercise", {"trestbps": 80}, {"trestbps": 79}),
    ("hypertension_and_exercise", {"trestbps": 200}, {"trestbps": 201}),
    ("st_elevation", {"oldpeak": -3.0}, {"oldpeak": -3.1}),
]


@pytest.mark.parametrize(("name", "credible", "contradictory"), BROKEN, ids=[b[0] for b in BROKEN])
def test_values_past_a_declared_limit_are_called_implausible(name, credible, contradictory):
    assert name not in [rule.name for rule in implausible(values_of(**credible))]
    assert [rule.name for rule in implausible(values_of(**contradictory))] == [name]


def test_every_rule_is_tried_here_has_a_source_and_stays_inside_the_accepted_ranges():
    assert [rule.name for rule in RULES] == [name for name, _, _ in BROKEN]
    for rule, (_, _, contradictory) in zip(RULES, BROKEN, strict=True):
        assert len(rule.source) > 10
        for attribute, value in contradictory.items():
            low, high = BY_NAME[attribute].plausible
            assert low <= value <= high


@pytest.mark.parametrize("gap", [None, math.nan])
@pytest.mark.parametrize(("name", "_", "contradictory"), BROKEN, ids=[b[0] for b in BROKEN])
def test_a_rule_never_applies_where_one_of_its_values_is_missing(name, _, contradictory, gap):
    (rule,) = [rule for rule in RULES if rule.name == name]

    for missing in rule.attributes:
        assert rule not in implausible(values_of(**contradictory | {missing: gap}))


# -- reasons ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> bundle.Bundle:
    return bundle.load(tiny_bundle.write(tmp_path_factory.mktemp("tiny")))


def random_patients(n: int) -> list[list[float | None]]:
    generator = np.random.default_rng(8)
    rows = []
    for _ in range(n):
        drawn = [
            float(generator.choice(a.code_values)) if a.codes else generator.uniform(*a.plausible)
            for a in ATTRIBUTES
        ]
        gaps = generator.random(len(NAMES)) < 0.3
        rows.append(
            [
                None if a.imputed and g else v
                for a, g, v in zip(ATTRIBUTES, gaps, drawn, strict=True)
            ]
        )
    return rows


@pytest.mark.parametrize("panel", ["bedside", "exercise", "imaging"])
def test_base_and_contributions_sum_to_the_logit_of_the_served_probability(tiny, panel):
    scorer = tiny.scorers[panel]
    places = [NAMES.index(name) for name in scorer.document["inputs"]]

    for values in random_patients(50):
        told = tiny.reliability[panel].contributions(values)

        row = np.array([[math.nan if values[i] is None else values[i] for i in places]])
        p = float(scorer.probability(row)[0])
        logit = told.base + sum(told.by_attribute.values())
        assert logit == pytest.approx(math.log(p / (1 - p)), abs=1e-12)
        assert list(told.by_attribute) == scorer.document["inputs"]


def test_contributions_are_coefficient_times_distance_from_the_mean():
    generator = np.random.default_rng(2)
    age, cp = generator.normal(54, 9, 300), generator.choice([1, 2, 3, 4], 300)
    design = np.column_stack([(age - 50) / 8, *(cp == code for code in (1, 2, 3, 4))])
    y = (generator.random(300) < 1 / (1 + np.exp(-design @ [0.9, -1, 0, 0.2, 1]))).astype(int)
    fitted = LogisticRegression().fit(design, y)
    shapley = fitted.coef_[0] * (design - design.mean(axis=0))
    weights = iter(fitted.coef_[0].tolist())
    equation = {
        "intercept": float(fitted.intercept_[0]),
        "impute": {},
        "terms": [
            {"attribute": "age", "center": 50.0, "scale": 8.0, "coefficient": next(weights)},
            *({"attribute": "cp", "code": c, "coefficient": next(weights)} for c in (1, 2, 3, 4)),
        ],
        "calibration": {"slope": 1.0, "intercept": 0.0},
    }
    means = fitted.coef_[0] * design.mean(axis=0)
    reference = {"age": float(means[0]), "cp": float(means[1:].sum())}

    for row in range(300):
        values = [age[row], None, float(cp[row]), *[None] * 10]
        told = contributions(equation, reference, values)

        assert told.by_attribute["age"] == pytest.approx(shapley[row, 0], abs=1e-12)
        assert told.by_attribute["cp"] == pytest.approx(shapley[row, 1:].sum(), abs=1e-12)
        assert told.base == pytest.approx(fitted.decision_function(design).mean(), abs=1e-12)


def test_the_calibration_slope_weighs_every_contribution():
    term = {"attribute": "age", "center": 50.0, "scale": 10.0, "coefficient": 2.0}
    equation = {
        "intercept": 1.0,
        "impute": {},
        "terms": [term],
        "calibration": {"slope": 0.5, "intercept": 0.25},
    }

    told = contributions(equation, {"age": 0.0}, [60.0, *[None] * 12])

    assert told == (0.75, {"age": 1.0})


def test_an_attribute_that_the_equation_cannot_do_without_is_named():
    term = {"attribute": "age", "center": 50.0, "scale": 10.0, "coefficient": 2.0}
    calibration = {"slope": 1.0, "intercept": 0.0}
    equation = {"intercept": 1.0, "impute": {}, "terms": [term], "calibration": calibration}

    with pytest.raises(UsageError, match="age: missing"):
        contributions(equation, {"age": 0.0}, [None] * 13)


def test_the_largest_reason_stands_first_with_its_words(tiny):
    told = tiny.reliability["imaging"].contributions(values_of()).document()

    sizes = [abs(reason["log_odds"]) for reason in told["contributions"]]
    assert sizes == sorted(sizes, reverse=True)
    assert {reason["label"] for reason in told["contributions"]} == {a.label for a in ATTRIBUTES}
    assert told["scale"] == "log-odds"


# -- bands and abstaining --------------------------------------------------------------------


def test_bands_are_the_published_ones_and_leave_no_gap():
    esc_2024 = {"very low": 5, "low": 15, "moderate": 50, "high": 85, "very high": 100}

    assert {b.name: round(100 * b.up_to) for b in BANDS} == esc_2024
    assert [b.above for b in BANDS] == [0.0, *(b.up_to for b in BANDS[:-1])]


@pytest.mark.parametrize(
    ("p", "name"),
    [
        (0.0, "very low"),
        (0.05, "very low"),
        (0.0500001, "low"),
        (0.15, "low"),
        (0.5, "moderate"),
        (0.85, "high"),
        (0.8500001, "very high"),
        (1.0, "very high"),
    ],
)
def test_a_probability_at_a_limit_belongs_to_the_band_below(p, name):
    assert band(p).name == name


@pytest.mark.parametrize(
    ("low", "high", "straddles"),
    [
        (0.4, 0.6, True),
        (0.4, 0.5, True),  # a probability of 0.5 would be disease, 0.4 would not
        (0.5, 0.6, False),  # disease on both sides
        (0.4, 0.499, False),
    ],
)
def test_a_range_straddles_where_its_ends_would_be_decided_differently(low, high, straddles):
    told = Policy(("straddle",)).reasons(low=low, high=high, threshold=0.5, far=True)

    assert told == (("range straddles threshold",) if straddles else ())


def test_a_policy_gives_each_declared_reason_that_holds_and_no_other():
    settings = {"low": 0.4, "high": 0.6, "threshold": 0.5, "far": True}

    assert Policy().reasons(**settings) == ()
    assert Policy(("far",)).reasons(**settings) == ("far from training population",)
    assert Policy.declared("far, straddle").reasons(**settings) == (
        "range straddles threshold",
        "far from training population",
    )


def test_an_undeclarable_reason_stops_the_training_before_it_starts(capsys, tmp_path):
    code = cli.main(["train", "--abstain-when", "tired", "--data", str(tmp_path / "none.csv")])

    assert code == UsageError.exit_code
    assert "'tired'; expected straddle and far" in capsys.readouterr().err


# -- in the bundle ---------------------------------------------------------------------------


def test_a_bundle_gives_what_training_kept_for_each_panel(tiny):
    assert list(tiny.reliability) == ["bedside", "exercise", "imaging"]
    assert all(isinstance(kept, Reliability) for kept in tiny.reliability.values())
    assert tiny.policy == Policy()


def test_a_bundle_without_the_files_still_loads(tmp_path):
    older = bundle.load(tiny_bundle.write(tmp_path, reliability=False))

    assert older.reliability == {}
    assert older.digest != bundle.load(tiny_bundle.write(tmp_path)).digest


def test_the_policy_is_part_of_the_models_digest(tmp_path):
    without = bundle.load(tiny_bundle.write(tmp_path))
    declared = bundle.load(tiny_bundle.write(tmp_path, abstain_when=("far",)))

    assert declared.policy.abstain_when == ("far",)
    assert declared.digest != without.digest


def test_a_policy_changed_after_training_is_refused(tmp_path):
    folder = tiny_bundle.write(tmp_path, abstain_when=("far",))
    manifest = manifest_of(folder) | {"policy": {"abstain_when": []}}
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match="another digest"):
        bundle.load(folder)


def test_a_policy_that_this_release_does_not_know_is_refused(tmp_path):
    folder = tiny_bundle.write(tmp_path)
    manifest = manifest_of(folder) | {"policy": {"abstain_when": ["tired"]}}
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match="policy cannot be kept"):
        bundle.load(folder)


def test_a_range_edited_after_training_is_refused(tmp_path):
    folder = tiny_bundle.write(tmp_path)
    path = folder / "bedside" / bundle.RELIABILITY
    path.write_text(path.read_text().replace("0.93", "0.99"))

    with pytest.raises(BundleError, match="was changed after training"):
        bundle.load(folder)


def test_a_file_dropped_from_the_manifest_is_noticed(tmp_path):
    folder = tiny_bundle.write(tmp_path)
    manifest = manifest_of(folder)
    del manifest["files"][f"bedside/{bundle.RELIABILITY}"]
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match="another digest"):
        bundle.load(folder)


def damaged(change) -> dict:
    equation = tiny_bundle._equation(tiny_bundle.PANELS[0], 1.0)
    document = json.loads(tiny_bundle._reliability(equation))
    change(document)
    return document


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("population"),
        lambda d: d["calibration"]["low"].reverse(),
        lambda d: d["calibration"]["low"].pop(),
        lambda d: d["calibration"].update(
            low=d["calibration"]["high"], high=d["calibration"]["low"]
        ),
        lambda d: d["calibration"]["high"].__setitem__(-1, 1.01),
        lambda d: d["population"]["distance"]["factor"].pop(),
        lambda d: d["population"]["distance"]["factor"][0].__setitem__(0, math.nan),
        lambda d: d["population"]["distance"]["columns"][0].update(scale=0.0),
        lambda d: d["reference"].pop("age"),
        lambda d: d["calibration"].update(breaks="none"),
    ],
)
def test_numbers_that_training_cannot_have_written_are_refused(change):
    equation = tiny_bundle._equation(tiny_bundle.PANELS[0], 1.0)

    with pytest.raises(BundleError, match=r"reliability\.json"):
        reliability_of(damaged(change), equation=equation)


def test_a_forest_has_no_additive_reasons():
    document = damaged(lambda d: d.update(reference=None))

    assert reliability_of(document).contributions(values_of()) is None
