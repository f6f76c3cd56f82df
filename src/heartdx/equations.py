"""A fitted pipeline taken apart: its columns, its imputation values, its equation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sklearn.pipeline import Pipeline

from heartdx.contract import Panel


@dataclass(frozen=True)
class PanelModel:
    """The fitted model of one panel.

    Parameters
    ----------
    panel : the panel.
    model : ``logreg`` or ``forest``.
    pipeline : fitted on the panel's inputs.
    facts : what the manifest says beside inputs and model (rows, metrics, reason, parameters).
    """

    panel: Panel
    model: str
    pipeline: Pipeline
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Feature:
    """One column after preprocessing: ``(value - center) / scale``, or ``value == code``."""

    attribute: str
    center: float = 0.0
    scale: float = 1.0
    code: int | None = None

    def document(self) -> dict[str, Any]:
        """As written in ``score.json``."""
        if self.code is not None:
            return {"attribute": self.attribute, "code": self.code}
        return {"attribute": self.attribute, "center": self.center, "scale": self.scale}


def features_of(model: PanelModel) -> tuple[list[Feature], dict[str, float]]:
    """The preprocessed columns in order, and the imputation values, of a fitted pipeline."""
    features: list[Feature] = []
    impute: dict[str, float] = {}
    for _, step, places in model.pipeline[0].transformers_:
        if isinstance(step, str) and step == "drop":
            continue  # inputs that this model was not given
        names = [model.panel.inputs[place] for place in places]
        parts = dict(step.steps) if isinstance(step, Pipeline) else {}
        if "impute" in parts:
            statistics = parts["impute"].statistics_
            impute |= {n: float(v) for n, v in zip(names, statistics, strict=True)}
        features += _features(names, parts)
    return features, impute


def used_inputs(model: PanelModel) -> list[str]:
    """The inputs that the fitted model looks at, in contract order."""
    looked_at = {feature.attribute for feature in features_of(model)[0]}
    return [name for name in model.panel.inputs if name in looked_at]


def equation_of(model: PanelModel) -> dict[str, Any]:
    """The whole logistic regression as a paper prints it."""
    features, impute = features_of(model)
    regression = model.pipeline[-1]
    return {
        "about": "log-odds = intercept + sum of terms; code terms count when the value equals "
        "the code, number terms weigh (value - center) / scale; probability = "
        "1 / (1 + exp(-(calibration.slope * log-odds + calibration.intercept)))",
        "inputs": list(model.panel.inputs),
        "impute": impute,
        "intercept": float(regression.intercept_[0]),
        "terms": [
            {**feature.document(), "coefficient": float(coefficient)}
            for feature, coefficient in zip(features, regression.coef_[0], strict=True)
        ],
        "calibration": {"slope": 1.0, "intercept": 0.0},
    }


def _features(names: list[str], parts: Mapping[str, Any]) -> Iterator[Feature]:
    for place, name in enumerate(names):
        if "scale" in parts:
            scaler = parts["scale"]
            yield Feature(name, float(scaler.mean_[place]), float(scaler.scale_[place]))
        elif "one_hot" in parts:
            for code in parts["one_hot"].categories_[place]:
                yield Feature(name, code=int(code))
        else:
            yield Feature(name, code=1)
