"""The README's two commands, in a fresh copy of this tree, with nothing but a PATH and a home."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from fresh import answer, free_port, fresh_copy


def bare_environment() -> dict[str, str]:
    """PATH and home, and variables of another environment that must not reach in."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    return kept | {"VIRTUAL_ENV": "/elsewhere", "PYTHONPATH": "/elsewhere", "CONDA_PREFIX": "/x"}


@contextlib.contextmanager
def running(clone: Path, *command: str) -> Iterator[None]:
    server = subprocess.Popen(
        ["make", *command], cwd=clone, env=bare_environment(), start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def test_the_two_commands_take_a_fresh_clone_to_a_served_model_and_its_runs(tmp_path):
    clone, environment = fresh_copy(tmp_path / "a clone"), bare_environment()
    port, page = free_port(), free_port()

    made = subprocess.run(
        ["make", "pipeline"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    with running(clone, "serve", f"PORT={port}"):
        health = answer(f"http://127.0.0.1:{port}/health")
    with running(clone, "mlflow", f"MLFLOW_PORT={page}"):
        runs = answer(f"http://127.0.0.1:{page}/")
    offline = environment | {"UV_OFFLINE": "1", "HTTPS_PROXY": "http://127.0.0.1:9"}
    again = subprocess.run(
        ["make", "setup"], cwd=clone, env=offline, capture_output=True, text=True, check=False
    )

    assert re.findall(r"^  (\w+) +\d+ s$", made.stderr, re.M) == ["setup", "data", "eda", "train"]
    assert health.status_code == 200
    assert runs.status_code == 200
    assert "mlflow" in runs.text.lower()
    assert again.returncode == 0
    assert again.stderr == ""
