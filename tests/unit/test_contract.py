"""The one declaration agrees with the source it cites and with itself."""

from __future__ import annotations

import dataclasses

import pytest

from heartdx import contract
from heartdx.codings.layout import normalised


def test_the_thirteen_attributes_stand_in_ucis_order() -> None:
    assert contract.NAMES == (
        "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak",
        "slope", "ca", "thal",
    )  # fmt: skip
    assert contract.HEADER[13:] == ("num", "site")


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("sex", (0, 1)), ("cp", (1, 2, 3, 4)), ("fbs", (0, 1)), ("restecg", (0, 1, 2)),
        ("exang", (0, 1)), ("slope", (1, 2, 3)), ("ca", (0, 1, 2, 3)), ("thal", (3, 6, 7)),
    ],
)  # fmt: skip
def test_codes_are_ucis(name: str, codes: tuple[int, ...]) -> None:
    assert contract.BY_NAME[name].code_values == codes


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("age", 28, 77), ("trestbps", 80, 200), ("chol", 85, 603), ("thalach", 60, 202),
        ("oldpeak", -2.6, 6.2),
    ],
)  # fmt: skip
def test_plausible_ranges_admit_every_value_of_the_four_hospitals(
    name: str, low: float, high: float
) -> None:
    plausible = contract.BY_NAME[name].plausible

    assert plausible is not None
    assert plausible[0] <= low
    assert plausible[1] >= high


def test_no_plausible_range_admits_the_missing_number() -> None:
    admitting = [
        a.name
        for a in contract.ATTRIBUTES
        if a.plausible and a.plausible[0] <= contract.MISSING_NUMBER <= a.plausible[1]
    ]

    assert admitting == []


def test_every_attribute_is_a_number_or_a_code_and_not_both() -> None:
    assert all(bool(a.plausible) != bool(a.codes) for a in contract.ATTRIBUTES)


def test_the_kaggle_map_is_the_proven_one() -> None:
    recoded = {
        name: {code.value: code.kaggle for code in contract.BY_NAME[name].codes}
        for name in ("cp", "restecg", "slope", "thal")
    }

    assert recoded == {
        "cp": {1: 3, 2: 1, 3: 2, 4: 0},
        "restecg": {0: 1, 1: 2, 2: 0},
        "slope": {1: 2, 2: 1, 3: 0},
        "thal": {3: 2, 6: 1, 7: 3},
    }
    assert contract.BY_NAME["ca"].kaggle_missing == 4
    assert contract.BY_NAME["thal"].kaggle_missing == 0


@pytest.mark.parametrize("attribute", contract.ATTRIBUTES, ids=lambda a: a.name)
def test_no_word_and_no_kaggle_number_means_two_codes(attribute: contract.Attribute) -> None:
    words = [word for code in attribute.codes for word in {code.name, *code.words}]
    numbers = [code.kaggle for code in attribute.codes]

    assert len(words) == len(set(words))
    assert len(numbers) == len(set(numbers))
    assert attribute.kaggle_missing not in numbers


def test_no_column_spelling_means_two_columns() -> None:
    spelled = [(a.name, *a.aliases) for a in contract.ATTRIBUTES]
    spelled += [
        (contract.OUTCOME.name, *contract.OUTCOME.aliases),
        (contract.SITE_COLUMN, *contract.SITE_ALIASES),
    ]
    every = [name for names in spelled for name in {normalised(word) for word in names}]

    assert len(every) == len(set(every))


def test_the_four_hospitals_have_920_patients() -> None:
    patients = {site.name: site.patients for site in contract.SITES}

    assert patients == {"cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200}


def test_panels_follow_the_order_of_care_and_each_contains_the_one_before() -> None:
    inputs = {panel.name: panel.inputs for panel in contract.PANELS}

    assert inputs["bedside"] == ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg")
    assert inputs["exercise"] == (*inputs["bedside"], "thalach", "exang", "oldpeak")
    assert inputs["imaging"] == contract.NAMES


def test_only_bedside_measurements_may_be_missing() -> None:
    imputed = [a.name for a in contract.ATTRIBUTES if a.imputed]

    assert imputed == ["trestbps", "chol", "fbs", "restecg"]


def test_a_mended_label_leaves_the_fingerprint_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = contract.fingerprint()
    mended = [dataclasses.replace(a, label="?", description="?") for a in contract.ATTRIBUTES]

    monkeypatch.setattr(contract, "ATTRIBUTES", tuple(mended))

    assert contract.fingerprint() == before


@pytest.mark.parametrize(
    "change", [{"name": "x"}, {"unit": "stone"}, {"codes": (contract.Code(9, "nine", 9),)}]
)
def test_a_changed_meaning_changes_the_fingerprint(
    change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contract.fingerprint()
    changed = [dataclasses.replace(contract.ATTRIBUTES[0], **change), *contract.ATTRIBUTES[1:]]  # type: ignore[arg-type]

    monkeypatch.setattr(contract, "ATTRIBUTES", tuple(changed))

    assert contract.fingerprint() != before


def test_a_changed_order_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = contract.fingerprint()

    monkeypatch.setattr(contract, "ATTRIBUTES", contract.ATTRIBUTES[::-1])

    assert contract.fingerprint() != before
