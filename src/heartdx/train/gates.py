"""Quality gates: a model that fails one is not promoted, and the command exits 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from heartdx.errors import GateError
from heartdx.performance import Interval, mean_log_losses

CHANCE = 0.5
FEWEST_OF_AN_OUTCOME = 20
"""Fewer patients of one outcome make any estimate a guess."""
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Gate:
    """One verdict.

    Parameters
    ----------
    name : of the gate, with its panel.
    passed : the verdict.
    figure : the numbers behind it.
    """

    name: str
    passed: bool
    figure: str


def judge(
    panel: str,
    *,
    y: np.ndarray,
    y_prob: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    metrics: Mapping[str, Interval],
) -> list[Gate]:
    """The gates of one panel's chosen model, on its out-of-sample probabilities.

    Parameters
    ----------
    panel : name.
    y : shape (n,), 0 or 1.
    y_prob : shape (n, repeats), cross-validated, of the chosen model.
    baselines : baseline label to its probabilities on the same folds.
    metrics : estimates of the chosen model.
    """
    rarer = int(min((y == 1).sum(), (y == 0).sum()))
    within = metrics["auc_within"]
    gates = [
        Gate(
            f"{panel}: enough patients",
            rarer >= FEWEST_OF_AN_OUTCOME,
            f"{rarer} of the rarer outcome, needed {FEWEST_OF_AN_OUTCOME}",
        ),
        Gate(
            f"{panel}: better than chance inside hospitals",
            bool(within.low > CHANCE),
            f"AUC inside hospitals {within}, needed above {CHANCE}",
        ),
    ]
    losses = mean_log_losses(y, y_prob)
    for name, baseline in baselines.items():
        gates.append(_beats(panel, name, losses, mean_log_losses(y, baseline)))
    return gates


def enforce(gates: list[Gate]) -> None:
    """Refuse when a gate failed.

    Raises
    ------
    GateError
        Names every failed gate with its figure.
    """
    failed = [f"{gate.name} ({gate.figure})" for gate in gates if not gate.passed]
    if failed:
        raise GateError(
            f"{len(failed)} of {len(gates)} quality gates failed: {'; '.join(failed)}; no "
            "model was made current; the report that was written has every figure"
        )


def _beats(panel: str, name: str, losses: np.ndarray, baseline: np.ndarray) -> Gate:
    """The paired difference in log loss lies below 0 with its whole 95 % interval."""
    differences = losses - baseline
    mean = float(differences.mean())
    margin = float(NORMAL_95 * differences.std(ddof=1) / np.sqrt(len(differences)))
    figure = (
        f"difference in log loss {mean:.3f} ({mean - margin:.3f} to {mean + margin:.3f}), "
        "needed wholly below 0"
    )
    return Gate(f"{panel}: better than {name}", bool(mean + margin < 0), figure)
