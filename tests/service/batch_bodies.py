"""Tables of patients, good and bad rows, as bodies of ``/v1/predict/batch``."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from heartdx.contract import ATTRIBUTES, NAMES, Attribute
from heartdx.records import ALWAYS_REQUIRED
from heartdx.serve.batch_answers import ARROW, CSV, NDJSON


def rows() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Rows of numbers, good and bad, known and missing."""
    row = st.fixed_dictionaries({a.name: _value(a) for a in ATTRIBUTES})
    return st.lists(row, min_size=1, max_size=8)


def _value(attribute: Attribute) -> st.SearchStrategy[float | None]:
    low, high = attribute.plausible or (min(attribute.code_values), max(attribute.code_values))
    good = st.sampled_from(attribute.code_values) if attribute.codes else st.integers(low, high)
    bad = st.sampled_from([int(high) + 1_000, 0.5 if attribute.codes else low - 1])
    missing = st.just(-9) if attribute.name in ALWAYS_REQUIRED else st.none()
    return st.one_of(good, good, good, good, good, missing, missing, bad)


def as_ndjson(table: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def as_csv(table: list[dict[str, Any]]) -> bytes:
    lines = [",".join("" if row[n] is None else str(row[n]) for n in NAMES) for row in table]
    return "\r\n".join([",".join(NAMES), *lines]).encode()


def as_arrow(table: list[dict[str, Any]]) -> bytes:
    schema = pa.schema([(name, pa.float64()) for name in NAMES])
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, schema) as stream:
        stream.write_table(pa.Table.from_pylist(table, schema=schema))
    return buffer.getvalue()


AS = {NDJSON: as_ndjson, CSV: as_csv, ARROW: as_arrow}
