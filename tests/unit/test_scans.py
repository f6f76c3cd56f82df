"""What a scan concludes from what a tool reported: findings, waivers, and proof that it looked.

The reports have the shape pip-audit 2.10 writes; the tools themselves run in tests/supply.
"""

from __future__ import annotations

import datetime
import doctest
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))
scan_audit, scan_licences, sbom, waivers, pins, scan_dockerfile = (
    importlib.import_module(name)
    for name in ("scan_audit", "scan_licences", "sbom", "waivers", "pins", "scan_dockerfile")
)

LOCKED = {"numpy": "2.4.0", "uvicorn": "0.50.0"}
VULNERABLE = {
    "name": "django",
    "version": "2.2",
    "vulns": [{"id": "PYSEC-2019-79", "fix_versions": ["1.11.21", "2.1.9", "2.2.2"]}],
}
SOUND = [{"name": name, "version": version, "vulns": []} for name, version in LOCKED.items()]
TODAY = datetime.date(2026, 11, 25)


def report(*dependencies: Any) -> dict[str, Any]:
    return {"dependencies": list(dependencies), "fixes": []}


def passed_over(name: str, version: str) -> dict[str, str]:
    """What pip-audit writes for a package its database did not answer for."""
    reason = f"Dependency not found on PyPI and could not be audited: {name} ({version})"
    return {"name": name, "skip_reason": reason}


@pytest.mark.parametrize("name", ["pins", "sbom", "scan_dockerfile", "scan_licences", "waivers"])
def test_the_examples_in_the_tools_run(name):
    done = doctest.testmod(importlib.import_module(name))

    assert done.attempted
    assert not done.failed


def test_a_report_on_every_locked_package_with_a_vulnerable_canary_is_an_audit():
    assert scan_audit.audited(report(*SOUND, VULNERABLE), LOCKED) == []


def test_a_vulnerable_package_is_a_finding_that_names_its_mend():
    flaw = {"id": "PYSEC-2027-1", "fix_versions": ["2.4.1", "2.5.0"]}
    numpy = {"name": "numpy", "version": "2.4.0", "vulns": [flaw]}

    found = scan_audit.audited(report(numpy, SOUND[1], VULNERABLE), LOCKED)

    assert found == [
        waivers.Finding("audit", "PYSEC-2027-1", "numpy 2.4.0", "mended in 2.4.1, 2.5.0")
    ]


def test_a_package_that_was_passed_over_is_a_finding():
    found = scan_audit.audited(
        report(SOUND[0], passed_over("uvicorn", "0.50.0"), VULNERABLE), LOCKED
    )

    assert [(f.rule, f.where) for f in found] == [("not audited", "uvicorn 0.50.0")]


@pytest.mark.parametrize(
    ("dependencies", "told"),
    [
        ([], "the canary django 2.2 is not in the report"),
        (SOUND, "the canary django 2.2 is not in the report"),
        (
            [*(passed_over(*pin) for pin in LOCKED.items()), passed_over("django", "2.2")],
            "the database was not reached",
        ),
        ([*SOUND, VULNERABLE | {"vulns": []}], "called sound"),
        ([*SOUND, VULNERABLE | {"version": "5.2"}], "called sound"),
        ([VULNERABLE], "0 packages in the report, 2 in the lock; differing: numpy, uvicorn"),
        ([SOUND[0], VULNERABLE], "1 packages in the report, 2 in the lock; differing: uvicorn"),
        ([*SOUND, SOUND[0], VULNERABLE], "3 packages in the report, 2 in the lock"),
        (
            [SOUND[0], SOUND[1] | {"version": "0.49.0"}, VULNERABLE],
            "2 packages in the report, 2 in the lock; differing: uvicorn",
        ),
        ([*SOUND, SOUND[0] | {"name": "left"}, VULNERABLE], "differing: left"),
    ],
    ids=[
        "empty",
        "no canary",
        "offline",
        "canary sound",
        "another canary",
        "canary alone",
        "one missing",
        "one twice",
        "another version",
        "one too many",
    ],
)
def test_a_report_that_proves_nothing_is_refused(dependencies, told):
    with pytest.raises(scan_audit.NotAuditedError, match=told):
        scan_audit.audited(report(*dependencies), LOCKED)


def test_the_canary_is_in_no_lock():
    locked = pins.pins(*scan_audit.LOCKS)

    assert len(locked) > 100
    assert scan_audit.CANARY[0] not in locked
    assert scan_audit.CANARY_PIN.startswith("{}=={} ".format(*scan_audit.CANARY))


FOUND = waivers.Finding("secrets", "generic-password", "tests/kit.py#0123456789ab", "line 3")


def waiver(**changes: Any) -> str:
    """A waivers.toml with one waiver of ``FOUND``."""
    fields = {
        "scan": '"secrets"',
        "rule": '"generic-password"',
        "where": '"tests/kit.py#0123456789ab"',
        "reason": '"An invented password that a test needs to be there."',
        "since": "2026-11-01",
        "until": "2027-05-01",
    }
    lines = [f"{name} = {value}" for name, value in (fields | changes).items() if value]
    return "[[waiver]]\n" + "\n".join(lines) + "\n"


def read(tmp_path: Path, text: str) -> list[Any]:
    (tmp_path / "waivers.toml").write_text(text)
    return waivers.read_waivers("secrets", tmp_path / "waivers.toml")


def test_a_waived_finding_stands_until_its_day_and_fails_the_scan_after_it(tmp_path):
    kept = read(tmp_path, waiver(until="2026-11-25"))

    assert waivers.faults([FOUND], kept, today=TODAY) == []
    assert waivers.faults([FOUND], kept, today=TODAY + datetime.timedelta(days=1)) == [
        "generic-password at tests/kit.py#0123456789ab: its waiver ended on 2026-11-25"
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": '"aws-key"'},
        {"where": '"tests/kit.py#0123456789ac"'},
        {"where": '"src/kit.py#0123456789ab"'},
        {"scan": '"dockerfile"'},
    ],
)
def test_a_waiver_of_something_else_covers_nothing(changes, tmp_path):
    told = waivers.faults([FOUND], read(tmp_path, waiver(**changes)), today=TODAY)

    assert told[0] == "generic-password at tests/kit.py#0123456789ab: line 3"


def test_a_waiver_whose_finding_is_gone_must_go(tmp_path):
    (told,) = waivers.faults([], read(tmp_path, waiver()), today=TODAY)

    assert told.endswith("waived but no longer found; remove the waiver")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"until": "2027-12-01"}, "within a year"),
        ({"until": "2026-10-01"}, "end after it begins"),
        ({"until": '"some day"'}, "are dates"),
        ({"until": ""}, "expected exactly"),
        ({"reason": '"fine"'}, "too short"),
        ({"reasons": '"more than one"'}, "expected exactly"),
    ],
)
def test_a_waiver_without_reason_or_end_is_refused(changes, told, tmp_path):
    with pytest.raises(waivers.WaiverError, match=told):
        read(tmp_path, waiver(**changes))


def test_a_copyleft_licence_is_a_finding_and_a_waiver_for_tests_covers_no_service():
    packages = [
        scan_licences.Package("yamllint", "1.38.0", "GPL-3.0-or-later", used_by)
        for used_by in ("tests", "service")
    ]

    tests, service = scan_licences.findings(packages, frozenset({"MIT"}))

    assert tests.rule == service.rule == "GPL-3.0-or-later"
    assert (tests.where, service.where) == ("yamllint (tests)", "yamllint (service)")


def test_a_locked_package_that_is_not_installed_so_has_no_licence_to_check():
    gone = scan_licences.Package("numpy", "2.4.0", "", "service")

    (found,) = scan_licences.findings([gone], frozenset({"MIT"}))

    assert (found.rule, found.where) == ("not installed", "numpy (service)")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT AND ISC", True),
        ("(GPL-3.0-only OR MIT) AND ISC", True),
        ("(GPL-3.0-only OR MIT) AND (GPL-3.0-only OR (ISC AND AGPL-3.0-only))", False),
        ("MIT WITH Some-exception", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0 OR ISC", True),
        ("MIT/GPL", False),
        ("", False),
    ],
)
def test_an_spdx_expression_is_allowed_when_allowed_licences_meet_it(expression, expected):
    assert scan_licences.is_allowed(expression, frozenset({"MIT", "ISC"})) is expected


def test_a_bill_that_lacks_or_changes_one_package_fails(capsys):
    parts = [{"name": n, "version": v, "purl": f"pkg:pypi/{n}@{v}"} for n, v in LOCKED.items()]
    base = {"name": "aquasecurity:trivy:FilePath", "value": "usr/local/lib/pip/METADATA"}
    parts += [
        {"name": "pip", "version": "26.0", "purl": "pkg:pypi/pip@26.0", "properties": [base]},
        {"name": "heartdx", "version": "0.1.0", "purl": "pkg:pypi/heartdx@0.1.0"},
        {"name": "libssl3", "version": "3.0", "purl": "pkg:deb/debian/libssl3@3.0"},
    ]

    whole = sbom.judge("image", {"components": parts}, LOCKED)
    lacking = sbom.judge("image", {"components": parts[1:]}, LOCKED)
    older = sbom.judge("image", {"components": [*parts[:-1], {**parts[0], "version": "1"}]}, LOCKED)

    assert (whole, lacking, older) == (0, 1, 1)
    assert "numpy: missing, locked is 2.4.0" in capsys.readouterr().err


def test_what_the_image_carries_is_the_serving_lock_without_the_build_backend():
    left_out = pins.pins("requirements-serve.lock").keys() - pins.serving().keys()

    assert {"hatchling", "editables"} <= left_out
    assert {"fastapi", "uvicorn", "numpy", "onnxruntime"} <= pins.serving().keys()
