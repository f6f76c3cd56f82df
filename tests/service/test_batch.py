"""Many patients in one request: every format, every row, nothing cut in silence."""

import asyncio
import csv
import io
import json
import tracemalloc

import batch_bodies
import jsonschema
import polars as pl
import pyarrow as pa
import pytest
import tiny_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_kit import PATIENT, started

from heartdx.contract import NAMES
from heartdx.reliability import ABSTAIN_REASONS, STRADDLE
from heartdx.serve import batch, batch_schemas, create_app, predictor
from heartdx.serve.batch_answers import ARROW, CSV, NDJSON, CsvWriter
from heartdx.serve.body import JSON
from heartdx.serve.problems import MEDIA_TYPE
from heartdx.settings import Settings

DOOR = "/v1/predict/batch"
FORMATS = (JSON, NDJSON, CSV, ARROW)
BAD = {**PATIENT, "chol": 12}


@pytest.fixture(scope="module")
def service(models_dir):
    limits = {"max_records": 5_000, "max_body_bytes": 2_000_000, "max_stream_rows": 60_000}
    with started(Settings(models_dir=models_dir, log_level="ERROR", **limits)) as running:
        yield running


def as_json(table):
    return json.dumps({"records": table}).encode()


BODIES = {JSON: as_json, **batch_bodies.AS}


def whole(row):
    return {name: row.get(name) for name in NAMES}


def post(service, media, content, *, accept="*/*", query=""):
    headers = {"Content-Type": media, "Accept": accept}
    return service.post(DOOR + query, content=content, headers=headers)


def rows_of(answer):
    """The rows of an answer in any format, read by somebody else's reader."""
    media = answer.headers["content-type"].partition(";")[0]
    if media == JSON:
        return answer.json()["rows"]
    if media == NDJSON:
        return [json.loads(line) for line in answer.text.splitlines()[:-1]]
    if media == ARROW:
        table = pa.ipc.open_stream(answer.content).read_all()
        table.validate(full=True)
        return [from_columns(row) for row in table.to_pylist()]
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return [from_columns(typed(row)) for row in csv.DictReader(lines)]


def typed(row):
    numbers = {"row": int, "prediction": int, "probability": float}
    numbers |= {"calibration_low": float, "calibration_high": float}
    return {n: None if text == "" else numbers.get(n, str)(text) for n, text in row.items()}


def from_columns(row):
    pair = [row.pop("calibration_low"), row.pop("calibration_high")]
    row.pop("model_version", None)
    row["calibration_range"] = None if pair[0] is None else pair
    row["error"] = None if row["error"] is None else json.loads(row["error"])
    return row


# -- the numbers -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(table=batch_bodies.rows(), accept=st.sampled_from(FORMATS))
def test_every_row_is_answered_as_alone_in_every_format(service, table, accept):
    alone = [service.post("/predict", json=row) for row in table]

    for media in FORMATS:
        answer = post(service, media, BODIES[media](table), accept=accept)

        assert answer.status_code == 200
        rows = rows_of(answer)
        assert [row["row"] for row in rows] == list(range(len(table)))
        for row, single in zip(rows, alone, strict=True):
            told = single.json()
            if single.status_code == 422:
                assert row["probability"] is None
                assert row["label"] is None
                names = ("field", "kind", "expected", "mend")
                assert row["error"] == [{n: e[n] for n in names} for e in told["errors"]]
            else:
                assert row["error"] is None
                assert row["probability"] == pytest.approx(told["probability"], abs=1e-12)
                for name in ("prediction", "label", "panel"):
                    assert row[name] == told[name]
                assert row["calibration_range"] == pytest.approx(told["calibration_range"])


WORDS = {"age": 54, "sex": "female", "cp": "atypical angina", "fbs": False, "restecg": "normal"}


@pytest.mark.parametrize("media", FORMATS)
def test_words_and_booleans_mean_their_codes(service, media):
    numbers = {"age": 54, "sex": 0, "cp": 2, "fbs": 0, "restecg": 0}
    table = pl.DataFrame([WORDS])
    body = {
        JSON: as_json([WORDS]),
        NDJSON: json.dumps(WORDS).encode(),
        CSV: table.write_csv().encode(),
        ARROW: ipc(table),
    }

    answer = post(service, media, body[media])

    expected = service.post("/predict", json=numbers).json()["probability"]
    assert rows_of(answer)[0]["probability"] == pytest.approx(expected, abs=1e-12)


def ipc(table, **options):
    buffer = io.BytesIO()
    table.write_ipc_stream(buffer, **options)
    return buffer.getvalue()


def arrow_types():
    sex, cp = ["male", "f", None, "no word"], ["asymptomatic", "nap", "normal", "st"]
    frame = pl.DataFrame({"age": [61, 50, None, 40], "sex": sex, "cp": cp, "ca": [None] * 4})
    coded = frame.with_columns(pl.col("sex", "cp").cast(pl.Categorical))
    table = frame.to_arrow()
    narrow = {"age": pa.array([61, 50, None, 40], pa.uint8()), "ca": pa.nulls(4)}
    texts = {n: pa.array(v).dictionary_encode() for n, v in (("sex", sex), ("cp", cp))}
    return {
        "views": ipc(frame),
        "large text": ipc(frame, compat_level=pl.CompatLevel.oldest()),
        "categories": ipc(coded),
        "text": as_stream(table.cast(pa.schema([*table.schema]))),
        "dictionaries": as_stream(pa.table({**narrow, **texts})),
        "half floats": as_stream(
            pa.table({"age": pa.array([61, 50, None, 40], pa.float16()), "sex": sex, "cp": cp})
        ),
        "batches": as_stream(pa.table({"age": [61, 50, None, 40], "sex": sex, "cp": cp}), 1),
    }


def as_stream(table, rows=None, **options):
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema, **options) as stream:
        stream.write_table(table, rows)
    return buffer.getvalue()


def test_one_arrow_schema_after_another_is_read_as_itself_each_time(service):
    one = pa.table({"age": [63.0], "sex": [1.0], "cp": [4.0]})
    turned = one.select(["cp", "sex", "age"])
    foreign = one.rename_columns(["age", "sex", "beard"])

    def told(table):
        stream = io.BytesIO()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        answer = service.post(
            "/v1/predict/batch",
            content=stream.getvalue(),
            headers={"Content-Type": ARROW, "Accept": JSON},
        )
        return answer.status_code, answer.json().get("rows")

    answers = [told(table) for table in (one, foreign, turned, one, foreign)]

    assert [status for status, _ in answers] == [200, 422, 200, 200, 422]
    assert answers[0] == answers[2] == answers[3]


@pytest.mark.parametrize("name", arrow_types())
def test_every_arrow_type_that_can_hold_a_patient_is_read(service, name):
    answer = post(service, ARROW, arrow_types()[name], accept=JSON)

    rows = answer.json()["rows"]
    as_words = [{"age": 61, "sex": "male", "cp": "asymptomatic"}, {"age": 50, "sex": 0, "cp": 3}]
    for row, patient in zip(rows[:2], as_words, strict=True):
        expected = service.post("/predict", json=patient).json()["probability"]
        assert row["probability"] == pytest.approx(expected, abs=1e-12)
    kinds = [[(e["field"], e["kind"]) for e in row["error"]] for row in rows[2:]]
    assert kinds == [
        [("age", "missing"), ("sex", "missing"), ("cp", "code")],
        [("sex", "code"), ("cp", "code")],
    ]


@pytest.mark.parametrize("media", FORMATS)
def test_kaggles_codes_are_converted_when_said_so(service, media):
    kaggle = {**whole({"age": 48, "sex": 1, "cp": 0, "trestbps": 120, "thal": 2, "ca": 4})}
    uci = {"age": 48, "sex": 1, "cp": 4, "trestbps": 120, "thal": 3}

    answer = post(service, media, BODIES[media]([kaggle]), query="?coding=kaggle")

    expected = service.post("/predict", json=uci).json()["probability"]
    assert rows_of(answer)[0]["probability"] == pytest.approx(expected, abs=1e-12)


def test_a_json_bodys_own_coding_comes_before_the_querys(service):
    body = {"coding": "kaggle", "records": [{"age": 48, "sex": 1, "cp": 0}]}

    answer = service.post(DOOR + "?coding=uci", json=body)

    assert answer.json()["rows"][0]["error"] is None


def test_values_in_the_sources_order_are_the_named_record(service):
    listed = {"values": list(whole(PATIENT).values())}

    answer = service.post(DOOR, json={"records": [listed, listed]})

    expected = service.post("/predict", json=PATIENT).json()["probability"]
    assert [row["probability"] for row in answer.json()["rows"]] == [expected, expected]


def test_rows_of_any_other_shape_are_refused_in_their_place(service):
    records = [PATIENT, 5, [], {"values": [1]}, {**PATIENT, "cholesterol": 1}, {"age": "63"}]

    rows = service.post(DOOR, json={"records": records}).json()["rows"]

    assert rows[0]["probability"] is not None
    found = [[(e["field"], e["kind"]) for e in row["error"]] for row in rows[1:]]
    assert found == [
        [("records", "type")],
        [("records", "type")],
        [("values", "type")],
        [("cholesterol", "unknown")],
        [("age", "type"), ("sex", "missing"), ("cp", "missing")],
    ]


def test_a_model_without_the_bedside_panel_refuses_rows_it_has_no_panel_for(tmp_path):
    tiny_bundle.write(tmp_path, panels=("exercise", "imaging"))
    with started(Settings(models_dir=tmp_path, log_level="ERROR")) as running:
        rows = running.post(DOOR, json={"records": [{"age": 50, "sex": 1, "cp": 1}, PATIENT]})

    first, second = rows.json()["rows"]
    assert [e["field"] for e in first["error"]] == ["thalach", "exang", "oldpeak"]
    assert second["panel"] == "exercise"


def test_a_row_the_policy_abstains_from_says_why(tmp_path):
    tiny_bundle.write(tmp_path, abstain_when=(STRADDLE,))
    table = [whole({"age": age, "sex": 1, "cp": 4}) for age in range(20, 100)]
    with started(Settings(models_dir=tmp_path, max_records=100, log_level="ERROR")) as running:
        answers = {media: post(running, media, BODIES[media](table)) for media in FORMATS}

    abstained = []
    for row in rows_of(answers[JSON]):
        straddles = (
            row["calibration_range"][0] < tiny_bundle.THRESHOLD <= row["calibration_range"][1]
        )
        assert (row["abstain"], row["prediction"] is None) == (
            (ABSTAIN_REASONS[STRADDLE], True) if straddles else (None, False)
        )
        abstained.append(straddles)
    assert set(abstained) == {True, False}
    for media in FORMATS:
        assert rows_of(answers[media]) == rows_of(answers[JSON])


# -- the end and the names -------------------------------------------------------------------


@pytest.mark.parametrize("accept", FORMATS)
def test_an_answer_names_its_model_and_ends_with_its_mark(service, accept):
    answer = post(service, JSON, as_json([PATIENT, BAD]), accept=accept)

    bundle = service.app.state.loaded.bundle
    assert answer.headers["X-Model-Version"] == bundle.version
    counts = {"complete": True, "answered": 1, "refused": 1, "problem": None}
    if accept == ARROW:
        stream = pa.ipc.open_stream(answer.content)
        assert stream.schema.metadata[b"model_digest"].decode() == bundle.digest
        assert answer.content.endswith(b"\xff\xff\xff\xff\x00\x00\x00\x00")
        assert pl.read_ipc_stream(answer.content).height == 2
    elif accept == CSV:
        assert answer.text.splitlines()[0] == CsvWriter.HEADER
        assert answer.text.endswith("\n# complete: answered 1, refused 1\n")
    else:
        text = answer.text if accept == JSON else answer.text.splitlines()[-1]
        summary = json.loads(text)["summary"]
        assert summary.items() >= counts.items()
        assert summary["model_version"] == bundle.version
        assert summary["threshold"] == tiny_bundle.THRESHOLD


def test_the_documents_example_and_every_json_answer_match_the_schema(service):
    document = service.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/Rows", "components": document["components"]}

    answer = service.post(DOOR, json=batch_schemas.EXAMPLE).json()

    jsonschema.Draft202012Validator(schema).validate(answer)
    assert [row["error"] is None for row in answer["rows"]] == [True, True, False]


def test_the_texts_of_the_documentation_are_answered(service):
    blocks = batch_schemas.TEXT.split("\n\n")
    texts = [b.replace("    ", "") for b in blocks if b.startswith("    ")]

    ndjson = post(service, NDJSON, texts[0])
    as_csv = post(service, CSV, texts[1])

    assert [r["probability"] for r in rows_of(ndjson)] == [
        r["probability"] for r in rows_of(as_csv)
    ]
    assert [r["error"] for r in rows_of(ndjson)] == [None, None]


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("*/*", NDJSON),
        ("text/csv", CSV),
        ("text/*", CSV),
        ("application/json;q=0.2, text/csv;q=0.9", CSV),
        ("application/*;q=0.5, text/csv;q=0.4", NDJSON),
        ("*/*, application/x-ndjson;q=0", JSON),
        ("image/png, application/json;q=0.1", JSON),
        ("APPLICATION/JSON", JSON),
    ],
)
def test_the_type_that_is_wanted_most_is_given(service, accept, given):
    answer = post(service, NDJSON, json.dumps(PATIENT), accept=accept)

    assert answer.headers["content-type"].partition(";")[0] == given


# -- broken bodies ---------------------------------------------------------------------------

GOOD_ARROW = batch_bodies.as_arrow([whole(PATIENT)])
LINE = json.dumps(PATIENT)
DATES = pa.table({"age": pa.array([5], pa.date32()), "sex": [1], "cp": [1]})
TWICE_ESCAPED = b'{"records":[{"age":50,"sex":1,"cp":1,"\\u0061ge":5}]}'
TWICE_WITH_WORD = b'{"records":[{"age":50,"sex":"m","cp":1,"age":51}]}'
HEAD = "age,sex,cp\n"
BROKEN = {
    "not JSON": (JSON, b"{", 400),
    "torn JSON": (JSON, as_json([PATIENT])[:-5], 400),
    "JSON with NaN": (JSON, as_json([PATIENT]).replace(b"250", b"NaN"), 400),
    "JSON with a name twice": (JSON, b'{"records":[{"age":50,"sex":1,"cp":1,"age":51}]}', 400),
    "a name twice, once escaped": (JSON, TWICE_ESCAPED, 400),
    "a name twice beside a word": (JSON, TWICE_WITH_WORD, 400),
    "values twice": (JSON, b'{"records":[{"values":[1],"values":[2]}]}', 400),
    "records twice": (JSON, b'{"records":[],"records":[{"age":50,"sex":1,"cp":1}]}', 400),
    "deep JSON": (JSON, b'{"records":' + b"[" * 5_000, 400),
    "UTF-16": (JSON, as_json([PATIENT]).decode().encode("utf-16"), 400),
    "no records": (JSON, b'{"age":50,"sex":1,"cp":1}', 422),
    "empty records": (JSON, b'{"records":[]}', 422),
    "other members": (JSON, b'{"records":[{"age":50,"sex":1,"cp":1}],"extra":1}', 422),
    "wrong coding": (JSON, b'{"records":[{"age":50,"sex":1,"cp":1}],"coding":"x"}', 422),
    "too many records": (JSON, as_json([{"age": 50, "sex": 1, "cp": 1}] * 5_001), 422),
    "too large": (JSON, b" " * 2_000_001, 413),
    "empty NDJSON": (NDJSON, b"\n\n", 422),
    "torn line": (NDJSON, f"{LINE}\n{LINE[:-9]}", 400),
    "two records a line": (NDJSON, LINE + LINE, 400),
    "NDJSON with NaN": (NDJSON, LINE.replace("250", "NaN"), 400),
    "NDJSON with a name twice": (NDJSON, '{"age":50,"sex":1,"cp":1,"age":51}', 400),
    "torn UTF-8": (NDJSON, LINE.encode() + b'\n{"age\xc3', 400),
    "huge line": (NDJSON, LINE + " " * 70_000, 400),
    "huge line without end": (NDJSON, b"[" * 900_000, 400),
    "deep line": (NDJSON, b'{"age":' + b"[" * 5_000, 400),
    "empty CSV": (CSV, b"", 422),
    "CSV without rows": (CSV, HEAD, 422),
    "CSV without header": (CSV, "50,1,1\n", 422),
    "unknown column": (CSV, "age,sex,cp,cholesterol\n50,1,1,200\n", 422),
    "column twice": (CSV, "age,sex,cp,age\n50,1,1,50\n", 422),
    "required column missing": (CSV, "age,sex\n50,1\n", 422),
    "open quote": (CSV, HEAD + '50,"1,1\n', 400),
    "text after a quote": (CSV, HEAD + '50,"1"2,1\n', 400),
    "CSV not UTF-8": (CSV, HEAD.encode() + b"50,\xff,1\n", 400),
    "huge CSV line": (CSV, HEAD + "50,1," + "1" * 70_000, 400),
    "not Arrow": (ARROW, b"age,sex,cp\n1,1,1\n", 400),
    "Arrow file": (ARROW, b"ARROW1\x00\x00" + GOOD_ARROW, 400),
    "torn Arrow": (ARROW, GOOD_ARROW[:-20], 400),
    "Arrow without end": (ARROW, GOOD_ARROW[:-8], 400),
    "Arrow that goes on": (ARROW, GOOD_ARROW + b"\x00", 400),
    "lz4": (ARROW, as_stream(pa.table({"age": [50.0] * 99, "sex": [1] * 99, "cp": [1] * 99}),
                             options=pa.ipc.IpcWriteOptions(compression="lz4")), 400),
    "zstd": (ARROW, as_stream(pa.table({"age": [50.0] * 99, "sex": [1] * 99, "cp": [1] * 99}),
                              options=pa.ipc.IpcWriteOptions(compression="zstd")), 400),
    "many rows of nothing": (ARROW, as_stream(pa.table({n: pa.nulls(9) for n in NAMES})), 422),
    "nested column": (ARROW, as_stream(pa.table({"age": [50], "sex": [[1]], "cp": [1]})), 422),
    "dates": (ARROW, as_stream(DATES), 422),
    "no rows": (ARROW, as_stream(pa.table({n: pa.array([], pa.float64()) for n in NAMES})), 422),
    "large dictionary": (ARROW, as_stream(pa.table({"age": [50] * 10_001, "cp": [1] * 10_001,
        "sex": pa.array([str(n) for n in range(10_001)]).dictionary_encode()})), 400),
    "large batch": (ARROW, ipc(pl.DataFrame({n: [1.0] * 180_000 for n in NAMES})), 400),
    "empty Arrow": (ARROW, b"", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_body_broken_as_a_whole_is_a_problem(service, name):
    media, content, status = BROKEN[name]

    answer = post(service, media, content)

    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_refused_before_they_are_opened(service, codec):
    answer = post(service, *BROKEN[codec][:2])

    assert "write it without compression" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "text/csv; charset=latin-1"}, 415),
        ({"Content-Type": NDJSON, "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": NDJSON, "Accept": "image/png"}, 406),
        ({"Content-Type": NDJSON, "Accept": "application/x-ndjson;q=0, text/csv;q=x"}, 406),
    ],
)
def test_what_cannot_be_read_or_written_is_refused_by_its_header(service, headers, status):
    answer = service.post(DOOR, content=LINE, headers=headers)

    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)


def test_a_message_tells_the_line_and_no_value(service):
    answer = post(service, NDJSON, f'{LINE}\n\n{LINE}\n{{"age": 61, "secret": }}')

    assert answer.json()["detail"].startswith("line 4: ")
    assert "secret" not in answer.text


def test_without_a_model_there_is_no_answer(bare_client):
    assert post(bare_client, NDJSON, LINE).status_code == 503


def test_csv_is_read_as_people_write_it(service):
    text = (
        '\ufeffage,"sex", cp,chol,oldpeak\r\n"61",male,"asymptomatic",NA,.5\r\n\r\n50, 0,3,?,\r\n'
    )

    rows = rows_of(post(service, CSV, text.encode()))

    first = service.post("/predict", json={"age": 61, "sex": 1, "cp": 4, "oldpeak": 0.5})
    second = service.post("/predict", json={"age": 50, "sex": 0, "cp": 3})
    assert [row["probability"] for row in rows] == pytest.approx(
        [first.json()["probability"], second.json()["probability"]], abs=1e-12
    )


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_arrow_stream_is_an_answer_or_a_clean_4xx(service, data):
    body = bytearray(data.draw(st.sampled_from([GOOD_ARROW, *arrow_types().values()])))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))

    answer = post(service, ARROW, bytes(body), accept=JSON)

    assert answer.status_code < 500
    media = JSON if answer.status_code == 200 else MEDIA_TYPE
    assert answer.headers["content-type"] == media


# -- streams ---------------------------------------------------------------------------------


class Exchange:
    """One request straight to the application: its body made part by part while it answers."""

    def __init__(self, app, media, parts, *, accept="*/*", after_part=None):
        self.app, self.media, self.accept = app, media, accept
        self.parts, self.asked, self.after_part = iter(parts), 0, after_part
        self.status, self.size, self.last, self.kept = 0, 0, b"", []
        self.asked_at_first_byte = None

    async def _receive(self):
        part = next(self.parts, None)
        self.asked += 1
        if self.after_part and part is not None:
            self.after_part(self.asked)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.asked_at_first_byte = self.asked
            return
        self.size += len(message["body"])
        self.last = (self.last + message["body"])[-1_000:]
        if self.size < 5_000_000:
            self.kept.append(message["body"])

    def run(self):
        headers = [(b"content-type", self.media.encode()), (b"accept", self.accept.encode())]
        scope = {
            "type": "http", "method": "POST", "path": DOOR, "raw_path": DOOR.encode(),
            "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("test", 80),
            "asgi": {"version": "3.0"},
        }  # fmt: skip
        asyncio.run(self.app(scope, self._receive, self._send))
        return self


ROWS = [
    whole({**PATIENT, "age": 30 + n % 50, "chol": None if n % 3 else 200}) for n in range(1_000)
]


def parts_of(media, thousands):
    """A body of so many thousand rows in parts of 64 kB."""
    content = batch_bodies.AS[media](ROWS)
    head, tail = b"", b""
    if media == CSV:
        head, _, content = content.partition(b"\r\n")
        head, content = head + b"\r\n", content + b"\r\n"
    if media == ARROW:
        size = 8 + int.from_bytes(content[4:8], "little")
        head, content, tail = content[:size], content[size:-8], content[-8:]
    yield head
    for _ in range(thousands):
        for start in range(0, len(content), 65_536):
            yield content[start : start + 65_536]
    yield tail


@pytest.mark.parametrize("media", [NDJSON, CSV, ARROW])
def test_a_long_stream_is_answered_as_it_comes_within_a_bounded_memory(service, media):
    thousands = 40
    tracemalloc.start()

    got = Exchange(service.app, media, parts_of(media, thousands)).run()

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert got.status == 200
    assert got.size > 2_000_000
    assert peak < 40_000_000
    assert got.asked_at_first_byte < 0.5 * got.asked
    if media == ARROW:
        assert got.last.endswith(b"\xff\xff\xff\xff\x00\x00\x00\x00")
    else:
        count = f"{thousands * 1_000}".encode()
        assert b'"answered":' + count in got.last or b"# complete: answered " + count in got.last


def test_a_peak_of_memory_does_not_grow_with_the_stream(service):
    peaks = []
    for thousands in (10, 40):
        tracemalloc.start()
        Exchange(service.app, NDJSON, parts_of(NDJSON, thousands)).run()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < 1.5 * peaks[0] + 6_000_000  # the exchange keeps 5 MB of the answer


@pytest.mark.parametrize("accept", FORMATS)
def test_what_breaks_after_answers_went_out_is_told_at_the_end(service, accept):
    def parts():
        yield from parts_of(NDJSON, 10)
        yield b'{"age": 50,'

    got = Exchange(service.app, NDJSON, parts(), accept=accept).run()

    content = b"".join(got.kept)
    assert got.status == 200
    if accept == ARROW:
        for read in (
            lambda: pa.ipc.open_stream(content).read_all(),
            lambda: pl.read_ipc_stream(content),
        ):
            with pytest.raises((pa.ArrowInvalid, pl.exceptions.ComputeError)):
                read()
    elif accept == CSV:
        assert content.splitlines()[-1].startswith(b"# incomplete: answered ")
        assert b"line 10001" in content.splitlines()[-1]
    else:
        text = content if accept == JSON else content.splitlines()[-1]
        summary = json.loads(text)["summary"]
        assert summary["complete"] is False
        assert summary["problem"]["type"] == "urn:heartdx:problem:malformed-json"


def test_a_stream_beyond_the_limit_of_rows_stops(service):
    got = Exchange(service.app, CSV, parts_of(CSV, 61)).run()

    assert b"# incomplete: " in got.last
    assert b"more than 60000 rows" in got.last


def test_a_swap_in_between_does_not_mix_models(models_dir, tmp_path):
    tiny_bundle.write(tmp_path, slant=-1.0)
    app = create_app(Settings(models_dir=models_dir, log_level="ERROR", poll_seconds=0))
    other = predictor.load(Settings(models_dir=tmp_path))

    async def exchange():
        async with app.router.lifespan_context(app):
            mine = app.state.loaded

            def swap(asked):
                app.state.loaded = mine if asked % 2 else other

            got = Exchange(app, NDJSON, parts_of(NDJSON, 10), after_part=swap)
            return mine, await asyncio.to_thread(got.run)

    mine, got = asyncio.run(exchange())
    rows = [json.loads(line) for line in b"".join(got.kept).splitlines()]
    again = [row["probability"] for row in rows[:-1]]
    assert rows[-1]["summary"]["model_version"] == mine.bundle.version
    assert again[:1_000] * 10 == again


def test_a_slow_reader_is_left(service):
    async def never_read(message):
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def pieces():
        yield b"row"

    answer = batch.Streamed(pieces(), batch.Progress(), patience=0.01)

    with pytest.raises(batch.ClientDisconnect):
        asyncio.run(answer({}, None, never_read))


# -- what is counted -------------------------------------------------------------------------


def test_rows_are_counted_and_nothing_of_them_is_logged(client, log_lines):
    before = client.get("/metrics").text

    post(client, NDJSON, "\n".join(json.dumps(row) for row in (PATIENT, BAD, PATIENT)))

    line = log_lines.requests()[-1]
    assert (line["panels"], line["refused_rows"]) == ({"exercise": 2}, 1)
    name = 'heartdx_rejected_fields_total{field="chol",kind="range"}'
    assert number(client.get("/metrics").text, name) == number(before, name) + 1


def number(exposition, name):
    found = [line for line in exposition.splitlines() if line.startswith(name + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0
