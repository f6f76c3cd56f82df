"""Unfitted candidates made of stock scikit-learn parts, so that an artefact loads anywhere.

Every pipeline takes the inputs of one panel in contract order and does its own imputation,
scaling and one-hot coding, so nothing can be learnt outside it.

The order is ``Pipeline(preprocess -> CalibratedClassifierCV(forest))``: the other nesting
converts to ONNX without a word and answers wrong by up to 0.46 (onnx/sklearn-onnx #1246).
Missing-value indicators are left out on purpose: they recognise the hospital, not the disease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from heartdx.contract import BY_NAME, Attribute, Panel

CALIBRATION_FOLDS = 3
FOREST_TREES = 150
TUNING_TREES = 50
"""A third of the trees ranks the settings in the inner loop at a third of the price."""


@dataclass(frozen=True)
class Candidate:
    """A model family with what may be tuned in it.

    Parameters
    ----------
    name : stable short name.
    label : words for people.
    complexity : rank for the choice; among near-equals the lowest wins.
    eligible : whether it may be chosen and served; a baseline may not.
    grid : parameter settings tried in the inner loop.
    preprocess : panel to unfitted column transformer.
    classifier : (parameters, seed) to an unfitted classifier.
    tuning : parameters that replace the classifier's while tuning only.
    inner_splits : folds of the inner loop.
    final : (tuned classifier, seed) to the one for the fit that counts (calibration).
    """

    name: str
    label: str
    complexity: int
    eligible: bool
    grid: tuple[Mapping[str, Any], ...]
    preprocess: Callable[[Panel], BaseEstimator]
    classifier: Callable[[Mapping[str, Any], int], BaseEstimator]
    tuning: Mapping[str, Any] = field(default_factory=dict)
    inner_splits: int = 5
    final: Callable[[BaseEstimator, int], BaseEstimator] = field(
        default=lambda classifier, _seed: classifier
    )

    def pipeline(self, panel: Panel, parameters: Mapping[str, Any], *, seed: int) -> Pipeline:
        """The unfitted pipeline of a panel with these parameters."""
        classifier = self.final(self.classifier(parameters, seed), seed)
        return Pipeline([("preprocess", self.preprocess(panel)), ("classifier", classifier)])


def all_inputs(panel: Panel) -> ColumnTransformer:
    """Impute, scale and one-hot code the inputs of a panel.

    Columns are addressed by place, so the same pipeline takes an array or a data frame. The
    one-hot categories are the contract's: a code never seen in training has no weight, and an
    unknown code encodes to all zeros. A yes/no code stays one 0/1 column. Only attributes the
    contract lets be imputed are.
    """
    steps = {
        (kind, imputed): _step(kind, members)
        for kind in ("number", "binary", "code")
        for imputed in (True, False)
        if (members := _members(panel, kind, imputed))
    }
    return ColumnTransformer(
        [
            (f"{kind}{'_imputed' if imputed else ''}", step, _places(panel, kind, imputed))
            for (kind, imputed), step in steps.items()
        ],
        sparse_threshold=0.0,
    )


def feature_kind(attribute: Attribute) -> str:
    """``number``, ``binary`` (one 0/1 column) or ``code`` (one column a code)."""
    return "binary" if attribute.code_values == (0, 1) else attribute.kind


def age_and_sex(panel: Panel) -> ColumnTransformer:
    """Only age and sex: what is known before anything is measured."""
    places = [panel.inputs.index(name) for name in ("age", "sex")]
    return ColumnTransformer([("kept", StandardScaler(), places)])


def _members(panel: Panel, kind: str, imputed: bool) -> list[Attribute]:
    attributes = [BY_NAME[name] for name in panel.inputs]
    return [a for a in attributes if feature_kind(a) == kind and a.imputed == imputed]


def _places(panel: Panel, kind: str, imputed: bool) -> list[int]:
    return [panel.inputs.index(a.name) for a in _members(panel, kind, imputed)]


def _step(kind: str, members: list[Attribute]) -> BaseEstimator | str:
    steps: list[tuple[str, BaseEstimator]] = []
    if members[0].imputed:
        strategy = "median" if kind == "number" else "most_frequent"
        steps.append(("impute", SimpleImputer(strategy=strategy, keep_empty_features=True)))
    if kind == "number":
        steps.append(("scale", StandardScaler()))
    if kind == "code":
        steps.append(("one_hot", _one_hot(members)))
    return Pipeline(steps) if steps else "passthrough"


def _one_hot(attributes: list[Attribute]) -> OneHotEncoder:
    return OneHotEncoder(
        categories=[[float(value) for value in a.code_values] for a in attributes],
        handle_unknown="ignore",
        sparse_output=False,
    )


def _logistic(parameters: Mapping[str, Any], seed: int) -> LogisticRegression:
    return LogisticRegression(max_iter=2000, tol=1e-8, random_state=seed, **parameters)


def _forest(parameters: Mapping[str, Any], seed: int) -> RandomForestClassifier:
    settings = {"n_estimators": FOREST_TREES, **parameters}
    return RandomForestClassifier(random_state=seed, n_jobs=1, **settings)


def _platt(classifier: BaseEstimator, seed: int) -> CalibratedClassifierCV:
    """Platt's scaling; the folds are shuffled, for rows come sorted by hospital."""
    folds = StratifiedKFold(CALIBRATION_FOLDS, shuffle=True, random_state=seed)
    return CalibratedClassifierCV(classifier, method="sigmoid", cv=folds, ensemble=False)


def _prior(_parameters: Mapping[str, Any], _seed: int) -> DummyClassifier:
    return DummyClassifier(strategy="prior")


CANDIDATES: tuple[Candidate, ...] = (
    Candidate(
        "prevalence",
        "Prevalence only",
        0,
        False,
        ({},),
        age_and_sex,
        _prior,
    ),
    Candidate(
        "age_sex",
        "Age and sex",
        1,
        False,
        ({"C": 1.0},),
        age_and_sex,
        _logistic,
    ),
    Candidate(
        "logreg",
        "Logistic regression",
        2,
        True,
        tuple({"C": c} for c in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
        all_inputs,
        _logistic,
    ),
    Candidate(
        "forest",
        "Random forest",
        3,
        True,
        tuple({"min_samples_leaf": leaf, "max_features": 0.25} for leaf in (3, 6, 12)),
        all_inputs,
        _forest,
        tuning={"n_estimators": TUNING_TREES},
        inner_splits=3,
        final=_platt,
    ),
)
BY_CANDIDATE = {candidate.name: candidate for candidate in CANDIDATES}
