"""``POST /v1/predict/batch``: many patients as JSON, NDJSON, CSV or Arrow, answered as they come.

::

    body ─ slices of rows (tables, arrow_read) ─ score ─ pieces of the answer (batch_answers) ─►

One slice is held at a time: the next is read when the last one's answers have gone out, so the
memory does not grow with the body, and a client that is slow to read slows its own sending. The
model is taken once, so a swap in between changes nothing. What is wrong with a row is told in
its place; what is wrong with the body is a problem while nothing was sent, and is told at the
end of the answer after that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from heartdx.bundle import Bundle
from heartdx.contract import PANEL_NAMES
from heartdx.errors import FieldProblem
from heartdx.records import CODINGS, Coding
from heartdx.serve import batch_schemas
from heartdx.serve.arrow_read import from_arrow
from heartdx.serve.batch_answers import ARROW, CSV, NDJSON, WRITERS, Scored, Summary, Writer, score
from heartdx.serve.body import JSON, media_type, refuse_other_media
from heartdx.serve.inputs import CODING
from heartdx.serve.problems import InputError, Located, RequestError, of_refusal
from heartdx.serve.tables import Chunks, Limits, Slice, from_csv, from_json, from_ndjson
from heartdx.settings import Settings

Reader = Callable[[Chunks, Coding, Limits], AsyncIterator[Slice]]
READERS: dict[str, Reader] = {
    JSON: from_json,
    NDJSON: from_ndjson,
    CSV: from_csv,
    ARROW: from_arrow,
}
MEDIA = tuple(READERS)
_FIRST = 3
"""Pieces made before the first is sent: one slice and the end are sent whole."""

router = APIRouter(redirect_slashes=False)


@router.post(
    "/v1/predict/batch",
    tags=["prediction"],
    summary="Probability of disease for many patients, row by row",
    description=batch_schemas.TEXT,
    responses=batch_schemas.RESPONSES,
    openapi_extra={"requestBody": batch_schemas.BODY, "parameters": batch_schemas.PARAMETERS},
)
async def predict_batch(request: Request) -> Response:
    """Answer every row that can be answered, and tell the others why not."""
    bundle: Bundle = request.app.state.loaded.require()
    settings: Settings = request.app.state.settings
    refuse_other_media(request.headers, MEDIA)
    came_as = media_type(request.headers)
    goes_as = accepted(request.headers.getlist("accept"), came_as)
    limits = Limits(settings.max_body_bytes, settings.max_records, settings.max_stream_rows)
    slices = READERS[came_as](request.stream(), _coding(request), limits)
    progress = Progress()
    pieces = _pieces(request, slices, bundle, WRITERS[goes_as](bundle), progress)
    answer = Streamed(pieces, progress, patience=settings.request_seconds)
    answer.headers["Content-Type"] = goes_as
    answer.headers["X-Model-Name"] = bundle.name
    answer.headers["X-Model-Version"] = bundle.version
    answer.headers["Vary"] = "Accept"
    await answer.begin()
    return answer


def accepted(headers: list[str], own: str) -> str:
    """The type to answer in: the most wanted one, the body's own among equals.

    Parameters
    ----------
    headers : the request's Accept headers; none wants anything.
    own : the type of the body.

    Raises
    ------
    RequestError
        None of ours is wanted.

    References
    ----------
    .. [1] Fielding R, Nottingham M, Reschke J. HTTP Semantics. RFC 9110, 2022, section 12.5.1.

    Examples
    --------
    >>> accepted(["text/csv;q=0.5, application/*"], "application/x-ndjson")
    'application/x-ndjson'
    >>> accepted(["image/png"], "text/csv")
    Traceback (most recent call last):
    ...
    heartdx.serve.problems.RequestError: accept one of application/json, ...
    """
    wanted = dict(_ranges(",".join(headers) or "*/*"))
    best = max((own, *MEDIA), key=lambda media: _quality(media, wanted))
    if _quality(best, wanted) <= 0:
        raise RequestError("not-acceptable", f"accept one of {', '.join(MEDIA)}")
    return best


def _ranges(header: str) -> Iterator[tuple[str, float]]:
    for part in header.split(","):
        media, *parameters = (text.strip().lower() for text in part.split(";"))
        said = [p.partition("=")[2].strip() for p in parameters if p.partition("=")[0] == "q"]
        with contextlib.suppress(ValueError):  # a quality that is no number wants nothing
            yield media, float(said[0]) if said else 1.0


def _quality(media: str, wanted: dict[str, float]) -> float:
    """The quality of the most specific range that a type falls in."""
    group = media.partition("/")[0] + "/*"
    return next((wanted[r] for r in (media, group, "*/*") if r in wanted), 0.0)


def _coding(request: Request) -> Coding:
    said = request.query_params.getlist(CODING)
    for coding in CODINGS:
        if said in ([], [coding]):
            return coding
    raise InputError([_WRONG_CODING])


# -- the answer, piece by piece --------------------------------------------------------------


@dataclass
class Progress:
    """How far an answer has come.

    Parameters
    ----------
    sent : whether its first byte went out; from then on the status is 200.
    answered, refused : rows.
    panels : answered rows by panel.
    """

    sent: bool = False
    answered: int = 0
    refused: int = 0
    panels: Counter[str] = field(default_factory=Counter)

    def add(self, scored: Scored) -> None:
        """Count a slice."""
        self.answered += len(scored.answered)
        self.refused += len(scored.refused)
        for place, name in enumerate(PANEL_NAMES):
            if number := int((scored.answers.place == place).sum()):
                self.panels[name] += number


async def _pieces(
    request: Request,
    slices: AsyncIterator[Slice],
    bundle: Bundle,
    writer: Writer,
    progress: Progress,
) -> AsyncIterator[bytes]:
    """The body of the answer; a refusal is raised while nothing was sent, told at the end after."""
    problem: dict[str, object] | None = None
    head = writer.head()
    try:
        async for part in slices:
            scored = score(bundle, part)
            _count(request, scored)
            progress.add(scored)
            yield head + writer.rows(scored)
            head = b""
            await asyncio.sleep(0)  # other requests get their turn
        if not progress.answered + progress.refused:
            raise InputError([_NOBODY])
    except RequestError as refusal:
        if not progress.sent:
            raise
        problem = of_refusal(refusal).document(request.state.request_id)
        request.state.facts["problem"] = refusal.kind
    _note(request, progress)
    yield writer.tail(Summary(progress.answered, progress.refused, problem))


def _count(request: Request, scored: Scored) -> None:
    app = request.app
    app.state.telemetry.count_answers(scored.answers)
    app.state.telemetry.count_rejected(
        Located(problem, "") for problems in scored.refused.values() for problem in problems
    )
    if app.shadow is not None:
        app.shadow.offer_table(scored.answers)


def _note(request: Request, progress: Progress) -> None:
    request.app.state.telemetry.count_batch(progress.answered + progress.refused)
    request.state.facts["panels"] = dict(progress.panels)
    request.state.facts["refused_rows"] = progress.refused


class Streamed(Response):
    """An answer sent while it is made; one that is short enough is sent whole, with its length.

    Parameters
    ----------
    pieces : the body.
    progress : told when the first byte goes out.
    patience : seconds that a client may take to read one piece.
    """

    def __init__(self, pieces: AsyncIterator[bytes], progress: Progress, *, patience: float):
        super().__init__()
        del self.headers["content-length"]
        self._pieces = pieces
        self._progress = progress
        self._patience = patience
        self._begun: list[bytes] = []

    async def begin(self) -> None:
        """Make the first pieces, while a refusal can still become the answer."""
        while len(self._begun) < _FIRST and (piece := await anext(self._pieces, None)) is not None:
            self._begun.append(piece)
        if len(self._begun) < _FIRST:
            self.headers["content-length"] = str(sum(map(len, self._begun)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a client that stops reading is left."""
        self._progress.sent = True
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with contextlib.aclosing(self._pieces):  # type: ignore[type-var]
            whole = len(self._begun) < _FIRST
            await self._send(send, b"".join(self._begun), more=not whole)
            self._begun = []
            if not whole:
                async for piece in self._pieces:
                    await self._send(send, piece, more=True)
                await self._send(send, b"", more=False)

    async def _send(self, send: Send, body: bytes, *, more: bool) -> None:
        message = {"type": "http.response.body", "body": body, "more_body": more}
        try:
            await asyncio.wait_for(send(message), self._patience)
        except TimeoutError:
            raise ClientDisconnect from None


_NOBODY = Located(FieldProblem("records", "range", "one row or more", "send a patient"), "")
_WRONG_CODING = Located(
    FieldProblem(CODING, "coding", "one of " + ", ".join(CODINGS), "leave it out for UCI's codes"),
    "",
)
