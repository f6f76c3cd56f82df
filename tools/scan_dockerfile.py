"""Lint the Dockerfile with hadolint; only tools/waivers.toml can silence a finding.

``python tools/scan_dockerfile.py [FILE]``; a comment in the Dockerfile that asks hadolint to look
away is not obeyed, since it says neither why nor until when.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from waivers import ROOT, Finding, verdict


def main(argv: Sequence[str] | None = None) -> int:
    """Lint; print each finding that is not waived; exit 1 when there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "Dockerfile")
    file = parser.parse_args(argv).file
    lines = file.read_text(encoding="utf-8").splitlines()
    done = subprocess.run(
        ["hadolint", "--format", "json", "--no-fail", "--disable-ignore-pragma", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"dockerfile: hadolint failed: {done.stderr.strip()}", file=sys.stderr)
        return 1
    found = [
        Finding("dockerfile", entry["code"], where(lines, entry["line"]), entry["message"])
        for entry in json.loads(done.stdout)
    ]
    return verdict("dockerfile", found, looked_at=f"{len(lines)} lines of {file.name}")


def where(lines: Sequence[str], line: int) -> str:
    """The instruction a finding is about: its text, since its number moves.

    Examples
    --------
    >>> where(["FROM scratch", "RUN  true"], 2)
    'Dockerfile: RUN true'
    """
    return "Dockerfile: " + " ".join(lines[line - 1].split())[:80]


if __name__ == "__main__":
    sys.exit(main())
