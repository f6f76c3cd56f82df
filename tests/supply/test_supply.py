"""Each scan of the supply chain fails, with its real tool, on something broken.

Called by `make check-supply`, which installs the tools and writes the bills of materials first.
Nothing here asks the network: known vulnerabilities come from a server of this test.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CLOSED_PORT = "http://127.0.0.1:9"
TOKEN = "ghp_" + "Xk3vQ9bTz7LmPw2RdY8sHc5NfJg4UaEo1KiV"  # in two parts: no finding here
IGNORE = "# hadolint " + "ignore=DL3008,DL3009,DL3015"


def scan(
    name: str, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of the tools as its make target does."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{name}.py"), *arguments],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )


# -- secrets ---------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    git("init", "--quiet", str(folder))
    (folder / "README.md").write_text("Nothing to hide here.\n")
    commit(folder, "first")
    return folder


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def commit(folder: Path, message: str) -> None:
    git("-C", str(folder), "add", "--all")
    git("-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", "commit",
        "--quiet", "--message", message)  # fmt: skip


def test_a_repository_without_a_secret_has_no_finding_of_its_own(repository):
    done = scan("scan_secrets", str(repository))

    assert "1 commits and 1 files; 0 findings" in done.stdout
    # This tree's waivers have nothing to cover there.
    assert all(line.endswith("remove the waiver") for line in done.stderr.splitlines())


@pytest.mark.parametrize("name", ["settings.py", "notes/deploy.txt"])
def test_a_secret_in_a_file_not_yet_committed_fails_and_is_not_printed(name, repository):
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text(f'token = "{TOKEN}"\n')

    done = scan("scan_secrets", str(repository))

    assert done.returncode == 1
    assert re.search(rf"github\S* at {name}#[0-9a-f]{{12}}: line 1; ", done.stderr)
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize("mark", ["betterleaks:allow", "gitleaks:allow", "nosec", "noqa"])
def test_no_mark_in_the_code_silences_a_secret(mark, repository):
    (repository / "settings.py").write_text(f'token = "{TOKEN}"  # {mark}\n')

    done = scan("scan_secrets", str(repository))

    assert done.returncode == 1
    assert " at settings.py#" in done.stderr


@pytest.mark.parametrize("where", ["the same branch", "another branch"])
def test_a_secret_that_was_committed_once_is_found_in_the_history(where, repository):
    if where == "another branch":
        git("-C", str(repository), "checkout", "--quiet", "-b", "other")
    (repository / "settings.py").write_text(f'token = "{TOKEN}"\n')
    commit(repository, "a mistake")
    if where == "another branch":
        git("-C", str(repository), "checkout", "--quiet", "-")
    else:
        (repository / "settings.py").unlink()
        commit(repository, "gone, as it seems")
    assert not (repository / "settings.py").exists()

    done = scan("scan_secrets", str(repository))

    assert done.returncode == 1
    assert re.search(r"at settings.py#\w+: line 1 of commit [0-9a-f]{10}; ", done.stderr)


def test_a_history_that_was_cut_is_refused(repository, tmp_path):
    (repository / "second.md").write_text("More.\n")
    commit(repository, "second")
    git("clone", "--quiet", "--depth", "1", f"file://{repository}", str(tmp_path / "cut"))

    done = scan("scan_secrets", str(tmp_path / "cut"))

    assert done.returncode == 1
    assert "its history was cut; run: git fetch --unshallow" in done.stderr


def test_a_folder_without_a_repository_is_refused(tmp_path):
    done = scan("scan_secrets", str(tmp_path))

    assert done.returncode == 1
    assert "not a git repository" in done.stderr


# -- Dockerfile ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("RUN cd /tmp && make\n", "DL3003"),
        ("RUN sudo true\n", "DL3004"),
        ("RUN apt-get update && apt-get install curl\n", "DL3008"),
        (f"{IGNORE}\nRUN apt-get update && apt-get install -y curl\n", "DL3008"),
        ("COPY --from=nowhere /etc /etc\n", "DL3022"),
        ("USER root\n", "DL3002"),
    ],
    ids=["cd", "sudo", "no versions", "no versions, with a mark", "no such stage", "root"],
)
def test_a_line_that_hadolint_objects_to_fails(line, rule, tmp_path):
    broken = tmp_path / "Dockerfile"
    broken.write_text((ROOT / "Dockerfile").read_text() + line)

    done = scan("scan_dockerfile", str(broken))

    assert done.returncode == 1
    assert f"dockerfile: {rule} at Dockerfile: {line.splitlines()[-1]}" in done.stderr


# -- licences --------------------------------------------------------------------------------


def test_the_table_names_every_locked_package_once_with_its_licence(tmp_path):
    done = scan("scan_licences", "--table", str(tmp_path / "licences.md"))

    assert done.returncode == 0, done.stderr
    table = (tmp_path / "licences.md").read_text()
    assert "| numpy | " in table
    assert "| yamllint | " in table
    assert "not installed" not in table


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ("License-Expression: AGPL-3.0-only", "AGPL-3.0-only"),
        ("Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
         "GNU Affero General Public License v3"),
        ("License: Ask us", "Ask us"),
        ("Summary: says nothing", "unnamed, file e3b0c44298fc"),  # SHA-256 of nothing
    ],
)  # fmt: skip
def test_a_locked_package_with_another_licence_fails(stated, told, tmp_path):
    version = locked("requirements-serve.lock")["uvicorn"]
    metadata = tmp_path / f"uvicorn-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.4\nName: uvicorn\nVersion: {version}\n{stated}\n")

    done = scan(
        "scan_licences",
        "--table",
        str(tmp_path / "licences.md"),
        environment={"PYTHONPATH": str(tmp_path)},
    )

    assert done.returncode == 1
    assert f"{told} at uvicorn (service): not among the allowed" in done.stderr


# -- bills of materials ----------------------------------------------------------------------


def locked(name: str) -> dict[str, str]:
    """The pins of a lock that belong on this machine, read by packaging and not by our tool."""
    text = re.sub(r"\s*\\\n\s+--hash=\S+", "", (ROOT / name).read_text())
    asked = [Requirement(line) for line in text.splitlines() if "==" in line]
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in asked
        if one.marker is None or one.marker.evaluate()
    }


def bill(name: str) -> Any:
    return json.loads((ROOT / "reports" / "sbom" / f"{name}.cdx.json").read_text())


def test_the_serving_bill_names_exactly_the_locked_serving_packages_with_versions():
    build = {"editables", "hatchling", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}
    expected = {n: v for n, v in locked("requirements-serve.lock").items() if n not in build}

    named = {canonicalize_name(part["name"]): part["version"]
             for part in bill("serving")["components"] if part["name"] != "heartdx"}  # fmt: skip

    assert len(expected) > 40
    assert named == expected


@pytest.mark.parametrize("name", ["serving", "environment"])
def test_a_bill_is_of_this_project_and_says_each_licence_it_knows(name):
    document = bill(name)

    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["name"] == "heartdx"
    assert [part["purl"] for part in document["components"] if not part["purl"].strip()] == []
    licensed = [part for part in document["components"] if part.get("licenses")]
    assert len(licensed) > 0.95 * len(document["components"])


# -- known vulnerabilities -------------------------------------------------------------------


class Database(http.server.BaseHTTPRequestHandler):
    """Answers as a server of the Open Source Vulnerabilities format does, from a table."""

    known: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        flaw = self.known.get(asked["package"]["name"])
        body = json.dumps({"vulns": [flaw]} if flaw else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def flaw(package: str, version: str, mended: str) -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": mended}]}]
    affected = {"package": {"name": package, "ecosystem": "PyPI"}, "versions": [version]}
    return {
        "id": f"PYSEC-0000-{package}",
        "summary": "made up",
        "details": "made up",
        "modified": "2026-01-01T00:00:00Z",
        "published": "2026-01-01T00:00:00Z",
        "affected": [affected | {"ranges": ranges}],
    }


@pytest.fixture
def database() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Database)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def test_locks_without_a_known_vulnerability_pass_once_the_canary_is_reported(
    database, monkeypatch
):
    monkeypatch.setattr(Database, "known", {"django": flaw("django", "2.2", "2.2.2")})

    done = scan("scan_audit", "--osv-url", database)

    assert done.returncode == 0, done.stderr
    for lock in ("requirements.lock", "requirements-serve.lock", "requirements-dev.lock"):
        assert f"{len(locked(lock))} packages of {lock}" in done.stdout


def test_a_vulnerable_locked_package_fails_the_audit_and_names_the_mend(database, monkeypatch):
    version = locked("requirements-serve.lock")["uvicorn"]
    known = {"django": flaw("django", "2.2", "2.2.2"), "uvicorn": flaw("uvicorn", version, "99.1")}
    monkeypatch.setattr(Database, "known", known)

    done = scan("scan_audit", "--osv-url", database)

    assert done.returncode == 1
    assert f"PYSEC-0000-uvicorn at uvicorn {version}: mended in 99.1" in done.stderr


def test_a_database_that_knows_nothing_fails_the_audit(database, monkeypatch):
    monkeypatch.setattr(Database, "known", {})

    done = scan("scan_audit", "--osv-url", database)

    assert done.returncode == 1
    assert "the canary django 2.2 is called sound: this is no database" in done.stderr


def test_an_audit_that_reaches_no_database_fails():
    unreachable = {"HTTPS_PROXY": CLOSED_PORT, "https_proxy": CLOSED_PORT, "NO_PROXY": ""}

    done = scan("scan_audit", environment=unreachable)

    assert done.returncode == 1
    assert "audit: requirements.lock: " in done.stderr
    assert "packages of" not in done.stdout


def test_the_tools_are_the_locked_ones():
    assert Path(shutil.which("betterleaks") or "").parent == ROOT / ".tools/supply/bin"
    assert (ROOT / ".tools/supply/made-from.txt").read_text() == (
        ROOT / "tools/supply.lock.txt"
    ).read_text()
