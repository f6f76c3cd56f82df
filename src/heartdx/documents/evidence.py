"""Whether the numbers of a document are those of the facts.

Shapes are compared whole: ``0.876 (0.853 to 0.898)`` must be one figure of the facts with these
three numbers, ``0.571 to 0.910`` one of their intervals; any other number must be among the facts
at the precision printed. Numbers that are no results are left out, by these marks only:

- a section headed *Sources*, code (fenced or in backticks), links and DOIs;
- the first column of a table headed *Item* or *Question*;
- a year, and a number that is part of a word, version or path (``SHA-256``, ``12a``, ``1.26.4``,
  ``adr/0005``);
- the phrases of ``CONSTANTS``.

A lone number can agree with the facts by accident: thousands of decimals are there. A table of
figures with their intervals cannot.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from heartdx import contract
from heartdx.documents.facts import Facts, at, entries, mappings

CONSTANTS = (
    "95 %",
    "10 events per parameter",
    "100 with and 100 without disease",
    "above 90 % or below 10 %",
)
"""Conventions that stand in our own texts: the level of every interval, the limits of rules."""

CURVES = frozenset({"curves", "aucs", "golden", "files", "p"})
"""Raw material of pictures and proofs; no document prints it, and it would vouch for anything."""
SHARES = frozenset({"prevalence", "changed_decisions"})
"""Facts between 0 and 1 that a document may print as a percentage."""
ROUNDING = 1e-6
"""The manifest keeps six decimals."""

_N = r"(?<![\w.,/])(?<![A-Za-z][-−])[-−+]?\d+(?:\.\d+)?(?![\w]|\.\d)"
_DECIMAL = r"(?<![\w.])[-−+]?\d+\.\d+"
_TRIPLE = re.compile(rf"({_DECIMAL}) \(({_DECIMAL}) to ({_DECIMAL})\)")
_PAIR = re.compile(rf"({_DECIMAL}) to ({_DECIMAL})")
_SINGLE = re.compile(rf"({_N})(\s?%)?")
_YEAR = re.compile(r"\b(?:19|20)\d\d(?:[-–](?:19|20)\d\d)?\b")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\([^)\s]*\)|https?://\S+|doi:\S+|10\.\d{4,}/\S+")
_HEADING = re.compile(r"^(#+)\s+(?:\d+[.)]?\s+)?(.*)$")


def numbers_without_evidence(text: str, facts: Facts) -> list[str]:
    """The numbers of a text that the facts do not hold, in the order of the text.

    Parameters
    ----------
    text : Markdown, rendered or written by hand; README.md as well.
    facts : what the numbers must come from.

    Examples
    --------
    >>> facts = Facts({"patients": 920, "auc": {"value": 0.8764, "low": 0.853, "high": 0.898}})
    >>> numbers_without_evidence("920 patients, AUC 0.876 (0.853 to 0.898)", facts)
    []
    >>> numbers_without_evidence("921 patients, AUC 0.877 (0.853 to 0.898)", facts)
    ['0.877 (0.853 to 0.898)', '921']
    """
    evidence = _evidence_of(facts)
    missing: list[str] = []
    for line in _results_of(text):
        missing += _missing(line, evidence)
    return missing


def tables(text: str) -> str:
    r"""The table lines of a Markdown text, for a document whose prose is not of one run.

    Examples
    --------
    >>> tables("In 3 steps:\n| site |\n|---|\n")
    '| site |\n|---|'
    """
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


# -- what the facts hold -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Evidence:
    """Numbers, intervals and figures, each in ascending order."""

    numbers: list[float]
    percentages: list[float]
    pairs: list[tuple[float, ...]]
    triples: list[tuple[float, ...]]


def _evidence_of(facts: Facts) -> _Evidence:
    documents = [facts.evaluation, facts.manifest or {}]
    found = [leaf for document in documents for leaf in _leaves(document)]
    tree = [node for document in documents for node in _nodes(document)]
    texts = {*(value for _, value in found if isinstance(value, str)), *_said_by_contract()}
    said = [float(n.replace("−", "-")) for text in texts for n in re.findall(_N, _plain(text))]
    measured = [(key, float(v)) for key, v in found if isinstance(v, int | float)]
    numbers = said + [v for key, v in measured if key not in ("low", "high")] + _counts(facts)
    shares = [100 * v for key, v in measured if key in SHARES] + list(_percentages(tree))
    pairs = [
        (node[low], node[high])
        for node in tree
        for low, high in (("low", "high"), ("min", "max"))
        if _has(node, low, high)
    ]
    triples = [
        (node[key], node["low"], node["high"])
        for node in tree
        for key in ("value", "corrected")
        if _has(node, key, "low", "high")
    ]
    return _Evidence(sorted(numbers), sorted(numbers + shares), sorted(pairs), sorted(triples))


def _leaves(document: object, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(document, Mapping):
        for name, value in document.items():
            if name not in CURVES:
                yield "", str(name).replace("_", " ")
                yield from _leaves(value, str(name))
    elif isinstance(document, list | tuple):
        for value in document:
            yield from _leaves(value, key)
    elif not isinstance(document, bool):
        yield key, document


def _nodes(document: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(document, Mapping):
        yield document
        for name, value in document.items():
            if name not in CURVES:
                yield from _nodes(value)
    elif isinstance(document, list | tuple):
        for value in document:
            yield from _nodes(value)


def _has(node: Mapping[str, Any], *keys: str) -> bool:
    return all(isinstance(node.get(key), int | float) for key in keys)


def _percentages(tree: list[Mapping[str, Any]]) -> Iterator[float]:
    """Every count beside a number of patients, as a share of them."""
    for node in tree:
        whole = node.get("patients")
        if isinstance(whole, int) and whole > 0:
            yield from (
                100 * part / whole
                for key in ("events", "women", "missing")
                if isinstance(part := node.get(key), int)
            )


def _counts(facts: Facts) -> list[float]:
    """How many there are of what the facts list."""
    listed = [
        mappings(facts.panels),
        at(facts.judged_on, "sites") or {},
        at(facts.trained_on, "sites") or {},
        entries(at(facts.evaluation, "missing", "strategies")),
        [g for g in entries(at(facts.evaluation, "policy", "groups")) if g.get("shown")],
        contract.ATTRIBUTES,
    ]
    return [float(len(members)) for members in listed]


def _said_by_contract() -> Iterator[str]:
    yield contract.OUTCOME.description
    for attribute in contract.ATTRIBUTES:
        yield from (attribute.expected, attribute.description, attribute.label)
    for site in contract.SITES:
        yield str(site.patients)


# -- what a text says ----------------------------------------------------------------------------


def _results_of(text: str) -> Iterator[str]:
    """Lines without what is marked as no result."""
    skipped_below, first_column = 0, False
    for line in _plain(text).splitlines():
        heading = _HEADING.match(line)
        if heading:
            depth, title = len(heading[1]), heading[2]
            if not skipped_below or depth <= skipped_below:
                skipped_below = depth if title.strip().lower() == "sources" else 0
            line = title
        if skipped_below:
            continue
        if not line.startswith("|"):
            first_column = False
        elif re.match(r"\|\s*(item|question)\s*\|", line, re.IGNORECASE):
            first_column = True
        yield line.split("|", 2)[2] if first_column and line.count("|") > 1 else line


def _plain(text: str) -> str:
    for pattern in (_FENCE, _CODE, _LINK):
        text = pattern.sub(" ", text)
    for phrase in CONSTANTS:
        text = text.replace(phrase, " ")
    return _YEAR.sub(" ", text)


def _missing(line: str, evidence: _Evidence) -> list[str]:
    missing: list[str] = []
    for pattern, figures in ((_TRIPLE, evidence.triples), (_PAIR, evidence.pairs)):
        for match in pattern.finditer(line):
            if not _found(match.groups(), figures):
                missing.append(match[0])
        line = pattern.sub(" ", line)
    for match in _SINGLE.finditer(line):
        is_percentage = match[2] is not None
        known = evidence.percentages if is_percentage else evidence.numbers
        if not _among(match[1], known, half=_half(match[1], counts=not is_percentage)):
            missing.append(match[0])
    return missing


def _found(printed: tuple[str, ...], figures: list[tuple[float, ...]]) -> bool:
    """Whether figures in ascending order hold one that is printed like this."""
    wanted = [(_value(text), _half(text)) for text in printed]
    first, half = wanted[0]
    near = figures[bisect_left(figures, (first - half,)) :]
    for figure in near:
        if figure[0] > first + half:
            return False
        if all(abs(v - f) <= h for (v, h), f in zip(wanted, figure, strict=True)):
            return True
    return False


def _among(printed: str, numbers: list[float], *, half: float) -> bool:
    place = bisect_left(numbers, _value(printed) - half)
    return place < len(numbers) and numbers[place] <= _value(printed) + half


def _value(printed: str) -> float:
    return float(printed.replace("−", "-"))


def _half(printed: str, *, counts: bool = True) -> float:
    """Half a unit of the last printed place; a whole number that counts is not rounded."""
    places = len(printed.partition(".")[2])
    return ROUNDING if counts and not places else 0.5 * 10.0**-places + ROUNDING
