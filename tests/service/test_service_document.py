"""The OpenAPI document is true of the service, and its page needs no other host."""

import re
from collections import Counter

import jsonschema
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished
from service_kit import PATIENT
from starlette.testclient import TestClient

from heartdx.contract import ATTRIBUTES, NAMES
from heartdx.serve import create_app, problems
from heartdx.settings import Settings


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


def test_the_document_names_every_door(document):
    assert {path: set(operations) for path, operations in document["paths"].items()} == {
        "/predict": {"post"},
        "/v1/predict": {"post"},
        "/v1/predict/batch": {"post"},
        "/v1/model": {"get"},
        "/v1/schema": {"get"},
        "/v2": {"get"},
        "/v2/health/live": {"get"},
        "/v2/health/ready": {"get"},
        **{
            f"/v2/models/{{model_name}}{version}{rest}": {"post" if rest == "/infer" else "get"}
            for version in ("", "/versions/{model_version}")
            for rest in ("", "/ready", "/infer")
        },
        "/invocations": {"post"},
        "/ping": {"get"},
        "/version": {"get"},
        "/health": {"get"},
        "/livez": {"get"},
        "/readyz": {"get"},
        "/metrics": {"get"},
    }


def test_every_attribute_stands_in_it_with_label_unit_range_and_codes(document):
    patient = document["components"]["schemas"]["Patient"]

    assert [n for n in patient["properties"] if n != "coding"] == list(NAMES)
    assert patient["required"] == ["age", "sex", "cp"]
    for attribute in ATTRIBUTES:
        field = patient["properties"][attribute.name]
        assert field["title"] == attribute.label
        assert field.get("x-unit", "") == attribute.unit
        assert attribute.expected in field["description"]
        if attribute.plausible:
            number = field.get("anyOf", [field])[0]
            assert (number["minimum"], number["maximum"]) == attribute.plausible
        else:
            names = {c.name for c in attribute.codes if not c.name.isdigit()}
            assert {*attribute.code_values, *names} <= set(field["enum"])


def test_every_problem_has_its_status_in_the_document(document):
    answers = document["paths"]["/predict"]["post"]["responses"]

    # no path or method of the document gives them, no Accept, and no other port
    unreachable = {404, 405, 406, 409}
    assert {int(s) for s in answers} - {200} == set(problems.KINDS.values()) - unreachable
    for status, answer in answers.items():
        media = "application/json" if status == "200" else problems.MEDIA_TYPE
        assert list(answer["content"]) == [media]


def validator(document, name):
    return jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    )


@pytest.mark.parametrize("body", [PATIENT, {"records": [PATIENT]}, {"age": 5}, {"records": []}])
def test_the_schema_accepts_what_the_service_answers(document, client, body):
    answer = client.post("/predict", json=body)

    assert validator(document, "PredictRequest").is_valid(body) == (answer.status_code == 200)
    assert validator(document, "Problem").is_valid(answer.json()) == (answer.status_code == 422)


def test_the_page_asks_no_other_host(client):
    page = client.get("/docs").text

    links = re.findall(r"(?:src|href|url)\s*[=:]\s*['\"]([^'\"]+)", page)
    assert set(links) == {
        "docs/assets/swagger-ui.css",
        "docs/assets/favicon.png",
        "docs/assets/swagger-ui-bundle.js",
        "openapi.json",
    }
    assert "//" not in re.sub(r"^\s*//.*$", "", page, flags=re.MULTILINE)
    assert '"validatorUrl": null' in page
    for link in links:
        assert client.get("/" + link).status_code == 200


# -- schemathesis ----------------------------------------------------------------------------

FUZZ = {
    "seed": 1,
    "cache": {"enabled": False},
    "continue-on-failure": True,
    # A JSON schema cannot say that data fit their shape, or columns each other's length.
    "operations": [
        {
            "include-path-regex": "^/(invocations|v1/predict/batch|v2/models/.*infer)",
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    ],
    "generation": {"deterministic": True, "max-examples": 300, "database": "none"},
}


def test_whatever_comes_the_answer_is_documented_and_no_5xx(models_dir):
    """All phases, all checks, also that what the schema accepts is answered and nothing else."""
    app = create_app(Settings(models_dir=models_dir, max_records=8, log_level="ERROR"))
    config = SchemathesisConfig.from_dict(FUZZ)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)

    with TestClient(app):
        happened = list(from_schema(schema).execute())

    scenarios = [event for event in happened if isinstance(event, ScenarioFinished)]
    answers = Counter(status for event in scenarios for status in statuses(event))
    assert not [event for event in happened if isinstance(event, NonFatalError | FatalError)]
    assert not [failure for event in scenarios for failure in failures(event)]
    assert answers[200] > 600
    assert answers[422] > 400
    assert set(answers) == {200, 400, 404, 405, 415, 422}
    assert answers.total() > 3_000


def statuses(event: ScenarioFinished) -> list[int]:
    seen = event.recorder.interactions.values()
    return [i.response.status_code for i in seen if i.response is not None]


def failures(event: ScenarioFinished) -> list[tuple]:
    return [
        (
            event.label,
            node.name,
            node.failure_info.failure.message,
            event.recorder.cases[case].value,
        )
        for case, nodes in event.recorder.checks.items()
        for node in nodes
        if node.failure_info is not None
    ]
