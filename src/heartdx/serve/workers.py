"""One folder in which several workers of one parent add up their metrics.

prometheus_client shares counts through files in ``PROMETHEUS_MULTIPROC_DIR`` and reads that
variable once, at its import. So this module imports nothing of it, and runs first.

A folder belongs to one parent, named by its pid and its start time: a pid used again never
meets the counts of its predecessor. A worker that is started again finds the counts of the one
it replaces. A single process needs no folder, so a read-only root file system will do.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from heartdx.errors import UnavailableError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "heartdx-metrics-"

_FOLDER = re.compile(re.escape(PREFIX) + r"(?P<pid>\d+)-(?P<birth>[0-9a-z]+)")
_LIVE_FILE = re.compile(r"gauge_live[a-z]*_(?P<pid>\d+)\.db")
_START_TIME = 22 - 3  # field 22 of /proc/<pid>/stat; the first two end with the last ")"


def share_metrics(environment: MutableMapping[str, str]) -> Path | None:
    """The folder shared with the sister workers, named in the environment; None when alone.

    A folder that the operator named already is respected. Folders of parents that are gone
    are removed.

    Raises
    ------
    UnavailableError
        The folder cannot be made, or belongs to somebody else.
    """
    if named := shared_folder(environment):
        named.mkdir(parents=True, exist_ok=True)
        return named
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return None
    if "prometheus_client" in sys.modules:
        raise RuntimeError("prometheus_client was imported before its folder was named")
    folder = _made(parent.pid)
    _remove_orphans(folder.parent)
    environment[VARIABLE] = str(folder)
    return folder


def shared_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder in use; None for a single process.

    Examples
    --------
    >>> shared_folder({"PROMETHEUS_MULTIPROC_DIR": ""}) is None
    True
    """
    named = environment.get(VARIABLE)
    return Path(named) if named else None


def dead_workers(folder: Path) -> set[int]:
    """Pids that left live gauges in the folder and run no more."""
    found = (_LIVE_FILE.fullmatch(path.name) for path in folder.glob("gauge_live*.db"))
    return {int(match["pid"]) for match in found if match and not _is_running(int(match["pid"]))}


def _made(parent: int) -> Path:
    try:
        folder = Path(tempfile.gettempdir()) / f"{PREFIX}{parent}-{_birth(parent) or _secret()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
    except OSError as cause:
        raise UnavailableError(
            "several workers count together in a temporary folder, and none can be written "
            f"({cause.strerror}); mount one at /tmp, set {VARIABLE}, or run one worker"
        ) from cause
    mine = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
    if not stat.S_ISDIR(facts.st_mode) or not mine:
        raise UnavailableError(f"{folder}: belongs to somebody else; remove it or set {VARIABLE}")
    return folder


def _remove_orphans(place: Path) -> None:
    for folder in place.glob(f"{PREFIX}*"):
        match = _FOLDER.fullmatch(folder.name)
        if match and not _is_owner_running(int(match["pid"]), match["birth"]):
            shutil.rmtree(folder, ignore_errors=True)


def _is_owner_running(pid: int, birth: str) -> bool:
    born = _birth(pid)
    return born == birth if born else _is_running(pid)


def _birth(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot; None when it cannot be told."""
    with contextlib.suppress(OSError):
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return line.rpartition(")")[2].split()[_START_TIME]
    return None


def _secret() -> str:
    """Without /proc: a trace of the key that a parent draws at random for its children."""
    return "k" + hashlib.sha256(multiprocessing.current_process().authkey).hexdigest()[:16]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
