"""Look for secrets in every commit of the history and in every file git would take.

``python tools/scan_secrets.py [FOLDER]`` runs betterleaks over the repository in FOLDER (this one
when none is named). A mark in the code cannot silence a finding: only tools/waivers.toml can,
for one value at one path. No secret is printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from waivers import ROOT, Finding, verdict

OPTIONS = ["--redact", "--no-banner", "--no-color", "--silent", "--no-allow-signatures"]
FOUND = 1
"""betterleaks' exit code when it found something; any other than this and 0 is a failure."""


class ScanError(Exception):
    """The scan did not look at all it should have looked at."""


def main(argv: Sequence[str] | None = None) -> int:
    """Scan; print each finding that is not waived; exit 1 when there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT)
    folder = parser.parse_args(argv).folder
    try:
        history = scan_history(folder)
        tree, files = scan_tree(folder)
    except ScanError as error:
        print(f"secrets: {error}", file=sys.stderr)
        return 1
    commits = git(folder, "rev-list", "--all", "--count").strip()
    looked_at = f"{commits} commits and {files} files"
    return verdict("secrets", [*found_in(history), *found_in(tree)], looked_at=looked_at)


def scan_history(folder: Path) -> dict[str, Any]:
    """Betterleaks' report on every commit of every branch.

    Raises
    ------
    ScanError : the folder is no repository, or its history was cut when it was cloned.
    """
    if git(folder, "rev-parse", "--is-shallow-repository").strip() != "false":
        raise ScanError(f"{folder}: its history was cut; run: git fetch --unshallow")
    return betterleaks("git", str(folder), cwd=folder)


def scan_tree(folder: Path) -> tuple[dict[str, Any], int]:
    """Betterleaks' report on the files as they are now, committed or not, and how many."""
    listed = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = [name for name in listed.split("\0") if name and (folder / name).is_file()]
    with tempfile.TemporaryDirectory() as copy:
        for name in names:
            (Path(copy) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, Path(copy) / name)
        return betterleaks("fs", ".", cwd=Path(copy)), len(names)


def betterleaks(*arguments: str, cwd: Path) -> dict[str, Any]:
    """A report of betterleaks.

    Raises
    ------
    ScanError : it failed, stopped early, or looked at nothing.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        done = subprocess.run(
            ["betterleaks", *arguments, *OPTIONS, "--output", str(report)],
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, FOUND):
            raise ScanError(f"betterleaks failed: {done.stderr.strip()[-500:]}")
        document: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    scan = document["scan"]
    if scan["state"] != "complete" or not scan["bytes_scanned"]:
        raise ScanError(f"betterleaks {arguments[0]} did not finish: {scan['state']}")
    return document


def found_in(document: dict[str, Any]) -> Iterator[Finding]:
    """The findings of a report; ``where`` ends in the beginning of the value's SHA-256."""
    for entry in document["findings"] or []:
        place = entry["location"]
        path = place["path"].removeprefix("./")
        commit = entry["attributes"].get("git.sha", "")[:10]
        yield Finding(
            scan="secrets",
            rule=entry["rule_id"],
            where=f"{path}#{entry['match']['fingerprint'][:12]}",
            detail=f"line {place['start_line']}{' of commit ' * bool(commit)}{commit}; if it is "
            "real, revoke it first, then remove it",
        )


def git(folder: Path, *arguments: str) -> str:
    """What git says.

    Raises
    ------
    ScanError : it fails, as in a folder that is no repository.
    """
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ScanError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
