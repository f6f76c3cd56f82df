"""Fitted pipelines into a bundle: equation, ONNX, joblib, manifest. The only user of joblib.

The ONNX graph is written from the fitted parts, in double precision throughout: a converted
float32 forest was seen 0.017 off, ONNX Runtime imputes in float32 only, and scikit-learn rounds a
forest's inputs to float32 before it compares, which the graph does too (docs/adr/0004).
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline

from heartdx import __version__, atomic, bundle
from heartdx.contract import ATTRIBUTES, BY_NAME, NAMES, PANELS, VERSION, Panel, fingerprint
from heartdx.errors import BundleError, VerificationError
from heartdx.pipelines import feature_kind

GOLDEN_RECORDS = 20
EQUATION_TOLERANCE = 1e-9
ONNX_TOLERANCE = 1e-6
ONNX_OPSET, ONNX_ML_OPSET, ONNX_IR = 17, 3, 8
JOBLIB = "pipeline.joblib"
CARD = "card.md"


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
class Exported:
    """The exported forms of one panel's model."""

    equation: bytes | None
    onnx: bytes

    @property
    def served(self) -> bytes:
        """What the service evaluates."""
        return self.equation if self.equation is not None else self.onnx


def write_bundle(
    models: list[PanelModel],
    *,
    models_dir: Path,
    threshold: float,
    harm_ratio: float,
    facts: Mapping[str, Any],
    card: str,
    check_rows: np.ndarray,
    seed: int,
) -> bundle.Bundle:
    """Write a bundle under its digest and read it back verified.

    Parameters
    ----------
    models : one for each panel.
    models_dir : the bundle goes to ``<models_dir>/bundles/<digest>``.
    threshold, harm_ratio : how a probability becomes a decision.
    facts : further manifest entries (data, code, libraries, created).
    card : text of ``card.md``; ``{version}`` and ``{digest}`` are filled in.
    check_rows : shape (n, 13), patients on whom every exported form must agree.
    seed : of the synthetic golden records.

    Raises
    ------
    VerificationError
        An exported form answers differently from scikit-learn.
    """
    exported: dict[str, Exported] = {
        m.panel.name: export(m, check_rows, threshold=threshold) for m in models
    }
    panels: dict[str, dict[str, Any]] = {m.panel.name: _panel_facts(m) for m in models}
    digest = bundle.content_digest(
        panels={n: bundle.panel_content(panels[n], exported[n].served) for n in panels},
        threshold=threshold,
        harm_ratio=harm_ratio,
    )
    files = dict(_files(models, exported))
    filled = card.replace("{version}", digest[:12]).replace("{digest}", digest)
    manifest = {
        "schema_version": bundle.SCHEMA_VERSION,
        "name": bundle.MODEL_NAME,
        "version": digest[:12],
        "digest": digest,
        "contract": {"version": VERSION, "fingerprint": fingerprint()},
        "threshold": threshold,
        "harm_ratio": harm_ratio,
        "panels": panels,
        "golden": golden(models, seed=seed),
        "heartdx_version": __version__,
        **facts,
        "files": {n: hashlib.sha256(c).hexdigest() for n, c in sorted(files.items())},
    }
    target = models_dir / bundle.BUNDLES / digest
    _set_damaged_aside(target)
    if target.exists():
        _renew(target, manifest, filled)
        return bundle.load(target)
    with atomic.folder(target) as draft:
        for name, content in files.items():
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_bytes(content)
        (draft / CARD).write_text(filled, encoding="utf-8")
        (draft / bundle.MANIFEST).write_text(_json(manifest), encoding="utf-8")
    return bundle.load(target)


def promote(models_dir: Path, digest: str) -> None:
    """Make a bundle the current one, in one step; the bundle is verified first."""
    bundle.load(models_dir / bundle.BUNDLES / digest)  # its folder's name is its digest
    atomic.write_text(models_dir / bundle.CURRENT, digest + "\n")


def dump(pipeline: Pipeline) -> bytes:
    """A pipeline as joblib bytes, for people who want scikit-learn itself."""
    stream = io.BytesIO()
    joblib.dump(pipeline, stream, compress=3)
    return stream.getvalue()


def export(model: PanelModel, check_rows: np.ndarray, *, threshold: float) -> Exported:
    """The exported forms of a fitted model, proven equal row by row."""
    equation = None
    if model.model == "logreg":
        equation = json.dumps(equation_of(model), indent=1).encode("utf-8")
    scoring = Exported(equation, onnx_of(model, threshold=threshold))
    verify(model, scoring, check_rows)
    return scoring


def verify(model: PanelModel, scoring: Exported, check_rows: np.ndarray) -> None:
    """Refuse an export that differs on any patient, code, unknown code or missing value.

    Raises
    ------
    VerificationError
        Names panel, form, the largest difference and its tolerance.
    """
    X = probing_rows(model.panel, check_rows)
    expected = model.pipeline.predict_proba(X)[:, 1]
    forms: list[tuple[str, bundle.Scorer, float]] = [
        (bundle.ONNX, bundle.OnnxModel(scoring.onnx, model.panel.inputs), ONNX_TOLERANCE)
    ]
    if scoring.equation is not None:
        document = json.loads(scoring.equation)
        forms.append((bundle.EQUATION, bundle.Equation(document), EQUATION_TOLERANCE))
    for name, scorer, tolerance in forms:
        worst = float(np.max(np.abs(scorer.probability(X) - expected)))
        if not worst <= tolerance:
            raise VerificationError(
                f"{model.panel.name}/{name}: differs from the fitted pipeline by {worst:.2g}, "
                f"allowed is {tolerance:g}; the model was not written"
            )


def probing_rows(panel: Panel, check_rows: np.ndarray) -> np.ndarray:
    """Rows that reach every corner of a panel: patients, every code, unknown codes, missing.

    Returns
    -------
    array of shape (n, panel inputs).
    """
    required = [NAMES.index(name) for name in panel.required]
    known = ~np.isnan(check_rows[:, required]).any(axis=1)
    patients = check_rows[known][:, panel.columns]
    typical = np.array([[_middle(BY_NAME[name]) for name in panel.inputs]])
    variants = []
    for place, name in enumerate(panel.inputs):
        attribute = BY_NAME[name]
        values = [float(v) for v in attribute.code_values] or list(attribute.plausible or ())
        if attribute.kind == "code" and feature_kind(attribute) == "code":
            values.append(99.0)
        if attribute.imputed:
            values.append(np.nan)
        variants += [_with(typical, place, value) for value in values]
    return np.vstack([patients, typical, *variants])


def golden(models: list[PanelModel], *, seed: int) -> dict[str, Any]:
    """Synthetic patients drawn from contract ranges, with the pipelines' probabilities."""
    generator = np.random.default_rng(seed)
    by_panel = {model.panel.name: model for model in models}
    available = tuple(by_panel)
    X = np.array([_synthetic(generator, place) for place in range(GOLDEN_RECORDS)])
    panels = [PANELS[place] for place in bundle.richest_panel(X, available=available)]
    probabilities = [
        float(by_panel[panel.name].pipeline.predict_proba(X[[row]][:, panel.columns])[0, 1])
        for row, panel in enumerate(panels)
    ]
    records = [[None if np.isnan(value) else value for value in row] for row in X.tolist()]
    return {
        "about": "synthetic records drawn from the contract's ranges; no patient",
        "records": records,
        "panels": [panel.name for panel in panels],
        "probabilities": probabilities,
    }


# -- the fitted parts ------------------------------------------------------------------------


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
        names = [model.panel.inputs[place] for place in places]
        parts = dict(step.steps) if isinstance(step, Pipeline) else {}
        if "impute" in parts:
            statistics = parts["impute"].statistics_
            impute |= {n: float(v) for n, v in zip(names, statistics, strict=True)}
        features += _features(names, parts)
    return features, impute


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


# -- the ONNX graph --------------------------------------------------------------------------


class _Graph:
    """Collects nodes and double constants under readable names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        node = helper.make_node(operator, inputs, [output], name=output, **attributes)
        self.nodes.append(node)
        return output

    def constant(self, name: str, values: object) -> str:
        array = np.asarray(values, dtype=np.float64)
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def onnx_of(model: PanelModel, *, threshold: float) -> bytes:
    """The model as ONNX: one named double input of shape (n, 1) for each attribute.

    Outputs are ``probabilities`` of shape (n, 2) and ``label`` (1 from the threshold on).
    """
    graph = _Graph()
    graph.constant("one", [1.0])
    features, impute = features_of(model)
    _preprocessing(graph, model.panel, features, impute)
    classifier = model.pipeline[-1]
    if model.model == "logreg":
        _regression(graph, classifier.coef_[0], classifier.intercept_[0])
    else:
        _calibrated_forest(graph, classifier)
    graph.add("Sub", ["one", "probability"], "complement")
    graph.add("Concat", ["complement", "probability"], "probabilities", axis=1)
    graph.constant("threshold", [threshold])
    graph.add("GreaterOrEqual", ["probability", "threshold"], "is_positive")
    graph.add("Cast", ["is_positive"], "label", to=TensorProto.INT64)
    return _serialised(graph, model)


def _preprocessing(
    graph: _Graph, panel: Panel, features: list[Feature], impute: Mapping[str, float]
) -> None:
    values = {name: name for name in panel.inputs}
    for name, value in impute.items():
        graph.constant(f"{name}_typical", [value])
        graph.add("IsNaN", [name], f"{name}_is_missing")
        parts = [f"{name}_is_missing", f"{name}_typical", name]
        values[name] = graph.add("Where", parts, f"{name}_imputed")
    columns = [_column(graph, feature, values[feature.attribute]) for feature in features]
    graph.add("Concat", columns, "features", axis=1)


def _column(graph: _Graph, feature: Feature, value: str) -> str:
    name = feature.attribute
    if feature.code is None:
        graph.constant(f"{name}_center", [feature.center])
        graph.constant(f"{name}_scale", [feature.scale])
        graph.add("Sub", [value, f"{name}_center"], f"{name}_centred")
        return graph.add("Div", [f"{name}_centred", f"{name}_scale"], f"{name}_scaled")
    column = f"{name}_is_{feature.code}"
    graph.constant(f"{column}_code", [feature.code])
    graph.add("Equal", [value, f"{column}_code"], f"{column}_true")
    return graph.add("Cast", [f"{column}_true"], column, to=TensorProto.DOUBLE)


def _regression(graph: _Graph, coefficients: np.ndarray, intercept: float) -> None:
    graph.constant("coefficients", coefficients.reshape(-1, 1))
    graph.constant("intercept", [intercept])
    graph.add("MatMul", ["features", "coefficients"], "weighted")
    graph.add("Add", ["weighted", "intercept"], "log_odds")
    graph.add("Sigmoid", ["log_odds"], "probability")


def _calibrated_forest(graph: _Graph, calibrated: Any) -> None:
    (member,) = calibrated.calibrated_classifiers_
    (sigmoid,) = member.calibrators
    graph.add("Cast", ["features"], "features_rounded", to=TensorProto.FLOAT)
    graph.add("Cast", ["features_rounded"], "features_as_fitted", to=TensorProto.DOUBLE)
    graph.nodes.append(_forest_node(member.estimator, "features_as_fitted", "votes_float"))
    graph.add("Cast", ["votes_float"], "votes", to=TensorProto.DOUBLE)
    graph.constant("calibration_slope", [-sigmoid.a_])
    graph.constant("calibration_intercept", [-sigmoid.b_])
    graph.add("Mul", ["votes", "calibration_slope"], "votes_weighted")
    graph.add("Add", ["votes_weighted", "calibration_intercept"], "log_odds")
    graph.add("Sigmoid", ["log_odds"], "probability")


def _forest_node(forest: RandomForestClassifier, source: str, output: str) -> onnx.NodeProto:
    """The mean over trees of the leaf's share of disease."""
    nodes: dict[str, list] = {key: [] for key in ("tree", "id", "feature", "yes", "no", "mode")}
    splits: list[float] = []
    leaves: dict[str, list] = {key: [] for key in ("tree", "id", "weight")}
    for number, estimator in enumerate(forest.estimators_):
        tree = estimator.tree_
        is_leaf = tree.children_left == -1
        nodes["tree"] += [number] * tree.node_count
        nodes["id"] += range(tree.node_count)
        nodes["feature"] += np.where(is_leaf, 0, tree.feature).tolist()
        nodes["yes"] += np.where(is_leaf, 0, tree.children_left).tolist()
        nodes["no"] += np.where(is_leaf, 0, tree.children_right).tolist()
        nodes["mode"] += ["LEAF" if leaf else "BRANCH_LEQ" for leaf in is_leaf]
        splits += np.where(is_leaf, 0.0, tree.threshold).tolist()
        share = tree.value[:, 0, 1] / tree.value[:, 0, :].sum(axis=1)
        leaves["tree"] += [number] * int(is_leaf.sum())
        leaves["id"] += np.flatnonzero(is_leaf).tolist()
        leaves["weight"] += (share[is_leaf] / len(forest.estimators_)).tolist()
    return helper.make_node(
        "TreeEnsembleRegressor",
        [source],
        [output],
        name=output,
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        nodes_treeids=nodes["tree"],
        nodes_nodeids=nodes["id"],
        nodes_featureids=nodes["feature"],
        nodes_truenodeids=nodes["yes"],
        nodes_falsenodeids=nodes["no"],
        nodes_modes=nodes["mode"],
        nodes_values_as_tensor=numpy_helper.from_array(np.array(splits), "splits"),
        target_treeids=leaves["tree"],
        target_nodeids=leaves["id"],
        target_ids=[0] * len(leaves["id"]),
        target_weights_as_tensor=numpy_helper.from_array(np.array(leaves["weight"]), "weights"),
    )


def _serialised(graph: _Graph, model: PanelModel) -> bytes:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n", 1])
        for name in model.panel.inputs
    ]
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.DOUBLE, ["n", 2]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["n", 1]),
    ]
    made = helper.make_model(
        helper.make_graph(graph.nodes, model.panel.name, inputs, outputs, graph.constants),
        producer_name="heartdx",
        ir_version=ONNX_IR,
        opset_imports=[
            helper.make_opsetid("", ONNX_OPSET),
            helper.make_opsetid("ai.onnx.ml", ONNX_ML_OPSET),
        ],
    )
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString(deterministic=True))


# -- small parts -----------------------------------------------------------------------------


def _renew(target: Path, manifest: Mapping[str, Any], card: str) -> None:
    """The same model from another run: its files stay, what is said of it becomes this run's.

    Both files are replaced whole. The card carries no checksum, so that no moment between the two
    leaves a bundle that does not verify.
    """
    files = {
        name: hashlib.sha256((target / name).read_bytes()).hexdigest()
        for name in sorted(manifest["files"])
    }
    atomic.write_text(target / CARD, card)
    atomic.write_text(target / bundle.MANIFEST, _json({**manifest, "files": files}))


def _json(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1, allow_nan=False) + "\n"


def _set_damaged_aside(target: Path) -> None:
    """Make room when a bundle of this digest is there but no longer verifies."""
    if not target.exists():
        return
    try:
        bundle.load(target)
    except BundleError:
        target.rename(target.with_name(f".damaged-{target.name[:12]}-{time.time_ns()}"))


def _panel_facts(model: PanelModel) -> dict[str, Any]:
    return {
        "model": model.model,
        "inputs": list(model.panel.inputs),
        "required": list(model.panel.required),
        **model.facts,
    }


def _files(
    models: list[PanelModel], exported: Mapping[str, Exported]
) -> Iterator[tuple[str, bytes]]:
    for model in models:
        name = model.panel.name
        equation = exported[name].equation
        if equation is not None:
            yield f"{name}/{bundle.EQUATION}", equation
        yield f"{name}/{bundle.ONNX}", exported[name].onnx
        yield f"{name}/{JOBLIB}", dump(model.pipeline)


def _middle(attribute: Any) -> float:
    if attribute.plausible:
        return float(sum(attribute.plausible) / 2)
    return float(attribute.code_values[0])


def _with(row: np.ndarray, place: int, value: float) -> np.ndarray:
    changed = row.copy()
    changed[0, place] = value
    return changed


def _synthetic(generator: np.random.Generator, place: int) -> list[float]:
    """A synthetic record; every third stops after a further panel, some lack an imputed value."""
    reach = PANELS[place % len(PANELS)].inputs
    values = []
    for attribute in ATTRIBUTES:
        if attribute.plausible:
            value = float(np.round(generator.uniform(*attribute.plausible), 1))
        else:
            value = float(generator.choice(attribute.code_values))
        absent = attribute.imputed and generator.random() < 0.25
        values.append(np.nan if absent or attribute.name not in reach else value)
    return values
