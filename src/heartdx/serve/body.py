"""A request's bytes as strict JSON, bounded in size and depth.

References
----------
.. [1] Bray T (ed). The JavaScript Object Notation (JSON) Data Interchange Format. RFC 8259, 2017.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NoReturn

from starlette.requests import Request

from heartdx.contract import NAMES
from heartdx.serve.problems import RequestError

JSON = "application/json"
MAX_DEPTH = 32
"""A batch is 4 deep; nothing deeper than this is read at all."""

# An unterminated string matches to the end, so the scan stays linear on any input.
_OPEN_OR_CLOSE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


async def read_json(request: Request, *, limit: int) -> object:
    """The body of a request as Python values.

    Parameters
    ----------
    limit : most bytes to read.

    Raises
    ------
    RequestError
        Not JSON by content type, compressed, too large, or malformed.
    """
    return parse(await read_bytes(request, limit=limit))


async def read_bytes(request: Request, *, limit: int, media: tuple[str, ...] = (JSON,)) -> bytes:
    """The body of a request as it came.

    Parameters
    ----------
    limit : most bytes to read.
    media : content types accepted; an empty one accepts a request that declares none.

    Raises
    ------
    RequestError
        Another content type, compressed, or too large.
    """
    refuse_other_media(request.headers, media)
    return await _bytes(request, limit)


def media_type(headers: Mapping[str, str]) -> str:
    """The declared content type, lower case, without parameters; empty when none is.

    Examples
    --------
    >>> media_type({"content-type": "Application/JSON; charset=utf-8"})
    'application/json'
    """
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def parse(raw: bytes, *, nan_is_missing: bool = False) -> object:
    """JSON text as Python values; names unique, numbers finite, UTF-8 without BOM.

    Parameters
    ----------
    raw : the text.
    nan_is_missing : read the token NaN, which is no JSON, as null; for protocols whose own
        clients write it for a missing value.

    Raises
    ------
    RequestError
        Malformed; the place is named, the content is not.

    Examples
    --------
    >>> parse(b'{"age": 63}')
    {'age': 63}
    >>> parse(b'{"age": NaN}')
    Traceback (most recent call last):
    ...
    heartdx.serve.problems.RequestError: NaN and Infinity are not JSON; ...
    """
    try:
        text = raw.decode("utf-8")
        _refuse_deep(text)
        constant = _missing_if_nan if nan_is_missing else _refuse_constant
        return json.loads(text, object_pairs_hook=_unique, parse_constant=constant)
    except UnicodeDecodeError as cause:
        _malformed(f"the body is not UTF-8 (byte {cause.start})", cause)
    except json.JSONDecodeError as cause:
        place = f"line {cause.lineno}, column {cause.colno}"
        _malformed(f"the body is not JSON ({place}); check it with a JSON linter", cause)
    except (ValueError, RecursionError) as cause:  # an integer of thousands of digits
        _malformed("the body holds something no number or record can be", cause)


async def _bytes(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        _too_large(limit)
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            _too_large(limit)
    return bytes(received)


def refuse_other_media(headers: Mapping[str, str], accepted: tuple[str, ...]) -> None:
    """Refuse a body of another content type than the accepted, not UTF-8, or compressed.

    Raises
    ------
    RequestError
        Says what to send.
    """
    parameters = headers.get("content-type", "").partition(";")[2]
    charset = re.search(r'charset="?([\w-]+)', parameters, re.IGNORECASE)
    readable = charset is None or charset[1].lower() in {"utf-8", "utf8", "us-ascii"}
    if media_type(headers) not in accepted or not readable:
        named = " or ".join(media for media in accepted if media)
        raise RequestError("unsupported-media-type", f"send Content-Type: {named} (UTF-8)")
    if headers.get("content-encoding", "identity").strip().lower() not in {"identity", ""}:
        raise RequestError("unsupported-media-type", "send the body without Content-Encoding")


def _refuse_deep(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _OPEN_OR_CLOSE.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise RequestError("malformed-json", f"the body is nested deeper than {MAX_DEPTH}")
        elif first != '"':
            depth -= 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = {name for name, _ in pairs if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
        known = ", ".join(name for name in NAMES if name in twice)
        raise RequestError("malformed-json", f"a name stands twice in one object {known}".strip())
    return members


def _missing_if_nan(constant: str) -> None:
    if constant != "NaN":
        _refuse_constant(constant)


def _refuse_constant(_: str) -> NoReturn:
    raise RequestError(
        "malformed-json", "NaN and Infinity are not JSON; send null for what is missing"
    )


def _malformed(detail: str, cause: Exception) -> NoReturn:
    raise RequestError("malformed-json", detail) from cause


def _too_large(limit: int) -> NoReturn:
    raise RequestError(
        "body-too-large", f"the body is larger than {limit} bytes; send several requests"
    )
