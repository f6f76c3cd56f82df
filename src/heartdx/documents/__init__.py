"""Documents for readers and reviewers, each rendered from the facts of a run alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from heartdx.documents.card import card
from heartdx.documents.evidence import numbers_without_evidence, tables
from heartdx.documents.facts import NOT_STATED, Facts
from heartdx.documents.probast import probast
from heartdx.documents.tripod import tripod
from heartdx.errors import UsageError

__all__ = ["DOCUMENTS", "NOT_STATED", "Facts", "numbers_without_evidence", "render", "tables"]

DOCUMENTS: Mapping[str, Callable[[Facts], str]] = {
    "card": card,
    "tripod": tripod,
    "probast": probast,
}


def render(name: str, facts: Facts) -> str:
    """A document as Markdown, ending in a newline.

    Raises
    ------
    UsageError
        There is no document of that name.

    Examples
    --------
    >>> render("card", Facts({})).splitlines()[0]
    '# Model card'
    """
    if name not in DOCUMENTS:
        raise UsageError(f"no document {name!r}; choose one of {', '.join(DOCUMENTS)}")
    return DOCUMENTS[name](facts).rstrip("\n") + "\n"
