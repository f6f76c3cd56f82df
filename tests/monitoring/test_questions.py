"""Every series and label that a rule or a page asks for exists after real traffic.

The panels of ops/grafana are asked in test_dashboards.py.
"""

from __future__ import annotations

import pytest
from courses import Stage
from incidents import HEALTHY
from questions import Question, of_page, of_rules
from staging import JOBS, ROOT, of_every_job

PAGES = [ROOT / "docs" / "operations.md", *sorted((ROOT / "docs" / "runbooks").glob("*.md"))]
QUESTIONS = [*of_rules(), *(question for page in PAGES for question in of_page(page))]


def unanswered(stage: Stage, question: Question) -> list[str]:
    """What a question selects or names in vain."""
    found: set[str] = set()
    missing = []
    for selector in question.selectors():
        series = stage.prometheus.ask("series", **{"match[]": of_every_job(selector)})
        found |= {label for one in series for label in one}
        if not series:
            missing.append(selector)
    return missing or sorted(question.labels() - found)


def test_there_are_questions_in_rules_and_pages():
    assert len(of_rules()) == 36
    assert len(of_page(PAGES[0])) >= 9


def test_every_series_and_label_that_is_asked_for_exists(stage: Stage):
    found = {q.where + ": " + q.text: unanswered(stage, q) for q in QUESTIONS}

    assert {where: missing for where, missing in found.items() if missing} == {}


def test_every_question_is_one_that_prometheus_answers(stage: Stage):
    for question in QUESTIONS:
        stage.prometheus.ask("query", query=of_every_job(question.text))


def test_every_recorded_series_has_a_number_in_a_healthy_service(stage: Stage):
    recorded = {q.where for q in of_rules() if ":" in q.where}

    kept = stage.prometheus.ask(
        "query",
        query=f'last_over_time({{job="{JOBS}{HEALTHY}",__name__=~".+:.+"}}[10m])',
    )

    values = {one["metric"]["__name__"]: float(one["value"][1]) for one in kept["result"]}
    assert values.keys() == recorded
    assert [name for name, value in values.items() if value != value] == []


@pytest.mark.parametrize(
    ("changed", "missing"),
    [
        ("sum by (job) (rate(api_request_total[5m]))", ["api_request_total{}"]),
        ('rate(api_requests_total{status="200"}[5m])', ['api_requests_total{status="200"}']),
        ('rate(heartdx_shed_total{reason="full"}[5m])', ['heartdx_shed_total{reason="full"}']),
        ("sum by (model) (rate(api_requests_total[5m]))", ["model"]),
        ("up / on (host) group_left (name) heartdx_model_info", ["host"]),
    ],
)
def test_what_does_not_exist_is_seen(stage: Stage, changed: str, missing: list[str]):
    assert unanswered(stage, Question("here", changed)) == missing


def test_a_question_that_is_no_promql_is_seen():
    with pytest.raises(ValueError, match="parenthesis"):
        Question("here", "sum by (job (up)").selectors()
