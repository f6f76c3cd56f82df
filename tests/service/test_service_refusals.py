"""What `/predict` refuses, how it says so, and that no value ever comes back."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_kit import PATIENT

from heartdx.contract import ATTRIBUTES, BY_NAME, NAMES
from heartdx.serve.body import MAX_DEPTH
from heartdx.serve.inputs import MAX_PROBLEMS
from heartdx.serve.problems import MEDIA_TYPE

JSON = {"Content-Type": "application/json"}


def send(client, raw: bytes, **headers):
    return client.post("/predict", content=raw, headers={**JSON, **headers})


def errors_of(answer) -> list[dict]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    return answer.json()["errors"]


# -- fields ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field", "kind"),
    [
        ({"age": 17}, "age", "range"),
        ({"age": "61"}, "age", "type"),
        ({"age": True}, "age", "type"),
        ({"age": [61]}, "age", "type"),
        ({"age": None}, "age", "missing"),
        ({"age": -9}, "age", "missing"),
        ({"sex": None}, "sex", "missing"),
        ({"cp": 5}, "cp", "code"),
        ({"cp": 1.5}, "cp", "code"),
        ({"cp": "severe"}, "cp", "code"),
        ({"cp": True}, "cp", "type"),
        ({"cp": {}}, "cp", "type"),
        ({"chol": 0}, "chol", "range"),
        ({"colour": 1}, "colour", "unknown"),
        ({"coding": "cleveland"}, "coding", "coding"),
        ({"coding": 1}, "coding", "coding"),
        ({"coding": []}, "coding", "coding"),
        ({"coding": ""}, "coding", "coding"),
        ({"values": [1]}, "values", "unknown"),
    ],
)
def test_a_wrong_field_is_named_with_its_place_range_and_mend(client, change, field, kind):
    [error] = errors_of(client.post("/predict", json={**PATIENT, **change}))

    assert (error["field"], error["kind"], error["pointer"]) == (field, kind, f"/{field}")
    assert error["mend"]
    if field in BY_NAME:
        assert error["expected"].startswith(BY_NAME[field].expected)
    assert "record" not in error


def test_all_problems_of_all_records_come_at_once_with_pointers(client):
    values = [50, 1, 9, *[None] * 10]
    bad = {**PATIENT, "age": 5, "sexx": 1}

    errors = errors_of(
        client.post("/predict", json={"records": [PATIENT, bad, {"values": values}]})
    )

    assert [(e["record"], e["field"], e["kind"], e["pointer"]) for e in errors] == [
        (1, "sexx", "unknown", "/records/1/sexx"),
        (1, "age", "range", "/records/1/age"),
        (2, "cp", "code", "/records/2/values/2"),
    ]
    assert errors[0]["mend"] == "did you mean sex?"


@pytest.mark.parametrize(
    ("body", "field", "kind", "pointer"),
    [
        ([], "body", "type", ""),
        (None, "body", "type", ""),
        ("text", "body", "type", ""),
        (7, "body", "type", ""),
        ({"records": []}, "records", "range", "/records"),
        ({"records": None}, "records", "type", "/records"),
        ({"records": {}}, "records", "type", "/records"),
        ({"records": [PATIENT] * 51}, "records", "range", "/records"),
        ({"records": [PATIENT], "age": 61}, "body", "unknown", ""),
        ({"records": [PATIENT], "coding": "x"}, "coding", "coding", "/coding"),
        ({"records": [None]}, "records", "type", "/records/0"),
        ({"records": [[1]]}, "records", "type", "/records/0"),
        ({"records": [{"values": [1, 2]}]}, "values", "type", "/records/0/values"),
        ({"records": [{"values": {}}]}, "values", "type", "/records/0/values"),
        ({"records": [{"values": [], "age": 1}]}, "values", "unknown", "/records/0"),
        ({"records": [{**PATIENT, "coding": "uci"}]}, "coding", "unknown", "/records/0/coding"),
        ({"records": [{str(n): n for n in range(40)}]}, "record", "unknown", "/records/0"),
    ],
)
def test_a_wrong_shape_is_told_at_its_place(client, body, field, kind, pointer):
    [error] = errors_of(client.post("/predict", content=json.dumps(body), headers=JSON))

    assert (error["field"], error["kind"], error["pointer"]) == (field, kind, pointer)


def test_the_list_of_problems_is_bounded(client):
    wrong = {f"x{n}": n for n in range(20)}

    answer = client.post("/predict", json={"records": [wrong] * 50})

    assert len(errors_of(answer)) == MAX_PROBLEMS
    assert answer.json()["detail"].startswith(f"the first {MAX_PROBLEMS} problem(s)")


def test_an_empty_object_lacks_the_required_fields(client):
    errors = errors_of(client.post("/predict", json={}))

    assert [(e["field"], e["kind"]) for e in errors] == [
        ("age", "missing"),
        ("sex", "missing"),
        ("cp", "missing"),
    ]


# -- bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{'age': 61}",
        b'{"age": 61,}',
        b'{"age": NaN}',
        b'{"age": Infinity}',
        b'{"age": -Infinity}',
        b'{"age": 61, "age": 62}',
        b'{"records": [{"age": 1, "age": 1}]}',
        b"\xff\xfe{}",
        b'{"age": "\xe9"}',
        b"\xef\xbb\xbf{}",
        '{"age": 61}'.encode("utf-16"),
        b'{"age": 1} {"age": 2}',
        b'{"age": ' + b"9" * 5000 + b"}",
        b"[" * 50_000,
        b"[" * 50_000 + b"]" * 50_000,
        b'{"a":' * 15_000,
        b'{"age": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
        b'"' * 99_000,
        b'{"a' + b'\\"' * 40_000,
    ],
)
def test_what_is_not_strict_json_is_malformed(client, raw):
    answer = send(client, raw)

    assert answer.status_code == 400
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json()["type"] == "urn:heartdx:problem:malformed-json"


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "1e400", "1e308", "1e-400"])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_beyond_a_float_are_refused_as_any_other(client, name, number):
    body = json.dumps({**PATIENT, name: "@"}).replace('"@"', number)

    answer = send(client, body.encode())

    is_zero = number == "1e-400"
    accepts_zero = 0 in BY_NAME[name].code_values or name == "oldpeak"
    assert answer.status_code == (200 if is_zero and accepts_zero else 422)


def test_brackets_inside_texts_are_not_depth(client):
    [error] = errors_of(client.post("/predict", json={**PATIENT, "cp": '[{"\\' * 100}))

    assert error["kind"] == "code"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": 'Application/JSON; charset="UTF-8"'}, 200),
        ({"Content-Type": "application/json; charset=latin-1"}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/jsonx"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
    ],
)
def test_only_plain_json_is_read(client, headers, status):
    answer = client.post("/predict", content=json.dumps(PATIENT), headers=headers)

    assert answer.status_code == status


def test_a_body_beyond_the_cap_is_refused_with_and_without_its_length(client):
    def chunks():
        for _ in range(200):
            yield b" " * 1_000

    declared = send(client, b" " * 200_000)
    streamed = client.post("/predict", content=chunks(), headers=JSON)
    lying = send(client, b"{}", **{"Content-Length": "9" * 30})

    for answer in (declared, streamed, lying):
        assert answer.status_code == 413
        assert answer.json()["type"] == "urn:heartdx:problem:body-too-large"


@pytest.mark.parametrize("fill", ["{}", '{"a":1}', '"x"', "[]", "1"])
def test_the_worst_body_of_full_size_is_refused_quickly(client, fill):
    body = '{"records":[' + ",".join([fill] * (99_000 // (len(fill) + 1))) + "]}"

    answer = send(client, body.encode())

    assert answer.status_code == 422
    assert answer.elapsed.total_seconds() < 2


def test_a_record_of_many_unknown_names_is_refused_quickly(client):
    body = {f"n{number}": 0 for number in range(8_000)}

    answer = client.post("/predict", json=body)

    assert len(errors_of(answer)) == 1
    assert answer.elapsed.total_seconds() < 2


# -- nothing comes back ----------------------------------------------------------------------

MARK = "zq9x"
NUMBERS = [a.name for a in ATTRIBUTES if a.plausible]
far_off = st.integers(10**7, 10**12) | st.integers(-(10**12), -(10**7))
texts = st.text(max_size=20).map(lambda text: MARK + text + MARK)


@settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.dictionaries(st.sampled_from(NAMES), far_off | texts, min_size=1, max_size=5),
    batch=st.booleans(),
)
def test_a_refused_value_is_neither_in_the_answer_nor_in_the_log(client, log_lines, changes, batch):
    patient = {**PATIENT, **changes}
    log_lines.lines.clear()

    answer = client.post("/predict", json={"records": [PATIENT, patient]} if batch else patient)

    told = answer.text + "".join(log_lines.lines) + str(answer.headers)
    assert {error["field"] for error in errors_of(answer)} == set(changes)
    assert MARK not in told
    for value in changes.values():
        assert isinstance(value, str) or str(value) not in told


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (400, b'{"age": zq9x}'),
        (400, b'{"age": "zq9x'),
        (400, b'{"zq9x": 1, "zq9x": 2}'),
        (400, b"zq9x"),
        (422, b'["zq9x"]'),
        (422, b'{"coding": "zq9x", "age": 1}'),
        (422, b'{"records": "zq9x"}'),
        (422, b'{"records": ["zq9x"]}'),
        (422, b'{"records": [{"values": "zq9x"}]}'),
        (422, b'{"age": 1, "sex": 1, "cp": 1, "\\u00e9zq9x\\n": 1}'),
        (422, b'{"age": 1, "\\ud800zq9x": 1}'),
    ],
)
def test_no_refused_body_comes_back(client, log_lines, status, raw):
    answer = send(client, raw)

    assert answer.status_code == status
    assert MARK not in answer.text + "".join(log_lines.lines)
