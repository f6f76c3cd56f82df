"""Settings come from the environment once and never guess; log lines have two forms, no values."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import re
import time
from pathlib import Path

import pytest

from heartdx import cli, logs, settings
from heartdx.errors import UsageError
from heartdx.settings import Settings

SECRET = "postgresql://heart:correct-horse@db/mlflow"


@pytest.fixture
def logger():
    """The project's logger, as it was afterwards."""
    project = logging.getLogger(logs.LOGGER)
    kept = project.handlers[:], project.level, project.propagate
    yield logs.get("test")
    project.handlers[:], project.level, project.propagate = kept


# -- settings ------------------------------------------------------------------------------------

GIVEN = {
    "model_path": ("MODEL_PATH", "models/bundles/abc", Path("models/bundles/abc")),
    "models_dir": ("HEARTDX_MODELS_DIR", "/srv/models", Path("/srv/models")),
    "log_level": ("HEARTDX_LOG_LEVEL", "debug", "DEBUG"),
    "max_body_bytes": ("HEARTDX_MAX_BODY_BYTES", "1000", 1000),
    "max_records": ("HEARTDX_MAX_RECORDS", "1", 1),
    "max_stream_rows": ("HEARTDX_MAX_STREAM_ROWS", "7", 7),
    "require_signature": ("HEARTDX_REQUIRE_SIGNATURE", "ON", "on"),
    "public_key": ("HEARTDX_PUBLIC_KEY", "/k/public.pem", Path("/k/public.pem")),
    "api_keys_file": ("HEARTDX_API_KEYS_FILE", "/k/keys", Path("/k/keys")),
    "rate_limit": ("HEARTDX_RATE_LIMIT", "50", 50),
    "rate_burst": ("HEARTDX_RATE_BURST", "90", 90),
    "max_in_flight": ("HEARTDX_MAX_IN_FLIGHT", "64", 64),
    "request_seconds": ("HEARTDX_REQUEST_SECONDS", "5", 5),
    "cors_origins": ("HEARTDX_CORS_ORIGINS", "https://ward.example", "https://ward.example"),
    "admin_port": ("HEARTDX_ADMIN_PORT", "9000", 9000),
    "admin_address": ("HEARTDX_ADMIN_ADDRESS", "0.0.0.0", "0.0.0.0"),
    "drain_file": ("HEARTDX_DRAIN_FILE", "/tmp/drain", Path("/tmp/drain")),
    "poll_seconds": ("HEARTDX_POLL_SECONDS", "0", 0),
    "shadow_path": ("HEARTDX_SHADOW_PATH", "/srv/b", Path("/srv/b")),
    "tracking": ("HEARTDX_TRACKING", "OFF", "off"),
    "tracking_uri": ("MLFLOW_TRACKING_URI", SECRET, SECRET),
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_each_setting_is_read_from_its_variable_and_changes_nothing_else(name):
    variable, text, value = GIVEN[name]

    read = settings.read({variable: text, "HOME": "/somewhere"})

    assert settings.variable(name) == variable
    assert getattr(read, name) == value
    assert read == dataclasses.replace(Settings(), **{name: value})


def test_nothing_set_gives_the_defaults():
    assert settings.read({}) == Settings()


@pytest.mark.parametrize("variable", [variable for variable, _, _ in GIVEN.values()])
def test_an_empty_variable_counts_as_not_set(variable):
    assert settings.read({variable: ""}) == Settings()


def test_a_near_miss_of_a_name_is_suggested():
    with pytest.raises(UsageError) as refused:
        settings.read({"HEARTDX_LOGLEVEL": "INFO"})

    assert str(refused.value) == (
        "HEARTDX_LOGLEVEL: unknown setting; did you mean HEARTDX_LOG_LEVEL?"
    )


def test_a_name_like_no_other_is_refused_with_all_that_are_known():
    with pytest.raises(UsageError) as refused:
        settings.read({"HEARTDX_WITHOUT_ANY_LIKENESS": "1"})

    assert str(refused.value).startswith(
        "HEARTDX_WITHOUT_ANY_LIKENESS: unknown setting; known are "
    )
    assert all(variable in str(refused.value) for variable, _, _ in GIVEN.values())


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("HEARTDX_MAX_RECORDS", "many", "a whole number of at least 1"),
        ("HEARTDX_MAX_RECORDS", "0", "a whole number of at least 1"),
        ("HEARTDX_MAX_RECORDS", "-5", "a whole number of at least 1"),
        ("HEARTDX_MAX_RECORDS", "1e3", "a whole number of at least 1"),
        ("HEARTDX_MAX_RECORDS", "10 ", "a whole number of at least 1"),
        ("HEARTDX_MAX_RECORDS", "\u00b2", "a whole number of at least 1"),
        ("HEARTDX_MAX_BODY_BYTES", "999", "a whole number of at least 1000"),
        ("HEARTDX_LOG_LEVEL", "loud", "one of DEBUG, INFO, WARNING, ERROR"),
        ("HEARTDX_TRACKING", "yes", "one of on, off"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_and_the_variable_named(variable, text, expected):
    with pytest.raises(UsageError) as refused:
        settings.read({variable: text})

    assert str(refused.value) == f"{variable}: expected {expected}"


def test_a_secret_never_prints():
    read = settings.read({"MLFLOW_TRACKING_URI": SECRET})

    assert "correct-horse" not in f"{read!r} {read}"


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().max_records = 5  # type: ignore[misc]


# -- logs ----------------------------------------------------------------------------------------


def test_a_text_line_is_time_event_and_facts(logger, capsys):
    logs.set_up()

    logs.event(logger, "fetched", rows=920, source="embedded", file="my data.csv", note="")

    line = capsys.readouterr().err
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d fetched rows=920 source=embedded file="my data.csv" note=""\n', line
    )


def test_a_line_that_asks_for_a_human_says_its_level(logger, capsys):
    logs.set_up()

    logs.event(logger, "tracking failed", level=logging.WARNING)

    assert capsys.readouterr().err.endswith(" WARNING tracking failed\n")


def test_a_json_line_is_one_object_with_time_level_event_and_facts(logger, capsys):
    logs.set_up(as_json=True)

    logs.event(logger, "ready", version="abc", panels=3, folder=Path("models"))

    (line,) = capsys.readouterr().err.splitlines()
    document = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("time"))
    assert document == {
        "level": "info",
        "event": "ready",
        "version": "abc",
        "panels": 3,
        "folder": "models",
    }


@pytest.mark.parametrize("as_json", [True, False])
def test_a_bug_keeps_its_traceback_in_both_forms(as_json, logger, capsys):
    logs.set_up(as_json=as_json)

    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logger.exception("failed")

    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown
    assert len(shown.splitlines()) == 1 or not as_json


def test_a_line_of_json_stays_one_line_whatever_is_in_it(logger, capsys):
    logs.set_up(as_json=True)

    logs.event(logger, "request", path="a\nb\u2028c")

    (line,) = capsys.readouterr().err.split("\n")[:-1]
    assert json.loads(line)["path"] == "a\nb\u2028c"


@pytest.mark.parametrize(
    ("level", "shown"), [("DEBUG", 3), ("INFO", 2), ("WARNING", 1), ("ERROR", 0)]
)
def test_the_level_decides_what_is_told(level, shown, logger, capsys):
    logs.set_up(level=level)

    for number in (logging.DEBUG, logging.INFO, logging.WARNING):
        logs.event(logger, "told", level=number)

    assert capsys.readouterr().err.count("told") == shown


def test_setting_up_twice_tells_once_on_stderr_only(logger, capsys):
    logs.set_up()
    logs.set_up()

    logs.event(logger, "told")

    told = capsys.readouterr()
    assert told.err.count("told") == 1
    assert told.out == ""


def test_the_option_decides_over_the_setting(logger, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEARTDX_LOG_LEVEL", "ERROR")
    output = str(tmp_path / "heart.csv")
    fetch = ["fetch", "--source", "embedded", "--output", output]

    assert cli.main(fetch) == 0
    by_setting = capsys.readouterr().err
    assert cli.main([*fetch, "--log-level", "INFO"]) == 0

    assert "fetched" not in by_setting
    assert "fetched rows=920" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "expected"), [("doctor", 7), ("explore", 3), ("train", 3)])
def test_no_value_of_a_patient_is_told_at_any_level(
    command, expected, logger, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows = ["age,sex,cp,trestbps,chol,oldpeak,num", "61.625,1,4,141.375,987654.5,1.0625,1"]
    (tmp_path / "patients.csv").write_text("\n".join(rows) + "\n")

    code = cli.main([command, "--data", "patients.csv", "--log-level", "DEBUG"])

    told = capsys.readouterr()
    assert code == expected
    assert "chol" in told.out + told.err
    for value in ("61.625", "141.375", "987654", "1.0625"):
        assert value not in told.out + told.err


def test_a_secret_in_the_tracking_address_is_not_told_when_the_server_is_away(logger, capsys):
    from mlflow.exceptions import MlflowException

    from heartdx import tracking

    logs.set_up()
    address = "http://heart:correct-horse@127.0.0.1:9"

    def away(*_):
        raise MlflowException(f"API request to {address}/api/2.0/mlflow failed")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tracking, "_log", away)
        assert tracking.Tracker(uri=address).log(None) is None  # type: ignore[arg-type]

    told = capsys.readouterr().err
    assert "tracking failed, the trained model is safe" in told
    assert "correct-horse" not in told


def test_a_line_of_the_hot_path_tells_the_time_of_its_event(logger, capsys):
    logs.set_up(as_json=True)
    lines, due = logs.Lines(), []
    lines.start(lambda delay, write: due.append(write))
    before = time.time()

    lines.add(time.perf_counter(), '"request","n":1}\n')
    lines.add(time.perf_counter() + 61.0, '"request","n":2}\n')
    (write,) = due
    write()

    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    clock = [datetime.datetime.fromisoformat(line["time"]).timestamp() for line in (first, second)]
    assert (first["n"], second["n"], first["level"]) == (1, 2, "info")
    assert clock == pytest.approx([before, before + 61.0], abs=0.5)
