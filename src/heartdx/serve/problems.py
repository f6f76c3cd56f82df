"""Refusals as RFC 9457 problem bodies. The one place that joins errors and HTTP statuses.

No body holds a value that was sent.

References
----------
.. [1] Nottingham M, Wilde E, Dalal S. Problem Details for HTTP APIs. RFC 9457, 2023.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.responses import Response

from heartdx.errors import FieldProblem, HeartdxError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:heartdx:problem:"
KINDS: dict[str, HTTPStatus] = {
    "malformed-json": HTTPStatus.BAD_REQUEST,
    "malformed-body": HTTPStatus.BAD_REQUEST,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "not-found": HTTPStatus.NOT_FOUND,
    "method-not-allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "not-acceptable": HTTPStatus.NOT_ACCEPTABLE,
    "request-timeout": HTTPStatus.REQUEST_TIMEOUT,
    "model-refused": HTTPStatus.CONFLICT,
    "body-too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unsupported-media-type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "invalid-input": HTTPStatus.UNPROCESSABLE_ENTITY,
    "rate-limited": HTTPStatus.TOO_MANY_REQUESTS,
    "headers-too-large": HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "internal-error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "model-failed": HTTPStatus.INTERNAL_SERVER_ERROR,
    "no-model": HTTPStatus.SERVICE_UNAVAILABLE,
    "stopped": HTTPStatus.SERVICE_UNAVAILABLE,
    "draining": HTTPStatus.SERVICE_UNAVAILABLE,
    "overloaded": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Every problem the service can answer, and its status."""
INFERENCE_PREFIX = "/v2"
"""Where the Open Inference Protocol is spoken."""
MAX_TOLD = 5
"""Fields named in that protocol's ``error``; ``errors`` names all."""


class RequestError(HeartdxError):
    """A request that gets a problem for an answer.

    Parameters
    ----------
    kind : one of ``KINDS``.
    detail : one sentence that says how to mend it.
    headers : what the answer carries beside the body, such as ``Retry-After``.
    """

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None):
        self.kind = kind
        self.headers = dict(headers or {})
        super().__init__(detail)


@dataclass(frozen=True)
class Located:
    """A field's problem and the JSON pointer (RFC 6901) to it."""

    problem: FieldProblem
    pointer: str


class InputError(RequestError):
    """Fields of a request break the contract."""

    def __init__(self, problems: list[Located], *, cut: bool = False):
        self.problems = tuple(problems)
        count = f"the first {len(problems)}" if cut else str(len(problems))
        super().__init__(
            "invalid-input",
            f"{count} problem(s) with the fields; `errors` names each field and its mend",
        )


@dataclass(frozen=True)
class Problem:
    """One problem body.

    Parameters
    ----------
    kind : one of ``KINDS``.
    detail : one sentence.
    errors : the fields' problems.
    headers : headers to add.
    """

    kind: str
    detail: str
    errors: tuple[Located, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self, request_id: str, *, path: str = "") -> dict[str, object]:
        """The body's content.

        Parameters
        ----------
        request_id : of the refused request.
        path : of the request; under ``/v2`` the body also has ``error``, the member that clients
            of the Open Inference Protocol read.
        """
        status = KINDS[self.kind]
        body: dict[str, object] = {
            "type": TYPE_PREFIX + self.kind,
            "title": self.kind.replace("-", " ").capitalize(),
            "status": int(status),
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            body["errors"] = [_entry(located) for located in self.errors]
        if f"{path}/".startswith(INFERENCE_PREFIX + "/"):
            told = "; ".join(str(located.problem) for located in self.errors[:MAX_TOLD])
            body["error"] = told or self.detail
        return body

    def response(self, request_id: str, *, path: str = "") -> Response:
        """The answer to send; see ``document``."""
        return Response(
            json.dumps(self.document(request_id, path=path)),
            status_code=int(KINDS[self.kind]),
            headers=dict(self.headers),
            media_type=MEDIA_TYPE,
        )


def of_refusal(refusal: RequestError) -> Problem:
    """The problem of a refused request."""
    errors = refusal.problems if isinstance(refusal, InputError) else ()
    return Problem(refusal.kind, str(refusal), errors, refusal.headers)


def of_status(status: int, headers: Mapping[str, str] | None) -> Problem:
    """The problem of what the router refuses: an unknown path or method."""
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed(headers or {})
        return Problem("method-not-allowed", f"use {allowed}", headers={"Allow": allowed})
    if status == HTTPStatus.NOT_FOUND:
        return Problem("not-found", "there is nothing at this path; /docs lists what there is")
    return INTERNAL


INTERNAL = Problem("internal-error", "the service failed; give the request_id to whoever runs it")


def _allowed(headers: Mapping[str, str]) -> str:
    given = {name.strip() for name in headers.get("Allow", headers.get("allow", "")).split(",")}
    return ", ".join(sorted(given | ({"HEAD"} if "GET" in given else set())))


def _entry(located: Located) -> dict[str, object]:
    problem = located.problem
    entry: dict[str, object] = {
        "field": problem.field,
        "kind": problem.kind,
        "expected": problem.expected,
        "mend": problem.mend,
        "pointer": located.pointer,
    }
    if problem.record is not None:
        entry["record"] = problem.record
    return entry
