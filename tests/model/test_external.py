"""A hospital's own file against a model that is there: what is judged, refused and said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from heartdx import bundle, checks, codings
from heartdx.codings import shipped
from heartdx.contract import NAMES, PANEL_BY_NAME
from heartdx.errors import ContractError
from heartdx.evaluation import external, ladder, page
from heartdx.evaluation.panels import Plan, Results
from heartdx.train import steps

CLEVELAND, HUNGARY, VA = slice(0, 303), slice(303, 597), slice(720, 920)
MEASURED = ("age", "trestbps", "chol", "thalach")


def of_uci(where: slice | np.ndarray) -> pd.DataFrame:
    known = shipped.patients()
    return pd.DataFrame(known.X[where], columns=list(NAMES)).assign(num=known.num[where])


def strangers(where: slice | np.ndarray = CLEVELAND) -> pd.DataFrame:
    """Patients of UCI's kind whom nobody has seen: every measurement is one higher."""
    frame = of_uci(where)
    return frame.assign(**{name: frame[name] + 1 for name in MEASURED})


def written(frame: pd.DataFrame, folder: Path, name: str = "ours.csv") -> checks.Loaded:
    frame.to_csv(folder / name, index=False)
    return checks.load(folder / name)


def trained_on(model: bundle.Bundle, data: checks.Loaded) -> bundle.Bundle:
    """The bundle with the provenance that training on these data writes into its manifest."""
    origin = steps.provenance(data, Plan(), Results({}, {}))
    return dataclasses.replace(model, manifest={**model.manifest, "data": origin["data"]})


@pytest.fixture(scope="module")
def model(logreg, loaded) -> bundle.Bundle:
    return trained_on(logreg.bundle, loaded)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> checks.Loaded:
    return written(strangers(), tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def document(ours, model) -> dict:
    return external.document(ours, model, seed=1)


# -- the document --------------------------------------------------------------------------------


def test_the_document_has_every_part_and_is_plain_json(document) -> None:
    assert set(document) == {
        "schema",
        "kind",
        "heartdx_version",
        "model",
        "summary",
        "not_estimable",
        "findings",
        "methods",
        "metrics",
        "data",
        "plan",
        "candidates",
        "panels",
        "policy",
        "ladder",
        "missing",
        "lottery",
        "overlap",
        "gates",
    }
    assert (document["schema"], document["kind"]) == (1, "file")
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_model_judged_is_named(document, model) -> None:
    assert document["model"] == {
        "name": "heartdx",
        "version": model.version,
        "digest": model.digest,
    }


def test_all_patients_are_judged_by_the_bundles_own_answers(document, ours, model) -> None:
    y = checks.outcome(ours.frame)
    y_prob = model.score(ours.frame[list(NAMES)].to_numpy()).probability

    metrics = document["policy"]["metrics"]

    assert document["policy"]["patients"] == 303
    assert metrics["auc"]["value"] == pytest.approx(roc_auc_score(y, y_prob), abs=1e-6)
    assert metrics["o_e"]["value"] == pytest.approx(y.sum() / y_prob.sum(), abs=1e-6)


def test_a_panel_is_judged_on_the_patients_it_answered(document, ours, model) -> None:
    frame = ours.frame
    imaged = frame[list(PANEL_BY_NAME["imaging"].required)].notna().all(axis=1).to_numpy()
    y = checks.outcome(frame)[imaged]
    y_prob = model.score(frame[list(NAMES)].to_numpy()).probability[imaged]
    (tn, fp), (fn, tp) = confusion_matrix(y, y_prob >= model.threshold)

    panel = document["panels"]["imaging"]

    assert (panel["patients"], panel["events"]) == (imaged.sum(), y.sum())
    assert panel["operating_point"]["counts"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    assert panel["calibration"]["auc_delong"]["value"] == pytest.approx(
        roc_auc_score(y, y_prob), abs=1e-6
    )
    assert panel["candidates"]["logreg"]["metrics"]["auc"]["value"] == pytest.approx(
        roc_auc_score(y, y_prob), abs=1e-6
    )


def test_a_panel_with_few_of_an_outcome_is_listed_without_a_figure(document) -> None:
    exercise = document["panels"]["exercise"]

    assert exercise["patients"] == 6
    assert exercise["reason"].startswith("Suppressed: ")
    assert exercise["candidates"]["logreg"]["metrics"] == {}
    assert set(exercise["operating_point"]["counts"].values()) == {None}
    assert exercise["calibration"]["slope"] == {"value": None, "low": None, "high": None}
    assert any("exercise panel" in sentence for sentence in document["not_estimable"])


def test_a_suppressed_panel_has_the_same_parts_as_one_with_figures(document) -> None:
    hidden, shown = document["panels"]["exercise"], document["panels"]["imaging"]

    assert hidden.keys() == shown.keys()
    for part in ("operating_point", "calibration", "curves"):
        assert hidden[part].keys() == shown[part].keys()
    for curve in ("calibration", "decision"):
        assert hidden["curves"][curve].keys() == shown["curves"][curve].keys()


def test_a_file_that_names_no_hospital_is_one_hospital(document) -> None:
    assert list(document["data"]["sites"]) == ["this file"]
    assert list(document["policy"]["held_out"]) == ["this file"]
    assert "site" not in {group["by"] for group in document["policy"]["groups"]}


def test_hospitals_of_the_file_are_judged_apart_and_small_ones_only_counted(
    tmp_path, model
) -> None:
    frame = strangers().assign(site=["north"] * 150 + ["south"] * 140 + ["tiny"] * 13)

    found = external.document(written(frame, tmp_path), model, seed=1)

    held_out = found["policy"]["held_out"]
    assert {site: part["patients"] for site, part in held_out.items()} == {
        "north": 150,
        "south": 140,
        "tiny": 13,
    }
    assert held_out["north"]["metrics"]["auc"]["value"] is not None
    assert held_out["tiny"]["metrics"] == {}
    assert set(found["policy"]["curves"]["held_out_calibration"]) == {"north", "south"}
    assert any(sentence.startswith("tiny on its own: ") for sentence in found["not_estimable"])


def test_the_same_patients_in_kaggles_coding_give_the_same_document(
    document, tmp_path, model
) -> None:
    frame = strangers()
    codes, target = codings.to_kaggle(frame[list(NAMES)].to_numpy(), frame["num"].to_numpy())
    theirs = written(
        pd.DataFrame(codes, columns=list(NAMES)).assign(target=target), tmp_path, "kaggle.csv"
    )

    found = external.document(theirs, model, seed=1)

    assert theirs.coding == "kaggle"
    of_the_file = {"name", "sha256", "coding", "findings"}
    assert {k: v for k, v in found.items() if k != "data"} == {
        k: v for k, v in document.items() if k != "data"
    }
    for fact in set(found["data"]) - of_the_file:
        assert found["data"][fact] == document["data"][fact]


def test_columns_that_a_hospital_does_not_have_are_missing_values(tmp_path, model) -> None:
    frame = strangers().drop(columns=["thalach", "thal"])

    found = external.document(written(frame, tmp_path), model, seed=1)

    assert found["policy"]["panels"] == {"bedside": 303}
    assert found["panels"]["bedside"]["patients"] == 303
    assert found["panels"]["imaging"]["patients"] == 0


def test_the_file_gets_its_own_recalibration_ladder(ours, document, model) -> None:
    used, _ = external.judged(ours, model)

    (site,) = document["ladder"]

    assert document["ladder"][site]["patients"] == len(used.y)
    assert document["ladder"][site] == ladder.section(used.y, used.y_prob, seed=1)
    assert "ladder" in document["methods"]


def test_the_page_can_be_made_of_it(document) -> None:
    assert "How the model answers the patients of ours.csv" in page.page(document)


# -- in words ------------------------------------------------------------------------------------


def test_the_summary_says_how_far_the_patients_are_told_apart(document) -> None:
    auc = document["policy"]["metrics"]["auc"]

    said = f"{auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f})"

    assert any(s.startswith(f"In this file the AUC is {said}") for s in document["summary"])


@pytest.mark.parametrize(
    ("thinned", "said"),
    [(0, "Probabilities are too low on average: "), (1, "Probabilities are too high on average: ")],
)
def test_the_summary_says_when_probabilities_are_too_low_or_too_high(
    thinned: int, said: str, tmp_path, model
) -> None:
    frame = strangers()
    of_outcome = np.flatnonzero((frame["num"] > 0) == thinned)
    rarer = frame.drop(index=of_outcome[: len(of_outcome) - 40])

    found = external.document(written(rarer, tmp_path), model, seed=1)

    used, _ = external.judged(written(rarer, tmp_path), model)
    counted = f"{used.y_prob.sum():.0f} with disease expected, {used.y.sum():.0f} observed"
    assert any(s.startswith(said + counted) for s in found["summary"])


# -- refusals ------------------------------------------------------------------------------------


def refusal(data: checks.Loaded, model: bundle.Bundle) -> str:
    with pytest.raises(ContractError) as refused:
        external.document(data, model, seed=1)
    assert refused.value.exit_code == 3
    return str(refused.value)


def test_patients_whom_no_panel_can_answer_are_refused_by_line(tmp_path, model) -> None:
    frame = strangers()
    frame.loc[[4, 9], "cp"] = np.nan
    data = written(frame, tmp_path)

    assert "2 of 303 patients lack age, sex, cp in part (lines 6 and 11)" in refusal(data, model)
    unnumbered = dataclasses.replace(data, lines=())
    assert "(rows 5 and 10)" in refusal(unnumbered, model)


def test_a_file_of_one_outcome_is_refused(tmp_path, model) -> None:
    frame = strangers()

    said = refusal(written(frame[frame["num"] > 0], tmp_path), model)

    assert "all 139 patients are with disease" in said
    assert "add patients of the other one" in said


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [(0, "139 patients with and 19 without"), (1, "19 patients with and 164 without")],
)
def test_a_file_with_fewer_than_20_of_an_outcome_is_refused(
    outcome: int, counts: str, tmp_path, model
) -> None:
    frame = strangers()
    of_outcome = np.flatnonzero((frame["num"] > 0) == outcome)

    said = refusal(written(frame.drop(index=of_outcome[19:]), tmp_path), model)

    assert counts in said
    assert "judging a model needs 20 of each" in said


def test_a_file_with_20_of_each_outcome_is_judged(tmp_path, model) -> None:
    frame = strangers()
    kept = [np.flatnonzero((frame["num"] > 0) == outcome)[:20] for outcome in (0, 1)]

    used, _ = external.judged(written(frame.loc[np.concatenate(kept)], tmp_path), model)

    assert (len(used.y), used.y.sum()) == (40, 20)


# -- patients who trained the model --------------------------------------------------------------


def test_a_file_of_training_patients_is_called_no_validation(tmp_path, model) -> None:
    found = external.document(written(of_uci(HUNGARY), tmp_path), model, seed=1)

    assert (found["overlap"]["rows"], found["overlap"]["of"]) == (294, 294)
    assert "patients of UCI's files, which trained this model" in found["overlap"]["message"]
    assert "apparent" in found["overlap"]["message"]
    assert found["summary"][0].startswith("This is no validation: every patient of this file")
    assert found["policy"]["patients"] == 294


def test_training_patients_are_left_out_where_enough_others_remain(tmp_path, model) -> None:
    others = strangers()
    mixed = pd.concat([of_uci(slice(0, 60)), others], ignore_index=True)

    found = external.document(written(mixed, tmp_path), model, seed=1)
    alone = external.document(written(others, tmp_path, "others.csv"), model, seed=1)

    assert (found["overlap"]["rows"], found["overlap"]["of"]) == (60, 363)
    assert "lines 2, 3, 4, 5, 6 and 55 more" in found["overlap"]["message"]
    assert "judged on the other 303 alone" in found["overlap"]["message"]
    assert found["summary"][0].startswith("60 patients of this file trained the model; ")
    assert found["policy"] == alone["policy"]
    assert found["panels"] == alone["panels"]


def test_training_patients_are_judged_with_the_others_where_too_few_would_remain(
    tmp_path, model
) -> None:
    mixed = pd.concat([of_uci(slice(0, 100)), strangers(slice(100, 130))], ignore_index=True)

    used, overlap = external.judged(written(mixed, tmp_path), model)

    assert len(used.y) == 130
    assert "without them too few are left" in overlap.message


def test_patients_whom_nobody_has_seen_are_no_overlap(document) -> None:
    assert document["overlap"] is None
    assert external.UNRECOGNISABLE in document["not_estimable"]


def test_uci_patients_of_a_hospital_that_trained_nothing_are_no_overlap(
    tmp_path, model, heart_csv
) -> None:
    elsewhere = trained_on(model, checks.load(heart_csv, sites=["hungary"]))

    _, overlap = external.judged(written(of_uci(VA), tmp_path), elsewhere)

    assert overlap.message is None


def test_a_model_not_trained_on_uci_patients_knows_none_of_them(tmp_path, model, ours) -> None:
    theirs = trained_on(model, ours)

    _, overlap = external.judged(written(of_uci(VA), tmp_path), theirs)

    assert overlap.message is None


def test_the_very_training_file_is_recognised_whoever_its_patients_are(model, ours) -> None:
    _, overlap = external.judged(ours, trained_on(model, ours))

    assert overlap.everything
    assert "stand in the very file that trained this model" in overlap.message


def test_kaggles_copy_of_cleveland_does_not_count_hungary_as_seen(tmp_path, model) -> None:
    frame = of_uci(CLEVELAND)
    codes, target = codings.to_kaggle(frame[list(NAMES)].to_numpy(), frame["num"].to_numpy())
    copy = written(pd.DataFrame(codes, columns=list(NAMES)).assign(target=target), tmp_path)
    theirs = trained_on(model, copy)

    _, cleveland = external.judged(written(frame, tmp_path, "cleveland.csv"), theirs)
    _, hungary = external.judged(written(of_uci(HUNGARY), tmp_path, "hungary.csv"), theirs)

    assert cleveland.everything
    assert hungary.message is None
