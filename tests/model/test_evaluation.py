"""The evaluation document of a training run: whole, repeatable, and recomputable by anyone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from heartdx.contract import PANEL_NAMES
from heartdx.evaluation import run, summary
from heartdx.performance import METRICS

TOP = {
    "schema", "kind", "heartdx_version", "model", "summary", "not_estimable", "findings", "methods",
    "metrics", "data", "plan", "candidates", "panels", "policy", "ladder", "missing", "lottery",
    "overlap", "gates",
}  # fmt: skip
SITES = ["cleveland", "hungary", "switzerland", "va"]


@pytest.fixture(scope="module")
def document(trained) -> dict:
    return json.loads((trained.reports / run.DOCUMENT).read_text())


@pytest.fixture(scope="module")
def out_of_fold(trained) -> list[dict[str, str]]:
    with (trained.reports / run.OUT_OF_FOLD).open() as stream:
        return list(csv.DictReader(stream))


def columns(rows: list[dict[str, str]], candidate: str) -> tuple[np.ndarray, np.ndarray]:
    y = np.array([float(row["disease"]) for row in rows])
    return y, np.array([float(row[candidate]) for row in rows])


def of(rows: list[dict[str, str]], **wanted: str) -> list[dict[str, str]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_training_always_leaves_a_whole_evaluation(trained, document) -> None:
    assert set(document) == TOP
    assert document["kind"] == "quick"
    assert list(document["panels"]) == list(PANEL_NAMES)
    assert list(document["metrics"]) == list(METRICS)
    page = (trained.reports / run.PAGE).read_text()
    for sentence in document["summary"][:2]:
        assert sentence.split(":")[0] in page


def test_the_document_follows_from_the_out_of_fold_probabilities(document, out_of_fold) -> None:
    for panel in PANEL_NAMES:
        for candidate in ("logreg", "forest", "age_sex"):
            rows = of(out_of_fold, panel=panel, protocol="cross-validation", repeat="0")
            y, y_prob = columns(rows, candidate)
            metrics = document["panels"][panel]["candidates"][candidate]["metrics"]

            assert metrics["auc"]["value"] == pytest.approx(roc_auc_score(y, y_prob), abs=2e-6)
            assert metrics["brier"]["value"] == pytest.approx(brier_score_loss(y, y_prob), abs=2e-6)


def test_held_out_hospitals_follow_from_them_too(document, out_of_fold) -> None:
    for site in SITES:
        rows = of(out_of_fold, panel="exercise", protocol="held-out hospital", site=site)
        y, y_prob = columns(rows, "logreg")
        held_out = document["panels"]["exercise"]["candidates"]["logreg"]["held_out"][site]

        assert held_out["auc"]["value"] == pytest.approx(roc_auc_score(y, y_prob), abs=2e-6)


def test_every_patient_of_a_panel_is_scored_once_a_repeat(document, out_of_fold) -> None:
    for panel in PANEL_NAMES:
        rows = of(out_of_fold, panel=panel, protocol="cross-validation", repeat="0")
        patients = [row["patient"] for row in rows]

        assert len(patients) == len(set(patients)) == document["panels"][panel]["patients"]


def test_the_out_of_fold_file_holds_no_attribute_of_a_patient(out_of_fold) -> None:
    assert list(out_of_fold[0])[:6] == ["panel", "protocol", "repeat", "patient", "site", "disease"]
    assert set(list(out_of_fold[0])[6:]) == {
        "prevalence",
        "age_sex",
        "logreg",
        "forest",
        "procedure",
    }


def test_all_patients_are_judged_under_the_panel_policy_in_every_held_out_hospital(
    document,
) -> None:
    policy = document["policy"]

    assert policy["patients"] == sum(policy["panels"].values()) == 920
    assert {site: part["patients"] for site, part in policy["held_out"].items()} == {
        "cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200,
    }  # fmt: skip
    assert all(part["panels"]["imaging"] == 0 for part in policy["held_out"].values())
    assert policy["metrics"]["auc_within"]["value"] == pytest.approx(
        np.mean(list(policy["within_sites"].values())), abs=2e-6
    )


def test_a_new_hospital_has_a_prediction_interval_wider_than_the_means(document) -> None:
    for pooled in document["policy"]["pooled"].values():
        assert pooled["hospitals"] == 4
        assert pooled["prediction"]["low"] < pooled["mean"]["low"]
        assert pooled["prediction"]["high"] > pooled["mean"]["high"]


def test_transfer_of_imaging_is_said_to_be_not_estimable(document) -> None:
    assert document["panels"]["imaging"]["pooled"] is None
    assert any("imaging panel" in sentence for sentence in document["not_estimable"])


def test_switzerlands_ladder_is_shown_and_not_gated(document) -> None:
    gated = {site: part["gated"] for site, part in document["ladder"].items()}

    assert gated == {"cleveland": True, "hungary": True, "switzerland": False, "va": True}


def test_local_recalibration_beats_the_local_prevalence_from_30_patients_on(document) -> None:
    """The promise of the ladder, in every hospital with enough of both outcomes."""
    for site in ("cleveland", "hungary", "va"):
        part = document["ladder"][site]
        for size, advantage in zip(part["sizes"], part["advantage"], strict=True):
            assert size < 30 or advantage["value"] < 0, (site, size)


def test_leaving_out_a_hospital_ranks_as_well_as_the_ten_input_regression(document) -> None:
    """Data facts: LogReg on ten inputs, imputed: AUC / Brier by hospital; within sampling error."""
    known = {
        "cleveland": (0.865, 0.157), "hungary": (0.887, 0.150),
        "switzerland": (0.733, 0.184), "va": (0.750, 0.166),
    }  # fmt: skip
    for site, (auc, brier) in known.items():
        metrics = document["policy"]["held_out"][site]["metrics"]
        assert metrics["auc"]["value"] > auc - 0.01, site
        assert metrics["brier"]["value"] < brier + 0.005, site


def test_no_rival_is_said_to_beat_plain_logistic_regression_unless_its_interval_does(
    document,
) -> None:
    turned = json.loads(json.dumps(document))
    forest = turned["panels"]["bedside"]["candidates"]["forest"]["difference"]
    forest["log_loss"] = {"value": -0.05, "low": -0.08, "high": -0.02}

    assert not any("is beaten by" in s for s in summary.sentences(document))
    assert any(
        s.startswith("bedside: in log loss plain logistic regression is beaten by random forest")
        for s in summary.sentences(turned)
    )


def test_gates_stand_in_the_document_with_reason_and_figure(document) -> None:
    assert all(gate["passed"] for gate in document["gates"])
    assert all(gate["reason"] and gate["figure"] for gate in document["gates"])
    names = {gate["name"] for gate in document["gates"]}
    assert "exercise: held-out switzerland" in names
    assert "imaging: export agrees with the fitted pipeline" in names


def test_the_same_run_gives_the_same_document(trained, trained_again) -> None:
    document = (trained.reports / run.DOCUMENT).read_bytes()

    assert (trained_again.reports / run.DOCUMENT).read_bytes() == document


def test_one_hospital_alone_is_evaluated_without_a_word_on_others(trained_at_cleveland) -> None:
    reports = trained_at_cleveland.reports

    found = json.loads((reports / run.DOCUMENT).read_text())

    assert found["policy"]["pooled"] is None
    assert found["policy"]["held_out"] == {}
    assert "What to expect in an unseen hospital cannot be estimated" in " ".join(found["summary"])
    written = [reports / run.PAGE, *(reports / run.FIGURES).glob("evaluation_*.png")]
    assert len(written) > 1
    assert all(path.stat().st_size for path in written)


def test_a_crash_between_two_files_leaves_each_whole(document, tmp_path: Path, monkeypatch) -> None:
    run.write(document, tmp_path)
    before = (tmp_path / run.PAGE).read_bytes()
    real = run.atomic.write_bytes

    def broken(path: Path, content: bytes) -> None:
        if path.suffix == ".html":
            raise OSError("disk full")
        real(path, content)

    monkeypatch.setattr(run.atomic, "write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        run.write({**document, "summary": ["another"]}, tmp_path)

    assert (tmp_path / run.PAGE).read_bytes() == before
    json.loads((tmp_path / run.DOCUMENT).read_text())
