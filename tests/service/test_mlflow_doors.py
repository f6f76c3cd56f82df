"""MLflow's scoring protocol, asked by MLflow's own client and with what its helpers write."""

import json
from collections.abc import Iterator

import jsonschema
import numpy as np
import pandas as pd
import pytest
from mlflow.models import convert_input_example_to_serving_input
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from service_kit import Served

import heartdx
from heartdx.contract import NAMES
from heartdx.serve import predictor, problems

FRAME = pd.DataFrame(
    {
        "age": [54, 61, 58],
        "sex": [0, 1, 0],
        "cp": [2, 4, 2],
        "trestbps": [130, 140, 136],
        "chol": [246, None, 270],
        "fbs": [0, 0, None],
        "restecg": [0, 2, 0],
        "thalach": [None, 128, 150],
        "exang": [None, 1, 0],
        "oldpeak": [None, 1.5, 0.5],
        "slope": [None, None, 1],
        "ca": [None, None, 0],
        "thal": [None, None, 3],
    }
)
SECRET = 7301


@pytest.fixture(scope="module")
def expected(client) -> list[dict]:
    """What `/predict` answers to the frame, one object for each patient."""
    records = json.loads(FRAME.to_json(orient="records"))
    batch = client.post("/predict", json={"records": records}).json()
    assert batch["panels"] == ["bedside", "exercise", "imaging"]
    columns = (batch[name] for name in ("probabilities", "predictions", "labels", "panels"))
    return [
        {
            "probability": pytest.approx(probability, abs=1e-9),
            "prediction": prediction,
            "label": label,
            "panel": panel,
            "abstain": None,
        }
        for probability, prediction, label, panel in zip(*columns, strict=True)
    ]


@pytest.fixture(scope="module")
def check(client):
    """Holds an answer against the OpenAPI document."""
    document = client.get("/openapi.json").json()

    def against_document(answer) -> None:
        name = "MlflowPredictions" if answer.status_code == 200 else "Problem"
        jsonschema.Draft202012Validator(
            {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        ).validate(answer.json())

    return against_document


# -- MLflow's client and what its helpers write --------------------------------------------------


@pytest.fixture(scope="module")
def mlflow_client(models_dir) -> Iterator[ScoringServerClient]:
    running = Served({"HEARTDX_MODELS_DIR": str(models_dir), "HEARTDX_LOG_LEVEL": "ERROR"})
    try:
        running.wait_until_alive()
        yield ScoringServerClient("127.0.0.1", running.port)
    finally:
        running.stop()


def test_the_client_finds_the_server_ready_and_reads_its_version(mlflow_client):
    mlflow_client.wait_server_ready(timeout=5)

    assert mlflow_client.get_version() == heartdx.__version__


@pytest.mark.parametrize(
    "data",
    [
        FRAME,
        FRAME[list(reversed(NAMES))],
        FRAME.to_numpy(),
        FRAME.to_numpy().tolist(),
        FRAME.to_dict(orient="records"),
    ],
    ids=["frame", "columns in another order", "array", "lists", "records"],
)
def test_the_client_gets_what_predict_answers(mlflow_client, expected, data):
    """MLflow writes a missing value as NaN, which is no JSON but is read here."""
    answer = mlflow_client.invoke(data)

    assert answer["predictions"] == expected


def test_the_clients_answers_make_a_frame(mlflow_client):
    frame = mlflow_client.invoke(FRAME, params={}).get_predictions()

    assert list(frame.columns) == ["probability", "prediction", "label", "panel", "abstain"]
    assert len(frame) == 3


@pytest.mark.filterwarnings("ignore:Operation with range")  # of MLflow with a new pandas
@pytest.mark.parametrize(
    "example",
    [
        FRAME,
        FRAME.to_numpy(),
        {name: FRAME[name].to_numpy() for name in NAMES},
        json.loads(FRAME.to_json(orient="records")),
    ],
    ids=["frame", "array", "columns", "records"],
)
def test_what_mlflow_writes_for_an_input_example_is_read(client, check, expected, example):
    body = convert_input_example_to_serving_input(example)

    answer = client.post("/invocations", content=body, headers={"content-type": "application/json"})

    check(answer)
    assert answer.json()["predictions"] == expected


# -- the forms of MLflow's documentation ---------------------------------------------------------

NULLED = json.loads(FRAME.to_json(orient="split"))
RECORDS = json.loads(FRAME.to_json(orient="records"))
COLUMNS = {
    name: list(column)
    for name, column in zip(NAMES, zip(*NULLED["data"], strict=True), strict=True)
}
FORMS = {
    "split": {"dataframe_split": NULLED},
    "split without index": {
        "dataframe_split": {name: NULLED[name] for name in ("columns", "data")}
    },
    "records": {"dataframe_records": RECORDS},
    "instances of objects": {"instances": RECORDS},
    "instances of lists": {"instances": NULLED["data"]},
    "instances of columns": {"instances": COLUMNS},
    "inputs of columns": {"inputs": COLUMNS},
    "inputs of lists": {"inputs": NULLED["data"]},
    "inputs of objects": {"inputs": RECORDS},
    "empty parameters": {"inputs": RECORDS, "params": {}},
    "no parameters": {"inputs": RECORDS, "params": None},
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_every_documented_form_gets_what_predict_answers(client, check, expected, body):
    answer = client.post("/invocations", json=body)

    assert answer.status_code == 200
    check(answer)
    assert answer.json()["predictions"] == expected


@pytest.mark.parametrize("media", ["text/csv", "text/csv; charset=utf-8", "Text/CSV"])
@pytest.mark.parametrize("missing", ["", "?", "NaN", "-9"])
def test_a_csv_table_as_pandas_writes_it_gets_the_same(client, expected, media, missing):
    table = FRAME.to_csv(index=False, na_rep=missing)

    answer = client.post("/invocations", content=table, headers={"content-type": media})

    assert answer.json()["predictions"] == expected


def test_names_of_codes_may_stand_in_a_csv_table(client):
    rows = "age,sex,cp,fbs\n54,female,atypical angina,true\n54,0,2,1\n"

    answer = client.post("/invocations", content=rows, headers={"content-type": "text/csv"})

    worded, coded = answer.json()["predictions"]
    assert worded == coded


def test_the_examples_of_the_document_are_answered(client):
    operation = client.get("/openapi.json").json()["paths"]["/invocations"]["post"]

    for media, content in operation["requestBody"]["content"].items():
        for example in content["examples"].values():
            value = example["value"]
            body = value if isinstance(value, str) else json.dumps(value)
            answer = client.post("/invocations", content=body, headers={"content-type": media})
            assert answer.status_code == 200


def test_ping_and_version_answer_as_mlflow_asks(client):
    ping, version = client.get("/ping"), client.get("/version")

    assert (ping.status_code, ping.json()) == (200, {"status": "ready"})
    assert version.text == heartdx.__version__
    assert version.headers["content-type"].startswith("text/plain")


def test_without_a_model_ping_and_invocations_answer_503(bare_client):
    for answer in (
        bare_client.get("/ping"),
        bare_client.post("/invocations", json={"inputs": []}),
    ):
        assert answer.status_code == 503
        assert answer.headers["content-type"] == problems.MEDIA_TYPE


def test_a_policy_that_abstains_is_followed(client, check, monkeypatch):
    reason = predictor.ABSTENTIONS[0]
    monkeypatch.setattr(predictor, "abstentions", lambda answers: {1: reason})

    answer = client.post("/invocations", json={"inputs": RECORDS})

    check(answer)
    answers = answer.json()["predictions"]
    assert [one["abstain"] for one in answers] == [None, reason, None]
    assert (answers[1]["prediction"], answers[1]["label"]) == (None, None)
    assert 0 < answers[1]["probability"] < 1


# -- what is wrong -------------------------------------------------------------------------------

ROW = {"age": 54, "sex": 0, "cp": 2}
SPLIT = {"columns": ["age", "sex", "cp"], "data": [[54, 0, 2], [61, 1, 4]]}


def split(**changed) -> dict:
    return {"dataframe_split": {**SPLIT, **changed}}


WRONG = {
    "a list": ([[SECRET]], "body", "type", ""),
    "no form": ({}, "body", "type", ""),
    "two forms": ({"inputs": [ROW], "instances": [ROW]}, "body", "type", ""),
    "an unknown member": ({"inputs": [ROW], "signature_name": "x"}, "body", "unknown", ""),
    "parameters": ({"inputs": [ROW], "params": {"x": SECRET}}, "params", "unknown", "/params"),
    "parameters in a list": ({"inputs": [ROW], "params": [1]}, "params", "unknown", "/params"),
    "a number for rows": ({"inputs": SECRET}, "inputs", "type", "/inputs"),
    "an object for records": (
        {"dataframe_records": ROW},
        "dataframe_records",
        "type",
        "/dataframe_records",
    ),
    "no row": ({"instances": []}, "records", "range", "/instances"),
    "a row too many": ({"inputs": [ROW] * 51}, "records", "range", "/inputs"),
    "a row that is a number": ({"inputs": [ROW, SECRET]}, "record", "type", "/inputs/1"),
    "a row of twelve": ({"inputs": [[54] * 12]}, "values", "type", "/inputs/0"),
    "an unknown field": (
        {"dataframe_records": [ROW, {**ROW, "bmi": SECRET}]},
        "bmi",
        "unknown",
        "/dataframe_records/1",
    ),
    "the wrapped values of predict": (
        {"inputs": [{"values": [54, 0, 2]}]},
        "values",
        "unknown",
        "/inputs/0",
    ),
    "a field out of range": (
        {"inputs": [ROW, {**ROW, "chol": SECRET}]},
        "chol",
        "range",
        "/inputs/1/chol",
    ),
    "a value out of range": (
        {"instances": [[54, 0, 2, 130, SECRET, *[None] * 8]]},
        "chol",
        "range",
        "/instances/0/4",
    ),
    "an age that is missing": (
        {"inputs": [{"sex": 0, "cp": 2}]},
        "age",
        "missing",
        "/inputs/0",
    ),
    "a split that is a list": (
        {"dataframe_split": []},
        "dataframe_split",
        "type",
        "/dataframe_split",
    ),
    "a split with more": (split(dtypes=[]), "dataframe_split", "type", "/dataframe_split"),
    "a split without columns": (
        {"dataframe_split": {"data": SPLIT["data"]}},
        "columns",
        "type",
        "/dataframe_split/columns",
    ),
    "columns that are numbers": (
        split(columns=[0, 1, 2]),
        "columns",
        "type",
        "/dataframe_split/columns",
    ),
    "an unknown column": (
        split(columns=["age", "sex", "pain"]),
        "columns",
        "unknown",
        "/dataframe_split/columns",
    ),
    "a column twice": (
        split(columns=["age", "age", "cp"]),
        "columns",
        "unknown",
        "/dataframe_split/columns",
    ),
    "a column short": (
        split(columns=["age", "sex"]),
        "cp",
        "missing",
        "/dataframe_split/columns",
    ),
    "an index that is a number": (split(index=3), "index", "type", "/dataframe_split/index"),
    "data that are a number": (split(data=SECRET), "data", "type", "/dataframe_split/data"),
    "data of no row": (split(data=[]), "records", "range", "/dataframe_split/data"),
    "a ragged row": (
        split(data=[[54, 0, 2], [61, SECRET]]),
        "data",
        "type",
        "/dataframe_split/data/1",
    ),
    "a cell out of range": (
        split(data=[[54, 0, 2], [61, SECRET, 4]]),
        "sex",
        "code",
        "/dataframe_split/data/1/1",
    ),
    "columns of different length": (
        {"inputs": {"age": [54], "sex": [0, 1], "cp": [2]}},
        "columns",
        "range",
        "/inputs",
    ),
    "columns of no row": (
        {"inputs": {"age": [], "sex": [], "cp": []}},
        "records",
        "range",
        "/inputs",
    ),
    "a column that is a number": (
        {"inputs": {"age": SECRET, "sex": [0], "cp": [2]}},
        "age",
        "type",
        "/inputs/age",
    ),
    "a wrong cell of a column": (
        {"inputs": {"age": [54, SECRET], "sex": [0, 1], "cp": [2, 4]}},
        "age",
        "range",
        "/inputs/age/1",
    ),
    "no column": ({"inputs": {}}, "age", "missing", "/inputs"),
}


@pytest.mark.parametrize(("body", "field", "kind", "pointer"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_at_its_place_without_its_value(
    client, check, body, field, kind, pointer
):
    answer = client.post("/invocations", json=body)

    assert answer.status_code == 422
    check(answer)
    first = answer.json()["errors"][0]
    assert (first["field"], first["kind"], first["pointer"]) == (field, kind, pointer)
    assert str(SECRET) not in answer.text.replace(answer.json()["request_id"], "")


TABLES = {
    "nothing": (b"", "body", "type"),
    "no header": (b"54,0,2\n61,1,4\n", "body", "missing"),
    "a header alone": (b"age,sex,cp\n", "records", "range"),
    "an unknown column": (b"age,sex,cp,bmi\n54,0,2,7301\n", "body", "unknown"),
    "a column short": (b"age,sex\n54,0\n", "cp", "missing"),
    "a ragged row": (b"age,sex,cp\n54,0,2\n54,7301\n", "body", "type"),
    "no UTF-8": (b"age,sex,cp\n54,\xff,2\n", "body", "type"),
    "zero bytes": (b"age,sex,cp\n54,0,\x002\n", "body", "type"),
    "a web page": (b"<!doctype html><p>7301", "body", "type"),
    "a cell out of range": (b"age,sex,cp\n54,0,2\n7301,1,4\n", "age", "range"),
    "a word for a number": (b"age,sex,cp\n7301x,1,4\n", "age", "type"),
    "an infinite age": (b"age,sex,cp\n1e999,1,4\n", "age", "range"),
    "51 rows": (b"age,sex,cp\n" + b"54,0,2\n" * 51, "records", "range"),
}


@pytest.mark.parametrize(("table", "field", "kind"), TABLES.values(), ids=TABLES)
def test_a_csv_table_that_is_wrong_is_refused_without_its_values(client, check, table, field, kind):
    answer = client.post("/invocations", content=table, headers={"content-type": "text/csv"})

    assert answer.status_code == 422
    check(answer)
    first = answer.json()["errors"][0]
    assert (first["field"], first["kind"]) == (field, kind)
    assert str(SECRET) not in answer.text.replace(answer.json()["request_id"], "")


@pytest.mark.parametrize("text", ["Infinity", "-Infinity", "54,", "'54'"])
def test_infinity_and_what_is_no_json_are_refused(client, check, text):
    body = f'{{"inputs": [{{"age": {text}, "sex": 0, "cp": 2}}]}}'

    answer = client.post("/invocations", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    check(answer)


@pytest.mark.parametrize("media", ["", "text/plain", "application/vnd.apache.parquet"])
def test_other_content_types_are_refused(client, check, media):
    answer = client.post("/invocations", content=b"{}", headers={"content-type": media})

    assert answer.status_code == 415
    check(answer)


def test_a_body_beyond_the_cap_is_refused(client, check):
    answer = client.post(
        "/invocations", content=bytes(100_001), headers={"content-type": "text/csv"}
    )

    assert answer.status_code == 413
    check(answer)


def test_a_required_value_of_nan_is_refused_as_missing(client):
    body = json.dumps({"inputs": [[np.nan, 0, 2, *[np.nan] * 10]]})

    answer = client.post("/invocations", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 422
    first = answer.json()["errors"][0]
    assert (first["field"], first["kind"], first["pointer"]) == ("age", "missing", "/inputs/0/0")
