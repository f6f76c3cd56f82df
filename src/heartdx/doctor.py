"""What ``heartdx doctor`` looks at: Python, packages, data, model, each with its mend."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from heartdx import bundle, codings, records
from heartdx.errors import EXIT_DONE, HeartdxError

OLDEST_PYTHON = (3, 12)
SERVING = ("fastapi", "uvicorn", "numpy", "onnxruntime", "prometheus_client")
TRAINING = ("sklearn", "pandas", "pandera", "mlflow", "matplotlib", "onnx", "joblib")
HOW_TO_INSTALL = "pip install -r requirements.txt"


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Parameters
    ----------
    what : name of the check.
    state : what was found.
    mend : what to do; empty when nothing is wrong.
    exit_code : 0, or the code of the error.
    """

    what: str
    state: str
    mend: str = ""
    exit_code: int = EXIT_DONE

    def __str__(self) -> str:
        mark = "ok  " if self.exit_code == EXIT_DONE else "FAIL"
        return f"{mark} {self.what}: {self.state}" + (f"; {self.mend}" if self.mend else "")

    def document(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


def examine(*, data: Path, models_dir: Path, model_path: Path | None) -> list[Finding]:
    """Every finding, good or bad."""
    return [
        _python(),
        _packages("serving packages", SERVING),
        _packages("training packages", TRAINING),
        _told("data", lambda: _data(data)),
        _told("model", lambda: _model(models_dir, model_path)),
    ]


def _python() -> Finding:
    state = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("Python", state, "install Python 3.12 or newer", 2)
    return Finding("Python", state)


def _packages(what: str, names: tuple[str, ...]) -> Finding:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        return Finding(what, "missing " + ", ".join(missing), HOW_TO_INSTALL, 7)
    return Finding(what, "installed")


def _data(path: Path) -> str:
    home = codings.to_home(records.read_file(path))
    return f"{path} holds {len(home.X)} patients, coding {home.coding}"


def _model(models_dir: Path, model_path: Path | None) -> str:
    made = bundle.load(bundle.locate(models_dir=models_dir, model_path=model_path))
    return f"version {made.version} verified, panels {', '.join(made.scorers)}"


def _told(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except HeartdxError as error:
        return Finding(what, "not usable", str(error), error.exit_code)
