"""The trainer: the whole pipeline in a container that has no network and a read-only root.

It runs with its own entry point and the smallest protocol, and the service serves what it wrote.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient
from image_kit import docker, started

from heartdx.serve import create_app
from heartdx.settings import Settings

HARDENED = (
    "--network", "none", "--read-only", "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges", "--memory", "3g", "--tmpfs", "/tmp",
)  # fmt: skip
SMALL = ("--cv-splits", "2", "--repeats", "1", "--jobs", "2")
PATIENT = {"age": 63, "sex": "male", "cp": "typical angina", "trestbps": 145, "exang": 0}


@dataclass(frozen=True)
class Pipeline:
    """A finished pipeline: its volume, a copy of it here, and what it printed."""

    volume: str
    folder: Path
    said: str


@pytest.fixture(scope="module")
def pipeline(trainer, tmp_path_factory) -> Iterator[Pipeline]:
    name = f"heart-trainer-test-{uuid.uuid4().hex[:8]}"
    done = docker("run", "--name", name, *HARDENED, "--volume", f"{name}:/work", trainer, *SMALL)
    folder = tmp_path_factory.mktemp("pipeline")
    docker("cp", f"{name}:/work", str(folder))
    docker("rm", name)
    yield Pipeline(name, folder / "work", done.stdout + done.stderr)
    docker("volume", "rm", name)


def test_the_pipeline_leaves_data_reports_tracking_and_a_model(pipeline):
    for made in (
        "data/raw/heart.csv",
        "reports/eda.html",
        "reports/metrics.json",
        "mlruns/mlflow.db",
        "models/current",
    ):
        assert (pipeline.folder / made).is_file(), pipeline.said
    assert "tracking failed" not in pipeline.said


def test_the_service_serves_what_the_trainer_wrote(pipeline, image):
    with TestClient(create_app(Settings(models_dir=pipeline.folder / "models"))) as here:
        expected = here.post("/predict", json=PATIENT).json()

    serving = started(
        image, "--volume", f"{pipeline.volume}:/training:ro",
        "--env", "HEARTDX_MODELS_DIR=/training/models",
    )  # fmt: skip
    ready = serving.get("/readyz")
    answer = httpx2.post(serving.url + "/predict", json=PATIENT).json()
    docker("rm", "--force", serving.name)

    assert ready.status_code == 200
    assert answer["probability"] == pytest.approx(expected["probability"], abs=1e-9)
    assert answer["model_version"] == expected["model_version"]


def test_everything_it_wrote_is_its_own_users(pipeline, trainer):
    config = json.loads(docker("inspect", trainer).stdout)[0]["Config"]
    owners = docker(
        "run", "--rm", "--volume", f"{pipeline.volume}:/work:ro", "--entrypoint", "find", trainer,
        "/work", "-printf", "%U:%G\n",
    )  # fmt: skip

    assert config["User"] == "10001:10001"
    assert set(owners.stdout.split()) == {config["User"]}


def test_it_holds_no_compiler_and_no_test_of_ours(trainer):
    looked = docker(
        "run", "--rm", "--entrypoint", "sh", trainer, "-c",
        "command -v gcc cc g++ make git curl; "
        "find /opt/heartdx \\( -name conftest.py -o -name 'pytest*' \\) -path '*heartdx/*tests*'",
        check=False,
    )  # fmt: skip

    assert looked.stdout == ""


def test_without_a_place_to_write_it_says_which_file_it_could_not(trainer):
    refused = docker("run", "--rm", *HARDENED, trainer, check=False)

    assert refused.returncode != 0
    assert "data/raw" in refused.stderr
