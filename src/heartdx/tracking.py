"""The training run in MLflow: parameters, metrics, figures, data, model, alias. Only MLflow user.

A tracking server that is away never costs a trained model: the model is current before tracking
starts, and what goes wrong here is a warning.

MLflow is imported inside the functions: it takes two seconds, and a run without tracking
should not pay them. ``mlflow.pyfunc`` finds ``_load_pyfunc`` here when it loads the model.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from heartdx import __version__, bundle, logs, records
from heartdx.contract import HEADER, NAMES, OUTCOME

LOG = logs.get("tracking")
EXPERIMENT = "heartdx"
CHAMPION = "champion"
STORE = Path("mlruns")
DATABASE, ARTIFACTS = "mlflow.db", "artifacts"
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""A server that is away is given up after seconds, not minutes; the environment may say else."""


@dataclass(frozen=True)
class RunFacts:
    """A finished run as the tracker takes it.

    Parameters
    ----------
    frame : the training table; only its digest, shape and schema are logged.
    data_name : file name of the data.
    parameters, metrics, tags : of the final model.
    candidates : candidate name to its metrics.
    candidate_parameters : candidate name to its tuned parameters.
    bundle : the written bundle, which is the model that is logged and registered.
    reports : files logged as artifacts.
    """

    frame: pd.DataFrame
    data_name: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    candidates: Mapping[str, Mapping[str, float]]
    candidate_parameters: Mapping[str, Mapping[str, Any]]
    tags: Mapping[str, str]
    bundle: bundle.Bundle
    reports: tuple[Path, ...]


@dataclass(frozen=True)
class Tracker:
    """Where runs are logged.

    Parameters
    ----------
    uri : an MLflow server or database; None for a SQLite file in ``store``.
    store : folder of the SQLite file and the artifacts beside it.
    """

    uri: str | None = None
    store: Path = STORE

    @property
    def address(self) -> str:
        """The tracking URI in use."""
        return self.uri or f"sqlite:///{(self.store / DATABASE).resolve()}"

    def log(self, facts: RunFacts) -> str | None:
        """Log a run; its id, or None (and a warning) when the store cannot be reached."""
        import requests
        import sqlalchemy.exc
        from mlflow.exceptions import MlflowException

        away = (
            MlflowException,
            requests.RequestException,
            sqlalchemy.exc.SQLAlchemyError,
            ImportError,  # a database whose driver is not installed
            OSError,
        )
        try:
            with _quietly():
                return _log(self, facts)
        except away as cause:
            logs.event(
                LOG,
                "tracking failed, the trained model is safe",
                level=logging.WARNING,
                reason=type(cause).__name__,  # its text may hold the address with a password
                mend="check MLFLOW_TRACKING_URI and its driver, or set HEARTDX_TRACKING=off",
            )
            return None


def _log(tracker: Tracker, facts: RunFacts) -> str:
    import mlflow
    from mlflow.data.pandas_dataset import from_pandas

    mlflow.set_tracking_uri(tracker.address)
    _choose_experiment(tracker)
    data = from_pandas(facts.frame[list(HEADER)], name=facts.data_name, targets=OUTCOME.name)
    with mlflow.start_run(run_name=f"train {facts.bundle.version}", tags=dict(facts.tags)) as run:
        for name, metrics in facts.candidates.items():
            with mlflow.start_run(run_name=name, nested=True, tags=dict(facts.tags)):
                mlflow.log_params(dict(facts.candidate_parameters.get(name, {})))
                mlflow.log_metrics(dict(metrics))
                mlflow.log_input(data, context="training")
        mlflow.log_params(dict(facts.parameters))
        mlflow.log_metrics(dict(facts.metrics))
        mlflow.log_input(data, context="training")
        for path in facts.reports:
            mlflow.log_artifact(str(path), "figures" if path.suffix == ".png" else "reports")
        _register(facts)
    return str(run.info.run_id)


def _choose_experiment(tracker: Tracker) -> None:
    import mlflow

    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        place = (tracker.store / ARTIFACTS).resolve().as_uri() if tracker.uri is None else None
        mlflow.create_experiment(EXPERIMENT, artifact_location=place)
    mlflow.set_experiment(EXPERIMENT)


def _register(facts: RunFacts) -> None:
    """Log the bundle as a model, register it and move the alias."""
    import mlflow

    logged = mlflow.pyfunc.log_model(
        name="model",
        loader_module=__name__,
        data_path=str(facts.bundle.folder),
        signature=signature(),
        input_example=example(facts.bundle),
        pip_requirements=[
            f"heartdx=={__version__}",
            *(f"{name}=={version(name)}" for name in ("numpy", "onnxruntime", "pandas")),
        ],
        registered_model_name=bundle.MODEL_NAME,
    )
    client = mlflow.MlflowClient()
    number = str(logged.registered_model_version)
    for key, value in facts.tags.items():
        client.set_model_version_tag(bundle.MODEL_NAME, number, key, value)
    client.set_registered_model_alias(bundle.MODEL_NAME, CHAMPION, number)


def signature() -> Any:
    """The model's MLflow signature: 13 doubles (all but three optional) to three columns."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.double, name, required=name in records.ALWAYS_REQUIRED) for name in NAMES
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.double, "probability"),
        ColSpec(DataType.long, "prediction"),
        ColSpec(DataType.string, "panel"),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs))


def example(made: bundle.Bundle) -> pd.DataFrame:
    """Three synthetic golden records, one a panel; no patient."""
    golden = made.manifest["golden"]["records"][:3]
    return pd.DataFrame(golden, columns=list(NAMES)).astype(np.float64)


class PandasScorer:
    """A bundle behind MLflow's ``predict``: data frame in, data frame out."""

    def __init__(self, made: bundle.Bundle):
        self._bundle = made

    def predict(self, frame: pd.DataFrame, params: Mapping | None = None) -> pd.DataFrame:
        """Probability, prediction and panel of each row; decoded like every request."""
        rows = [
            records.decode_record({str(k): v for k, v in row.items()}, record=place)
            for place, row in enumerate(frame.to_dict(orient="records"))
        ]
        scored = self._bundle.score(records.table(rows))
        return pd.DataFrame(
            {
                "probability": scored.probability,
                "prediction": scored.predictions(self._bundle.threshold),
                "panel": [scored.panel_name(row) for row in range(len(rows))],
            }
        )


def _load_pyfunc(path: str) -> PandasScorer:
    """MLflow's hook: the verified bundle that was logged."""
    return PandasScorer(bundle.load(Path(path)))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """MLflow and alembic print a page of INFO on a first run; keep warnings and errors."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    noisy = {
        "mlflow": logging.WARNING,
        "alembic": logging.WARNING,
        "mlflow.utils.environment": logging.ERROR,  # "no pip": an environment made by uv has none
    }
    levels = {name: logging.getLogger(name).level for name in noisy}
    import mlflow  # noqa: F401  (its import sets the levels that are lowered here)

    for name, level in noisy.items():
        logging.getLogger(name).setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
