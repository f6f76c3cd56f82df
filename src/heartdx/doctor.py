"""What ``heartdx doctor`` looks at, each with its mend.

Python, packages, tools, data, model with its signature, models folder.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from heartdx.errors import EXIT_DONE, HeartdxError, NoModelError, UnavailableError, UsageError
from heartdx.settings import Settings

OLDEST_PYTHON = (3, 12)
SERVING = ("fastapi", "uvicorn", "numpy", "onnxruntime", "prometheus_client")
TRAINING = ("sklearn", "pandas", "pandera", "mlflow", "matplotlib", "onnx", "joblib")
TOOLS = {
    "docker": "install a Docker engine for make image",
    "kubectl": "install kubectl for k8s/",
    "minikube": "install minikube for make minikube-demo",
}
"""Programs of docs/deploy.md, and how to mend that one is missing."""
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


def examine(*, data: Path, models_dir: Path, chosen: Settings) -> list[Finding]:
    """Every finding, good or bad; training packages may be absent where a model is only served.

    Parameters
    ----------
    data : file of patients.
    models_dir : models folder.
    chosen : settings; they may name a fixed model, and ask for its signature.
    """
    serving = _missing(SERVING)
    found = [_python(), _packages(serving)]
    found.append(Finding("training packages", _listed(_missing(TRAINING)) or _versions(TRAINING)))
    found.append(_tools())
    if serving:
        return found
    found.append(_told("data", lambda: _data(data)))
    found.append(_told("model", lambda: _model(models_dir, chosen)))
    found.append(_told("models folder", lambda: _store(models_dir)))
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
    return Finding("serving packages", _versions(SERVING))


def _versions(names: tuple[str, ...]) -> str:
    distributions = metadata.packages_distributions()
    return ", ".join(f"{name} {metadata.version(distributions[name][0])}" for name in names)


def _tools() -> Finding:
    """What only building and deploying needs; a service or a training runs without."""
    state = [
        f"{name} {'found' if shutil.which(name) else f'not found ({mend})'}"
        for name, mend in TOOLS.items()
    ]
    return Finding("tools to deploy", ", ".join(state))


def _missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


def _listed(missing: list[str]) -> str:
    return f"missing {', '.join(missing)}" if missing else ""


def _data(path: Path) -> str:
    from heartdx import codings, records

    home = codings.to_home(records.read_file(path))
    return f"{path} holds {len(home.X)} patients, coding {home.coding}"


def _model(models_dir: Path, chosen: Settings) -> str:
    from heartdx import bundle, signing

    folder = bundle.locate(models_dir=models_dir, model_path=chosen.model_path)
    made = signing.load(folder, chosen)
    required = " and signed" if chosen.require_signature == "on" else ""
    return f"version {made.version} verified{required}, panels {', '.join(made.scorers)}"


def _store(models_dir: Path) -> str:
    from heartdx import bundle, store

    folder = models_dir / bundle.BUNDLES
    kept = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    reason = store.stopped(models_dir)
    if reason is not None:
        raise NoModelError(
            f"{models_dir}: predictions are stopped: {reason}; go on with heartdx model start"
        )
    before = store.previous(models_dir)
    rollback = "no model to roll back to" if before is None else f"rollback to {before[:12]}"
    return f"{len(kept)} bundles in {models_dir}, {rollback}"


def _told(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except HeartdxError as error:
        return Finding(what, "not usable", str(error), error.exit_code)
