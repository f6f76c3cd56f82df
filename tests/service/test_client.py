"""The Python client: what it gives back, what it asks again, and what it never says."""

from __future__ import annotations

import asyncio
import http.server
import itertools
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import polars as pl
import pytest
from service_kit import PATIENT, Served

from heartdx import bundle as bundles
from heartdx.client import (
    ONCE,
    AsyncClient,
    Client,
    RefusedError,
    Retries,
    ServiceError,
    ServiceUnavailableError,
    UnexpectedAnswerError,
)
from heartdx.contract import NAMES, fingerprint
from heartdx.errors import FieldProblem, HeartdxError, RecordError, UsageError
from heartdx.records import decode_record, table
from heartdx.serve import create_app
from heartdx.settings import Settings

QUICK = Retries(first_wait=0.001, longest_wait=0.002)
SECRET = 487.123
"""A cholesterol that no message may hold."""


class Awaited:
    """An ``AsyncClient`` to be called like a ``Client``: each call in an event loop of its own."""

    def __init__(self, *given: Any, **more: Any):
        self._given, self._more = given, more

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*given: Any, **more: Any) -> Any:
            async with AsyncClient(*self._given, **self._more) as service:
                return await getattr(service, name)(*given, **more)

        return lambda *given, **more: asyncio.run(ask(*given, **more))

    def close(self) -> None:
        """Nothing is left open."""


KINDS = {"Client": Client, "AsyncClient": Awaited}


@pytest.fixture(params=KINDS)
def kind(request) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind; all are closed after the test."""
    made: list[Any] = []

    def make(*given: Any, **more: Any) -> Any:
        made.append(KINDS[request.param](*given, **more))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture(scope="module")
def served(models_dir) -> Iterator[Served]:
    running = Served({"HEARTDX_MODELS_DIR": str(models_dir), "HEARTDX_MAX_RECORDS": "50"})
    running.wait_until_alive()
    yield running
    running.stop()


@pytest.fixture
def service(kind, served):
    return kind(served.url)


@pytest.fixture
def bundle(models_dir):
    return bundles.load(bundles.current_folder(models_dir))


def reference(bundle, *patients) -> list[float]:
    """What the bundle itself computes."""
    return bundle.score(table([decode_record(p) for p in patients])).probability.tolist()


# -- answers of the real service ---------------------------------------------------------------


def test_a_prediction_is_what_the_bundle_computes_with_who_answered(service, bundle):
    answer = service.predict(PATIENT)

    [probability] = reference(bundle, PATIENT)
    assert answer.probability == pytest.approx(probability, abs=1e-12)
    assert answer.prediction == (probability >= bundle.threshold)
    assert (answer.model_name, answer.model_version) == (bundle.name, bundle.version)
    low, high = answer.calibration_range
    assert low <= high
    assert (answer.panel, answer.unused_inputs, answer.abstain) == ("exercise", (), False)
    assert answer.reasons is None


def test_a_full_prediction_has_reasons_that_add_up_to_its_log_odds(service, bundle):
    answer = service.predict(PATIENT, detail="full")

    log_odds = math.log(answer.probability / (1 - answer.probability))
    parts = [part.log_odds for part in answer.reasons.contributions]
    assert answer.reasons.base + sum(parts) == pytest.approx(log_odds, abs=1e-9)
    assert answer.model.digest == bundle.digest
    assert set(answer.data_quality.missing) == set(NAMES) - set(PATIENT)


def test_a_bare_prediction_has_numbers_and_names_only(service):
    answer = service.predict(PATIENT, detail="none")

    assert 0 < answer.probability < 1
    assert answer.threshold is answer.panel is answer.model_version is None


def test_the_request_id_goes_through(service):
    assert service.predict(PATIENT, request_id="ward-7.42").request_id == "ward-7.42"


def test_nan_and_numpy_numbers_and_another_coding_are_understood(service, bundle):
    plain = {"age": 48, "sex": 1, "cp": 0, "thal": 2}
    given = {**plain, "age": np.float64(48), "sex": np.int64(1), "chol": float("nan")}

    answer = service.predict(given, coding="kaggle")

    assert answer.probability == service.predict({**plain, "coding": "kaggle"}).probability


def test_a_batch_longer_than_a_request_comes_back_in_order(service, bundle):
    patients = [{**PATIENT, "age": 30 + place % 40} for place in range(70)]
    patients[65] = {**PATIENT, "chol": 5}

    answer = service.predict_batch(patients, max_rows=30)

    good = [patient for place, patient in enumerate(patients) if place != 65]
    assert [row.row for row in answer.rows] == list(range(70))
    assert [row.probability for row in answer.answered] == pytest.approx(reference(bundle, *good))
    assert {row.model_version for row in answer.rows} == {bundle.version}
    [refused] = answer.refused
    [problem] = refused.error
    assert (refused.row, refused.probability) == (65, None)
    assert (problem.field, problem.kind) == ("chol", "range")


class Until:
    """The real service for so many requests; then another answer, or a broken connection."""

    def __init__(self, served: Served, requests: int, answer: tuple[int, str] | None):
        self._served, self._left, self._answer = served, requests, answer
        self.transport = httpx2.MockTransport(self._answered)

    def _answered(self, request: httpx2.Request) -> httpx2.Response:
        self._left -= 1
        if self._left < 0 and self._answer is None:
            raise httpx2.ReadError("cut", request=request)
        if self._left < 0:
            status, kind = self._answer
            problem = {"type": f"urn:heartdx:problem:{kind}", "detail": "no"}
            media = {"content-type": "application/problem+json"}
            return httpx2.Response(status, headers=media, content=json.dumps(problem).encode())
        headers = {name: request.headers[name] for name in ("content-type", "accept")}
        target = self._served.url + request.url.raw_path.decode()
        given = httpx2.post(target, content=request.read(), headers=headers)
        return httpx2.Response(given.status_code, headers=given.headers, content=given.content)


MIDWAY = [
    pytest.param((503, "stopped"), ServiceUnavailableError, id="stopped"),
    pytest.param((422, "invalid-input"), RefusedError, id="refused"),
    pytest.param((500, "internal"), UnexpectedAnswerError, id="failed"),
    pytest.param(None, ServiceUnavailableError, id="cut"),
]


@pytest.mark.parametrize(("answer", "error"), MIDWAY)
def test_a_batch_that_fails_midway_gives_the_answers_it_had(kind, served, bundle, answer, error):
    patients = [{**PATIENT, "age": 30 + place} for place in range(45)]
    service = kind("http://service", retries=ONCE, transport=Until(served, 2, answer).transport)

    with pytest.raises(error, match="20 of 45 patients were answered before") as midway:
        service.predict_batch(patients, max_rows=10)

    had = midway.value.answered
    assert [row.row for row in had] == list(range(20))
    assert [row.probability for row in had] == pytest.approx(reference(bundle, *patients[:20]))


@pytest.mark.parametrize(("answer", "error"), MIDWAY)
def test_a_table_that_fails_midway_gives_the_rows_it_had(kind, served, bundle, answer, error):
    patients = [{**PATIENT, "age": 30 + place} for place in range(45)]
    service = kind("http://service", retries=ONCE, transport=Until(served, 2, answer).transport)

    with pytest.raises(error, match="20 of 45 patients were answered before") as midway:
        service.predict_table(as_polars(patients), max_rows=10)

    had = midway.value.table
    assert had["row"].to_list() == list(range(20))
    assert had["probability"].to_list() == pytest.approx(reference(bundle, *patients[:20]))


def test_a_batch_that_fails_at_once_has_answered_nobody(kind, served):
    service = kind("http://service", transport=Until(served, 0, (401, "unauthorized")).transport)

    with pytest.raises(RefusedError) as batch:
        service.predict_batch([PATIENT])
    with pytest.raises(RefusedError) as whole_table:
        service.predict_table(as_polars([PATIENT]))

    assert (batch.value.answered, whole_table.value.table) == ((), None)
    assert "answered" not in f"{batch.value} {whole_table.value}"


def test_a_value_that_cannot_be_sent_stops_a_batch_before_its_first_part(kind):
    patients = [PATIENT] * 5 + [{**PATIENT, "chol": math.inf}]

    with pytest.raises(RecordError, match="record 5, chol"):
        kind("http://127.0.0.1:9").predict_batch(patients, max_rows=2)


def test_a_batch_of_nobody_is_no_request(kind):
    assert kind("http://127.0.0.1:9").predict_batch([]).rows == ()


def as_polars(patients):
    return pl.DataFrame(patients, strict=False)


def as_pandas(patients):
    return pd.DataFrame(patients)


@pytest.mark.parametrize("frame", [as_polars, as_pandas])
def test_a_table_is_answered_row_by_row(service, bundle, frame):
    patients = [{**PATIENT, "age": 30 + p, "chol": None if p % 3 else 250} for p in range(9)]
    patients[4] = {**patients[4], "trestbps": 9_000}

    answer = service.predict_table(frame(patients), max_rows=5)

    good = [patient for place, patient in enumerate(patients) if place != 4]
    known = answer.filter(pl.col("error").is_null())
    assert answer["row"].to_list() == list(range(9))
    assert known["probability"].to_list() == pytest.approx(reference(bundle, *good))
    assert set(answer["model_version"]) == {bundle.version}
    [error] = answer.filter(pl.col("error").is_not_null())["error"]
    assert json.loads(error)[0]["field"] == "trestbps"


def test_words_in_a_pandas_table_are_understood(service):
    frame = pd.DataFrame({"age": [54, 61], "sex": ["female", "male"], "cp": [2, 4]})

    assert service.predict_table(frame)["error"].to_list() == [None, None]


def test_a_table_without_rows_is_told(service):
    with pytest.raises(UsageError, match="no row"):
        service.predict_table(pl.DataFrame({"age": []}))


def test_the_model_the_contract_and_the_health_have_types(service, bundle):
    assert service.model().digest == bundle.digest
    assert list(service.model().panels) == list(bundle.scorers)
    assert service.schema().fingerprint == fingerprint()
    assert [a["name"] for a in service.schema().attributes] == list(NAMES)
    assert service.health().panels == tuple(bundle.scorers)
    assert service.ready().is_ready
    assert service.ready().model_version == bundle.version


def test_the_asynchronous_client_answers_many_at_once_in_this_process(models_dir, bundle):
    app = create_app(Settings(models_dir=models_dir))

    async def ask() -> list[float]:
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            AsyncClient("http://service", transport=transport) as service,
        ):
            asked = [service.predict({**PATIENT, "age": age}) for age in range(40, 60)]
            return [answer.probability for answer in await asyncio.gather(*asked)]

    patients = [{**PATIENT, "age": age} for age in range(40, 60)]
    assert asyncio.run(ask()) == pytest.approx(reference(bundle, *patients), abs=1e-12)


# -- refusals ----------------------------------------------------------------------------------


def test_a_refusal_names_field_and_mend_and_no_value(service):
    patient = {**PATIENT, "chol": SECRET * 100, "cp": SECRET}

    with pytest.raises(RefusedError) as refused:
        service.predict(patient, request_id="r-1")

    error = refused.value
    assert [(problem.field, problem.kind) for problem in error.problems] == [
        ("cp", "code"),
        ("chol", "range"),
    ]
    assert (error.kind, error.status, error.request_id) == ("invalid-input", 422, "r-1")
    assert "chol: expected a number from" in str(error)
    assert "487" not in "".join(map(str, [error, error.problems, error.__cause__]))


def test_what_json_cannot_say_is_refused_before_it_is_sent(kind):
    nowhere = kind("http://127.0.0.1:9")

    with pytest.raises(RecordError, match=r"^record 1, chol: expected a number from"):
        nowhere.predict_batch([PATIENT, {**PATIENT, "chol": float("inf")}])
    with pytest.raises(RecordError, match="fbs: expected"):
        nowhere.predict({**PATIENT, "fbs": {1}})


@pytest.mark.parametrize("unfit", ["", "a b", "x" * 65, "a\r\nb"])
def test_an_unfit_request_id_is_refused_before_it_is_sent(kind, unfit):
    with pytest.raises(UsageError, match="1 to 64"):
        kind("http://127.0.0.1:9").predict(PATIENT, request_id=unfit)


def test_an_address_without_a_scheme_is_told():
    with pytest.raises(UsageError, match="begin with http"):
        Client("localhost:8000")


@pytest.mark.parametrize("unfit", ["", "two words", "line\n", "schlüssel"])
def test_a_key_that_no_header_could_carry_is_refused_unseen(unfit):
    with pytest.raises(UsageError) as refused:
        Client("http://service", api_key=unfit)

    assert str(refused.value) == (
        "the API key should be printable ASCII without spaces or line ends"
    )


# -- a service that is busy, absent or strange ---------------------------------------------------

BUSY = ("overloaded", "the service works on as much as it can; ask again")
ANSWER = {"probability": 0.25, "prediction": 0, "label": "no", "prediction_id": "p-1",
          "request_id": "r-1", "invented_later": {"deep": [1]}}  # fmt: skip
DROP = None
Said = tuple[int, dict[str, str], str] | None


def problem(status: int, told: tuple[str, str], **headers: str) -> Said:
    kind, detail = told
    body = {"type": f"urn:heartdx:problem:{kind}", "title": "T", "status": status}
    document = {**body, "detail": detail, "request_id": "r-9"}
    return status, {"Content-Type": "application/problem+json", **headers}, json.dumps(document)


def page(status: int, text: str, media: str = "text/html") -> Said:
    return status, {"Content-Type": media}, text


GOOD: Said = page(200, json.dumps(ANSWER), "application/json")


class Fake:
    """A server that says what it was told to, one thing for each request; the last one again."""

    def __init__(self, *said: Said):
        fake, self.asked = self, 0
        self.headers: list[dict[str, str]] = []
        lines = itertools.chain(said, itertools.repeat(said[-1]))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                fake.asked += 1
                fake.headers.append({k.lower(): v for k, v in self.headers.items()})
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                line = next(lines)
                if line is not DROP:
                    status, headers, text = line
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text.encode())

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *given: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def fake() -> Iterator[Callable[..., Fake]]:
    running: list[Fake] = []

    def start(*said: Said) -> Fake:
        running.append(Fake(*said))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_service_is_asked_again_until_it_answers(kind, fake, status):
    server = fake(*[problem(status, BUSY)] * 3, GOOD)

    answer = kind(server.url, retries=QUICK).predict(PATIENT)

    assert answer.probability == 0.25
    assert server.asked == 4


def test_members_of_a_later_release_are_passed_over(kind, fake):
    server = fake(GOOD)

    assert kind(server.url).predict(PATIENT).label == "no"


def test_a_service_that_stays_busy_is_an_error_with_its_reason(kind, fake):
    server = fake(problem(503, ("stopped", "predictions are stopped: recall of lot 7")))

    with pytest.raises(ServiceUnavailableError) as given_up:
        kind(server.url, retries=QUICK).predict(PATIENT)

    error = given_up.value
    assert (error.kind, error.tries, error.status) == ("stopped", QUICK.tries, 503)
    assert error.request_id == "r-9"
    assert "asked 5 times: predictions are stopped: recall of lot 7" in str(error)
    assert server.asked == QUICK.tries


@pytest.mark.parametrize(
    "in_one_second", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)]
)
def test_retry_after_is_waited_for(fake, in_one_second):
    server = fake(problem(503, BUSY, **{"Retry-After": in_one_second()}), GOOD)
    began = time.monotonic()

    with Client(server.url, retries=QUICK) as service:
        service.predict(PATIENT)

    assert time.monotonic() - began >= 1 - 0.05


def test_a_wait_that_would_be_too_long_is_not_begun(kind, fake):
    server = fake(problem(503, BUSY, **{"Retry-After": "2"}), GOOD)

    with pytest.raises(ServiceUnavailableError, match="asked once"):
        kind(server.url, retries=Retries(within=1.9)).predict(PATIENT)

    assert server.asked == 1


def test_the_waits_double_up_to_a_longest_one_and_follow_the_draw():
    retries = Retries(first_wait=0.5, longest_wait=3)

    assert [retries.wait(n, share=1) for n in (1, 2, 3, 4, 5, 5_000)] == [0.5, 1, 2, 3, 3, 3]
    assert [retries.wait(n, share=0.25) for n in (1, 2)] == [0.125, 0.25]


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 415, 422])
def test_no_other_refusal_is_asked_again(kind, fake, status):
    server = fake(problem(status, ("some-kind", "mend it so")), GOOD)

    with pytest.raises(RefusedError, match=r"\(some-kind\): mend it so"):
        kind(server.url, retries=QUICK).predict(PATIENT)

    assert server.asked == 1


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_service_that_failed_is_not_asked_again(kind, fake, status):
    server = fake(page(status, "<h1>oops</h1>"), GOOD)

    with pytest.raises(UnexpectedAnswerError, match=str(status)):
        kind(server.url, retries=QUICK).predict(PATIENT)

    assert server.asked == 1


def test_a_connection_that_breaks_after_the_request_is_told_and_not_repeated(kind, fake):
    server = fake(DROP, GOOD)

    with pytest.raises(ServiceUnavailableError, match="interrupted"):
        kind(server.url, retries=QUICK).predict(PATIENT)

    assert server.asked == 1


@pytest.mark.parametrize("failure", [httpx2.ConnectError, httpx2.ConnectTimeout])
def test_a_service_that_is_not_there_yet_is_waited_for(kind, failure):
    asked = []

    def late(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        if len(asked) < 3:
            raise failure("refused", request=request)
        return httpx2.Response(200, json=ANSWER)

    answer = kind("http://service", retries=QUICK, transport=httpx2.MockTransport(late)).predict(
        PATIENT
    )

    assert answer.probability == 0.25
    assert len(asked) == 3


def test_a_service_that_stays_away_is_an_error_and_not_ready(kind):
    absent = kind("http://127.0.0.1:9", retries=QUICK)

    with pytest.raises(ServiceUnavailableError) as given_up:
        absent.predict(PATIENT)

    assert (given_up.value.kind, given_up.value.tries) == ("unreachable", QUICK.tries)
    assert absent.ready().reason == "unreachable (ConnectError)"


def test_a_slow_answer_is_a_timeout_and_not_repeated(kind):
    def slow(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("slow", request=request)

    with pytest.raises(ServiceUnavailableError, match=r"timeout.*asked once"):
        kind("http://service", transport=httpx2.MockTransport(slow)).predict(PATIENT)


def test_a_service_without_a_model_says_so(kind, fake):
    server = fake(problem(503, ("no-model", "there is no model yet; run: make train")))

    told = kind(server.url).ready()

    assert (told.is_ready, told.reason) == (False, "there is no model yet; run: make train")
    with pytest.raises(ServiceUnavailableError, match=r"no-model.*asked once"):
        kind(server.url).health()


STRANGE: dict[str, Said] = {
    "a page": page(200, "<html>487.123</html>"),
    "no JSON": page(200, "487.123,", "application/json"),
    "another document": page(200, '{"answer": 487.123}', "application/json"),
    "a text for a number": page(
        200, json.dumps({**ANSWER, "probability": "487.123"}), "application/json"
    ),
    "a proxy's echo": page(400, "bad request: chol=487.123", "text/plain"),
    "a foreign problem": page(
        422, '{"type": "about:blank", "detail": "chol=487.123"}', "application/problem+json"
    ),
    "a moved page": page(301, "487.123"),
    "a damaged compression": (
        200,
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        "487.123",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_answer_of_the_service_is_said_so_without_its_text(kind, fake, name):
    server = fake(STRANGE[name])

    with pytest.raises(UnexpectedAnswerError) as strange:
        kind(server.url, retries=QUICK).predict({**PATIENT, "chol": SECRET})

    assert "487.1" not in f"{strange.value}{strange.value.__cause__}"
    assert server.asked == 1


CUT = {"complete": False, "model_name": "m", "model_version": "v", "threshold": 0.5}


@pytest.mark.parametrize("complete", [True, False])
def test_a_batch_that_lacks_rows_is_no_answer(kind, fake, complete):
    body = {"rows": [], "summary": {**CUT, "complete": complete}}
    server = fake(page(200, json.dumps(body), "application/json"))

    with pytest.raises(UnexpectedAnswerError, match="0 rows came for 1"):
        kind(server.url).predict_batch([PATIENT])


def test_a_torn_table_is_no_answer(kind, fake):
    server = fake(page(200, "torn", "application/vnd.apache.arrow.stream"))

    with pytest.raises(UnexpectedAnswerError, match="torn"):
        kind(server.url).predict_table(pl.DataFrame([PATIENT]))


def test_the_key_is_sent_and_shown_nowhere(kind, fake):
    server = fake(problem(401, ("unauthorized", "send a valid API key as X-API-Key")))
    service = kind(server.url, api_key="k-sesame", retries=QUICK)

    with pytest.raises(RefusedError) as refused:
        service.predict(PATIENT)

    assert server.headers[0]["x-api-key"] == "k-sesame"
    assert "sesame" not in f"{refused.value!r} {service!r}"


def test_once_is_never_again(kind, fake):
    server = fake(problem(503, BUSY), GOOD)

    with pytest.raises(ServiceUnavailableError):
        kind(server.url, retries=ONCE).predict(PATIENT)

    assert server.asked == 1


# -- the package -------------------------------------------------------------------------------


def test_every_error_is_one_that_a_user_can_mend():
    assert issubclass(ServiceError, HeartdxError)
    exits = {e: e.exit_code for e in (RefusedError, ServiceUnavailableError, UnexpectedAnswerError)}
    assert list(exits.values()) == [3, 7, 6]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_client_machine_needs_neither_the_service_nor_arrays():
    done = run("import sys, heartdx.client; print(*sys.modules)")

    loaded = set(done.stdout.split())
    assert "heartdx.client" in loaded
    assert not {"heartdx.serve", "heartdx.bundle", "numpy", "polars", "fastapi", "pandas"} & loaded


def test_without_the_extra_the_import_says_what_to_install():
    done = run("import sys; sys.modules['httpx2'] = None; import heartdx.client")

    assert done.returncode == 1
    assert "pip install 'heartdx[client]'" in done.stderr.splitlines()[-1]


def test_a_long_refusal_is_cut():
    problems = tuple(FieldProblem("chol", "range", "x", "y", row) for row in range(8))

    assert str(RefusedError("k", "d", problems)).endswith(
        "record 4, chol: expected x; y; and 3 more"
    )


def test_both_clients_have_the_same_methods():
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
