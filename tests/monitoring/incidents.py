"""The incidents: what is done to a service, which alerts must fire, and how it is mended."""

from __future__ import annotations

import importlib.util
import random
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import httpx2
from staging import ROOT, Service, asking

from heartdx.bundle import CURRENT, EQUATION

Asks = Callable[[httpx2.Client], object]


def _tiny_bundle() -> ModuleType:
    path = ROOT / "tests" / "service" / "tiny_bundle.py"
    spec = importlib.util.spec_from_file_location("tiny_bundle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bundles = _tiny_bundle()

# -- who asks ------------------------------------------------------------------------------------


def patient(
    draw: random.Random, *, sex: int | None = None, cp: int | None = None
) -> dict[str, int]:
    """The three inputs of the bedside panel; other patients by other sex or chest pain."""
    return {
        "age": draw.randint(35, 75),
        "sex": draw.choice((0, 1)) if sex is None else sex,
        "cp": draw.choice((1, 2, 3, 4)) if cp is None else cp,
    }


def single(service: Service) -> Asks:
    draw = random.Random(service.port)
    return lambda client: client.post(service.url + "/predict", json=patient(draw))


def many(service: Service, *, of: Callable[[random.Random], dict[str, int]] = patient) -> Asks:
    """Fifty patients at once."""
    draw = random.Random(service.port)

    def ask(client: httpx2.Client) -> httpx2.Response:
        return client.post(
            service.url + "/predict", json={"records": [of(draw) for _ in range(50)]}
        )

    return ask


def every_door(service: Service) -> Asks:
    """A patient at each door that gives probabilities, and what else is asked now and then."""
    draw = random.Random(service.port)

    def ask(client: httpx2.Client) -> None:
        rows = [patient(draw) for _ in range(20)]
        names = ("age", "sex", "cp")
        tensors = [
            {"name": n, "datatype": "FP64", "shape": [20], "data": [row[n] for row in rows]}
            for n in names
        ]
        client.post(service.url + "/v1/predict", json=rows[0])
        client.post(service.url + "/v1/predict/batch", json={"records": rows})
        client.post(service.url + "/v2/models/heartdx/infer", json={"inputs": tensors})
        client.post(service.url + "/invocations", json={"dataframe_records": rows})
        client.get(service.url + "/readyz")
        client.get(service.url + "/nothing")

    return ask


def kaggle(service: Service) -> Asks:
    """Chest pain 0, which exists only in the popular file's coding."""
    draw = random.Random(service.port)
    return lambda client: client.post(service.url + "/predict", json=patient(draw, cp=0))


def slowly(service: Service) -> Asks:
    """A single patient over a slow network: the body comes 0.15 s after the head."""
    body = b'{"age": 58, "sex": 1, "cp": 4}'
    lines = (
        "POST /predict HTTP/1.1",
        "Host: stage",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    head = "".join(f"{line}\r\n" for line in (*lines, ""))

    def ask(_: httpx2.Client) -> None:
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
            connection.sendall(head.encode() + body[:5])
            time.sleep(0.15)
            connection.sendall(body[5:])
            while connection.recv(4096):
                pass

    return ask


def long_batches(service: Service) -> Asks:
    rows = "\n".join(["age,sex,cp", *["50,1,3"] * 20_000])
    head = {"content-type": "text/csv"}
    return lambda client: client.post(service.url + "/v1/predict/batch", content=rows, headers=head)


# -- what happens --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Incident:
    """One incident on services of its own.

    Parameters
    ----------
    name : of its job.
    alerts : which must fire, and no other.
    told : of those, which must reach the webhook; None for all.
    settings : of its service.
    prepare : fills the models folder.
    usual : who asks before it.
    beside : whether they go on asking meanwhile.
    act : what goes wrong, for as long as the block lasts.
    mend : what a person does about it; None where the end of ``act`` is the mend.
    instances : how many services.
    """

    name: str
    alerts: frozenset[str]
    prepare: Callable[[Path], object]
    act: Callable[[list[Service]], AbstractContextManager[object]]
    told: frozenset[str] | None = None
    settings: Callable[[Path], dict[str, object]] = lambda _: {}
    usual: Callable[[Service], Asks] | None = single
    beside: bool = True
    mend: Callable[[list[Service]], object] | None = None
    instances: int = 1


def one_model(models: Path) -> None:
    bundles.write(models)


def two_models(models: Path) -> None:
    """Two bundles; the first named is the current one."""
    bundles.write(models, slant=-1.0)
    bundles.write(models)


def _other(models: Path) -> Path:
    """The bundle that is not the current one."""
    [other] = [b for b in (models / "bundles").iterdir() if b.name != _current(models)]
    return other


def _current(models: Path) -> str:
    return (models / CURRENT).read_text().strip()


def _point(models: Path, digest: str) -> None:
    (models / CURRENT).write_text(digest + "\n")


def _killed(services: list[Service]) -> AbstractContextManager[object]:
    services[0].kill()
    return nullcontext()


def _started_again(services: list[Service]) -> None:
    services[0].start()
    services[0].wait()


def _tampered(services: list[Service]) -> AbstractContextManager[object]:
    models = services[0].models
    kept = models / "kept"
    kept.write_text(_current(models))
    other = _other(models)
    equation = other / "bedside" / EQUATION
    equation.write_bytes(equation.read_bytes().replace(b"1", b"2", 1))
    _point(models, other.name)
    # The service tries again each minute, and when a file has changed: here a file changes, since
    # a minute is long where 15 minutes are 3 s.
    return asking(lambda _: equation.touch(), each=0.3)


def _taken_back(services: list[Service]) -> None:
    models = services[0].models
    _point(models, (models / "kept").read_text())


def _one_left_behind(services: list[Service]) -> AbstractContextManager[object]:
    _point(services[0].models, _other(services[0].models).name)
    return nullcontext()


def _follows(services: list[Service]) -> None:
    _point(services[1].models, _current(services[0].models))


def _near_the_threshold(draw: random.Random) -> dict[str, int]:
    return {"age": draw.randint(45, 50), "sex": 0, "cp": 2}


HEALTHY = "healthy"
BURN = "HeartApiErrorBudgetBurn"

INCIDENTS = (
    Incident(
        "killed",
        frozenset({"HeartApiDown"}),
        one_model,
        _killed,
        mend=_started_again,
    ),
    Incident(
        "without-a-model",
        frozenset({"HeartApiNoModel", BURN}),
        lambda _: None,
        lambda services: asking(single(services[0]), each=0.1),
        told=frozenset({"HeartApiNoModel"}),
        usual=None,
        mend=lambda services: one_model(services[0].models),
    ),
    Incident(
        "overloaded",
        frozenset({"HeartApiOverloaded", BURN}),
        one_model,
        lambda services: asking(long_batches(services[0]), each=0.01, callers=3),
        settings=lambda _: {"HEARTDX_MAX_IN_FLIGHT": 1},
    ),
    Incident(
        "slow-clients",
        frozenset({"HeartApiLatencyBudgetBurn"}),
        one_model,
        lambda services: asking(slowly(services[0]), each=0.01, callers=4),
    ),
    Incident(
        "kaggle-codes",
        frozenset({"HeartApiRejectionSpike"}),
        one_model,
        lambda services: asking(kaggle(services[0]), each=0.03),
    ),
    Incident(
        "tampered-bundle",
        frozenset({"HeartApiSwapFailed"}),
        two_models,
        _tampered,
        mend=_taken_back,
    ),
    Incident(
        "one-left-behind",
        frozenset({"HeartApiTwoModels"}),
        two_models,
        _one_left_behind,
        mend=_follows,
        instances=2,
    ),
    Incident(
        "other-challenger",
        frozenset({"HeartApiShadowDisagreement"}),
        two_models,
        lambda services: asking(many(services[0]), each=0.2),
        settings=lambda models: {"HEARTDX_SHADOW_PATH": _other(models)},
    ),
    Incident(
        "other-patients",
        frozenset({"HeartApiProbabilityShift"}),
        one_model,
        lambda services: asking(
            many(services[0], of=lambda draw: patient(draw, sex=0, cp=4)), each=0.2
        ),
        usual=lambda service: many(service, of=lambda draw: patient(draw, sex=1, cp=3)),
        beside=False,
    ),
    Incident(
        "no-decisions",
        frozenset({"HeartApiAbstentionSpike"}),
        lambda models: bundles.write(models, abstain_when=("straddle",)),
        lambda services: asking(many(services[0], of=_near_the_threshold), each=0.1),
    ),
)
