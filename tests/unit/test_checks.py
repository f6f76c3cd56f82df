"""A file becomes a checked table, and everything found in it is told."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from heartdx import checks
from heartdx.contract import ATTRIBUTES, HEADER, NAMES
from heartdx.errors import CodingError, ContractError, UnavailableError, UsageError

ROWS = [
    "51,1,4,131,241,0,1,141,1,1.7,2,1,7,2,bern",
    "52,0,2,,0,0,0,161,0,0,1,,3,0,bern",
    "53,1,3,141,231,1,2,151,0,0.5,1,,,0,va",
]


@pytest.fixture
def heart(tmp_path: Path) -> Path:
    path = tmp_path / "heart.csv"
    path.write_text("\n".join([",".join(HEADER), *ROWS]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("heartdx"), "propagate", True)
    caplog.set_level("DEBUG", logger="heartdx")
    return caplog


def replaced(path: Path, old: str, new: str) -> Path:
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return path


def test_the_frame_has_the_contracts_columns_in_order_and_in_float64(heart: Path) -> None:
    frame = checks.load(heart).frame

    assert tuple(frame.columns) == HEADER
    assert [str(frame[name].dtype) for name in (*NAMES, "num")] == ["float64"] * 14
    assert frame["site"].tolist() == ["bern", "bern", "va"]
    assert frame["chol"].isna().tolist() == [False, True, False]


def test_the_outcome_is_disease_of_any_grade() -> None:
    frame = pd.DataFrame({"num": [0.0, 1.0, 2.0, 3.0, 4.0]})

    assert checks.outcome(frame).tolist() == [0, 1, 1, 1, 1]


def test_an_outcome_that_is_missing_is_never_read_as_healthy() -> None:
    with pytest.raises(ContractError, match="1 of 2 rows have no outcome"):
        checks.outcome(pd.DataFrame({"num": [1.0, np.nan]}))


def test_some_hospitals_can_be_chosen_by_any_of_their_names(heart: Path) -> None:
    loaded = checks.load(heart, sites=["Long Beach VA"])

    assert loaded.frame["age"].tolist() == [53]
    assert loaded.frame.index.tolist() == [0]
    assert loaded.groups.tolist() == [0]


def test_a_hospital_that_the_file_lacks_is_refused_with_those_it_has(heart: Path) -> None:
    with pytest.raises(UsageError, match="no patient of site cleveland; the file has bern, va"):
        checks.load(heart, sites=["cleveland"])


def test_missing_cells_are_counted_at_each_hospital(heart: Path) -> None:
    missing = {f.column: f.message for f in checks.load(heart).findings if f.kind == "missing"}

    assert missing["ca"] == "ca: missing at bern 1 of 2, va 1 of 1"
    assert set(missing) == {"trestbps", "chol", "ca", "thal"}


def test_patients_with_the_same_thirteen_values_share_a_group_even_with_gaps() -> None:
    frame = pd.DataFrame({name: [1.0, np.nan, 1.0, np.nan, 2.0] for name in NAMES})

    assert checks.duplicate_groups(frame).tolist() == [0, 1, 0, 1, 2]


def test_a_file_without_an_outcome_is_refused_unless_it_is_not_needed(heart: Path) -> None:
    lines = heart.read_text(encoding="utf-8").replace(",num,", ",comment,")
    heart.write_text(lines.replace("2,1,7,", "3,1,7,"), encoding="utf-8")

    with pytest.raises(ContractError, match="no outcome column"):
        checks.load(heart)
    assert checks.load(heart, need_outcome=False).frame["num"].isna().all()


def test_a_blank_outcome_is_refused_with_its_line_unless_it_is_not_needed(heart: Path) -> None:
    replaced(heart, ",2,bern", ",,bern")

    with pytest.raises(ContractError, match="num is blank at line 2"):
        checks.load(heart)
    assert checks.load(heart, need_outcome=False).frame["num"].isna().tolist() == [
        True,
        False,
        False,
    ]


def test_strict_reading_refuses_what_would_be_mended(heart: Path) -> None:
    heart.write_text(heart.read_text(encoding="utf-8") + ROWS[0] + "\n", encoding="utf-8")

    assert len(checks.load(heart).frame) == 3
    with pytest.raises(CodingError, match="1 exact duplicate dropped"):
        checks.load(heart, strict=True)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be read"):
        checks.load(tmp_path / "none.csv")


def test_what_was_found_is_logged_in_counts_and_never_in_values(
    heart: Path, told: pytest.LogCaptureFixture
) -> None:
    replaced(heart, "141,231,1,2,151", "141,239,1,2,157")

    checks.load(heart)

    facts = [record.__dict__["facts"] for record in told.records]
    assert facts[0]["rows"] == 3
    assert facts[0]["sites"] == "bern:2,va:1"
    assert "chol: 1 cell of 0 read as missing" in str(facts)
    assert "239" not in str([{**f, "sha256": ""} for f in facts])
    assert "157" not in str([{**f, "sha256": ""} for f in facts])


def test_a_deception_is_logged_as_a_warning(heart: Path, told: pytest.LogCaptureFixture) -> None:
    heart.write_text(heart.read_text(encoding="utf-8") + ROWS[0] + "\n", encoding="utf-8")

    checks.load(heart)

    warned = [r.__dict__["facts"]["kind"] for r in told.records if r.levelname == "WARNING"]
    assert warned == ["duplicates"]


# -- the schema, derived from the contract ----------------------------------------------------


def right() -> pd.DataFrame:
    cells = {
        a.name: [float(a.code_values[0]) if a.codes else a.plausible[0], np.nan]  # type: ignore[index]
        for a in ATTRIBUTES
    }
    return pd.DataFrame({**cells, "num": [0.0, 4.0], "site": ["va", "bern"]}).astype(
        dict.fromkeys((*NAMES, "num"), "float64")
    )


def test_every_lowest_value_code_and_gap_of_the_contract_is_right() -> None:
    frame = right()

    pd.testing.assert_frame_equal(checks.validated(frame, name="x"), frame)


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda a: a.name)
def test_a_value_outside_the_contract_is_refused_and_not_shown(attribute) -> None:  # type: ignore[no-untyped-def]
    frame = right()
    frame.loc[0, attribute.name] = 777.0

    with pytest.raises(ContractError, match=f"{attribute.name}: 1 cells") as refusal:
        checks.validated(frame, name="x")

    assert "777" not in str(refusal.value)
    assert refusal.value.__cause__ is None, "pandera's own text lists the values"
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame.drop(columns="thal"),
        lambda frame: frame.assign(extra=1.0),
        lambda frame: frame[frame.columns[::-1]],
        lambda frame: frame.assign(num=[0.0, 5.0]),
        lambda frame: frame.assign(site=["va", ""]),
        lambda frame: frame.astype({"age": "str"}),
    ],
    ids=["column lost", "column added", "order", "grade", "no site", "type"],
)
def test_a_frame_of_another_shape_is_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ContractError, match="breaks the contract"):
        checks.validated(spoil(right()), name="x")
