"""A forest's votes by attribute are exact Shapley values of a game of attributes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartdx.contract import BY_NAME, NAMES, PANEL_BY_NAME
from heartdx.errors import UsageError
from heartdx.serve.forest import LEAF, Column, Forest
from heartdx.serve.shapley import VoteReasons

SHAP = json.loads((Path(__file__).parents[1] / "fixtures" / "shap_votes.json").read_text())
SHAP_WEIGHS_IN_FLOAT32 = 1e-7
SLOPE, INTERCEPT = 6.5, -3.2
IMAGING = PANEL_BY_NAME["imaging"]
Tree = float | tuple[int, float, "Tree", "Tree"]
"""A leaf's share, or a column's place, its limit and what follows at most and above it."""
Patient = list[float | None]

COLUMNS = (
    Column("age", None, 54.0, 9.0),
    Column("chol", 240.0, 246.0, 50.0),
    *(Column("sex", None, code=code) for code in (0.0, 1.0)),
    *(Column("cp", None, code=code) for code in (1.0, 2.0, 3.0, 4.0)),
    *(Column("thal", 3.0, code=code) for code in (3.0, 6.0, 7.0)),
)
ATTRIBUTES = ("age", "sex", "cp", "chol", "thal")


def patient(**values: float | None) -> Patient:
    return [values.get(name) for name in NAMES]


REFERENCE = patient(age=54.0, sex=1.0, cp=4.0, chol=246.0, thal=3.0)


def forest(trees: Sequence[Tree], columns: Sequence[Column] = COLUMNS) -> Forest:
    """A forest as its file is read; each tree's shares are divided by the number of trees."""
    column: list[int] = []
    number: list[float] = []
    after: list[tuple[int, int]] = []

    def add(tree: Tree) -> int:
        node = len(column)
        is_leaf = isinstance(tree, float)
        column.append(LEAF if is_leaf else tree[0])
        number.append(tree / len(trees) if is_leaf else tree[1])
        after.append((0, 0))
        if not is_leaf:
            after[node] = add(tree[2]), add(tree[3])
        return node

    roots = tuple([add(tree) for tree in trees])
    yes, no = np.array(after).T
    arrays = np.array(column), np.array(number), yes, no
    return Forest(IMAGING, tuple(columns), roots, *arrays, slope=SLOPE, intercept=INTERCEPT)


# -- the definition ----------------------------------------------------------------------------


def votes_of(trees: Sequence[Tree], values: Patient) -> float:
    """The mean of the leaves' shares, tree by tree and node by node."""

    def compared(column: Column) -> float:
        value = values[NAMES.index(column.attribute)]
        value = column.typical if value is None else value
        if column.code is None:
            return (value - column.center) / column.scale
        return float(value == column.code)

    def share(tree: Tree) -> float:
        if isinstance(tree, float):
            return tree
        place, limit, low, high = tree
        return share(low if compared(COLUMNS[place]) <= limit else high)

    return sum(map(share, trees)) / len(trees)


def by_definition(
    votes: Callable[[Patient], float], values: Patient, reference: Patient, names: Sequence[str]
) -> dict[str, float]:
    """Shapley values from the votes of all 2^k mixtures of patient and reference."""

    def of(coalition: Sequence[str]) -> float:
        own = {NAMES.index(name) for name in coalition}
        return votes([values[i] if i in own else reference[i] for i in range(len(NAMES))])

    found, k = {}, len(names)
    for name in names:
        others = [other for other in names if other != name]
        found[name] = sum(
            (of((*coalition, name)) - of(coalition)) / (k * math.comb(k - 1, size))
            for size in range(k)
            for coalition in combinations(others, size)
        )
    return found


LIMITS = [-1.0, -0.5, 0.0, 0.5, 1.0]
"""In standard deviations. Few, and the patients' numbers at and between them, so that one way asks
more than once about a number, and asks what nobody meets."""
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8, 1.0]),
    lambda subtrees: st.one_of(
        st.tuples(st.sampled_from([0, 1]), st.sampled_from(LIMITS), subtrees, subtrees),
        st.tuples(st.integers(2, len(COLUMNS) - 1), st.just(0.5), subtrees, subtrees),
    ),
    max_leaves=14,
)


def attribute_values(name: str) -> st.SearchStrategy[float | None]:
    codes = BY_NAME[name].code_values
    if codes:
        known = st.sampled_from([float(code) for code in codes])
    else:
        [column] = [column for column in COLUMNS if column.attribute == name]
        quarters = st.integers(-6, 6).map(lambda quarter: quarter / 4)
        known = quarters.map(lambda scaled: column.center + scaled * column.scale)
    return known | st.none() if name in ("chol", "thal") else known


PATIENTS = st.fixed_dictionaries({name: attribute_values(name) for name in ATTRIBUTES})


@settings(max_examples=300, deadline=None)
@given(trees=st.lists(TREES, min_size=1, max_size=4), own=PATIENTS, other=PATIENTS)
def test_votes_by_attribute_are_the_shapley_values_of_the_definition(trees, own, other):
    values, reference = patient(**own), patient(**other)

    told = VoteReasons(forest(trees), reference).contributions(values)

    expected = by_definition(lambda p: votes_of(trees, p), values, reference, ATTRIBUTES)
    assert told.by_attribute == pytest.approx(expected, abs=1e-12)
    assert told.base == pytest.approx(votes_of(trees, reference), abs=1e-12)
    assert told.votes == pytest.approx(votes_of(trees, values), abs=1e-12)
    assert told.base + sum(told.by_attribute.values()) == pytest.approx(told.votes, abs=1e-12)


# -- the package shap --------------------------------------------------------------------------


def test_where_a_column_is_an_attribute_they_are_those_of_the_package_shap():
    columns = [Column(name, None) for name in SHAP["attributes"]]

    def nested(tree: dict[str, list], node: int = 0) -> Tree:
        if tree["feature"][node] == -1:
            return float(tree["share"][node])
        low, high = (nested(tree, tree[side][node]) for side in ("left", "right"))
        return tree["feature"][node], tree["threshold"][node], low, high

    def named(numbers: list[float]) -> Patient:
        return patient(**dict(zip(SHAP["attributes"], numbers, strict=True)))

    reasons = VoteReasons(
        forest([nested(tree) for tree in SHAP["trees"]], columns), named(SHAP["reference"])
    )

    told = [reasons.contributions(named(numbers)) for numbers in SHAP["patients"]]

    assert reasons.attributes == tuple(SHAP["attributes"])
    found = [list(one.by_attribute.values()) for one in told]
    np.testing.assert_allclose(found, SHAP["shap_values"], rtol=0, atol=SHAP_WEIGHS_IN_FLOAT32)
    np.testing.assert_allclose([one.votes for one in told], SHAP["votes"], rtol=0, atol=1e-12)
    assert told[0].base == pytest.approx(SHAP["base"], abs=1e-9)


# -- what follows from the definition ----------------------------------------------------------

SEX_AND_CP: Tree = (3, 0.5, 0.1, (7, 0.5, 0.3, 0.9))
"""0.1 for women; of men 0.9 where asymptomatic (cp 4), else 0.3."""


def test_a_patient_like_the_reference_has_nothing_to_explain():
    told = VoteReasons(forest([SEX_AND_CP]), REFERENCE).contributions(REFERENCE)

    assert told.by_attribute == dict.fromkeys(ATTRIBUTES, 0.0)
    assert told.base == told.votes == 0.9


def test_two_attributes_that_act_only_together_share_what_they_do():
    together: Tree = (3, 0.5, (7, 0.5, 0.9, 0.1), 0.1)  # a woman who is not asymptomatic

    told = VoteReasons(forest([together]), REFERENCE).contributions(
        patient(age=54.0, sex=0.0, cp=2.0, chol=246.0, thal=3.0)
    )

    assert told.by_attribute["sex"] == pytest.approx(0.4, abs=1e-12)
    assert told.by_attribute["cp"] == pytest.approx(0.4, abs=1e-12)
    assert told.by_attribute["age"] == 0


def test_the_columns_of_a_code_move_together():
    """Summed over columns a patient with cp 4 and 3 at once would count, who is nobody."""
    nobody: Tree = (7, 0.5, (6, 0.5, 0.2, 0.6), (6, 0.5, 0.9, 0.0))

    told = VoteReasons(forest([nobody]), REFERENCE).contributions(
        patient(age=54.0, sex=1.0, cp=3.0, chol=246.0, thal=3.0)
    )

    assert told.by_attribute["cp"] == pytest.approx(0.6 - 0.9, abs=1e-12)


def test_a_missing_value_is_the_one_that_the_forest_puts_there():
    trees: list[Tree] = [(1, 0.0, 0.2, 0.7), (8, 0.5, 0.9, 0.3)]  # chol at most 246; thal is 3
    reasons = VoteReasons(forest(trees), patient(age=54.0, sex=1.0, cp=4.0, chol=300.0, thal=7.0))
    missing, nan = (patient(age=60.0, sex=1.0, cp=4.0, chol=v, thal=v) for v in (None, math.nan))

    told = reasons.contributions(missing)

    imputed = patient(age=60.0, sex=1.0, cp=4.0, chol=240.0, thal=3.0)
    assert told == reasons.contributions(imputed) == reasons.contributions(nan)
    assert told.by_attribute["chol"] == pytest.approx((0.2 - 0.7) / 2, abs=1e-12)
    assert told.by_attribute["thal"] == pytest.approx((0.3 - 0.9) / 2, abs=1e-12)


@pytest.mark.parametrize("who", ["reference", "patient"])
def test_a_value_that_the_forest_cannot_do_without_is_named(who):
    lacking = patient(age=None, sex=1.0, cp=4.0)

    of = (lacking, REFERENCE) if who == "reference" else (REFERENCE, lacking)

    with pytest.raises(UsageError, match="age: missing"):
        VoteReasons(forest([SEX_AND_CP]), of[0]).contributions(of[1])


def test_the_document_tells_the_largest_first_and_the_calibration_apart():
    values = patient(age=54.0, sex=0.0, cp=3.0, chol=246.0, thal=3.0)
    reasons = VoteReasons(forest([SEX_AND_CP]), REFERENCE)

    told = reasons.contributions(values).document()

    sizes = [abs(part["votes"]) for part in told["contributions"]]
    assert sizes == sorted(sizes, reverse=True)
    assert [p["attribute"] for p in told["contributions"][:2]] == ["sex", "cp"]
    assert {p["label"] for p in told["contributions"]} == {BY_NAME[n].label for n in ATTRIBUTES}
    assert told["scale"] == "votes"
    assert told["calibration"] == {"slope": SLOPE, "intercept": INTERCEPT}
    assert told["votes"] == pytest.approx(0.1, abs=1e-12)


def test_a_forest_that_compares_nothing_has_only_a_base():
    told = VoteReasons(forest([0.25, 0.75]), REFERENCE).contributions(REFERENCE)

    assert (told.base, told.votes) == (0.5, 0.5)
    assert set(told.by_attribute.values()) == {0.0}
