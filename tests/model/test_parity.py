"""scikit-learn, score.json, ONNX and HTTP give one answer: all patients, codes, gaps.

A logistic regression agrees within 1e-9. A forest agrees within 1e-6: ONNX sums its votes in
double and hands the sum over as float32.
"""

from __future__ import annotations

import json

import joblib
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from starlette.testclient import TestClient

from heartdx import bundle, export, records
from heartdx.contract import NAMES, PANEL_BY_NAME, PANELS
from heartdx.errors import VerificationError
from heartdx.serve import create_app
from heartdx.settings import Settings

TOLERANCE = {"logreg": 1e-9, "forest": 1e-6}


def tolerance(served) -> float:
    return TOLERANCE[served.models["bedside"].model]


def test_the_bundle_answers_all_920_patients_as_scikit_learn_does(served) -> None:
    scored = served.bundle.score(served.X)

    assert len(scored.probability) == 920
    difference = np.abs(scored.probability - served.pipeline_probability(served.X))
    assert difference.max() <= tolerance(served)


@pytest.mark.parametrize("panel", [panel.name for panel in PANELS])
def test_onnx_answers_as_scikit_learn_on_patients_codes_unknown_codes_and_gaps(
    served, panel: str
) -> None:
    model = served.models[panel]
    content = (served.bundle.folder / panel / bundle.ONNX).read_bytes()
    X = export.probing_rows(model.panel, served.X)

    y_prob = bundle.OnnxModel(content, model.panel.inputs).probability(X)

    assert np.abs(y_prob - model.pipeline.predict_proba(X)[:, 1]).max() <= 1e-6


@pytest.mark.parametrize("panel", [panel.name for panel in PANELS])
def test_random_values_between_the_training_values_agree_too(served, panel: str) -> None:
    """Values that fall on a tree's rounded threshold would differ without the float32 step."""
    model = served.models[panel]
    generator = np.random.default_rng(0)
    base = export.probing_rows(model.panel, served.X)
    X = base[generator.integers(0, len(base), 20_000)]
    numbers = [i for i, name in enumerate(model.panel.inputs) if name in ("oldpeak", "age", "chol")]
    X[:, numbers] = np.round(
        X[:, numbers] + generator.choice([0, 0.05, 0.5], X[:, numbers].shape), 2
    )
    content = (served.bundle.folder / panel / bundle.ONNX).read_bytes()

    y_prob = bundle.OnnxModel(content, model.panel.inputs).probability(X)

    assert np.abs(y_prob - model.pipeline.predict_proba(X)[:, 1]).max() <= 1e-6


@pytest.mark.parametrize("panel", [panel.name for panel in PANELS])
def test_the_onnx_inputs_carry_the_contracts_names(served, panel: str) -> None:
    session = onnxruntime.InferenceSession(str(served.bundle.folder / panel / bundle.ONNX))

    assert tuple(i.name for i in session.get_inputs()) == PANEL_BY_NAME[panel].inputs
    assert {i.type for i in session.get_inputs()} == {"tensor(double)"}
    assert [o.name for o in session.get_outputs()] == ["probabilities", "label"]


def test_http_answers_all_920_patients_as_scikit_learn_does(served) -> None:
    rows = [
        {name: None if np.isnan(value) else value for name, value in zip(NAMES, row, strict=True)}
        for row in served.X
    ]

    with TestClient(create_app(Settings(models_dir=served.models_dir))) as client:
        answer = client.post("/predict", json={"records": rows}).json()
        alone = [client.post("/predict", json=row).json() for row in rows[::23]]

    expected = served.pipeline_probability(served.X)
    assert np.abs(np.array(answer["probabilities"]) - expected).max() <= tolerance(served)
    singles = np.array([a["probability"] for a in alone])
    assert np.abs(singles - expected[::23]).max() <= tolerance(served)


def test_a_csv_row_and_the_same_patient_as_json_make_the_same_table(heart_csv, loaded) -> None:
    raw = records.read_file(heart_csv)
    from_json = []
    for row in raw.rows:
        cells = dict(zip(raw.header, map(records.cell, row), strict=True))
        body = json.loads(json.dumps({name: cells[name] for name in NAMES}))
        from_json.append(records.decode_record(body))

    np.testing.assert_array_equal(
        records.table(from_json), loaded.frame[list(NAMES)].to_numpy(dtype=float)
    )


def test_the_joblib_pipeline_is_the_same_model_and_needs_no_project_class(served) -> None:
    import pickletools

    for panel in PANELS:
        path = served.bundle.folder / panel.name / export.JOBLIB
        again = joblib.load(path)
        required = [NAMES.index(name) for name in panel.required]
        rows = served.X[~np.isnan(served.X[:, required]).any(axis=1)][:, panel.columns]
        expected = served.models[panel.name].pipeline.predict_proba(rows)
        frame = pd.DataFrame(rows, columns=list(panel.inputs))

        np.testing.assert_array_equal(again.predict_proba(frame.to_numpy()), expected)
        import pickle

        names = {
            str(argument)
            for _, argument, _ in pickletools.genops(pickle.dumps(again))
            if isinstance(argument, str)
        }
        assert not {name for name in names if name.startswith("heartdx")}


def test_the_equation_in_score_json_can_be_computed_by_hand(logreg) -> None:
    document = json.loads((logreg.bundle.folder / "bedside" / bundle.EQUATION).read_text())
    patient = {"age": 63, "sex": 1, "cp": 4, "trestbps": 145, "chol": None, "fbs": 1, "restecg": 2}

    values = {n: document["impute"].get(n) if v is None else v for n, v in patient.items()}
    log_odds = document["intercept"]
    for term in document["terms"]:
        value = values[term["attribute"]]
        if "code" in term:
            log_odds += term["coefficient"] * (value == term["code"])
        else:
            log_odds += term["coefficient"] * (value - term["center"]) / term["scale"]
    by_hand = 1 / (1 + np.exp(-log_odds))

    scored = logreg.bundle.score(records.table([records.decode_record(patient)]))
    assert scored.probability[0] == pytest.approx(by_hand, abs=1e-12)
    assert scored.panel_name(0) == "bedside"


def test_a_patient_alone_and_in_a_batch_gets_the_same_answer(served) -> None:
    whole = served.bundle.score(served.X).probability

    alone = np.array([served.bundle.score(row[None, :]).probability[0] for row in served.X[::50]])

    np.testing.assert_allclose(alone, whole[::50], rtol=0, atol=tolerance(served))


def test_only_what_a_panel_may_lack_is_imputed(logreg) -> None:
    for panel in PANELS:
        document = json.loads((logreg.bundle.folder / panel.name / bundle.EQUATION).read_text())

        used = {term["attribute"] for term in document["terms"]}
        assert set(document["impute"]) == used - set(panel.required)
        assert "ca" not in document["impute"]
    assert document["impute"], "imaging is tuned inside one hospital, on all inputs"


def test_an_export_that_differs_is_refused(logreg) -> None:
    """The parity check can fail: one changed coefficient stops the bundle."""
    model = logreg.models["exercise"]
    scoring = export.export(model, logreg.X, threshold=0.5)
    document = json.loads(scoring.equation)
    document["terms"][0]["coefficient"] += 1e-4
    wrong = export.Exported(json.dumps(document).encode(), scoring.onnx)

    with pytest.raises(VerificationError, match="differs from the fitted pipeline"):
        export.verify(model, wrong, logreg.X)
