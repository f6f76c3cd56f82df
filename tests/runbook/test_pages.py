"""docs/api.md and docs/operations.md are run to the letter, as the README's runbook is.

A page is one shell: its lines run in order, what one exports the next one finds, and a Python
block is a program of its own. Around it stands a folder with two small bundles that need no
training, ``models`` as one is served and ``staging`` as one was just trained. What a page prints
below a command is held against what the command gave.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import pytest
from fresh import ROOT, free_port

from heartdx import acquire
from heartdx.contract import NAMES
from heartdx.serve.problems import KINDS
from heartdx.serve.telemetry import METRICS
from heartdx.settings import Settings, variable
from training_kit import ONE_THREAD, once

PAGES = ("api", "operations")
NOT_RUN = {
    "pip install 'heartdx[client]'": "the environment of the tests has the extra",
    "heartdx train --data data/raw/heart.csv --models-dir staging --reports-dir staging/reports": (
        "takes a minute: tests/runbook/test_runbook.py trains; here staging holds a small bundle"
    ),
}
"""Lines that are not run, and why."""
PORTS = ("8000", "9000")
"""As printed; free ones are taken instead."""
SECONDS = 120
"""Beyond this a page hangs, for example on a service that does not become ready."""
PRINTED = ("json", "csv", "text")
RESULTS = "results"
SWITCHES = ('heartdx model use "$NEW"', "heartdx model rollback")
WORDS = {
    *("type", "title", "status", "detail", "field", "kind", "expected", "mend", "pointer"),
    *("level", "event", "client", "method", "endpoint", "name", "datatype", "model_name"),
    *("scale", "reference", "intended_use", "complete", "answered", "refused", "clients", "panel"),
}
"""Members that no model and no moment changes: these values are compared too."""
WORDS_A_MINUTE = 250


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and text."""

    language: str
    text: str


@dataclass(frozen=True)
class Ran:
    """A command of a page (a line of ``sh``, or a whole Python block) and what came of it.

    ``printed`` is the block that the page shows as its result, if any.
    """

    command: str
    code: int
    output: str
    printed: Block | None


@dataclass(frozen=True)
class Page:
    """The commands of a page, run, and what they and the service said on standard error."""

    ran: tuple[Ran, ...]
    errors: str

    def output(self, command: str) -> str:
        """What a command gave, the first time."""
        return next(ran.output for ran in self.ran if ran.command == command)


def text_of(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks_of(text: str) -> tuple[Block, ...]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return tuple(Block(language, content) for language, content in found)


def commands(blocks: tuple[Block, ...]) -> list[tuple[str, Block | None]]:
    """Each line of ``sh`` and each Python block, with what is printed right below it."""
    found: list[tuple[str, Block | None]] = []
    for block, below in zip(blocks, (*blocks[1:], None), strict=True):
        printed = below if below is not None and below.language in PRINTED else None
        if block.language == "sh":
            lines = [line for line in block.text.splitlines() if line.strip()]
            found += [(line, None) for line in lines[:-1]] + [(lines[-1], printed)]
        elif block.language == "python":
            found.append((block.text, printed))
    return found


def tiny_bundle() -> ModuleType:
    path = ROOT / "tests" / "service" / "tiny_bundle.py"
    spec = importlib.util.spec_from_file_location("tiny_bundle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_call(folder: Path) -> Path:
    """A folder as the pages assume it: data, the served model, a model just trained."""
    bundles = tiny_bundle()
    bundles.write(folder / "models")
    bundles.write(folder / "staging", slant=0.8)
    acquire.fetch(folder / "data" / "raw" / "heart.csv", source="embedded")
    (folder / ".curlrc").write_text("silent\nshow-error\n")  # as on a terminal: no progress
    return folder


def script(wanted: list[tuple[str, Block | None]], results: Path) -> str:
    """All commands as one shell script; each leaves its output and its exit code in a file.

    The service that the page calls ``SERVICE`` is ended after the last.
    """
    ports = {port: str(free_port()) for port in PORTS}
    steps = []
    for place, (command, _) in enumerate(wanted):
        if command in NOT_RUN:
            continue
        here = re.sub(r"\b(8000|9000)\b", lambda found: ports[found[0]], command)
        if "\n" in command:
            program = results / f"{place}.py"
            program.write_text(here, encoding="utf-8")
            here = f"'{sys.executable}' '{program}'"
        steps.append(f"{{ {here}\n}} > '{results}/{place}.out'\necho $? > '{results}/{place}.code'")
    return "\n".join([*steps, "kill $SERVICE", "wait", ""])


def run(name: str, folder: Path) -> None:
    """Run a page in a folder of its own; whatever it started is ended."""
    results = folder / RESULTS
    results.mkdir()
    wanted = commands(blocks_of(text_of(name)))
    place = on_call(folder / "place")
    foreign = ("HEARTDX_", "MODEL_PATH", "PROMETHEUS_", "MLFLOW_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (results / "errors").open("wb") as errors:
        shell = subprocess.Popen(
            ["bash", "-c", script(wanted, results)],
            cwd=place,
            env={**kept, **ONE_THREAD, "PATH": path, "CURL_HOME": str(place)},
            stdin=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):  # seen: commands lack a result
                shell.wait(SECONDS)
        finally:
            _end(shell)


def read(name: str, folder: Path) -> Page:
    """What a run left."""
    results = folder / RESULTS
    ran = tuple(
        Ran(command, *_result(results, place), printed)
        for place, (command, printed) in enumerate(commands(blocks_of(text_of(name))))
        if command not in NOT_RUN
    )
    told = [results / "errors", *(folder / "place").glob("*.log")]
    return Page(ran, "\n".join(path.read_text() for path in told))


def _result(results: Path, place: int) -> tuple[int, str]:
    """Exit code and output; -1 for a command that the shell never came to the end of."""
    code, output = results / f"{place}.code", results / f"{place}.out"
    if not code.exists():
        return -1, ""
    return int(code.read_text()), output.read_text()


def _end(shell: subprocess.Popen[bytes]) -> None:
    """End the shell and the services it left, all of one process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(shell.pid, number)
        except ProcessLookupError:
            break
        try:
            shell.wait(5)
        except subprocess.TimeoutExpired:
            continue
    shell.wait(5)


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Page:
    name = request.param
    return read(name, once(tmp_path_factory, f"page-{name}", lambda folder: run(name, folder)))


# -- the comparison of what is printed and what is given -------------------------------------


def documents(text: str) -> list[object]:
    """The JSON documents of a text, one after another."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while place < len(text):
        document, place = decoder.raw_decode(text, place)
        found.append(document)
        place = len(text) - len(text[place:].lstrip())
    return found


def differences(printed: object, given: object, where: str = "") -> Iterator[str]:
    """Where two documents have other members, in another order, or other kinds of values.

    A printed list may show the first of many; numbers and texts may be any but those of ``WORDS``.
    """
    if isinstance(printed, dict) and isinstance(given, dict):
        if list(printed) != list(given):
            yield f"{where}: {list(printed)} printed, {list(given)} given"
        for name in printed.keys() & given.keys():
            yield from differences(printed[name], given[name], f"{where}/{name}")
            if name in WORDS and printed[name] != given[name]:
                yield f"{where}/{name}: {printed[name]} printed, {given[name]} given"
    elif isinstance(printed, list) and isinstance(given, list):
        for place, (one, other) in enumerate(zip(printed, given, strict=False)):
            yield from differences(one, other, f"{where}/{place}")
    elif kind(printed) != kind(given):
        yield f"{where}: {kind(printed)} printed, {kind(given)} given"


def kind(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return "boolean" if isinstance(value, bool) else "null"
    return "number" if isinstance(value, int | float) else type(value).__name__


def promised(ran: Ran) -> list[str]:
    """How the output of a command differs from what the page prints below it."""
    assert ran.printed is not None
    printed, given = ran.printed.text, ran.output
    if ran.printed.language == "json":
        one, other = documents(printed.strip()), documents(given.strip())
        counts = [] if len(one) == len(other) else [f"{len(one)} printed, {len(other)} given"]
        return counts + list(differences(one, other))
    if ran.printed.language == "csv":
        first, last = printed.splitlines()[0], printed.splitlines()[-1]
        lines = given.splitlines()
        return [] if (lines[0], lines[-1]) == (first, last) else [f"{lines[0]} … {lines[-1]}"]
    return [] if printed == given else [f"{printed!r} printed, {given!r} given"]


def test_a_printed_answer_that_is_no_longer_given_is_seen():
    printed = {"a": 1, "rows": [{"b": None}], "c": "x"}

    assert list(differences(printed, {"a": 0.5, "rows": [{"b": None}] * 2, "c": "y"})) == []
    assert list(differences(printed, {"a": 1, "rows": [{"b": None}]})) != []
    assert list(differences(printed, {"a": 1, "rows": [{"d": None}], "c": "x"})) != []
    assert list(differences(printed, {"a": 1, "rows": [{"b": 2}], "c": "x"})) != []
    assert list(differences(printed, {"c": "x", "a": 1, "rows": [{"b": None}]})) != []
    assert list(differences({"status": 503}, {"status": 200})) != []
    assert documents('{"a": 1}\n{"b": 2}') == [{"a": 1}, {"b": 2}]


# -- the pages -----------------------------------------------------------------------------------


def test_every_command_of_a_page_succeeds(page: Page):
    failed = [(ran.code, ran.command, ran.output) for ran in page.ran if ran.code != 0]

    assert failed == [], page.errors


def test_what_a_page_prints_below_a_command_is_what_it_gives(page: Page):
    shown = [ran for ran in page.ran if ran.printed is not None]

    assert len(shown) >= 5
    assert {ran.command: found for ran in shown if (found := promised(ran))} == {}, page.errors


@pytest.mark.parametrize("name", PAGES)
def test_every_printed_answer_stands_below_a_command(name: str):
    blocks = blocks_of(text_of(name))

    below = {id(printed) for _, printed in commands(blocks) if printed is not None}

    assert [b.text for b in blocks if b.language in PRINTED and id(b) not in below] == []


def test_every_reason_not_to_run_a_line_is_needed():
    written = {command for name in PAGES for command, _ in commands(blocks_of(text_of(name)))}

    assert set(NOT_RUN) <= written


def test_what_a_page_only_asks_is_asked_so_that_a_refusal_fails():
    """curl ends with 0 whatever is answered, unless told otherwise."""
    listed = [ran for name in PAGES for ran in commands(blocks_of(text_of(name)))]

    silent = [c for c, printed in listed if c.startswith("curl ") and printed is None]

    assert [command for command in silent if "--fail" not in command] == []


@pytest.mark.parametrize("page", ["operations"], indirect=True)
def test_the_models_change_as_the_page_of_operations_tells(page: Page):
    staged, served = (ran.output for ran in page.ran if ran.command in SWITCHES)

    assert re.fullmatch(r"models: from (\w{12}) to (\w{12})\n", staged)
    assert served.split() == ["models:", "from", staged.split()[4], "to", staged.split()[2]]
    table = [line.split() for line in page.output("heartdx model list").splitlines()]
    assert sorted(row[-3:] for row in table[1:]) == [
        ["current", "yes", "verified"],
        ["previous", "yes", "verified"],
    ]
    assert page.output("heartdx model start") == (
        "models: no longer stopped (implausible answers, under review)\n"
    )
    metrics = page.output("curl --fail http://127.0.0.1:9000/metrics")
    shadowed = re.findall(
        r'^heartdx_shadow_patients_total{outcome="(?:same|other)_label"} (.+)$',
        metrics,
        re.MULTILINE,
    )
    assert sum(map(float, shadowed)) == 1


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_problem_and_attribute_that_a_page_names_exists(name: str):
    text = text_of(name)
    settings = {variable(f.name) for f in fields(Settings)}

    assert set(re.findall(r"\bHEARTDX_[A-Z_]+", text)) <= settings
    for status, kinds in re.findall(r"\b([45]\d\d) ((?:`[a-z-]+`(?:, )?)+)", text):
        for kind_named in re.findall(r"`([a-z-]+)`", kinds):
            assert KINDS[kind_named] == int(status)
    assert set(re.findall(r'"(?:field|attribute)": "(\w+)"', text)) <= set(NAMES)


def test_every_question_to_prometheus_is_about_metrics_and_labels_that_are_there():
    """The syntax is not checked: nothing here reads PromQL."""
    (questions,) = [b.text for b in blocks_of(text_of("operations")) if b.language == "promql"]
    lines = [line for line in questions.splitlines() if not line.startswith("#")]

    for line in lines:
        named = re.findall(r"\b((?:api|heartdx)_\w+)(?:{(\w+)=)?", line)
        labels: set[str] = {"le"}
        for metric, selected in named:
            declared = METRICS.get(metric) or METRICS[re.sub(r"_(bucket|sum|count)$", "", metric)]
            labels |= set(declared[1])
            assert not selected or selected in declared[1]
        grouped = re.findall(r"\bby \(([\w, ]+)\)", line)
        assert {label for group in grouped for label in group.split(", ")} <= labels
        assert line.count("(") == line.count(")")
    assert len(questions.split("#")) > 6


def test_every_warning_and_error_of_the_log_stands_in_the_table_with_what_to_do():
    (table,) = re.findall(r"^\| warning or error .*?\n\n", text_of("operations"), re.M | re.S)
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[2:] if line]

    named = [event for row in rows for event in re.findall(r"`(\w+)`", row[0])]

    assert sorted(named) == sorted(logged({"WARNING", "ERROR"}))
    assert all(len(row) == 2 and row[1].strip() for row in rows)


def test_every_other_event_of_the_log_is_named_as_news():
    (news,) = re.findall(r"The others are news: (.*?)\.\n", text_of("operations"), re.DOTALL)

    assert set(re.findall(r"`(\w+)`", news)) == logged({"INFO"})


def logged(levels: set[str]) -> set[str]:
    """Events that the service logs at these levels, from its source."""
    found = set()
    for path in (ROOT / "src/heartdx/serve").glob("*.py"):
        tree = ast.parse(path.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) == "logs.event":
                level = {k.arg: ast.unparse(k.value) for k in call.keywords}.get("level", "INFO")
                if level.removeprefix("logging.") in levels:
                    found |= words(call.args[1], tree)
    return found


def words(event: ast.expr, tree: ast.AST) -> set[str]:
    """An event's name as it is written, or each that its variable may hold."""
    if not isinstance(event, ast.Name):
        return {ast.literal_eval(event)}
    held = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == event.id
    ]
    values = [part for value in held for part in (value.body, value.orelse)]
    return {ast.literal_eval(part) for part in values}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_read_in_five_minutes(name: str):
    prose = re.sub(r"^```.*?^```$", "", text_of(name), flags=re.MULTILINE | re.DOTALL)

    assert len(prose.split()) < 5 * WORDS_A_MINUTE
