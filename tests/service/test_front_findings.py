"""The hot path under a bug of its own: the routes answer, or their outermost door says 500."""

import json
import logging

import pytest
import tiny_bundle
from service_kit import PATIENT, LogLines, started

from heartdx import bundle as bundles
from heartdx import logs
from heartdx.bundle import Equation
from heartdx.records import decode_record, table
from heartdx.serve import compiled, front, predictor
from heartdx.serve.phrases import Phrases
from heartdx.settings import Settings


def broken(*_):
    raise RuntimeError("zq9x")


@pytest.fixture
def models_dir(tmp_path):
    tiny_bundle.write(tmp_path)
    return tmp_path


def expected(models_dir):
    bundle = bundles.load(bundles.current_folder(models_dir))
    return float(bundle.score(table([decode_record(PATIENT)])).probability[0])


def asked(models_dir, detail):
    """The answer, and what the log says meanwhile."""
    with started(Settings(models_dir=models_dir)) as client:
        client.raise_server_exceptions = False
        handler = LogLines(client.app.lines.flush)
        logging.getLogger(logs.LOGGER).addHandler(handler)
        try:
            return client.post(f"/predict?detail={detail}", json=PATIENT), handler.lines
        finally:
            logging.getLogger(logs.LOGGER).removeHandler(handler)


def test_a_compiled_model_that_raises_leaves_the_patient_to_the_route(models_dir, monkeypatch):
    # What ONNX Runtime raises derives from RuntimeError or Exception, not from ValueError.
    monkeypatch.setattr(front, "score_one", lambda bundle: broken)

    answer, lines = asked(models_dir, "standard")

    assert answer.status_code == 200
    assert answer.json()["probability"] == pytest.approx(expected(models_dir), abs=1e-12)
    assert "zq9x" not in "".join(lines)


@pytest.mark.parametrize(("piece", "detail"), [("full", "full"), ("standard", "standard")])
def test_text_that_cannot_be_made_leaves_the_patient_to_the_route(
    models_dir, monkeypatch, piece, detail
):
    monkeypatch.setattr(Phrases, piece, broken)

    answer, _ = asked(models_dir, detail)

    assert answer.status_code == 200
    assert answer.json()["probability"] == pytest.approx(expected(models_dir), abs=1e-12)


def test_what_fails_on_both_roads_is_a_counted_logged_500_that_tells_nothing(
    models_dir, monkeypatch
):
    monkeypatch.setattr(front, "score_one", lambda bundle: broken)
    probability = Equation.probability
    with started(Settings(models_dir=models_dir)) as client:
        client.raise_server_exceptions = False
        monkeypatch.setattr(Equation, "probability", broken)
        answer = client.post("/predict", json=PATIENT)
        monkeypatch.setattr(Equation, "probability", probability)
        shown = client.get("/metrics").text

    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:heartdx:problem:internal-error"
    assert 'api_requests_total{endpoint="/predict",http_status="500",method="POST"} 1.0' in shown


@pytest.mark.parametrize("panel", ["bedside", "exercise", "imaging"])
def test_a_compiled_panel_that_differs_is_refused_before_it_serves(models_dir, monkeypatch, panel):
    equation = compiled._equation
    monkeypatch.setattr(
        compiled,
        "_equation",
        lambda document, one, names: [
            *equation(document, one, names),
            *(["probability = probability + 0.01"] if one.name == panel else []),
        ],
    )

    assert predictor.load(Settings(models_dir=models_dir)).bundle is None


def test_behind_a_prefix_the_hot_path_answers_too(models_dir):
    from starlette.testclient import TestClient

    from heartdx.serve import create_app

    with TestClient(create_app(Settings(models_dir=models_dir)), root_path="/heart") as client:
        answer = client.post(
            "/heart/predict",
            content=json.dumps(PATIENT),
            headers={"content-type": "application/json"},
        )
        counts = client.app.counts

        assert answer.status_code == 200
        assert counts.row[counts.places.answered["/predict"]] == 1
