"""Writing that leaves either the old whole file or the new whole file, at any moment of a crash."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from heartdx.errors import UnavailableError

ABANDONED_SECONDS = 3600.0


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content in one step; a link keeps pointing to its file.

    Raises
    ------
    UnavailableError
        When the disk is full, or the place may not be written; the old file is untouched.
    """
    path = Path(path)
    with _told(path):
        if path.exists() and not path.is_file():  # a pipe or a device has no old content to keep
            path.write_bytes(content)
            return
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step, as UTF-8 with LF line ends."""
    write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name only when everything in it is written.

    When the target exists already, the new one is dropped: targets are content-addressed.
    """
    target = Path(target)
    with _told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            yield draft
            for path in sorted(draft.rglob("*")):
                if path.is_file():
                    _sync_file(path)
            for path in [draft, *(p for p in draft.rglob("*") if p.is_dir())]:
                path.chmod(0o777 & ~_umask())
                _sync_folder(path)
            if target.exists():
                shutil.rmtree(draft)
            else:
                draft.rename(target)
                _sync_folder(target.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def _sweep(target: Path) -> None:
    """Remove drafts of this target that a killed process left behind long ago."""
    for draft in target.parent.glob(f".{target.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise UnavailableError(
            f"{path}: cannot be written ({cause.strerror or cause}); what was there before is "
            "untouched; free space or choose another place"
        ) from cause


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    if os.name == "posix":
        _sync_file(path)
