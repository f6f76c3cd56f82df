"""API keys: a file of names and hashes; the keys themselves are nowhere kept.

::

    # name sha256-of-the-key
    emergency-department 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

A name may stand on several lines: while a key is replaced, the old and the new one both open,
and count as one client. A key is 256 random bits, so that one plain SHA-256 is enough: there is
nothing a dictionary or a slow hash could add.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from heartdx.errors import UnavailableError, UsageError

HEADER = "X-API-Key"
"""Brings a key, as does ``Authorization: Bearer``."""
PREFIX = "hdx_"
"""Begins each key, so that a scanner for leaked secrets can know one."""

_KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_LARGEST_FILE = 1_000_000


@dataclass(frozen=True)
class Keys:
    """The keys that may ask.

    Parameters
    ----------
    entries : pairs of a client's name and the SHA-256 (hexadecimal) of one of its keys.
    """

    entries: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The clients, each once, in alphabetical order."""
        return tuple(sorted({name for name, _ in self.entries}))

    def owner(self, key: bytes) -> str | None:
        """The client a key belongs to, None for an unknown key.

        Every entry is compared, and each comparison takes the same time wherever the hashes
        differ.

        Examples
        --------
        >>> Keys((("ward", hashed(b"secret")),)).owner(b"secret")
        'ward'
        >>> Keys((("ward", hashed(b"secret")),)).owner(b"guess")
        """
        given, found = hashed(key), None
        for name, expected in self.entries:
            if hmac.compare_digest(given, expected):
                found = name
        return found


def hashed(key: bytes) -> str:
    """A key's SHA-256 in hexadecimal: what the file holds of it."""
    return hashlib.sha256(key).hexdigest()


def parse(text: str, *, place: Path) -> Keys:
    r"""The keys of a file's text.

    Raises
    ------
    UsageError
        A line is not a name and a hash; its number is told, not its content.

    Examples
    --------
    >>> parse("# old key\nward " + "0" * 64, place=Path("keys")).names
    ('ward',)
    >>> parse("ward secret", place=Path("keys"))
    Traceback (most recent call last):
    ...
    heartdx.errors.UsageError: keys, line 1: expected `name sha256` ...
    """
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not _NAME.fullmatch(words[0]) or not _HASH.fullmatch(words[1]):
            raise UsageError(
                f"{place}, line {number}: expected `name sha256` with 64 hexadecimal digits in "
                "lower case; `heartdx key new` writes such a line"
            )
        entries.append((words[0], words[1]))
    return Keys(tuple(entries))


def read(place: Path) -> Keys:
    """The keys of a file.

    Raises
    ------
    UsageError
        It cannot be read, or is not a file of keys.
    """
    try:
        with place.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise UsageError(f"{place}: larger than {_LARGEST_FILE} bytes; not a file of keys")
        return parse(content.decode("ascii"), place=place)
    except OSError as cause:
        raise UsageError(
            f"{place}: the API keys cannot be read ({cause.strerror or cause}); make the file "
            "with `heartdx key new`, or unset HEARTDX_API_KEYS_FILE"
        ) from cause
    except UnicodeDecodeError as cause:
        raise UsageError(f"{place}: not ASCII text (byte {cause.start}); not a file of keys") from (
            cause
        )


def new(name: str, *, place: Path) -> str:
    """A new key for a client; only its hash is added to the file.

    The file appears whole or not at all, readable by its owner only.

    Raises
    ------
    UsageError
        The name is not fit, or what is at ``place`` is not a file of keys.
    UnavailableError
        The file cannot be written; what was there before is untouched.
    """
    if not _NAME.fullmatch(name):
        raise UsageError("--name: expected 1 to 64 letters, digits, `.`, `_` or `-`")
    known = place.read_text(encoding="ascii") if place.exists() and read(place) else ""
    if known and not known.endswith("\n"):
        known += "\n"
    key = PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    _write_private(place, f"{known}{name} {hashed(key.encode())}\n")
    return key


def _write_private(place: Path, text: str) -> None:
    """Replace a file in one step; unlike ``atomic.write_text`` no other user may read it."""
    target = place.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(
            prefix=f".{target.name}.", suffix=".tmp", dir=target.parent
        )
        try:
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as cause:
        raise UnavailableError(
            f"{place}: cannot be written ({cause.strerror or cause}); no key was made"
        ) from cause
