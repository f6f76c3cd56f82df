"""The application object: FastAPI, that answers a well-formed ``POST /predict`` itself.

Most requests are one patient in plain numbers. Their body is decoded straight into the
contract's fields and ranges, scored by plain arithmetic and answered from ready pieces of text,
in about a third of the work of a routed request. Whatever this path does not know (words for
codes, another coding, a batch, a doubtful header, anything wrong) is handed on, unread or
replayed, to the ordinary route, which alone decides what is refused and why. Tests hold the
answers of both against each other.
"""

from __future__ import annotations

import inspect
import itertools
import secrets
import types
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine, Generator
from time import perf_counter
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI
from msgspec import UNSET
from msgspec.structs import astuple
from starlette.types import Message, Receive, Scope, Send

from heartdx import logs
from heartdx.bundle import Bundle
from heartdx.contract import ATTRIBUTES, NAMES, PANEL_NAMES
from heartdx.records import ALWAYS_REQUIRED
from heartdx.serve import answer, connections
from heartdx.serve.browsers import NO_STORE
from heartdx.serve.compiled import ScoreOne, score_one
from heartdx.serve.guard import CLIENT, Guard, late
from heartdx.serve.middleware import FIT_ID
from heartdx.serve.paths import route_path
from heartdx.serve.phrases import Phrases
from heartdx.serve.predictor import NOT_STARTED, Loaded
from heartdx.serve.problems import RequestError
from heartdx.serve.shadow import Shadow
from heartdx.serve.telemetry import HOT_DOORS, PROBABILITIES, SECONDS, Places, Telemetry

HotPath = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

_QUERIES: dict[bytes, answer.Detail] = {
    b"": "standard",
    **{b"detail=" + detail.encode(): detail for detail in answer.DETAILS},
}
JSON_TYPES = frozenset(
    {b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"}
)
_ALL_QUOTES = 2 * len(NAMES)
_JSON_HEADER = (b"content-type", b"application/json")
_OF_NULL = next(letter for letter in "null" if letter not in "".join(NAMES)).encode()
"""Stands in a plain patient's body only where a value is null: finding one byte costs half of
counting a word."""


class Service(FastAPI):
    """FastAPI with the hot path before it; ``prepare`` comes before the first request."""

    def prepare(self, telemetry: Telemetry, guard: Guard, *, max_body_bytes: int) -> None:
        """Set what the hot path counts in and accepts; there is no model yet."""
        self.counts = telemetry
        self.guard = guard
        self.lines = logs.Lines()
        self.shadow: Shadow | None = None
        self.ids = Ids()
        self._max_body = max_body_bytes
        self._hot: dict[str, HotPath] = {}
        self.state.loaded = NOT_STARTED

    def serve(self, loaded: Loaded) -> None:
        """Make a verified bundle, or the lack of one, the model of the next request."""
        before: Loaded = self.state.loaded
        self._hot = {} if loaded.bundle is None else self._hot_paths(loaded.bundle)
        self.state.loaded = loaded
        self.counts.serves(before.bundle, loaded.bundle)

    @inspect.markcoroutinefunction
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Answer one request, or hand it to the routes."""
        if scope["type"] == "http":
            hot = self._hot.get(scope["path"])
            if hot is not None:
                return hot(scope, receive, send)
            if scope.get("root_path") and (hot := self._hot.get(route_path(scope))) is not None:
                return hot(scope, receive, send)
        elif scope["type"] == "lifespan":  # the server's own channel, before anything wraps it
            connections.bound(receive, seconds=self.guard.seconds)
        return self.routed(scope, receive, send)

    def routed(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """FastAPI's own way."""
        return super().__call__(scope, receive, send)

    def _hot_paths(self, bundle: Bundle) -> dict[str, HotPath]:
        """The hot path of each door for one bundle."""
        score, phrases = score_one(bundle), Phrases(bundle)
        return {door: self._hot_path(door, score, phrases) for door in HOT_DOORS}

    def _hot_path(self, door: str, score: ScoreOne, phrases: Phrases) -> HotPath:
        """The hot path of one door: one coroutine, everything it needs at hand."""
        threshold, standard = phrases.threshold, phrases.standard
        row, places = self.counts.row, self.counts.places
        answered, latency = places.answered[door], places.latency[door].first
        latency_sum = places.latency[door].sum_at
        panels = _panel_places(places)
        next_id, routed, lines, max_body = self.ids.next, self.routed, self.lines, self._max_body
        logged_door = _LOGGED_DOOR[door]
        guard = self.guard

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            began = perf_counter()
            listed = scope["headers"]
            headers = dict(listed)
            detail = _QUERIES.get(scope["query_string"])
            if (
                detail is None
                or scope["method"] != "POST"
                or headers.get(b"content-type") not in JSON_TYPES
                or b"content-encoding" in headers
                or len(headers) != len(listed)
                or guard.leaves_to_routes(scope, headers)
            ):
                return await routed(scope, receive, send)
            kept: list[Message] = []
            steps = _keeping(receive(), kept)
            for first in steps:  # the client has not sent all of it yet
                try:
                    message = await guard.first(first, steps)
                except RequestError as refusal:
                    return await routed(scope, late(refusal), send)
                break
            else:  # the whole body came with the head, as nearly always
                message = kept[0]
            body = message.get("body", b"")
            if (
                message["type"] != "http.request"
                or message.get("more_body")
                or len(body) > max_body
            ):
                return await routed(scope, _replayed(message, receive), send)
            try:
                # A name that stands twice is refused by the route; the decoder takes the last.
                # No value is a text, so the quotes count the names.
                quotes = body.count(b'"')
                if quotes == _ALL_QUOTES:
                    values = astuple(decode_whole(body))
                    doubtful = False
                else:
                    values = astuple(decode(body))
                    doubtful = quotes != _ALL_QUOTES - 2 * values.count(UNSET)
                    values = tuple([None if value is UNSET else value for value in values])
                scored = score(*values)
                if doubtful or scored is None or not 0.0 <= scored[0] <= 1.0:
                    return await routed(scope, _replayed(message, receive), send)
                probability, place, unused = scored
                prediction_id = next_id()
                given = headers.get(b"x-request-id")
                if given is None or not FIT_ID.fullmatch(given):
                    request_id = prediction_id
                else:
                    request_id = given.decode()
                text = standard(probability, place, unused, prediction_id, request_id)
                if detail != "standard" and text is not None:
                    if detail == "full":
                        text = phrases.full(text, place, values)
                    else:
                        text = phrases.bare(probability, prediction_id, request_id)
            except Exception:  # noqa: BLE001 - refused or a bug: the route says which, and counts it
                text = None
            if text is None:
                return await routed(scope, _replayed(message, receive), send)
            content = text.encode()
            positive = probability >= threshold
            if self.shadow is not None:
                self.shadow.offer(values, probability, positive)
            # Counted and logged before the last byte leaves: who has an answer finds it counted.
            predicted, spread, total, logged_panel = panels[place]
            row[predicted[positive]] += 1.0
            row[spread + bisect_left(PROBABILITIES, probability)] += 1.0
            row[total] += probability
            if quotes != _ALL_QUOTES or body.find(_OF_NULL) >= 0:
                for value, missing in zip(values, places.missing, strict=True):
                    if value is None:
                        row[missing] += 1.0
            row[answered] += 1.0
            ended = perf_counter()
            seconds = ended - began
            row[latency + (seconds > _FAST and bisect_left(SECONDS, seconds))] += 1.0
            row[latency_sum] += seconds
            if lines.wanted:
                client = scope.get(CLIENT)
                asked_by = f'"client":"{client}",' if client else ""
                lines.add(
                    ended,
                    f'"request",{asked_by}{logged_door}{int(seconds * 1e6)}e-3,'
                    f'"request_id":"{request_id}",{logged_panel}',
                )
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        _JSON_HEADER,
                        _LENGTHS[len(content)],
                        (b"x-request-id", request_id.encode()),
                        NO_SNIFF,
                        NO_STORE,
                    ],
                }
            )
            await send({"type": "http.response.body", "body": content})
            return None

        return answer


def _panel_places(places: Places) -> list[tuple[tuple[int, int], int, int, str]]:
    """Of each panel: places of the predictions, of the probability's histogram and of its sum,
    and what the log says.
    """
    return [
        ((negatives, positives), histogram.first, histogram.sum_at, f'"panels":{{"{name}":1}}}}\n')
        for name, (negatives, positives), histogram in zip(
            PANEL_NAMES, places.predictions, places.probability, strict=True
        )
    ]


class _Lengths(dict[int, tuple[bytes, bytes]]):
    """Content lengths as headers, filled as they come: answers differ by some hundred bytes."""

    def __missing__(self, size: int) -> tuple[bytes, bytes]:
        made = self[size] = b"content-length", str(size).encode()
        return made


_LENGTHS = _Lengths()
NO_SNIFF = (b"x-content-type-options", b"nosniff")
_LOGGED_DOOR = {
    door: f'"method":"POST","endpoint":"{door}","status":200,"ms":' for door in HOT_DOORS
}
_FAST = SECONDS[0]


class Ids:
    """Names that no other answer has: a draw for each process, then a running number."""

    def __init__(self) -> None:
        stem = secrets.token_hex(6) + "-"
        names = map(stem.__add__, map(str, itertools.count(1)))
        self.next: Callable[[], str] = names.__next__
        """A new name, fit for a header and a file name."""


@types.coroutine
def _keeping(asked: Awaitable[Message], kept: list[Message]) -> Generator[Any, Any, Message]:
    """The steps of an awaitable, and a place for what it gives.

    A loop over the steps ends without the exception that ``next`` would raise, which costs as
    much as decoding a patient.
    """
    message: Message = yield from asked  # type: ignore[misc]
    kept.append(message)
    return message


def _replayed(message: Message, receive: Receive) -> Receive:
    """A channel that gives a message again, then goes on."""
    waiting = [message]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


# -- decoding: the contract as a type ---------------------------------------------------------


def _fields(*, whole: bool) -> list[Any]:
    fields: list[Any] = []
    for attribute in ATTRIBUTES:
        kind: Any
        if attribute.plausible is None:
            kind = Literal[attribute.code_values]
        else:
            low, high = attribute.plausible
            kind = Annotated[float, msgspec.Meta(ge=low, le=high)]
        if attribute.name in ALWAYS_REQUIRED:
            fields.append((attribute.name, kind))
        elif whole:
            fields.append((attribute.name, kind | None))
        else:
            fields.append((attribute.name, kind | None | msgspec.UnsetType, UNSET))
    return fields


def _decoder(*, whole: bool) -> Callable[[bytes], Any]:
    """Bytes to one patient in plain numbers of UCI's coding, in contract order."""
    patient = msgspec.defstruct(
        "Patient", _fields(whole=whole), forbid_unknown_fields=True, gc=False
    )
    return msgspec.json.Decoder(patient).decode


decode = _decoder(whole=False)
decode_whole = _decoder(whole=True)
