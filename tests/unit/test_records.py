"""The only door in: a patient means the same from a file and from a request."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from heartdx import records
from heartdx.contract import ATTRIBUTES, NAMES
from heartdx.errors import ContractError, RecordError, UnavailableError

PATIENT = {
    "age": 51, "sex": 1, "cp": 4, "trestbps": 131, "chol": 241, "fbs": 0, "restecg": 1,
    "thalach": 141, "exang": 1, "oldpeak": 1.7, "slope": 2, "ca": 1, "thal": 7,
}  # fmt: skip
KAGGLE = PATIENT | {"cp": 0, "restecg": 2, "slope": 1, "thal": 3}
NAMED = PATIENT | {
    "sex": "male", "cp": "asymptomatic", "fbs": False, "restecg": "ST-T abnormality", "exang": True,
    "slope": "flat", "thal": "reversible defect",
}  # fmt: skip
HOME = [51.0, 1.0, 4.0, 131.0, 241.0, 0.0, 1.0, 141.0, 1.0, 1.7, 2.0, 1.0, 7.0]


def problems(fields: dict[str, object], **options: str) -> list[tuple[str, str]]:
    with pytest.raises(RecordError) as refusal:
        records.decode_record(fields, **options)  # type: ignore[arg-type]
    return [(problem.field, problem.kind) for problem in refusal.value.problems]


# -- requests ---------------------------------------------------------------------------------


def test_numbers_names_and_kaggle_codes_of_one_patient_give_the_same_row() -> None:
    assert records.decode_record(PATIENT) == HOME
    assert records.decode_record(NAMED) == HOME
    assert records.decode_record(KAGGLE, coding="kaggle") == HOME
    assert records.decode_values(list(PATIENT.values())) == HOME


@pytest.mark.parametrize("attribute", [a for a in ATTRIBUTES if a.codes], ids=lambda a: a.name)
def test_every_code_is_read_by_number_by_name_and_by_kaggle_number(attribute) -> None:  # type: ignore[no-untyped-def]
    place = NAMES.index(attribute.name)
    for code in attribute.codes:
        ours = records.decode_record(PATIENT | {attribute.name: code.value})
        theirs = records.decode_record(KAGGLE | {attribute.name: code.kaggle}, coding="kaggle")

        assert ours[place] == theirs[place] == code.value
        if not code.name.isdigit():
            assert records.decode_record(PATIENT | {attribute.name: code.name})[place] == code.value


@pytest.mark.parametrize("missing", [None, -9, -9.0, math.nan])
def test_every_missing_mark_of_a_request_is_nan(missing: object) -> None:
    row = records.decode_record(PATIENT | {"chol": missing, "thal": missing})

    assert [math.isnan(value) for value in row] == [name in ("chol", "thal") for name in NAMES]


def test_a_field_left_out_is_missing() -> None:
    assert sum(map(math.isnan, records.decode_record({"age": 51, "sex": 1, "cp": 4}))) == 10


def test_kaggles_missing_codes_are_missing() -> None:
    row = records.decode_record(KAGGLE | {"ca": 4, "thal": 0}, coding="kaggle")

    assert math.isnan(row[NAMES.index("ca")])
    assert math.isnan(row[NAMES.index("thal")])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"age": None}, ("age", "missing")),
        ({"age": "51"}, ("age", "type")),
        ({"age": True}, ("age", "type")),
        ({"age": 510}, ("age", "range")),
        ({"chol": 0}, ("chol", "range")),
        ({"oldpeak": math.inf}, ("oldpeak", "range")),
        ({"cp": 5}, ("cp", "code")),
        ({"cp": 0}, ("cp", "coding")),
        ({"cp": 1.5}, ("cp", "code")),
        ({"cp": "ouch"}, ("cp", "code")),
        ({"cp": [4]}, ("cp", "type")),
        ({"sex": True}, ("sex", "type")),
        ({"thal": 2}, ("thal", "coding")),
        ({"slope": 0}, ("slope", "coding")),
        ({"ca": 4}, ("ca", "coding")),
        ({"thalachh": 141}, ("thalachh", "unknown")),
    ],
)
def test_each_kind_of_wrong_field_is_named(
    change: dict[str, object], expected: tuple[str, str]
) -> None:
    assert problems(PATIENT | change) == [expected]


def test_all_problems_of_a_patient_are_told_at_once_with_its_place_and_no_value() -> None:
    with pytest.raises(RecordError) as refusal:
        records.decode_record(PATIENT | {"age": 5151, "sex": "Meier"}, record=3)

    assert [(p.record, p.field) for p in refusal.value.problems] == [(3, "age"), (3, "sex")]
    assert "5151" not in str(refusal.value)
    assert "Meier" not in str(refusal.value)


def test_a_near_miss_of_a_name_is_suggested() -> None:
    with pytest.raises(RecordError, match="did you mean thalach"):
        records.decode_record(PATIENT | {"thalachh": 141})


def test_a_name_unfit_to_show_is_not_shown() -> None:
    with pytest.raises(RecordError) as refusal:
        records.decode_record(PATIENT | {"<script>": 1})

    assert "<script>" not in str(refusal.value)


def test_another_number_of_values_is_refused() -> None:
    with pytest.raises(RecordError, match="values: expected 13 values"):
        records.decode_values([51, 1, 4])


def test_a_table_of_no_patients_has_thirteen_columns() -> None:
    assert records.table([]).shape == (0, 13)


# -- files ------------------------------------------------------------------------------------


def test_a_first_line_that_is_a_patient_is_not_taken_for_a_header() -> None:
    raw = records.parse(b"63,1,?\n67,1,4\n", name="x")

    assert raw.header == ()
    assert len(raw.rows) == 2


def test_a_header_is_never_taken_for_a_patient() -> None:
    raw = records.parse(b"age,sex,cp\n63,1,4\n", name="x")

    assert raw.header == ("age", "sex", "cp")
    assert (raw.rows, raw.lines) == ((("63", "1", "4"),), (2,))


@pytest.mark.parametrize(
    "content",
    [
        b"age,sex,cp\n63,1,4\n",
        b"age,sex,cp\r\n63,1,4\r\n",
        b"age,sex,cp\r63,1,4\r",
        b"\xef\xbb\xbfage,sex,cp\n63,1,4",
        b"age;sex;cp\n63;1;4\n",
        b"age\tsex\tcp\n63\t1\t4\n",
        b"age sex  cp \n 63 1 4\n",
        b'"age","sex","cp"\n"63", 1 ,"4"\n\n',
    ],
)
def test_delimiters_line_ends_quotes_and_byte_marks_do_not_matter(content: bytes) -> None:
    raw = records.parse(content, name="x")

    assert (raw.header, raw.rows) == (("age", "sex", "cp"), (("63", "1", "4"),))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"age,sex\n63\n", "line 2 has 1 cells, the first line has 2"),
        (b"<!DOCTYPE html><p>", "this is a web page"),
        (b"  <html>", "this is a web page"),
        (b"PK\x00\x01", "holds zero bytes"),
        (b"age\n\xff\xfe\n", "not UTF-8 text"),
        (b"age,sex\n" + b"6" * 200_000 + b",1\n", "line 2 is not a line of a table"),
    ],
)
def test_what_is_no_table_is_refused_with_the_reason(content: bytes, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        records.parse(content, name="x")


def test_a_file_that_is_not_there_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"python data/download_data\.py"):
        records.read_file(tmp_path / "heart.csv")


@pytest.mark.parametrize(
    ("text", "value"), [(".7", 0.7), ("63.0", 63.0), ("ASY", "ASY"), ("?", None), ("1_0", "1_0")]
)
def test_a_cell_is_a_number_a_word_or_missing(text: str, value: object) -> None:
    assert records.cell(text) == value
