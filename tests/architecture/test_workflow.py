"""The workflow runs make targets only, on pinned actions, with nothing that cannot fail."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / ".github" / "workflows" / "ci.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = [ROOT / ".ci" / "run", ROOT / "Makefile", *sorted((ROOT / "ops" / "ci").glob("*.sh"))]
PINNED = {
    "actions/checkout": "3d3c42e5aac5ba805825da76410c181273ba90b1",
    "actions/setup-python": "5fda3b95a4ea91299a34e894583c3862153e4b97",
    "actions/upload-artifact": "bbbca2ddaa5d8feaa63e36b76fdaad77386f024f",
}


def workflow(path: Path) -> Any:
    """The workflow; YAML 1.1 reads its key ``on`` as True."""
    return yaml.safe_load(path.read_text())


def steps(path: Path) -> list[Any]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))


def test_there_is_a_workflow_for_every_push_and_pull_request():
    events = workflow(CI)[True]

    assert set(events) >= {"push", "pull_request"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_every_action_is_pinned_by_a_known_commit_with_its_version(path):
    uses = re.findall(r"uses: (\S+)(.*)$", path.read_text(), re.M)

    assert len(uses) == sum("uses" in step for step in steps(path))
    for reference, comment in uses:
        action, _, commit = reference.partition("@")
        assert PINNED[action] == commit
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_every_run_step_is_one_make_target_that_exists(path):
    commands = [step["run"] for step in steps(path) if "run" in step]

    assert commands
    for command in commands:
        assert re.fullmatch(r"make [a-z-]+", command), command
        assert command.split()[1] in targets(), command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_job_has_a_time_limit_and_the_least_permissions(path):
    document = workflow(path)

    assert document["permissions"] == {}
    for job in document["jobs"].values():
        assert job["timeout-minutes"] <= 60
        assert job["permissions"] == {"contents": "read"}
    assert document["concurrency"]["group"]


@pytest.mark.parametrize("path", [*WORKFLOWS, *SCRIPTS], ids=lambda p: p.name)
def test_no_gate_is_soft(path):
    soft = r"\|\| *true|\|\| *:(\s|$)|continue-on-error|--exit-zero|^\s*-@?\$|^\t-|set \+e"

    assert not re.findall(soft, path.read_text(), re.M)


def test_the_matrix_is_the_pythons_that_pyproject_declares():
    matrix = workflow(CI)["jobs"]["test"]["strategy"]["matrix"]
    declared = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(), re.M)

    assert matrix["python"] == declared


@pytest.mark.parametrize(
    ("job", "paths"),
    [
        ("test", ["models", "reports", "mlruns", "coverage"]),
        ("image", ["reports/sbom"]),
        ("supply", ["reports/sbom", "reports/licences.md"]),
    ],
)
def test_what_a_job_makes_is_uploaded_and_must_be_there(job, paths):
    (upload,) = (
        step["with"]
        for step in workflow(CI)["jobs"][job]["steps"]
        if step.get("uses", "").startswith("actions/upload-artifact")
    )

    assert upload["path"].split() == paths
    assert upload["if-no-files-found"] == "error"


def test_every_push_runs_tests_image_manifests_monitoring_and_supply_chain():
    called = {
        name: [step["run"].split()[1] for step in job["steps"] if "run" in step]
        for name, job in workflow(CI)["jobs"].items()
    }

    assert called == {
        "test": ["check", "test", "test-speed", "pipeline"],
        "image": ["image", "test-image", "sbom-image"],
        "manifests": ["check-manifests", "check-policies"],
        "monitoring": ["test-monitoring"],
        "supply": ["check-supply"],
    }


def test_every_night_runs_the_full_evaluation_the_newest_dependencies_and_the_audit():
    nightly = ROOT / ".github" / "workflows" / "schedule.yml"
    called = [step["run"] for step in steps(nightly) if "run" in step]

    assert workflow(nightly)[True]["schedule"]
    assert called == ["make check-evidence", "make test-newest", "make audit"]


def test_the_tests_in_ci_measure_coverage_against_a_floor():
    makefile = (ROOT / "Makefile").read_text()

    assert workflow(CI)["jobs"]["test"]["env"]["COVERAGE"] == "1"
    assert "step test COVERAGE=1" in (ROOT / ".ci" / "run").read_text()
    assert "--cov-fail-under=$(COVERAGE_FLOOR)" in makefile
    assert int(re.search(r"^COVERAGE_FLOOR := (\d+)$", makefile, re.M)[1]) >= 80


def test_uv_keeps_its_packages_where_setup_python_keeps_pips_and_by_the_locks():
    environment = workflow(CI)["env"]
    asked = [step["with"] for step in steps(CI) if "setup-python" in step.get("uses", "")]

    assert environment["UV_CACHE_DIR"].startswith(environment["PIP_CACHE_DIR"] + "/")
    assert asked
    for options in asked:
        assert options["cache"] == "pip"
        keys = [path for key in options["cache-dependency-path"].split() for path in ROOT.glob(key)]
        assert {path.name for path in keys} >= {"requirements-dev.lock", "supply.lock.txt"}


def test_the_history_is_fetched_where_it_is_scanned_for_secrets():
    checkout = workflow(CI)["jobs"]["supply"]["steps"][0]

    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"] == {"persist-credentials": False, "fetch-depth": 0}


def test_every_target_that_help_lists_exists_and_says_what_it_does():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(" ".join(re.findall(r"^\.PHONY: (.+)$", makefile, re.M)).split())
    helped = set(re.findall(r"^([a-z][a-z-]*):.*## \S", makefile, re.M))
    runbook = {
        "help",
        "setup",
        "setup-dev",
        "pipeline",
        "data",
        "eda",
        "train",
        "serve",
        "mlflow",
        "test",
        "check",
        "docs",
        "lock",
        "clean",
        "image",
        "test-image",
        "test-speed",
        "bench",
        "soak",
        "test-workflow",
        "test-newest",
        "sbom",
        "sbom-image",
        "licences",
        "secrets",
        "audit",
    }

    assert helped >= runbook
    assert {name for name in phony if not name.startswith("check-")} == helped
