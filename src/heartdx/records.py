"""The only door in: rows of a file or bodies of a request become one table.

The table is 13 float64 columns in contract order, UCI codes, missing as NaN. Training and the
service both pass here, so a patient means the same on both sides.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from heartdx.contract import (
    ATTRIBUTES,
    BY_NAME,
    MISSING_NUMBER,
    MISSING_TEXT,
    MISSING_TEXTS,
    NAMES,
    PANELS,
    Attribute,
)
from heartdx.errors import ContractError, FieldProblem, RecordError, UnavailableError

Coding = Literal["uci", "kaggle"]
CODINGS: tuple[Coding, ...] = ("uci", "kaggle")
ALWAYS_REQUIRED = PANELS[0].required
Decoder = Callable[[object], "float | FieldProblem"]

_NAME_FIT_TO_SHOW = re.compile(r"[A-Za-z_][A-Za-z0-9_ .-]{0,63}")


def decode_record(
    fields: Mapping[str, object], *, coding: Coding = "uci", record: int | None = None
) -> list[float]:
    """One patient as 13 numbers in contract order.

    Parameters
    ----------
    fields : attribute name to number, code name, None (missing). A name left out is missing.
    coding : ``uci``, or ``kaggle`` to convert the popular file's codes.
    record : the patient's place in a batch, for the error.

    Returns
    -------
    list of 13 floats, NaN where missing.

    Raises
    ------
    RecordError
        Every problem of the record at once; none holds the value.

    Examples
    --------
    >>> decode_record({"age": 63, "sex": "male", "cp": "typical angina"})[:3]
    [63.0, 1.0, 1.0]
    >>> decode_record({"age": 63, "sex": 1, "cp": 0})
    Traceback (most recent call last):
    ...
    heartdx.errors.RecordError: cp: expected one of 1 (typical angina), ...
    """
    problems = [_unknown_name(name) for name in fields if name not in BY_NAME]
    values: list[float] = []
    for name, decode in DECODERS[coding].items():
        decoded = decode(fields.get(name))
        if isinstance(decoded, FieldProblem):
            problems.append(decoded)
            decoded = math.nan
        elif math.isnan(decoded) and name in ALWAYS_REQUIRED:
            problems.append(_required(name))
        values.append(decoded)
    if problems:
        raise RecordError([_at(problem, record) for problem in problems])
    return values


def decode_values(
    values: Sequence[object], *, coding: Coding = "uci", record: int | None = None
) -> list[float]:
    """One patient given as 13 values in the source's order.

    Raises
    ------
    RecordError
        Another number of values, or any problem of ``decode_record``.
    """
    if len(values) != len(NAMES):
        problem = FieldProblem(
            "values",
            "type",
            f"{len(NAMES)} values in the order {', '.join(NAMES)}",
            "send null for what was not measured",
        )
        raise RecordError([_at(problem, record)])
    return decode_record(dict(zip(NAMES, values, strict=True)), coding=coding, record=record)


def table(rows: Iterable[Sequence[float]]) -> np.ndarray:
    """Decoded patients as an array of shape (n_patients, 13), float64."""
    listed = list(rows)
    return np.array(listed, dtype=np.float64).reshape(len(listed), len(NAMES))


# -- one decoder for each attribute, made from the contract --------------------------------------


def _decoder(attribute: Attribute, coding: Coding) -> Decoder:
    return _number_decoder(attribute) if attribute.plausible else _code_decoder(attribute, coding)


def _number_decoder(attribute: Attribute) -> Decoder:
    assert attribute.plausible is not None
    low, high = attribute.plausible
    name, expected = attribute.name, attribute.expected
    out_of_type = FieldProblem(name, "type", expected, "send a number, or null if not measured")
    out_of_range = FieldProblem(
        name,
        "range",
        expected,
        f"check the unit ({attribute.unit}), or send null if it was not measured",
    )

    def decode(value: object) -> float | FieldProblem:
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            return out_of_type
        if low <= value <= high:
            return float(value)
        if value == MISSING_NUMBER or value != value:
            return math.nan
        return out_of_range

    return decode


def _code_decoder(attribute: Attribute, coding: Coding) -> Decoder:
    kaggle = coding == "kaggle"
    numbers = {(c.kaggle if kaggle else c.value): float(c.value) for c in attribute.codes}
    if kaggle and attribute.kaggle_missing is not None:
        numbers[attribute.kaggle_missing] = math.nan
    words = {w: float(c.value) for c in attribute.codes for w in (c.name, *c.words)}
    words = {word: value for word, value in words.items() if not word.isdigit()}
    booleans = words.get("true") is not None
    foreign = set() if kaggle else _kaggle_only(attribute)
    wrong_code = FieldProblem(attribute.name, "code", attribute.expected, _code_mend(attribute))
    wrong_type = FieldProblem(attribute.name, "type", attribute.expected, _code_mend(attribute))
    wrong_coding = FieldProblem(
        attribute.name,
        "coding",
        attribute.expected + " in the UCI coding",
        'this code exists only in the Kaggle recoding; add "coding": "kaggle" to the request '
        "if all codes are Kaggle's, or send the code's name",
    )

    def decode(value: object) -> float | FieldProblem:
        if value is None:
            return math.nan
        if isinstance(value, str):
            known = words.get(value.strip().lower())
            return wrong_code if known is None else known
        if isinstance(value, bool):
            return float(value) if booleans else wrong_type
        if not isinstance(value, int | float):
            return wrong_type
        if value in numbers:
            return numbers[int(value)]
        if value == MISSING_NUMBER or value != value:
            return math.nan
        return wrong_coding if value in foreign else wrong_code

    return decode


def _kaggle_only(attribute: Attribute) -> set[int]:
    theirs = {code.kaggle for code in attribute.codes}
    if attribute.kaggle_missing is not None:
        theirs.add(attribute.kaggle_missing)
    return theirs - set(attribute.code_values)


def _code_mend(attribute: Attribute) -> str:
    named = any(code.name != str(code.value) for code in attribute.codes)
    return f"send the number{' or its name' if named else ''}, or null if it is not known"


def _unknown_name(name: object) -> FieldProblem:
    shown = str(name) if _NAME_FIT_TO_SHOW.fullmatch(str(name)) else "(unreadable name)"
    near = difflib.get_close_matches(shown.lower(), NAMES, n=1)
    mend = f"did you mean {near[0]}?" if near else "remove it"
    return FieldProblem(shown, "unknown", "one of " + ", ".join(NAMES), mend)


def _required(name: str) -> FieldProblem:
    return FieldProblem(
        name, "missing", BY_NAME[name].expected, "every panel needs it; send the value"
    )


def _at(problem: FieldProblem, record: int | None) -> FieldProblem:
    if record is None:
        return problem
    return FieldProblem(problem.field, problem.kind, problem.expected, problem.mend, record)


DECODERS: dict[Coding, dict[str, Decoder]] = {
    coding: {attribute.name: _decoder(attribute, coding) for attribute in ATTRIBUTES}
    for coding in CODINGS
}


# -- files -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RawFile:
    """A delimited text file, read whole and not yet understood.

    Parameters
    ----------
    name : the path as given, for messages.
    header : column names as written; empty when the first line is already a patient.
    rows : cells as text, stripped; every row has the same number of cells.
    first_line : 1-based line of the first row.
    sha256 : of the bytes.
    lines : 1-based line of each row (blank lines are no rows), so that messages can name them.
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    first_line: int
    sha256: str
    lines: tuple[int, ...] = ()


def read_file(path: Path) -> RawFile:
    """A CSV file from disk.

    Raises
    ------
    UnavailableError
        The file is missing or may not be read.
    ContractError
        It is empty, not text, not a table, or a web page.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as cause:
        raise UnavailableError(
            f"{path}: cannot be read ({cause.strerror}); "
            "`python data/download_data.py --output data/raw/heart.csv` makes the default file"
        ) from cause
    return parse(content, name=str(path))


def parse(content: bytes, *, name: str) -> RawFile:
    """Bytes as a table of text cells.

    The delimiter (comma, semicolon, tab, blanks) is judged by the first line; a first line with
    no word that is a column name counts as a patient, so no header swallows one.

    Raises
    ------
    ContractError
        Empty, not UTF-8 text, a web page, or rows of different length (the line is named).
    """
    text = _decoded(content, name)
    first = text.lstrip("\n").split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count) if any(d in first for d in ",;\t") else " "
    if delimiter == " ":
        text = "\n".join(line.strip() for line in text.split("\n"))
    lines = [(number, row) for number, row in _rows(text, delimiter, name) if any(row)]
    if not lines:
        raise ContractError(f"{name}: the file is empty; expected one patient a line")
    width = len(lines[0][1])
    for number, row in lines:
        if len(row) != width:
            raise ContractError(
                f"{name}: line {number} has {len(row)} cells, the first line has {width}; "
                "the file is cut or its delimiter is mixed; get it again"
            )
    has_header = not any(_is_patient_cell(text) for text in lines[0][1])
    body = lines[1:] if has_header else lines
    return RawFile(
        name=name,
        header=lines[0][1] if has_header else (),
        rows=tuple(row for _, row in body),
        first_line=body[0][0] if body else 2,
        sha256=hashlib.sha256(content).hexdigest(),
        lines=tuple(number for number, _ in body),
    )


def cell(text: str) -> float | str | None:
    """A file's cell: None when missing, a number when it is one, else the word.

    Examples
    --------
    >>> cell(" ? "), cell(".7"), cell("ASY")
    (None, 0.7, 'ASY')
    """
    stripped = text.strip()
    if stripped.lower() in MISSING_TEXTS:
        return None
    try:
        return float(stripped) if "_" not in stripped else stripped
    except ValueError:
        return stripped


def _rows(text: str, delimiter: str, name: str) -> list[tuple[int, tuple[str, ...]]]:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        return [(reader.line_num, tuple(c.strip() for c in row)) for row in reader]
    except csv.Error as cause:
        raise ContractError(
            f"{name}: line {reader.line_num} is not a line of a table ({cause}); export it as CSV"
        ) from cause


def _decoded(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise ContractError(
            f"{name}: not UTF-8 text (byte {cause.start}); export it as CSV in UTF-8"
        ) from cause
    if "\x00" in text:
        raise ContractError(
            f"{name}: holds zero bytes, so it is not a text table; export it as CSV"
        )
    if text.lstrip()[:200].lower().startswith(("<!doctype", "<html", "<?xml", "<head")):
        raise ContractError(f"{name}: this is a web page, not a table; check the address")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_patient_cell(text: str) -> bool:
    return isinstance(cell(text), float) or text == MISSING_TEXT
