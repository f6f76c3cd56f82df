"""The field's defects, and the tests that keep each of them out of here.

The table is checked: a test that is renamed or removed must be replaced in it. What no other
file shows stands below it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from starlette.testclient import TestClient

from heartdx.contract import NAMES
from heartdx.serve import create_app
from heartdx.settings import Settings

KEPT_OUT_BY: dict[str, tuple[str, ...]] = {
    "two codings of the same columns mixed up": (
        "spec/test_wild_files.py::test_the_stacked_1888_rows_are_refused_with_where_each_coding_stands",
        "unit/test_codings.py::test_two_codings_in_one_file_are_refused_with_columns_counts_and_lines",
        "unit/test_codings.py::test_uci_to_kaggle_to_uci_is_the_identity",
        "service/test_service_predict.py::test_codes_that_exist_only_in_kaggles_file_are_recognised",
        "service/test_service_predict.py::test_kaggle_codes_are_converted_on_demand",
        "model/test_parity.py::test_http_answers_all_920_patients_as_scikit_learn_does",
    ),
    "a patient lost to a header": (
        "spec/test_data_door.py::test_the_written_file_has_a_header_and_920_patients_in_site_order",
        "unit/test_codings.py::test_a_headerless_uci_file_loses_no_patient_to_a_header",
    ),
    "a selection that cannot fail": (
        "unit/test_choice.py::test_a_missing_candidate_is_an_error_and_never_a_silent_winner",
        "unit/test_choice.py::test_the_better_model_wins_when_it_is_clearly_better",
        "model/test_training.py::test_the_chosen_candidate_follows_from_the_printed_losses",
    ),
    "one lucky split": (
        "spec/test_field.py::test_one_split_can_say_anything_so_none_is_ever_reported",
        "model/test_training.py::"
        "test_every_panel_and_candidate_is_reported_with_every_metric_and_its_interval",
    ),
    "leakage from the scored patients": (
        "unit/test_resampling.py::test_what_is_fitted_never_depends_on_the_patients_it_will_score",
        "unit/test_resampling.py::test_labels_without_information_score_no_better_than_chance",
        "unit/test_resampling.py::test_ucis_own_duplicates_share_a_fold",
        "spec/test_wild_files.py::test_the_repeated_files_are_refused_by_strict_reading_with_the_count",
        "spec/test_wild_files.py::test_the_two_popular_files_are_recognised_and_their_fills_blanked",
    ),
    "Cleveland only": (
        "model/test_training.py::test_every_hospital_is_held_out_where_that_can_be_done",
        "model/test_training.py::test_every_pooled_auc_stands_beside_the_one_inside_hospitals",
    ),
    "a default number on failure": (
        "service/test_service_predict.py::"
        "test_a_sub_model_that_gives_no_probability_is_a_failure_without_a_number",
        "service/test_service_readiness.py::"
        "test_without_a_model_every_door_says_503_and_the_command",
        "model/test_bundle.py::test_a_patient_who_meets_no_panel_is_an_error_not_a_number",
    ),
    "health that cannot fail": (
        "service/test_service_readiness.py::"
        "test_without_a_model_every_door_says_503_and_the_command",
        "service/test_service_readiness.py::test_a_damaged_bundle_never_serves",
        "architecture/test_manifests.py::test_a_broken_manifest_is_reported",
    ),
    "metric labels from the raw path, exceptions uncounted, workers apart": (
        "service/test_service_telemetry.py::"
        "test_unknown_paths_and_methods_make_no_series_of_their_own",
        "service/test_service_telemetry.py::"
        "test_an_unexpected_exception_is_a_counted_500_that_tells_nothing",
        "service/test_service_workers.py::test_any_worker_reports_the_sum_of_both",
    ),
    "open doors: retraining, values in logs, CORS, pickles": (
        "spec/test_field.py::test_nothing_but_a_prediction_can_be_posted",
        "spec/test_field.py::test_the_service_cannot_unpickle",
        "service/test_service_refusals.py::"
        "test_a_refused_value_is_neither_in_the_answer_nor_in_the_log",
        "service/test_service_telemetry.py::test_each_request_has_one_log_line_without_values",
        "service/test_service_telemetry.py::test_every_answer_carries_nosniff_and_no_cors",
    ),
    "manifests that contradict the image": (
        "architecture/test_manifests.py::"
        "test_the_manifest_agrees_with_itself_the_image_and_the_service",
    ),
    "soft CI": ("architecture/test_workflow.py::test_no_gate_is_soft",),
}


@pytest.mark.parametrize("defect", KEPT_OUT_BY)
def test_each_defect_has_tests_that_exist(defect: str, repository: Path) -> None:
    for name in KEPT_OUT_BY[defect]:
        file, test = name.split("::")
        tree = ast.parse((repository / "tests" / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

        assert test in functions, name


def test_one_split_can_say_anything_so_none_is_ever_reported(loaded, trained) -> None:
    """100 single 80/20 splits of Cleveland differ by more than our 95 % interval is wide."""
    import json

    rows = (loaded.frame["site"] == "cleveland").to_numpy()
    X = loaded.frame.loc[rows, list(NAMES)].dropna()
    y = (loaded.frame.loc[X.index, "num"] > 0).astype(int)
    lottery = []
    for seed in range(100):
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, test_size=0.2, random_state=seed, stratify=y
        )
        mean, sd = X_train.mean(), X_train.std()
        model = LogisticRegression(max_iter=500).fit((X_train - mean) / sd, y_train)
        lottery.append(roc_auc_score(y_test, model.predict_proba((X_test - mean) / sd)[:, 1]))

    report = json.loads((trained.reports / "metrics.json").read_text())
    imaging = report["panels"]["imaging"]["candidates"]["procedure"]["cross_validation"]["auc"]
    assert max(lottery) - min(lottery) > imaging["high"] - imaging["low"]
    assert np.max(lottery) > imaging["high"]


def test_nothing_but_a_prediction_can_be_posted(tmp_path) -> None:
    with TestClient(create_app(Settings(models_dir=tmp_path))) as client:
        document = client.get("/openapi.json").json()

    writing = {
        (method, path)
        for path, methods in document["paths"].items()
        for method in methods
        if method not in {"get", "head"}
    }
    infer = "/v2/models/{model_name}"
    assert writing == {
        ("post", "/predict"),
        ("post", "/v1/predict"),
        ("post", "/v1/predict/batch"),
        ("post", "/invocations"),
        ("post", f"{infer}/infer"),
        ("post", f"{infer}/versions/{{model_version}}/infer"),
    }


def test_the_service_cannot_unpickle() -> None:
    """Even a class that runs code when it is unpickled has nothing here that would load it."""
    code = (
        "import sys, src.api, heartdx.bundle\n"
        "assert not {'joblib', 'cloudpickle', 'skops', 'sklearn'} & set(sys.modules)\n"
        "import ast, pathlib, heartdx\n"
        "root = pathlib.Path(heartdx.__file__).parent\n"
        "files = [root / 'bundle.py', *(root / 'serve').glob('*.py')]\n"
        "names = {a.name for f in files for n in ast.walk(ast.parse(f.read_text()))\n"
        "         if isinstance(n, ast.Import) for a in n.names}\n"
        "assert not {'pickle', 'joblib', 'marshal', 'shelve'} & names, names\n"
    )

    subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        check=True,
        timeout=60,
    )
