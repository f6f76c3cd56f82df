"""What the requirements files pin, for this machine's Python and platform."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$", re.M)


def pins(*names: str) -> dict[str, str]:
    """Name to version of every pin in these files whose marker holds here.

    Parameters
    ----------
    *names : requirements files at the root of the repository
    """
    found: dict[str, str] = {}
    for name in names:
        found |= read(ROOT / name)
    return found


def read(path: Path) -> dict[str, str]:
    """Normalized name to version of the pins in one file whose marker holds here."""
    return {
        normal(name): version
        for name, version, marker in PIN.findall(path.read_text(encoding="utf-8"))
        if not marker or Marker(marker).evaluate()
    }


def normal(name: str) -> str:
    """A package's name as indexes compare it.

    Examples
    --------
    >>> normal("Typing_Extensions")
    'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def serving() -> dict[str, str]:
    """What the image carries: the serving lock, less what only builds the wheel.

    The full lock is the plain pins and the build backend (tests/architecture/test_locks.py), so
    the difference of the two is the build backend's.
    """
    build_only = pins("requirements.lock").keys() - pins("requirements.txt").keys()
    locked = pins("requirements-serve.lock")
    return {name: version for name, version in locked.items() if name not in build_only}
