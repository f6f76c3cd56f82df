"""A forest's ONNX file read back: its trees, and nested comparisons for one patient at a time.

ONNX Runtime takes some 470,000 instructions for one patient, nearly all of them for handing
thirteen cells through ninety nodes; the comparisons themselves are a few hundred. So the trees are
written as Python expressions, from the file that ``heartdx.onnx_graph`` wrote. Only its exact
shape is read; for any other graph ONNX Runtime answers.

A forest's inputs are rounded to float32 before they are compared (docs/adr/0004). Rounding keeps
order, so each threshold is instead moved to the last double that rounds to no more than it.

References
----------
.. [1] ONNX. onnx.proto3 and Operators-ml.md, TreeEnsembleRegressor. https://onnx.ai/onnx/
.. [2] Protocol Buffers. Encoding. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heartdx.contract import Panel

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_CONSTANT = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_NAME, _INTEGERS, _TENSOR, _STRINGS = 1, 8, 5, 9
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _DOUBLE = 2, 8, 9, 11
_VARINT, _BYTES = 0, 2
_SIZES = {1: 8, 5: 4}
"""Kinds of field with a fixed number of bytes."""

UNKNOWN = (
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What reading another graph raises, or a tree deeper than Python can nest."""

_TREES = 30
"""Trees compiled at once: fewer take less memory at the start, more take less time to ask."""

LEAF = -1
"""The column of a node that compares nothing."""

OnePatient = Callable[..., float]
"""Inputs of the panel in order (None where missing) to the probability."""
Message = dict[int, list[Any]]


@dataclass(frozen=True)
class Column:
    """One feature of the trees: ``(value - center) / scale``, or whether it equals ``code``.

    Parameters
    ----------
    attribute : whose value.
    typical : taken where the value is missing; None where the forest puts none.
    center, scale : of a number.
    code : None for a number.
    """

    attribute: str
    typical: float | None
    center: float = 0.0
    scale: float = 1.0
    code: float | None = None

    @property
    def text(self) -> str:
        """As Python, from names of the panel's inputs and numbers."""
        own = self.attribute
        value = own if self.typical is None else f"({self.typical!r} if {own} is None else {own})"
        if self.code is not None:
            return f"{value} == {self.code!r}"
        return f"({value} - {self.center!r}) / {self.scale!r}"


@dataclass(frozen=True)
class Forest:
    """What the file says, in arrays over the nodes of all trees.

    Parameters
    ----------
    panel : whose forest it is.
    columns : the features.
    roots : place of each tree's first node.
    column : shape (nodes,), place in ``columns`` of what a node compares, ``LEAF`` at a leaf.
    number : shape (nodes,), the last value that goes to ``yes``; at a leaf its share of the votes.
    yes, no : shape (nodes,), places of the nodes that follow.
    slope, intercept : ``slope * votes + intercept`` is the log-odds.
    """

    panel: Panel
    columns: tuple[Column, ...]
    roots: tuple[int, ...]
    column: np.ndarray
    number: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    slope: float
    intercept: float

    def one_patient(self) -> OnePatient:
        """The function that scores one patient as the file says.

        Raises
        ------
        MemoryError, RecursionError, SyntaxError
            A tree is deeper than Python can nest.
        """
        named = [f"x{place}" for place in range(len(self.columns))]
        given = ", ".join(named)
        trees = list(self._expressions())
        parts = [trees[first : first + _TREES] for first in range(0, len(trees), _TREES)]
        names: dict[str, Any] = {"exp": math.exp}
        for place, part in enumerate(parts):
            _add(names, [f"def votes{place}({given}):", f"    return {' + '.join(part)}"])
        lines = [f"{name} = {c.text}" for name, c in zip(named, self.columns, strict=True)]
        votes = " + ".join(f"votes{place}({given})" for place in range(len(parts)))
        lines.append(f"votes = {votes}")
        lines.append(f"return 1.0 / (1.0 + exp(-({self.slope!r} * votes + {self.intercept!r})))")
        inputs = ", ".join(self.panel.inputs)
        _add(names, [f"def forest({inputs}):", *(f"    {line}" for line in lines)])
        forest: OnePatient = names["forest"]
        return forest

    def _expressions(self) -> Iterator[str]:
        """Each tree as an expression of its share of the votes."""
        column, number = self.column.tolist(), self.number.tolist()
        yes, no = self.yes.tolist(), self.no.tolist()

        def expression(node: int) -> str:
            place = column[node]
            if place == LEAF:
                return repr(number[node])
            low, high = expression(yes[node]), expression(no[node])
            if self.columns[place].code is None:
                return f"({low} if x{place} <= {number[node]!r} else {high})"
            return f"({high} if x{place} else {low})"

        for root in self.roots:
            yield expression(root)


def read(content: bytes, panel: Panel) -> Forest:
    """A panel's forest from its file.

    Parameters
    ----------
    content : the ONNX file.
    panel : whose forest it is.

    Raises
    ------
    Exception
        One of ``UNKNOWN``: the file holds another graph than ``heartdx.onnx_graph`` writes for a
        forest.
    """
    graph = _Graph.read(content)
    (log_odds,) = graph.operands("Sigmoid", "probability")
    weighted, intercept = graph.operands("Add", log_odds)
    votes, slope = graph.operands("Mul", weighted)
    trees = graph.node("TreeEnsembleRegressor", graph.operands("Cast", votes)[0])
    (rounded,) = graph.operands("Cast", trees.inputs[0])
    features = graph.operands("Concat", graph.operands("Cast", rounded)[0])
    columns = tuple(_column(graph, name, panel) for name in features)
    measured = [column.attribute for column in columns if column.code is None]
    coded = {column.attribute for column in columns if column.code is not None}
    if len(set(measured)) < len(measured) or coded & set(measured):
        raise ValueError("an attribute stands in more columns than one number or its codes")
    return Forest(
        panel,
        columns,
        *_nodes(trees, columns),
        slope=graph.number(slope),
        intercept=graph.number(intercept),
    )


def _add(names: dict[str, Any], lines: list[str]) -> None:
    # The text holds attribute names of the contract and numbers read as float64 only.
    exec(compile("\n".join(lines), "<forest>", "exec"), names)  # noqa: S102


@dataclass(frozen=True)
class _Node:
    """One operator."""

    operator: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Message]


@dataclass(frozen=True)
class _Graph:
    """Operators by the name of their output, and double constants."""

    nodes: Mapping[str, _Node]
    constants: Mapping[str, np.ndarray]

    @classmethod
    def read(cls, content: bytes) -> _Graph:
        graph = _message(_message(content)[_MODEL_GRAPH][0])
        nodes = {}
        for raw in graph[_GRAPH_NODE]:
            node = _message(raw)
            attributes = [_message(a) for a in node.get(_NODE_ATTRIBUTE, [])]
            nodes[_text(node[_NODE_OUTPUT][0])] = _Node(
                _text(node[_NODE_OPERATOR][0]),
                tuple(map(_text, node.get(_NODE_INPUT, []))),
                {_text(a[_NAME][0]): a for a in attributes},
            )
        tensors = [_message(raw) for raw in graph[_GRAPH_CONSTANT]]
        return cls(nodes, {_text(t[_TENSOR_NAME][0]): _doubles(t) for t in tensors})

    def node(self, operator: str, output: str) -> _Node:
        found = self.nodes[output]
        if found.operator != operator:
            raise ValueError(f"{output} is made by another operator than {operator}")
        return found

    def operands(self, operator: str, output: str) -> tuple[str, ...]:
        return self.node(operator, output).inputs

    def number(self, name: str) -> float:
        (number,) = self.constants[name].tolist()
        return float(number)


def _column(graph: _Graph, name: str, panel: Panel) -> Column:
    if graph.nodes[name].operator == "Cast":
        value, code = graph.operands("Equal", graph.operands("Cast", name)[0])
        return Column(*_value(graph, value, panel), code=graph.number(code))
    centred, scale = graph.operands("Div", name)
    value, center = graph.operands("Sub", centred)
    return Column(*_value(graph, value, panel), graph.number(center), graph.number(scale))


def _value(graph: _Graph, name: str, panel: Panel) -> tuple[str, float | None]:
    """An input, and the typical value where it is missing."""
    if name in graph.nodes:
        missing, typical, own = graph.operands("Where", name)
        if graph.operands("IsNaN", missing) != (own,) or own not in panel.inputs:
            raise ValueError("a value is replaced for another reason than that it is missing")
        return own, graph.number(typical)
    if name not in panel.inputs:
        raise ValueError("a feature is made of something that is no input of the panel")
    return name, None


# -- trees -----------------------------------------------------------------------------------


def _nodes(
    node: _Node, columns: Sequence[Column]
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Roots, column, number, yes and no of a :class:`Forest`."""
    about = node.attributes

    def integers(name: str) -> list[int]:
        return _integers(about[name][_INTEGERS])

    modes = [_text(mode) for mode in about["nodes_modes"][_STRINGS]]
    if not set(modes) <= {"LEAF", "BRANCH_LEQ"}:
        raise ValueError("a tree compares otherwise")
    at = list(zip(integers("nodes_treeids"), integers("nodes_nodeids"), strict=True))
    place = {name: place for place, name in enumerate(at)}
    leaves = list(zip(integers("target_treeids"), integers("target_nodeids"), strict=True))
    ends = {name for name, mode in zip(at, modes, strict=True) if mode == "LEAF"}
    if len(place) < len(at) or ends != set(leaves):
        raise ValueError("a node stands twice, or a leaf has no share of the votes")
    column = np.array(integers("nodes_featureids"), dtype=np.int16)
    number = _last_not_above(_doubles(_message(about["nodes_values_as_tensor"][_TENSOR][0])))
    if not len(column) == len(number) == len(at):
        raise ValueError("a node has no column or no limit")
    share = [place[leaf] for leaf in leaves]
    column[share] = LEAF
    number[share] = _doubles(_message(about["target_weights_as_tensor"][_TENSOR][0]))
    yes, no = (
        np.array([place[tree, to] for (tree, _), to in zip(at, integers(name), strict=True)])
        for name in ("nodes_truenodeids", "nodes_falsenodeids")
    )
    limits = number[np.isin(column, [i for i, c in enumerate(columns) if c.code is not None])]
    if not ((limits >= 0) & (limits < 1)).all():
        raise ValueError("a code is compared with something that does not part 0 from 1")
    if column.max() >= len(columns):
        raise ValueError("a tree compares a column that is not there")
    roots = tuple(place[tree, 0] for tree in dict.fromkeys(tree for tree, _ in at))
    return roots, column, number, yes.astype(np.int32), no.astype(np.int32)


def _last_not_above(limits: np.ndarray) -> np.ndarray:
    """For each limit the last double that, rounded to float32, is not above it.

    Halfway between two neighbours a double is rounded to the one whose last bit is 0.
    """
    below = limits.astype(np.float32)
    below = np.where(below > limits, np.nextafter(below, np.float32(-np.inf)), below)
    above = np.nextafter(below, np.float32(np.inf))
    halfway = (below.astype(np.float64) + above.astype(np.float64)) / 2
    is_even = below.view(np.uint32) % 2 == 0
    last: np.ndarray = np.where(is_even, halfway, np.nextafter(halfway, -np.inf))
    return last


# -- Protocol Buffers ------------------------------------------------------------------------


def _message(raw: bytes) -> Message:
    """Field numbers to their values in order: whole numbers, or bytes."""
    found: Message = {}
    place = 0
    while place < len(raw):
        tag, place = _varint(raw, place)
        kind = tag & 7
        value: Any
        if kind == _VARINT:
            value, place = _varint(raw, place)
        elif kind in _SIZES or kind == _BYTES:
            size, place = (_SIZES[kind], place) if kind in _SIZES else _varint(raw, place)
            value, place = raw[place : place + size], place + size
        else:
            raise ValueError("no Protocol Buffers message")
        found.setdefault(tag >> 3, []).append(value)
    if place != len(raw):
        raise ValueError("the message is cut short")
    return found


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _integers(values: list[Any]) -> list[int]:
    """A repeated field of whole numbers, packed or not."""
    listed: list[int] = []
    for value in values:
        if isinstance(value, int):
            listed.append(value)
            continue
        place = 0
        while place < len(value):
            number, place = _varint(value, place)
            listed.append(number)
    return listed


def _doubles(tensor: Message) -> np.ndarray:
    if tensor[_TENSOR_TYPE] != [_DOUBLE]:
        raise ValueError("a tensor is not of doubles")
    numbers = np.frombuffer(tensor[_TENSOR_RAW][0], dtype="<f8")
    if not np.isfinite(numbers).all():
        raise ValueError("a number is not finite")
    return numbers


def _text(raw: bytes) -> str:
    return raw.decode()
