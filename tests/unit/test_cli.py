"""The command line: helps, exit codes, one line for what a user can mend, results on stdout."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import heartdx
from heartdx import cli, codings, errors, records, store
from heartdx.contract import NAMES, PANEL_NAMES, SITE_NAMES
from heartdx.errors import GateError, NoModelError, RecordError, UsageError

SCORE_HEADER = ["line", "probability", "prediction", "label", "panel", "model_version"]
ENTRIES = {
    "python data/download_data.py": ("fetch", ["data/download_data.py"]),
    "python -m src.eda": ("explore", ["-m", "src.eda"]),
    "python -m src.model_train": ("train", ["-m", "src.model_train"]),
}
COMMANDS = pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda c: c.name)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("HEARTDX_", "MODEL_PATH", "MLFLOW"))]:
        monkeypatch.delenv(name)


def said(capsys, *words: str) -> str:
    """What a command prints before it exits on its own."""
    with pytest.raises(SystemExit) as left:
        cli.main(list(words))
    assert left.value.code == 0
    return capsys.readouterr().out


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def made_of(run, monkeypatch) -> None:
    """One command, ``try``, that does this."""
    command = cli.Command("try", "Try.", "heartdx try", lambda _: None, run)
    monkeypatch.setattr(cli, "COMMANDS", (command,))


# -- help ----------------------------------------------------------------------------------------


@COMMANDS
def test_help_of_a_command_shows_an_example(command, capsys):
    text = said(capsys, command.name, "--help")

    assert f"usage: heartdx {command.name}" in text
    assert command.summary in text
    assert f"example:\n  {command.example}" in text


@COMMANDS
def test_the_example_of_a_command_parses(command):
    program, *words = shlex.split(command.example)

    arguments = cli._parsed(words, None)

    assert program == "heartdx"
    assert arguments.command is command


def test_the_overview_lists_every_command_with_its_example(capsys):
    text = said(capsys, "--help")

    for command in cli.COMMANDS:
        assert command.summary in text
        assert f"\n  {command.example}" in text


def test_version_is_the_packages(capsys):
    assert said(capsys, "--version") == f"heartdx {heartdx.__version__}\n"


@pytest.mark.parametrize("prog", list(ENTRIES))
def test_an_entry_of_the_runbook_shows_its_own_name(prog, repository):
    command, start = ENTRIES[prog]

    shown = subprocess.run(
        [sys.executable, *start, "--help"],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: {prog} [-h]")
    (example,) = [c.example for c in cli.COMMANDS if c.name == command]
    assert example.replace(f"heartdx {command}", prog) in shown.stdout


# -- what cannot be done -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "COMMAND"),
        (["predict"], "invalid choice: 'predict'"),
        (["score"], "file"),
        (["doctor", "--fast"], "--fast"),
        (["fetch", "--source", "kaggle"], "--source"),
        (["fetch", "--timeout", "0"], "expected seconds above 0"),
        (["explore", "--site", "london"], "--site"),
        (["train", "--cv-splits", "1"], "expected a whole number of at least 2"),
        (["train", "--repeats", "0"], "expected a whole number of at least 1"),
        (["train", "--seed", "-1"], "--seed"),
        (["train", "--jobs", "1.5"], "expected a whole number of at least 1"),
        (["train", "--harm-ratio", "0"], "expected a ratio above 0"),
        (["train", "--harm-ratio", "nan"], "expected a ratio above 0"),
        (["train", "--harm-ratio", "inf"], "expected a ratio above 0"),
        (["serve", "--port", "http"], "--port"),
    ],
)
def test_a_wrong_command_line_exits_2_and_names_what_is_wrong(words, named, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(words)

    assert left.value.code == 2
    told = capsys.readouterr()
    assert named in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("say which"), 2),
        (errors.CodingError("two codings"), 3),
        (RecordError([errors.FieldProblem("cp", "code", "1 to 4", "send one")]), 3),
        (GateError("no better than chance"), 4),
        (errors.BundleError("changed"), 6),
        (NoModelError("train first"), 7),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_a_user_can_mend_is_one_line_and_an_exit_code(error, code, monkeypatch, capsys):
    def run(*_):
        raise error

    made_of(run, monkeypatch)

    assert cli.main(["try"]) == code
    told = capsys.readouterr()
    assert told.err == f"error: {error}\n"
    assert told.out == ""


def test_a_bug_keeps_its_traceback(monkeypatch):
    def run(*_):
        raise ZeroDivisionError

    made_of(run, monkeypatch)

    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_a_library_that_the_service_does_not_bring_is_named_with_its_mend(monkeypatch, capsys):
    def run(*_):
        raise ModuleNotFoundError("No module named 'polars'", name="polars")

    made_of(run, monkeypatch)

    assert cli.main(["try"]) == 7
    told = capsys.readouterr().err
    assert "polars is not installed" in told
    assert "pip install 'heartdx[train]'" in told


def test_a_missing_module_of_our_own_is_a_bug(monkeypatch):
    def run(*_):
        raise ModuleNotFoundError("No module named 'heartdx.nothing'", name="heartdx.nothing")

    made_of(run, monkeypatch)

    with pytest.raises(ModuleNotFoundError):
        cli.main(["try"])


def test_an_interrupt_exits_130_without_a_traceback(monkeypatch, capsys):
    def run(*_):
        raise KeyboardInterrupt

    made_of(run, monkeypatch)

    assert cli.main(["try"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_wrong_setting_stops_every_command_and_names_itself(monkeypatch, capsys):
    monkeypatch.setenv("HEARTDX_MODEL_DIR", "elsewhere")

    assert cli.main(["doctor"]) == 2
    assert "HEARTDX_MODEL_DIR: unknown setting; did you mean HEARTDX_MODELS_DIR?" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("command", ["score", "fetch"], ids=["long output", "short output"])
def test_a_reader_that_closed_the_pipe_is_no_error(command, trained, heart_csv, tmp_path):
    words = {
        "score": ["score", str(heart_csv)],
        "fetch": ["fetch", "--source", "embedded", "--output", str(tmp_path / "heart.csv")],
    }[command]
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}

    with subprocess.Popen(
        [sys.executable, "-m", "heartdx.cli", *words],
        cwd=trained.folder,
        env=buffered,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        told = process.stderr.read()

    assert process.returncode == 0
    assert "BrokenPipe" not in told
    assert "Traceback" not in told


# -- fetch, train, serve -------------------------------------------------------------------------


def test_fetch_counts_the_patients_on_stdout_and_names_the_next_step_on_stderr(tmp_path, capsys):
    output = tmp_path / "heart.csv"

    code = cli.main(["fetch", "--source", "embedded", "--output", str(output)])

    told = capsys.readouterr()
    assert code == 0
    assert told.out == (
        f"{output}: 920 patients (cleveland 303, hungary 294, switzerland 123, va 200), "
        "source embedded\n"
    )
    assert told.err.splitlines()[-1] == (
        f"written to {output}; next: python -m src.eda --data {output} --out reports/figures"
    )


@pytest.mark.parametrize("site", SITE_NAMES)
def test_fetch_can_take_one_hospital(site, tmp_path, capsys):
    output = tmp_path / "heart.csv"

    code = cli.main(["fetch", "--source", "embedded", "--output", str(output), "--site", site])

    assert code == 0
    assert {row["site"] for row in rows_of(output.read_text())} == {site}


@pytest.mark.parametrize(
    ("option", "setting", "expected"),
    [
        ("", {}, (True, None)),
        ("", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}, (True, "http://127.0.0.1:1")),
        ("--no-tracking", {}, (False, None)),
        ("", {"HEARTDX_TRACKING": "off"}, (False, None)),
    ],
)
def test_train_passes_options_and_settings_on(option, setting, expected, heart_csv, monkeypatch):
    asked = {}

    def train(data, plan, **rest):
        asked.update(rest, data=data, plan=plan)
        raise GateError("far enough")

    monkeypatch.setattr("heartdx.train.steps.train", train)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)

    code = cli.main(
        shlex.split(
            "train --site cleveland --models-dir m --cv-splits 3 --repeats 4 --seed 5 --jobs 1 "
            f"--harm-ratio 4 --data {heart_csv} {option}"
        )
    )

    assert code == 4
    plan, tracker = asked["plan"], asked["tracker"]
    assert (plan.splits, plan.repeats, plan.seed, plan.jobs) == (3, 4, 5, 1)
    assert plan.threshold == pytest.approx(0.2)
    assert len(asked["data"].frame) == 303
    assert asked["models_dir"] == Path("m")
    assert (tracker is not None, tracker and tracker.uri) == expected


def test_serve_hands_the_service_to_uvicorn(monkeypatch):
    asked = {}
    monkeypatch.setattr("uvicorn.run", lambda app, **options: asked.update(options, app=app))

    assert cli.main(["serve", "--port", "9000", "--workers", "2"]) == 0
    assert asked == {
        "app": "heartdx.serve:from_environment",
        "factory": True,
        "host": "127.0.0.1",
        "port": 9000,
        "workers": 2,
        "access_log": False,
    }


# -- score ---------------------------------------------------------------------------------------


@pytest.fixture
def at_home(trained, monkeypatch):
    """In a folder where a model was trained."""
    monkeypatch.chdir(trained.folder)
    return trained


def test_score_answers_each_patient_of_the_data_file(at_home, heart_csv, capsys):
    assert cli.main(["score", str(heart_csv)]) == 0

    rows = rows_of(capsys.readouterr().out)
    made = at_home.bundle
    expected = made.score(codings.to_home(records.read_file(heart_csv)).X)
    assert list(rows[0]) == SCORE_HEADER
    assert [int(row["line"]) for row in rows] == list(range(2, 922))
    assert np.allclose([float(r["probability"]) for r in rows], expected.probability, atol=5e-7)
    assert [row["panel"] for row in rows] == [expected.panel_name(n) for n in range(920)]
    assert {row["panel"] for row in rows} == set(PANEL_NAMES)
    assert {row["model_version"] for row in rows} == {made.version}
    assert {(r["prediction"], r["label"]) for r in rows} == {("1", "disease"), ("0", "no disease")}
    for row in rows:
        assert (float(row["probability"]) >= made.threshold) == (row["label"] == "disease")


def test_score_gives_the_same_bytes_twice_and_in_a_file(at_home, heart_csv, tmp_path, capsys):
    output = tmp_path / "scored.csv"

    for _ in range(2):
        assert cli.main(["score", str(heart_csv)]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["score", str(heart_csv), "--output", str(output)]) == 0

    half = len(printed) // 2
    assert printed[:half] == printed[half:] == output.read_text()
    assert capsys.readouterr().out == (
        f"{output}: 920 patients scored by model {at_home.bundle.version}\n"
    )


def test_a_file_that_cannot_be_written_keeps_its_old_content(
    at_home, heart_csv, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "scored.csv"
    output.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)

    assert cli.main(["score", str(heart_csv), "--output", str(output)]) == 7
    assert "No space left on device" in capsys.readouterr().err
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["scored.csv"]


def test_an_unlabelled_kaggle_file_gets_the_answers_of_its_uci_twin(
    at_home, heart_csv, tmp_path, capsys
):
    home = codings.to_home(records.read_file(heart_csv))
    X = home.X[:60]
    codes, _ = codings.to_kaggle(X, np.zeros(60))
    lines = [",".join(NAMES)] + [",".join(f"{v:g}" for v in row) for row in codes]
    foreign = tmp_path / "patients.csv"
    foreign.write_text("\n".join(lines) + "\n")

    assert cli.main(["score", str(foreign)]) == 0

    told = capsys.readouterr()
    rows = rows_of(told.out)
    expected = at_home.bundle.score(X)
    assert np.allclose([float(r["probability"]) for r in rows], expected.probability, atol=5e-7)
    assert "Kaggle recoding" in told.err


def test_score_takes_the_bundle_that_is_named(at_home, heart_csv, tmp_path, monkeypatch, capsys):
    folder = at_home.bundle.folder.resolve()
    monkeypatch.chdir(tmp_path)

    assert cli.main(["score", str(heart_csv), "--model", str(folder)]) == 0
    by_option = capsys.readouterr().out
    monkeypatch.setenv("HEARTDX_MODELS_DIR", str(at_home.models.resolve()))
    assert cli.main(["score", str(heart_csv)]) == 0

    assert capsys.readouterr().out == by_option


def test_score_without_a_model_names_the_command_that_makes_one(
    heart_csv, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)

    assert cli.main(["score", str(heart_csv)]) == 7
    told = capsys.readouterr()
    assert told.err.startswith("error: models/current: there is no model yet")
    assert "python -m src.model_train --data data/raw/heart.csv" in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (None, 7, "cannot be read"),
        ("<!doctype html><p>404</p>", 3, "web page"),
        ("age,sex,cp\n63,1,3\n", 3, "ambiguous"),
        ("age,sex,cp,chol\n63,1,4,98765\n", 3, "line 2"),
        ("age,sex,cp,num\n63,1,4,0\n60,1,,0\n", 3, "line 3"),
    ],
    ids=["no file", "web page", "ambiguous", "out of range", "no panel fits"],
)
def test_a_file_that_cannot_be_scored_is_refused_in_one_line(
    content, code, told, at_home, tmp_path, capsys
):
    path = tmp_path / "patients.csv"
    if content is not None:
        path.write_text(content)

    assert cli.main(["score", str(path)]) == code

    shown = capsys.readouterr()
    error = shown.err.splitlines()[-1]
    assert error.startswith("error: ")
    assert told in error
    assert "98765" not in shown.err
    assert shown.out == ""


def test_score_refuses_a_pipeline_file(at_home, heart_csv, capsys):
    pipeline = next(at_home.models.rglob("*.joblib"))

    assert cli.main(["score", str(heart_csv), "--model", str(pipeline)]) == 2
    assert "expected a bundle folder" in capsys.readouterr().err


# -- doctor --------------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_where_all_is_well(at_home, heart_csv, capsys):
    assert cli.main(["doctor", "--data", str(heart_csv)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.startswith("ok   ") for line in lines)
    assert f"fastapi {metadata.version('fastapi')}" in lines[1]
    assert f"sklearn {metadata.version('scikit-learn')}" in lines[2]
    assert f"{heart_csv} holds 920 patients, coding uci" in lines[4]
    assert f"version {at_home.bundle.version} verified" in lines[5]
    assert f"1 bundles in {at_home.models.name}, no model to roll back to" in lines[6]


def test_doctor_says_which_tools_a_deployment_lacks_without_calling_it_a_fault(
    at_home, heart_csv, tmp_path, monkeypatch, capsys
):
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert cli.main(["doctor", "--data", str(heart_csv)]) == 0

    assert (
        "ok   tools to deploy: docker found, kubectl not found (install kubectl for k8s/), "
        "minikube not found (install minikube for make minikube-demo)"
    ) in capsys.readouterr().out


def test_doctor_says_that_predictions_are_stopped_and_how_to_go_on(
    at_home, heart_csv, tmp_path, capsys
):
    copy = tmp_path / "models"
    shutil.copytree(at_home.models, copy)
    store.stop(copy, "under review")

    code = cli.main(["doctor", "--data", str(heart_csv), "--models-dir", str(copy)])

    assert code == 7
    assert (
        f"FAIL models folder: not usable; {copy}: predictions are stopped: under review; go on "
        "with heartdx model start"
    ) in capsys.readouterr().out


def test_doctor_names_each_fault_with_its_mend_and_exits_with_the_worst(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heart.csv").write_text("age,sex,cp\n63,1,3\n")

    assert cli.main(["doctor", "--data", "heart.csv"]) == 7

    lines = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in lines] == ["ok   "] * 4 + ["FAIL "] * 2 + ["ok   "]
    assert "ambiguous" in lines[4]
    assert "python -m src.model_train" in lines[5]
    assert "0 bundles in models" in lines[6]


def test_doctor_reports_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    code = cli.main(["doctor", "--json"])

    findings = json.loads(capsys.readouterr().out)
    assert code == max(finding["exit_code"] for finding in findings) == 7
    assert [f["what"] for f in findings][-3:] == ["data", "model", "models folder"]
    assert all(bool(f["mend"]) == bool(f["exit_code"]) for f in findings)


def test_doctor_sees_a_damaged_model(at_home, heart_csv, tmp_path, capsys):
    copy = tmp_path / "models"
    shutil.copytree(at_home.models, copy)
    damaged = next(copy.rglob("score.json"))
    damaged.write_text(damaged.read_text() + " ")

    code = cli.main(["doctor", "--data", str(heart_csv), "--models-dir", str(copy)])

    assert code == 6
    assert "FAIL model: not usable; " in capsys.readouterr().out


def test_two_patients_with_the_same_cells_are_both_answered(trained, tmp_path):
    """Equal cells are normal when little is known; a line that wants an answer gets one."""
    file = tmp_path / "three.csv"
    file.write_text("age,sex,cp,restecg\n63,1,4,0\n63,1,4,0\n41,0,2,1\n")

    finished = subprocess.run(
        [sys.executable, "-m", "heartdx.cli", "score", str(file)],
        cwd=trained.folder,
        capture_output=True,
        text=True,
        check=False,
    )

    _, first, second, third = finished.stdout.splitlines()
    assert [row.split(",")[0] for row in (first, second, third)] == ["2", "3", "4"]
    assert first.split(",")[1:] == second.split(",")[1:]
