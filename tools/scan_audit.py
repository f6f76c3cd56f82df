"""Ask for known vulnerabilities of every locked package, and prove that the answer is one.

pip-audit exits 0 after looking at nothing when it cannot reach its database. So every run carries
a canary, a release with well-known vulnerabilities beside the locked packages. The audit counts
only when the canary is reported as vulnerable and each locked package as looked at; a package
that was passed over is a finding. It needs the public package index, which most mirrors are not,
or a server of the Open Source Vulnerabilities format: where neither is reached it fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pins import ROOT, pins
from waivers import Finding, verdict

LOCKS = ("requirements.lock", "requirements-serve.lock", "requirements-dev.lock")
CANARY = ("django", "2.2")
"""Never installed. Its first known vulnerability is CVE-2019-12308; dozens followed."""
CANARY_PIN = """django==2.2 \\
    --hash=sha256:7c3543e4fb070d14e10926189a7fcf42ba919263b7473dceaefce34d54e8a119 \\
    --hash=sha256:a2814bffd1f007805b19194eb0b9a331933b82bd5da1c3ba3d7b7ba16e06dc4b
"""
FINDINGS = 1
"""pip-audit's exit code when it found vulnerabilities, as it must here, and also when it failed."""


class NotAuditedError(Exception):
    """The run looked at less than it should have, so that its silence says nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Audit the locks; exit 1 for a vulnerability without a waiver or an audit without proof."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--osv-url", help="ask this OSV server and not the public package index")
    osv_url = parser.parse_args(argv).osv_url
    source = ["--vulnerability-service", "osv", "--osv-url", osv_url] if osv_url else []
    found: set[Finding] = set()
    try:
        for lock in LOCKS:
            found |= set(audited(run_pip_audit(lock, source), pins(lock)))
    except NotAuditedError as error:
        print(f"audit: {lock}: {error}", file=sys.stderr)
        return 1
    looked_at = f"{', '.join(f'{len(pins(lock))} packages of {lock}' for lock in LOCKS)}"
    return verdict("audit", found, looked_at=looked_at)


def run_pip_audit(lock: str, source: Sequence[str]) -> dict[str, Any]:
    """pip-audit's report on one lock and the canary.

    Raises
    ------
    NotAuditedError : it wrote no report, or called the run clean, canary and all.
    """
    with tempfile.TemporaryDirectory() as scratch:
        canary, report = Path(scratch) / "canary.txt", Path(scratch) / "report.json"
        canary.write_text(CANARY_PIN)
        done = subprocess.run(
            ["pip-audit", "--requirement", lock, "--requirement", str(canary), "--disable-pip",
             "--require-hashes", "--progress-spinner", "off", "--desc", "off", "--aliases", "off",
             "--format", "json", "--output", str(report), *source],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not report.exists():
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise NotAuditedError(f"pip-audit wrote no report: {last[0]}")
        document: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    require_canary(document)
    if done.returncode != FINDINGS:
        raise NotAuditedError(f"pip-audit exits {done.returncode} with a vulnerable canary")
    return document


def require_canary(document: Mapping[str, Any]) -> None:
    """Take a report only when it names the canary's vulnerabilities.

    Raises
    ------
    NotAuditedError : the canary is missing, was passed over, or is called sound.
    """
    name, version = CANARY
    entries = [entry for entry in document["dependencies"] if entry["name"] == name]
    if not entries:
        raise NotAuditedError(f"the canary {name} {version} is not in the report")
    if "skip_reason" in entries[0]:
        raise NotAuditedError(
            f"the database was not reached: the canary {name} {version} was passed over; run this "
            "where the public package index answers"
        )
    if entries[0]["version"] != version or not entries[0]["vulns"]:
        raise NotAuditedError(f"the canary {name} {version} is called sound: this is no database")


def audited(document: Mapping[str, Any], expected: Mapping[str, str]) -> list[Finding]:
    """The vulnerabilities of a report, after checking that it covers every locked package.

    Parameters
    ----------
    document : pip-audit's JSON, its canary included
    expected : name to version of each package that the lock asks for here

    Returns
    -------
    list of Finding : one for each vulnerability, and one for each package passed over

    Raises
    ------
    NotAuditedError : the canary is not vulnerable, or packages are missing, doubled or of another
        version.
    """
    require_canary(document)
    entries = [entry for entry in document["dependencies"] if entry["name"] != CANARY[0]]
    names = [entry["name"] for entry in entries]
    wrong = {*expected} ^ {*names}
    wrong |= {e["name"] for e in entries if e.get("version", expected.get(e["name"]))
              != expected.get(e["name"])}  # fmt: skip
    if wrong or len(names) != len(expected):
        told = ", ".join(sorted(wrong)[:5])
        raise NotAuditedError(
            f"{len(names)} packages in the report, {len(expected)} in the lock; differing: {told}"
        )
    found = []
    for entry in entries:
        where = f"{entry['name']} {expected[entry['name']]}"
        if "skip_reason" in entry:
            found.append(Finding("audit", "not audited", where, entry["skip_reason"]))
        for flaw in entry.get("vulns", ()):
            mend = ", ".join(flaw["fix_versions"]) or "no release"
            found.append(Finding("audit", flaw["id"], where, f"mended in {mend}"))
    return found


if __name__ == "__main__":
    sys.exit(main())
