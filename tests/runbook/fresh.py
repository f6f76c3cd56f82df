"""A fresh copy of this tree, and a service to wait for."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parents[2]


def fresh_copy(target: Path) -> Path:
    """What a clone of this tree would hold."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str) -> httpx2.Response:
    """The first answer of a server that is starting."""
    for _ in range(300):
        try:
            return httpx2.get(url, timeout=5)
        except httpx2.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {url}")
