"""PromQL taken apart: which series a question selects, by which labels it groups and matches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import promql_parser
import yaml
from staging import ROOT, RULES


@dataclass(frozen=True)
class Question:
    """A PromQL expression and where it stands."""

    where: str
    text: str

    def selectors(self) -> list[str]:
        """Each selector without range and offset."""
        return sorted({_selector(node) for node in self._nodes() if _is(node, "VectorSelector")})

    def labels(self) -> set[str]:
        """Labels by which it groups or matches."""
        found: set[str] = set()
        for node in self._nodes():
            modifier = getattr(node, "modifier", None)
            if _is(node, "AggregateExpr") and modifier is not None:
                found |= set(modifier.labels)
            elif _is(node, "BinaryExpr") and modifier is not None:
                found |= set(modifier.group_labels or ())
                found |= set(modifier.matching.labels if modifier.matching else ())
        return found

    def _nodes(self) -> Iterator[object]:
        yield from _below(promql_parser.parse(self.text))


def of_rules() -> list[Question]:
    groups = [g for path in RULES for g in yaml.safe_load(path.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    return [Question(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules]


def of_page(path: Path) -> list[Question]:
    """The PromQL of a page: a line each, one that is indented goes on; and what promtool asks."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```promql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = re.sub(r"\n +", " ", "".join(blocks)).splitlines()
    lines += re.findall(r"^promtool query instant \S+ '(.+)'$", text, re.MULTILINE)
    where = str(path.relative_to(ROOT))
    return [Question(where, line) for line in lines if line and not line.startswith("#")]


def _below(node: object) -> Iterator[object]:
    yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        inner = getattr(node, name, None)
        if inner is not None:
            yield from _below(inner)
    for argument in getattr(node, "args", ()):
        yield from _below(argument)


def _selector(node: object) -> str:
    matchers = ",".join(
        f"{m.name}{_OPERATORS[str(m.op)]}{_quoted(m.value)}" for m in _matchers(node)
    )
    return f"{node.name}{{{matchers}}}"


def _matchers(node: object) -> list[object]:
    return list(node.matchers.matchers)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is(node: object, kind: str) -> bool:
    return type(node).__name__ == kind


_OPERATORS = {
    "MatchOp.Equal": "=",
    "MatchOp.NotEqual": "!=",
    "MatchOp.Re": "=~",
    "MatchOp.NotRe": "!~",
}
