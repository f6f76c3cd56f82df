"""Training the model again that is already there and signed leaves what was signed."""

from __future__ import annotations

import shutil

import numpy as np

from heartdx import bundle, export, signing, store


def trained_again(logreg, models) -> bundle.Bundle:
    return export.write_bundle(
        list(logreg.models.values()),
        models_dir=models,
        threshold=0.5,
        harm_ratio=1.0,
        facts={"created": "later"},
        card="# another card",
        check_rows=np.full((1, 13), np.nan),
        seed=7,
    )


def test_the_same_model_trained_again_keeps_its_signature(logreg, tmp_path):
    models, keys = tmp_path / "models", signing.new_key(tmp_path / "keys")
    shutil.copytree(logreg.models_dir, models)
    folder = models / "bundles" / logreg.bundle.digest
    signing.sign(folder, keys.private)

    made = trained_again(logreg, models)

    assert made.folder == folder
    assert signing.verify(folder, keys.public).manifest == logreg.bundle.manifest


def test_a_signed_model_that_was_damaged_is_made_anew_and_unsigned(logreg, tmp_path):
    models, keys = tmp_path / "models", signing.new_key(tmp_path / "keys")
    shutil.copytree(logreg.models_dir, models)
    folder = models / "bundles" / logreg.bundle.digest
    signing.sign(folder, keys.private)
    (folder / "bedside" / "score.json").unlink()

    made = trained_again(logreg, models)

    assert made.manifest["created"] == "later"
    assert not (folder / store.SIGNATURE).exists()
