"""Tensors of the Open Inference Protocol: a request's inputs as patients, answers as outputs.

Two forms are read. Named tensors, one for each attribute, of shape [n] or [n, 1]; or one tensor
``input`` of shape [n, 13] in contract order. Missing is NaN, null or -9, an empty text in a BYTES
tensor, or an optional attribute without a tensor. Data stand in the JSON object or, by the
binary tensor data extension, after it.

References
----------
.. [1] KServe. Open Inference Protocol, version 2: HTTP/REST.
   https://github.com/kserve/open-inference-protocol
.. [2] KServe. Binary Tensor Data Extension.
   https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heartdx.contract import ATTRIBUTES, NAMES, Attribute
from heartdx.errors import FieldProblem
from heartdx.records import DECODERS
from heartdx.serve.doors import Rows, refuse_absent, refuse_count, refused
from heartdx.serve.problems import InputError, Located

TABLE = "input"
"""Name of the one tensor that holds all 13 attributes."""
NUMBERS = ("FP64", "FP32", "INT64", "INT32")
DATATYPES = (*NUMBERS, "BOOL", "BYTES")
OUTPUTS: dict[str, tuple[str, str]] = {
    "probability": ("FP64", "probabilities"),
    "prediction": ("INT64", "predictions"),
    "label": ("BYTES", "labels"),
    "panel": ("BYTES", "panels"),
    "abstain": ("BYTES", "abstained"),
}
"""Every output: its datatype, and its column of the answers."""
NOTHING = {"INT64": -1, "BYTES": ""}
"""What stands for no prediction and no label, no reason to abstain: tensors have no null."""
HEADER_LENGTH = "Inference-Header-Content-Length"
ID_PATTERN = "^[ -~]{0,256}$"
"""An ``id`` that is echoed: printable ASCII, so that it fits any log."""

BINARY_SIZE, BINARY_DATA, BINARY_OUTPUT = "binary_data_size", "binary_data", "binary_data_output"
_DTYPES = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8", "INT32": "<i4", "BOOL": "u1"}
_PYTHON: dict[str, tuple[type, ...]] = {
    "FP64": (float, int),
    "FP32": (float, int),
    "INT64": (int,),
    "INT32": (int,),
    "BOOL": (bool,),
    "BYTES": (str,),
}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Wanted:
    """One requested output.

    Parameters
    ----------
    name : one of ``OUTPUTS``.
    binary : whether its data follow the JSON object.
    """

    name: str
    binary: bool


@dataclass(frozen=True)
class Inference:
    """A request understood; its values are not checked yet.

    Parameters
    ----------
    id : to echo; None when none was sent.
    given : the patients.
    wanted : the outputs to answer, in this order.
    """

    id: str | None
    given: Rows
    wanted: tuple[Wanted, ...]


@dataclass(frozen=True)
class Tensor:
    """One input tensor.

    Parameters
    ----------
    name : an attribute, or ``TABLE``.
    place : its place among the inputs.
    width : attributes in a row, 1 or 13.
    values : n x width values, row by row.
    held : how the data were sent: ``flat``, ``nested`` or ``binary``.
    """

    name: str
    place: int
    width: int
    values: Sequence[object]
    held: str

    def pointer(self, row: int, column: int) -> str:
        """JSON pointer of one element; of the tensor when its data are binary."""
        data = f"/inputs/{self.place}/data"
        if self.held == "nested":
            return f"{data}/{row}/{column}"
        return (
            f"/inputs/{self.place}" if self.held == "binary" else f"{data}/{self._at(row, column)}"
        )

    def _at(self, row: int, column: int) -> int:
        return row * self.width + column


def datatypes(attribute: Attribute) -> tuple[str, ...]:
    """The datatypes in which an attribute is accepted.

    Examples
    --------
    >>> datatypes(ATTRIBUTES[0])
    ('FP64', 'FP32', 'INT64', 'INT32')
    """
    if not attribute.codes:
        return NUMBERS
    is_truth = isinstance(DECODERS["uci"][attribute.name](True), float)
    return (*NUMBERS, *(("BOOL",) if is_truth else ()), "BYTES")


def inference(document: object, binary: bytes, *, max_records: int) -> Inference:
    """What an inference request asks.

    Parameters
    ----------
    document : its JSON object.
    binary : the bytes behind the object.
    max_records : most patients accepted; shapes are checked before any data are read.

    Raises
    ------
    InputError
        The object, a tensor or the binary data are not what the protocol says.

    Examples
    --------
    >>> sent = {"name": "age", "shape": [1], "datatype": "FP64", "data": [63]}
    >>> code = {"shape": [1], "datatype": "INT64", "data": [1]}
    >>> inputs = [sent, {"name": "sex", **code}, {"name": "cp", **code}]
    >>> inference({"inputs": inputs}, b"", max_records=10).given.rows
    [{'age': 63, 'sex': 1, 'cp': 1}]
    >>> inference({"inputs": inputs}, b"tail", max_records=10)
    Traceback (most recent call last):
    ...
    heartdx.serve.problems.InputError: 1 problem(s) with the fields; ...
    """
    members = _members(document, ("id", "parameters", "inputs", "outputs"), "body", "")
    parameters = _parameters(members, "")
    by_default = _truth(parameters, BINARY_OUTPUT, "/parameters")
    return Inference(
        _id(members.get("id")),
        _rows(_tensors(members.get("inputs"), binary, max_records)),
        _wanted(members.get("outputs"), by_default=by_default),
    )


def outputs(wanted: Sequence[Wanted], batch: Mapping[str, Any]) -> tuple[list[dict], bytes]:
    """The answer's tensors, and the bytes to follow the JSON object.

    Parameters
    ----------
    wanted : the outputs, in the order of the answer.
    batch : the columns of the answers; None becomes ``NOTHING``.

    Examples
    --------
    >>> outputs([Wanted("prediction", binary=False)], {"predictions": [1, 0]})
    ([{'name': 'prediction', 'datatype': 'INT64', 'shape': [2], 'data': [1, 0]}], b'')
    """
    tensors, behind = [], b""
    for one in wanted:
        datatype, member = OUTPUTS[one.name]
        nothing = NOTHING.get(datatype)
        values = [nothing if value is None else value for value in batch[member]]
        tensor = {"name": one.name, "datatype": datatype, "shape": [len(values)]}
        if one.binary:
            packed = _packed(values, datatype)
            behind += packed
            tensors.append({**tensor, "parameters": {BINARY_SIZE: len(packed)}})
        else:
            tensors.append({**tensor, "data": values})
    return tensors, behind


# -- the parts of a request --------------------------------------------------------------------


def _id(given: object) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not re.fullmatch(ID_PATTERN, given):
        expected = "a string of at most 256 printable ASCII characters"
        raise refused("id", "type", expected, "send another id, or none", pointer="/id")
    return given


def _wanted(given: object, *, by_default: bool) -> tuple[Wanted, ...]:
    if given is None or given == []:
        return tuple(Wanted(name, by_default) for name in OUTPUTS)
    if not isinstance(given, list):
        raise refused("outputs", "type", "an array", "send [{...}], or nothing", pointer="/outputs")
    wanted: list[Wanted] = []
    for place, output in enumerate(given):
        pointer = f"/outputs/{place}"
        members = _members(output, ("name", "parameters"), "outputs", pointer)
        name, parameters = members.get("name"), _parameters(members, pointer)
        if not isinstance(name, str) or name not in OUTPUTS:
            expected = "one of " + ", ".join(OUTPUTS)
            raise refused("outputs", "unknown", expected, "remove it", pointer=f"{pointer}/name")
        if any(one.name == name for one in wanted):
            raise refused("outputs", "unknown", "each name once", "remove one", pointer=pointer)
        if "classification" in parameters:
            raise refused(
                "outputs",
                "unknown",
                "no classification extension",
                "ask for label and probability",
                pointer=f"{pointer}/parameters",
            )
        asked = _truth(parameters, BINARY_DATA, f"{pointer}/parameters", otherwise=by_default)
        wanted.append(Wanted(name, asked))
    return tuple(wanted)


def _rows(tensors: Sequence[Tensor]) -> Rows:
    """Patients from tensors of one length."""
    if tensors[0].name == TABLE:
        values, width = tensors[0].values, len(NAMES)
        rows = [values[at : at + width] for at in range(0, len(values), width)]
        return Rows(rows, lambda row, field: tensors[0].pointer(row, _column(field)), "/inputs/0")
    refuse_absent([tensor.name for tensor in tensors], pointer="/inputs")
    by_name = {tensor.name: tensor for tensor in tensors}
    columns = [tensor.values for tensor in tensors]
    named = [dict(zip(by_name, row, strict=True)) for row in zip(*columns, strict=True)]
    return Rows(
        named,
        lambda row, field: by_name[field].pointer(row, 0) if field in by_name else "/inputs",
        "/inputs",
    )


def _column(field: str | None) -> int:
    return NAMES.index(field) if field in NAMES else 0


def _tensors(given: object, binary: bytes, max_records: int) -> list[Tensor]:
    if not isinstance(given, list) or not given:
        mend = f"send named tensors, or one named {TABLE}"
        raise refused("inputs", "type", "an array of tensors", mend, pointer="/inputs")
    if len(given) > len(NAMES):
        expected = f"at most {len(NAMES)} tensors"
        raise refused("inputs", "range", expected, "remove the others", pointer="/inputs")
    behind = _Behind(binary)
    tensors: list[Tensor] = []
    for place, one in enumerate(given):
        tensors.append(_tensor(one, place, behind, max_records))
        _refuse_together(tensors)
    behind.refuse_rest()
    return tensors


def _tensor(given: object, place: int, behind: _Behind, max_records: int) -> Tensor:
    pointer = f"/inputs/{place}"
    allowed = ("name", "shape", "datatype", "parameters", "data")
    members = _members(given, allowed, "inputs", pointer)
    name = _name(members.get("name"), pointer)
    datatype = _datatype(members.get("datatype"), name, pointer)
    rows, width = _shape(members.get("shape"), name, max_records, pointer)
    parameters, data = _parameters(members, pointer), members.get("data")
    if BINARY_SIZE not in parameters:
        values, held = _from_json(data, name, datatype, rows, width, pointer)
        return Tensor(name, place, width, values, held)
    if data is not None:
        expected = f"data or {BINARY_SIZE}, not both"
        raise refused(name, "type", expected, "remove one", pointer=pointer)
    size = parameters[BINARY_SIZE]
    if type(size) is not int or size < 0:
        where = f"{pointer}/parameters/{BINARY_SIZE}"
        raise refused(name, "type", "a number of bytes", "send its length", pointer=where)
    chunk = behind.take(size, name, pointer)
    return Tensor(
        name, place, width, _unpacked(chunk, name, datatype, rows * width, pointer), "binary"
    )


def _refuse_together(tensors: Sequence[Tensor]) -> None:
    """Refuse the last tensor when it does not fit those before it."""
    last, before = tensors[-1], tensors[:-1]
    pointer = f"/inputs/{last.place}"
    if any(tensor.name == last.name for tensor in before):
        raise refused(last.name, "unknown", "each tensor once", "remove one", pointer=pointer)
    if before and TABLE in (last.name, before[0].name):
        expected = f"{TABLE} alone, or named tensors alone"
        raise refused(last.name, "unknown", expected, "send one form", pointer=pointer)
    if before and len(last.values) != len(before[0].values):
        expected = "as many rows as the first tensor"
        where = f"{pointer}/shape"
        raise refused(last.name, "range", expected, "send one value a patient", pointer=where)


def _name(given: object, pointer: str) -> str:
    if not isinstance(given, str) or given not in (*NAMES, TABLE):
        expected = f"a tensor named {TABLE}, or named one of {', '.join(NAMES)}"
        raise refused("inputs", "unknown", expected, "remove it", pointer=f"{pointer}/name")
    return given


def _datatype(given: object, name: str, pointer: str) -> str:
    accepted = ("FP64", "FP32") if name == TABLE else datatypes(ATTRIBUTES[NAMES.index(name)])
    if not isinstance(given, str) or given not in accepted:
        expected = "datatype " + " or ".join(accepted)
        raise refused(name, "type", expected, "convert the tensor", pointer=f"{pointer}/datatype")
    return given


def _shape(given: object, name: str, max_records: int, pointer: str) -> tuple[int, int]:
    """Rows and width; a shape is believed only within what is answered at once."""
    expected = f"shape [n, {len(NAMES)}]" if name == TABLE else "shape [n] or [n, 1]"
    where = f"{pointer}/shape"
    if not isinstance(given, list) or not all(type(size) is int for size in given):
        raise refused(name, "type", expected, "send whole numbers", pointer=where)
    tails = ([len(NAMES)],) if name == TABLE else ([], [1])
    if not given or given[1:] not in tails:
        raise refused(name, "range", expected, "reshape the tensor", pointer=where)
    refuse_count(given[0], max_records=max_records, pointer=where)
    return given[0], len(NAMES) if name == TABLE else 1


def _members(given: object, allowed: Sequence[str], field: str, pointer: str) -> dict[str, Any]:
    if not isinstance(given, dict) or set(given) - set(allowed):
        expected = "an object with " + ", ".join(allowed)
        raise refused(field, "type", expected, "remove what the protocol has not", pointer=pointer)
    return given


def _parameters(members: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    given = members.get("parameters")
    if given is None:
        return {}
    where = f"{pointer}/parameters"
    if not isinstance(given, dict) or not all(
        isinstance(value, str | int | float) for value in given.values()
    ):
        expected = "an object of strings, numbers and truths"
        raise refused("parameters", "type", expected, "remove the others", pointer=where)
    if any(name.startswith("shared_memory") for name in given):
        mend = "send the data in the request"
        raise refused("parameters", "unknown", "no shared memory", mend, pointer=where)
    return given


def _truth(
    parameters: Mapping[str, Any], name: str, pointer: str, *, otherwise: bool = False
) -> bool:
    given = parameters.get(name, otherwise)
    if not isinstance(given, bool):
        raise refused("parameters", "type", f"{name} true or false", "send one", pointer=pointer)
    return given


# -- the elements of a tensor --------------------------------------------------------------------


def _from_json(
    data: object, name: str, datatype: str, rows: int, width: int, pointer: str
) -> tuple[list[object], str]:
    """The elements, flat, and how they were held; each is of the datatype or missing."""
    where = f"{pointer}/data"
    if not isinstance(data, list):
        mend = f"send data, or {BINARY_SIZE} and the bytes"
        raise refused(name, "type", "data as an array", mend, pointer=where)
    nested = bool(data) and isinstance(data[0], list)
    fits = len(data) == (rows if nested else rows * width)
    if nested:
        fits = fits and all(isinstance(row, list) and len(row) == width for row in data)
    if not fits:
        expected = "as many elements as the shape says"
        raise refused(name, "range", expected, "mend shape or data", pointer=where)
    values = [value for row in data for value in row] if nested else data
    types = (*_PYTHON[datatype], type(None))
    for at, value in enumerate(values):
        if type(value) not in types:
            expected, row = f"{datatype} elements, or null where missing", at // width
            problem = FieldProblem(name, "type", expected, "convert the element", row)
            raise InputError([Located(problem, where)])
    if datatype == "BYTES":
        values = [None if value == "" else value for value in values]
    return values, "nested" if nested else "flat"


class _Behind:
    """The bytes behind the JSON object, taken tensor by tensor."""

    def __init__(self, content: bytes):
        self._content = content
        self._taken = 0

    def take(self, size: int, name: str, pointer: str) -> bytes:
        """The next bytes, which belong to a tensor."""
        if size > len(self._content) - self._taken:
            expected = f"as many bytes behind the object as {BINARY_SIZE} says"
            mend = f"mend the sizes, or the header {HEADER_LENGTH}"
            raise refused(name, "range", expected, mend, pointer=pointer)
        self._taken += size
        return self._content[self._taken - size : self._taken]

    def refuse_rest(self) -> None:
        """Refuse bytes that belong to no tensor."""
        if self._taken != len(self._content):
            expected = f"no byte behind the object beyond the tensors' {BINARY_SIZE}"
            raise refused("inputs", "range", expected, "mend the sizes", pointer="/inputs")


def _unpacked(chunk: bytes, name: str, datatype: str, count: int, pointer: str) -> list[object]:
    if datatype == "BYTES":
        return _texts(chunk, name, count, pointer)
    dtype = np.dtype(_DTYPES[datatype])
    if len(chunk) != count * dtype.itemsize:
        expected = f"{dtype.itemsize} bytes for each element of the shape"
        raise refused(name, "range", expected, "mend shape or size", pointer=pointer)
    values: list[Any] = np.frombuffer(chunk, dtype).tolist()
    if datatype != "BOOL":
        return values
    if not set(values) <= {0, 1}:
        raise refused(name, "type", "bytes 0 and 1", "send a BOOL tensor", pointer=pointer)
    return [bool(value) for value in values]


def _texts(chunk: bytes, name: str, count: int, pointer: str) -> list[object]:
    """Elements of a BYTES tensor: each a length of 4 bytes and UTF-8 text, empty if missing."""
    texts: list[object] = []
    at = 0
    try:
        while at < len(chunk) and len(texts) < count:
            (length,) = _LENGTH.unpack_from(chunk, at)
            at += _LENGTH.size + length
            texts.append(chunk[at - length : at].decode("utf-8") or None)
    except (struct.error, UnicodeDecodeError):
        texts.clear()
    if len(texts) != count or at != len(chunk):
        expected = "for each element of the shape a length and so many bytes of UTF-8 text"
        raise refused(name, "range", expected, "mend shape or bytes", pointer=pointer)
    return texts


def _packed(values: Sequence[Any], datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.asarray(values, dtype=_DTYPES[datatype]).tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
