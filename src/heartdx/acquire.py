"""The default data file: four hospitals from UCI, or from the copy shipped inside the package.

Either way every byte is checked against UCI's checksums before anything is written, so the same
sites always give the same file.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import json
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import heartdx
from heartdx import atomic, embedded, logs
from heartdx.codings import shipped
from heartdx.contract import HEADER, SITE_NAMES, SITES, Site
from heartdx.contract import VERSION as CONTRACT_VERSION
from heartdx.errors import HeartdxError, UnavailableError, UsageError, VerificationError

Source = Literal["auto", "uci", "embedded"]
SOURCES: tuple[Source, ...] = ("auto", "uci", "embedded")

UCI_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
DOI = "10.24432/C52P4X"
LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
CITATION = (
    "Janosi A, Steinbrunn W, Pfisterer M, Detrano R. Heart Disease. UCI Machine Learning "
    f"Repository, 1989. doi:{DOI}"
)
CHANGES = (
    "four files joined; header line and site column added; ? and zeros that mean missing left "
    "blank; numbers in shortest form"
)
MOST_BYTES = 1_000_000
"""UCI's largest file has 18 461 bytes; a longer answer is not it."""
CHUNK = 16_384

logger = logs.get("acquire")


@dataclass(frozen=True)
class Fetched:
    """What was written.

    Parameters
    ----------
    output : the data file.
    provenance : the file beside it that says where the data come from.
    rows : patients written.
    sites : hospital to patients.
    sha256 : of the data file.
    source : ``uci`` or ``embedded``, whichever was used.
    """

    output: Path
    provenance: Path
    rows: int
    sites: dict[str, int]
    sha256: str
    source: str


@dataclass(frozen=True)
class Provenance:
    """Where a data file comes from and what was done to it."""

    source: str
    url: str | None
    why_embedded: str | None
    doi: str
    licence: str
    citation: str
    changes: str
    files: dict[str, str]
    output: str
    sha256: str
    rows: int
    sites: dict[str, int]
    blanked_zeros: dict[str, dict[str, int]]
    retrieved_at: str
    heartdx: str
    contract: str


@dataclass(frozen=True)
class _Obtained:
    contents: dict[str, bytes]
    source: str
    why_embedded: str | None


def fetch(
    output: Path,
    *,
    source: Source = "auto",
    url: str | None = None,
    sites: Sequence[str] | None = None,
    timeout: float = 10.0,
) -> Fetched:
    """Write the data file and its provenance.

    Parameters
    ----------
    output : the CSV to write; replaced in one step, or left as it was.
    source : ``uci``, ``embedded``, or ``auto``: UCI, and the shipped copy when UCI fails.
    url : another base address; http is allowed for loopback only.
    sites : some of the four hospitals; all by default.
    timeout : seconds for each file, in all.

    Raises
    ------
    UsageError
        An unknown source or hospital, or an address that is not https.
    UnavailableError
        UCI cannot be reached with ``source="uci"``, or the file cannot be written.
    VerificationError
        What was received is not UCI's file, with ``source="uci"``.
    """
    wanted = _wanted(sites)
    base = _base(url)
    obtained = _obtain(wanted, source, base, timeout)
    tables = {s.name: shipped.site_table(obtained.contents[s.name], s) for s in wanted}
    content = _csv(tables)
    counts = {name: len(table.num) for name, table in tables.items()}
    provenance = Provenance(
        source=obtained.source,
        url=base if obtained.source == "uci" else None,
        why_embedded=obtained.why_embedded,
        doi=DOI,
        licence=LICENCE,
        citation=CITATION,
        changes=CHANGES,
        files={s.file: _digest(obtained.contents[s.name]) for s in wanted},
        output=Path(output).name,
        sha256=_digest(content),
        rows=sum(counts.values()),
        sites=counts,
        blanked_zeros={name: table.blanked for name, table in tables.items() if table.blanked},
        retrieved_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        heartdx=heartdx.__version__,
        contract=CONTRACT_VERSION,
    )
    beside = _write(Path(output), content, provenance)
    logs.event(logger, "fetched", rows=provenance.rows, source=obtained.source, file=str(output))
    return Fetched(
        Path(output), beside, provenance.rows, counts, provenance.sha256, obtained.source
    )


# -- what was asked ---------------------------------------------------------------------------


def _wanted(sites: Sequence[str] | None) -> list[Site]:
    if not sites:
        return list(SITES)
    unknown = [name for name in sites if name not in SITE_NAMES]
    if unknown:
        raise UsageError(
            f"site {', '.join(unknown)}: unknown; the four are {', '.join(SITE_NAMES)}"
        )
    return [site for site in SITES if site.name in sites]


def _base(url: str | None) -> str:
    base = UCI_URL if url is None else url
    _refuse_unsafe(base)
    return base if base.endswith("/") else base + "/"


def _refuse_unsafe(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.username or parts.password:
        raise UsageError("--url: holds a user name or password, which would be written down")
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname):
        return
    raise UsageError(
        f"--url: expected an https:// address (http:// for this machine only), got "
        f"{parts.scheme or 'no scheme'}"
    )


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host or "").is_loopback
    return False


# -- where it comes from ----------------------------------------------------------------------


def _obtain(wanted: list[Site], source: Source, base: str, timeout: float) -> _Obtained:
    if source not in SOURCES:
        raise UsageError(f"source {source}: unknown; expected one of {', '.join(SOURCES)}")
    if source == "embedded":
        return _Obtained(_embedded(wanted), "embedded", "asked for")
    try:
        return _Obtained(_downloaded(wanted, base, timeout), "uci", None)
    except (UnavailableError, VerificationError) as cause:
        if source == "uci":
            raise
        _say_fallback(cause)
        return _Obtained(_embedded(wanted), "embedded", str(cause))


def _say_fallback(cause: HeartdxError) -> None:
    """An unreachable server is usual on a hospital's machine; wrong bytes never are."""
    wrong = isinstance(cause, VerificationError)
    logs.event(
        logger,
        f"download {'refused' if wrong else 'not possible'}, using the copy shipped with heartdx",
        level=logging.WARNING if wrong else logging.INFO,
        why=str(cause),
    )


def _embedded(wanted: list[Site]) -> dict[str, bytes]:
    return {site.name: embedded.site_bytes(site) for site in wanted}


def _downloaded(wanted: list[Site], base: str, timeout: float) -> dict[str, bytes]:
    contents = {}
    for site in wanted:
        content = _get(base + site.file, timeout)
        _verify(content, site, base)
        contents[site.name] = content
    return contents


def _verify(content: bytes, site: Site, base: str) -> None:
    if _digest(content) == site.sha256:
        return
    start = content[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise VerificationError(
            f"{base}{site.file}: a web page came instead of data (a login or error page of a "
            "proxy, or the file has moved); check the address, or use --source embedded"
        )
    raise VerificationError(
        f"{base}{site.file}: SHA-256 is {_digest(content)[:12]}…, UCI's file has "
        f"{site.sha256[:12]}…; nothing was written; use --source embedded"
    )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an address that could have been asked for itself."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        try:
            _refuse_unsafe(newurl)
        except UsageError as cause:
            fp.close()
            raise UnavailableError(
                f"{req.full_url}: redirected to an address that is not https; use --source embedded"
            ) from cause
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _get(url: str, timeout: float) -> bytes:
    handlers: list[urllib.request.BaseHandler] = [_SafeRedirects()]
    if _is_loopback(urllib.parse.urlsplit(url).hostname):
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(  # noqa: S310 - _refuse_unsafe allows https only
        url, headers={"User-Agent": f"heartdx/{heartdx.__version__}"}
    )
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            return _body(answer, url, deadline=time.monotonic() + timeout)
    except urllib.error.HTTPError as cause:
        cause.close()
        raise UnavailableError(
            f"{url}: the server answered {cause.code}; use --source embedded"
        ) from cause
    except (OSError, http.client.HTTPException) as cause:
        reason = getattr(cause, "reason", None) or cause
        raise UnavailableError(
            f"{url}: cannot be reached ({reason}); use --source embedded"
        ) from cause


def _body(answer: http.client.HTTPResponse, url: str, *, deadline: float) -> bytes:
    promised = answer.headers.get("Content-Length", "")
    content = bytearray()
    while chunk := answer.read1(CHUNK):
        content += chunk
        if len(content) > MOST_BYTES:
            raise VerificationError(
                f"{url}: more than {MOST_BYTES} bytes came, UCI's files have under 20 000; "
                "check the address"
            )
        if time.monotonic() > deadline:
            raise UnavailableError(f"{url}: too slow, given up; raise --timeout")
    if promised.isdigit() and len(content) < int(promised):
        raise UnavailableError(
            f"{url}: the connection was cut after {len(content)} of {promised} bytes; try again, "
            "or use --source embedded"
        )
    return bytes(content)


# -- what is written --------------------------------------------------------------------------


def _csv(tables: dict[str, shipped.SiteTable]) -> bytes:
    lines = [",".join(HEADER)]
    for name, table in tables.items():
        for row, num in zip(table.X, table.num, strict=True):
            lines.append(",".join([*map(_shortest, row), _shortest(num), name]))
    return ("\n".join(lines) + "\n").encode("ascii")


def _shortest(value: float) -> str:
    if np.isnan(value):
        return ""
    return str(int(value)) if value == int(value) else repr(float(value))


def _write(output: Path, content: bytes, provenance: Provenance) -> Path:
    beside = output.with_name(output.name + ".provenance.json")
    said = json.dumps(asdict(provenance), indent=2, ensure_ascii=False) + "\n"
    atomic.write_bytes(output, content)
    atomic.write_text(beside, said)
    return beside


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
