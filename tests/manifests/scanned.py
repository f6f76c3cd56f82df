"""The scanners do scan: each reports what is broken in a file of each kind.

Called by `make check-policies`, which brings the scanners; its name keeps it out of `make test`.
"""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from manifests_kit import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import scan_policies

PRODUCTION = "k8s/overlays/production"
POD = f"{PRODUCTION}/Deployment-heart-api.yaml"
OPERATOR_PYTHON = ROOT / ".tools" / "scanners" / "bin" / "python"


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> tuple[scan_policies.Scanned, scan_policies.Scanned]:
    """One privileged pod, one Dockerfile for root, one workflow that may write everything."""
    place = tmp_path_factory.mktemp("broken").resolve()
    scan_policies.lay_out(place)
    document = yaml.safe_load((place / POD).read_text())
    box = document["spec"]["template"]["spec"]["containers"][0]
    box["securityContext"] = {"privileged": True}
    (place / POD).write_text(yaml.safe_dump(document))
    image = place / "Dockerfile"
    image.write_text(image.read_text().replace("USER 10001:10001", "USER root"))
    workflow = place / ".github" / "workflows" / "ci.yml"
    text = workflow.read_text()
    assert "\npermissions: {}\n" in text
    workflow.write_text(text.replace("\npermissions: {}\n", "\npermissions: write-all\n"))
    return scan_policies.checkov(place, (PRODUCTION, ".")), scan_policies.trivy(place)


def rules(scanned: scan_policies.Scanned, where: str) -> set[str]:
    return {finding.rule for finding in scanned.findings if finding.where == where}


def test_checkov_reports_a_privileged_pod_a_root_image_and_a_workflow_that_may_write(broken):
    checkov, _ = broken

    assert {"CKV_K8S_16", "CKV_K8S_20", "CKV_K8S_22"} <= rules(checkov, POD)
    assert {"CKV_DOCKER_8"} <= rules(checkov, "Dockerfile")
    assert {"CKV2_GHA_1"} <= rules(checkov, ".github/workflows/ci.yml")


def test_trivy_reports_a_privileged_pod_and_a_root_image(broken):
    _, trivy = broken

    assert {"KSV017", "KSV014"} <= rules(trivy, POD)
    assert {"DS002"} <= rules(trivy, "Dockerfile")


def test_both_looked_at_every_file_that_they_have_rules_for(broken):
    laid_out = [POD, "Dockerfile", ".github/workflows/ci.yml", ".github/workflows/schedule.yml"]

    for scanned in broken:
        assert list(scan_policies.overlooked(laid_out, scanned)) == []


def test_the_examples_of_the_scan_are_right():
    assert doctest.testmod(scan_policies).attempted > 0
    assert doctest.testmod(scan_policies).failed == 0


def judged(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(OPERATOR_PYTHON), str(ROOT / "tools" / "operator_kinds.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


MONITOR = ROOT / "k8s" / "monitoring" / "servicemonitor.yaml"


def test_the_operators_schema_takes_the_monitor():
    assert judged(MONITOR).returncode == 0


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("interval: 15s", "intervall: 15s", "/spec/endpoints/0/intervall: unknown"),
        ("scrapeTimeout: 5s", "scrapeTimeout: soon", "spec/endpoints/0/scrapeTimeout: "),
        ("matchLabels:", "matchLabel:", "/spec/selector/matchLabel: unknown"),
        ("kind: ServiceMonitor", "kind: ServiceMonitor\nspecification: {}", "/specification: unk"),
    ],
)
def test_the_operators_schema_refuses_a_broken_monitor(tmp_path, right, wrong, told):
    text = MONITOR.read_text()
    assert right in text
    (tmp_path / "broken.yaml").write_text(text.replace(right, wrong))

    done = judged(tmp_path / "broken.yaml")

    assert done.returncode == 1
    assert told in done.stderr


def test_a_schema_that_was_asked_about_nothing_is_a_failure():
    assert judged(ROOT / "k8s" / "deployment.yaml").returncode == 1
