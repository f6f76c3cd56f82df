"""tools/bootstrap.py on machines of every kind, each a small tree with fake commands on PATH.

The fake uv writes down how it was called and makes a .venv around this Python; fake Pythons are
shell scripts. What a real set-up does is seen elsewhere: every run of CI begins with one.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tools" / "bootstrap.py"
THIS = os.path.realpath(sys.executable)
VERSION = ".".join(map(str, sys.version_info[:2]))
FILES = (
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-testdata.txt",
    "pyproject.toml",
    "tools/uv.lock.txt",
)
# The venv's Python answers as this one, and finds heartdx without it being installed.
UV = f"""
[ "$1" != --version ] || {{ echo "uv 9.9.9"; exit 0; }}
echo "$@" >>"$LOG"; env >"$LOG.env"
[ "$1" != venv ] || {{
  for folder; do :; done
  rm -rf "$folder"; mkdir -p "$folder/bin"
  printf '#!/bin/sh\\ncase "$*" in *heartdx*) ;; *) exec {THIS} "$@" ;; esac\\n' \\
    >"$folder/bin/python"
  chmod +x "$folder/bin/python"
}}
"""
# A Python that runs, is too old for heartdx, and has neither venv, ensurepip nor pip.
BARE_OLD_PYTHON = 'case "$*" in *json*) echo "[[3, 9, 2], \\"x\\", []]" ;; *) exit 1 ;; esac'


class Machine:
    """A clone with spaces in its path, and a PATH that holds nothing but fakes."""

    def __init__(self, folder: Path):
        self.tree, self.bin, self.log = folder / "a clone", folder / "bin", folder / "uv.log"
        (self.tree / "tools").mkdir(parents=True)
        (self.tree / "tools" / "bootstrap.py").write_text(SOURCE.read_text())
        for name in FILES:
            (self.tree / name).write_text("a==1\n")
        self.bin.mkdir()
        for tool in ("sh", "env", "rm", "mkdir", "chmod", "sleep"):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        self.command("uv", UV)

    def command(self, name: str, script: str) -> Path:
        path = self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def python(self, name: str = "python3.12") -> Path:
        return self.command(name, f'exec {THIS} "$@"')

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the set-up as if by a Python that itself cannot be used for .venv."""
        disguise = (
            "import runpy, sys; sys.executable = ''; sys.argv[0] = sys.argv.pop(1); "
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        paths = {"PATH": str(self.bin), "HOME": str(self.tree.parent), "LOG": str(self.log)}
        return subprocess.run(
            [THIS, "-I", "-c", disguise, str(self.tree / "tools" / "bootstrap.py"), *arguments],
            env=paths | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def uv_calls(self) -> list[str]:
        """How uv was called since the last look."""
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return calls


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_it_is_written_for_python_3_6_and_the_standard_library_alone():
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 6))

    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}

    assert imported <= set(sys.stdlib_module_names)


def test_a_first_run_installs_with_hashes_and_a_second_does_not_call_uv(machine):
    machine.python()

    first = machine.run()
    calls = machine.uv_calls()
    second = machine.run(PATH="/nowhere")

    assert first.returncode == 0, first.stderr
    assert [call.split()[0] for call in calls] == ["venv", "pip", "pip"]
    assert "--require-hashes -r requirements.lock" in calls[1]
    assert "--no-deps --no-build-isolation" in calls[2]
    assert (second.returncode, second.stderr, machine.uv_calls()) == (0, "", [])


def test_a_shim_that_fails_is_passed_over_for_a_python_that_runs(machine):
    machine.command("shims/python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    machine.command("shims/python3", "exit 127")
    behind = machine.python("versions/3.12.9/bin/python3")

    done = machine.run(PATH=f"{machine.bin}/shims:{machine.bin}")

    assert done.returncode == 0, done.stderr
    assert str(behind) in machine.uv_calls()[0]


def test_a_python_built_without_sqlite_is_passed_over_and_named(machine):
    machine.command("python3.14", 'echo "[[3, 14, 0], \\"x\\", [\\"sqlite3\\"]]"')
    whole = machine.python("python3.12")

    done = machine.run()

    assert "python3.14 is passed over: it was built without sqlite3" in done.stderr
    assert str(whole) in machine.uv_calls()[0]


def test_without_a_python_3_12_uv_is_asked_for_one(machine):
    machine.command("python3", BARE_OLD_PYTHON)

    done = machine.run()

    assert done.returncode == 0, done.stderr
    assert "--python 3.12 " in machine.uv_calls()[0]


def test_no_python_and_no_download_is_said_plainly(machine):
    machine.command("uv", 'case $1 in --version) echo "uv 9.9.9" ;; *) exit 2 ;; esac')

    done = machine.run(UV_PYTHON_DOWNLOADS="never")

    assert done.returncode == 1
    assert "no Python 3.12 or newer was found" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_uv_venv_and_pip_it_says_what_to_install(machine):
    (machine.bin / "uv").unlink()
    machine.command("python3", BARE_OLD_PYTHON)

    done = machine.run()

    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert f"{machine.bin}/python3" in done.stderr


def test_uv_comes_from_the_next_interpreter_when_the_first_has_no_ensurepip(machine):
    shutil.move(machine.bin / "uv", machine.bin / "hidden-uv")
    machine.python("python3.12")
    machine.command("python3.12", f'case "$*" in *"-m "*) exit 1 ;; *) exec {THIS} "$@" ;; esac')
    machine.command(  # no venv either, but a pip
        "python3.11",
        'case "$*" in\n'
        '  *json*) echo "[[3, 11, 2], \\"x\\", []]" ;;\n'
        '  *"pip install"*"--require-hashes"*"--target"*)\n'
        '    for folder; do :; done; mkdir -p "$folder/bin"\n'
        f"    {THIS} -I -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' "
        f'"{machine.bin}/hidden-uv" "$folder/bin/uv" ;;\n'
        "  *) exit 1 ;;\n"
        "esac",
    )

    done = machine.run()

    assert done.returncode == 0, done.stderr
    assert (machine.tree / ".tools" / "bin" / "uv").exists()


def test_an_old_uv_on_path_is_not_used(machine):
    machine.command("uv", 'echo "uv 0.4.1"')
    machine.command("python3", BARE_OLD_PYTHON)

    done = machine.run()

    assert "uv could not be installed" in done.stderr


def test_a_changed_lock_is_installed_into_the_same_venv(machine):
    machine.python()
    machine.run()
    machine.uv_calls()

    (machine.tree / "requirements.lock").write_text("a==2\n")
    machine.run()

    assert [call.split()[:2] for call in machine.uv_calls()] == [
        ["pip", "sync"],
        ["pip", "install"],
    ]


def test_a_set_up_that_was_cut_short_starts_afresh(machine):
    machine.python()
    machine.command("uv", UV + '[ "$1" != pip ] || exit 1')
    cut = machine.run()
    machine.uv_calls()
    machine.command("uv", UV)

    again = machine.run()

    assert (cut.returncode, again.returncode) == (1, 0)
    assert machine.uv_calls()[0].startswith("venv --quiet --no-project --clear")


@pytest.mark.parametrize("broken", ["moved", "python gone"])
def test_a_venv_that_cannot_run_here_is_made_again(machine, broken):
    machine.python()
    machine.run()
    machine.uv_calls()

    if broken == "moved":
        machine.tree = machine.tree.rename(machine.tree.parent / "moved")
    else:
        (machine.tree / ".venv" / "bin" / "python").unlink()
    done = machine.run()

    assert done.returncode == 0, done.stderr
    assert machine.uv_calls()[0].startswith("venv")


def test_a_development_venv_serves_the_plain_set_up_too(machine):
    machine.python()
    machine.run("--dev")
    calls = machine.uv_calls()

    plain = machine.run()

    assert "-r requirements-dev.lock -r requirements-testdata.txt" in calls[1]
    assert (plain.returncode, machine.uv_calls()) == (0, [])


def test_another_python_can_be_asked_for(machine):
    machine.python()
    machine.run()
    machine.uv_calls()

    same, other = machine.run("--python", VERSION), machine.run("--python", "3.99")

    assert same.returncode == 0
    assert "no Python 3.99 found; asking uv for one" in other.stderr


def test_variables_of_another_environment_do_not_reach_uv(machine):
    machine.python()
    foreign = {
        "VIRTUAL_ENV": "/elsewhere",
        "PYTHONPATH": "/elsewhere",
        "PYTHONHOME": "/elsewhere",
        "CONDA_PREFIX": "/elsewhere",
        "PIP_TARGET": "/elsewhere",
        "UV_SYSTEM_PYTHON": "1",
    }

    done = machine.run(**foreign, UV_DEFAULT_INDEX="file:///mirror")

    reached = dict(
        line.split("=", 1) for line in Path(f"{machine.log}.env").read_text().splitlines()
    )
    assert done.returncode == 0, done.stderr
    assert not foreign.keys() & reached.keys()
    assert reached["UV_DEFAULT_INDEX"] == "file:///mirror"
    assert reached["UV_COMPILE_BYTECODE"] == "1"


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("error: No space left on device (os error 28)", "free about 3 GB"),
        ("error: Failed to fetch; dns error", "UV_DEFAULT_INDEX"),
        ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ("Hash mismatch for a==1", "do not go on"),
    ],
)
def test_a_cause_outside_the_project_is_told_with_its_mend(machine, said, mend):
    machine.python()
    machine.command("uv", UV + f'[ "$1" != pip ] || {{ echo "{said}" >&2; exit 1; }}')

    done = machine.run()

    assert done.returncode == 1
    assert said in done.stderr
    assert mend in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
