"""What a browser is told: which pages may ask, what may run, what is kept."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heartdx.errors import UsageError
from heartdx.serve.keys import HEADER
from heartdx.serve.paths import DOCS, is_prediction, route_path


class Cors:
    """Answers for the listed origins only; without any it is not there at all.

    Parameters
    ----------
    app : the application inside.
    origins : scheme and host of each.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]):
        self.app = app
        if origins:
            self.app = CORSMiddleware(
                app,
                allow_origins=origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Content-Type", "Authorization", HEADER, "X-Request-ID"],
                expose_headers=["X-Request-ID", "Retry-After"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class SecurityHeaders:
    """Adds what a browser should be told to every answer.

    Parameters
    ----------
    app : the application inside.
    page : the documentation page, whose scripts alone may run.

    References
    ----------
    .. [1] OWASP. REST Security Cheat Sheet: security headers.
    .. [2] W3C. Content Security Policy Level 3.
    """

    def __init__(self, app: ASGIApp, page: bytes):
        self.app = app
        self._of_page = _headers(page_policy(page))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = route_path(scope)
        if is_prediction(path):
            mine: tuple[tuple[bytes, bytes], ...] = (NO_STORE,)
        else:
            mine = self._of_page if path == DOCS else HEADERS

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                given += [header for header in mine if header[0] not in names]
                message = {**message, "headers": given}
            await send(message)

        await self.app(scope, receive, sending)


NO_STORE = (b"cache-control", b"no-store")
"""On every answer of a prediction door: a probability is a patient's data.

It is the only header there beside ``nosniff``: JSON that a browser may not take for anything else
is neither framed nor run, and each header costs a fast answer two per cent."""


def _headers(policy: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"content-security-policy", policy.encode()),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
    )


HEADERS = _headers("default-src 'none'; frame-ancestors 'none'")
"""On every other answer but the documentation page, beside Watch's ``nosniff``."""


def page_policy(page: bytes) -> str:
    """The policy under which a page's own scripts run and nothing else does.

    Inline scripts are allowed by their hash; inline styles in general, since Swagger UI sets
    them as it draws.

    Examples
    --------
    >>> page_policy(b"<script>go()</script>").split("; ")[1]
    "script-src 'self' 'sha256-5KYv+PUboo5h+0+YAtGRPbwv5d/QxzHslP4YGnUaxRw='"
    """
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    allowed = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in scripts
    )
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' {allowed}".rstrip(),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def origins(listed: str) -> tuple[str, ...]:
    """The origins of ``HEARTDX_CORS_ORIGINS``.

    Raises
    ------
    UsageError
        One is not scheme and host; a wildcard is never taken.

    Examples
    --------
    >>> origins("https://ward.example, http://localhost:8080")
    ('https://ward.example', 'http://localhost:8080')
    >>> origins("*")
    Traceback (most recent call last):
    ...
    heartdx.errors.UsageError: HEARTDX_CORS_ORIGINS: expected exact origins such as ...
    """
    found = tuple(word.strip() for word in listed.split(",") if word.strip())
    for origin in found:
        if not _ORIGIN.fullmatch(origin):
            raise UsageError(
                "HEARTDX_CORS_ORIGINS: expected exact origins such as https://ward.example, with "
                "commas between, lower case, without path and without wildcard"
            )
    return found


_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
