"""The row groups of a Parquet file as a second library reads them, and pieces that keep to them."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartdx.parquet_footer import LARGEST_FOOTER, pieces, row_groups

TABLE = pl.DataFrame(
    {
        "age": [float(n) for n in range(100)],
        "sex": [n % 2 == 0 for n in range(100)],
        "ward": [None if n % 3 else f"ward {n}" for n in range(100)],
        "beds": [[n, n + 1] for n in range(100)],
        "seen": [{"day": n, "late": n > 50} for n in range(100)],
    }
)


def as_pyarrow_says(path) -> tuple[int, ...]:
    metadata = pq.ParquetFile(path).metadata
    return tuple(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))


@pytest.mark.parametrize("rows", [1, 7, 33, 100, 1_000])
def test_the_groups_that_polars_writes_are_found(rows, tmp_path):
    path = tmp_path / "table.parquet"
    TABLE.write_parquet(path, row_group_size=rows)

    assert row_groups(path) == as_pyarrow_says(path)
    assert sum(row_groups(path)) == 100


@pytest.mark.parametrize("version", ["1.0", "2.4", "2.6"])
def test_the_groups_that_pyarrow_writes_are_found_whatever_its_metadata(version, tmp_path):
    path = tmp_path / "table.parquet"
    table = TABLE.to_arrow().replace_schema_metadata({"note": "x" * 300})
    options = {"write_page_index": True, "store_decimal_as_integer": False}
    pq.write_table(table, path, row_group_size=16, version=version, **options)

    assert row_groups(path) == (16, 16, 16, 16, 16, 16, 4) == as_pyarrow_says(path)


def test_a_table_without_rows_has_no_row_in_any_group(tmp_path):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"age": pa.array([], pa.float64())}), path)

    assert sum(row_groups(path)) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1",
        b"age,sex,cp\n63,1,4\n",
        b"\x00" * 40 + (20).to_bytes(4, "little") + b"PAR1",
        b"\xff" * 40 + (40).to_bytes(4, "little") + b"PAR1",
        b"\x1c" * 40_000 + (40_000).to_bytes(4, "little") + b"PAR1",
        b"\x19\xf7" + b"\xff" * 8 + b"\x01" + b"\x00" * 9 + (20).to_bytes(4, "little") + b"PAR1",
        b"\x16" + b"\xff" * 40 + (41).to_bytes(4, "little") + b"PAR1",
        b"PAR1" + (LARGEST_FOOTER + 1).to_bytes(4, "little") + b"PAR1",
        b"PAR1" + (0).to_bytes(4, "little") + b"PAR1",
    ],
    ids=[
        "empty",
        "begun",
        "csv",
        "no fields",
        "no type",
        "deep",
        "endless",
        "huge",
        "long",
        "short",
    ],
)
def test_what_is_no_footer_says_nothing(content, tmp_path):
    path = tmp_path / "table.parquet"
    path.write_bytes(content)

    assert row_groups(path) == ()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("footer") / "whole.parquet"
    TABLE.write_parquet(path, row_group_size=20)
    return path.read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_footer_leaves_every_row_in_one_piece(whole, data, tmp_path_factory):
    length = int.from_bytes(whole[-8:-4], "little")
    place = data.draw(st.integers(len(whole) - 8 - length, len(whole) - 1))
    content = bytearray(whole)
    content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    path.write_bytes(content)

    found = pieces(row_groups(path), 100, most=30)

    assert [row for first, count in found for row in range(first, first + count)] == [*range(100)]


@given(groups=st.lists(st.integers(0, 50), max_size=20), most=st.integers(1, 40))
def test_pieces_are_the_table_from_its_first_row_to_its_last(groups, most):
    found = list(pieces(groups, sum(groups), most=most))

    rows = [row for first, count in found for row in range(first, first + count)]
    assert rows == list(range(sum(groups)))
    assert all(0 < count <= most for _, count in found)


@given(groups=st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_no_group_that_fits_is_parted(groups):
    ends = {first + count for first, count in pieces(groups, sum(groups), most=30)}

    bounds = {sum(groups[: n + 1]) for n in range(len(groups))}
    assert ends <= bounds


@pytest.mark.parametrize("groups", [(), (40,), (60, 60), (-5, 105)])
def test_groups_that_are_not_the_tables_are_not_believed(groups):
    assert list(pieces(groups, 100, most=60)) == [(0, 50), (50, 50)]
