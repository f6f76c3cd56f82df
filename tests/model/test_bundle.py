"""A bundle is served only when every byte and every golden answer is what training wrote."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from heartdx import bundle, export
from heartdx.contract import ATTRIBUTES, NAMES, PANELS
from heartdx.errors import BundleError, NoModelError, UsageError


@pytest.fixture
def copy(logreg, tmp_path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(logreg.bundle.folder, tmp_path / logreg.bundle.digest))


def changed_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    manifest.update(changes)
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))


def test_an_untouched_bundle_loads(copy, logreg) -> None:
    assert bundle.load(copy).digest == logreg.bundle.digest


@pytest.mark.parametrize(
    "name", ["bedside/score.json", "imaging/model.onnx", "exercise/pipeline.joblib"]
)
def test_a_changed_file_is_refused_and_named(copy, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(bytes(content))

    with pytest.raises(BundleError, match=name.split("/")[-1]):
        bundle.load(copy)


@pytest.mark.parametrize("name", ["bedside/score.json", "imaging/model.onnx"])
def test_a_missing_file_is_refused_and_named(copy, name: str) -> None:
    (copy / name).unlink()

    with pytest.raises(BundleError, match="missing from the bundle"):
        bundle.load(copy)


def test_an_image_may_leave_the_pickles_out(copy) -> None:
    for path in copy.rglob("*.joblib"):
        path.unlink()

    assert bundle.load(copy).scorers.keys() == {panel.name for panel in PANELS}


def test_a_changed_model_with_a_mended_checksum_is_refused_by_its_digest(copy) -> None:
    path = copy / "bedside" / bundle.EQUATION
    document = json.loads(path.read_text())
    document["intercept"] += 0.5
    path.write_text(json.dumps(document))
    manifest = json.loads((copy / bundle.MANIFEST).read_text())
    manifest["files"]["bedside/score.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy / bundle.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match="another digest"):
        bundle.load(copy)


def test_another_threshold_is_another_model(copy) -> None:
    changed_manifest(copy, threshold=0.1)

    with pytest.raises(BundleError, match="another digest"):
        bundle.load(copy)


def test_another_contract_is_refused(copy) -> None:
    changed_manifest(copy, contract={"version": "1.0", "fingerprint": "0" * 64})

    with pytest.raises(BundleError, match="another contract"):
        bundle.load(copy)


def test_another_rule_for_a_panel_is_refused(copy) -> None:
    """Which attributes decide a panel is not in the fingerprint, so it is compared itself."""
    panels = json.loads((copy / bundle.MANIFEST).read_text())["panels"]
    panels["exercise"]["required"] = [*panels["exercise"]["required"], "chol"]
    changed_manifest(copy, panels=panels)

    with pytest.raises(BundleError, match="'exercise' does not fit the contract"):
        bundle.load(copy)


def test_an_unknown_bundle_schema_is_refused(copy) -> None:
    changed_manifest(copy, schema_version=99)

    with pytest.raises(BundleError, match="bundle schema 99"):
        bundle.load(copy)


def test_golden_records_that_score_differently_are_refused(copy) -> None:
    golden = json.loads((copy / bundle.MANIFEST).read_text())["golden"]
    golden["probabilities"][3] += 2e-6
    changed_manifest(copy, golden=golden)

    with pytest.raises(BundleError, match="golden records differ"):
        bundle.load(copy)


def test_a_bundle_without_golden_records_is_refused(copy) -> None:
    changed_manifest(copy, golden={"records": [], "probabilities": []})

    with pytest.raises(BundleError, match="golden records differ"):
        bundle.load(copy)


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}"])
def test_a_broken_manifest_is_refused(copy, text: str) -> None:
    (copy / bundle.MANIFEST).write_text(text)

    with pytest.raises(BundleError):
        bundle.load(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"panels": [1, 2]},
        {"panels": {"bedside": 1}},
        {"golden": "none"},
        {"golden": {"records": [[1.0]], "probabilities": [0.5]}},
        {"golden": {"records": [["a"] * 13], "probabilities": [0.5]}},
        {"files": []},
        {"contract": 1},
        {"threshold": "high"},
        {"digest": None},
    ],
)
def test_a_senseless_manifest_is_refused_as_a_bundle_error(copy, changes: dict) -> None:
    changed_manifest(copy, **changes)

    with pytest.raises(BundleError):
        bundle.load(copy)


def test_an_onnx_file_that_the_runtime_cannot_read_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="cannot load it"):
        bundle.OnnxModel(b"no model", PANELS[0].inputs)


def test_a_manifest_cannot_name_files_outside_the_bundle(copy, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    manifest = json.loads((copy / bundle.MANIFEST).read_text())
    manifest["files"]["../secret"] = hashlib.sha256(b"x").hexdigest()
    (copy / bundle.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match="outside the bundle"):
        bundle.load(copy)


def test_golden_records_are_synthetic_reach_every_panel_and_no_patient(logreg) -> None:
    golden = logreg.bundle.manifest["golden"]
    rows = np.array(golden["records"], dtype=float)

    assert len(rows) == 20
    assert set(golden["panels"]) == {panel.name for panel in PANELS}
    patients = {tuple(row) for row in np.nan_to_num(logreg.X, nan=-1).tolist()}
    assert not patients & {tuple(row) for row in np.nan_to_num(rows, nan=-1).tolist()}
    for place, attribute in enumerate(ATTRIBUTES):
        known = rows[~np.isnan(rows[:, place]), place]
        low, high = attribute.plausible or (
            min(attribute.code_values),
            max(attribute.code_values),
        )
        assert ((known >= low) & (known <= high)).all()


def numbers_in(document: object) -> list[list[float]]:
    """Every list of 13 numbers or nulls in a JSON document."""
    if isinstance(document, dict):
        return [found for value in document.values() for found in numbers_in(value)]
    if not isinstance(document, list):
        return []
    cells = [-1.0 if cell is None else cell for cell in document]
    if len(cells) == len(NAMES) and all(isinstance(cell, int | float) for cell in cells):
        return [[float(cell) for cell in cells]]
    return [found for value in document for found in numbers_in(value)]


def test_no_row_of_a_patient_is_in_any_file_of_the_bundle(logreg) -> None:
    patients = {tuple(row) for row in np.nan_to_num(logreg.X, nan=-1.0).tolist()}
    rows = []
    for path in logreg.bundle.folder.rglob("*.json"):
        rows += numbers_in(json.loads(path.read_text()))

    assert len(rows) == 20  # the golden records are seen, so a patient would be
    assert not patients & {tuple(row) for row in rows}


def test_a_bundle_under_another_bundles_name_is_refused(copy, tmp_path) -> None:
    renamed = copy.rename(tmp_path / ("f" * 64))

    with pytest.raises(BundleError, match="not the one it is named for"):
        bundle.load(renamed)


def test_the_same_model_of_another_run_says_what_that_run_found(logreg, tmp_path) -> None:
    settings = {
        "models_dir": tmp_path,
        "threshold": 0.5,
        "harm_ratio": 1.0,
        "check_rows": logreg.X,
        "seed": 7,
    }
    models = list(logreg.models.values())
    export.write_bundle(models, facts={"evaluation": "first"}, card="first", **settings)

    second = export.write_bundle(models, facts={"evaluation": "second"}, card="2nd", **settings)

    assert second.manifest["evaluation"] == "second"
    assert (second.folder / export.CARD).read_text() == "2nd"
    assert len(list((tmp_path / "bundles").iterdir())) == 1


def test_the_digest_does_not_depend_on_time_or_place(logreg, loaded, tmp_path) -> None:
    again = export.write_bundle(
        list(logreg.models.values()),
        models_dir=tmp_path,
        threshold=0.5,
        harm_ratio=1.0,
        facts={"created": "another day"},
        card="another card",
        check_rows=logreg.X,
        seed=7,
    )

    assert again.digest == logreg.bundle.digest


def test_a_damaged_bundle_is_set_aside_when_the_same_model_is_written_again(
    logreg, tmp_path
) -> None:
    settings = {
        "models_dir": tmp_path,
        "threshold": 0.5,
        "harm_ratio": 1.0,
        "facts": {},
        "card": "",
        "check_rows": logreg.X,
        "seed": 7,
    }
    models = list(logreg.models.values())
    first = export.write_bundle(models, **settings)
    (first.folder / "bedside" / bundle.EQUATION).write_text("{}")

    second = export.write_bundle(models, **settings)

    assert second.digest == first.digest
    assert [p.name[:9] for p in (tmp_path / "bundles").glob(".damaged-*")] == [".damaged-"]


def test_a_model_file_instead_of_a_bundle_is_refused_and_says_what_to_pass(logreg) -> None:
    pipeline = logreg.bundle.folder / "bedside" / "pipeline.joblib"

    with pytest.raises(UsageError, match="expected a bundle folder"):
        bundle.locate(models_dir=logreg.models_dir, model_path=pipeline)


def test_no_model_yet_names_the_command_that_makes_one(tmp_path) -> None:
    with pytest.raises(NoModelError, match=r"python -m src\.model_train"):
        bundle.locate(models_dir=tmp_path)


def test_a_pointer_that_holds_no_digest_is_refused(tmp_path) -> None:
    (tmp_path / "current").write_text("../../etc\n")

    with pytest.raises(BundleError, match="64 hexadecimal digits"):
        bundle.current_folder(tmp_path)


def test_promoting_a_damaged_bundle_leaves_the_current_one(logreg, tmp_path) -> None:
    models = tmp_path / "models"
    shutil.copytree(logreg.models_dir, models)
    shutil.copytree(logreg.bundle.folder, models / "bundles" / ("f" * 64))

    with pytest.raises(BundleError):
        export.promote(models, "f" * 64)
    assert (models / "current").read_text().strip() == logreg.bundle.digest


def test_each_patient_is_answered_by_the_richest_panel_that_fits() -> None:
    full = dict.fromkeys(NAMES, 1.0)
    cases = {
        "imaging": {},
        "exercise": {"ca": np.nan},
        "bedside": {"thalach": np.nan},
    }

    for expected, gaps in cases.items():
        row = np.array([[{**full, **gaps}[name] for name in NAMES]])
        assert PANELS[bundle.richest_panel(row)[0]].name == expected


def test_imputed_attributes_never_decide_the_panel() -> None:
    row = np.array([[np.nan if a.imputed else 1.0 for a in ATTRIBUTES]])

    assert PANELS[bundle.richest_panel(row)[0]].name == "imaging"


def test_supplied_inputs_that_the_sub_model_does_not_look_at_are_named(logreg) -> None:
    """Inputs of another panel, and those of this panel that tuning left out."""
    row = np.array([np.nan if name in ("thalach", "ca") else 1.0 for name in NAMES])
    terms = json.loads((logreg.bundle.folder / "bedside" / bundle.EQUATION).read_text())["terms"]
    looked_at = {term["attribute"] for term in terms}

    unused = logreg.bundle.unused_inputs(row, "bedside")

    assert {"exang", "oldpeak", "slope", "thal"} <= set(unused)
    assert set(unused) == set(NAMES) - looked_at - {"thalach", "ca"}


def test_a_manifest_that_misnames_the_used_inputs_is_refused_by_the_digest(
    logreg, tmp_path
) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(logreg.bundle.folder, folder)
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    manifest["panels"]["bedside"]["used"] = list(manifest["panels"]["bedside"]["inputs"])[::-1]
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match="another digest"):
        bundle.load(folder)


def test_a_patient_who_meets_no_panel_is_an_error_not_a_number(logreg) -> None:
    row = np.full((1, 13), np.nan)

    with pytest.raises(BundleError, match="lack an attribute"):
        logreg.bundle.score(row)
