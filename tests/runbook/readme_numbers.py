"""The numbers of README.md as they follow from reports/metrics.json."""

from __future__ import annotations

from typing import Any


def metrics_table(report: dict[str, Any]) -> str:
    """One row a panel: the whole procedure, cross-validated."""
    lines = [
        "| panel | patients | model | AUC | AUC inside hospitals | Brier | calibration slope |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, panel in report["panels"].items():
        procedure = panel["candidates"]["procedure"]
        estimates = procedure["cross_validation"]
        chosen = panel["candidates"][panel["choice"]["candidate"]]["label"].lower()
        lines.append(
            f"| {name} | {panel['patients']} | {chosen} | {_text(estimates['auc'])} | "
            f"{procedure['within_site_auc']['mean']:.3f} | {_text(estimates['brier'])} | "
            f"{_text(estimates['calibration_slope'])} |"
        )
    return "\n".join(lines)


def transfer(report: dict[str, Any]) -> str:
    """AUC and Brier of the exercise panel in each held-out hospital."""
    held_out = report["panels"]["exercise"]["candidates"]["procedure"]["leave_one_site_out"]
    return ", ".join(
        f"{site} AUC {metrics['auc']['value']:.3f}, Brier {metrics['brier']['value']:.3f}"
        for site, metrics in held_out.items()
    )


def _text(interval: dict[str, float]) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
