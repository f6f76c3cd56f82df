"""What a run knows, and how it is said: a figure, a count or *not stated*.

A document asks by path and gets text. A path that leads nowhere becomes ``NOT_STATED``, a figure
that the data could not give becomes ``NOT_ESTIMABLE``; nothing is filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heartdx.errors import UsageError

SCHEMA = 1
NOT_STATED = "*not stated*"
NOT_ESTIMABLE = "not estimable"
_SHIPPED = re.compile(r"^(\d+) of (\d+) rows are patients of UCI's four files")


@dataclass(frozen=True)
class Facts:
    """Everything a document may say.

    Parameters
    ----------
    evaluation : a parsed evaluation.json.
    manifest : the parsed manifest.json of the model's bundle; None when there is none.

    Raises
    ------
    UsageError
        The evaluation has another schema, or speaks of another model than the manifest.
    """

    evaluation: Mapping[str, Any]
    manifest: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        schema = self.evaluation.get("schema")
        if schema not in (None, SCHEMA):
            raise UsageError(
                f"evaluation document: schema {schema}, expected {SCHEMA}; write it again with "
                "this heartdx, or use the heartdx that wrote it"
            )
        judged, made = at(self.evaluation, "model", "digest"), at(self.manifest, "digest")
        if judged and made and judged != made:
            raise UsageError(
                f"the evaluation judges model {judged[:12]}, the manifest is of {made[:12]}; "
                "give the two of one model"
            )

    @property
    def is_local(self) -> bool:
        """Whether a hospital's own file was judged, which trained nothing."""
        return self.evaluation.get("kind") == "file"

    @property
    def panels(self) -> Mapping[str, Mapping[str, Any]]:
        """Panel name to what was found, in the order of care."""
        return mappings(self.evaluation.get("panels"))

    @property
    def trained_on(self) -> Mapping[str, Any]:
        """The data of the development: the manifest's, else the evaluation's own."""
        made = at(self.manifest, "data")
        if not isinstance(made, Mapping):
            return {} if self.is_local else self.judged_on
        return {**made, **self.judged_on} if self.is_same_file else made

    @property
    def is_same_file(self) -> bool:
        """Whether the file that was judged is the one that trained."""
        made = at(self.manifest, "data", "sha256")
        if self.manifest is None:
            return not self.is_local
        return made is not None and made == self.judged_on.get("sha256")

    @property
    def judged_on(self) -> Mapping[str, Any]:
        """The data of the evaluation."""
        found = self.evaluation.get("data")
        return found if isinstance(found, Mapping) else {}

    @property
    def threshold(self) -> object:
        """Probability from which the answer is *disease*; the model's own, if there is one."""
        declared = at(self.manifest, "threshold")
        return at(self.evaluation, "plan", "threshold") if declared is None else declared

    @property
    def harm_ratio(self) -> object:
        """Harm of a missed patient over harm of a false alarm; None when not stated."""
        declared = at(self.manifest, "harm_ratio")
        return at(self.evaluation, "plan", "harm_ratio") if declared is None else declared


def at(document: object, *path: str) -> Any:
    """What stands at a path, None where nothing does.

    Examples
    --------
    >>> at({"plan": {"splits": 5}}, "plan", "splits"), at({"plan": None}, "plan", "splits")
    (5, None)
    """
    for key in path:
        if not isinstance(document, Mapping):
            return None
        document = document.get(key)
    return document


def mappings(document: object) -> dict[str, Mapping[str, Any]]:
    """The members that are mappings themselves; empty where there are none."""
    if not isinstance(document, Mapping):
        return {}
    return {str(key): value for key, value in document.items() if isinstance(value, Mapping)}


def entries(document: object) -> list[Mapping[str, Any]]:
    """The mappings of a list; empty where there are none."""
    if not isinstance(document, Sequence) or isinstance(document, str):
        return []
    return [entry for entry in document if isinstance(entry, Mapping)]


def headline(panel: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was found of the chosen candidate of a panel."""
    found = at(panel, "candidates", str(panel.get("chosen")))
    return found if isinstance(found, Mapping) else {}


def is_shipped(data: Mapping[str, Any]) -> bool:
    """Whether a finding says that every row is one of UCI's.

    Examples
    --------
    >>> is_shipped({"findings": ["3 of 3 rows are patients of UCI's four files (va 3)"]})
    True
    >>> is_shipped({"findings": ["2 of 3 rows are patients of UCI's four files (va 2)"]})
    False
    """
    findings = data.get("findings")
    found = [_SHIPPED.match(str(f)) for f in findings] if isinstance(findings, list) else []
    return any(match is not None and match[1] == match[2] for match in found)


# -- how it is said ----------------------------------------------------------------------------


def figure(found: object) -> str:
    """An estimate with its 95 % interval, the one way it is written.

    Examples
    --------
    >>> figure({"value": 0.8762, "low": 0.8531, "high": 0.8984})
    '0.876 (0.853 to 0.898)'
    >>> figure({"value": None, "low": None, "high": None}), figure(None)
    ('not estimable', '*not stated*')
    """
    if not isinstance(found, Mapping) or "value" not in found:
        return NOT_STATED
    value, low, high = (found.get(key) for key in ("value", "low", "high"))
    if not isinstance(value, int | float):
        return NOT_ESTIMABLE
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f"{value:.3f} ({low:.3f} to {high:.3f})"
    return f"{value:.3f} (interval {NOT_ESTIMABLE})"


def span(found: object) -> str:
    """A low and a high, as of a prediction interval.

    Examples
    --------
    >>> span({"low": 0.5712, "high": 0.9102}), span({"low": 0.5712}), span(None)
    ('0.571 to 0.910', 'not estimable', '*not stated*')
    """
    if not isinstance(found, Mapping):
        return NOT_STATED
    low, high = found.get("low"), found.get("high")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f"{low:.3f} to {high:.3f}"
    return NOT_ESTIMABLE


def number(value: object) -> str:
    """A whole number or a declared one as it is, another with three decimals.

    Examples
    --------
    >>> number(920), number(0.2), number(0.123456), number(None)
    ('920', '0.2', '0.123', '*not stated*')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NOT_STATED
    short = f"{value:g}"
    return short if len(short) <= len(f"{value:.3f}") else f"{value:.3f}"


def share(part: object, whole: object) -> str:
    """A part of a whole, with the whole beside it.

    Examples
    --------
    >>> share(30, 120), share(30, None)
    ('30 of 120 (25 %)', '*not stated*')
    """
    if not isinstance(part, int) or not isinstance(whole, int) or whole <= 0:
        return NOT_STATED
    return f"{part} of {whole} ({100 * part / whole:.0f} %)"


def words(value: object) -> str:
    """Text for one cell or sentence; a list is joined.

    Examples
    --------
    >>> words(["one", "two"]), words(""), words([])
    ('one; two', '*not stated*', '*not stated*')
    """
    if isinstance(value, list | tuple):
        value = "; ".join(str(part).rstrip(".") for part in value)
    if value is None or value == "":
        return NOT_STATED
    return " ".join(str(value).split()).replace("|", "/")


def code(value: object) -> str:
    """An identifier, version or time, which is no result.

    Examples
    --------
    >>> code("1.2.0"), code(None)
    ('`1.2.0`', '*not stated*')
    """
    return NOT_STATED if value is None or value == "" else f"`{words(value).replace('`', '')}`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table as lines; without rows the one marker.

    Examples
    --------
    >>> table(["site", "AUC"], [["va", "0.728"]])
    ['| site | AUC |', '|---|---|', '| va | 0.728 |']
    >>> table(["site", "AUC"], [])
    ['*not stated*']
    """
    cells = [_row(row) for row in rows]
    return [_row(header), "|" + "---|" * len(header), *cells] if cells else [NOT_STATED]


def unmarked(text: str) -> bool:
    """Whether a text says something at all.

    Examples
    --------
    >>> unmarked("920 patients"), unmarked(NOT_STATED)
    (True, False)
    """
    return NOT_STATED not in text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
