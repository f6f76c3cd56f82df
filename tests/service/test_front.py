"""The hot path answers as the routes do, and takes nothing that the routes would refuse."""

import json

import pytest
import tiny_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from service_kit import PATIENT, started

from heartdx.contract import ATTRIBUTES, NAMES
from heartdx.records import ALWAYS_REQUIRED
from heartdx.serve.front import JSON_TYPES
from heartdx.settings import Settings

ROUTED = "road=routes"
"""A query that the hot path does not know and the routes ignore."""
IDS = ("prediction_id", "request_id")


@pytest.fixture(scope="module")
def service(models_dir):
    with started(Settings(models_dir=models_dir, max_body_bytes=5_000)) as client:
        yield client


def answered_hot(client, path="/predict"):
    return client.app.counts.row[client.app.counts.places.answered[path]]


def on_both_roads(client, body, *, path="/predict", detail="standard", headers=None):
    """The answers of the hot path and of the route to the same bytes."""
    sent = {"content-type": "application/json"} | (headers or {})
    query = f"detail={detail}"
    return (
        client.post(f"{path}?{query}", content=body, headers=sent),
        client.post(f"{path}?{query}&{ROUTED}", content=body, headers=sent),
    )


def without_ids(answer):
    return {name: value for name, value in answer.json().items() if name not in IDS}


def alike(one, other):
    """The same, numbers within rounding."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-12, abs=1e-12)
    return one == other


def numbers(attribute):
    """What a client may send for an attribute in plain numbers."""
    if attribute.plausible is None:
        known = st.sampled_from(attribute.code_values)
    else:
        low, high = attribute.plausible
        known = st.floats(low, high) | st.integers(int(low), int(high))
    return known if attribute.name in ALWAYS_REQUIRED else known | st.none()


PATIENTS = st.fixed_dictionaries(
    {a.name: numbers(a) for a in ATTRIBUTES if a.name in ALWAYS_REQUIRED},
    optional={a.name: numbers(a) for a in ATTRIBUTES if a.name not in ALWAYS_REQUIRED},
)


@settings(max_examples=300, deadline=None)
@given(patient=PATIENTS, detail=st.sampled_from(["none", "standard", "full"]))
def test_a_patient_in_plain_numbers_is_answered_alike_on_both_roads(service, patient, detail):
    before = answered_hot(service)

    hot, routed = on_both_roads(service, json.dumps(patient), detail=detail)

    assert answered_hot(service) == before + 1
    assert hot.status_code == routed.status_code == 200
    assert alike(without_ids(hot), without_ids(routed))
    assert set(hot.headers) == set(routed.headers)


ODD_NUMBERS = st.sampled_from(
    [-9, 0, 1, 2, 3, 1.0, 2.0, 4.0, 1e400, -1e-400, 10**25, True, False, "1", "male", [], {}, 63.5]
)


@settings(max_examples=300, deadline=None)
@given(
    patient=st.dictionaries(st.sampled_from([*NAMES, "coding", "records", "x"]), ODD_NUMBERS),
    valid=PATIENTS,
)
def test_whatever_is_sent_both_roads_say_the_same(service, patient, valid):
    hot, routed = on_both_roads(service, json.dumps({**valid, **patient}))

    assert hot.status_code == routed.status_code
    assert alike(without_ids(hot), without_ids(routed))


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_refused_alike_on_both_roads(service, body):
    hot, routed = on_both_roads(service, body)

    assert (hot.status_code, without_ids(hot)) == (routed.status_code, without_ids(routed))


ONE = json.dumps(PATIENT)


@pytest.mark.parametrize(
    "body",
    [
        ONE[:-1] + ', "age": 61}',
        ONE[:-1] + ', "a\\u0067e": 61}',
        ONE[:-1] + ', "chol": null}',
        ONE.replace("61", "NaN"),
        ONE.replace("61", "061"),
        ONE.replace("61", "+61"),
        ONE.replace("61", "0x3d"),
        ONE.replace("61", "61."),
        "\ufeff" + ONE,
        ONE + ONE,
        ONE + " x",
        ONE.replace("}", ",}"),
        ONE.replace('"', "'"),
        "[" * 5_000,
        " " * 5_001 + ONE,
        "",
    ],
    ids=lambda body: repr(body)[:40],
)
def test_what_strict_json_is_not_is_refused_alike_on_both_roads(service, body):
    hot, routed = on_both_roads(service, body.encode())

    assert 400 <= hot.status_code < 500
    assert (hot.status_code, without_ids(hot)) == (routed.status_code, without_ids(routed))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "Application/JSON"}, 200),
    ],
)
def test_other_headers_are_left_to_the_routes(service, headers, status):
    before = answered_hot(service)

    hot, routed = on_both_roads(service, ONE, headers=headers)

    assert hot.status_code == routed.status_code == status
    assert answered_hot(service) == before


@pytest.mark.parametrize("media", sorted(JSON_TYPES))
@pytest.mark.parametrize("path", ["/predict", "/v1/predict"])
def test_plain_requests_take_the_hot_path(service, path, media):
    before = answered_hot(service, path)

    answer = service.post(path, content=ONE, headers={"content-type": media.decode()})

    assert answer.status_code == 200
    assert answered_hot(service, path) == before + 1


def test_a_fit_request_id_is_kept_and_another_replaced(service):
    kept = service.post("/predict", json=PATIENT, headers={"X-Request-ID": "ward-7.b"})
    replaced = service.post("/predict", json=PATIENT, headers={"X-Request-ID": "ward 7"})

    assert kept.json()["request_id"] == kept.headers["X-Request-ID"] == "ward-7.b"
    assert replaced.json()["request_id"] == replaced.headers["X-Request-ID"] != "ward 7"


def test_a_request_id_is_not_the_next_requests_on_the_same_connection(service):
    sent = [{"X-Request-ID": "ward-1"}, {"X-Request-ID": "ward-2"}, {}, {}]

    told = [
        service.post("/predict", json=PATIENT, headers=headers).json()["request_id"]
        for headers in sent
    ]

    assert told[:2] == ["ward-1", "ward-2"]
    assert len(set(told)) == 4


def test_every_answer_has_a_prediction_id_of_its_own(service):
    asked = [(path, q) for path in ("/predict", "/v1/predict") for q in ("", f"?{ROUTED}")] * 5

    answers = [service.post(path + query, json=PATIENT).json() for path, query in asked]

    assert len({answer["prediction_id"] for answer in answers}) == len(asked)


def test_without_a_model_the_hot_path_is_closed(bare_client):
    answer = bare_client.post("/predict", json=PATIENT)

    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:heartdx:problem:no-model"


def test_a_body_in_parts_is_answered_by_the_route(service):
    before = answered_hot(service)
    parts = [ONE[:10].encode(), ONE[10:].encode()]
    messages = [
        {"type": "http.request", "body": part, "more_body": part is parts[0]} for part in parts
    ]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    service.portal.call(service.app, scope, receive, send)

    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"])["panel"] == "exercise"
    assert answered_hot(service) == before


def test_a_policy_that_abstains_gives_no_prediction_on_either_road(tmp_path):
    tiny_bundle.write(tmp_path, abstain_when=("straddle",))
    with started(Settings(models_dir=tmp_path)) as service:
        bundle = service.app.state.loaded.bundle
        bedside = bundle.reliability["bedside"].calibration
        found = []
        for age in range(20, 100):
            hot, routed = on_both_roads(service, json.dumps({"age": age, "sex": 1, "cp": 2}))
            assert alike(without_ids(hot), without_ids(routed))
            low, high = bedside.range(hot.json()["probability"])
            found.append((low < bundle.threshold <= high, hot.json()))

    assert {straddles for straddles, _ in found} == {True, False}
    for straddles, answer in found:
        assert answer["abstain"] is straddles
        assert (answer["prediction"] is None) is straddles
        assert (answer["abstain_reason"] == "range straddles threshold") is straddles
