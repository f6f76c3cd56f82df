"""The files of ops/prometheus and ops/alertmanager, judged by promtool and amtool.

Each check is also given a file with a fault, which it must find.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from staging import ALERTMANAGER, PROMETHEUS, ROOT, program

TESTS = tuple(sorted(path.name for path in (PROMETHEUS / "tests").glob("*.yaml")))


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program(name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def copied(folder: Path) -> Path:
    return shutil.copytree(PROMETHEUS, folder / "prometheus")


def rewrite(path: Path, old: str, new: str, *, after: str = "") -> None:
    """Change ``old``, from a text on to the next alert; it must be there."""
    text = path.read_text()
    start = text.index(after)
    end = text.find("- alert:", start + 1) if after else len(text)
    assert old in text[start:end]
    path.write_text(text[:start] + text[start:end].replace(old, new) + text[end:])


def alerts() -> list[dict]:
    groups = yaml.safe_load((PROMETHEUS / "rules" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


# -- settings ------------------------------------------------------------------------------------


def test_prometheus_accepts_its_settings_and_rules():
    checked = run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")

    assert checked.returncode == 0, checked.stderr
    assert "2 rule files found" in checked.stdout


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("prometheus.yml", "scrape_interval: 15s", "scrape_interval: 15"),
        ("prometheus.yml", "job_name: heart-api", "job: heart-api"),
        ("rules/recording.yaml", "sum by (job)", "sum by job)"),
        ("rules/alerts.yaml", "for: 1m", "hold: 1m"),
        ("rules/alerts.yaml", "{{ $labels.job }}", "{{ labels.job }}"),
    ],
)
def test_prometheus_refuses_a_fault(tmp_path: Path, file: str, old: str, new: str):
    folder = copied(tmp_path)
    rewrite(folder / file, old, new)

    assert run("promtool", "check", "config", folder / "prometheus.yml").returncode != 0


def test_alertmanager_accepts_its_settings():
    checked = run("amtool", "check-config", ALERTMANAGER)

    assert checked.returncode == 0, checked.stderr
    assert "2 inhibit rules" in checked.stdout
    assert "2 receivers" in checked.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("receiver: page", "receiver: pager"),
        ("equal: [job]", "equals: [job]"),
        ("url: http://127.0.0.1:9099/page", "url: 127.0.0.1"),
    ],
)
def test_alertmanager_refuses_a_fault(tmp_path: Path, old: str, new: str):
    changed = tmp_path / "alertmanager.yml"
    shutil.copy(ALERTMANAGER, changed)
    rewrite(changed, old, new)

    assert run("amtool", "check-config", changed).returncode != 0


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("severity=page", "page"),
        ("severity=ticket", "ticket"),
        ("alertname=another", "ticket"),
    ],
)
def test_a_page_and_a_ticket_go_their_own_way(labels: str, receiver: str):
    routed = run("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", labels)

    assert routed.stdout.strip() == receiver


# -- rules ---------------------------------------------------------------------------------------


def failed(folder: Path, *names: str) -> list[str]:
    """Which of the unit tests fail; two run at a time."""

    def fails(name: str) -> bool:
        return run("promtool", "test", "rules", folder / "tests" / name).returncode != 0

    with ThreadPoolExecutor(2) as at_once:
        return [name for name, bad in zip(names, at_once.map(fails, names), strict=True) if bad]


def test_every_unit_test_of_the_rules_passes():
    assert len(TESTS) >= 6
    assert failed(PROMETHEUS, *TESTS) == []


FAULTS = {
    "one of two instances is enough": (
        "availability.yaml", "HeartApiDown", "sum by (job)", "min by (job)",
    ),
    "no series is no alarm": (
        "availability.yaml", "HeartApiDown", ' or absent(up{job="heart-api"})', "",
    ),
    "one instance without a model is enough": (
        "availability.yaml", "HeartApiNoModel", "max by (job)", "min by (job)",
    ),
    "any refusal counts as overload": (
        "availability.yaml", "HeartApiOverloaded", ',reason="overloaded"', "",
    ),
    "a single overload counts": ("availability.yaml", "HeartApiOverloaded", ">= 10", ">= 1"),
    "one failure at night counts": ("objectives.yaml", "HeartApiErrorBudgetBurn", ">= 10", ">= 1"),
    "the short window is not asked": (
        "objectives.yaml", "HeartApiErrorBudgetBurn", "rate30m > 6", "rate6h > 6",
    ),
    "the budget is smaller": ("objectives-days.yaml", "rate3d > 1", "0.005", "0.001"),
    "two slow at night count": ("objectives.yaml", "HeartApiLatencyBudgetBurn", ">= 10", ">= 1"),
    "a swap that went well counts": (
        "models.yaml", "HeartApiSwapFailed", 'outcome="refused"', 'outcome="switched"',
    ),
    "a model that was counts": ("models.yaml", "HeartApiTwoModels", "== 1)", ">= 0)"),
    "few patients judge a challenger": (
        "shadow.yaml", "HeartApiShadowDisagreement", ">= 200", ">= 100",
    ),
    "what was dropped counts": (
        "shadow.yaml", "HeartApiShadowDisagreement", "same_label|other_label", ".+",
    ),
    "the week before is not asked": (
        "patients.yaml", "HeartApiAbstentionSpike", "- job:heartdx_abst", "- 0 * job:heartdx_abst",
    ),
    "few requests are a spike": ("patients.yaml", "HeartApiRejectionSpike", ">= 50", ">= 10"),
    "strangers count as refused": (
        "patients.yaml", "HeartApiRejectionSpike", "400|413", "401|413",
    ),
    "every difference counts": ("probability.yaml", "HeartApiProbabilityShift", "> 0.1", "> 0"),
    "no standard error": ("probability.yaml", "HeartApiProbabilityShift", "> 4 *", "> 0 *"),
    "only upwards": ("probability.yaml", "HeartApiProbabilityShift", "abs(", "("),
}  # fmt: skip
"""Faults that leave every alert able to fire; the quiet cases and exact values must see them."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rule_with_a_fault_fails_its_unit_test(tmp_path: Path, fault: str):
    test, after, old, new = FAULTS[fault]
    folder = copied(tmp_path)
    begin = f"- alert: {after}" if after.startswith("HeartApi") else after
    rewrite(folder / "rules" / "alerts.yaml", old, new, after=begin)
    assert run("promtool", "check", "config", folder / "prometheus.yml").returncode == 0

    assert failed(folder, test) == [test]


def test_alerts_that_never_fire_fail_every_unit_test(tmp_path: Path):
    folder = copied(tmp_path)
    document = yaml.safe_load((folder / "rules" / "alerts.yaml").read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = f"({rule['expr']}) unless on () vector(1)"
    (folder / "rules" / "alerts.yaml").write_text(yaml.safe_dump(document))

    assert failed(folder, *TESTS) == list(TESTS)


def test_every_alert_says_what_to_do():
    for rule in alerts():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
        assert (ROOT / rule["annotations"]["runbook_url"]).is_file()


def test_every_alert_is_tested_to_fire_and_to_stay_silent():
    cases = [
        case
        for name in TESTS
        for test in yaml.safe_load((PROMETHEUS / "tests" / name).read_text())["tests"]
        for case in test["alert_rule_test"]
    ]

    expected = [
        (case["alertname"], alert["exp_labels"]["severity"], alert["exp_labels"].get("refused"))
        for case in cases
        for alert in case.get("exp_alerts", ())
    ]
    silent = [case["alertname"] for case in cases if not case.get("exp_alerts")]
    for rule in alerts():
        labels = rule["labels"]
        assert (rule["alert"], labels["severity"], labels.get("refused")) in expected
        assert silent.count(rule["alert"]) >= 3, rule["alert"]


def test_the_objectives_page_names_every_alert_with_its_severity_and_delay():
    page = (ROOT / "docs" / "runbooks" / "README.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \| (\w+) \|", page, re.MULTILINE)

    declared = [
        (r["alert"], r["alert"], r["labels"]["severity"], r["for"])
        for r in alerts()
        if r["labels"].get("refused") != "fields"
    ]
    assert sorted(rows) == sorted(declared)
