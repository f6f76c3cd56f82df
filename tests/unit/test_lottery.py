"""One split into training and test is a lottery."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from heartdx.contract import PANEL_BY_NAME, PANELS
from heartdx.errors import ContractError
from heartdx.evaluation import lottery
from heartdx.evaluation.panels import panel_patients
from heartdx.performance.discrimination import auc_delong
from heartdx.pipelines import BY_CANDIDATE
from heartdx.resampling import Patients, cross_validation_splits, fitted, score_all

ESTIMATE = {"value": 0.7, "low": 0.6, "high": 0.8}


def some_patients(n: int = 100, *, sites: int = 1, events: int | None = None) -> Patients:
    """Bedside patients whose outcome follows age."""
    generator = np.random.default_rng(3)
    X = np.column_stack(
        [generator.uniform(30, 75, n), *generator.integers(1, 3, (6, n)).astype(float)]
    )
    y = (X[:, 0] + generator.normal(0, 12, n) > 52).astype(float)
    if events is not None:
        y = (np.arange(n) < events).astype(float)
    names = np.array([f"site{place % sites}" for place in range(n)])
    return Patients(PANELS[0], X, y, names, np.arange(n))


@pytest.fixture(scope="module")
def drawn() -> dict:
    return lottery.section(some_patients(), interval=ESTIMATE, seed=42, draws=10)


def test_a_draw_is_the_auc_of_the_test_part_of_scikit_learns_split(drawn) -> None:
    patients = some_patients()
    train, test = train_test_split(
        np.arange(100), test_size=0.2, stratify=patients.y, random_state=45
    )

    pipeline, _ = fitted(lottery.PLAYER, patients.take(train), seed=45)

    y_prob = pipeline.predict_proba(patients.X[test])[:, 1]
    assert drawn["aucs"][3] == pytest.approx(roc_auc_score(patients.y[test], y_prob), abs=1e-6)


def test_the_split_of_seed_42_is_drawn_whatever_the_seed(drawn) -> None:
    elsewhere = lottery.section(some_patients(), interval=ESTIMATE, seed=7, draws=2)

    assert drawn["seed_42"] == drawn["aucs"][0]
    assert elsewhere["seed_42"] == drawn["aucs"][0]


def test_a_longer_lottery_begins_as_the_shorter_one_and_more_jobs_change_nothing(drawn) -> None:
    shorter = lottery.section(some_patients(), interval=ESTIMATE, seed=42, draws=4, jobs=2)

    assert shorter["aucs"] == drawn["aucs"][:4]


def test_the_section_is_the_documents_part(drawn) -> None:
    aucs = np.array(drawn["aucs"])

    assert set(json.loads(json.dumps(drawn))) == {
        *("site", "draws", "aucs", "interval", "low", "high", "min", "max", "seed_42")
    }
    assert (drawn["site"], drawn["draws"], len(aucs)) == ("site0", 10, 10)
    assert drawn["interval"] == ESTIMATE
    assert [drawn["min"], drawn["max"]] == [aucs.min(), aucs.max()]
    assert [drawn["low"], drawn["high"]] == pytest.approx(np.percentile(aucs, [2.5, 97.5]))


def test_the_quicker_tuning_picks_what_the_plain_one_picks() -> None:
    """Same folds, another solver: the optimum of a convex loss is one."""
    patients = some_patients()
    plain = replace(BY_CANDIDATE["logreg_all"], inner_splits=lottery.PLAYER.inner_splits)

    _, quick = fitted(lottery.PLAYER, patients, seed=1)
    _, slow = fitted(plain, patients, seed=1)

    assert quick.parameters == slow.parameters
    np.testing.assert_allclose(quick.losses, slow.losses, atol=1e-3)


def test_single_splits_of_cleveland_spread_wider_than_the_interval_of_all_patients(loaded) -> None:
    """The test part is a fifth of the patients, so its AUC has about twice the standard error."""
    patients = panel_patients(PANEL_BY_NAME["imaging"], loaded)
    patients = patients.take(np.flatnonzero(patients.sites == "cleveland"))
    splits = cross_validation_splits(patients, splits=5, repeats=1, seed=0)
    work = [(lottery.PLAYER, patients, split) for split in splits]
    y_prob = np.empty(len(patients.y))
    for scoring in score_all(work, jobs=1, progress=lambda results, _: results):
        y_prob[scoring.split.test] = scoring.y_prob
    estimate = auc_delong(patients.y, y_prob)

    part = lottery.section(patients, interval=ESTIMATE, seed=0, draws=40)

    assert part["high"] - part["low"] > 1.3 * (estimate.high - estimate.low)
    assert np.median(part["aucs"]) == pytest.approx(estimate.value, abs=0.02)


def test_patients_of_several_hospitals_are_refused() -> None:
    with pytest.raises(ContractError, match=r"2 hospitals \(site0, site1\).*take its patients"):
        lottery.section(some_patients(sites=2), interval=ESTIMATE, seed=0)


def test_too_few_of_one_outcome_are_refused() -> None:
    with pytest.raises(ContractError, match="site0: 4 of 100 patients diseased: too few"):
        lottery.section(some_patients(events=4), interval=ESTIMATE, seed=0)
