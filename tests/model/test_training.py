"""A training run as a person sees it: what it writes, repeats, refuses and survives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from heartdx import bundle
from heartdx.contract import OUTCOME, PANEL_NAMES, fingerprint
from heartdx.performance import METRICS
from training_kit import ONE_THREAD, train

UNTRACKED = "--no-tracking"
CANDIDATES = ["prevalence", "age_sex", "logreg", "forest", "procedure"]


@pytest.fixture(scope="session")
def metrics(trained) -> dict:
    return json.loads((trained.reports / "metrics.json").read_text())


def test_every_panel_and_candidate_is_reported_with_every_metric_and_its_interval(metrics) -> None:
    assert list(metrics["panels"]) == list(PANEL_NAMES)
    for panel in metrics["panels"].values():
        assert list(panel["candidates"]) == CANDIDATES
        for name in ("logreg", "forest", "procedure"):
            estimates = panel["candidates"][name]["cross_validation"]
            assert list(estimates) == list(METRICS)
            for metric, interval in estimates.items():
                assert interval["low"] <= interval["value"] <= interval["high"], metric


def test_every_pooled_auc_stands_beside_the_one_inside_hospitals(metrics) -> None:
    for name in ("bedside", "exercise"):
        within = metrics["panels"][name]["candidates"]["procedure"]["within_site_auc"]

        assert sorted(within["by_site"]) == ["cleveland", "hungary", "switzerland", "va"]
        estimate = metrics["panels"][name]["candidates"]["procedure"]["cross_validation"]
        assert estimate["auc_within"]["value"] == pytest.approx(within["mean"], abs=1e-5)
        assert within["mean"] == pytest.approx(np.mean(list(within["by_site"].values())), abs=1e-5)


def test_every_hospital_is_held_out_where_that_can_be_done(metrics) -> None:
    panels = metrics["panels"]

    for name in ("bedside", "exercise"):
        held_out = panels[name]["candidates"]["logreg"]["leave_one_site_out"]
        assert sorted(held_out) == ["cleveland", "hungary", "switzerland", "va"]
        assert "held-out hospitals" in panels[name]["choice"]["reason"]
    assert panels["imaging"]["candidates"]["logreg"]["leave_one_site_out"] == {}
    assert "transfer is not estimable" in panels["imaging"]["choice"]["reason"]


def test_panels_train_on_the_patients_who_meet_their_rule(metrics) -> None:
    patients = {name: panel["patients"] for name, panel in metrics["panels"].items()}

    assert patients == {"bedside": 920, "exercise": 857, "imaging": 299}


def test_the_chosen_candidate_follows_from_the_printed_losses(metrics) -> None:
    for panel in metrics["panels"].values():
        choice = panel["choice"]
        losses = choice["log_loss"]
        behind = losses["logreg"] - losses["forest"]

        assert {choice["candidate"], choice["compared_with"]} == {"logreg", "forest"}
        assert choice["standard_error"] > 0
        expected = "logreg" if behind <= choice["standard_error"] else "forest"
        assert choice["candidate"] == expected
        sign = 1 if expected == "logreg" else -1
        assert choice["difference"] == pytest.approx(sign * behind, abs=2e-6)


def test_models_and_reports_are_where_people_look(trained) -> None:
    digest = (trained.models / "current").read_text().strip()
    folder = trained.models / "bundles" / digest

    for panel in PANEL_NAMES:
        assert (folder / panel / "pipeline.joblib").stat().st_size > 0
        assert (folder / panel / "model.onnx").stat().st_size > 0
        assert (trained.models / "candidates" / f"{panel}-forest.joblib").is_file()
        assert (trained.models / "candidates" / f"{panel}-logreg.joblib").is_file()
        for figure in ("roc", "precision_recall", "calibration", "confusion", "coefficients"):
            picture = trained.reports / "figures" / f"{figure}_{panel}.png"
            assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Chosen: **" in (trained.reports / "training.md").read_text()
    assert trained.bundle.version in (folder / "card.md").read_text()


def test_the_manifest_says_where_the_model_comes_from(trained, heart_csv) -> None:
    import hashlib

    manifest = trained.bundle.manifest

    assert manifest["contract"]["fingerprint"] == fingerprint()
    assert manifest["data"]["sha256"] == hashlib.sha256(heart_csv.read_bytes()).hexdigest()
    assert manifest["data"]["patients"] == 920
    assert "numbers are UCI's codes; nothing converted" in manifest["data"]["findings"]
    assert manifest["threshold"] == 0.5
    assert manifest["harm_ratio"] == 1.0
    assert manifest["evaluation"] == {"splits": 2, "repeats": 1, "seed": 2024}
    assert set(manifest["libraries"]) == {"numpy", "scikit-learn", "onnx", "onnxruntime"}
    for panel in PANEL_NAMES:
        assert manifest["panels"][panel]["metrics"]["auc"]["low"] > 0.7
        assert manifest["panels"][panel]["reason"]


def test_a_long_command_shows_progress_and_ends_with_the_next_step(trained) -> None:
    assert "fits done" in trained.output
    assert "next: uvicorn src.api:app --host 0.0.0.0 --port 8000" in trained.output
    assert "is current" in trained.output


def test_the_same_data_and_seed_give_the_same_model_and_report_with_any_jobs(
    trained, trained_again
) -> None:
    model, report = (trained.models / "current"), (trained.reports / "metrics.json")

    assert (trained_again.models / "current").read_text() == model.read_text()
    assert (trained_again.reports / "metrics.json").read_bytes() == report.read_bytes()


def test_cleveland_alone_trains_and_says_that_transfer_is_not_estimable(
    trained_at_cleveland,
) -> None:
    report = json.loads((trained_at_cleveland.reports / "metrics.json").read_text())

    assert list(report["panels"]) == list(PANEL_NAMES)
    for panel in report["panels"].values():
        assert panel["sites"].keys() == {"cleveland"}
        assert "transfer is not estimable" in panel["choice"]["reason"]
    assert report["plan"]["threshold"] == 0.2


def test_a_model_no_better_than_chance_fails_its_gate_and_the_old_one_stays(
    trained, heart_csv, tmp_path
) -> None:
    import shutil

    shutil.copytree(trained.models, tmp_path / "models")
    before = (tmp_path / "models/current").read_text()
    frame = pd.read_csv(heart_csv)
    frame["age"] += 1  # no longer UCI's patients, whose labels are known
    generator = np.random.default_rng(0)
    frame[OUTCOME.name] = generator.permutation((frame[OUTCOME.name] > 0).astype(int))
    noise = tmp_path / "noise.csv"
    frame.to_csv(noise, index=False)

    finished = train(noise, tmp_path, "--site", "cleveland", UNTRACKED)

    assert finished.returncode == 4, finished.stderr
    assert "quality gates failed" in finished.stderr
    assert (tmp_path / "models/current").read_text() == before
    assert (tmp_path / "reports/metrics.json").is_file()


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: cannot be read", 7),
        (["--cv-splits", "1"], "expected a whole number of at least 2", 2),
        (["--harm-ratio", "-1"], "expected a ratio above 0", 2),
        (["--site", "berlin"], "invalid choice", 2),
        (["--cv-splits", "500"], "use fewer --cv-splits", 3),
        (["--seed", "4294967296"], "at most 1000000000", 2),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    heart_csv, tmp_path, options: list[str], message: str, code: int
) -> None:
    finished = train(heart_csv, tmp_path, UNTRACKED, *options)

    assert finished.returncode == code
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "models").exists()


WRITERS = """
import itertools, os, shutil, sys, time
from pathlib import Path
import joblib
import numpy as np
from heartdx import equations, export
from heartdx.contract import PANELS

models = Path(sys.argv[1])
candidates = models / "candidates"
pipelines = [joblib.load(candidates / f"{p.name}-logreg.joblib") for p in PANELS]
parts = [equations.PanelModel(p, "logreg", fitted, {})
         for p, fitted in zip(PANELS, pipelines, strict=True)]

def write_and_promote(turns):
    for turn in turns:
        made = export.write_bundle(parts, models_dir=models, threshold=0.5 + turn % 2 / 10,
            harm_ratio=1.0, facts={"turn": turn}, card="", seed=7,
            check_rows=np.full((1, 13), np.nan))
        export.promote(models, made.digest)
        if turn % 3 == 2:
            other = [f for f in (models / "bundles").iterdir() if f.name != made.digest]
            for folder in other: shutil.rmtree(folder)

def forked(turns):
    writer = os.fork()
    if not writer:
        write_and_promote(turns)
        os._exit(0)
    return writer

began = time.monotonic()
os.waitpid(forked(range(3)), 0)
print(time.monotonic() - began, flush=True)
for _ in sys.stdin:
    writer = forked(itertools.count())
    print(writer, flush=True)
    _, status = os.waitpid(writer, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def test_kill_9_at_any_moment_leaves_the_old_model_or_the_new_one_whole(
    loaded, trained, tmp_path
) -> None:
    """Processes write and promote two models in turn; whenever one dies, a model is whole.

    Each is forked from one that has imported all, and is alone when it is killed.
    """
    import shutil

    models = tmp_path / "models"
    shutil.copytree(trained.models, models)
    generator, seen = random.Random(1), set()
    with subprocess.Popen(
        [sys.executable, "-c", WRITERS, str(models)],
        env={**os.environ, **ONE_THREAD},  # a process of one thread can be forked
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writers:
        three_turns = float(writers.stdout.readline())
        for _ in range(15):
            writers.stdin.write("another\n")
            writers.stdin.flush()
            writer = int(writers.stdout.readline())
            time.sleep(generator.uniform(0, three_turns))
            os.kill(writer, signal.SIGKILL)
            ended = int(writers.stdout.readline())
            assert ended == -signal.SIGKILL, "the writer stopped by itself"

            current = bundle.load(bundle.current_folder(models))
            assert current.digest == (models / "current").read_text().strip()
            seen.add(current.threshold)
        writers.stdin.close()
    assert seen == {0.5, 0.6}


def test_a_panel_that_the_data_cannot_train_is_left_out_and_said(heart_csv, tmp_path) -> None:
    finished = train(heart_csv, tmp_path, "--site", "hungary", UNTRACKED)

    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "reports/metrics.json").read_text())
    assert list(report["panels"]) == ["bedside", "exercise"]
    assert "too few of one outcome" in report["skipped_panels"]["imaging"]
    made = bundle.load(bundle.current_folder(tmp_path / "models"))
    assert list(made.scorers) == ["bedside", "exercise"]
    card = (made.folder / "card.md").read_text()
    assert "Not trained: imaging" in card
    assert "294 patients (hungary 294). All are of UCI Heart Disease" in card
    assert "imaging: not trained" in finished.stdout


def test_a_hospital_whose_patients_teach_nothing_fails_its_gates(heart_csv, tmp_path) -> None:
    """Long Beach alone, two folds: no better than its prevalence, and told so with figures."""
    finished = train(heart_csv, tmp_path, "--site", "va", UNTRACKED)

    assert finished.returncode == 4, finished.stderr
    assert "bedside: better than prevalence only (difference in log loss" in finished.stderr


def test_too_few_healthy_patients_fail_the_gate_and_are_counted(heart_csv, tmp_path) -> None:
    finished = train(heart_csv, tmp_path, "--site", "switzerland", UNTRACKED)

    assert finished.returncode == 4, finished.stderr
    assert "enough patients (8 of the rarer outcome, needed 20)" in finished.stderr
    assert "refused by a gate" in (tmp_path / "reports/training.md").read_text()
    assert not (tmp_path / "models").exists()


def test_a_file_of_two_patients_is_refused_in_one_sentence(heart_csv, tmp_path) -> None:
    lines = heart_csv.read_text().splitlines()
    (tmp_path / "two.csv").write_text("\n".join(lines[:3]) + "\n")

    finished = train(tmp_path / "two.csv", tmp_path, UNTRACKED)

    assert finished.returncode == 3
    assert "too few of one outcome for 2 folds" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_what_the_card_and_the_manifest_say_is_of_the_model_that_is_served(trained) -> None:
    report = json.loads((trained.reports / "metrics.json").read_text())
    card = (trained.bundle.folder / "card.md").read_text()

    for name, panel in report["panels"].items():
        chosen = panel["candidates"][panel["choice"]["candidate"]]
        facts = trained.bundle.manifest["panels"][name]
        assert facts["model"] == panel["choice"]["candidate"]
        assert facts["metrics"] == chosen["cross_validation"]
        assert facts["held_out_hospitals"] == chosen["leave_one_site_out"]
        auc = chosen["cross_validation"]["auc"]
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        assert f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})" in row


def test_the_card_tells_another_hospitals_data_from_ucis(loaded, trained) -> None:
    import dataclasses

    from heartdx.evaluation.panels import Plan, Results
    from heartdx.train import card

    frame = loaded.frame.assign(site="berlin")
    elsewhere = dataclasses.replace(loaded, frame=frame, findings=())
    origin = {"data": {"sites": {"berlin": 920}}, "code_version": "x"}

    text = card.text(data=elsewhere, plan=Plan(), results=Results({}, {}), origin=origin)

    assert "920 patients (berlin 920)." in text
    assert "UCI" not in text
    assert "UCI Heart Disease" in (trained.bundle.folder / "card.md").read_text()


def test_the_forests_calibration_does_not_depend_on_the_order_of_the_rows(loaded) -> None:
    """Rows come sorted by hospital; folds in that order calibrated on other hospitals only."""
    from heartdx.contract import PANELS
    from heartdx.evaluation.panels import panel_patients
    from heartdx.pipelines import BY_CANDIDATE

    patients = panel_patients(PANELS[1], loaded)
    setting = {"min_samples_leaf": 6, "max_features": 0.25}
    slopes = {"as shipped": [], "shuffled": []}
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(len(patients.y))
        for name, rows in (("as shipped", np.arange(len(order))), ("shuffled", order)):
            pipeline = BY_CANDIDATE["forest"].pipeline(patients.panel, setting, seed=seed)
            pipeline.fit(patients.X[rows], patients.y[rows])
            (member,) = pipeline[-1].calibrated_classifiers_
            slopes[name].append(-member.calibrators[0].a_)

    difference = abs(np.mean(slopes["as shipped"]) - np.mean(slopes["shuffled"]))
    assert difference < 0.5 * np.std(slopes["as shipped"] + slopes["shuffled"]) + 0.1
