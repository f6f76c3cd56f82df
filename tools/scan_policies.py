"""Hold rendered manifests, Dockerfile and workflows against the rules of checkov and trivy.

``ops/ci/supply-tools.sh ops/ci/scanners.sh python tools/scan_policies.py``; only tools/waivers.toml
can silence a finding. Both programs judge offline. Every document lies in a file of its own while
it is scanned, so that a finding says where it is; a file that a scanner should have judged and did
not is a finding itself.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from waivers import ROOT, Finding, verdict

import manifests

SCAN = "policies"
FOLDERS = tuple(name for name in manifests.KUSTOMIZATIONS if name != "k8s/base")
"""The base is scanned as the Minikube overlay has it: unchanged, as a test says."""

WHOLE_FOLDER = {"CKV_K8S_21"}
"""Rules about a choice that all documents of a folder share; one finding says it."""

JUDGED = {
    "checkov": re.compile(r"(Deployment|Job|Pod)-[a-z-]+\.yaml$|Dockerfile$|\.yml$"),
    "trivy": re.compile(r"(Deployment|Job|Pod)-[a-z-]+\.yaml$|Dockerfile$"),
}
"""Files that each scanner has rules for."""


@dataclass(frozen=True)
class Scanned:
    """What a scanner found, and the files it looked at.

    Parameters
    ----------
    scanner : its name.
    findings : what breaks a rule.
    passed : rules that were kept, by file.
    """

    scanner: str
    findings: tuple[Finding, ...]
    passed: dict[str, int]


def main() -> int:
    """Scan; print each finding that is not waived; exit 1 when there is one."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch).resolve()
        try:
            laid_out = lay_out(place)
            both = checkov(place), trivy(place)
        except manifests.ManifestError as refusal:
            print(f"{SCAN}: {refusal}", file=sys.stderr)
            return 1
    found = [finding for one in both for finding in one.findings]
    found += [finding for one in both for finding in overlooked(laid_out, one)]
    passed = sum(sum(one.passed.values()) for one in both)
    return verdict(SCAN, found, looked_at=f"{passed} rules kept in {len(laid_out)} documents")


def lay_out(place: Path) -> list[str]:
    """Write what is to be scanned below a folder; gives the names of the files."""
    for folder in FOLDERS:
        for document in manifests.render(ROOT / folder):
            name = f"{document['kind']}-{document['metadata']['name']}.yaml"
            write(place / folder / name, yaml.safe_dump(document))
    for path in (ROOT / "Dockerfile", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))):
        write(place / path.relative_to(ROOT), _readable(path.read_text(encoding="utf-8")))
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def _readable(text: str) -> str:
    """Without an expression in `cancel-in-progress`, for which checkov passes a workflow over."""
    return re.sub(r"(?m)^(  cancel-in-progress: )\$\{\{.*\}\}$", r"\1true", text)


def write(path: Path, text: str) -> None:
    """A file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def checkov(place: Path, folders: tuple[str, ...] = (*FOLDERS, ".")) -> Scanned:
    """Each folder by itself: a policy of one must not excuse the pods of another."""
    findings: list[Finding] = []
    passed: dict[str, int] = {}
    for folder in folders:
        kinds = ["dockerfile", "github_actions"] if folder == "." else ["kubernetes"]
        command = ["checkov", "--directory", str(place / folder), "--skip-download"]
        for report in _reports(_json([*command, "--output", "json", "--framework", *kinds])):
            for check in report["results"]["failed_checks"]:
                findings.append(_finding(check["check_id"], check, folder, check["check_name"]))
            for check in report["results"].get("passed_checks", []):
                name = _name(check, folder)
                passed[name] = passed.get(name, 0) + 1
    return Scanned("checkov", tuple(findings), passed)


def _reports(answer: Any) -> list[Any]:
    """Checkov gives one report, a list of them, or only counts when there was nothing to scan."""
    listed = answer if isinstance(answer, list) else [answer]
    return [report for report in listed if "results" in report]


def _name(check: Any, folder: str) -> str:
    return str(Path(folder) / str(check["file_path"]).lstrip("/"))


def _finding(rule: str, check: Any, folder: str, detail: str) -> Finding:
    where = folder if rule in WHOLE_FOLDER else _name(check, folder)
    return Finding(SCAN, rule, where, detail)


def trivy(place: Path) -> Scanned:
    """Rules of trivy that come with the program; newer ones would have to be fetched."""
    command = ["trivy", "config", "--skip-check-update", "--quiet", "--format", "json"]
    results = _json([*command, "--include-non-failures", str(place)])["Results"]
    findings, passed = [], {}
    for result in results:
        for check in result.get("Misconfigurations", []):
            if check["Status"] == "FAIL":
                findings.append(Finding(SCAN, check["ID"], result["Target"], check["Title"]))
        passed[result["Target"]] = result["MisconfSummary"]["Successes"]
    return Scanned("trivy", tuple(findings), passed)


def _json(command: list[str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)
    except ValueError as cause:
        told = (done.stderr or done.stdout).strip()[-500:]
        raise manifests.ManifestError(f"{command[0]} failed: {told}") from cause


def overlooked(laid_out: list[str], scanned: Scanned) -> Iterator[Finding]:
    """A finding for each file that should be judged and was not: a scan that scans nothing.

    Examples
    --------
    >>> seen = Scanned("trivy", (), {"Dockerfile": 3, "k8s/Job-a.yaml": 0})
    >>> [f.where for f in overlooked(["Dockerfile", "k8s/Job-a.yaml", "ci.yml"], seen)]
    ['k8s/Job-a.yaml']
    """
    for name in laid_out:
        if JUDGED[scanned.scanner].search(name) and not scanned.passed.get(name):
            yield Finding(SCAN, f"{scanned.scanner}-saw-nothing", name, "no rule was tried")


if __name__ == "__main__":
    sys.exit(main())
