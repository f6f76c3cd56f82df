"""A forest's votes for one patient as a sum over attributes: exact Shapley values.

The game is that of one patient against one reference [1]_: a coalition of attributes has the
votes of a patient who is like the patient in these and like the reference in all others. All
columns of an attribute move together, so a code is one player whatever its columns.

A leaf is reached by a mixture of both when every condition on its way holds for the one or the
other. Of a patient there matter only the *a* attributes whose conditions the reference breaks,
and the *b* that the patient breaks: the coalition needs all of the first and none of the second.
Such a game gives each of the first ``share * (a-1)! b! / (a+b)!`` and takes from each of the second
``share * a! (b-1)! / (a+b)!``; the sum over leaves is the Shapley value, as in independent
TreeSHAP [2]_. As the reference is always the same, *a* is counted once for all patients.

References
----------
.. [1] Strumbelj E, Kononenko I. Explaining prediction models and individual predictions with
   feature contributions. Knowl Inf Syst 2014;41:647-665.
.. [2] Lundberg SM, Erion G, Chen H, et al. From local explanations to global understanding with
   explainable AI for trees. Nat Mach Intell 2020;2:56-67.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from heartdx.contract import NAMES
from heartdx.errors import UsageError
from heartdx.reliability import Values, VoteContributions
from heartdx.serve.forest import LEAF, Column, Forest

_ALL = -1
"""A set of codes, as bits, that holds every code."""


class Condition(NamedTuple):
    """What the way to a leaf asks of one attribute.

    Parameters
    ----------
    player : place of the attribute among those the forest looks at.
    above, up_to : of a number, as its column scales it.
    codes : of a code, one bit each in the order of its columns, then one for any other code.
    """

    player: int
    above: float = -math.inf
    up_to: float = math.inf
    codes: int = _ALL


class VoteReasons:
    """The trees of one panel, made ready when the first patient is explained.

    Parameters
    ----------
    forest : as read from its file.
    reference : 13 numbers in contract order, None where the forest's own typical value is taken.

    Raises
    ------
    UsageError
        The reference lacks a value that the forest does not impute.
    """

    def __init__(self, forest: Forest, reference: Values):
        self._forest = forest
        asked = {column.attribute for column in forest.columns}
        self.attributes = tuple(name for name in NAMES if name in asked)
        """The players, in contract order."""
        self._columns = tuple(
            tuple(column for column in forest.columns if column.attribute == name)
            for name in self.attributes
        )
        self._reference = self._measured(reference)

    def contributions(self, values: Values) -> VoteContributions:
        """Votes by attribute for one patient.

        Parameters
        ----------
        values : 13 numbers in contract order, None or NaN where missing.

        Raises
        ------
        UsageError
            A value is missing that the forest does not impute.
        """
        leaves = self._leaves
        votes, found = leaves.votes(*self._measured(values))
        forest = self._forest
        by_attribute = dict(zip(self.attributes, found, strict=True))
        return VoteContributions(leaves.base, by_attribute, votes, forest.slope, forest.intercept)

    @cached_property
    def _leaves(self) -> _Leaves:
        return _Leaves(self._forest, self._columns, *self._reference)

    def _measured(self, values: Values) -> tuple[np.ndarray, np.ndarray]:
        """A patient as the trees see one: a scaled number and the bits of a code for each player.

        A number has all bits and a code the number 0, so that each meets conditions of the other.
        """
        numbers, bits = [], []
        for columns in self._columns:
            first = columns[0]
            value = values[NAMES.index(first.attribute)]
            if value is None or value != value:
                value = first.typical
            if value is None:
                raise UsageError(f"{first.attribute}: missing, and the forest puts no value there")
            if first.code is None:
                numbers.append((value - first.center) / first.scale)
                bits.append(_ALL)
            else:
                codes = [column.code for column in columns]
                numbers.append(0.0)
                bits.append(1 << (codes.index(value) if value in codes else len(codes)))
        return np.array(numbers), np.array(bits)


class _Leaves:
    """Every leaf's share of the votes, and the conditions on its way.

    Conditions are numbered; number 0 asks nothing and stands where the way to a leaf does not ask
    about a player. Most leaves are out of reach of any mixture of patient and reference, so these
    are found first.

    Parameters
    ----------
    forest : whose leaves.
    columns : of each player.
    numbers, bits : the reference as the trees compare it, shape (players,) each.
    """

    def __init__(
        self,
        forest: Forest,
        columns: tuple[tuple[Column, ...], ...],
        numbers: np.ndarray,
        bits: np.ndarray,
    ):
        players = len(columns)
        places = {Condition(0): 0}
        shares, rows = [], []
        for share, way in _ways(forest, columns):
            shares.append(share)
            row = [0] * players
            for player, condition in way.items():
                row[player] = places.setdefault(condition, len(places))
            rows.append(row)
        self._player = np.array([one.player for one in places], dtype=np.intp)
        self._above = np.array([one.above for one in places])
        self._up_to = np.array([one.up_to for one in places])
        self._codes = np.array([one.codes for one in places], dtype=np.int64)
        asked = np.array(rows, dtype=np.int32).reshape(-1, players)
        needed = self._broken(numbers, bits)[asked]
        a = needed.sum(axis=1)
        order = np.argsort(-a, kind="stable")
        self._share, self._a = np.array(shares)[order], a[order]
        self._asked, self._needed = asked[order], needed[order]
        self._ranked = list(_by_rank(self._asked, self._needed))
        self._weights = _weights(players)
        self.base = float(self._share[self._a == 0].sum())

    def votes(self, numbers: np.ndarray, bits: np.ndarray) -> tuple[float, list[float]]:
        """A patient's votes, and what each player adds to the reference's."""
        broken = self._broken(numbers, bits)
        out_of_reach = np.zeros(len(self._share), dtype=bool)
        for conditions in self._ranked:
            out_of_reach[: len(conditions)] |= broken[conditions]
        reached = np.flatnonzero(~out_of_reach)
        share, a, needed = self._share[reached], self._a[reached], self._needed[reached]
        lost = broken[self._asked[reached]]
        b = lost.sum(axis=1)
        given, taken = share * self._weights[:, a, b]
        return float(share[b == 0].sum()), (given @ needed - taken @ lost).tolist()

    def _broken(self, numbers: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Whether a patient breaks each condition."""
        number = numbers[self._player]
        met = (self._above < number) & (number <= self._up_to)
        met &= (self._codes & bits[self._player]) != 0
        broken: np.ndarray = ~met
        return broken


def _by_rank(asked: np.ndarray, needed: np.ndarray) -> Iterator[np.ndarray]:
    """The first, second, ... needed condition of the leaves that have one.

    Leaves with many come first, so each array is about the first leaves: the few steps over long
    arrays cost a third of going from leaf to leaf.

    Parameters
    ----------
    asked, needed : shape (leaves, players), condition and whether it is needed.
    """
    a = needed.sum(axis=1)
    listed, first = asked[needed].astype(np.intp), np.cumsum(a) - a
    for rank in range(a.max(initial=0)):
        yield listed[first[a > rank] + rank]


def _weights(players: int) -> np.ndarray:
    """What a leaf gives each of its ``a`` players and takes from each of its ``b``.

    Returns
    -------
    array of shape (2, players + 1, players + 1), by a and b; 0 where there is no such player.
    """
    weights = np.zeros((2, players + 1, players + 1))
    for a in range(players + 1):
        for b in range(players + 1 - a):
            if a:
                weights[0, a, b] = 1 / (a * math.comb(a + b, a))
            if b:
                weights[1, a, b] = 1 / (b * math.comb(a + b, b))
    return weights


def _ways(
    forest: Forest, columns: tuple[tuple[Column, ...], ...]
) -> Iterator[tuple[float, dict[int, Condition]]]:
    """Share of the votes of every leaf, and what is asked on the way to it.

    Leaves without a share, and leaves that nobody reaches, are left out.
    """
    places = [
        (player, columns[player].index(column), len(columns[player]))
        for column in forest.columns
        for player, own in enumerate(columns)
        if column in own
    ]
    column, number = forest.column.tolist(), forest.number.tolist()
    yes, no = forest.yes.tolist(), forest.no.tolist()
    waiting: list[tuple[int, dict[int, Condition]]] = [(root, {}) for root in forest.roots]
    while waiting:
        node, way = waiting.pop()
        if column[node] == LEAF:
            if number[node]:
                yield number[node], way
            continue
        player, place, codes = places[column[node]]
        limit = number[node]
        _, above, up_to, held = way.get(player) or Condition(player, codes=(2 << codes) - 1)
        if forest.columns[column[node]].code is None:
            low = Condition(player, above, min(up_to, limit), held)
            high = Condition(player, max(above, limit), up_to, held)
        else:  # a code's column is 0 or 1, and its limit parts them
            low = Condition(player, above, up_to, held & ~(1 << place))
            high = Condition(player, above, up_to, held & 1 << place)
        for after, one in ((yes[node], low), (no[node], high)):
            if one.above < one.up_to and one.codes:
                waiting.append((after, {**way, player: one}))
