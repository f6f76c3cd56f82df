"""Rules of the house. Each is a function from sources to what breaks it, and is itself tested."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import io
import json
import os
import pkgutil
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import heartdx
from heartdx.contract import NAMES

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = ("src/api.py", "src/eda.py", "src/model_train.py", "data/download_data.py")
MODULES = ["heartdx", *(m.name for m in pkgutil.walk_packages(heartdx.__path__, "heartdx."))]
LONGEST_LIST = 3
LONGEST_ENTRY = 10
LARGEST_FILE = 300_000

Rule = Callable[[Mapping[str, str]], list[str]]


def tracked() -> list[str]:
    """What git has or would take; without git, everything but what set-up and runs made."""
    if not (ROOT / ".git").exists():
        made = {".venv", ".tools", "raw", "models", "reports", "mlruns", "__pycache__"}
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        return [str(path) for path in found if not made & set(path.parts)]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def texts() -> dict[str, str]:
    """Every tracked text file."""
    contents = {name: (ROOT / name).read_bytes() for name in tracked()}
    return {name: c.decode("utf-8", "replace") for name, c in contents.items() if b"\0" not in c}


def sources(*folders: str) -> dict[str, str]:
    """Python files below these folders."""
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def package() -> dict[str, str]:
    return sources("src/heartdx")


def nodes(text: str, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds))


def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **more}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a statement brings into a fresh interpreter."""
    code = (
        f"import sys; before = set(sys.modules)\ntry:\n    {statement}\nexcept SystemExit: pass\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before}, file=sys.stderr)"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


# -- the contract is the only list of columns --------------------------------------------------

ALLOWED_LISTS = {
    # Example bodies of /predict for the OpenAPI document: patients, not columns; each is sent
    # by tests/service/test_service_predict.py.
    "src/heartdx/serve/schemas.py",
    # The same of /v1/predict/batch, sent by tests/service/test_batch.py.
    "src/heartdx/serve/batch_schemas.py",
    # The words of a foreign package; the result is held against UCI's checksums.
    "tools/rebuild_embedded.py",
}
_NAME = rf"\b(?:{'|'.join(NAMES)})\b"
_LISTED = re.compile(rf"(?:{_NAME}\W+){{{LONGEST_LIST}}}{_NAME}")
_EXAMPLE = re.compile(r"^\s*(>>>|\.\.\.) .*$", re.MULTILINE)


def restated_columns(files: Mapping[str, str]) -> list[str]:
    """Files with four attributes in a row: in a literal, a text, keys, fields or arguments."""
    return [
        name
        for name, text in files.items()
        if not name.endswith("heartdx/contract.py") and _restates(text)
    ]


def _restates(text: str) -> bool:
    in_words = _LISTED.search(_EXAMPLE.sub("", text)) is not None
    return in_words or any(map(_has_long_run, _name_sequences(text)))


def _name_sequences(text: str) -> Iterator[list[str | None]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Dict):
            yield [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        elif isinstance(node, ast.ClassDef):
            fields = (part for part in node.body if isinstance(part, ast.AnnAssign))
            yield [f.target.id if isinstance(f.target, ast.Name) else None for f in fields]
        elif isinstance(node, ast.Call):
            yield [keyword.arg for keyword in node.keywords]
        elif isinstance(node, ast.arguments):
            yield [argument.arg for argument in (*node.args, *node.kwonlyargs)]
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            yield [part.value if isinstance(part, ast.Constant) else None for part in node.elts]


def _has_long_run(sequence: list[str | None]) -> bool:
    marks = "".join("x" if name in NAMES else " " for name in sequence)
    return "x" * (LONGEST_LIST + 1) in marks


def test_no_module_restates_a_column_list():
    found = restated_columns(sources("src", "data", "tools"))

    assert set(found) == ALLOWED_LISTS


# -- each library has its place ------------------------------------------------------------------

PLACES: dict[str, dict[str, str]] = {
    "mlflow": {"heartdx.tracking": ""},
    "matplotlib": {"heartdx.figures": ""},
    "onnxruntime": {"heartdx.bundle": ""},
    "model_signing": {"heartdx.signing": ""},
    "httpx2": {"heartdx.client": ""},
    "polars": {"heartdx.scoring": "", "heartdx.client": ""},
    "msgspec": {"heartdx.serve": "", "heartdx.client": ""},
    "onnx": {"heartdx.onnx_graph": ""},
    "pandera": {"heartdx.checks": ""},
    "prometheus_client": {"heartdx.serve": ""},
    "fastapi": {"heartdx.serve": ""},
    "starlette": {"heartdx.serve": ""},
    # Pickling is export's alone; elsewhere joblib only runs things in parallel.
    "joblib": {
        "heartdx.export": "",
        "heartdx.resampling": "Parallel delayed",
        "heartdx.evaluation.panels": "Parallel delayed",
        "heartdx.evaluation.internal": "Parallel delayed",
        "heartdx.evaluation.run": "Parallel delayed",
    },
    # Decided against: docs/adr/0003, 0004.
    "skl2onnx": {},
    "pickle": {},
    "cloudpickle": {},
    "dill": {},
}


def misplaced_imports(files: Mapping[str, str]) -> list[str]:
    """Imports outside the place of their library; some places take some names only."""
    return [
        f"{name}: {library}{'.' + part if part else ''}"
        for name, text in files.items()
        for library, part in _imports(text)
        if library in PLACES and not _fits(PLACES[library], _module(name), part)
    ]


def _imports(text: str) -> Iterator[tuple[str, str]]:
    for node in nodes(text, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module.split(".")[0], alias.name) for alias in node.names)


def _module(name: str) -> str:
    parts = Path(name).with_suffix("").parts
    return ".".join(parts[parts.index("heartdx") :]).removesuffix(".__init__")


def _fits(places: Mapping[str, str], module: str, part: str) -> bool:
    for place, parts in places.items():
        if module == place or module.startswith(place + "."):
            return not parts or part in parts.split()
    return False


def test_each_library_is_imported_only_where_it_belongs():
    assert misplaced_imports(package()) == []


def test_each_place_of_a_library_is_in_use():
    used = {(lib, _module(name)) for name, text in package().items() for lib, _ in _imports(text)}

    for library, places in PLACES.items():
        for place in places:
            assert any(u == library and m.startswith(place) for u, m in used), (library, place)


def test_the_contract_and_the_errors_import_no_library():
    loaded = loaded_by("import heartdx.contract, heartdx.errors")

    assert "heartdx" in loaded
    assert loaded - {"heartdx"} <= sys.stdlib_module_names


# -- entries and names ---------------------------------------------------------------------------


def long_entries(files: Mapping[str, str]) -> list[str]:
    """Entries with more than ten lines of code; docstring, comments and blanks do not count."""
    return [name for name, text in files.items() if len(_code_lines(text)) > LONGEST_ENTRY]


def _code_lines(text: str) -> set[int]:
    told = ast.parse(text).body
    docstring: set[int] = set()
    if told and ast.get_docstring(ast.parse(text)) is not None:
        docstring = set(range(told[0].lineno, (told[0].end_lineno or 0) + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING}
    silent |= {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0] for t in tokens if t.type not in silent} - docstring


def test_the_entries_hold_at_most_ten_lines_of_code():
    files = {name: (ROOT / name).read_text() for name in (*ENTRIES, "src/__init__.py")}

    assert long_entries(files) == []
    assert {path.name for path in (ROOT / "src").glob("*.py")} == {
        "__init__.py",
        *(Path(name).name for name in ENTRIES if name.startswith("src/")),
    }


def test_the_package_refuses_to_be_imported_as_src_heartdx():
    refused = run("-c", "import src.heartdx")

    assert refused.returncode == 1
    assert "ImportError: heartdx was imported as 'src.heartdx'" in refused.stderr
    assert "write `import heartdx`" in refused.stderr


def test_a_stray_installed_package_named_src_does_not_win(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").write_text("raise SystemExit('the stray one')")

    ours = run("-m", "src.eda", "--help", PYTHONPATH=str(tmp_path))

    assert ours.returncode == 0, ours.stderr
    assert "usage: python -m src.eda" in ours.stdout


VAGUE_MODULE = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)($|_)")
VAGUE_FUNCTION = re.compile(r"^_?(process|handle|do|manage)_")


def vague_names(files: Mapping[str, str]) -> list[str]:
    """Modules and functions whose name says nothing."""
    modules = [name for name in files if VAGUE_MODULE.search(Path(name).stem)]
    functions = [
        f"{name}: {node.name}"
        for name, text in files.items()
        for node in nodes(text, ast.FunctionDef, ast.AsyncFunctionDef)
        if VAGUE_FUNCTION.match(node.name)
    ]
    return modules + functions


def test_names_say_what_a_thing_is():
    assert vague_names(package()) == []


# -- nothing happens at import -------------------------------------------------------------------

READERS_OF_THE_ENVIRONMENT = {
    "src/api.py": "the entry: uvicorn imports it and it passes the environment on",
    "src/heartdx/cli.py": "the entry: main() reads it once; CI turns the progress bar off",
    "src/heartdx/serve/__init__.py": "uvicorn --factory calls from_environment() without arguments",
    "src/heartdx/serve/workers.py": "prometheus_client takes its folder from the environment only",
    "src/heartdx/tracking.py": "MLflow takes its patience from the environment only",
}


def environment_readers(files: Mapping[str, str]) -> list[str]:
    """Files that touch the process's environment."""
    return [name for name, text in files.items() if _touches_environment(text)]


def _touches_environment(text: str) -> bool:
    for node in nodes(text, ast.Attribute, ast.ImportFrom):
        names = [node.attr] if isinstance(node, ast.Attribute) else []
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            names = [alias.name for alias in node.names]
        if {"environ", "environb", "getenv", "getenvb", "putenv"} & set(names):
            return True
    return False


def test_the_environment_is_read_at_the_entries_only():
    found = environment_readers(sources("src", "data"))

    assert set(found) == set(READERS_OF_THE_ENVIRONMENT)


def test_help_imports_nothing_heavy():
    loaded = loaded_by("from heartdx.cli import main; main(['--help'])")

    assert "argparse" in loaded
    assert not {"numpy", "pandas", "sklearn", "scipy", "mlflow", "matplotlib", "onnx"} & loaded
    assert not {"onnxruntime", "fastapi", "uvicorn", "prometheus_client", "pandera"} & loaded


def test_importing_every_module_leaves_folder_environment_and_logging_as_they_were(tmp_path):
    code = f"""
import importlib, json, logging, os
before = dict(os.environ)
for name in {MODULES!r}:
    importlib.import_module(name)
print(json.dumps([
    sorted(os.listdir()),
    [name for name in os.environ if before.get(name) != os.environ[name]],
    [type(h).__name__ for n in ("", "heartdx") for h in logging.getLogger(n).handlers],
    logging.getLogger("heartdx").level,
]))
"""

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    files, variables, handlers, level = json.loads(done.stdout)
    assert files == []
    # scikit-learn and its OpenMP set variables of their own when they are imported.
    assert not [v for v in variables if v.startswith(("HEARTDX", "MODEL", "MLFLOW", "PROM"))]
    assert handlers == []
    assert level == 0


# -- words and deeds -----------------------------------------------------------------------------


def undocumented(files: Mapping[str, str]) -> list[str]:
    """Public modules, classes, functions and methods without a docstring."""
    found = []
    for name, text in files.items():
        tree = ast.parse(text)
        if ast.get_docstring(tree) is None:
            found.append(name)
        found += [f"{name}: {path}" for path in _silent(tree, "")]
    return found


def _silent(parent: ast.AST, path: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(parent):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield path + node.name
        if isinstance(node, ast.ClassDef):
            yield from _silent(node, f"{path}{node.name}.")


def _inherits_its_words(place: str) -> bool:
    """Whether the method overrides a documented one of a library, as ``Formatter.format``."""
    name, _, path = place.partition(": ")
    found: object = importlib.import_module(_module(name))
    for part in path.split(".") if path else ():
        found = getattr(found, part)
    return inspect.isfunction(found) and inspect.getdoc(found) is not None


def test_every_public_thing_has_a_docstring():
    silent = undocumented(package())

    assert [place for place in silent if not _inherits_its_words(place)] == []
    assert undocumented({n: t for n, t in texts().items() if n in ENTRIES}) == []
    assert [place for place in undocumented(sources("tools")) if ": " not in place] == []


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_true(name):
    module = importlib.import_module(name)

    tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS)

    assert tried.failed == 0
    assert bool(tried.attempted) == (">>> " in inspect.getsource(module))


ALLOWED_BROAD_EXCEPT = {
    "src/heartdx/serve/middleware.py": "the service's outermost door: log, count, answer 500",
    "src/heartdx/serve/front.py": "whatever fails before an answer, the route does it and says why",
    "src/heartdx/serve/shadow.py": "whatever a challenger does is counted; the champion answers",
    "src/heartdx/serve/swap.py": "whatever a swap meets is logged; the old model answers",
    "src/heartdx/serve/predictor.py": "whatever a damaged bundle raises, it is refused and logged",
    "src/heartdx/serve/guard.py": "a look that fails is logged; the next may find a stop",
}


def broad_excepts(files: Mapping[str, str]) -> list[str]:
    """Files that catch everything, unless they raise it again at once after cleaning up."""
    return [
        name
        for name, text in files.items()
        for handler in nodes(text, ast.ExceptHandler)
        if isinstance(handler, ast.ExceptHandler) and _is_broad(handler)
    ]


def _is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {part.id for part in caught if isinstance(part, ast.Name)}
    last = handler.body[-1]
    raised_again = isinstance(last, ast.Raise) and last.exc is None
    return (handler.type is None or {"Exception", "BaseException"} & names) and not raised_again


def test_no_broad_except_hides_a_bug():
    assert set(broad_excepts(sources("src", "data", "tools"))) == set(ALLOWED_BROAD_EXCEPT)


def prints(files: Mapping[str, str]) -> list[str]:
    """Files that print."""
    return [
        name
        for name, text in files.items()
        if any(getattr(c.func, "id", "") in {"print", "pprint"} for c in nodes(text, ast.Call))
    ]


def test_only_the_command_line_prints():
    assert prints(sources("src", "data")) == ["src/heartdx/cli.py"]


LATER = re.compile(rf"\b({'TO' + 'DO'}|{'FIX' + 'ME'}|{'HA' + 'CK'})\b")


def postponed(files: Mapping[str, str]) -> list[str]:
    """Files with a note to do it later; an issue is the place for it."""
    return [name for name, text in files.items() if LATER.search(text)]


def test_nothing_is_left_for_later():
    assert postponed(texts()) == []


# -- what is committed ---------------------------------------------------------------------------

ALLOWED_LARGE = {"requirements-dev.lock"}  # hashes of every wheel for every platform


def test_no_large_file_is_committed():
    large = {name for name in tracked() if (ROOT / name).stat().st_size > LARGEST_FILE}

    assert large <= ALLOWED_LARGE


# In parts, so that this file does not hold them. Folders of a container or of /tmp are no
# machine's; the names of package registries are looked for in test_locks.py.
MACHINE_PATH = re.compile(
    "|".join(
        (
            r"(?<![\w.$}/-])/" + r"(root|work)/",
            r"(?<![\w.$}-])/" + r"(home|Users)/\w",
            r"\b[A-Z]:" + r"\\(Users|home)",
            r"/tmp/" + r"bash_jobs",
        )
    )
)


def machine_paths(files: Mapping[str, str]) -> list[str]:
    """Files that name a folder of somebody's machine."""
    return [name for name, text in files.items() if MACHINE_PATH.search(text)]


def test_no_file_names_a_folder_of_somebodys_machine():
    assert machine_paths(texts()) == []


# -- the rules can fail --------------------------------------------------------------------------

BROKEN: list[tuple[Rule, str]] = [
    (restated_columns, "COLUMNS = ['cp', 'trestbps', 'chol', 'fbs']"),
    (restated_columns, "COLUMNS = (\n    'age',\n    'thal',\n    'ca',\n    'sex',\n)"),
    (restated_columns, '"""Takes age, sex, cp and so on: age, sex, cp, trestbps."""'),
    (restated_columns, "x = 1  # age sex cp trestbps"),
    (restated_columns, "x = 'age,sex,cp,trestbps'.split(',')"),
    (restated_columns, "UNITS = {'age': 1, 'sex': 2, 'cp': 3, 'trestbps': 4}"),
    (restated_columns, "class Body:\n    age: int\n    sex: int\n    cp: int\n    chol: int"),
    (restated_columns, "def ask(age, sex, cp, chol): return age"),
    (restated_columns, "ask(age=1, sex=2, cp=3, chol=4)"),
    (misplaced_imports, "import mlflow.sklearn"),
    (misplaced_imports, "def late():\n    from matplotlib import pyplot"),
    (misplaced_imports, "from joblib import Parallel"),
    (misplaced_imports, "import onnxruntime as rt"),
    (misplaced_imports, "import pickle"),
    (long_entries, "import os\n" * 11),
    (vague_names, "def process_rows(): ..."),
    (environment_readers, "import os\nHOME = os.environ['HOME']"),
    (environment_readers, "from os import getenv"),
    (environment_readers, "import os as o\no.getenv('HOME')"),
    (undocumented, "x = 1"),
    (undocumented, '"""Module."""\nclass Patient: ...'),
    (undocumented, '"""Module."""\nclass Patient:\n    """One."""\n    def age(self): ...'),
    (broad_excepts, "try: x\nexcept: pass"),
    (broad_excepts, "try: x\nexcept Exception: y"),
    (broad_excepts, "try: x\nexcept (ValueError, Exception) as e: raise ValueError from e"),
    (prints, "print('hello')"),
    (postponed, "x = 1  # " + "TO" + "DO: later"),
    (machine_paths, "DATA = '" + "/ho" + "me/someone/heart.csv'"),
    (machine_paths, "see " + "/wo" + "rk/main/src"),
]


@pytest.mark.parametrize(("rule", "text"), BROKEN, ids=lambda v: getattr(v, "__name__", ""))
def test_a_broken_rule_is_seen(rule, text):
    assert rule({"src/heartdx/newcomer.py": text}) != []


KEPT: list[tuple[Rule, str]] = [
    (restated_columns, "MARKERS = ('exang', 'oldpeak', 'ca')"),
    (misplaced_imports, "import numpy"),
    (long_entries, '"""Long.\n' + "\n" * 20 + '"""\n\n# why\nimport os\n'),
    (undocumented, '"""Module."""\ndef _part(): ...'),
    (broad_excepts, "try: x\nexcept BaseException:\n    y()\n    raise"),
    (machine_paths, "COPY app /home\nRUN touch /tmp/x\ncurl https://example.com/srv/x"),
]


@pytest.mark.parametrize(("rule", "text"), KEPT, ids=lambda v: getattr(v, "__name__", ""))
def test_a_rule_lets_the_right_thing_pass(rule, text):
    assert rule({"src/heartdx/newcomer.py": text}) == []


def test_joblib_may_run_things_in_parallel_but_not_unpickle_in_resampling():
    allowed = {"src/heartdx/resampling.py": "from joblib import Parallel, delayed"}
    refused = {"src/heartdx/resampling.py": "from joblib import load"}
    whole = {"src/heartdx/resampling.py": "import joblib"}

    assert misplaced_imports(allowed) == []
    assert misplaced_imports(refused) == ["src/heartdx/resampling.py: joblib.load"]
    assert misplaced_imports(whole) == ["src/heartdx/resampling.py: joblib"]
