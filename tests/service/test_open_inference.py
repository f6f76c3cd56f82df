"""The Open Inference Protocol, asked by NVIDIA's own client and by everything that is wrong."""

import json
import struct
import time
from collections.abc import Iterator

import jsonschema
import numpy as np
import pytest
import tiny_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from service_kit import Served, started
from starlette.testclient import TestClient
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from heartdx.bundle import MODEL_NAME
from heartdx.contract import ATTRIBUTES, NAMES
from heartdx.serve import predictor, problems, tensors
from heartdx.settings import Settings

INFER = f"/v2/models/{MODEL_NAME}/infer"
nan = np.nan
TABLE = np.array(
    [
        # age sex cp  bps   chol fbs ecg thalach exang oldpeak slope ca thal
        [54, 0, 2, 130, 246, 0, 0, nan, nan, nan, nan, nan, nan],
        [61, 1, 4, 140, nan, 0, 2, 128, 1, 1.5, nan, nan, nan],
        [58, 0, 2, 136, 270, nan, 0, 150, 0, 0.5, 1, 0, 3],
    ]
)
PANELS = ["bedside", "exercise", "imaging"]


def as_records(table: np.ndarray) -> list[dict]:
    return [
        {name: None if np.isnan(value) else value for name, value in zip(NAMES, row, strict=True)}
        for row in table.tolist()
    ]


def predicted(client: TestClient, table: np.ndarray = TABLE) -> dict:
    answer = client.post("/predict", json={"records": as_records(table)})
    assert answer.status_code == 200
    return answer.json()


# -- NVIDIA's client against a real process --------------------------------------------------


@pytest.fixture(scope="module")
def served(models_dir) -> Iterator[Served]:
    running = Served({"HEARTDX_MODELS_DIR": str(models_dir), "HEARTDX_LOG_LEVEL": "ERROR"})
    try:
        running.wait_until_alive()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def triton(served) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"127.0.0.1:{served.port}") as running:
        yield running


@pytest.fixture(scope="module")
def expected(client) -> dict:
    return predicted(client)


def tensor(name: str, values: np.ndarray, *, binary: bool) -> InferInput:
    made = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return made.set_data_from_numpy(values, binary_data=binary)


def test_the_client_finds_server_and_model_alive_and_ready(triton):
    version = triton.get_model_metadata(MODEL_NAME)["versions"][0]

    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(MODEL_NAME)
    assert triton.is_model_ready(MODEL_NAME, version)
    assert not triton.is_model_ready("another")
    assert not triton.is_model_ready(MODEL_NAME, "1")


def test_the_client_reads_what_the_server_is_and_what_the_model_takes(triton, expected):
    server = triton.get_server_metadata()
    model = triton.get_model_metadata(MODEL_NAME, expected["model_version"])

    assert server["extensions"] == ["binary_tensor_data"]
    assert [one["name"] for one in model["inputs"]] == list(NAMES)
    assert {one["datatype"] for one in model["inputs"]} == {"FP64"}
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["outputs"]] == [
        ("probability", "FP64", [-1]),
        ("prediction", "INT64", [-1]),
        ("label", "BYTES", [-1]),
        ("panel", "BYTES", [-1]),
        ("abstain", "BYTES", [-1]),
    ]


def as_columns(table: np.ndarray) -> list[np.ndarray]:
    return [table[:, [column]] for column in range(len(NAMES))]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("form", ["named", "table"])
def test_the_client_gets_what_predict_answers(triton, expected, form, dtype, binary_out, binary_in):
    table = TABLE.astype(dtype)
    if form == "table":
        inputs = [tensor("input", table, binary=binary_in)]
    else:
        named = zip(NAMES, as_columns(table), strict=True)
        inputs = [tensor(name, values, binary=binary_in) for name, values in named]
    wanted = [InferRequestedOutput(name, binary_data=binary_out) for name in tensors.OUTPUTS]

    result = triton.infer(MODEL_NAME, inputs, request_id="a 7", outputs=wanted)

    assert result.get_response()["id"] == "a 7"
    assert result.as_numpy("probability") == pytest.approx(expected["probabilities"], abs=1e-9)
    assert result.as_numpy("prediction").tolist() == expected["predictions"]
    assert texts(result, "label") == expected["labels"]
    assert texts(result, "panel") == expected["panels"] == PANELS
    assert texts(result, "abstain") == ["", "", ""]


def texts(result, name: str) -> list[str]:
    return [one.decode() if isinstance(one, bytes) else str(one) for one in result.as_numpy(name)]


@pytest.mark.parametrize("binary", [True, False])
def test_whole_numbers_truths_and_names_of_codes_are_tensors_too(triton, expected, binary):
    inputs = [
        tensor("age", np.array([54, 61, 58]), binary=binary),
        tensor("sex", np.array(["female", "male", "female"], dtype=object), binary=binary),
        tensor("cp", np.array([2, 4, 2], dtype=np.int32), binary=binary),
        tensor("trestbps", np.array([130.0, 140.0, 136.0]), binary=binary),
        tensor("chol", np.array([246, -9, 270]), binary=binary),
        tensor("fbs", np.array(["no", "no", ""], dtype=object), binary=binary),
        tensor("restecg", np.array([0, 2, 0]), binary=binary),
        tensor("thalach", np.array([-9, 128, 150]), binary=binary),
        tensor("exang", np.array([False, True, False]), binary=binary),
        tensor("oldpeak", np.array([nan, 1.5, 0.5]), binary=binary),
        tensor("slope", np.array([-9, -9, 1]), binary=binary),
        tensor("ca", np.array([-9, -9, 0]), binary=binary),
        tensor("thal", np.array(["", "", "normal"], dtype=object), binary=binary),
    ]

    result = triton.infer(MODEL_NAME, inputs)

    assert result.as_numpy("probability") == pytest.approx(expected["probabilities"], abs=1e-9)


def test_only_the_requested_outputs_come_each_as_asked_for(triton, expected):
    wanted = [
        InferRequestedOutput("panel", binary_data=False),
        InferRequestedOutput("probability", binary_data=True),
    ]

    result = triton.infer(MODEL_NAME, [tensor("input", TABLE, binary=True)], outputs=wanted)

    panel, probability = result.get_response()["outputs"]
    assert panel == {"name": "panel", "datatype": "BYTES", "shape": [3], "data": PANELS}
    assert probability["parameters"] == {"binary_data_size": 24}
    assert result.as_numpy("probability") == pytest.approx(expected["probabilities"], abs=1e-9)


def test_the_client_may_name_the_version_short_or_whole(triton, client, expected):
    digest = client.get("/health").json()["model_digest"]
    inputs = [tensor("input", TABLE, binary=True)]

    for version in (expected["model_version"], digest):
        result = triton.infer(MODEL_NAME, inputs, model_version=version)
        assert result.get_response()["model_version"] == expected["model_version"]


@pytest.mark.parametrize(
    ("name", "version"), [("another", ""), (MODEL_NAME, "0" * 12), (MODEL_NAME, "78")]
)
def test_the_client_is_told_that_there_is_no_such_model_or_version(triton, name, version):
    with pytest.raises(InferenceServerException, match="answers as model heartdx") as refusal:
        triton.infer(name, [tensor("input", TABLE, binary=True)], model_version=version)

    assert refusal.value.status() == "404"


def test_the_client_is_told_which_value_is_wrong_and_how_to_mend_it(triton):
    table = TABLE.copy()
    table[1, NAMES.index("chol")] = 6543.25

    with pytest.raises(InferenceServerException) as refusal:
        triton.infer(MODEL_NAME, [tensor("input", table, binary=True)])

    assert refusal.value.status() == "422"
    told = refusal.value.message()
    assert "record 1, chol: expected a number from 80 to 650 mg/dL; check the unit" in told
    assert "6543" not in told


@pytest.mark.parametrize("path", ["/v2/models/heartdx/config", "/v2/repository/index", "/v2/x"])
def test_what_is_not_offered_under_v2_says_so_in_the_protocols_member(client, path):
    answer = client.get(path)

    assert answer.status_code == 404
    assert answer.json()["error"] == answer.json()["detail"]


def test_other_paths_have_no_such_member(client):
    assert "error" not in client.get("/v2x").json()


def test_without_a_model_the_server_lives_and_nothing_is_ready(bare_client):
    assert bare_client.get("/v2").status_code == 200
    assert bare_client.get("/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", f"/v2/models/{MODEL_NAME}", f"/v2/models/{MODEL_NAME}/ready"):
        assert bare_client.get(path).status_code == 503
    answer = bare_client.post(INFER, json={})
    assert answer.status_code == 503
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert "train" in answer.json()["error"]


def test_where_the_policy_abstains_tensors_hold_what_stands_for_nothing():
    wanted = [tensors.Wanted(name, binary=False) for name in ("prediction", "label", "abstain")]
    columns = {"predictions": [None, 1], "labels": [None, "disease"], "abstained": ["far", None]}

    outputs, _ = tensors.outputs(wanted, columns)

    assert [one["data"] for one in outputs] == [[-1, 1], ["", "disease"], ["far", ""]]


def test_a_policy_that_abstains_is_followed(client, check, monkeypatch):
    reason = predictor.ABSTENTIONS[0]
    monkeypatch.setattr(predictor, "abstentions", lambda answers: {1: reason})

    answer = client.post(INFER, json={"inputs": [GRID]})

    check(answer)
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    assert outputs["abstain"] == ["", reason, ""]
    assert [outputs["prediction"][1], outputs["label"][1]] == [-1, ""]
    assert {outputs["prediction"][0], outputs["prediction"][2]} <= {0, 1}


def test_a_patient_without_a_panel_is_named_at_the_tensors(tmp_path):
    tiny_bundle.write(tmp_path, panels=("exercise",))
    rates = one("thalach", [150, None])
    known = [one("exang", [0, 0]), one("oldpeak", [0.5, 0.5])]

    with started(Settings(models_dir=tmp_path)) as without_bedside:
        answer = without_bedside.post(INFER, json={"inputs": [AGE, SEX, CP, *known, rates]})

    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert (problem["field"], problem["record"]) == ("thalach", 1)
    assert problem["pointer"] == "/inputs/5/data/1"


# -- what is wrong -------------------------------------------------------------------------------

SECRET = 7301


def one(name: str, data: list, datatype: str = "FP64", **more) -> dict:
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": data, **more}


AGE, SEX, CP = one("age", [54, 61]), one("sex", [0, 1], "INT64"), one("cp", [2, 4], "INT32")
CHOL = one("chol", [246, SECRET])
FLAT = TABLE.shape[0] * [54, 0, 2, 130, 246, 0, 0, None, None, None, None, None, None]
GRID = {"name": "input", "shape": [3, 13], "datatype": "FP64", "data": FLAT}

WRONG = {
    "no object": ([], "body", "type", ""),
    "no inputs": ({}, "inputs", "type", "/inputs"),
    "empty inputs": ({"inputs": []}, "inputs", "type", "/inputs"),
    "too many inputs": ({"inputs": [AGE] * 14}, "inputs", "range", "/inputs"),
    "an unknown member": ({"inputs": [AGE, SEX, CP], "input": []}, "body", "type", ""),
    "an input that is no object": ({"inputs": [SECRET]}, "inputs", "type", "/inputs/0"),
    "an unknown tensor": (
        {"inputs": [AGE, SEX, CP, one("bmi", [SECRET, 1])]},
        "inputs",
        "unknown",
        "/inputs/3/name",
    ),
    "a name that is no text": (
        {"inputs": [{**AGE, "name": SECRET}]},
        "inputs",
        "unknown",
        "/inputs/0/name",
    ),
    "a name twice": ({"inputs": [AGE, SEX, CP, AGE]}, "age", "unknown", "/inputs/3"),
    "both forms": ({"inputs": [GRID, AGE]}, "age", "unknown", "/inputs/1"),
    "both forms, turned": ({"inputs": [AGE, GRID]}, "input", "unknown", "/inputs/1"),
    "no age": ({"inputs": [SEX, CP]}, "age", "missing", "/inputs"),
    "another datatype": (
        {"inputs": [one("age", [SECRET, 54], "FP16")]},
        "age",
        "type",
        "/inputs/0/datatype",
    ),
    "a truth as age": (
        {"inputs": [one("age", [True, False], "BOOL")]},
        "age",
        "type",
        "/inputs/0/datatype",
    ),
    "text as age": (
        {"inputs": [one("age", [str(SECRET)], "BYTES")]},
        "age",
        "type",
        "/inputs/0/datatype",
    ),
    "a truth as cp": (
        {"inputs": [AGE, SEX, one("cp", [True, True], "BOOL")]},
        "cp",
        "type",
        "/inputs/2/datatype",
    ),
    "a table of whole numbers": (
        {"inputs": [{**GRID, "datatype": "INT64"}]},
        "input",
        "type",
        "/inputs/0/datatype",
    ),
    "a fraction among whole numbers": (
        {"inputs": [one("age", [54, SECRET + 0.5], "INT64")]},
        "age",
        "type",
        "/inputs/0/data",
    ),
    "a text among numbers": ({"inputs": [one("age", [54, "x"])]}, "age", "type", "/inputs/0/data"),
    "a truth among numbers": (
        {"inputs": [one("age", [True, 54])]},
        "age",
        "type",
        "/inputs/0/data",
    ),
    "a nested element": (
        {"inputs": [one("age", [54, [SECRET]])]},
        "age",
        "type",
        "/inputs/0/data",
    ),
    "no shape": (
        {"inputs": [{"name": "age", "datatype": "FP64", "data": [54]}]},
        "age",
        "type",
        "/inputs/0/shape",
    ),
    "a shape of fractions": (
        {"inputs": [{**AGE, "shape": [2.0]}]},
        "age",
        "type",
        "/inputs/0/shape",
    ),
    "a shape of truths": ({"inputs": [{**AGE, "shape": [True]}]}, "age", "type", "/inputs/0/shape"),
    "no dimension": ({"inputs": [{**AGE, "shape": []}]}, "age", "range", "/inputs/0/shape"),
    "two columns": ({"inputs": [{**AGE, "shape": [1, 2]}]}, "age", "range", "/inputs/0/shape"),
    "three dimensions": (
        {"inputs": [{**AGE, "shape": [2, 1, 1]}]},
        "age",
        "range",
        "/inputs/0/shape",
    ),
    "twelve columns": (
        {"inputs": [{**GRID, "shape": [3, 12]}]},
        "input",
        "range",
        "/inputs/0/shape",
    ),
    "no row": ({"inputs": [one("age", [])]}, "records", "range", "/inputs/0/shape"),
    "a negative dimension": (
        {"inputs": [{**AGE, "shape": [-2]}]},
        "records",
        "range",
        "/inputs/0/shape",
    ),
    "a thousand million rows": (
        {"inputs": [{**AGE, "shape": [10**9]}]},
        "records",
        "range",
        "/inputs/0/shape",
    ),
    "rows beyond 64 bits": (
        {"inputs": [{**GRID, "shape": [2**70, 13]}]},
        "records",
        "range",
        "/inputs/0/shape",
    ),
    "a row too many": (
        {"inputs": [one("age", [54] * 51)]},
        "records",
        "range",
        "/inputs/0/shape",
    ),
    "tensors of different length": (
        {"inputs": [AGE, one("sex", [0, 1, 1])]},
        "sex",
        "range",
        "/inputs/1/shape",
    ),
    "less data than the shape": (
        {"inputs": [{**AGE, "shape": [3]}]},
        "age",
        "range",
        "/inputs/0/data",
    ),
    "more data than the shape": (
        {"inputs": [{**AGE, "shape": [1]}]},
        "age",
        "range",
        "/inputs/0/data",
    ),
    "a ragged table": (
        {"inputs": [{**GRID, "data": [FLAT[:13], FLAT[:12], FLAT[:13]]}]},
        "input",
        "range",
        "/inputs/0/data",
    ),
    "no data": (
        {"inputs": [{"name": "age", "shape": [1], "datatype": "FP64"}]},
        "age",
        "type",
        "/inputs/0/data",
    ),
    "data that are no array": (
        {"inputs": [{**AGE, "data": SECRET}]},
        "age",
        "type",
        "/inputs/0/data",
    ),
    "shared memory": (
        {"inputs": [{**AGE, "parameters": {"shared_memory_region": "x"}}]},
        "parameters",
        "unknown",
        "/inputs/0/parameters",
    ),
    "a parameter that is an object": (
        {"inputs": [AGE, SEX, CP], "parameters": {"x": {"y": SECRET}}},
        "parameters",
        "type",
        "/parameters",
    ),
    "binary output that is no truth": (
        {"inputs": [AGE, SEX, CP], "parameters": {"binary_data_output": SECRET}},
        "parameters",
        "type",
        "/parameters",
    ),
    "an id that is no text": ({"id": SECRET, "inputs": [AGE, SEX, CP]}, "id", "type", "/id"),
    "an id with a line feed": (
        {"id": f"{SECRET}\n", "inputs": [AGE, SEX, CP]},
        "id",
        "type",
        "/id",
    ),
    "an id too long": ({"id": "7" * 257, "inputs": [AGE, SEX, CP]}, "id", "type", "/id"),
    "outputs that are no array": (
        {"inputs": [AGE, SEX, CP], "outputs": {}},
        "outputs",
        "type",
        "/outputs",
    ),
    "an unknown output": (
        {"inputs": [AGE, SEX, CP], "outputs": [{"name": "logit"}]},
        "outputs",
        "unknown",
        "/outputs/0/name",
    ),
    "an output twice": (
        {"inputs": [AGE, SEX, CP], "outputs": [{"name": "label"}, {"name": "label"}]},
        "outputs",
        "unknown",
        "/outputs/1",
    ),
    "a classification": (
        {
            "inputs": [AGE, SEX, CP],
            "outputs": [{"name": "label", "parameters": {"classification": 2}}],
        },
        "outputs",
        "unknown",
        "/outputs/0/parameters",
    ),
    "a number out of range": (
        {"inputs": [AGE, SEX, CP, CHOL]},
        "chol",
        "range",
        "/inputs/3/data/1",
    ),
    "a number beyond floats": (
        {"inputs": [one("age", [SECRET * 10**400, 54]), SEX, CP]},
        "age",
        "range",
        "/inputs/0/data/0",
    ),
    "an unknown code": (
        {"inputs": [AGE, SEX, one("cp", [2, SECRET], "INT64")]},
        "cp",
        "code",
        "/inputs/2/data/1",
    ),
    "a code of Kaggle's": (
        {"inputs": [AGE, SEX, one("cp", [0, 2], "INT64")]},
        "cp",
        "coding",
        "/inputs/2/data/0",
    ),
    "an unknown word": (
        {"inputs": [AGE, SEX, one("cp", ["angina", str(SECRET)], "BYTES")]},
        "cp",
        "code",
        "/inputs/2/data/0",
    ),
    "age not measured": (
        {"inputs": [one("age", [54, None]), SEX, CP]},
        "age",
        "missing",
        "/inputs/0/data/1",
    ),
    "a wrong cell of a nested table": (
        {"inputs": [{**GRID, "shape": [1, 13], "data": [[54, 0, 2, 130, SECRET] + [None] * 8]}]},
        "chol",
        "range",
        "/inputs/0/data/0/4",
    ),
    "a wrong cell of a flat table": (
        {"inputs": [{**GRID, "shape": [2, 13], "data": FLAT[:13] + [54, 0, SECRET] + [None] * 10}]},
        "cp",
        "code",
        "/inputs/0/data/15",
    ),
}


@pytest.mark.parametrize(("body", "field", "kind", "pointer"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_at_its_place_without_its_value(
    client, check, body, field, kind, pointer
):
    began = time.perf_counter()
    answer = client.post(INFER, json=body)

    assert answer.status_code == 422
    check(answer)
    first = answer.json()["errors"][0]
    assert (first["field"], first["kind"], first["pointer"]) == (field, kind, pointer)
    assert field in answer.json()["error"]
    assert str(SECRET) not in answer.text.replace(answer.json()["request_id"], "")
    assert time.perf_counter() - began < 1


@pytest.fixture(scope="module")
def check(client):
    """Holds an answer of the protocol against the OpenAPI document."""
    document = client.get("/openapi.json").json()

    def against_document(answer) -> None:
        ok = answer.status_code == 200
        name = "InferenceResponse" if ok else "InferenceProblem"
        length = answer.headers.get(tensors.HEADER_LENGTH)
        header = answer.content if length is None else answer.content[: int(length)]
        jsonschema.Draft202012Validator(
            {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        ).validate(json.loads(header))

    return against_document


def test_nan_in_json_is_missing_as_numpy_clients_write_it(client):
    request = {"inputs": [AGE, SEX, CP, one("chol", [246.0, nan])]}

    answer = client.post(INFER, content=json.dumps(request))

    null = client.post(INFER, json={"inputs": [AGE, SEX, CP, one("chol", [246.0, None])]})
    assert answer.status_code == 200
    assert answer.content == null.content


def test_nan_where_a_value_is_required_is_refused(client):
    answer = client.post(INFER, content=json.dumps({"inputs": [one("age", [nan, 54]), SEX, CP]}))

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["kind"] == "missing"


@pytest.mark.parametrize("text", ["Infinity", "-Infinity", "1e999", "'54'", "0x36"])
def test_infinity_and_what_is_no_json_are_refused(client, text):
    body = json.dumps({"inputs": [one("age", ["@"]), SEX, CP]}).replace('"@"', text)

    answer = client.post(INFER, content=body)

    assert answer.status_code == (422 if text == "1e999" else 400)


@pytest.mark.parametrize("parameters", [None, {}, {"priority": 1, "x": "y", "timeout": 5.0}])
def test_other_parameters_change_nothing(client, parameters):
    plain = client.post(INFER, json={"inputs": [AGE, SEX, CP]})
    request = {"id": None, "parameters": parameters, "outputs": None, "inputs": [AGE, SEX, CP]}

    assert client.post(INFER, json=request).content == plain.content


def test_without_an_id_none_is_answered(client):
    assert "id" not in client.post(INFER, json={"inputs": [AGE, SEX, CP]}).json()


# -- binary data ---------------------------------------------------------------------------------


def binary(
    inputs: list[tuple[str, list[int], str, bytes]], *, sizes: list | None = None, **more
) -> tuple[bytes, bytes]:
    sizes = sizes or [len(data) for *_, data in inputs]
    listed = [
        {
            "name": name,
            "shape": shape,
            "datatype": datatype,
            "parameters": {"binary_data_size": size},
        }
        for (name, shape, datatype, _), size in zip(inputs, sizes, strict=True)
    ]
    header = json.dumps({"inputs": listed, **more}).encode()
    return header, b"".join(data for *_, data in inputs)


def sent(client, header: bytes, behind: bytes, *, length: object = None):
    stated = len(header) if length is None else length
    return client.post(
        INFER,
        content=header + behind,
        headers={
            "content-type": "application/octet-stream",
            tensors.HEADER_LENGTH: str(stated),
        },
    )


ONE_AGE = ("age", [1], "FP64", struct.pack("<d", 54))
ONE_SEX = ("sex", [1], "BYTES", struct.pack("<I", 6) + b"female")
ONE_CP = ("cp", [1, 1], "INT32", struct.pack("<i", 2))
ONE_FBS = ("fbs", [1], "BOOL", b"\x01")
ASKED = {"age": 54, "sex": "female", "cp": 2, "fbs": True}
ALL = [ONE_AGE, ONE_SEX, ONE_CP, ONE_FBS]


def test_bytes_laid_out_as_the_extension_says_are_read(client, check):
    answer = sent(client, *binary(ALL))

    asked = client.post("/predict", json=ASKED)
    check(answer)
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    assert outputs["probability"] == pytest.approx([asked.json()["probability"]], abs=1e-9)


def test_binary_outputs_are_laid_out_as_the_extension_says(client, check):
    answer = sent(client, *binary(ALL, parameters={"binary_data_output": True}))

    told = client.post("/predict", json=ASKED).json()
    length = int(answer.headers[tensors.HEADER_LENGTH])
    header, behind = json.loads(answer.content[:length]), answer.content[length:]
    check(answer)
    assert answer.headers["content-type"] == "application/octet-stream"
    sizes = [one["parameters"]["binary_data_size"] for one in header["outputs"]]
    one_by_one = [len(told["label"]) + 4, len(told["panel"]) + 4]
    assert sizes == [8, 8, *one_by_one, 4]
    assert behind == (
        struct.pack("<dq", told["probability"], told["prediction"])
        + b"".join(struct.pack("<I", len(told[n])) + told[n].encode() for n in ("label", "panel"))
        + bytes(4)
    )


def test_the_requests_wish_for_binary_outputs_yields_to_an_outputs_own(client):
    wanted = [{"name": "probability"}, {"name": "label", "parameters": {"binary_data": False}}]
    request = {"inputs": [AGE, SEX, CP], "parameters": {"binary_data_output": True}}

    answer = client.post(INFER, json={**request, "outputs": wanted})

    header = answer.content[: int(answer.headers[tensors.HEADER_LENGTH])]
    probability, label = json.loads(header)["outputs"]
    assert probability["parameters"] == {"binary_data_size": 16}
    assert "data" not in probability
    assert len(label["data"]) == 2


def with_one(name: str, shape: list[int], datatype: str, data: bytes):
    return [(name, shape, datatype, data), *(one for one in ALL if one[0] != name)]


LIES = {
    "a size beyond the body": (binary(ALL, sizes=[8, 10, 4, 10**15]), "fbs", "range"),
    "a size beyond 64 bits": (binary(ALL, sizes=[2**70, 10, 4, 1]), "age", "range"),
    "a negative size": (binary(ALL, sizes=[-8, 10, 4, 1]), "age", "type"),
    "a size that is a truth": (binary(ALL, sizes=[True, 10, 4, 1]), "age", "type"),
    "a size that is a fraction": (binary(ALL, sizes=[8.0, 10, 4, 1]), "age", "type"),
    "sizes that steal from each other": (binary(ALL, sizes=[7, 11, 4, 1]), "age", "range"),
    "bytes left over": ((binary(ALL)[0], binary(ALL)[1] + b"7301"), "inputs", "range"),
    "bytes cut off": ((binary(ALL)[0], binary(ALL)[1][:-1]), "fbs", "range"),
    "more rows than bytes": (binary(with_one("age", [2], "FP64", ONE_AGE[3])), "age", "range"),
    "fewer rows than bytes": (binary(with_one("age", [1], "FP64", bytes(16))), "age", "range"),
    "a length beyond its text": (
        binary(with_one("sex", [1], "BYTES", struct.pack("<I", 2**32 - 1) + b"male")),
        "sex",
        "range",
    ),
    "a length cut off": (binary(with_one("sex", [1], "BYTES", b"\x04\x00")), "sex", "range"),
    "fewer texts than rows": (binary(with_one("sex", [1], "BYTES", b"")), "sex", "range"),
    "more texts than rows": (binary(with_one("sex", [1], "BYTES", bytes(8))), "sex", "range"),
    "text that is no UTF-8": (
        binary(with_one("sex", [1], "BYTES", struct.pack("<I", 2) + b"\xff\xfe")),
        "sex",
        "range",
    ),
    "a truth of 2": (binary(with_one("fbs", [1], "BOOL", b"\x02")), "fbs", "type"),
    "an infinite age": (
        binary(with_one("age", [1], "FP64", struct.pack("<d", np.inf))),
        "age",
        "range",
    ),
    "an age of NaN": (
        binary(with_one("age", [1], "FP64", struct.pack("<d", nan))),
        "age",
        "missing",
    ),
    "an age out of range": (
        binary(with_one("age", [1], "INT64", struct.pack("<q", SECRET))),
        "age",
        "range",
    ),
}


@pytest.mark.parametrize(("body", "field", "kind"), LIES.values(), ids=LIES)
def test_bytes_that_are_not_what_the_object_says_are_refused(client, check, body, field, kind):
    answer = sent(client, *body)

    assert answer.status_code == 422
    check(answer)
    first = answer.json()["errors"][0]
    assert (first["field"], first["kind"]) == (field, kind)
    assert str(SECRET) not in answer.text.replace(answer.json()["request_id"], "")


@pytest.mark.parametrize("length", [10**6, -1, "x", "", "9" * 30, "1.5", "²"])
def test_a_header_length_that_cannot_be_is_refused(client, check, length):
    stated = length.encode() if isinstance(length, str) else length
    header, behind = binary(ALL)

    answer = client.post(
        INFER,
        content=header + behind,
        headers={tensors.HEADER_LENGTH: stated if isinstance(stated, bytes) else str(stated)},
    )

    assert answer.status_code == 422
    check(answer)
    assert answer.json()["errors"][0]["field"] == tensors.HEADER_LENGTH


@pytest.mark.parametrize("off", [-1, 1])
def test_a_header_length_that_misses_the_object_is_malformed_json(client, off):
    header, behind = binary(ALL)

    assert sent(client, header, behind, length=len(header) + off).status_code == 400


def test_data_and_binary_size_together_are_refused(client):
    age = {**AGE, "parameters": {"binary_data_size": 16}}

    answer = client.post(INFER, json={"inputs": [age]})

    assert answer.json()["errors"][0]["expected"] == "data or binary_data_size, not both"


def test_a_body_beyond_the_cap_is_refused_before_it_is_read(client, check):
    answer = sent(client, b"{}", bytes(100_000))

    assert answer.status_code == 413
    check(answer)


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {"content-encoding": "gzip"}])
def test_other_content_types_and_compressed_bodies_are_refused(client, check, headers):
    answer = client.post(INFER, content=b"{}", headers=headers)

    assert answer.status_code == 415
    check(answer)


# -- whatever comes ------------------------------------------------------------------------------


def value_of(attribute) -> st.SearchStrategy:
    if attribute.codes:
        known = st.sampled_from([float(value) for value in attribute.code_values])
    else:
        known = st.floats(*attribute.plausible)
    required = attribute.name in ("age", "sex", "cp")
    return known if required else known | st.just(nan)


TABLES = st.lists(st.tuples(*map(value_of, ATTRIBUTES)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(rows=TABLES)
def test_the_same_patients_get_the_same_numbers_by_every_protocol(client, rows):
    table = np.array(rows)
    shape = list(table.shape)
    named = [
        {"name": name, "shape": [len(table)], "datatype": "FP64", "data": column.tolist()}
        for name, column in zip(NAMES, table.T, strict=True)
    ]
    wanted = [{"name": "probability"}]
    header, behind = binary(
        [("input", shape, "FP64", table.astype("<f8").tobytes())], outputs=wanted
    )

    by_predict = predicted(client, table)["probabilities"]
    by_names = client.post(INFER, content=json.dumps({"inputs": named, "outputs": wanted}))
    by_bytes = sent(client, header, behind)
    by_mlflow = client.post("/invocations", json={"dataframe_records": as_records(table)})

    for answer in (by_names, by_bytes):
        assert answer.json()["outputs"][0]["data"] == pytest.approx(by_predict, abs=1e-9)
    answered = [one["probability"] for one in by_mlflow.json()["predictions"]]
    assert answered == pytest.approx(by_predict, abs=1e-9)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(value: object, at: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [at] if at else []
    for key, one_of in inner if isinstance(value, dict | list) else ():
        found += places(one_of, (*at, key)) if isinstance(one_of, dict | list) else [(*at, key)]
    return found


WHOLE = {
    "id": "7",
    "parameters": {"binary_data_output": False},
    "inputs": [AGE, SEX, CP, {**one("fbs", [True, None], "BOOL"), "parameters": {"x": 1}}],
    "outputs": [{"name": "label", "parameters": {"binary_data": False}}],
}


@settings(max_examples=150, deadline=None)
@given(place=st.sampled_from(places(WHOLE)), anything=ANYTHING)
def test_anything_at_any_place_gets_a_documented_answer(client, check, place, anything):
    body = json.loads(json.dumps(WHOLE))
    holder = body
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = anything

    answer = client.post(INFER, content=json.dumps(body))

    assert answer.status_code in {200, 400, 422}
    check(answer)


@settings(max_examples=100, deadline=None)
@given(behind=st.binary(max_size=40), sizes=st.lists(st.integers(-1, 40), min_size=4, max_size=4))
def test_any_bytes_behind_the_object_get_a_documented_answer(client, check, behind, sizes):
    answer = sent(client, binary(ALL, sizes=sizes)[0], behind)

    assert answer.status_code in {200, 422}
    check(answer)
