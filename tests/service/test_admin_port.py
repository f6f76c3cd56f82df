"""A second port for whoever runs the service: metrics, status, reload; the public one has none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import pytest
from service_kit import PATIENT
from starlette.applications import Starlette
from starlette.testclient import TestClient

from heartdx.bundle import CURRENT
from heartdx.errors import UsageError
from heartdx.serve import admin, create_app, keys, predictor
from heartdx.serve.guard import Guard
from heartdx.serve.telemetry import Telemetry
from heartdx.settings import Settings


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def service(settings: Settings) -> Starlette:
    """What the admin port shows: a state as the service has it."""
    app = Starlette()
    app.state.telemetry = Telemetry(None)
    app.state.loaded = predictor.load(settings)
    app.state.settings = settings
    return app


def doors(settings: Settings, reload: Callable[[], Awaitable[bool]] | None = None) -> TestClient:
    guard = Guard.from_settings(settings)
    return TestClient(admin.doors(service(settings), guard=guard, reload=reload))


async def _reloaded() -> bool:
    return True


async def _not_reloaded() -> bool:
    return False


# -- the doors -----------------------------------------------------------------------------------


def test_metrics_are_those_of_the_service(models_dir):
    client = doors(Settings(models_dir=models_dir))

    answer = client.get("/metrics")

    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "heartdx_build_info" in answer.text


def test_status_says_what_the_person_on_call_asks_first(models_dir, tmp_path):
    marker = tmp_path / "draining"
    client = doors(Settings(models_dir=models_dir, drain_file=marker))

    before = client.get("/admin/status").json()
    marker.touch()
    after = client.get("/admin/status").json()

    assert before["model"]["model_digest"] == (models_dir / CURRENT).read_text().strip()
    assert before["no_model_because"] is None
    assert before["stopped"] is None
    assert before["refused"] == {}
    assert (before["in_flight"], before["waiting_for_clients"]) == (0, 0)
    assert (before["draining"], after["draining"]) == (False, True)


def test_status_without_a_model_says_why(tmp_path):
    status = doors(Settings(models_dir=tmp_path)).get("/admin/status").json()

    assert status["model"] is None
    assert "train" in status["no_model_because"]


def test_status_names_the_clients_and_no_key(models_dir, tmp_path):
    key = keys.new("ward", place=tmp_path / "keys")
    client = doors(Settings(models_dir=models_dir, api_keys_file=tmp_path / "keys"))

    answer = client.get("/admin/status")

    assert answer.json()["clients"] == ["ward"]
    assert key not in answer.text
    assert keys.hashed(key.encode()) not in answer.text


def test_a_reload_answers_with_the_status_afterwards_or_says_that_the_old_model_stays(models_dir):
    settings = Settings(models_dir=models_dir)

    done = doors(settings, _reloaded).post("/admin/reload")
    refused = doors(settings, _not_reloaded).post("/admin/reload")

    assert done.status_code == 200
    assert done.json()["model"]["model_name"] == "heartdx"
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:heartdx:problem:model-refused"


def test_a_reload_asks_for_a_key_where_the_service_has_keys(models_dir, tmp_path):
    key = keys.new("ward", place=tmp_path / "keys")
    client = doors(Settings(models_dir=models_dir, api_keys_file=tmp_path / "keys"), _reloaded)

    assert client.post("/admin/reload").status_code == 401
    assert client.post("/admin/reload", headers={"X-API-Key": key}).status_code == 200
    assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/admin/reload", 405), ("POST", "/predict", 404), ("GET", "/docs", 404)],
)
def test_there_is_nothing_else_on_this_port(models_dir, method, path, status):
    client = doors(Settings(models_dir=models_dir), _reloaded)

    assert client.request(method, path).status_code == status


# -- the port ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _on(settings: Settings) -> AsyncIterator[None]:
    app, guard = service(settings), Guard.from_settings(settings)
    async with admin.serving(app, admin.bound(settings), guard=guard, reload=_reloaded):
        yield


def test_no_port_is_opened_by_default():
    assert admin.bound(Settings()) is None


def test_the_port_answers_while_the_service_runs_and_is_free_afterwards(models_dir, port):
    async def run() -> int:
        settings = Settings(models_dir=models_dir, admin_port=port)
        async with _on(settings), httpx2.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/metrics")
        return answer.status_code

    assert [asyncio.run(run()) for _ in range(2)] == [200, 200]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_an_idle_connection_to_the_port_does_not_hold_up_the_end(models_dir, port):
    async def run() -> float:
        loop = asyncio.get_running_loop()
        async with _on(Settings(models_dir=models_dir, admin_port=port)):
            _, idle = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.1)
            began = loop.time()
        took = loop.time() - began
        idle.close()
        return took

    assert asyncio.run(run()) < 3


def test_a_port_in_use_stops_the_start_and_names_the_setting(port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()

        with pytest.raises(UsageError, match=f"HEARTDX_ADMIN_PORT: 127.0.0.1 port {port} cannot"):
            admin.bound(Settings(admin_port=port))


def test_an_address_of_another_machine_stops_the_start_and_names_the_setting(port):
    with pytest.raises(UsageError, match="choose HEARTDX_ADMIN_ADDRESS"):
        admin.bound(Settings(admin_port=port, admin_address="192.0.2.1"))


def test_sister_workers_share_the_port():
    code = (
        "import multiprocessing as m, socket; from heartdx.serve import admin;"
        "from heartdx.settings import Settings; m.parent_process = lambda: m;"
        "first = admin.bound(Settings(admin_port={port}));"
        "second = admin.bound(Settings(admin_port={port})); print(second.getsockname()[1])"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]

    ran = subprocess.run(
        [sys.executable, "-c", code.format(port=free)], capture_output=True, text=True, check=True
    )

    assert ran.stdout.strip() == str(free)


# -- in the whole service ------------------------------------------------------------------------


def test_with_an_admin_port_the_public_one_has_no_metrics(models_dir, port):
    settings = Settings(models_dir=models_dir, admin_port=port)

    with TestClient(create_app(settings)) as client:
        client.post("/predict", json=PATIENT)
        public = client.get("/metrics")
        private = httpx2.get(f"http://127.0.0.1:{port}/metrics")
        status = httpx2.get(f"http://127.0.0.1:{port}/admin/status").json()

    assert public.status_code == 404
    assert "heartdx_predictions_total" in private.text
    assert status["refused"] == {"not-found": 1}


def test_a_real_service_with_a_taken_admin_port_ends_with_one_clear_line(serve, models_dir, port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        refused = serve({"HEARTDX_MODELS_DIR": str(models_dir), "HEARTDX_ADMIN_PORT": str(port)})
        printed = refused.process.communicate(timeout=30)[0]

    assert refused.process.returncode == 2
    (line,) = [line for line in printed.splitlines() if "HEARTDX_ADMIN_PORT" in line]
    assert line.startswith("heartdx: ")
    assert "Traceback" not in printed


def test_every_worker_answers_on_the_admin_port(serve, models_dir, port):
    served = serve(
        {"HEARTDX_MODELS_DIR": str(models_dir), "HEARTDX_ADMIN_PORT": str(port)}, "--workers", "2"
    )
    served.wait_until_alive()

    found: set[int] = set()
    for _ in range(200):
        found.add(httpx2.get(f"http://127.0.0.1:{port}/admin/status").json()["pid"])
        if len(found) == 2:
            break

    assert len(found) == 2
    assert "Traceback" not in served.stop()
