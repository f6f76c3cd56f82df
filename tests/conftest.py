"""Fixtures made once for the whole run: the data, a small training, its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from heartdx import acquire, bundle, checks

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Trained:
    """A finished small training run on disk."""

    folder: Path
    output: str

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    @property
    def bundle(self) -> bundle.Bundle:
        return bundle.load(bundle.current_folder(self.models))


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make) -> Path:
    """A folder made by one worker and shared by all."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / name
    with FileLock(shared / f"{name}.lock"):
        if not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def heart_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 920 patients as ``fetch`` writes them."""

    def make(folder: Path) -> None:
        acquire.fetch(folder / "heart.csv", source="embedded")

    return once(tmp_path_factory, "data", make) / "heart.csv"


@pytest.fixture(scope="session")
def loaded(heart_csv: Path) -> checks.Loaded:
    return checks.load(heart_csv)


@pytest.fixture(scope="session")
def trained(heart_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """``heartdx train`` with the smallest protocol, tracked into its own folder."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "heartdx.cli", "train", "--data", str(heart_csv)]
        finished = subprocess.run(
            [*command, "--cv-splits", "2", "--repeats", "1", "--jobs", "1"],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if "MLFLOW" not in k},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        (folder / "output.txt").write_text(finished.stdout + finished.stderr)

    folder = once(tmp_path_factory, "trained", make)
    return Trained(folder, (folder / "output.txt").read_text())
