"""Answers to slices of many patients, written in four formats.

Each format ends with a mark that says whether the answer is whole, so a cut one cannot be taken
for a short one:

=======  =====================================================================================
JSON     ``{"rows": [...], "summary": {...}}``: the document closes
NDJSON   the last line is ``{"summary": {...}}``; every line before it is a row
CSV      the last line is ``# complete: ...`` or ``# incomplete: ...``
Arrow    the stream's own end marker; after a failure a message that never comes, on which every
         reader fails. The schema's metadata names the model
=======  =====================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np

from heartdx.bundle import Bundle
from heartdx.contract import BY_NAME, NAMES, PANEL_NAMES, PANELS
from heartdx.errors import FieldProblem
from heartdx.serve import arrow_write, predictor
from heartdx.serve.arrow_write import Numbers, Words
from heartdx.serve.body import JSON
from heartdx.serve.inputs import Ask
from heartdx.serve.predictor import ABSTENTIONS, LABELS, Answers
from heartdx.serve.tables import Slice

NDJSON = "application/x-ndjson"
CSV = "text/csv"
ARROW = arrow_write.MEDIA

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


@dataclass(frozen=True)
class Scored:
    """A slice and its answers.

    Parameters
    ----------
    first : number of the first row.
    count : rows.
    answered : places of the rows that have an answer, in order.
    answers : theirs.
    refused : place to problems of all others.
    """

    first: int
    count: int
    answered: np.ndarray
    answers: Answers
    refused: Mapping[int, tuple[FieldProblem, ...]]


def score(bundle: Bundle, part: Slice) -> Scored:
    """Answers to every row of a slice that can have one.

    Raises
    ------
    RequestError
        A sub-model gave no probability.
    """
    refused = {**_without_panel(bundle, part), **part.refused}
    keep = np.ones(len(part.X), dtype=bool)
    keep[list(refused)] = False
    answered = np.flatnonzero(keep)
    answers = predictor.answers(bundle, Ask(part.X[answered], is_batch=True))
    return Scored(part.first, len(part.X), answered, answers, refused)


def _without_panel(bundle: Bundle, part: Slice) -> dict[int, tuple[FieldProblem, ...]]:
    """Rows that lack what every panel of this model needs; none when it has the bedside panel."""
    if PANELS[0].name in bundle.scorers:
        return {}
    first = next(panel for panel in PANELS if panel.name in bundle.scorers)
    mend = f"this model has no panel before {first.name}; send the value"
    required = [(name, BY_NAME[name].expected) for name in first.required]
    unknown = np.isnan(part.X[:, [NAMES.index(name) for name in first.required]])
    return {
        int(row): tuple(
            FieldProblem(name, "missing", expected, mend)
            for (name, expected), lacks in zip(required, unknown[row], strict=True)
            if lacks
        )
        for row in np.flatnonzero(unknown.any(axis=1))
    }


# -- columns of an answer --------------------------------------------------------------------


class Row(msgspec.Struct, gc=False):
    """One row of an answer; a refused one has an error and nothing else."""

    row: int
    probability: float | None
    calibration_range: list[float] | None
    prediction: int | None
    label: str | None
    panel: str | None
    abstain: str | None
    error: list[dict[str, str]] | None


def _columns_of(scored: Scored) -> tuple[list[Any], ...]:
    """A slice's answers in the order of ``Row``, None where a row has none."""
    answers = scored.answers
    prediction: list[int | None] = list(answers.predictions)
    label: list[str | None] = list(answers.labels)
    abstain: list[str | None] = [None] * len(prediction)
    for row, reason in answers.abstained.items():
        prediction[row], label[row], abstain[row] = None, None, reason
    columns = (answers.probabilities, _ranges(answers), prediction, label, answers.panels, abstain)
    error: list[list[dict[str, str]] | None] = [None] * scored.count
    for row, problems in scored.refused.items():
        error[row] = _error(problems)
    return (*(_spread(column, scored) for column in columns), error)


def _spread(column: list[Any], scored: Scored) -> list[Any]:
    if not scored.refused:
        return column
    spread = [None] * scored.count
    for row, value in zip(scored.answered.tolist(), column, strict=True):
        spread[row] = value
    return spread


def _ranges(answers: Answers) -> list[list[float] | None]:
    ranges = answers.ranges
    known = ~np.isnan(ranges[:, 0])
    if not known.any():
        return [None] * len(ranges)
    if known.all():
        pairs: list[list[float] | None] = ranges.tolist()
        return pairs
    return [pair if k else None for pair, k in zip(ranges.tolist(), known.tolist(), strict=True)]


def _error(problems: Sequence[FieldProblem]) -> list[dict[str, str]]:
    return [
        {"field": p.field, "kind": p.kind, "expected": p.expected, "mend": p.mend} for p in problems
    ]


# -- formats ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What the end of an answer says.

    Parameters
    ----------
    answered, refused : rows.
    problem : why the answer stops before the body's end, as a problem document; None when whole.
    """

    answered: int
    refused: int
    problem: dict[str, object] | None

    def document(self, bundle: Bundle) -> dict[str, object]:
        """As JSON and NDJSON say it."""
        return {
            "complete": self.problem is None,
            "answered": self.answered,
            "refused": self.refused,
            "model_name": bundle.name,
            "model_version": bundle.version,
            "threshold": bundle.threshold,
            "problem": self.problem,
        }


class Writer(Protocol):
    """One format of an answer, in pieces."""

    def __init__(self, bundle: Bundle): ...

    def head(self) -> bytes:
        """What stands before the first row."""

    def rows(self, scored: Scored) -> bytes:
        """The rows of a slice."""

    def tail(self, summary: Summary) -> bytes:
        """The end, which says whether the answer is whole."""


class JsonWriter:
    """One JSON document."""

    def __init__(self, bundle: Bundle):
        self._bundle = bundle
        self._between = b""

    def head(self) -> bytes:
        """See ``Writer``."""
        return b'{"rows":['

    def rows(self, scored: Scored) -> bytes:
        """See ``Writer``."""
        written = self._between + _encode(_rows(scored))[1:-1]
        self._between = b","
        return written

    def tail(self, summary: Summary) -> bytes:
        """See ``Writer``."""
        return b'],"summary":' + _encode(summary.document(self._bundle)) + b"}"


class NdjsonWriter:
    """A JSON object a line."""

    def __init__(self, bundle: Bundle):
        self._bundle = bundle

    def head(self) -> bytes:
        """See ``Writer``."""
        return b""

    def rows(self, scored: Scored) -> bytes:
        """See ``Writer``."""
        return _encode_lines(_rows(scored))

    def tail(self, summary: Summary) -> bytes:
        """See ``Writer``."""
        return _encode({"summary": summary.document(self._bundle)}) + b"\n"


def _rows(scored: Scored) -> list[Row]:
    numbers = range(scored.first, scored.first + scored.count)
    return list(map(Row, numbers, *_columns_of(scored)))


class CsvWriter:
    """A header, a line for each row, and a last line that begins with ``#``."""

    HEADER = (
        "row,probability,calibration_low,calibration_high,prediction,label,panel,abstain,"
        "model_version,error"
    )

    def __init__(self, bundle: Bundle):
        self._version = bundle.version

    def head(self) -> bytes:
        """See ``Writer``."""
        return f"{self.HEADER}\n".encode()

    def rows(self, scored: Scored) -> bytes:
        """See ``Writer``."""
        version = self._version
        lines = [
            f"{row},,,,,,,,{version},{_quoted(error)}\n"
            if error
            else f"{row},{probability!r},{f'{pair[0]!r},{pair[1]!r}' if pair else ','},"
            f"{'' if prediction is None else prediction},{label or ''},{panel},{abstain or ''},"
            f"{version},\n"
            for row, (probability, pair, prediction, label, panel, abstain, error) in enumerate(
                zip(*_columns_of(scored), strict=True), scored.first
            )
        ]
        return "".join(lines).encode()

    def tail(self, summary: Summary) -> bytes:
        """See ``Writer``."""
        counts = f"answered {summary.answered}, refused {summary.refused}"
        if summary.problem is None:
            return f"# complete: {counts}\n".encode()
        return f"# incomplete: {counts}; {summary.problem['detail']}\n".encode()


def _quoted(error: list[dict[str, str]]) -> str:
    return '"' + _encode(error).decode().replace('"', '""') + '"'


class ArrowWriter:
    """An Arrow IPC stream, one record batch for each slice."""

    def __init__(self, bundle: Bundle):
        self._head = _arrow_head(bundle.name, bundle.version, bundle.digest, bundle.threshold)

    def head(self) -> bytes:
        """See ``Writer``."""
        return self._head

    def rows(self, scored: Scored) -> bytes:
        """See ``Writer``."""
        answers, count = scored.answers, scored.count
        known = np.zeros(count, dtype=bool)
        known[scored.answered] = True
        predicted = answers.positive.astype(int)
        reasons = np.full(len(predicted), -1)
        for row, reason in answers.abstained.items():
            predicted[row], reasons[row] = -1, ABSTENTIONS.index(reason)
        prediction = _placed(predicted, scored)
        low, high = (_placed(end, scored) for end in answers.ranges.T)
        is_ranged = known & ~np.isnan(low)
        errors = np.full(count, -1)
        errors[list(scored.refused)] = np.arange(len(scored.refused))
        numbers = np.arange(scored.first, scored.first + count)
        return arrow_write.batch(
            SCHEMA,
            [
                Numbers(numbers, np.ones(count, dtype=bool)),
                Numbers(_placed(answers.probability, scored), known),
                Numbers(np.where(is_ranged, low, 0.0), is_ranged),
                Numbers(np.where(is_ranged, high, 0.0), is_ranged),
                Numbers(prediction, prediction >= 0),
                Words(prediction, LABELS),
                Words(_placed(answers.place, scored), PANEL_NAMES),
                Words(_placed(reasons, scored), ABSTENTIONS),
                Words(errors, [_encode(_error(p)).decode() for p in scored.refused.values()]),
            ],
        )

    def tail(self, summary: Summary) -> bytes:
        """See ``Writer``."""
        return arrow_write.END if summary.problem is None else arrow_write.TORN


@functools.lru_cache(maxsize=4)
def _arrow_head(name: str, version: str, digest: str, threshold: float) -> bytes:
    facts = {
        "model_name": name,
        "model_version": version,
        "model_digest": digest,
        "threshold": repr(threshold),
    }
    return arrow_write.schema(SCHEMA, facts)


def _placed(column: np.ndarray, scored: Scored) -> np.ndarray:
    """A column of the answered rows in its place among all, -1 for the others."""
    if not scored.refused:
        return column
    placed = np.full(scored.count, -1, dtype=column.dtype)
    placed[scored.answered] = column
    return placed


SCHEMA: dict[str, arrow_write.Kind] = {
    "row": "int64",
    "probability": "float64",
    "calibration_low": "float64",
    "calibration_high": "float64",
    "prediction": "int8",
    "label": "text",
    "panel": "text",
    "abstain": "text",
    "error": "text",
}
"""The columns of an Arrow answer; ``error`` is the JSON text of the problems."""

WRITERS: dict[str, type[Writer]] = {
    JSON: JsonWriter,
    NDJSON: NdjsonWriter,
    CSV: CsvWriter,
    ARROW: ArrowWriter,
}
