"""The person on call: which model is current, back in one command, and stop; nothing half done."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bundle_kit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartdx import bundle, cli, export, store
from heartdx.errors import (
    NoModelError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from heartdx.store import ROLLBACK, Switch

BY = "heartdx model use"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("HEARTDX_", "MODEL_PATH"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Three models, made on three days; the last is current."""
    folder = tmp_path / "models"
    for day in (1, 2, 3):
        bundle_kit.write(folder, slant=float(day), created=f"2026-03-0{day}T10:00:00+00:00")
    return folder


def digests(models: Path) -> list[str]:
    """Digests of the models, in the order of their days."""
    made = {bundle_kit.manifest_of(f)["created"]: f.name for f in (models / "bundles").iterdir()}
    return [made[day] for day in sorted(made)]


def current(models: Path) -> str:
    return (models / "current").read_text().strip()


def lines_of(models: Path) -> list[dict]:
    return [json.loads(line) for line in (models / "history.jsonl").read_text().splitlines()]


def said(capsys, *words: str) -> str:
    """What a command that succeeds prints."""
    assert cli.main(["model", *words]) == 0
    return capsys.readouterr().out


def refused(capsys, *words: str) -> tuple[int, str]:
    """Exit code and the one line of a command that fails."""
    code = cli.main(["model", *words])
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return code, told.err


# -- use and rollback ----------------------------------------------------------------------------


def test_use_makes_the_named_model_current_and_says_from_what_to_what(models, capsys):
    first, _, third = digests(models)

    told = said(capsys, "use", first[:6], "--models-dir", str(models))

    assert told == f"{models}: from {third[:12]} to {first[:12]}\n"
    assert (models / "current").read_text() == first + "\n"
    assert bundle.load(bundle.current_folder(models)).digest == first


def test_each_switch_is_one_line_of_the_history(models):
    first, second, third = digests(models)

    store.switch(models, first, by=BY)
    export.promote(models, second)

    told = lines_of(models)
    assert [set(line) for line in told] == [{"time", "from", "to", "by"}] * 2
    assert [(line["from"], line["to"], line["by"]) for line in told] == [
        (third, first, "heartdx model use"),
        (first, second, "heartdx train"),
    ]
    assert [line["time"][-6:] for line in told] == ["+00:00"] * 2


def test_the_history_survives_and_only_grows(models):
    first, second, _ = digests(models)
    store.switch(models, first, by=BY)
    before = (models / "history.jsonl").read_bytes()

    store.switch(models, second, by=BY)
    store.rollback(models)

    after = (models / "history.jsonl").read_bytes()
    assert after.startswith(before)
    assert [(s.after, s.by) for s in store.history(models)] == [
        (first, BY),
        (second, BY),
        (first, ROLLBACK),
    ]


def test_the_model_that_is_current_already_stays_without_a_line(models, capsys):
    _, _, third = digests(models)

    told = said(capsys, "use", third, "--models-dir", str(models))

    assert told == f"{models}: {third[:12]} is current already\n"
    assert (models / "history.jsonl").read_bytes() == b""


def test_the_first_model_of_a_folder_comes_from_nothing(tmp_path, capsys):
    folder = bundle_kit.write(tmp_path)
    (tmp_path / "current").unlink()

    told = said(capsys, "use", folder.name, "--models-dir", str(tmp_path))

    assert told == f"{tmp_path}: from nothing to {folder.name[:12]}\n"
    assert lines_of(tmp_path)[0]["from"] is None


def test_two_rollbacks_go_back_two_models(models, capsys):
    first, second, third = digests(models)
    for digest in (first, second, third):
        store.switch(models, digest, by=BY)

    back = said(capsys, "rollback", "--models-dir", str(models))
    further = said(capsys, "rollback", "--models-dir", str(models))

    assert back == f"{models}: from {third[:12]} to {second[:12]}\n"
    assert further == f"{models}: from {second[:12]} to {first[:12]}\n"
    assert current(models) == first


def test_a_model_written_into_current_by_hand_is_gone_back_from_and_to(models):
    first, second, third = digests(models)
    store.switch(models, first, by=BY)
    (models / "current").write_text(second + "\n")

    assert store.rollback(models).after == first

    (models / "current").write_text(third + "\n")
    store.switch(models, second, by=BY)
    assert store.rollback(models).after == third


def test_rollback_without_a_history_changes_nothing_and_says_what_to_do(models, capsys):
    code, told = refused(capsys, "rollback", "--models-dir", str(models))

    assert code == 7
    assert "tells of no model before the current one; see `heartdx model list`" in told
    assert current(models) == digests(models)[2]


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    code, told = refused(capsys, "rollback", "--models-dir", str(tmp_path / "none"))

    assert code == 7
    assert f"{tmp_path / 'none'}: no such folder" in told
    assert not (tmp_path / "none").exists()


def used_in_turn(start: str, asked: list[str | None]) -> tuple[list[Switch], list[str], str]:
    """History, stack of models and current one when models are used (or None: rolled back).

    The oracle is the undo stack of an editor, kept beside the history.
    """
    done: list[Switch] = []
    stack = [start]
    for wish in asked:
        before = stack[-1]
        if wish is None:
            if len(stack) > 1:
                stack.pop()
                done.append(Switch("", before, stack[-1], ROLLBACK))
        elif wish != before:
            stack.append(wish)
            done.append(Switch("", before, wish, BY))
    return done, stack, stack[-1]


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30))
def test_any_run_of_uses_and_rollbacks_goes_back_as_an_editor_undoes(asked):
    done, stack, now = used_in_turn("a", asked)

    assert store.trail(done, now) == (stack if done else ["a"])


@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), max_size=20),
    st.sets(st.integers(0, 19)),
)
def test_lines_lost_from_the_history_never_hide_the_current_model(asked, lost):
    done, _, now = used_in_turn("a", asked)
    kept = [switch for place, switch in enumerate(done) if place not in lost]

    path = store.trail(kept, now)

    assert path[-1] == now
    assert all(one != other for one, other in itertools.pairwise(path))


# -- what is refused -----------------------------------------------------------------------------


def a_byte_of(name: str) -> Callable[[Path], None]:
    return lambda folder: bundle_kit.flip(folder / name, 5)


def another_threshold(folder: Path) -> None:
    manifest = bundle_kit.manifest_of(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "threshold": 0.9}))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def another_bundle(folder: Path) -> None:
    other = next(f for f in folder.parent.iterdir() if f != folder)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


TAMPERED = {
    "a byte of a model": (a_byte_of("bedside/score.json"), "was changed after training"),
    "a byte of a pipeline": (a_byte_of("imaging/pipeline.joblib"), "was changed after training"),
    "a byte of the manifest": (a_byte_of("manifest.json"), "manifest"),
    "the threshold": (another_threshold, "another digest than the manifest says"),
    "no model": (without("exercise/score.json"), "missing from the bundle"),
    "no manifest": (without("manifest.json"), "cannot be read as a manifest"),
    "a further file": (lambda f: (f / "run.py").write_text("1"), "holds run.py, which its manif"),
    "a link": (lambda f: (f / "run").symlink_to("/"), "holds run, which its manifest does not"),
    "another bundle": (another_bundle, "not the one it is named for"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_model_is_not_used_and_the_current_one_stays(how, models, capsys):
    first, _, third = digests(models)
    tamper, message = TAMPERED[how]
    tamper(models / "bundles" / first)

    code, told = refused(capsys, "use", first, "--models-dir", str(models))

    assert code == 6
    assert message in told
    assert current(models) == third
    assert store.history(models) == []


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_model_is_not_rolled_back_to(how, models):
    first, second, _ = digests(models)
    store.switch(models, first, by=BY)
    store.switch(models, second, by=BY)
    tamper, message = TAMPERED[how]
    tamper(models / "bundles" / first)

    with pytest.raises(VerificationError, match=message):
        store.rollback(models)

    assert current(models) == second
    assert [s.after for s in store.history(models)] == [first, second]


def test_a_model_that_is_gone_is_not_rolled_back_to(models):
    first, second, _ = digests(models)
    store.switch(models, first, by=BY)
    store.switch(models, second, by=BY)
    shutil.rmtree(models / "bundles" / first)

    with pytest.raises(NoModelError, match=f"{first}: no such bundle"):
        store.rollback(models)
    assert current(models) == second


@pytest.mark.parametrize(
    ("prefix", "error", "message"),
    [
        ("abcde", UsageError, "first 6 or more hexadecimal digits"),
        ("../../x", UsageError, "hexadecimal"),
        ("", UsageError, "hexadecimal"),
        ("f" * 65, NoModelError, "no bundle begins with"),
    ],
)
def test_a_digest_that_names_no_model_is_refused(prefix, error, message, models):
    with pytest.raises(error, match=message):
        store.find(models, prefix)


def test_a_prefix_of_several_models_is_refused_with_what_would_tell_them_apart(tmp_path):
    for name in ("abcdef" + "0" * 58, "abcdef" + "1" * 58):
        (tmp_path / "bundles" / name).mkdir(parents=True)

    with pytest.raises(UsageError, match=r"2 bundles begin so \(abcdef000000, abcdef111111\)"):
        store.find(tmp_path, "abcdef")
    assert store.find(tmp_path, "ABCDEF0") == "abcdef" + "0" * 58


def test_only_a_whole_digest_is_switched_to(models):
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        store.switch(models, "../bundles/x", by=BY)


def test_a_history_that_cannot_be_written_leaves_the_current_model(models):
    first, _, third = digests(models)
    (models / "history.jsonl").mkdir()

    with pytest.raises(UnavailableError, match="the current model stays"):
        store.switch(models, first, by=BY)
    assert current(models) == third


def test_a_disk_that_fills_after_the_switch_is_told_with_what_is_current(models, monkeypatch):
    first, _, third = digests(models)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("heartdx.store.os.write", full)
        with pytest.raises(UnavailableError, match=f"{first[:12]} is current all the same"):
            store.switch(models, first, by=BY)

    assert current(models) == first
    store.switch(models, third, by=BY)
    assert store.rollback(models).after == first


@pytest.mark.parametrize(
    "line",
    [
        b'{"time": "2026',
        b"\xff\xfe",
        b"[]",
        b"[" * 99_999,
        b'{"time": 1, "from": null, "to": "x", "by": "y"}',
    ],
)
def test_a_line_that_a_crash_cut_short_costs_only_itself(line, models):
    first, second, _ = digests(models)
    store.switch(models, first, by=BY)
    with (models / "history.jsonl").open("ab") as stream:
        stream.write(line)

    store.switch(models, second, by=BY)

    assert [s.after for s in store.history(models)] == [first, second]
    assert store.rollback(models).after == first


def test_a_draft_of_a_killed_writer_in_a_bundle_hinders_nobody(models):
    first, _, _ = digests(models)
    (models / "bundles" / first / ".card.md.x1y2.tmp").write_text("half")

    assert store.switch(models, first, by=BY).after == first


# -- several at once -----------------------------------------------------------------------------


def test_switches_at_once_leave_a_history_in_which_each_starts_where_the_last_ended(models):
    known = digests(models)
    start = current(models)

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: store.switch(models, known[n % 3], by=BY), range(60)))

    told = store.history(models)
    assert sum(s.before != s.after for s in done) == len(told) > 1
    assert [s.before for s in told] == [start, *(s.after for s in told[:-1])]
    assert told[-1].after == current(models)


SWITCHER = """
import itertools, sys
from pathlib import Path
from heartdx import store
models = Path(sys.argv[1])
print("ready", flush=True)
for digest in itertools.cycle(sys.argv[2:]):
    store.switch(models, digest, by="heartdx model use")
"""


def test_a_process_killed_while_switching_frees_the_others_and_leaves_a_whole_model(models):
    known = digests(models)
    for turn in range(5):
        command = [sys.executable, "-c", SWITCHER, str(models), *known]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.03 * (turn + 1))
            assert process.poll() is None, "the switcher stopped by itself"
            os.kill(process.pid, signal.SIGKILL)

        assert bundle.load(bundle.current_folder(models)).digest in known

    other = next(digest for digest in known if digest != current(models))
    before = current(models)
    assert store.switch(models, other, by=BY).before == before
    assert store.rollback(models).after == before


# -- list and verify -----------------------------------------------------------------------------


def test_list_shows_each_model_the_newest_first(models, capsys):
    first, second, third = digests(models)
    store.switch(models, second, by=BY)
    bundle_kit.flip(models / "bundles" / first / "bedside" / "score.json")

    told = said(capsys, "list", "--models-dir", str(models)).splitlines()

    damaged = models / "bundles" / first / "bedside" / "score.json"
    assert told == [
        "digest        made                                 signed     state",
        f"{third[:12]}  2026-03-03T10:00:00+00:00  previous  no         verified",
        f"{second[:12]}  2026-03-02T10:00:00+00:00  current   no         verified",
        f"{first[:12]}  2026-03-01T10:00:00+00:00            no         "
        f"{damaged}: was changed after training (checksum differs); restore it",
    ]


def test_list_as_json_has_every_field(models, capsys):
    first, _, third = digests(models)
    store.switch(models, first, by=BY)
    store.stop(models, "reviewing")

    told = json.loads(said(capsys, "list", "--json", "--models-dir", str(models)))

    assert told["stopped"] == "reviewing"
    assert [m["digest"] for m in told["models"] if m["is_current"]] == [first]
    assert [m["digest"] for m in told["models"] if m["is_previous"]] == [third]
    assert {(m["is_signed"], m["problem"]) for m in told["models"]} == {(False, "")}


def test_list_shows_a_current_model_whose_bundle_is_gone(models, capsys):
    _, _, third = digests(models)
    shutil.rmtree(models / "bundles" / third)

    told = said(capsys, "list", "--models-dir", str(models)).splitlines()

    assert told[-1].startswith(f"{third[:12]}  -")
    assert "current" in told[-1]
    assert "no such bundle" in told[-1]


def test_list_of_an_empty_folder_says_so(tmp_path, capsys):
    assert said(capsys, "list", "--models-dir", str(tmp_path)) == f"{tmp_path}: no models yet\n"


def test_list_passes_over_what_is_no_bundle(models):
    (models / "bundles" / ".damaged-0123456789ab-1").mkdir()
    (models / "bundles" / "notes.txt").write_text("x")

    assert len(store.entries(models)) == 3


def test_verify_tells_what_was_checked_of_the_current_model(models, capsys):
    _, _, third = digests(models)

    told = said(capsys, "verify", "--models-dir", str(models))

    assert told == f"ok   {third[:12]}: checksums, digest, golden records; not signed\n"


def test_verify_all_exits_6_when_one_fails_and_tells_of_each(models, capsys):
    first, second, third = digests(models)
    another_threshold(models / "bundles" / second)

    code = cli.main(["model", "verify", "--all", "--models-dir", str(models)])

    told = capsys.readouterr().out.splitlines()
    assert code == 6
    assert [line[:17] for line in told] == [
        f"ok   {third[:12]}",
        f"FAIL {second[:12]}",
        f"ok   {first[:12]}",
    ]


@pytest.mark.parametrize("words", [["verify"], ["verify", "--all"], ["verify", "abcdef"]])
def test_verify_without_a_model_exits_7(words, tmp_path, capsys):
    code, _ = refused(capsys, *words, "--models-dir", str(tmp_path))

    assert code == 7


def test_the_models_folder_is_the_settings_unless_it_is_named(models, monkeypatch, capsys):
    monkeypatch.setenv("HEARTDX_MODELS_DIR", str(models))

    assert said(capsys, "verify") == said(capsys, "verify", "--models-dir", str(models))


# -- the kill switch -----------------------------------------------------------------------------


def test_stop_holds_its_reason_until_start(models, capsys):
    assert store.stopped(models) is None

    said(capsys, "stop", "--reason", "  implausible answers ", "--models-dir", str(models))

    assert store.stopped(models) == "implausible answers"
    assert (models / "stopped").read_text() == "implausible answers\n"
    assert "STOPPED: implausible answers" in said(capsys, "list", "--models-dir", str(models))

    told = said(capsys, "start", "--models-dir", str(models))
    assert told == f"{models}: no longer stopped (implausible answers)\n"
    assert store.stopped(models) is None
    assert said(capsys, "start", "--models-dir", str(models)) == f"{models}: was not stopped\n"


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "bell\a", "x" * 201, "\x1b[31mred"])
def test_a_reason_that_is_no_printable_line_stops_nothing(reason, models, capsys):
    code, told = refused(capsys, "stop", "--reason", reason, "--models-dir", str(models))

    assert code == 2
    assert "one line of 1 to 200 characters" in told
    assert store.stopped(models) is None


def test_stopping_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NoModelError, match="nothing would be stopped"):
        store.stop(tmp_path / "modles", "typo")


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_whatever_is_in_the_file_stops_and_is_one_printable_line(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("models")
    (folder / "stopped").write_bytes(content)

    reason = store.stopped(folder)

    assert reason is not None
    assert 1 <= len(reason) <= 200
    assert reason.isprintable()


@given(st.text(min_size=1, max_size=200).filter(lambda t: t.strip() and t.isprintable()))
@settings(deadline=None)
def test_a_reason_is_read_as_it_was_given(tmp_path_factory, reason):
    folder = tmp_path_factory.mktemp("models")

    store.stop(folder, reason)

    assert store.stopped(folder) == " ".join(reason.split())


def test_a_file_that_cannot_be_read_stops_too(tmp_path):
    (tmp_path / "stopped").mkdir()

    assert store.stopped(tmp_path) == "stopped without a reason that can be read"


def test_a_stop_that_cannot_be_ended_says_so(tmp_path):
    (tmp_path / "stopped").mkdir()

    with pytest.raises(UnavailableError, match="the services stay stopped"):
        store.start(tmp_path)


# -- pickles -------------------------------------------------------------------------------------


def test_no_command_opens_a_pickle(models, tmp_path):
    first, second, _ = digests(models)
    script = (
        "import sys\n"
        "from heartdx import cli\n"
        f"for words in (['list'], ['use', '{first}'], ['use', '{second}'], ['rollback'],\n"
        "        ['verify', '--all'], ['stop', '--reason', 'x'], ['start'],\n"
        "        ['key', 'new', '--out', 'keys'],\n"
        f"        ['sign', '{first}', '--key', 'keys/private.pem']):\n"
        "    assert cli.main(['model', *words]) == 0, words\n"
        "assert not {'joblib', 'sklearn', 'pandas', 'mlflow', 'onnx'} & set(sys.modules)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HEARTDX_MODELS_DIR": str(models)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "unpickled").exists()


def test_the_poison_of_these_tests_works(tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)

    pickle.loads(bundle_kit.POISON)

    assert (tmp_path / "unpickled").exists()
