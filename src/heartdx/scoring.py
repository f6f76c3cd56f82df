"""A file of patients scored: CSV in any known coding, CSV and Parquet of any length.

A small CSV file is read whole, judged and mended as ``codings`` does it. Everything else is read
in blocks and never held: the bundle's equations become polars expressions, a bad row is found by
expressions too and explained by the service's own decoders, and the answers go to a draft that
becomes the output only when the file was good to its end.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from heartdx import codings, records
from heartdx.bundle import Bundle, Equation, Scorer
from heartdx.codings import HomeTable
from heartdx.codings.layout import Layout, column_layout
from heartdx.codings.table import counted
from heartdx.contract import (
    ATTRIBUTES,
    BY_NAME,
    HEADER,
    MISSING_NUMBER,
    NAMES,
    OUTCOME,
    PANEL_NAMES,
    PANELS,
    Attribute,
)
from heartdx.errors import (
    BundleError,
    CodingError,
    ContractError,
    FieldProblem,
    HeartdxError,
    UnavailableError,
    UsageError,
)
from heartdx.parquet_footer import pieces, row_groups

if TYPE_CHECKING:
    import polars as pl

Format = Literal["csv", "parquet"]
StatedCoding = Literal["auto", "uci"]
Progress = Callable[[int, float], None]
Told = Callable[[str], None]

LABELS = (OUTCOME.negative, OUTCOME.positive)
ANSWERS = ("probability", "prediction", "label", "panel", "model_version")
ERROR = "error"
PLACE: dict[Format, str] = {"csv": "line", "parquet": "row"}
"""The first column of the answers: line of a text file (a header is line 1), row from 1."""
SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".data": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
ALWAYS_WHOLE_BYTES = 1_000_000
"""A text file up to here is read whole; recognising patients takes 0.14 ms a row, so 3 s."""
MOST_WHOLE_BYTES = 20_000_000
"""A text file up to here is read whole when it is not plain; a minute, and 1 GB."""
BLOCK_BYTES = 2_000_000
"""Read at a time from a text file; larger blocks take memory and are no faster."""
BLOCKS_AHEAD = 2
"""Read while others are scored, by so many threads."""
ROWS_READ = 2**18
"""Read at a time from a Parquet file, whatever its row groups: as many as polars writes in one."""
ROWS_AT_ONCE = 2**16
"""Of these, worked on at once: fewer take longer, more take memory."""
ROW_GROUP = 100_000
"""Rows of a written Parquet group: what the writer holds back."""
CSV_DECIMALS = 6
SHOWN_ROWS = 5
PROGRESS_SECONDS = 2.0
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How polars' Parquet writer says that the disk is full."""
_PREFIX = "\x1f"
"""Before the names of columns in between; no file has such a column."""
_PLACE, _UNREADABLE, _BAD = f"{_PREFIX}place", f"{_PREFIX}unreadable", f"{_PREFIX}bad"
_CELL, _NUMBER = f"{_PREFIX}cell ", f"{_PREFIX}number "
_PANEL, _PROBABILITY, _ERROR = f"{_PREFIX}panel", f"{_PREFIX}probability", f"{_PREFIX}error"


@dataclass(frozen=True)
class FileScored:
    """What became of a file.

    Parameters
    ----------
    rows : patients read.
    refused : of these, rows without an answer; 0 unless asked to keep going.
    """

    rows: int
    refused: int


def score_file(
    file: Path,
    output: Path | None,
    *,
    model: Bundle,
    strict: bool = False,
    keep_going: bool = False,
    with_input: bool = False,
    coding: StatedCoding = "auto",
    told: Told = lambda _: None,
    progress: Progress = lambda _rows, _seconds: None,
) -> FileScored:
    """Score every patient of a file; the output appears whole or not at all.

    Parameters
    ----------
    file : CSV, or Parquet by its suffix.
    output : file to write, CSV or Parquet by its suffix, else as the file; None for CSV on the
        standard output.
    model : what answers.
    strict : refuse a text file with any deception; it is then read whole whatever its size.
    keep_going : give bad rows no probability and a text in a column ``error``, instead of
        stopping at the first of them.
    with_input : write the file's own columns before the answers.
    coding : ``uci`` states that numbers are UCI's codes; ``auto`` looks for evidence.
    told : takes each sentence on how the file was read.
    progress : takes rows and seconds so far, now and then.

    Raises
    ------
    ContractError
        Rows that break the contract (file, rows, columns and what is expected are named, never a
        value), a coding that is mixed or ambiguous, a file that is no table.
    UsageError
        Options that do not go together, or an answer's name among the kept columns.
    UnavailableError
        The file cannot be read, or the output not written.
    """
    if strict and (keep_going or coding == "uci" or file_format(file) == "parquet"):
        raise UsageError(
            "--strict is for CSV read whole; leave it out with --keep-going, --coding and Parquet"
        )
    size = _size(file)
    request = _Request(file, output, model, keep_going, with_input, coding)
    if file_format(file) == "csv" and not keep_going and coding == "auto":
        if strict or size <= ALWAYS_WHOLE_BYTES:
            return _score_whole(request, strict=strict, told=told)
        if size <= MOST_WHOLE_BYTES:
            return _score_plain_or_whole(request, told=told, progress=progress)
    return _score_stream(request, told=told, progress=progress)


def file_format(path: Path | None, *, otherwise: Format = "csv") -> Format:
    """What a file's suffix says it is.

    Examples
    --------
    >>> file_format(Path("ward.PARQUET")), file_format(Path("ward"), otherwise="csv")
    ('parquet', 'csv')
    """
    return otherwise if path is None else SUFFIXES.get(path.suffix.lower(), otherwise)


@dataclass(frozen=True)
class _Request:
    """What was asked; see ``score_file``."""

    file: Path
    output: Path | None
    model: Bundle
    keep_going: bool
    with_input: bool
    coding: StatedCoding

    @property
    def written_as(self) -> Format:
        if self.output is None:
            return "csv"
        return file_format(self.output, otherwise=file_format(self.file))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as cause:
        raise UnavailableError(
            f"{file}: cannot be read ({cause.strerror}); "
            "`python data/download_data.py --output data/raw/heart.csv` makes the default file"
        ) from cause


# -- a small file, whole ---------------------------------------------------------------------


def _score_whole(request: _Request, *, strict: bool, told: Told) -> FileScored:
    """Every coding, and every deception mended: the road of ``codings``."""
    raw = records.read_file(request.file)
    home = codings.to_home(raw, strict=strict, keep_repeats=True)
    for finding in home.findings:
        told(finding.message)
    _refuse_unanswerable(request.file, home, records.ALWAYS_REQUIRED)
    frame = _whole_answers(request.model, home)
    if request.with_input:
        names = raw.header or HEADER[: len(raw.rows[0])]
        _refuse_names(request, names, PLACE["csv"])
        frame = _beside(frame, names, raw.rows)
    with _draft(request.output) as draft:
        if request.written_as == "parquet":
            frame.write_parquet(draft, row_group_size=ROW_GROUP)
        else:
            frame.write_csv(draft, float_precision=CSV_DECIMALS)
    return FileScored(len(home.X), 0)


def _whole_answers(model: Bundle, home: HomeTable) -> pl.DataFrame:
    import polars as pl

    scored = model.score(home.X)
    predictions = scored.predictions(model.threshold)
    return pl.DataFrame(
        {
            PLACE["csv"]: list(home.lines),
            "probability": scored.probability,
            "prediction": predictions,
            "label": [LABELS[prediction] for prediction in predictions],
            "panel": [scored.panel_name(row) for row in range(len(home.X))],
            "model_version": [model.version] * len(home.X),
        }
    )


def _beside(
    answers: pl.DataFrame, names: Sequence[str], rows: Sequence[Sequence[str]]
) -> pl.DataFrame:
    """The answers with the file's own cells between the line and the probability."""
    import polars as pl

    cells = pl.DataFrame(list(rows), schema=dict.fromkeys(names, pl.String), orient="row")
    return pl.concat([answers[:, :1], cells, answers[:, 1:]], how="horizontal")


def _refuse_unanswerable(file: Path, home: HomeTable, required: Sequence[str]) -> None:
    """Every panel needs some attributes; the lines that lack one are named."""
    places = [NAMES.index(name) for name in required]
    lines = [
        line
        for line, row in zip(home.lines, home.X, strict=True)
        if not all(row[place] == row[place] for place in places)
    ]
    if lines:
        named = ", ".join(map(str, lines[:SHOWN_ROWS])) + (" …" if len(lines) > SHOWN_ROWS else "")
        raise ContractError(
            f"{file}: {len(lines)} of {len(home.X)} patients lack {', '.join(required)} in part "
            f"(line {named}); every panel needs them: complete or remove these lines"
        )


def _score_plain_or_whole(request: _Request, *, told: Told, progress: Progress) -> FileScored:
    """By blocks when the file is plain, else whole; a bad row is the same bad row on both roads."""
    try:
        return _score_stream(request, told=told, progress=progress)
    except CodingError:
        told(f"{request.file}: not numbers in UCI's codes under a header, so it is read whole")
        return _score_whole(request, strict=False, told=told)


# -- a file of any length, by blocks -----------------------------------------------------------


def _score_stream(request: _Request, *, told: Told, progress: Progress) -> FileScored:
    """One pass; what is wrong shows at its end, so the output is a draft till then."""
    is_parquet = file_format(request.file) == "parquet"
    failure = _Failure()
    source = _parquet(request, failure) if is_parquet else _text(request, failure)
    watch = _Watch(request, source, failure, progress)
    with _draft(request.output) as draft:
        with _polars_told(request, failure):
            _sink(_answers(source, request, watch, failure), draft, request.written_as)
        if not watch.rows:
            raise ContractError(f"{request.file}: holds no patient; get the file again")
        _refuse_coding(request, source, watch)
        if watch.refused and not request.keep_going:
            _refuse_bad_rows(request, source, watch)
    for name, count in watch.zeros.items():
        rule = BY_NAME[name].zero
        if count and rule:
            told(f"{name}: {counted(count, 'cell')} of 0 read as missing: {rule.evidence}")
    return FileScored(watch.rows, watch.refused)


@dataclass(frozen=True)
class _Source:
    """A table that is read in blocks.

    Parameters
    ----------
    frame : columns ``_PLACE``, ``_UNREADABLE`` and those of ``numbers`` and ``kept``.
    place : name of the line or row number in the output.
    names : the file's own columns.
    layout : which of them is which attribute.
    numbers : attribute to its numbers, float64, null where missing or unreadable.
    kept : the file's own columns under their names, to be written again.
    """

    frame: pl.LazyFrame
    place: str
    names: tuple[str, ...]
    layout: Layout
    numbers: Mapping[str, pl.Expr]
    kept: tuple[pl.Expr, ...]

    def missing_numbers(self, name: str) -> tuple[float, ...]:
        """Numbers that mean missing in this column of this file, as ``codings`` reads files."""
        quirks = [quirk.number for quirk in self.layout.quirks if quirk.column == name]
        return (MISSING_NUMBER, *([0.0] if BY_NAME[name].zero else []), *quirks)


def _answers(source: _Source, request: _Request, watch: _Watch, failure: _Failure) -> pl.LazyFrame:
    """The table to write. A row with anything wrong has no probability: there is no default."""
    import polars as pl

    model = request.model
    read = {_PREFIX + name: numbers.fill_nan(None) for name, numbers in source.numbers.items()}
    known = {_known(name): _right(BY_NAME[name]) for name in NAMES}
    bad = pl.any_horizontal(
        pl.col(_UNREADABLE).is_not_null(),
        *(_wrong(name, source.missing_numbers(name)) for name in NAMES),
        *(pl.col(_known(name)).is_null() for name in watch.required),
    )
    panel = panel_expression({name: pl.col(_known(name)) for name in NAMES}, model)
    probability = probability_expression(
        {name: pl.col(_known(name)) for name in NAMES}, model, pl.col(_PANEL), failure
    )
    seen = pl.struct(_PLACE, _UNREADABLE, _BAD, _PROBABILITY, *read)
    scored = (
        source.frame.with_columns(**read)
        .with_columns(**known)
        .with_columns(panel.alias(_PANEL), bad.alias(_BAD))
        .with_columns(probability.alias(_PROBABILITY))
        .with_columns(
            seen.map_batches(watch, return_dtype=pl.String, is_elementwise=True).alias(_ERROR)
        )
    )
    good = pl.col(_ERROR).is_null()
    prediction = pl.when(good).then(pl.col(_PROBABILITY) >= model.threshold)
    names = [name for name in PANEL_NAMES if name in model.scorers]
    columns = [
        pl.col(_PLACE).alias(source.place),
        *source.kept,
        pl.when(good).then(pl.col(_PROBABILITY)).alias("probability"),
        prediction.cast(pl.Int8).alias("prediction"),
        _word(prediction, {False: LABELS[0], True: LABELS[1]}).alias("label"),
        _word(pl.when(good).then(pl.col(_PANEL)), dict(enumerate(names))).alias("panel"),
        _word(good, {True: model.version, False: model.version}).alias("model_version"),
    ]
    if request.keep_going:
        columns.append(pl.col(_ERROR).alias(ERROR))
    return scored.select(columns)


def _right(attribute: Attribute) -> pl.Expr:
    """The number where it is one the contract knows, else null."""
    import polars as pl

    number = pl.col(_PREFIX + attribute.name)
    if attribute.plausible:
        right = number.is_between(*attribute.plausible)
    else:
        right = pl.any_horizontal(*(number == value for value in attribute.code_values))
    return pl.when(right).then(number)


def _wrong(name: str, missing: Sequence[float]) -> pl.Expr:
    """Whether there is a number that is neither right nor means missing."""
    import polars as pl

    number = pl.col(_PREFIX + name)
    said = pl.all_horizontal(*(number != value for value in missing))
    return number.is_not_null() & pl.col(_known(name)).is_null() & said


def _known(name: str) -> str:
    return f"{_PREFIX}known {name}"


def _word(key: pl.Expr, words: Mapping[Any, str]) -> pl.Expr:
    """A word for each key, kept once for the whole file."""
    import polars as pl

    listed = list(dict.fromkeys(words.values()))
    kept = pl.Enum(listed)
    word = pl.lit(None, kept)
    for value, text in words.items():
        word = pl.when(key == value).then(pl.lit(text, kept)).otherwise(word)
    return word


# -- a bundle as expressions -----------------------------------------------------------------------


def panel_expression(inputs: Mapping[str, pl.Expr], model: Bundle) -> pl.Expr:
    """Place, among the bundle's panels, of the richest one a patient meets; null for none.

    Parameters
    ----------
    inputs : attribute to its value, null where missing.
    model : the bundle.
    """
    import polars as pl

    answering = pl.lit(None, pl.Int8)
    available = [panel for panel in PANELS if panel.name in model.scorers]
    for place, panel in enumerate(available):
        met = pl.all_horizontal(*(inputs[name].is_not_null() for name in panel.required))
        answering = pl.when(met).then(pl.lit(place, pl.Int8)).otherwise(answering)
    return answering


def probability_expression(
    inputs: Mapping[str, pl.Expr],
    model: Bundle,
    panel: pl.Expr,
    failure: _Failure | None = None,
) -> pl.Expr:
    """The probability of disease by the answering panel's sub-model, null where none answers.

    Parameters
    ----------
    inputs : attribute to its value, null where missing.
    model : the bundle.
    panel : place of the answering panel from ``panel_expression``.
    failure : keeps an error of a sub-model, which polars would wrap.
    """
    import polars as pl

    available = [each for each in PANELS if each.name in model.scorers]
    logit, others = pl.lit(None, pl.Float64), pl.lit(None, pl.Float64)
    for place, each in enumerate(available):
        scorer, answers = model.scorers[each.name], panel == place
        taken = {name: inputs[name] for name in each.inputs}
        if isinstance(scorer, Equation):
            own = _logit_expression(scorer.document, taken)
            logit = pl.when(answers).then(own).otherwise(logit)
        else:
            own = _by_rows(scorer, taken, answers, failure or _Failure())
            others = pl.when(answers).then(own).otherwise(others)
    return pl.coalesce(others, _probability(logit))  # one exponential for all equations


def equation_expression(document: Mapping[str, Any], inputs: Mapping[str, pl.Expr]) -> pl.Expr:
    """A logistic regression's probability; ``bundle.Equation``'s up to rounding (1e-15).

    Parameters
    ----------
    document : content of ``score.json``.
    inputs : attribute to its value, null where missing.

    Examples
    --------
    >>> import polars as pl
    >>> document = {
    ...     "impute": {"chol": 240.0}, "intercept": -1.0,
    ...     "calibration": {"slope": 1.0, "intercept": 0.0},
    ...     "terms": [{"attribute": "chol", "coefficient": 1.0, "center": 200.0, "scale": 40.0}],
    ... }
    >>> table = pl.DataFrame({"chol": [240.0, None]})
    >>> table.select(equation_expression(document, {"chol": pl.col("chol")})).to_series().to_list()
    [0.5, 0.5]
    """
    return _probability(_logit_expression(document, inputs))


def _probability(logit: pl.Expr) -> pl.Expr:
    probability: pl.Expr = 1.0 / (1.0 + (-logit).exp())
    return probability


def _logit_expression(document: Mapping[str, Any], inputs: Mapping[str, pl.Expr]) -> pl.Expr:
    """The calibrated log-odds in as few operations as can be; they are most of the work.

    A number costs a product and a sum, its center, scale and calibration being in the constants;
    the codes of an attribute, of which a patient has one at most, cost one sum together.
    """
    import polars as pl

    slope = document["calibration"]["slope"]
    constant = slope * document["intercept"] + document["calibration"]["intercept"]
    products: list[pl.Expr] = []
    of_codes: dict[str, dict[float, float]] = {}
    for term in document["terms"]:
        name, weight = term["attribute"], slope * term["coefficient"]
        if "code" in term:
            weights = of_codes.setdefault(name, {})
            weights[term["code"]] = weights.get(term["code"], 0.0) + weight
        else:
            products.append(_filled(document, inputs, name) * (weight / term["scale"]))
            constant -= weight * term["center"] / term["scale"]
    logit = pl.lit(float(constant))
    for product in products:
        logit = logit + product
    for name, weights in of_codes.items():
        value, weight = _filled(document, inputs, name), pl.lit(0.0)
        for code, known in weights.items():
            weight = pl.when(value == code).then(known).otherwise(weight)
        logit = logit + weight
    return logit


def _filled(document: Mapping[str, Any], inputs: Mapping[str, pl.Expr], name: str) -> pl.Expr:
    value = inputs[name]
    return value.fill_null(document["impute"][name]) if name in document["impute"] else value


def _by_rows(
    scorer: Scorer,
    inputs: Mapping[str, pl.Expr],
    answers: pl.Expr,
    failure: _Failure,
) -> pl.Expr:
    """A sub-model without an equation, a forest, on the rows of a block that it answers."""
    import polars as pl

    def probabilities(block: pl.Series) -> pl.Series:
        frame = block.struct.unnest()
        mask = frame[_BAD].fill_null(value=False).to_numpy()
        answered = np.full(len(frame), np.nan)
        if mask.any():
            X = frame.select(list(inputs)).cast(pl.Float64).to_numpy()[mask]
            with failure.kept():
                answered[mask] = scorer.probability(X)
        return pl.Series(answered)

    named = [value.alias(name) for name, value in inputs.items()]
    return pl.struct(answers.alias(_BAD), *named).map_batches(
        probabilities, return_dtype=pl.Float64, is_elementwise=True
    )


class _Failure:
    """The first error inside a callback, as it was: polars would give its text only."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise


# -- what is seen on the way ---------------------------------------------------------------------


class _Watch:
    """Sees every block that is scored: counts, explains the bad rows, tells the progress.

    Blocks come from several threads and in any order.
    """

    def __init__(self, request: _Request, source: _Source, failure: _Failure, progress: Progress):
        first = next(panel for panel in PANELS if panel.name in request.model.scorers)
        self.required = first.required
        self.rows = self.refused = self.unreadable = self.theirs = 0
        self.is_ours = False
        self.zeros = {a.name: 0 for a in ATTRIBUTES if a.zero}
        self.shown: list[tuple[int, str]] = []
        self._failure = failure
        self._explains_all = request.keep_going
        self._missing = {name: source.missing_numbers(name) for name in NAMES}
        self._model = request.model
        self._progress = progress
        self._lock = threading.Lock()
        self._started = self._last_told = time.monotonic()

    def __call__(self, block: pl.Series) -> pl.Series:
        """Text of what is wrong with each row of a block, null where nothing is."""
        with self._failure.kept():
            return self._errors(block)

    def _errors(self, block: pl.Series) -> pl.Series:
        import polars as pl

        frame = block.struct.unnest()
        bad = frame.filter(_BAD)
        self._refuse_no_probability(frame, bad)
        texts = self._explained(bad if self._explains_all else bad.bottom_k(SHOWN_ROWS, by=_PLACE))
        with self._lock:
            self._count(frame, bad)
            self.shown = sorted([*self.shown, *texts.items()])[:SHOWN_ROWS]
            self._tell()
        if bad.is_empty():
            return pl.repeat(None, len(frame), dtype=pl.String, eager=True)
        of_place = dict.fromkeys(bad[_PLACE], ERROR) | texts
        return frame[_PLACE].replace_strict(of_place, default=None, return_dtype=pl.String)

    def _refuse_no_probability(self, frame: pl.DataFrame, bad: pl.DataFrame) -> None:
        given = int(frame[_PROBABILITY].is_between(0, 1).sum())
        if given < len(frame) - len(bad):
            raise BundleError(
                f"{self._model.version}: a sub-model gave something that is no probability"
            )

    def _count(self, frame: pl.DataFrame, bad: pl.DataFrame) -> None:
        self.rows += len(frame)
        self.refused += len(bad)
        self.unreadable += bad[_UNREADABLE].count()
        self.is_ours = self.is_ours or _holds_codes(frame, _only("uci")).any()
        for name in self.zeros:
            self.zeros[name] += int((frame[_PREFIX + name] == 0).sum())
        if len(bad):
            theirs = {
                name: [code for code in codes if code not in self._missing[name]]
                for name, codes in _only("kaggle").items()
            }
            self.theirs += int(_holds_codes(bad, theirs).sum())

    def _explained(self, bad: pl.DataFrame) -> dict[int, str]:
        """Place to text, by the decoders that the service uses; never a value."""
        return {row[_PLACE]: " | ".join(map(str, self._problems(row))) for row in bad.to_dicts()}

    def _problems(self, row: Mapping[str, Any]) -> Iterator[FieldProblem]:
        unreadable = (row[_UNREADABLE] or "").split(",")
        for name, decode in records.DECODERS["uci"].items():
            number = row[_PREFIX + name]
            if name in unreadable:
                mend = "write a number, or leave it blank if not known"
                yield FieldProblem(name, "type", BY_NAME[name].expected, mend)
                continue
            answer = decode(None if number in self._missing[name] else number)
            if isinstance(answer, FieldProblem):
                yield answer
            elif answer != answer and name in self.required:
                mend = "it is missing, and every panel needs it; write the value"
                yield FieldProblem(name, "missing", BY_NAME[name].expected, mend)

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._last_told >= PROGRESS_SECONDS:
            self._last_told = now
            self._progress(self.rows, now - self._started)


def _only(coding: records.Coding) -> dict[str, list[float]]:
    """Codes that exist in one coding and not in the other."""
    found = {}
    for attribute in ATTRIBUTES:
        ours = {float(value) for value in attribute.code_values}
        theirs = {float(code.kaggle) for code in attribute.codes}
        if attribute.kaggle_missing is not None:
            theirs.add(float(attribute.kaggle_missing))
        found[attribute.name] = sorted(ours - theirs if coding == "uci" else theirs - ours)
    return {name: codes for name, codes in found.items() if codes}


def _holds_codes(frame: pl.DataFrame, codes: Mapping[str, Sequence[float]]) -> pl.Series:
    """Whether a row holds one of these codes."""
    import polars as pl

    hits = (pl.col(_PREFIX + name) == code for name, listed in codes.items() for code in listed)
    return frame.select(pl.any_horizontal(*hits).fill_null(value=False)).to_series()


def _refuse_coding(request: _Request, source: _Source, watch: _Watch) -> None:
    if request.coding == "uci":
        return
    if watch.theirs:
        where = f"{watch.theirs} of {watch.rows} rows hold codes that only the Kaggle recoding has"
        raise CodingError(
            f"{request.file}: {where}; "
            + ("two codings in one file; take the parts apart" if watch.is_ours else "convert it")
            + ", or --coding uci takes every number as UCI's code and refuses these rows"
        )
    is_answered = watch.refused < watch.rows
    if is_answered and not watch.is_ours and OUTCOME.name not in source.names:
        raise CodingError(
            f"{request.file}: ambiguous: no code tells UCI's coding from the Kaggle recoding; "
            "--coding uci states that the codes are UCI's"
        )


def _refuse_bad_rows(request: _Request, source: _Source, watch: _Watch) -> None:
    said = ". ".join(f"{source.place} {place}: {text}" for place, text in watch.shown)
    more = watch.refused - len(watch.shown)
    kind = CodingError if watch.unreadable else ContractError
    raise kind(
        f"{request.file}: {watch.refused} of {watch.rows} rows break the contract, nothing is "
        f"written. {said}{f' (and {more} more)' if more else ''}. Correct them, or --keep-going "
        "writes them without a probability"
    )


# -- reading ---------------------------------------------------------------------------------------


def _layout(file: Path, names: Sequence[str]) -> Layout:
    return column_layout(records.RawFile(str(file), tuple(names), (), 1, ""))


def _parquet(request: _Request, failure: _Failure) -> _Source:
    import polars as pl
    from polars.io.plugins import register_io_source

    with _polars_told(request, _Failure()):
        table = pl.scan_parquet(request.file, glob=False, hive_partitioning=False)
        schema = table.collect_schema()
        rows = table.select(pl.len()).collect().item()
    names = tuple(schema)
    layout = _layout(request.file, names)
    numbers = {}
    for name in NAMES:
        if name in layout.places:
            column = names[layout.places[name]]
            _refuse_type(request.file, column, BY_NAME[name], schema[column])
            numbers[name] = pl.col(column).cast(pl.Float64)
        else:
            numbers[name] = pl.lit(None, pl.Float64)
    _refuse_names(request, names, PLACE["parquet"])
    kept = tuple(pl.col(name) for name in names) if request.with_input else ()

    def frames(
        columns: list[str] | None, _filter: object, _rows: object, _size: object
    ) -> Iterator[pl.DataFrame]:
        wanted = columns or [_PLACE, *names]
        part = table.select(name for name in wanted if name != _PLACE)
        with failure.kept(), _polars_told(request, _Failure()):
            for first, count in pieces(row_groups(request.file), rows, most=ROWS_READ):
                read = part.slice(first, count).collect(engine="in-memory")
                places = pl.int_range(first + 1, first + count + 1, eager=True).alias(_PLACE)
                yield from read.with_columns(places).select(wanted).iter_slices(ROWS_AT_ONCE)

    frame = register_io_source(frames, schema={_PLACE: pl.Int64, **schema})
    readable = frame.with_columns(pl.lit(None, pl.String).alias(_UNREADABLE))
    return _Source(readable, PLACE["parquet"], names, layout, numbers, kept)


def _refuse_type(file: Path, column: str, attribute: Attribute, dtype: pl.DataType) -> None:
    import polars as pl

    says_yes_no = any("true" in code.words for code in attribute.codes)
    if dtype.is_numeric() or dtype == pl.Null or (dtype == pl.Boolean and says_yes_no):
        return
    raise CodingError(
        f"{file}: column {column} is of type {dtype.base_type()}; expected numbers, "
        f"{attribute.expected}; cast it, or write the table as CSV"
    )


def _refuse_names(request: _Request, names: Sequence[str], place: str) -> None:
    """A kept column may not be called as an answer is."""
    if not request.with_input:
        return
    written = [*names, place, *ANSWERS, *([ERROR] if request.keep_going else [])]
    twice = [name for name in dict.fromkeys(written) if written.count(name) > 1]
    if twice:
        raise UsageError(
            f"{request.file}: --with-input would write {', '.join(map(repr, twice))} twice; rename "
            "the file's columns, or leave it out"
        )


@dataclass(frozen=True)
class _Text:
    """A text table whose first line was read.

    Parameters
    ----------
    file : where.
    header : column names.
    delimiter : between cells.
    start : byte at which the second line starts.
    line : its number.
    """

    file: Path
    header: tuple[str, ...]
    delimiter: str
    start: int
    line: int


def _text(request: _Request, failure: _Failure) -> _Source:
    import polars as pl
    from polars.io.plugins import register_io_source

    text = _opened(request.file)
    layout = _layout(request.file, text.header)
    _refuse_names(request, text.header, PLACE["csv"])
    attributes = {name: place for name, place in layout.places.items() if name in NAMES}
    read = range(len(text.header)) if request.with_input else sorted(attributes.values())
    cells = {f"{_CELL}{place}": place for place in read}
    of = {name: f"{_CELL}{place}" for name, place in attributes.items()}
    schema = {
        _PLACE: pl.Int64,
        _UNREADABLE: pl.String,
        **dict.fromkeys((f"{_NUMBER}{name}" for name in of), pl.Float64),
        **dict.fromkeys(cells if request.with_input else (), pl.String),
    }

    def numbered(block: tuple[bytes, np.ndarray]) -> pl.DataFrame:
        content, lines = block
        frame = _numbered(_cells(text, content, cells), of)
        return frame.with_columns(pl.Series(_PLACE, lines, dtype=pl.Int64))

    def frames(
        columns: list[str] | None, _filter: object, _rows: object, _size: object
    ) -> Iterator[pl.DataFrame]:
        with failure.kept():
            for frame in _ahead(numbered, _blocks(text)):
                yield frame.select(columns or list(schema))

    numbers = {
        name: pl.col(f"{_NUMBER}{name}") if name in of else pl.lit(None, pl.Float64)
        for name in NAMES
    }
    kept = [pl.col(cell).alias(text.header[place]) for cell, place in cells.items()]
    return _Source(
        register_io_source(frames, schema=schema),
        PLACE["csv"],
        text.header,
        layout,
        numbers,
        tuple(kept) if request.with_input else (),
    )


def _ahead[Block, Read](read: Callable[[Block], Read], blocks: Iterable[Block]) -> Iterator[Read]:
    """What is read of each block, in order, while the blocks before it are scored."""
    waiting: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(BLOCKS_AHEAD) as readers:
        for block in blocks:
            waiting.append(readers.submit(read, block))
            if len(waiting) > BLOCKS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _opened(file: Path) -> _Text:
    """The first line of a text file as a header.

    Raises
    ------
    CodingError
        There is no header, or blanks part the cells: such files are read whole only.
    """
    with open(file, "rb") as stream:
        start = stream.read(BLOCK_BYTES)
    blank = len(start) - len(start.lstrip(b"\r\n"))
    end = start.find(b"\n", blank) + 1 or len(start)
    raw = records.parse(start[:end], name=str(file))
    first = start[:end].decode("utf-8-sig")
    if not raw.header or not any(delimiter in first for delimiter in ",;\t"):
        raise CodingError(
            f"{file}: the first line is no header with commas, semicolons or tabs; a file above "
            f"{MOST_WHOLE_BYTES // 1_000_000} MB, and one that is not read whole, needs one with "
            f"{', '.join(NAMES)}"
        )
    delimiter = max(",;\t", key=first.count)
    return _Text(file, raw.header, delimiter, end, start[:end].count(b"\n") + 1)


def _blocks(text: _Text) -> Iterator[tuple[bytes, np.ndarray]]:
    """Whole lines and their numbers; every line has as many cells as the header.

    Counting delimiters finds a short line, which a CSV reader would fill up: a cut line must not
    become a patient with an invented gap.
    """
    line = text.line
    for block in _whole_lines(text):
        count = block.count(b"\n") + (not block.endswith(b"\n"))
        lines = np.arange(line, line + count)
        line += count
        delimiters = block.count(text.delimiter.encode())
        if delimiters == count * (len(text.header) - 1) and b'"' not in block:
            yield block, lines
        else:
            yield _checked(text, block, lines)


def _whole_lines(text: _Text) -> Iterator[bytes]:
    with open(text.file, "rb") as stream:
        stream.seek(text.start)
        rest = b""
        while chunk := stream.read(BLOCK_BYTES):
            end = chunk.rfind(b"\n") + 1
            if not end and len(rest) + len(chunk) > BLOCK_BYTES:
                raise ContractError(f"{text.file}: a line of {BLOCK_BYTES} bytes; no table is so")
            if end:
                yield rest + chunk[:end]
            rest = chunk[end:] if end else rest + chunk
        if rest:
            yield rest


def _checked(text: _Text, block: bytes, lines: np.ndarray) -> tuple[bytes, np.ndarray]:
    """A block without its blank lines.

    Raises
    ------
    ContractError
        A line with another number of cells than the header.
    """
    kept, numbers = [], []
    for line, number in zip(block.splitlines(), lines, strict=True):
        if not line.strip():
            continue
        cells = next(csv.reader([line.decode(errors="replace")], delimiter=text.delimiter))
        if len(cells) != len(text.header):
            raise ContractError(
                f"{text.file}: line {number} has {len(cells)} cells, the first line has "
                f"{len(text.header)}; the file is cut or its delimiter is mixed; get it again"
            )
        kept.append(line)
        numbers.append(number)
    return b"\n".join(kept), np.array(numbers, dtype=np.int64)


def _cells(text: _Text, block: bytes, cells: Mapping[str, int]) -> pl.DataFrame:
    """The columns at these places as text."""
    import polars as pl

    if not block:
        return pl.DataFrame(schema=dict.fromkeys(cells, pl.String))
    try:
        table = pl.scan_csv(
            block,
            has_header=False,
            separator=text.delimiter,
            new_columns=[f"{_CELL}{place}" for place in range(len(text.header))],
            infer_schema=False,
        )
        return table.select(list(cells)).collect(engine="in-memory")
    except pl.exceptions.PolarsError:
        # No `from cause`: polars' text quotes cells, and they are patients'.
        raise ContractError(
            f"{text.file}: cannot be read as a table in UTF-8; export it as CSV in UTF-8"
        ) from None


def _numbered(frame: pl.DataFrame, of: Mapping[str, str]) -> pl.DataFrame:
    """A table of text with the numbers beside it, and the names of what is no number."""
    import polars as pl

    casts = [frame[cell].cast(pl.Float64, strict=False) for cell in of.values()]
    numbers, unreadable = {}, []
    for (name, cell), cast in zip(of.items(), casts, strict=True):
        column, words = frame[cell], None
        if cast.null_count() > column.null_count():
            cast, words = _odd_cells(column, cast)
        numbers[f"{_NUMBER}{name}"] = cast
        if words:
            unreadable.append(pl.when(pl.col(cell).is_in(words)).then(pl.lit(name)))
    said = pl.concat_str(unreadable, separator=",", ignore_nulls=True) if unreadable else pl.lit("")
    return frame.with_columns(
        pl.when(said != "").then(said).cast(pl.String).alias(_UNREADABLE),
        *(series.alias(name) for name, series in numbers.items()),
    )


def _odd_cells(column: pl.Series, numbers: pl.Series) -> tuple[pl.Series, list[str]]:
    """Cells that polars reads as no number, through ``records.cell``; and the words among them."""
    import polars as pl

    odd = column.filter(numbers.is_null() & column.is_not_null()).unique()
    read = {text: records.cell(text) for text in odd}
    values = {text: value for text, value in read.items() if isinstance(value, float)}
    if values:
        mended = column.replace_strict(values, default=None, return_dtype=pl.Float64)
        numbers = numbers.fill_null(mended) if numbers.null_count() else numbers
    return numbers, [text for text, value in read.items() if isinstance(value, str)]


# -- writing ---------------------------------------------------------------------------------------


def _sink(answers: pl.LazyFrame, draft: Path, written_as: Format) -> None:
    if written_as == "parquet":
        answers.sink_parquet(draft, row_group_size=ROW_GROUP, engine="streaming")
    else:
        answers.sink_csv(draft, float_precision=CSV_DECIMALS, engine="streaming")


@contextlib.contextmanager
def _draft(output: Path | None) -> Iterator[Path]:
    """A file that takes the output's place when all went well, or is copied to a stream then."""
    try:
        if output is None or (output.exists() and not output.is_file()):
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / "answers"
                _copy(Path(folder) / "answers", output)
        else:
            with _beside_output(output.resolve()) as draft:
                yield draft
    except BrokenPipeError:
        raise
    except OSError as cause:
        raise UnavailableError(
            f"{output or 'standard output'}: cannot be written ({cause.strerror or cause}); what "
            "was there before is untouched; free space or choose another place"
        ) from cause


@contextlib.contextmanager
def _beside_output(output: Path) -> Iterator[Path]:
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(draft, output)
    finally:
        draft.unlink(missing_ok=True)


def _copy(answers: Path, output: Path | None) -> None:
    with contextlib.ExitStack() as opened:
        source = opened.enter_context(answers.open("rb"))
        stream = sys.stdout.buffer if output is None else opened.enter_context(output.open("wb"))
        sys.stdout.flush()
        shutil.copyfileobj(source, stream)
        stream.flush()


@contextlib.contextmanager
def _polars_told(request: _Request, failure: _Failure) -> Iterator[None]:
    """Errors of polars as ours, without its texts: they quote cells, and cells are patients'."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, HeartdxError) as cause:
        if failure.error is not None:
            raise failure.error from None
        number = _OS_ERROR.search(str(cause))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
        raise ContractError(
            f"{request.file}: cannot be read as Parquet ({type(cause).__name__}); the file is cut "
            "or is something else; write it again"
        ) from None
