"""The README's two commands, in a fresh copy of this tree, with nothing but a PATH and a home."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parents[2]


def fresh_copy(folder: Path) -> Path:
    """What a clone of this tree would hold, in a path with a space."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    clone = folder / "a clone"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    return clone


def bare_environment() -> dict[str, str]:
    """PATH and home, and variables of another environment that must not reach in."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    return kept | {"VIRTUAL_ENV": "/elsewhere", "PYTHONPATH": "/elsewhere", "CONDA_PREFIX": "/x"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str) -> httpx2.Response:
    for _ in range(150):
        try:
            return httpx2.get(url, timeout=5)
        except httpx2.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {url}")


def test_make_pipeline_and_make_serve_take_a_fresh_clone_to_a_served_model(tmp_path):
    clone, environment, port = fresh_copy(tmp_path), bare_environment(), free_port()

    made = subprocess.run(
        ["make", "pipeline"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    server = subprocess.Popen(
        ["make", "serve", f"PORT={port}"], cwd=clone, env=environment, start_new_session=True
    )
    try:
        health = answer(f"http://127.0.0.1:{port}/health")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
    begun = time.monotonic()
    offline = environment | {"UV_OFFLINE": "1", "HTTPS_PROXY": "http://127.0.0.1:9"}
    again = subprocess.run(
        ["make", "setup"], cwd=clone, env=offline, capture_output=True, text=True, check=False
    )

    assert re.findall(r"^  (\w+) +\d+ s$", made.stderr, re.M) == ["setup", "data", "eda", "train"]
    assert health.status_code == 200
    assert again.returncode == 0
    assert again.stderr == ""
    assert time.monotonic() - begun < 5
