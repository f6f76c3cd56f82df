"""Hold a Prometheus operator's documents against its schemas: `operator_kinds.py FILE...`.

Runs with the Python of .tools/scanners, which has the types generated from the operator's own
definitions (release 0.80). Those let unknown fields pass, so what they read is written out again
and must be the document: a misspelt field is lost on the way and named.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

API = "monitoring.coreos.com/v1"


def main() -> int:
    """Print what breaks the schemas; exit 1 when something does, or when there is nothing."""
    told = [(path, d) for path in sys.argv[1:] for d in yaml.safe_load_all(Path(path).read_text())]
    judged = [(path, document) for path, document in told if document["apiVersion"] == API]
    wrong = [f"{path}: {fault}" for path, document in judged for fault in faults(document)]
    print(*wrong, sep="\n", file=sys.stderr, end="\n" if wrong else "")
    print(f"operator kinds: {len(judged)} documents, {len(wrong)} to mend")
    return 1 if wrong or not judged else 0


def faults(document: Any) -> Iterator[str]:
    """What a document lacks, has of another type or has too much."""
    from cloudcoil.models.prometheus_operator import v1
    from pydantic import ValidationError

    kind = document["kind"]
    try:
        read = getattr(v1, kind).model_validate(document)
    except ValidationError as refusal:
        for error in refusal.errors():
            yield f"{kind}: {'/'.join(map(str, error['loc']))}: {error['msg']}"
        return
    written = read.model_dump(by_alias=True, exclude_unset=True, mode="json")
    yield from (f"{kind}: {path}: unknown" for path in _lost(document, written))


def _lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Places of the document that the schema does not know."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name not in kept:
                yield f"{path}/{name}"
            else:
                yield from _lost(value, kept[name], f"{path}/{name}")
    elif isinstance(given, list) and isinstance(kept, list):
        for place, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{path}/{place}")


if __name__ == "__main__":
    sys.exit(main())
