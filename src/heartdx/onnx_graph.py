"""A fitted pipeline as an ONNX graph, in double precision throughout.

The graph is written from the fitted parts: a converted float32 forest was seen 0.017 off, ONNX
Runtime imputes in float32 only, and scikit-learn rounds a forest's inputs to float32 before it
compares, which the graph does too (docs/adr/0004).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier

from heartdx.contract import Panel
from heartdx.equations import Feature, PanelModel, features_of

ONNX_OPSET, ONNX_ML_OPSET, ONNX_IR = 17, 3, 8


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
