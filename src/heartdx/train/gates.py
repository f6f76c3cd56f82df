"""Quality gates: a model that fails one is not promoted, and the command exits 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heartdx.errors import GateError
from heartdx.performance import Interval

CHANCE = 0.5


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
    procedure: Mapping[str, Interval],
    baselines: Mapping[str, Mapping[str, Interval]],
) -> list[Gate]:
    """The gates of one panel.

    Parameters
    ----------
    panel : name.
    procedure : cross-validated estimates of the whole procedure.
    baselines : baseline name to its estimates on the same folds.
    """
    auc, loss = procedure["auc"], procedure["log_loss"]
    gates = [
        Gate(f"{panel}: better than chance", auc.low > CHANCE, f"AUC {auc}, needed above {CHANCE}")
    ]
    for name, estimates in baselines.items():
        other = estimates["log_loss"]
        figure = f"log loss {loss.value:.3f}, baseline {other.value:.3f}"
        gates.append(Gate(f"{panel}: better than {name}", loss.value < other.value, figure))
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
            f"{len(failed)} of {len(gates)} quality gates failed: {'; '.join(failed)}; the model "
            "before this one stays current; reports/metrics.json has every figure"
        )
