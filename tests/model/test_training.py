"""A training run as a person sees it: what it writes, repeats, refuses and survives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from heartdx import bundle
from heartdx.contract import OUTCOME, PANEL_NAMES, fingerprint
from heartdx.performance import METRICS

TRAIN = [sys.executable, "-m", "heartdx.cli", "train"]
SMALL = ["--cv-splits", "2", "--repeats", "1", "--jobs", "1", "--no-tracking"]
CANDIDATES = ["prevalence", "age_sex", "logreg", "forest", "procedure"]


def train(data: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*TRAIN, "--data", str(data), *SMALL, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


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
        simplest_is_near = (
            losses["logreg"] - min(losses.values()) <= choice["standard_error"] + 1e-6
        )

        assert choice["candidate"] == ("logreg" if simplest_is_near else "forest")


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
    trained, heart_csv, tmp_path
) -> None:
    finished = train(heart_csv, tmp_path, "--jobs", "2")

    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "models/current").read_text() == (trained.models / "current").read_text()
    one = (tmp_path / "reports/metrics.json").read_bytes()
    assert one == (trained.reports / "metrics.json").read_bytes()


def test_cleveland_alone_trains_and_says_that_transfer_is_not_estimable(
    heart_csv, tmp_path
) -> None:
    finished = train(heart_csv, tmp_path, "--site", "cleveland", "--harm-ratio", "4")

    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "reports/metrics.json").read_text())
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

    finished = train(noise, tmp_path)

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
        (["--cv-splits", "200"], "use fewer --cv-splits", 3),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    heart_csv, tmp_path, options: list[str], message: str, code: int
) -> None:
    finished = train(heart_csv, tmp_path, *options)

    assert finished.returncode == code
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "models").exists()


def test_kill_9_at_any_moment_leaves_the_old_model_whole(trained, heart_csv, tmp_path) -> None:
    """Another seed makes another model; whenever it dies, what is current verifies."""
    import shutil

    models = tmp_path / "models"
    shutil.copytree(trained.models, models)
    writer = (
        "import sys; from pathlib import Path; from heartdx import bundle, export, atomic\n"
        "import json, shutil, hashlib\n"
        "models = Path(sys.argv[1]); current = bundle.current_folder(models)\n"
        "print('ready', flush=True)\n"
        "for number in range(10**6):\n"
        "    target = models / 'bundles' / hashlib.sha256(str(number).encode()).hexdigest()\n"
        "    with atomic.folder(target) as draft:\n"
        "        shutil.copytree(current, draft, dirs_exist_ok=True)\n"
        "    export.promote(models, current.name)\n"
    )
    generator = random.Random(1)
    for _ in range(12):
        command = [sys.executable, "-c", writer, str(models)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(generator.uniform(0, 0.12))
            os.kill(process.pid, signal.SIGKILL)

        assert bundle.load(bundle.current_folder(models)).digest == trained.bundle.digest
        for folder in (models / "bundles").glob("[0-9a-f]*"):
            assert bundle.load(folder).digest == trained.bundle.digest
