"""What MLflow holds after a run, and that a tracker that is away costs nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from heartdx import records
from heartdx.contract import NAMES, PANEL_NAMES


@pytest.fixture(scope="module")
def client(trained):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{trained.folder / 'mlruns' / 'mlflow.db'}")


@pytest.fixture(scope="module")
def runs(client) -> dict:
    experiment = client.get_experiment_by_name("heartdx")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


@pytest.fixture(scope="module")
def final(runs, trained):
    return runs[f"train {trained.bundle.version}"]


def test_one_run_for_each_candidate_and_one_for_the_final_model(runs, final) -> None:
    children = set(runs) - {final.info.run_name}

    assert children == {"prevalence", "age_sex", "logreg", "forest"}
    for name in children:
        assert runs[name].data.tags["mlflow.parentRunId"] == final.info.run_id


def test_runs_carry_parameters_metrics_and_tags(runs, final, trained) -> None:
    report = json.loads((trained.reports / "metrics.json").read_text())

    assert final.data.params["splits"] == "2"
    assert final.data.params["imaging.model"] == report["panels"]["imaging"]["choice"]["candidate"]
    assert float(runs["logreg"].data.params["bedside.C"]) > 0
    assert int(runs["forest"].data.params["exercise.min_samples_leaf"]) > 0
    for panel in PANEL_NAMES:
        chosen = report["panels"][panel]["choice"]["candidate"]
        auc = report["panels"][panel]["candidates"][chosen]["cross_validation"]["auc"]
        assert final.data.metrics[f"{panel}.auc"] == pytest.approx(auc["value"], abs=1e-6)
    for key in ("code_version", "contract_fingerprint", "bundle_digest", "data_sha256"):
        assert final.data.tags[key]
    assert final.data.tags["bundle_digest"] == trained.bundle.digest
    assert all(math.isfinite(v) for run in runs.values() for v in run.data.metrics.values())


def test_figures_reports_and_the_dataset_with_its_digest_are_logged(client, final) -> None:
    figures = {item.path for item in client.list_artifacts(final.info.run_id, "figures")}
    reports = {item.path for item in client.list_artifacts(final.info.run_id, "reports")}

    assert "figures/roc_imaging.png" in figures
    assert reports == {
        f"reports/{name}"
        for name in ("metrics.json", "training.md", "evaluation.json", "evaluation.html")
    }  # out_of_fold.csv, a line for each patient, stays on disk
    (dataset,) = [entry.dataset for entry in final.inputs.dataset_inputs]
    assert dataset.name == "heart.csv"
    assert dataset.digest


def test_the_model_is_registered_as_champion_and_answers_like_the_bundle(
    client, trained, loaded
) -> None:
    import mlflow

    version = client.get_model_version_by_alias("heartdx", "champion")
    assert version.tags["bundle_digest"] == trained.bundle.digest
    mlflow.set_tracking_uri(f"sqlite:///{trained.folder / 'mlruns' / 'mlflow.db'}")

    model = mlflow.pyfunc.load_model("models:/heartdx@champion")

    X = loaded.frame[list(NAMES)]
    answers = model.predict(X.iloc[:60])
    expected = trained.bundle.score(X.to_numpy(dtype=float)[:60])
    np.testing.assert_array_equal(answers["probability"], expected.probability)
    assert list(answers["panel"][:1]) == [expected.panel_name(0)]


def test_the_signature_names_the_contract_and_lets_gaps_through(trained) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{trained.folder / 'mlruns' / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/heartdx@champion")
    inputs = model.metadata.signature.inputs

    assert inputs.input_names() == list(NAMES)
    assert inputs.required_input_names() == list(records.ALWAYS_REQUIRED)
    assert {str(kind) for kind in inputs.input_types()} == {"DataType.double"}
    example = model.input_example
    assert list(example.columns) == list(NAMES)
    assert len(example) == 3


def test_a_tracking_server_that_is_away_never_costs_the_trained_model(
    trained_at_cleveland,
) -> None:
    assert (trained_at_cleveland.models / "current").is_file()
    assert "tracking failed, the trained model is safe" in trained_at_cleveland.output
    assert "HEARTDX_TRACKING=off" in trained_at_cleveland.output
    assert not (trained_at_cleveland.folder / "mlruns").exists()
