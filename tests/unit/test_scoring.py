"""A file of any length gets the answers that its patients get one by one."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bundle_kit import tiny_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from heartdx import bundle, cli, records, scoring
from heartdx.contract import ATTRIBUTES, MISSING_NUMBER, NAMES, PANEL_NAMES, PANELS
from heartdx.errors import (
    BundleError,
    CodingError,
    ContractError,
    RecordError,
    UnavailableError,
    UsageError,
)

TOLERANCE = 1e-9
CLEAR = {"age": 63, "sex": 1, "cp": 4, "thalach": 150, "exang": 0, "oldpeak": 2.3}
"""A patient whose codes are UCI's for certain, and whom the exercise panel answers."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bundle.load(tiny_bundle.write(tmp_path_factory.mktemp("models")))


@pytest.fixture
def long_files(monkeypatch):
    """Every text file counts as a long one, and is read in blocks of a few lines."""
    monkeypatch.setattr(scoring, "ALWAYS_WHOLE_BYTES", 0)
    monkeypatch.setattr(scoring, "MOST_WHOLE_BYTES", 0)
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 200)


def parquet(path: Path, patients, **options) -> Path:
    table = pl.DataFrame(patients, schema=dict.fromkeys(NAMES, pl.Float64), orient="row")
    table.write_parquet(path, **options)
    return path


def text(path: Path, patients, *, header=NAMES) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *patients])
    return path


def patient(**values) -> list[float | None]:
    return [{**CLEAR, **values}.get(name) for name in NAMES]


def cohort(count: int, seed: int = 7) -> list[list[float | None]]:
    """Plausible patients with gaps where the contract allows them."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        row = []
        for attribute in ATTRIBUTES:
            low, high = attribute.plausible or (0, 0)
            value = (
                float(draw.choice(attribute.code_values))
                if attribute.codes
                else round(float(draw.uniform(low, high)), 1)
            )
            is_gap = attribute.name not in records.ALWAYS_REQUIRED and draw.random() < 0.2
            row.append(None if is_gap else value)
        rows.append(row)
    return rows


def scored(path: Path, out: Path, model, **options) -> pl.DataFrame:
    scoring.score_file(path, out, model=model, **options)
    return pl.read_parquet(out) if out.suffix == ".parquet" else pl.read_csv(out)


def expected(model, patients) -> np.ndarray:
    return model.score(records.table([records.decode_values(row) for row in patients])).probability


# -- the numbers -------------------------------------------------------------------------------


def value_of(attribute, *, beyond: bool):
    good = (
        st.sampled_from([float(code) for code in attribute.code_values])
        if attribute.codes
        else st.floats(*attribute.plausible)
    )
    gap = st.sampled_from([None, float("nan"), MISSING_NUMBER])
    if beyond:
        return good | gap | st.sampled_from([-1.0, 5.0, 8.0, 1e6, float("inf"), 2.5])
    return good if attribute.name in records.ALWAYS_REQUIRED else good | good | gap


GOOD = st.tuples(*(value_of(attribute, beyond=False) for attribute in ATTRIBUTES))
ANY = st.tuples(*(value_of(attribute, beyond=True) for attribute in ATTRIBUTES))


def decoded(values) -> tuple[np.ndarray | None, list[str]]:
    """A row through the service's decoders, or the fields they refuse."""
    try:
        return records.table([records.decode_values(values)]), []
    except RecordError as refusal:
        fields = {problem.field for problem in refusal.problems}
        return None, sorted(fields, key=NAMES.index)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(GOOD | GOOD | GOOD | ANY, min_size=1, max_size=25))
def test_every_row_gets_the_answer_or_the_problems_it_gets_alone(rows, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    path = parquet(folder / "in.parquet", rows)

    answers = scored(path, folder / "out.parquet", model, keep_going=True, coding="uci")

    for values, answer in zip(rows, answers.to_dicts(), strict=True):
        row, fields = decoded(values)
        if row is None:
            assert answer["probability"] is answer["panel"] is answer["prediction"] is None
            assert [said.split(":")[0] for said in answer["error"].split(" | ")] == fields
        else:
            alone = model.score(row)
            assert answer["error"] is None
            assert answer["probability"] == pytest.approx(alone.probability[0], abs=TOLERANCE)
            assert answer["prediction"] == alone.predictions(model.threshold)[0]
            assert answer["panel"] == alone.panel_name(0)


def test_the_cut_into_blocks_does_not_matter(model, tmp_path, monkeypatch):
    patients = cohort(2_000)
    whole = scored(parquet(tmp_path / "a.parquet", patients), tmp_path / "a.out.parquet", model)
    cut = parquet(tmp_path / "b.parquet", patients, row_group_size=37)
    lines = text(tmp_path / "c.csv", patients)
    monkeypatch.setattr(scoring, "ALWAYS_WHOLE_BYTES", 0)
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 501)

    by_groups = scored(cut, tmp_path / "b.out.parquet", model)
    by_lines = scored(lines, tmp_path / "c.out.parquet", model)

    assert by_groups.equals(whole)
    assert by_lines["line"].to_list() == list(range(2, 2_002))
    assert by_lines.drop("line").equals(whole.drop("row"))
    assert np.allclose(whole["probability"], expected(model, patients), rtol=0, atol=TOLERANCE)
    assert set(whole["panel"]) == set(PANEL_NAMES)


@pytest.mark.parametrize("group", [7, 150, 400, 2_000])
def test_row_groups_smaller_and_larger_than_a_piece_give_the_same(
    group, model, tmp_path, monkeypatch
):
    patients = cohort(2_000)
    whole = parquet(tmp_path / "a.parquet", patients)
    grouped = parquet(tmp_path / "b.parquet", patients, row_group_size=group)
    expected = scored(whole, tmp_path / "a.out.parquet", model, with_input=True)
    monkeypatch.setattr(scoring, "ROWS_READ", 150)
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", 64)

    answers = scored(grouped, tmp_path / "b.out.parquet", model, with_input=True)

    assert answers.equals(expected)
    assert answers["row"].to_list() == list(range(1, 2_001))


@pytest.mark.parametrize("options", [[], ["--with-input"]])
def test_memory_does_not_follow_the_row_groups(options, model, tmp_path):
    part = pl.LazyFrame(cohort(1_000), schema=dict.fromkeys(NAMES, pl.Float64), orient="row")
    many, one = tmp_path / "many.parquet", tmp_path / "one.parquet"
    pl.concat([part] * 2_000).sink_parquet(many, row_group_size=100_000)
    pl.scan_parquet(many).sink_parquet(one, row_group_size=2_000_000)

    of_many, of_one = (peak_megabytes(path, model, options) for path in (many, one))

    assert of_one < of_many + 60  # a group held whole is 208 MB
    assert max(of_many, of_one) < 400


def peak_megabytes(path: Path, model, options: list[str]) -> float:
    """Most memory of the command on a file, in a process of its own."""
    command = ["score", str(path), "--model", str(model.folder), *options]
    command += ["--output", str(path.with_suffix(".out.parquet"))]
    measured = (
        f"from heartdx import cli; assert cli.main({command!r}) == 0;"
        "print(open('/proc/self/status').read())"  # getrusage would tell the parent's peak
    )
    done = subprocess.run(
        [sys.executable, "-c", measured], capture_output=True, check=True, text=True
    )
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    return int(kilobytes) / 1024


def test_a_long_csv_is_answered_byte_for_byte_as_a_small_one(
    model, heart_csv, tmp_path, monkeypatch
):
    scoring.score_file(heart_csv, tmp_path / "small.csv", model=model)
    monkeypatch.setattr(scoring, "ALWAYS_WHOLE_BYTES", 0)

    scoring.score_file(heart_csv, tmp_path / "long.csv", model=model)

    assert (tmp_path / "long.csv").read_bytes() == (tmp_path / "small.csv").read_bytes()


def test_cells_of_text_mean_what_they_mean_in_a_small_file(long_files, model, tmp_path):
    cells = ["63", " 63", "63.0", "6.3e1", '"63"']
    gaps = ["", "?", " ? ", "NA", "n/A", "NaN", "null", "None", "-9", "-9.0"]
    lines = ["age,sex,cp,chol"]
    lines += [f"{cell},1,4,{gap}" for cell in cells for gap in gaps]
    path = tmp_path / "cells.csv"
    path.write_text("\r\n".join(lines))

    answers = scored(path, tmp_path / "out.parquet", model)

    alone = model.score(records.table([records.decode_record({"age": 63, "sex": 1, "cp": 4})]))
    assert len(answers) == len(cells) * len(gaps)
    assert np.allclose(answers["probability"], alone.probability[0], rtol=0, atol=TOLERANCE)


class Forest:
    """Stands for a sub-model without an equation."""

    def probability(self, X):
        return np.nan_to_num(X[:, 0]) / 200.0


def with_scorer(model, scorer):
    return dataclasses.replace(model, scorers={**model.scorers, "exercise": scorer})


def test_a_sub_model_without_an_equation_answers_its_own_rows(model, tmp_path):
    patients = cohort(500)
    mixed = with_scorer(model, Forest())

    answers = scored(parquet(tmp_path / "in.parquet", patients), tmp_path / "o.parquet", mixed)

    assert np.allclose(answers["probability"], expected(mixed, patients), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("answer", [1.5, float("nan")])
def test_a_sub_model_that_gives_no_probability_stops_the_run(answer, model, tmp_path):
    class Broken:
        def probability(self, X):
            return np.full(len(X), answer)

    path = parquet(tmp_path / "in.parquet", [patient()])

    with pytest.raises(BundleError, match="no probability"):
        scored(path, tmp_path / "out.parquet", with_scorer(model, Broken()))
    assert [each.name for each in tmp_path.iterdir()] == ["in.parquet"]


def test_a_bundle_without_the_bedside_panel_says_what_its_first_panel_needs(model, tmp_path):
    scorers = {name: model.scorers[name] for name in PANEL_NAMES[1:]}
    late = dataclasses.replace(model, scorers=scorers)
    path = parquet(tmp_path / "in.parquet", [patient(), patient(oldpeak=None)])

    answers = scored(path, tmp_path / "out.parquet", late, keep_going=True)

    assert answers["panel"].to_list() == ["exercise", None]
    assert answers["error"][1].startswith("oldpeak: expected")


# -- bad rows ----------------------------------------------------------------------------------


BAD = [patient(), patient(chol=98765), patient(), patient(sex=None, cp=2.5)]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_bad_row_stops_the_run_and_nothing_is_written(suffix, long_files, model, tmp_path):
    path = (parquet if suffix == "parquet" else text)(tmp_path / f"in.{suffix}", BAD)
    out = tmp_path / f"out.{suffix}"
    out.write_text("old")
    place = {"parquet": ("row 2", "row 4"), "csv": ("line 3", "line 5")}[suffix]

    with pytest.raises(ContractError) as refusal:
        scoring.score_file(path, out, model=model)

    said = str(refusal.value)
    assert said.startswith(f"{path}: 2 of 4 rows break the contract")
    assert f"{place[0]}: chol: expected a number from 80 to 650 mg/dL" in said
    assert f"{place[1]}: sex: expected one of 0 (female), 1 (male)" in said
    assert "cp: expected one of 1 (typical angina)" in said
    assert "98765" not in said
    assert out.read_text() == "old"
    assert {each.name for each in tmp_path.iterdir()} == {f"in.{suffix}", f"out.{suffix}"}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_keeping_going_writes_bad_rows_without_a_number(suffix, long_files, model, tmp_path):
    path = (parquet if suffix == "parquet" else text)(tmp_path / f"in.{suffix}", BAD)

    found = scoring.score_file(path, tmp_path / "out.csv", model=model, keep_going=True)

    answers = pl.read_csv(tmp_path / "out.csv")
    assert (found.rows, found.refused) == (4, 2)
    assert answers["error"].is_null().to_list() == [True, False, True, False]
    for column in ("probability", "prediction", "label", "panel"):
        assert answers[column].is_null().to_list() == [False, True, False, True]


def test_a_word_among_numbers_is_a_bad_cell_of_a_long_file(long_files, model, tmp_path):
    rows = [patient(), patient(age="sixty"), patient(thal="normal")]
    path = text(tmp_path / "in.csv", rows)

    answers = scored(path, tmp_path / "out.csv", model, keep_going=True)

    assert answers["probability"].is_null().to_list() == [False, True, True]
    assert [said and said.split(":")[0] for said in answers["error"]] == [None, "age", "thal"]
    assert "sixty" not in (tmp_path / "out.csv").read_text()


def test_zeros_that_mean_missing_are_read_so_and_told(model, tmp_path):
    path = parquet(tmp_path / "in.parquet", [patient(chol=0), patient(chol=200)])
    told = []

    answers = scored(path, tmp_path / "out.parquet", model, told=told.append)

    gap = expected(model, [patient(), patient(chol=200)])
    assert np.allclose(answers["probability"], gap, rtol=0, atol=TOLERANCE)
    assert told[0].startswith("chol: 1 cell of 0 read as missing")


def test_a_cut_line_is_refused_by_its_number(long_files, model, tmp_path):
    rows = [[*patient()] for _ in range(60)]
    rows[40] = rows[40][:9]
    path = text(tmp_path / "in.csv", rows)

    with pytest.raises(ContractError, match="line 42 has 9 cells, the first line has 13"):
        scored(path, tmp_path / "out.csv", model, keep_going=True)


def test_blank_lines_are_no_patients_and_lines_keep_their_numbers(long_files, model, tmp_path):
    path = text(tmp_path / "in.csv", [patient(), [], [], patient(), []])

    assert scored(path, tmp_path / "out.csv", model)["line"].to_list() == [2, 5]


# -- codings -----------------------------------------------------------------------------------


def test_a_file_in_the_kaggle_recoding_never_passes_for_uci(model, tmp_path):
    path = parquet(tmp_path / "in.parquet", [patient(cp=0), patient(cp=1)])

    with pytest.raises(CodingError, match="only the Kaggle recoding has"):
        scored(path, tmp_path / "out.parquet", model, keep_going=True)


def test_codes_that_both_codings_have_need_a_word_from_the_user(model, tmp_path):
    path = parquet(tmp_path / "in.parquet", [patient(cp=2)])

    with pytest.raises(CodingError, match="--coding uci"):
        scored(path, tmp_path / "out.parquet", model)
    stated = scored(path, tmp_path / "out.parquet", model, coding="uci")

    assert stated["probability"][0] == pytest.approx(expected(model, [patient(cp=2)])[0])


def test_a_middling_file_of_words_is_read_whole_and_that_is_said(model, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "ALWAYS_WHOLE_BYTES", 0)
    path = tmp_path / "worded.csv"
    path.write_text("age,sex,cp\n63,male,asymptomatic\n")
    told = []

    answers = scored(path, tmp_path / "out.parquet", model, told=told.append)

    alone = model.score(records.table([records.decode_record({"age": 63, "sex": 1, "cp": 4})]))
    assert answers["probability"][0] == pytest.approx(alone.probability[0], abs=TOLERANCE)
    assert "so it is read whole" in told[0]


def test_a_long_file_without_a_header_is_refused(long_files, model, tmp_path):
    path = text(tmp_path / "in.csv", [patient()], header=patient())

    with pytest.raises(CodingError, match="no header"):
        scored(path, tmp_path / "out.csv", model)


def test_a_parquet_column_of_text_is_refused_by_its_name(model, tmp_path):
    pl.DataFrame({**CLEAR, "cp": "asymptomatic"}).write_parquet(tmp_path / "in.parquet")

    with pytest.raises(CodingError, match="column cp is of type String; expected numbers"):
        scored(tmp_path / "in.parquet", tmp_path / "out.parquet", model)


def test_whole_numbers_booleans_and_other_names_are_read(model, tmp_path):
    table = pl.DataFrame({**CLEAR, "exang": False, "MaxHR": 150, "note": "x"}).drop("thalach")
    table.write_parquet(tmp_path / "in.parquet")

    answers = scored(tmp_path / "in.parquet", tmp_path / "out.parquet", model)

    assert answers["probability"][0] == pytest.approx(expected(model, [patient()])[0])


# -- in and out --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["csv", "parquet"])
@pytest.mark.parametrize("target", ["csv", "parquet"])
def test_the_output_is_written_as_its_suffix_says(source, target, model, tmp_path):
    path = (parquet if source == "parquet" else text)(tmp_path / f"in.{source}", cohort(30))

    answers = scored(path, tmp_path / f"out.{target}", model)

    assert answers.columns == [scoring.PLACE[source], *scoring.ANSWERS]
    decimals = 5e-7 if target == "csv" else TOLERANCE
    assert np.allclose(answers["probability"], expected(model, cohort(30)), rtol=0, atol=decimals)


@pytest.mark.parametrize("limit", [0, 10**6], ids=["long", "small"])
def test_the_files_own_columns_stand_before_the_answers(limit, model, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "ALWAYS_WHOLE_BYTES", limit)
    path = tmp_path / "in.csv"
    path.write_text("id,age,sex,cp,chol\nA-1,63,1,4,?\nB-2,063.0,0,4,200\n")

    scoring.score_file(path, tmp_path / "out.csv", model=model, with_input=True)

    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows[0] == ",".join(["line", "id,age,sex,cp,chol", *scoring.ANSWERS])
    assert rows[1].startswith("2,A-1,63,1,4,?,0.")
    assert rows[2].startswith("3,B-2,063.0,0,4,200,0.")


def test_a_kept_column_may_not_be_called_as_an_answer(model, tmp_path):
    pl.DataFrame({**CLEAR, "probability": 0.9}).write_parquet(tmp_path / "in.parquet")

    with pytest.raises(UsageError, match="'probability' twice"):
        scored(tmp_path / "in.parquet", tmp_path / "out.parquet", model, with_input=True)


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", b"age,sex,cp\n63,1,4\n"])
def test_what_is_no_parquet_file_is_refused(content, model, tmp_path):
    (tmp_path / "in.parquet").write_bytes(content)

    with pytest.raises(ContractError, match="cannot be read as Parquet"):
        scored(tmp_path / "in.parquet", tmp_path / "out.parquet", model)


def test_a_table_without_a_patient_is_refused(model, tmp_path):
    with pytest.raises(ContractError, match="holds no patient"):
        scored(parquet(tmp_path / "in.parquet", []), tmp_path / "out.parquet", model)


def test_a_file_that_is_not_there_is_unavailable(model, tmp_path):
    with pytest.raises(UnavailableError, match="cannot be read"):
        scored(tmp_path / "in.parquet", tmp_path / "out.parquet", model)


@pytest.mark.parametrize("options", [{"keep_going": True}, {"coding": "uci"}])
def test_strict_reading_is_for_text_read_whole(options, model, tmp_path):
    path = text(tmp_path / "in.csv", [patient()])

    with pytest.raises(UsageError, match="--strict"):
        scored(path, tmp_path / "out.csv", model, strict=True, **options)


def test_long_work_tells_its_progress(model, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "PROGRESS_SECONDS", 0.0)
    path = parquet(tmp_path / "in.parquet", cohort(100), row_group_size=10)
    seen = []

    scored(path, tmp_path / "o.parquet", model, progress=lambda rows, _: seen.append(rows))

    assert seen[-1] == 100
    assert seen == sorted(seen)


def test_the_command_scores_parquet_and_counts_what_it_left_out(model, tmp_path, capsys):
    path, out = parquet(tmp_path / "in.parquet", BAD), tmp_path / "out.parquet"
    command = ["score", str(path), "--model", str(model.folder)]

    assert cli.main([*command, "--out", str(out), "--keep-going"]) == 0

    told = capsys.readouterr()
    assert told.out == f"{out}: 2 patients scored by model {model.version}\n"
    assert "refused=2 of=4" in told.err


def test_the_command_prints_nothing_of_a_file_with_a_bad_row(model, tmp_path, capsys):
    path = parquet(tmp_path / "in.parquet", BAD)

    assert cli.main(["score", str(path), "--model", str(model.folder)]) == 3

    told = capsys.readouterr()
    assert told.out == ""
    assert "row 2: chol" in told.err


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_full_disk_leaves_what_was_there(suffix, model, tmp_path):
    path = parquet(tmp_path / "in.parquet", cohort(2_000))
    out = tmp_path / f"out.{suffix}"
    out.write_text("old")
    command = ["score", str(path), "--model", str(model.folder), "--out", str(out)]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        f"from heartdx import cli; sys.exit(cli.main({command!r}))"
    )

    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)

    assert done.returncode == 7
    assert f"{out}: cannot be written (File too large" in done.stderr
    assert out.read_text() == "old"
    assert {each.name for each in tmp_path.iterdir()} == {"in.parquet", out.name}


def test_the_expression_of_an_equation_is_the_equation(model):
    patients = cohort(300, seed=3)
    X = records.table([records.decode_values(row) for row in patients])
    table = pl.DataFrame(X, schema=list(NAMES), orient="row").fill_nan(None)

    for panel in PANELS:
        document = json.loads((model.folder / panel.name / bundle.EQUATION).read_text())
        inputs = {name: pl.col(name) for name in panel.inputs}
        answered = table.select(p=scoring.equation_expression(document, inputs))["p"].to_numpy()
        known = ~np.isnan(X[:, [NAMES.index(name) for name in panel.required]]).any(axis=1)

        plain = bundle.Equation(document).probability(X[:, panel.columns])
        assert known.any()
        assert np.allclose(answered[known], plain[known], rtol=0, atol=1e-15)
