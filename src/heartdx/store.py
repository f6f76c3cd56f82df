"""The models folder for the person on call: which model is current, back to the one before, stop.

::

    <models_dir>/current          digest of the bundle that is served
    <models_dir>/history.jsonl    a line for each time ``current`` was moved; only appended to
    <models_dir>/stopped          the kill switch: while it is there, nothing is answered
    <models_dir>/bundles/<digest>/

Every writer of ``current`` goes through ``switch`` or ``rollback``. They take turns by a lock on
the history file, verify before they move anything, replace ``current`` in one step and append to
the history afterwards: a crash between the two costs a line, and the next line's ``from`` tells
what it said.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heartdx import atomic, bundle
from heartdx.bundle import Bundle
from heartdx.errors import (
    BundleError,
    NoModelError,
    UnavailableError,
    UsageError,
    VerificationError,
)

HISTORY = "history.jsonl"
STOPPED = "stopped"
SIGNATURE = "model.sig"
CARD = "card.md"
ROLLBACK = "heartdx model rollback"
SHORTEST_PREFIX = 6
LONGEST_REASON = 200
UNSTATED = "stopped without a reason that can be read"

_UNLISTED = frozenset({bundle.MANIFEST, CARD, SIGNATURE})
"""Files of a bundle that its manifest gives no checksum for."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]+")

Load = Callable[[Path], Bundle]
"""Reads and verifies a bundle folder: ``bundle.load``, or with a signature ``signing.load``."""


@dataclass(frozen=True)
class Switch:
    """``current`` moved once.

    Parameters
    ----------
    time : when, ISO 8601 in UTC.
    before : digest that was current, None when there was none.
    after : digest that is current since.
    by : the command that did it.
    """

    time: str
    before: str | None
    after: str
    by: str


@dataclass(frozen=True)
class Entry:
    """One bundle of the folder.

    Parameters
    ----------
    digest : its name.
    created : when it was trained as its manifest says, empty when that cannot be read.
    is_current : whether it is served.
    is_previous : whether a rollback would go to it.
    is_signed : whether a signature lies in it.
    problem : why it does not verify, empty when it does.
    """

    digest: str
    created: str
    is_current: bool
    is_previous: bool
    is_signed: bool
    problem: str


# -- which one is current --------------------------------------------------------------------


def switch(models_dir: Path, digest: str, *, by: str, load: Load = bundle.load) -> Switch:
    """Make a bundle the current one, after verifying it.

    Parameters
    ----------
    models_dir : the models folder.
    digest : all 64 digits (``find`` gives them from the first few).
    by : the command, for the history.
    load : how the bundle is verified.

    Returns
    -------
    what was done; ``before`` equals ``after``, and no line is written, when it was current already.

    Raises
    ------
    NoModelError
        There is no such bundle.
    VerificationError
        It does not verify; the current one stays.
    UnavailableError
        The folder cannot be written.
    """
    with _turn(models_dir) as history:
        return _moved(models_dir, digest, history, by=by, load=load)


def rollback(models_dir: Path, *, load: Load = bundle.load) -> Switch:
    """Go back to the model that was current before this one, after verifying it.

    A second rollback goes one further back, not forth again.

    Raises
    ------
    NoModelError
        The history knows no earlier model, or its bundle is gone.
    VerificationError
        The earlier model does not verify; the current one stays.
    UnavailableError
        The folder cannot be written.
    """
    with _turn(models_dir) as history:
        earlier = previous(models_dir)
        if earlier is None:
            raise NoModelError(
                f"{models_dir / HISTORY}: tells of no model before the current one; see "
                "`heartdx model list`, then choose one with `heartdx model use DIGEST`"
            )
        return _moved(models_dir, earlier, history, by=ROLLBACK, load=load)


def previous(models_dir: Path) -> str | None:
    """Digest that a rollback would go to; None when there is none."""
    path = trail(history(models_dir), _current(models_dir))
    return path[-2] if len(path) > 1 else None


def history(models_dir: Path) -> list[Switch]:
    """Every known switch, the oldest first; a line that a crash cut short is passed over."""
    try:
        lines = (models_dir / HISTORY).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as cause:
        raise UnavailableError(f"{models_dir / HISTORY}: cannot be read") from cause
    return [switch for switch in map(_switch, lines) if switch is not None]


def trail(switches: Sequence[Switch], current: str | None) -> list[str]:
    """The models one can go back through, the current one last.

    A switch adds its model and a rollback takes one off. A model that the history does not know
    (written by hand, or a line lost in a crash) is put where the next line's ``before``, or the
    current one, says.

    Examples
    --------
    >>> one, two = Switch("", None, "a", "train"), Switch("", "a", "b", "heartdx model use")
    >>> trail([one, two], "b")
    ['a', 'b']
    >>> trail([one, two, Switch("", "b", "a", ROLLBACK)], "a")
    ['a']
    >>> trail([one], "by hand")
    ['a', 'by hand']
    """
    path: list[str] = []
    for switch in switches:
        if switch.before is not None and path[-1:] != [switch.before]:
            path.append(switch.before)
        if switch.by == ROLLBACK and path[-2:-1] == [switch.after]:
            path.pop()
        else:
            path.append(switch.after)
    if current is not None and path[-1:] != [current]:
        path.append(current)
    return path


def _moved(models_dir: Path, digest: str, history: int, *, by: str, load: Load) -> Switch:
    if not _DIGEST.fullmatch(digest):
        raise UsageError("a digest has 64 hexadecimal digits; see `heartdx model list`")
    verified(models_dir / bundle.BUNDLES / digest, load=load)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    done = Switch(now, _current(models_dir), digest, by)
    if done.before != done.after:
        atomic.write_text(models_dir / bundle.CURRENT, digest + "\n")
        _append(models_dir / HISTORY, history, done)
    return done


def _current(models_dir: Path) -> str | None:
    """Digest in ``current``; None when there is none, or nothing that could be gone back to."""
    try:
        return bundle.current_folder(models_dir).name
    except (NoModelError, BundleError):
        return None


@contextlib.contextmanager
def _turn(models_dir: Path) -> Iterator[int]:
    """The history file, opened for appending and locked: one writer at a time.

    The lock lies on the one file that is never replaced, and goes with the process that held it.
    """
    if not models_dir.is_dir():
        raise NoModelError(
            f"{models_dir}: no such folder; make a model with: {bundle.HOW_TO_TRAIN}"
        )
    path = models_dir / HISTORY
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as cause:
        raise UnavailableError(
            f"{path}: cannot be written ({cause.strerror}); the current model stays"
        ) from cause
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _append(path: Path, handle: int, done: Switch) -> None:
    line = {"time": done.time, "from": done.before, "to": done.after, "by": done.by}
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, b"\n" * torn + json.dumps(line).encode("utf-8") + b"\n")
        os.fsync(handle)
    except OSError as cause:
        raise UnavailableError(
            f"{path}: cannot be written ({cause.strerror}); {done.after[:12]} is current all the "
            "same, and a rollback will find the way back"
        ) from cause


def _switch(line: bytes) -> Switch | None:
    try:
        known = json.loads(line)
        told = Switch(known["time"], known["from"], known["to"], known["by"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    digests = [told.after] if told.before is None else [told.before, told.after]
    whole = all(isinstance(part, str) for part in (told.time, told.by, *digests))
    return told if whole and all(map(_DIGEST.fullmatch, digests)) else None


# -- the bundles of the folder ---------------------------------------------------------------


def entries(models_dir: Path, *, load: Load = bundle.load) -> list[Entry]:
    """Every bundle of the folder, verified, the newest first; a current one that is gone too."""
    current = _current(models_dir)
    digests = {*_digests(models_dir), *({current} if current else ())}
    found = [entry(models_dir, digest, load=load) for digest in digests]
    return sorted(found, key=lambda one: (one.created, one.digest), reverse=True)


def entry(models_dir: Path, digest: str, *, load: Load = bundle.load) -> Entry:
    """What there is to say of one bundle."""
    folder, problem = models_dir / bundle.BUNDLES / digest, ""
    try:
        verified(folder, load=load)
    except (NoModelError, VerificationError) as refusal:
        problem = str(refusal)
    return Entry(
        digest,
        _created(folder),
        is_current=digest == _current(models_dir),
        is_previous=digest == previous(models_dir),
        is_signed=(folder / SIGNATURE).exists(),
        problem=problem,
    )


def find(models_dir: Path, prefix: str) -> str:
    """The whole digest of the only bundle whose digest begins so.

    Raises
    ------
    UsageError
        Fewer than six digits, no hexadecimal digits, or several bundles begin so.
    NoModelError
        No bundle does.
    """
    wanted = prefix.strip().lower()
    if len(wanted) < SHORTEST_PREFIX or not _PREFIX.fullmatch(wanted):
        raise UsageError(
            f"expected a digest's first {SHORTEST_PREFIX} or more hexadecimal digits; see "
            "`heartdx model list`"
        )
    found = [digest for digest in _digests(models_dir) if digest.startswith(wanted)]
    if len(found) > 1:
        named = ", ".join(digest[: len(wanted) + SHORTEST_PREFIX] for digest in found)
        raise UsageError(f"{wanted}: {len(found)} bundles begin so ({named}); give more digits")
    if not found:
        raise NoModelError(
            f"{models_dir / bundle.BUNDLES}: no bundle begins with {wanted}; see "
            "`heartdx model list`"
        )
    return found[0]


def verified(folder: Path, *, load: Load = bundle.load) -> Bundle:
    """A bundle whose every file is known, and which verifies.

    The service ignores a file that the manifest does not name, for it never opens it. Whoever
    switches or signs a model should hear of it, so here it is refused.

    Raises
    ------
    NoModelError
        There is no such folder.
    VerificationError
        It does not verify, or holds a file that its manifest does not name.
    """
    made = load(folder)
    strange = [name for name in _files(folder) if name not in known_files(made)]
    if strange:
        raise BundleError(
            f"{folder}: holds {', '.join(strange[:3])}{' …' if len(strange) > 3 else ''}, which "
            "its manifest does not name; remove what does not belong there"
        )
    return made


def known_files(made: Bundle) -> set[str]:
    """Names of the files that belong to a bundle, whether or not each is there."""
    return set(_UNLISTED) | set(made.manifest["files"])


def _files(folder: Path) -> list[str]:
    """What lies in a bundle, but for the drafts of a killed writer (see ``atomic``)."""
    found = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    kept = [path for path in found if not (path.name[0] == "." and path.suffix == ".tmp")]
    return sorted(path.relative_to(folder).as_posix() for path in kept)


def _digests(models_dir: Path) -> list[str]:
    bundles = models_dir / bundle.BUNDLES
    if not bundles.is_dir():
        return []
    return sorted(path.name for path in bundles.iterdir() if _DIGEST.fullmatch(path.name))


def _created(folder: Path) -> str:
    try:
        manifest: Any = json.loads((folder / bundle.MANIFEST).read_bytes())
        return str(manifest.get("created", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


# -- the kill switch -------------------------------------------------------------------------


def stop(models_dir: Path, reason: str) -> None:
    """Stop every service that reads this folder from answering, until ``start``.

    Raises
    ------
    UsageError
        The reason is empty, too long or not one printable line.
    NoModelError
        There is no such folder, so that nothing would be stopped.
    UnavailableError
        The folder cannot be written.
    """
    told = reason.strip()
    if not told or len(told) > LONGEST_REASON or not told.isprintable():
        raise UsageError(f"the reason should be one line of 1 to {LONGEST_REASON} characters")
    if not models_dir.is_dir():
        raise NoModelError(f"{models_dir}: no such folder, so nothing would be stopped")
    atomic.write_text(models_dir / STOPPED, told + "\n")


def start(models_dir: Path) -> str | None:
    """Let services answer again.

    Returns
    -------
    the reason why they were stopped; None when they were not.

    Raises
    ------
    UnavailableError
        The file cannot be removed; they stay stopped.
    """
    reason = stopped(models_dir)
    path = models_dir / STOPPED
    try:
        path.unlink(missing_ok=True)
    except OSError as cause:
        raise UnavailableError(
            f"{path}: cannot be removed ({cause.strerror}); the services stay stopped"
        ) from cause
    return reason


def stopped(models_dir: Path) -> str | None:
    """Why nothing may be answered; None when it may.

    Whatever is found under the name stops, readable or not: somebody meant to. What could not
    be shown to a client (control characters, more than ``LONGEST_REASON``) is left out.
    """
    try:
        with (models_dir / STOPPED).open("rb") as stream:
            content = stream.read(4 * LONGEST_REASON)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return UNSTATED
    text = content.decode("utf-8", "replace")
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:LONGEST_REASON] or UNSTATED
