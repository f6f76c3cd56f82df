"""Training runs for tests: ``heartdx train`` as a person runs it, each run made once for all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from heartdx import bundle

SMALL = ("--cv-splits", "2", "--repeats", "1", "--jobs", "1")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Arrays this small lose more to waiting threads than they win; the numbers are the same."""


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


def train(
    data: Path, folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``heartdx train`` with the smallest protocol.

    Parameters
    ----------
    data : patients as CSV.
    folder : where models/, reports/ and mlruns/ appear.
    options : after the smallest protocol's, so that they win.
    environment : all that the run sees; None for this process's without MLflow's variables,
        where MLflow leaves its address.
    """
    if environment is None:
        environment = {name: v for name, v in os.environ.items() if "MLFLOW" not in name}
    return subprocess.run(
        [sys.executable, "-m", "heartdx.cli", "train", "--data", str(data), *SMALL, *options],
        cwd=folder,
        env={**ONE_THREAD, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder made by one worker and shared by all; it ends with the test run."""
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


def trained_once(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    run: Callable[[Path], subprocess.CompletedProcess[str]],
) -> Trained:
    """A training run that succeeds, made by one worker and shared by all."""

    def make(folder: Path) -> None:
        finished = run(folder)
        assert finished.returncode == 0, finished.stderr
        (folder / "output.txt").write_text(finished.stdout + finished.stderr)

    folder = once(tmp_path_factory, name, make)
    return Trained(folder, (folder / "output.txt").read_text())
