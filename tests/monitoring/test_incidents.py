"""Incidents staged against real services, watched by a real Prometheus and Alertmanager.

The rules and the Alertmanager's settings are those of ops/, their durations scaled by
``staging.scaled``. All incidents happen side by side, each to services of its own.
"""

from __future__ import annotations

import re

import pytest
import yaml
from courses import Stage
from incidents import HEALTHY, INCIDENTS
from staging import JOBS, PROMETHEUS, scaled


def table(stage: Stage) -> str:
    """Incident, alerts, and seconds from the incident to each step."""
    lines = [f"{'incident':18} {'alert':28} {'fired':>7} {'told':>7} {'mend to all-clear':>18}"]
    for name, course in stage.courses.items():
        fired, told = stage.fired(course.job), stage.told(course.job)
        clear = stage.told(course.job, "resolved", since=course.mended)
        for alert in sorted(fired):
            cells = [
                f"{fired[alert] - course.acted:.1f} s",
                f"{told[alert] - course.acted:.1f} s" if alert in told else "held back",
                f"{clear[alert] - course.mended:.1f} s" if alert in clear else "-",
            ]
            lines.append(f"{name:18} {alert:28} {cells[0]:>7} {cells[1]:>9} {cells[2]:>16}")
    lines.append(f"{HEALTHY:18} {sorted(stage.fired(JOBS + HEALTHY)) or 'none'}")
    return "\n".join(lines)


def test_the_table_of_incidents(stage: Stage, capsys: pytest.CaptureFixture[str]):
    with capsys.disabled():
        print("\n" + table(stage))

    assert len(stage.courses) == len(INCIDENTS)


@pytest.mark.parametrize("name", [incident.name for incident in INCIDENTS])
def test_an_incident_fires_its_alerts_and_no_other(stage: Stage, name: str):
    course = stage.courses[name]

    assert course.failed == ""
    assert course.before == frozenset()
    assert stage.fired(course.job).keys() == course.incident.alerts
    assert stage.told(course.job).keys() == course.must_be_told


def test_ordinary_traffic_beside_all_incidents_fires_nothing(stage: Stage):
    answered = stage.prometheus.ask(
        "query", query=f'sum(heartdx_predictions_total{{job="{JOBS}{HEALTHY}"}})'
    )

    assert float(answered["result"][0]["value"][1]) > 1000
    assert stage.fired(JOBS + HEALTHY) == {}
    assert stage.told(JOBS + HEALTHY) == {}


def test_every_alert_is_fired_by_an_incident():
    groups = yaml.safe_load((PROMETHEUS / "rules" / "alerts.yaml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}

    assert frozenset().union(*(incident.alerts for incident in INCIDENTS)) == alerts


def test_scaling_changes_durations_and_nothing_else():
    text = 'x:ratio_rate5m / rate(y{le="0.1"}[6h] offset 7d) > 14.4 # 5 minutes, 100 ms, a:8000'

    assert scaled(text) == text.replace("[6h]", "[21600ms]").replace("7d", "604800ms")
    assert scaled("for: 1m") == "for: 3000ms"


def test_scaling_keeps_which_duration_is_the_longer():
    durations = ("30s", "1m", "15m", "1h", "2h", "6h", "12h", "1d", "3d", "7d")

    milliseconds = [int(re.sub(r"\D", "", scaled(duration))) for duration in durations]

    assert milliseconds == sorted(milliseconds)
