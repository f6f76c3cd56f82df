"""What people use instead, each serving the same trained pipeline with a single worker.

A peer lives in an environment of its own under ``.tools/bench/``, made on demand from the pins
beside this file. The pipeline is the bundle's; it is made of stock scikit-learn parts, so it
loads wherever the same scikit-learn is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import HOST, Request
from benchmarks.servers import PORT, ROOT, Server

HERE = Path(__file__).resolve().parent
CACHE = ROOT / ".tools" / "bench"
Patients = Sequence[Mapping[str, float]]
_INSTALL = 600.0


@dataclass(frozen=True)
class Peer:
    """Another way to serve the same pipeline.

    Parameters
    ----------
    name : short, as on the command line.
    label : words for people; what is special about its set-up.
    server : (the bundle's pipeline) to how it is started; installs what is needed.
    single : one patient to its request.
    batch : many patients to its request; None when it has no such door.
    """

    name: str
    label: str
    server: Callable[[Path], Server]
    single: Callable[[Mapping[str, float]], Request]
    batch: Callable[[Patients], Request] | None


def pins(name: str) -> dict[str, str]:
    """Package to exact version of a peer's environment.

    Raises
    ------
    ValueError
        A line that is no exact pin.
    """
    found = {}
    for number, line in enumerate((HERE / f"{name}.txt").read_text().splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            package, exactly, version = line.partition("==")
            if not exactly or not version:
                raise ValueError(f"{name}.txt, line {number}: expected package==version")
            found[package] = version
    return found


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, made when its pins are new.

    Raises
    ------
    RuntimeError
        The environment cannot be made; the installer's last line says why.
    """
    wanted = HERE / f"{name}.txt"
    folder = CACHE / name
    python = folder / ".venv" / "bin" / "python"
    made = folder / "made"
    stamp = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()
    if made.is_file() and made.read_text() == stamp and python.exists():
        return python
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / ".venv", ignore_errors=True)
    for command in _installation(folder / ".venv", wanted):
        finished = subprocess.run(  # noqa: S603 - an installer, no shell
            command, capture_output=True, text=True, timeout=_INSTALL, check=False
        )
        if finished.returncode:
            raise RuntimeError(f"not installed: {_last_line(finished.stderr)}")
    made.write_text(stamp)
    return python


def _installation(environment: Path, wanted: Path) -> list[list[str]]:
    """With uv where there is one, else with the standard library's venv and pip."""
    uv = shutil.which("uv", path=ROOT / ".tools" / "bin") or shutil.which("uv")
    python = str(environment / "bin" / "python")
    if uv:
        return [
            [uv, "venv", "--quiet", "--python", sys.executable, str(environment)],
            [uv, "pip", "install", "--quiet", "--python", python, "-r", str(wanted)],
        ]
    return [
        [sys.executable, "-m", "venv", str(environment)],
        [python, "-m", "pip", "install", "--quiet", "-r", str(wanted)],
    ]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip().replace(str(ROOT), ".")[:200] if lines else "no reason given"


# -- how each is started ---------------------------------------------------------------------


def _naive(pipeline: Path) -> Server:
    command = (sys.executable, "-m", "uvicorn", "benchmarks.peers.naive:app", "--host", HOST)
    options = ("--port", PORT, "--no-access-log", "--log-level", "warning")
    return Server("naive", command + options, {"BENCH_PIPELINE": str(pipeline)})


def _mlflow(pipeline: Path) -> Server:
    """MLflow from our own environment: the training needs it anyway."""
    folder = CACHE / "mlflow" / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    script = (
        "import sys, joblib, mlflow.sklearn\n"
        "mlflow.sklearn.save_model(joblib.load(sys.argv[1]), sys.argv[2], "
        "pyfunc_predict_fn='predict_proba', pip_requirements=['scikit-learn'], "
        "serialization_format='cloudpickle')\n"
    )
    saved = subprocess.run(  # noqa: S603 - our interpreter, no shell
        [sys.executable, "-c", script, str(pipeline), str(folder)],
        capture_output=True,
        text=True,
        timeout=_INSTALL,
        check=False,
    )
    if saved.returncode:
        raise RuntimeError(f"the model was not saved: {_last_line(saved.stderr)}")
    command = (sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder))
    options = ("--env-manager", "local", "--host", HOST, "--port", PORT, "--workers", "1")
    on_path = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    return Server("mlflow", command + options, on_path, CACHE / "mlflow")


def _mlserver(pipeline: Path) -> Server:
    python = python_of("mlserver")
    folder = CACHE / "mlserver" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({"parallel_workers": 0, "debug": False}))
    model = {
        "name": "heart",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(pipeline)},
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    ports = {
        "MLSERVER_HTTP_PORT": PORT,
        "MLSERVER_GRPC_PORT": "{port2}",
        "MLSERVER_METRICS_PORT": "{port3}",
        "MLSERVER_HOST": HOST,
    }
    command = (str(python.parent / "mlserver"), "start", str(folder))
    return Server("mlserver", command, ports, folder)


def _bentoml(pipeline: Path) -> Server:
    python = python_of("bentoml")
    command = (str(python), "-m", "bentoml", "serve", "bento_service:Heart")
    options = ("--host", HOST, "--port", PORT)
    surroundings = {
        "BENCH_PIPELINE": str(pipeline),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(CACHE / "bentoml" / "home"),
    }
    return Server("bentoml", command + options, surroundings, HERE)


def _litserve(pipeline: Path) -> Server:
    command = (str(python_of("litserve")), str(HERE / "lit_server.py"), PORT)
    surroundings = {"BENCH_PIPELINE": str(pipeline), "LIT_DISABLE_TELEMETRY": "1"}
    return Server("litserve", command, surroundings, HERE)


# -- how each is asked -----------------------------------------------------------------------


def _json(path: str, document: object) -> Request:
    return Request(path, json.dumps(document).encode())


def _split(patients: Patients) -> Request:
    rows = [list(patient.values()) for patient in patients]
    table = {"columns": list(patients[0]), "data": rows}
    return _json("/invocations", {"dataframe_split": table})


def _tensor(patients: Patients) -> Request:
    values = [value for patient in patients for value in patient.values()]
    shape = [len(patients), len(patients[0])]
    tensor = {"name": "predict", "shape": shape, "datatype": "FP64", "data": values}
    document = {"inputs": [tensor], "outputs": [{"name": "predict_proba"}]}
    return _json("/v2/models/heart/infer", document)


PEERS: tuple[Peer, ...] = (
    Peer(
        "naive",
        "FastAPI, pydantic, scikit-learn on a one-row DataFrame",
        _naive,
        lambda patient: _json("/predict", patient),
        lambda patients: _json("/batch", patients),
    ),
    Peer(
        "naive-untyped",
        "the same without the pydantic model",
        _naive,
        lambda patient: _json("/predict/untyped", patient),
        None,
    ),
    Peer(
        "mlserver",
        "MLServer, models in the server's own process",
        _mlserver,
        lambda patient: _tensor([patient]),
        _tensor,
    ),
    Peer(
        "bentoml",
        "BentoML",
        _bentoml,
        lambda patient: _json("/predict", {"records": [patient]}),
        lambda patients: _json("/predict", {"records": patients}),
    ),
    Peer(
        "mlflow",
        "`mlflow models serve`",
        _mlflow,
        lambda patient: _split([patient]),
        _split,
    ),
    Peer(
        "litserve",
        "LitServe",
        _litserve,
        lambda patient: _json("/predict", {"records": [patient]}),
        lambda patients: _json("/predict", {"records": patients}),
    ),
)
BY_NAME = {peer.name: peer for peer in PEERS}
