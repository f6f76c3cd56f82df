"""A small made-up run: the evaluation document of the schema and the manifest of its bundle."""

from __future__ import annotations

import copy
import re
from typing import Any

from evaluation_document import document

from heartdx.documents import Facts

SHIPPED = (
    "920 of 920 rows are patients of UCI's four files (cleveland 303, hungary 294, switzerland "
    "123, va 200); they are no new evidence for a model trained on those"
)


def evaluation(kind: str = "full") -> dict[str, Any]:
    """The document, of UCI's patients, with a panel whose transfer is not estimable."""
    made = document(kind)
    made["data"]["findings"].append(SHIPPED)
    made["panels"]["imaging"] = copy.deepcopy(made["panels"]["exercise"])
    made["panels"]["imaging"] |= {"pooled": None, "patients": 299, "events": 139}
    made["policy"] |= {"patients": 920, "events": 509}
    made["overlap"] = None
    made["lottery"]["aucs"] = []
    for panel in made["panels"].values():
        panel["candidates"] = {name: panel["candidates"][name] for name in ("logreg", "forest")}
        panel["stability"] = None
    for drawn in (*made["panels"].values(), made["policy"]):
        del drawn["curves"]  # no document draws them
    return made


def manifest() -> dict[str, Any]:
    """Of the model that the document judges."""
    return {
        "schema_version": 1,
        "name": "heartdx",
        "version": "0123abcd",
        "digest": document()["model"]["digest"],
        "contract": {"version": "1.0", "fingerprint": "cd" * 32},
        "threshold": 0.2,
        "harm_ratio": 4.0,
        "panels": {},
        "heartdx_version": "9.8.7",
        "created": "2026-01-02T03:04:05+00:00",
        "code_version": "9.8.7+0123456789ab",
        "python": "3.13.0",
        "libraries": {"numpy": "2.5.5", "scikit-learn": "1.9.1"},
        "data": {
            "sha256": document()["data"]["sha256"],
            "coding": "uci",
            "patients": 920,
            "sites": {"cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200},
            "findings": [SHIPPED],
        },
        "skipped_panels": {},
        "evaluation": {"splits": 5, "repeats": 10, "seed": 42},
        "files": {},
    }


def facts(**changes: Any) -> Facts:
    """The run, with top-level keys of the evaluation changed."""
    return Facts({**evaluation(), **changes}, manifest())


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The document with the value at a dotted path replaced."""
    made = copy.deepcopy(document)
    *way, last = path.split(".")
    place = made
    for key in way:
        place = place[key]
    place[last] = value
    return made


def without(document: dict[str, Any], path: str) -> dict[str, Any]:
    """A copy that lacks a dotted path."""
    made = copy.deepcopy(document)
    *way, last = path.split(".")
    place = made
    for key in way:
        place = place[key]
    del place[last]
    return made


def paths(document: Any, way: str = "", depth: int = 3) -> list[str]:
    """Every dotted path of a document down to a depth."""
    if not isinstance(document, dict) or not depth:
        return []
    found = []
    for key, value in document.items():
        if "." not in key:
            found += [way + key, *paths(value, f"{way}{key}.", depth - 1)]
    return found


def rows(text: str) -> list[list[list[str]]]:
    """Every Markdown table as rows of cells."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|"):
            if not inside:
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        inside = line.startswith("|")
    return found


def sentences(text: str) -> list[str]:
    """Sentences outside tables and sources."""
    told = text.partition("\n## Sources")[0]
    lines = [line.lstrip("-# ") for line in told.splitlines() if not line.startswith("|")]
    return [s for line in lines for s in re.split(r"(?<=[.:;])\s", line) if s]
