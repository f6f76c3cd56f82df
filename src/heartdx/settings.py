"""Settings of the service and the commands: ``HEARTDX_*`` over defaults, one frozen object.

Built once at an entry and passed on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from heartdx.errors import UsageError

PREFIX = "HEARTDX_"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
TRACKING_CHOICES = ("on", "off")


@dataclass(frozen=True)
class Settings:
    """What a deployment may set.

    Parameters
    ----------
    model_path : ``MODEL_PATH``; a bundle folder to serve instead of the current one.
    models_dir : ``HEARTDX_MODELS_DIR``; where bundles and ``current`` live.
    log_level : ``HEARTDX_LOG_LEVEL``; the least that is logged: DEBUG, INFO, WARNING or ERROR.
    max_body_bytes : ``HEARTDX_MAX_BODY_BYTES``; largest request body accepted.
    max_records : ``HEARTDX_MAX_RECORDS``; most patients in one request.
    tracking : ``HEARTDX_TRACKING``; ``on`` logs a training run to MLflow, ``off`` does not.
    tracking_uri : ``MLFLOW_TRACKING_URI``; an MLflow server or database; default is a SQLite
        file in mlruns/.
    """

    model_path: Path | None = field(default=None, metadata={"variable": "MODEL_PATH"})
    models_dir: Path = Path("models")
    log_level: str = field(default="INFO", metadata={"choices": LOG_LEVELS})
    max_body_bytes: int = field(default=1_000_000, metadata={"low": 1_000})
    max_records: int = field(default=1_000, metadata={"low": 1})
    tracking: str = field(default="on", metadata={"choices": TRACKING_CHOICES})
    tracking_uri: str | None = field(
        default=None, repr=False, metadata={"variable": "MLFLOW_TRACKING_URI"}
    )


def variable(name: str) -> str:
    """The environment variable of a setting."""
    declared = {f.name: f.metadata.get("variable") for f in fields(Settings)}
    return declared[name] or PREFIX + name.upper()


def read(environment: Mapping[str, str]) -> Settings:
    """Settings from an environment.

    Raises
    ------
    UsageError
        An unknown ``HEARTDX_*`` variable, or a value of the wrong type; the variable is named.

    Examples
    --------
    >>> read({"HEARTDX_MAX_RECORDS": "10"}).max_records
    10
    >>> read({"HEARTDX_MAX_RECORD": "10"})
    Traceback (most recent call last):
    ...
    heartdx.errors.UsageError: HEARTDX_MAX_RECORD: unknown setting; did you mean ...
    """
    known = {variable(f.name): f for f in fields(Settings)}
    _refuse_unknown(environment, tuple(known))
    given: dict[str, Any] = {
        f.name: _value(name, environment[name], f.default, f.metadata)
        for name, f in known.items()
        if environment.get(name)
    }
    return Settings(**given)


def _refuse_unknown(environment: Mapping[str, str], known: tuple[str, ...]) -> None:
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(known)
            raise UsageError(f"{name}: unknown setting; {hint}")


def _value(name: str, text: str, default: object, rules: Mapping) -> object:
    if "choices" in rules:
        choice = text.upper() if text.upper() in rules["choices"] else text.lower()
        if choice not in rules["choices"]:
            raise UsageError(f"{name}: expected one of {', '.join(rules['choices'])}")
        return choice
    if isinstance(default, int):
        if not (text.isascii() and text.isdigit()) or int(text) < rules["low"]:
            raise UsageError(f"{name}: expected a whole number of at least {rules['low']}")
        return int(text)
    return text if name.endswith("_URI") else Path(text)
