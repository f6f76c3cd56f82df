"""Unfitted candidates made of stock scikit-learn parts, so that an artefact loads anywhere.

Every pipeline takes the inputs of one panel in contract order and does its own imputation,
scaling and one-hot coding, so nothing can be learnt outside it.

The order is ``Pipeline(preprocess -> CalibratedClassifierCV(forest))``: the other nesting
converts to ONNX without a word and answers wrong by up to 0.46 (onnx/sklearn-onnx #1246).
Missing-value indicators are left out on purpose: they recognise the hospital, not the disease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler

from heartdx.contract import BY_NAME, Attribute, Panel

CALIBRATION_FOLDS = 3
FOREST_TREES = 150
TUNING_TREES = 40
"""A quarter of the trees ranks the settings in the inner loop at a quarter of the price."""
INPUTS = "inputs"
"""The parameter that says which of a panel's inputs a model uses: ``all`` or ``required``.

``required`` leaves out what may be missing and would be imputed (resting blood pressure,
cholesterol, blood sugar, resting ECG): each hospital measured and recorded these in its own way,
so whether they help is asked in hospitals that were left out.
"""
Role = Literal["baseline", "eligible", "comparator"]


@dataclass(frozen=True)
class Candidate:
    """A model family with what may be tuned in it.

    Parameters
    ----------
    name : stable short name.
    label : words for people.
    complexity : rank for the choice; among near-equals the lowest wins.
    role : ``eligible`` may be chosen and served; a baseline or a comparator may not.
    grid : parameter settings tried in the inner loop.
    preprocess : (panel, names of the inputs used) to an unfitted column transformer.
    classifier : (parameters, names of the inputs used, seed) to an unfitted classifier.
    tuning : parameters that replace the classifier's while tuning only.
    inner_splits : folds of the inner loop where no hospital can be left out.
    final : (tuned classifier, seed) to the one for the fit that counts (calibration).
    balanced : whether each hospital weighs the same in the fit, whatever its size.
    """

    name: str
    label: str
    complexity: int
    role: Role
    grid: tuple[Mapping[str, Any], ...]
    preprocess: Callable[[Panel, Sequence[str]], BaseEstimator]
    classifier: Callable[[Mapping[str, Any], Sequence[str], int], BaseEstimator]
    tuning: Mapping[str, Any] = field(default_factory=dict)
    inner_splits: int = 5
    final: Callable[[BaseEstimator, int], BaseEstimator] = field(
        default=lambda classifier, _seed: classifier
    )
    balanced: bool = False

    def pipeline(self, panel: Panel, parameters: Mapping[str, Any], *, seed: int) -> Pipeline:
        """The unfitted pipeline of a panel with these parameters."""
        names = used_names(panel, parameters)
        classifier = self.classifier(_of_classifier(parameters), names, seed)
        preprocess = self.preprocess(panel, names)
        classifier = self.final(classifier, seed)
        return Pipeline([("preprocess", preprocess), ("classifier", classifier)])

    def tuning_classifier(
        self, panel: Panel, parameters: Mapping[str, Any], *, seed: int
    ) -> BaseEstimator:
        """The unfitted classifier that ranks these parameters in the inner loop."""
        chosen = {**_of_classifier(parameters), **self.tuning}
        return self.classifier(chosen, used_names(panel, parameters), seed)


def used_names(panel: Panel, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs of a panel that a model with these parameters uses, in contract order."""
    return panel.required if parameters.get(INPUTS) == "required" else panel.inputs


def _of_classifier(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name != INPUTS}


def impute_scale_code(panel: Panel, names: Sequence[str]) -> ColumnTransformer:
    """Impute, scale and one-hot code these inputs of a panel; the others are dropped.

    Columns are addressed by place, so the same pipeline takes an array or a data frame. The
    one-hot categories are the contract's: a code never seen in training has no weight, and an
    unknown code encodes to all zeros. A yes/no code stays one 0/1 column. Only attributes the
    contract lets be imputed are.
    """
    return _columns(panel, names, StandardScaler)


def splines(panel: Panel, names: Sequence[str]) -> ColumnTransformer:
    """The same with a cubic spline of four knots for each number, linear in the tails."""

    def spline() -> BaseEstimator:
        curve = SplineTransformer(n_knots=4, degree=3, extrapolation="linear", include_bias=False)
        return Pipeline([("standard", StandardScaler()), ("spline", curve)])

    return _columns(panel, names, spline)


def native_missing(panel: Panel, names: Sequence[str]) -> ColumnTransformer:
    """Numbers and ordered codes as they are, missing left to the trees; cp and such one-hot.

    Ordered columns come first, as the classifier's directions expect.
    """
    ordered, coded = _ordered_and_coded(names)
    return ColumnTransformer(
        [
            ("ordered", "passthrough", [panel.inputs.index(name) for name in ordered]),
            (
                "coded",
                _one_hot([BY_NAME[name] for name in coded]),
                [panel.inputs.index(name) for name in coded],
            ),
        ],
        sparse_threshold=0.0,
    )


def _ordered_and_coded(names: Sequence[str]) -> tuple[list[str], list[str]]:
    ordered = [n for n in names if feature_kind(BY_NAME[n]) != "code" or BY_NAME[n].direction]
    return ordered, [n for n in names if n not in ordered]


def _columns(
    panel: Panel, names: Sequence[str], scaler: Callable[[], BaseEstimator]
) -> ColumnTransformer:
    groups = {
        (kind, imputed): members
        for kind in ("number", "binary", "code")
        for imputed in (True, False)
        if (members := _members(names, kind, imputed))
    }
    return ColumnTransformer(
        [
            (
                f"{kind}{'_imputed' if imputed else ''}",
                _step(kind, members, scaler),
                [panel.inputs.index(member.name) for member in members],
            )
            for (kind, imputed), members in groups.items()
        ],
        sparse_threshold=0.0,
    )


def feature_kind(attribute: Attribute) -> str:
    """``number``, ``binary`` (one 0/1 column) or ``code`` (one column a code)."""
    return "binary" if attribute.code_values == (0, 1) else attribute.kind


def age_and_sex(panel: Panel, _names: Sequence[str]) -> ColumnTransformer:
    """Only age and sex: what is known before anything is measured."""
    places = [panel.inputs.index(name) for name in ("age", "sex")]
    return ColumnTransformer([("kept", StandardScaler(), places)])


def _members(names: Sequence[str], kind: str, imputed: bool) -> list[Attribute]:
    attributes = [BY_NAME[name] for name in names]
    return [a for a in attributes if feature_kind(a) == kind and a.imputed == imputed]


def _step(
    kind: str, members: list[Attribute], scaler: Callable[[], BaseEstimator]
) -> BaseEstimator | str:
    steps: list[tuple[str, BaseEstimator]] = []
    if members[0].imputed:
        strategy = "median" if kind == "number" else "most_frequent"
        steps.append(("impute", SimpleImputer(strategy=strategy, keep_empty_features=True)))
    if kind == "number":
        steps.append(("scale", scaler()))
    if kind == "code":
        steps.append(("one_hot", _one_hot(members)))
    return Pipeline(steps) if steps else "passthrough"


def _one_hot(attributes: list[Attribute]) -> OneHotEncoder:
    return OneHotEncoder(
        categories=[[float(value) for value in a.code_values] for a in attributes],
        handle_unknown="ignore",
        sparse_output=False,
    )


def _logistic(
    parameters: Mapping[str, Any], _names: Sequence[str], seed: int
) -> LogisticRegression:
    return LogisticRegression(max_iter=2000, tol=1e-8, random_state=seed, **parameters)


def _forest(
    parameters: Mapping[str, Any], _names: Sequence[str], seed: int
) -> RandomForestClassifier:
    settings = {"n_estimators": FOREST_TREES, **parameters}
    return RandomForestClassifier(random_state=seed, n_jobs=1, **settings)


def _platt(classifier: BaseEstimator, seed: int) -> CalibratedClassifierCV:
    """Platt's scaling; the folds are shuffled, for rows come sorted by hospital."""
    folds = StratifiedKFold(CALIBRATION_FOLDS, shuffle=True, random_state=seed)
    return CalibratedClassifierCV(classifier, method="sigmoid", cv=folds, ensemble=False)


def _boosting(
    parameters: Mapping[str, Any], names: Sequence[str], seed: int
) -> HistGradientBoostingClassifier:
    """Columns are those of ``native_missing``: ordered ones first, then the free codes."""
    ordered, coded = _ordered_and_coded(names)
    directions = [BY_NAME[name].direction for name in ordered]
    directions += [0 for name in coded for _ in BY_NAME[name].codes]
    return HistGradientBoostingClassifier(
        monotonic_cst=directions,
        max_iter=100,
        early_stopping=False,
        random_state=seed,
        **parameters,
    )


def _prior(_parameters: Mapping[str, Any], _names: Sequence[str], _seed: int) -> DummyClassifier:
    return DummyClassifier(strategy="prior")


def _grid(*settings: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Each setting on all inputs and on the required ones."""
    return tuple(
        {**setting, INPUTS: inputs} for inputs in ("all", "required") for setting in settings
    )


PENALTIES = tuple({"C": c} for c in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0))
"""Inverse strength of the ridge penalty."""

CANDIDATES: tuple[Candidate, ...] = (
    Candidate("prevalence", "Prevalence only", 0, "baseline", ({},), age_and_sex, _prior),
    Candidate("age_sex", "Age and sex", 1, "baseline", ({"C": 1.0},), age_and_sex, _logistic),
    Candidate(
        "logreg",
        "Logistic regression",
        2,
        "eligible",
        _grid(*PENALTIES),
        impute_scale_code,
        _logistic,
    ),
    Candidate(
        "forest",
        "Random forest",
        3,
        "eligible",
        _grid(*({"min_samples_leaf": leaf, "max_features": 0.25} for leaf in (4, 10))),
        impute_scale_code,
        _forest,
        tuning={"n_estimators": TUNING_TREES},
        inner_splits=3,
        final=_platt,
    ),
)
COMPARATORS: tuple[Candidate, ...] = (
    Candidate(
        "logreg_all",
        "Logistic regression on all inputs",
        2,
        "comparator",
        tuple({**penalty, INPUTS: "all"} for penalty in PENALTIES),
        impute_scale_code,
        _logistic,
    ),
    Candidate(
        "logreg_balanced",
        "Logistic regression, hospitals weighing the same",
        2,
        "comparator",
        _grid(*PENALTIES),
        impute_scale_code,
        _logistic,
        balanced=True,
    ),
    Candidate(
        "spline",
        "Logistic regression with splines",
        4,
        "comparator",
        _grid(*PENALTIES),
        splines,
        _logistic,
    ),
    Candidate(
        "boosting",
        "Gradient boosting, monotone",
        5,
        "comparator",
        _grid(
            *(
                {"learning_rate": rate, "max_leaf_nodes": 4, "l2_regularization": 10.0}
                for rate in (0.03, 0.1)
            )
        ),
        native_missing,
        _boosting,
        inner_splits=3,
    ),
)
"""What the full evaluation compares besides; none of them is ever served."""
BY_CANDIDATE = {candidate.name: candidate for candidate in (*CANDIDATES, *COMPARATORS)}
