"""What ``heartdx doctor`` looks at: Python, packages, data, model, each with its mend."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from heartdx.errors import EXIT_DONE, HeartdxError, UnavailableError, UsageError

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
    """Every finding, good or bad; training packages may be absent where a model is only served."""
    serving = _missing(SERVING)
    found = [_python(), _packages(serving)]
    found.append(Finding("training packages", _listed(_missing(TRAINING)) or "installed"))
    if serving:
        return found
    found.append(_told("data", lambda: _data(data)))
    found.append(_told("model", lambda: _model(models_dir, model_path)))
    return found


def _python() -> Finding:
    state = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("Python", state, "install Python 3.12 or newer", UsageError.exit_code)
    return Finding("Python", state)


def _packages(missing: list[str]) -> Finding:
    if missing:
        code = UnavailableError.exit_code
        return Finding("serving packages", _listed(missing), HOW_TO_INSTALL, code)
    return Finding("serving packages", "installed")


def _missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


def _listed(missing: list[str]) -> str:
    return f"missing {', '.join(missing)}" if missing else ""


def _data(path: Path) -> str:
    from heartdx import codings, records

    home = codings.to_home(records.read_file(path))
    return f"{path} holds {len(home.X)} patients, coding {home.coding}"


def _model(models_dir: Path, model_path: Path | None) -> str:
    from heartdx import bundle

    made = bundle.load(bundle.locate(models_dir=models_dir, model_path=model_path))
    return f"version {made.version} verified, panels {', '.join(made.scorers)}"


def _told(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except HeartdxError as error:
        return Finding(what, "not usable", str(error), error.exit_code)
