"""Files in other codings become UCI's codes exactly, or are refused with a reason."""

from __future__ import annotations

import contextlib
import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartdx import codings, records
from heartdx.codings import shipped
from heartdx.contract import ATTRIBUTES, HEADER, NAMES
from heartdx.errors import CodingError, ContractError

# The proven map, written here by hand so that a slip in the contract cannot prove itself.
KAGGLE = {
    "cp": {1: 3, 2: 1, 3: 2, 4: 0},
    "restecg": {0: 1, 1: 2, 2: 0},
    "slope": {1: 2, 2: 1, 3: 0},
    "thal": {3: 2, 6: 1, 7: 3, None: 0},
    "ca": {0: 0, 1: 1, 2: 2, 3: 3, None: 4},
}
PATIENT = {
    "age": "51", "sex": "1", "cp": "4", "trestbps": "131", "chol": "241", "fbs": "0",
    "restecg": "1", "thalach": "141", "exang": "1", "oldpeak": "1.7", "slope": "2", "ca": "1",
    "thal": "7",
}  # fmt: skip
KAGGLE_PATIENT = PATIENT | {"cp": "0", "restecg": "2", "slope": "1", "thal": "3"}
KAGGLE_HEADER = (*NAMES, "target")


def read(lines: list[str], **options: bool) -> codings.HomeTable:
    content = ("\n".join(lines) + "\n").encode()
    return codings.to_home(records.parse(content, name="some.csv"), **options)


def line(patient: dict[str, str], *more: str) -> str:
    return ",".join([*patient.values(), *more])


def value(home: codings.HomeTable, name: str, row: int = 0) -> float:
    return float(home.X[row, NAMES.index(name)])


def found(home: codings.HomeTable, kind: str) -> list[codings.Finding]:
    return [finding for finding in home.findings if finding.kind == kind]


def cohort(n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Invented patients whose markers rise with disease, as they must."""
    rng = np.random.default_rng(seed)
    num = rng.integers(0, 2, n)
    sick = num == 1
    columns = {
        "age": rng.integers(30, 80, n),
        "sex": rng.integers(0, 2, n),
        "cp": rng.integers(1, 5, n),
        "trestbps": rng.integers(95, 190, n),
        "chol": rng.integers(130, 400, n),
        "fbs": rng.integers(0, 2, n),
        "restecg": rng.integers(0, 3, n),
        "thalach": rng.integers(80, 200, n),
        "exang": (rng.random(n) < np.where(sick, 0.8, 0.2)).astype(int),
        "oldpeak": np.round(rng.random(n) * np.where(sick, 4, 1.5), 1),
        "slope": rng.integers(1, 4, n),
        "ca": np.where(sick, rng.integers(1, 4, n), rng.integers(0, 2, n)),
        "thal": rng.choice([3, 6, 7], n),
    }
    return np.column_stack([columns[name] for name in NAMES]).astype(float), num.astype(float)


def lines_of(X: np.ndarray, outcome: np.ndarray, header: tuple[str, ...]) -> list[str]:
    rows = np.column_stack([X, outcome])
    text = [",".join("" if math.isnan(v) else f"{v:g}" for v in row) for row in rows]
    return [",".join(header), *text]


# -- UCI --------------------------------------------------------------------------------------


def test_a_home_file_is_read_as_it_stands_and_its_hospital_is_kept() -> None:
    home = read([",".join(HEADER), line(PATIENT, "3", "Hungarian")])

    assert home.X[0].tolist() == [51, 1, 4, 131, 241, 0, 1, 141, 1, 1.7, 2, 1, 7]
    assert home.num is not None
    assert home.num.tolist() == [3]
    assert (home.site, home.lines, home.coding) == (("hungary",), (2,), "uci")


def test_a_hospital_that_nobody_has_seen_keeps_its_own_name() -> None:
    home = read([",".join(HEADER), line(PATIENT, "3", "Bern")])

    assert home.site == ("bern",)


def test_a_headerless_uci_file_loses_no_patient_to_a_header() -> None:
    home = read([line(PATIENT, "0"), line(PATIENT | {"age": "52"}, "1")])

    assert home.X[:, 0].tolist() == [51, 52]
    assert home.lines == (1, 2)


def test_a_headerless_file_of_another_width_is_refused() -> None:
    with pytest.raises(CodingError, match="no header and 3 columns"):
        read(["51,1,4", "52,0,3"])


@pytest.mark.parametrize("text", ["", "?", "-9", "-9.0", "NaN", "NA", "null"])
def test_every_missing_mark_is_read_as_missing(text: str) -> None:
    home = read([",".join(HEADER), line(PATIENT | {"chol": text, "thal": text}, "1", "va")])

    assert math.isnan(value(home, "chol"))
    assert math.isnan(value(home, "thal"))


def test_lines_are_the_files_own_even_after_blank_lines() -> None:
    home = read([",".join(HEADER), "", line(PATIENT, "1", "va"), "", line(PATIENT, "0", "va")])

    assert home.lines == (3, 5)


def test_a_zero_that_cannot_be_real_is_blanked_and_counted_by_hospital() -> None:
    rows = [line(PATIENT | {"age": str(age), "chol": "0"}, "1", "bern") for age in (50, 51)]

    home = read([",".join(HEADER), *rows])

    assert math.isnan(value(home, "chol"))
    assert [(f.column, f.count) for f in found(home, "zeros")] == [("chol", 2)]
    assert "bern 2" in found(home, "zeros")[0].message


def test_a_zero_that_is_real_stays() -> None:
    home = read([",".join(HEADER), line(PATIENT | {"oldpeak": "0"}, "1", "va")])

    assert value(home, "oldpeak") == 0
    assert found(home, "zeros") == []


# -- Kaggle -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "uci", "kaggle"),
    [(name, uci, kaggle) for name, codes in KAGGLE.items() for uci, kaggle in codes.items()],
)
def test_each_kaggle_code_becomes_the_uci_code_it_stands_for(
    name: str, uci: int | None, kaggle: int
) -> None:
    surely_kaggle = line(KAGGLE_PATIENT, "0")
    row = line(KAGGLE_PATIENT | {"age": "52", name: str(kaggle)}, "0")

    home = read([",".join(KAGGLE_HEADER), surely_kaggle, row])

    assert home.coding == "kaggle"
    np.testing.assert_equal(value(home, name, row=1), np.nan if uci is None else uci)


def test_the_kaggle_outcome_is_turned_and_it_is_said() -> None:
    rows = [line(KAGGLE_PATIENT, "1"), line(KAGGLE_PATIENT | {"age": "52"}, "0")]

    home = read([",".join(KAGGLE_HEADER), *rows])

    assert home.num is not None
    assert home.num.tolist() == [0, 1]
    assert "inverted" in found(home, "label")[0].message
    assert found(home, "coding")[0].count == 2


def test_a_kaggle_file_whose_outcome_was_turned_back_already_is_not_turned_again() -> None:
    X, num = cohort(80, seed=1)
    codes, target = codings.to_kaggle(X, num)

    home = read(lines_of(codes, 1 - target, KAGGLE_HEADER))

    assert home.num is not None
    assert home.num.tolist() == num.tolist()
    assert found(home, "label")[0].level == "warning"


def test_a_kaggle_table_without_a_header_is_known_by_its_codes_and_its_markers() -> None:
    X, num = cohort(80, seed=2)

    home = read(lines_of(*codings.to_kaggle(X, num), KAGGLE_HEADER)[1:])

    assert home.coding == "kaggle"
    assert home.num is not None
    assert home.num.tolist() == num.tolist()


def test_kaggle_codes_with_an_outcome_of_unknown_meaning_are_refused() -> None:
    with pytest.raises(CodingError, match="ambiguous: the codes are Kaggle's"):
        read([",".join((*NAMES, "num")), line(KAGGLE_PATIENT, "1")])


def test_kaggle_codes_with_grades_of_disease_are_refused() -> None:
    with pytest.raises(CodingError, match="grades above 1 beside Kaggle codes"):
        read([",".join(KAGGLE_HEADER), line(KAGGLE_PATIENT, "3")])


def patients() -> st.SearchStrategy[list[list[float]]]:
    cells = [
        st.integers(18, 100).map(float)
        if a.name == "age"
        else st.sampled_from([float(v) for v in a.code_values])
        if a.name in ("sex", "cp")
        else st.one_of(
            st.just(math.nan),
            st.sampled_from([float(v) for v in a.code_values])
            if a.codes
            else st.floats(a.plausible[0], a.plausible[1]).map(lambda v: round(v, 1) + 0.0),
        )
        for a in ATTRIBUTES
        if a.plausible or a.codes
    ]
    return st.lists(st.tuples(*cells).map(list), min_size=1, max_size=12)


@given(rows=patients(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_uci_to_kaggle_to_uci_is_the_identity(rows: list[list[float]], data: st.DataObject) -> None:
    X = np.array(rows)
    num = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(X), max_size=len(X))))

    again, diseased = codings.from_kaggle(*codings.to_kaggle(X, num))

    np.testing.assert_array_equal(again, X)
    np.testing.assert_array_equal(diseased, num > 0)


@given(rows=patients())
@settings(max_examples=60, deadline=None)
def test_a_kaggle_file_read_back_is_the_uci_table_it_was_made_from(
    rows: list[list[float]],
) -> None:
    surely_kaggle = [51, 1, 4, 131, 241, 0, 1, 141, 1, 1.7, 2, 1, 7]
    X = np.array(list({str(row): row for row in [surely_kaggle, *rows]}.values()), dtype=float)
    num = np.zeros(len(X))

    home = read(lines_of(*codings.to_kaggle(X, num), KAGGLE_HEADER))

    np.testing.assert_array_equal(home.X, X)


# -- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "word", "uci"),
    [
        ("cp", "TA", 1), ("cp", "ATA", 2), ("cp", "NAP", 3), ("cp", "ASY", 4),
        ("cp", "typical angina", 1), ("cp", "Atypical angina", 2),
        ("cp", "non-anginal", 3), ("cp", "Non-anginal pain", 3), ("cp", "asymptomatic", 4),
        ("sex", "M", 1), ("sex", "F", 0), ("sex", "Male", 1), ("sex", "Female", 0),
        ("fbs", "TRUE", 1), ("fbs", "False", 0), ("fbs", "Greater than 120 mg/ml", 1),
        ("fbs", "Lower than 120 mg/ml", 0),
        ("exang", "Y", 1), ("exang", "N", 0), ("exang", "Yes", 1), ("exang", "No", 0),
        ("restecg", "Normal", 0), ("restecg", "ST", 1), ("restecg", "LVH", 2),
        ("restecg", "ST-T wave abnormality", 1), ("restecg", "lv hypertrophy", 2),
        ("slope", "Up", 1), ("slope", "Flat", 2), ("slope", "Down", 3),
        ("slope", "upsloping", 1), ("slope", "downsloping", 3),
        ("ca", "Zero", 0), ("ca", "Three", 3),
        ("thal", "normal", 3), ("thal", "fixed defect", 6), ("thal", "reversable defect", 7),
    ],
)  # fmt: skip
def test_each_word_becomes_the_uci_code_it_stands_for(name: str, word: str, uci: int) -> None:
    worded = {"cp": "ASY", "restecg": "ST", "slope": "Flat", "thal": "fixed defect"}

    home = read([",".join((*NAMES, "num")), line(PATIENT | worded | {name: word}, "1")])

    assert value(home, name) == uci
    assert home.coding == "worded"


@pytest.mark.parametrize(
    ("word", "num"), [("Presence", 1), ("Absence", 0), ("yes", 1), ("No", 0), ("positive", 1)]
)
def test_each_word_of_the_outcome_is_read(word: str, num: int) -> None:
    home = read([",".join((*NAMES, "Heart Disease")), line(PATIENT, word)])

    assert home.num is not None
    assert home.num.tolist() == [num]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("ChestPainType", "cp"), ("chest pain type", "cp"), ("RestingBP", "trestbps"),
        ("resting bp s", "trestbps"), ("cholestoral", "chol"), ("FBS over 120", "fbs"),
        ("EKG results", "restecg"), ("thalch", "thalach"), ("Max_heart_rate", "thalach"),
        ("ExerciseAngina", "exang"), ("ST depression", "oldpeak"), ("ST_Slope", "slope"),
        ("Number of vessels fluro", "ca"), ("Thallium", "thal"), ("Gender", "sex"),
        ("HeartDisease", "num"), ("target", "num"), ("dataset", "site"),
    ],
)  # fmt: skip
def test_each_spelling_of_a_column_is_known(written: str, name: str) -> None:
    header = [written if known == name else known for known in HEADER]

    home = read([",".join(header), line(PATIENT, "1", "va")])

    assert found(home, "absent") == []
    assert found(home, "ignored") == []
    assert home.site == ("va",)


# -- outcome ----------------------------------------------------------------------------------


def test_a_file_without_an_outcome_has_none_and_says_so_by_none() -> None:
    home = read([",".join(NAMES), line(PATIENT)])

    assert home.num is None


def test_statlogs_one_and_two_are_absence_and_presence_when_the_markers_agree() -> None:
    X, num = cohort(80, seed=3)

    home = read(lines_of(X, num + 1, (*NAMES, "class")))

    assert home.num is not None
    assert home.num.tolist() == num.tolist()
    assert "Statlog" in found(home, "label")[0].message


def test_one_and_two_that_the_markers_cannot_explain_are_refused() -> None:
    with pytest.raises(CodingError, match="holds 1 and 2 only"):
        read([",".join((*NAMES, "class")), line(PATIENT, "1"), line(PATIENT | {"age": "9e1"}, "2")])


def test_one_and_two_under_ucis_own_name_are_grades() -> None:
    rows = [line(PATIENT, "1"), line(PATIENT | {"age": "52"}, "2")]

    home = read([",".join((*NAMES, "num")), *rows])

    assert home.num is not None
    assert home.num.tolist() == [1, 2]


def test_an_inverted_label_under_uci_codes_is_refused_and_the_mend_is_named() -> None:
    X, num = cohort(80, seed=4)

    with pytest.raises(CodingError, match=r"inverted: exang, oldpeak, ca fall.*write 1 - outcome"):
        read(lines_of(X, 1 - num, (*NAMES, "target")))


def test_a_label_that_no_marker_follows_is_told_and_refused_by_strict() -> None:
    X, num = cohort(400, seed=5)
    noise = np.random.default_rng(0).permutation(num)

    home = read(lines_of(X, noise, (*NAMES, "num")))

    assert found(home, "unrelated_label")[0].level == "warning"
    with pytest.raises(CodingError, match="refused by strict"):
        read(lines_of(X, noise, (*NAMES, "num")), strict=True)


def test_an_outcome_that_is_none_is_refused_with_its_line_and_without_its_value() -> None:
    with pytest.raises(ContractError, match=r"num: 1 cell \(line 2\)") as refusal:
        read([",".join((*NAMES, "num")), line(PATIENT, "77")])

    assert "77" not in str(refusal.value)


def test_a_blank_outcome_is_counted() -> None:
    home = read([",".join((*NAMES, "num")), line(PATIENT, ""), line(PATIENT, "1")])

    assert found(home, "unlabelled")[0].count == 1


# -- refusals ---------------------------------------------------------------------------------


def test_codes_that_fit_both_codings_are_refused_as_ambiguous() -> None:
    both = PATIENT | {"cp": "2", "slope": "2", "thal": "3"}

    with pytest.raises(CodingError, match="ambiguous: no code in cp, restecg, slope, thal"):
        read([",".join((*NAMES, "target")), line(both, "1")])


@pytest.mark.parametrize("mark", [{"ca": "?"}, {"ca": "-9"}])
def test_a_mark_that_only_uci_makes_settles_an_ambiguous_file(mark: dict[str, str]) -> None:
    both = PATIENT | {"cp": "2", "slope": "2", "thal": "3"} | mark

    home = read([",".join((*NAMES, "target")), line(both, "1")])

    assert home.coding == "uci"


@pytest.mark.parametrize(
    ("name", "code", "coding"),
    [
        ("cp", "4", "uci"), ("slope", "3", "uci"), ("thal", "6", "uci"), ("thal", "7", "uci"),
        ("cp", "0", "kaggle"), ("slope", "0", "kaggle"), ("ca", "4", "kaggle"),
        ("thal", "0", "kaggle"), ("thal", "1", "kaggle"), ("thal", "2", "kaggle"),
    ],
)  # fmt: skip
def test_one_code_that_only_one_coding_has_settles_a_file(
    name: str, code: str, coding: str
) -> None:
    both = PATIENT | {"cp": "2", "slope": "2", "thal": "3"} | {name: code}

    home = read([",".join((*NAMES, "target")), line(both, "1")])

    assert home.coding == coding


CELLS = ["", "?", "-9", "0", "1", "2", "3", "4", "6", "7", "63", "1e400", "-0", "ASY", "M", "nan"]


@given(
    header=st.lists(st.sampled_from([*HEADER, "target", "Sex", "id", "bmi"]), min_size=1),
    rows=st.lists(st.lists(st.sampled_from(CELLS), min_size=18, max_size=18), max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_nothing_in_a_file_ends_in_a_crash_or_in_a_code_that_uci_does_not_have(
    header: list[str], rows: list[list[str]]
) -> None:
    header = list(dict.fromkeys(["age", "sex", "cp", *header]))
    lines = [",".join(header), *(",".join(row[: len(header)]) for row in rows)]
    lines = [text for text in lines if len(text.split(",")) == len(header)]

    with contextlib.suppress(ContractError):
        home = read(lines)
        codes = home.X[:, NAMES.index("cp")]
        assert set(codes[~np.isnan(codes)]) <= {1, 2, 3, 4}
        assert len(home.X) == len(home.site) == len(home.lines)


def test_two_codings_in_one_file_are_refused_with_columns_counts_and_lines() -> None:
    rows = [line(PATIENT, "1"), line(KAGGLE_PATIENT, "0"), line(KAGGLE_PATIENT, "1")]

    with pytest.raises(CodingError) as refusal:
        read([",".join((*NAMES, "target")), *rows])

    message = str(refusal.value)
    assert "only UCI has stand in cp in 1 row (line 2), thal in 1 row (line 2)" in message
    assert "Kaggle recoding has stand in cp in 2 rows (lines 3 and 4)" in message


def test_words_beside_numbers_in_one_coded_column_are_refused() -> None:
    rows = [line(PATIENT | {"cp": "ASY"}, "1"), line(PATIENT, "0")]

    with pytest.raises(CodingError, match="mixed: cp holds words in 1 row and numbers in 1"):
        read([",".join((*NAMES, "num")), *rows])


def test_a_number_out_of_range_is_refused_with_line_unit_and_mend_but_not_its_value() -> None:
    rows = [line(PATIENT, "1"), line(PATIENT | {"chol": "6.21"}, "0")]

    with pytest.raises(ContractError) as refusal:
        read([",".join((*NAMES, "num")), *rows])

    assert str(refusal.value) == (
        "some.csv: chol: 1 cell (line 3) not as expected, a number from 80 to 650 mg/dL; check "
        "the unit (mg/dL), or leave them blank if not known"
    )


@pytest.mark.parametrize(
    ("name", "text"), [("cp", "5"), ("sex", "2"), ("restecg", "1.5"), ("ca", "7"), ("thal", "inf")]
)
def test_an_unknown_code_is_refused_with_its_line(name: str, text: str) -> None:
    rows = [line(PATIENT, "1"), line(PATIENT | {"age": "52", name: text}, "1")]

    with pytest.raises(CodingError, match=rf"{name}: 1 cell \(line 3\) not as expected"):
        read([",".join((*NAMES, "num")), *rows])


def test_an_unknown_word_is_refused_and_not_repeated() -> None:
    with pytest.raises(CodingError, match=r"sex: 1 cell \(line 2\)") as refusal:
        read([",".join((*NAMES, "num")), line(PATIENT | {"sex": "Herr Meier"}, "1")])

    assert "Meier" not in str(refusal.value)


def test_a_file_without_a_column_that_every_panel_needs_is_refused() -> None:
    with pytest.raises(CodingError, match="no column for cp, which every panel needs"):
        read(["age,sex,ldl", "63,1,120"])


def test_two_columns_for_one_attribute_are_refused() -> None:
    with pytest.raises(CodingError, match='"sex" and "Gender" both mean sex'):
        read(["age,sex,Gender,cp", "63,1,1,4"])


def test_a_header_without_a_patient_is_refused() -> None:
    with pytest.raises(ContractError, match="a header and no patient"):
        read([",".join(HEADER)])


def test_a_column_that_is_not_in_the_contract_is_left_out_and_named() -> None:
    home = read([",".join((*NAMES, "num", "bmi")), line(PATIENT, "1", "27")])

    assert '"bmi"' in found(home, "ignored")[0].message


def test_a_patient_whom_no_panel_can_use_is_kept_and_counted() -> None:
    home = read([",".join((*NAMES, "num")), line(PATIENT | {"age": ""}, "1")])

    assert found(home, "unusable")[0].count == 1


# -- duplicates and the shipped patients -------------------------------------------------------


def uci_lines(keep: np.ndarray, *, site: bool = True) -> list[str]:
    known = shipped.patients()
    header = HEADER if site else HEADER[:-1]
    lines = lines_of(known.X[keep], known.num[keep], header[:14])
    if not site:
        return lines
    names = [known.site[i] for i in np.flatnonzero(keep)]
    return [",".join(HEADER), *(f"{t},{n}" for t, n in zip(lines[1:], names, strict=True))]


EVERYONE = np.ones(920, dtype=bool)


def test_exact_duplicates_in_a_foreign_file_are_dropped_with_their_count() -> None:
    rows = [line(PATIENT, "1", "bern")] * 3 + [line(PATIENT | {"age": "52"}, "1", "bern")]

    home = read([",".join(HEADER), *rows])

    assert len(home.X) == 2
    assert home.lines == (2, 5)
    assert found(home, "duplicates")[0].count == 2


@pytest.mark.parametrize("site", [True, False])
def test_ucis_own_two_pairs_stay(site: bool) -> None:
    home = read(uci_lines(EVERYONE, site=site))

    assert len(home.X) == 920
    assert found(home, "duplicates") == []
    assert found(home, "repeats_kept")[0].count == 2


def test_ucis_own_patients_pass_strict_reading() -> None:
    home = read(uci_lines(EVERYONE), strict=True)

    assert found(home, "shipped_patients")[0].count == 920


def test_ucis_patients_doubled_are_halved_again() -> None:
    lines = uci_lines(EVERYONE)

    home = read([*lines, *lines[1:]])

    assert len(home.X) == 920
    assert found(home, "duplicates")[0].count == 920


def test_gaps_filled_in_upstream_are_blanked_and_counted_and_refused_by_strict() -> None:
    known = shipped.patients()
    slope = NAMES.index("slope")
    X = known.X.copy()
    gap = np.isnan(X[:, slope])
    X[gap, slope] = np.where(known.num[gap] > 0, 2, 1)
    lines = lines_of(X, known.num, HEADER[:14])

    home = read(lines)

    np.testing.assert_array_equal(home.X, np.delete(known.X, removed(home), axis=0))
    (fill,) = found(home, "filled_in")
    assert (fill.column, fill.count + 2) == ("slope", 309)
    assert "only repeat the outcome" in fill.message
    with pytest.raises(CodingError, match="slope: filled in where UCI has nothing"):
        read(lines, strict=True)


def removed(home: codings.HomeTable) -> list[int]:
    return sorted(set(range(920)) - {number - 2 for number in home.lines})


def test_another_hospitals_measurements_are_never_taken_for_fills() -> None:
    X, num = cohort(150, seed=6)
    theirs = [f"{text},bern" for text in lines_of(X, num, HEADER[:14])[1:]]

    home = read([*uci_lines(EVERYONE), *theirs])

    assert found(home, "filled_in") == []
    np.testing.assert_array_equal(home.X[920:], X)


def test_few_cells_in_common_with_an_absent_patient_are_chance_at_another_hospital() -> None:
    known = shipped.patients()
    va = np.array([site == "va" for site in known.site])
    sparse = va & (np.isnan(known.X).sum(axis=1) >= 6)
    X = np.where(np.isnan(known.X[sparse]), [51, 1, 4, 131, 241, 0, 1, 141, 1, 1.7, 2, 1, 7], 0)
    X = np.where(np.isnan(known.X[sparse]), X, known.X[sparse])
    theirs = [f"{text},bern" for text in lines_of(X, known.num[sparse], HEADER[:14])[1:]]
    assert len(theirs) > 20

    home = read([*uci_lines(~va), *theirs])

    assert found(home, "filled_in") == []
    assert not np.isnan(home.X[720:]).any()


def test_a_wrong_codebook_is_found_by_the_patients_it_was_used_on() -> None:
    known = shipped.patients()
    cleveland = np.arange(920) < 303
    X, cp = known.X[cleveland].copy(), NAMES.index("cp")
    X[:, cp] = np.array([0, 4, 2, 3, 1])[X[:, cp].astype(int)]

    with pytest.raises(CodingError, match="144 whose cp is 'asymptomatic' read 'typical angina'"):
        read(lines_of(X, known.num[cleveland], HEADER[:14]))


def test_outcomes_that_contradict_ucis_are_refused() -> None:
    known = shipped.patients()
    num = np.where(np.arange(920) % 8 == 0, np.where(known.num > 0, 0, 1), known.num)

    with pytest.raises(CodingError, match="is the opposite of UCI's"):
        read(lines_of(known.X, num, HEADER[:14]))


def test_a_wrong_site_label_of_a_known_patient_is_corrected_and_told() -> None:
    lines = uci_lines(EVERYONE)
    lines[304] = lines[304].replace("hungary", "cleveland")

    home = read(lines)

    assert home.site[303] == "hungary"
    assert "line 305" in found(home, "site_label")[0].message


def test_no_message_holds_bytes_of_a_patient() -> None:
    secret = hashlib.sha256(b"patient").hexdigest()

    with pytest.raises(CodingError) as refusal:
        read([",".join((*NAMES, "num")), line(PATIENT | {"thal": secret}, "1")])

    assert secret not in str(refusal.value)
