"""Every requirements file says the same, with hashes where it can, and names no host."""

from __future__ import annotations

import configparser
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HASHED = (
    "requirements.lock",
    "requirements-serve.lock",
    "requirements-dev.lock",
    "requirements-testdata.txt",
    "tools/uv.lock.txt",
    "tools/act.lock.txt",
    "tools/supply.lock.txt",
    "tools/scanners.lock.txt",
    "ops/compose/postgres-driver.lock.txt",
)
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")

# Public registries, in two parts so that this file does not name them either.
PUBLIC_HOSTS = [
    left + "." + right
    for left, right in (
        ("pypi", "org"),
        ("files.pythonhosted", "org"),
        ("registry.npmjs", "org"),
        ("deb.debian", "org"),
        ("snapshot.debian", "org"),
    )
]


def pins(text: str) -> dict[str, tuple[str, str]]:
    """Name to version and marker."""
    found = {}
    for line in text.splitlines():
        match = PIN.match(line)
        if match:
            found[match[1]] = (match[2], match[3] or "")
    return found


def read_pins(name: str) -> dict[str, tuple[str, str]]:
    return pins((ROOT / name).read_text())


def normal(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    return {
        "base": [normal(r) for r in project["project"]["dependencies"]],
        "train": [normal(r) for r in extras["train"]],
        "build": [normal(r) for r in groups["build"]],
        "dev": [normal(r) for r in groups["dev"]],
    }


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("requirements.txt", ("base", "train")),
        ("requirements.lock", ("base", "train", "build")),
        ("requirements-serve.lock", ("base", "build")),
        ("requirements-dev.lock", ("base", "train", "build", "dev")),
    ],
)
def test_a_lock_holds_everything_pyproject_asks_of_it(name, parts):
    asked = {requirement for part in parts for requirement in declared()[part]}

    missing = asked - read_pins(name).keys()

    assert not missing, f"{name} lacks {sorted(missing)}: run `make lock`"


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements.lock", "requirements-serve.lock"]
)
def test_all_locks_agree_in_versions_and_markers(name):
    everything = read_pins("requirements-dev.lock")

    other = {k: v for k, v in read_pins(name).items() if everything.get(k) != v}

    assert not other, f"{name} differs from requirements-dev.lock: run `make lock`"


def test_the_serving_lock_is_a_part_of_the_running_lock_and_brings_nothing_of_training():
    serving, running = read_pins("requirements-serve.lock"), read_pins("requirements.lock")

    assert serving.items() <= running.items()
    assert not serving.keys() & set(declared()["train"])


def test_the_running_lock_is_the_plain_pins_and_the_build_backend():
    plain, running = read_pins("requirements.txt"), read_pins("requirements.lock")

    assert plain.items() <= running.items()
    assert set(declared()["build"]) <= running.keys() - plain.keys()


@pytest.mark.parametrize("name", HASHED)
def test_every_locked_package_has_a_hash(name):
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / name).read_text().strip())

    bare = [entry.split("==")[0] for entry in entries if "--hash=sha256:" not in entry]

    assert not bare
    assert {entry.split("==")[0] for entry in entries} == set(read_pins(name))


def test_requirements_txt_is_a_comment_exact_pins_and_the_project_itself():
    lines = (ROOT / "requirements.txt").read_text().splitlines()

    assert [line.startswith("#") for line in lines[:3]] == [True, True, False]
    assert lines[-1] == "-e ."
    assert all(PIN.match(line) for line in lines[2:-1])


@pytest.mark.parametrize("name", [*HASHED, "requirements.txt"])
def test_a_lock_holds_no_address_no_path_and_no_option(name):
    text = (ROOT / name).read_text()

    assert "://" not in text
    assert "# via" not in text
    assert not [line for line in text.splitlines() if re.match(r"\s*--(?!hash=)", line)]


def tracked_text() -> dict[str, str]:
    """Every file git holds or would take, as text; binary files are left out."""
    texts = {}
    for path in tracked_files():
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            texts[str(path.relative_to(ROOT))] = content.decode("utf-8", "replace")
    return texts


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():  # an unpacked archive: what set-up and runs made lies apart
        made = {".venv", ".tools", "raw", "models", "reports", "mlruns", "__pycache__"}
        return [p for p in ROOT.rglob("*") if not made & set(p.relative_to(ROOT).parts)]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name]


def hosts_of_this_machine() -> set[str]:
    """Hosts that pip and apt are set to here, which must stay here."""
    hosts = set()
    for path in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(path)
        for section in parser.sections():
            for value in parser[section].values():
                hosts |= set(re.findall(r"https?://(?:[^/@\s]*@)?([^/:\s]+)", value))
    for path in Path("/etc/apt").glob("sources.list*"):
        for source in [path] if path.is_file() else path.iterdir():
            lines = [x for x in source.read_text().splitlines() if not x.startswith("#")]
            hosts |= set(re.findall(r"https?://(?:[^/@\s]*@)?([^/:\s]+)", "\n".join(lines)))
    return {host for host in hosts if "." in host}


def test_no_file_names_a_package_registry():
    texts = tracked_text()
    hosts = hosts_of_this_machine() | set(PUBLIC_HOSTS)

    named = [f"{name}: a host" for name, text in texts.items() for h in hosts if h in text]

    assert texts
    assert not named


def test_no_python_version_file_is_committed():
    # On a machine with pyenv it would break `python3` itself, and with it the bootstrap.
    assert not (ROOT / ".python-version").exists()
