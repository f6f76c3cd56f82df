"""The images under test, each built once for all files of this folder."""

from __future__ import annotations

import subprocess

import pytest
from image_kit import ROOT

SERVICE = "docker build -t heart-api ."
TRAINER = "docker build --target trainer -t heart-trainer ."


def built(command: str) -> str:
    """Runs a build of this tree; the name it gives the image."""
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return command.split()[-2]


@pytest.fixture(scope="session")
def image() -> str:
    """The service, with this tree's trained model."""
    assert (ROOT / "models" / "current").exists(), "no model: `make test-image` makes one first"
    return built(SERVICE)


@pytest.fixture(scope="session")
def trainer() -> str:
    """The pipeline's image."""
    return built(TRAINER)
