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
SIGNATURE_CHOICES = ("on", "off")


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
    max_stream_rows : ``HEARTDX_MAX_STREAM_ROWS``; most rows of one streamed batch (NDJSON, CSV,
        Arrow).
    api_keys_file : ``HEARTDX_API_KEYS_FILE``; lines ``name sha256`` of the keys that may ask
        (``heartdx key new`` writes them); without it anybody may.
    rate_limit : ``HEARTDX_RATE_LIMIT``; requests per second that each worker takes from one client
        (a key's name, else an address); 0 sets no limit.
    rate_burst : ``HEARTDX_RATE_BURST``; requests a client may send at once; 0 is twice the rate.
    max_in_flight : ``HEARTDX_MAX_IN_FLIGHT``; most requests worked on at once by one worker, and
        most that it waits for; more get 503.
    request_seconds : ``HEARTDX_REQUEST_SECONDS``; time for a request's head, and again for its
        body (in a streamed batch: between two parts of it).
    cors_origins : ``HEARTDX_CORS_ORIGINS``; origins whose pages may ask, with commas between;
        none by default.
    admin_port : ``HEARTDX_ADMIN_PORT``; a second port for ``/metrics`` and ``/admin``, which
        leave the public one; 0 opens none.
    admin_address : ``HEARTDX_ADMIN_ADDRESS``; the address of the second port.
    drain_file : ``HEARTDX_DRAIN_FILE``; while this file exists ``/readyz`` answers 503 and
        predictions go on.
    poll_seconds : ``HEARTDX_POLL_SECONDS``; how often a running service looks whether another
        model became the current one; 0 for never.
    shadow_path : ``HEARTDX_SHADOW_PATH``; a bundle folder whose model scores the same patients
        beside the one that answers; only metrics tell.
    require_signature : ``HEARTDX_REQUIRE_SIGNATURE``; ``on`` refuses a model that is not signed
        with the key of ``HEARTDX_PUBLIC_KEY``, ``off`` refuses a wrong signature only.
    public_key : ``HEARTDX_PUBLIC_KEY``; the file of the public key that signatures of models are
        checked with; without it none is.
    tracking : ``HEARTDX_TRACKING``; ``on`` logs a training run to MLflow, ``off`` does not.
    tracking_uri : ``MLFLOW_TRACKING_URI``; an MLflow server or database; default is a SQLite
        file in mlruns/.
    """

    model_path: Path | None = field(default=None, metadata={"variable": "MODEL_PATH"})
    models_dir: Path = Path("models")
    log_level: str = field(default="INFO", metadata={"choices": LOG_LEVELS})
    max_body_bytes: int = field(default=1_000_000, metadata={"low": 1_000})
    max_records: int = field(default=1_000, metadata={"low": 1})
    max_stream_rows: int = field(default=10_000_000, metadata={"low": 1})
    api_keys_file: Path | None = None
    rate_limit: int = field(default=0, metadata={"low": 0})
    rate_burst: int = field(default=0, metadata={"low": 0})
    max_in_flight: int = field(default=256, metadata={"low": 1})
    request_seconds: int = field(default=30, metadata={"low": 1})
    cors_origins: str = ""
    admin_port: int = field(default=0, metadata={"low": 0, "high": 65_535})
    admin_address: str = "127.0.0.1"
    drain_file: Path | None = None
    poll_seconds: int = field(default=2, metadata={"low": 0})
    shadow_path: Path | None = None
    require_signature: str = field(default="off", metadata={"choices": SIGNATURE_CHOICES})
    public_key: Path | None = None
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
        if int(text) > rules.get("high", int(text)):
            raise UsageError(f"{name}: expected a whole number of at most {rules['high']}")
        return int(text)
    return text if isinstance(default, str) or name.endswith("_URI") else Path(text)
