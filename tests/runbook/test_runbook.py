"""The runbook is a promise: every command of README.md is run to the letter, or its reason is here.

The commands run in an environment made by real pip from requirements.txt, in a copy of what git
tracks, with nothing else on the path first.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fresh import answer, fresh_copy
from readme_numbers import metrics_table, transfer_table

from training_kit import ONE_THREAD

INSTALL = "pip install -r requirements.txt"
STEPS = (
    "python data/download_data.py --output data/raw/heart.csv",
    "python -m src.eda --data data/raw/heart.csv --out reports/figures",
    "python -m src.model_train --data data/raw/heart.csv --models-dir models --reports-dir reports",
)
SERVE = "uvicorn src.api:app --host 0.0.0.0 --port 8000"
CURL = "curl "
FRONT_DOOR = ("make pipeline", "make serve")
"""Run by tests/runbook/test_bootstrap.py and test_front_door.py in a fresh copy."""
EVIDENCE = (
    "heartdx evaluate --data data/raw/heart.csv",
    "heartdx report card",
    "heartdx report tripod",
    "heartdx report probast",
)
FULL = "heartdx evaluate --full"
"""Takes minutes: the nightly workflow runs it (`make check-evidence`); here it runs with the least
protocol."""
IMAGE = ("docker build -t heart-api .", "docker run -p 8000:8000 heart-api")
"""Run on a real engine by `make test-image` (tests/image), which .ci/run calls."""
MADE_ANEW = ("model_version", "prediction_id", "request_id")
"""Members of the printed answer that every run or answer makes anew."""
MINIKUBE = (
    'eval "$(minikube docker-env)"',
    "kubectl apply -f k8s/deployment.yaml",
    "kubectl get pods",
    "kubectl get svc heart-api",
    "kubectl port-forward svc/heart-api 8000:8000",
    "minikube service heart-api --url",
    "kubectl logs -f deploy/heart-api",
)
"""Need a cluster, which a test machine does not have: the manifest is checked strictly instead
(tests/architecture/test_manifests.py) and its container run under its own security context."""


def commands(repository: Path) -> list[str]:
    """Every line of every ``sh`` block of the README."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_of_the_readme_is_run_or_has_a_reason(repository: Path) -> None:
    known = {INSTALL, *STEPS, SERVE, *FRONT_DOOR, FULL, *EVIDENCE, *IMAGE, *MINIKUBE}

    for command in commands(repository):
        assert command in known or command.startswith(CURL), command


def test_the_readme_holds_the_whole_runbook(repository: Path) -> None:
    listed = commands(repository)

    for command in (INSTALL, *STEPS, SERVE, *IMAGE, *MINIKUBE):
        assert command in listed
    for address in ("http://127.0.0.1:8000/health", "http://127.0.0.1:8000/metrics"):
        assert f"{CURL}{address}" in listed


def test_the_image_commands_are_run_by_the_image_tests(repository: Path) -> None:
    tests = "\n".join(p.read_text() for p in (repository / "tests" / "image").glob("*.py"))

    for command in IMAGE:
        assert command in tests


class Newcomer:
    """A fresh copy, a fresh environment, a shell."""

    def __init__(self, folder: Path):
        self.folder = fresh_copy(folder / "heartdx")
        venv = folder / "venv"
        base = getattr(sys, "_base_executable", sys.executable)
        subprocess.run([base, "-m", "venv", str(venv)], check=True)
        # MLflow leaves its address in the environment of a process that used it.
        foreign = ("HEARTDX_", "MLFLOW_", "_MLFLOW_", "PYTEST", "MODEL_PATH")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        kept.pop("PYTHONPATH", None)
        self.environment = {
            **kept,
            "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(venv),
            "PIP_NO_COMPILE": "1",  # compiled at the first import instead: the same in less time
            **ONE_THREAD,
        }

    def run(self, command: str) -> subprocess.CompletedProcess:
        finished = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"
        return finished


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    made = Newcomer(tmp_path_factory.mktemp("newcomer"))
    made.run(INSTALL)
    for step in STEPS:
        made.run(step)
    return made


@pytest.fixture(scope="module")
def answers(newcomer: Newcomer, repository: Path) -> dict[str, str]:
    """What the running service answers to each ``curl`` of the README."""
    log = newcomer.folder / "serve.log"
    with log.open("wb") as lines:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {SERVE}"],
            cwd=newcomer.folder,
            env=newcomer.environment,
            stderr=lines,
            stdout=lines,
        )
    try:
        answer("http://127.0.0.1:8000/livez")
        assert process.poll() is None, f"the service ended: {log.read_text()}"
        answered = {
            command: newcomer.run(f"{command} --fail --silent --show-error").stdout
            for command in commands(repository)
            if command.startswith(CURL)
        }
        assert process.poll() is None, f"the service ended: {log.read_text()}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM  # uvicorn drains, then ends by the signal
    return answered


def test_the_runbook_leaves_data_reports_and_a_model(newcomer: Newcomer) -> None:
    lines = (newcomer.folder / "data/raw/heart.csv").read_text().splitlines()

    assert len(lines) == 921
    assert (newcomer.folder / "reports/eda.html").is_file()
    assert (newcomer.folder / "reports/metrics.json").is_file()
    digest = (newcomer.folder / "models/current").read_text().strip()
    assert (newcomer.folder / "models/bundles" / digest / "manifest.json").is_file()
    assert (newcomer.folder / "mlruns/mlflow.db").is_file()


def test_every_curl_of_the_readme_is_answered(answers: dict[str, str]) -> None:
    assert len(answers) == 3
    health, metrics, prediction = answers.values()

    assert json.loads(health)["model_name"] == "heartdx"
    assert "api_requests_total" in metrics
    assert json.loads(prediction)["panel"] == "exercise"


def test_the_readmes_answer_has_the_shape_and_number_that_it_prints(
    answers: dict[str, str], repository: Path
) -> None:
    (printed,) = re.findall(
        r"^```json\n(.*?)^```", (repository / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )

    answer = json.loads(next(text for command, text in answers.items() if "/predict" in command))

    expected = json.loads(printed)
    assert list(answer) == list(expected)
    assert round(answer["probability"], 2) == expected["probability"]
    assert [round(end, 2) for end in answer["calibration_range"]] == expected["calibration_range"]
    for key in set(expected) - {"probability", "confidence", "calibration_range", *MADE_ANEW}:
        assert answer[key] == expected[key]


def test_the_readmes_numbers_are_those_of_the_run(newcomer: Newcomer, repository: Path) -> None:
    report = json.loads((newcomer.folder / "reports/metrics.json").read_text())
    evaluation = json.loads((newcomer.folder / "reports/evaluation.json").read_text())
    readme = (repository / "README.md").read_text()

    assert metrics_table(report) in readme
    assert transfer_table(evaluation) in readme


def test_the_evidence_commands_run_and_say_what_they_found(newcomer: Newcomer) -> None:
    judged, card, tripod, probast = (newcomer.run(command).stdout for command in EVIDENCE)

    assert "every patient of this file trained the model" in judged
    assert (newcomer.folder / "reports/evaluation_heart.html").stat().st_size > 0
    assert card.startswith("# Model card")
    assert "27" in tripod
    assert "self-assessment" in probast.lower()


def test_the_full_evaluation_runs_with_the_least_protocol(newcomer: Newcomer) -> None:
    shorter = "--cv-splits 2 --repeats 1 --bootstraps 4 --reports-dir reports/least"

    newcomer.run(f"{FULL} {shorter}")

    document = json.loads((newcomer.folder / "reports/least/evaluation.json").read_text())
    assert document["kind"] == "full"
    for part in ("ladder", "missing", "lottery"):
        assert document[part] is not None
    assert all(panel["stability"] for panel in document["panels"].values())
    assert document["policy"]["single_hospital"]["trained_on"] == "cleveland"


def test_the_console_command_answers_in_the_same_environment(newcomer: Newcomer) -> None:
    scored = newcomer.run("heartdx score data/raw/heart.csv").stdout.splitlines()

    assert len(scored) == 921
    newcomer.run("heartdx doctor")
