"""The numbers of README.md as they follow from reports/metrics.json and evaluation.json."""

from __future__ import annotations

from typing import Any


def metrics_table(report: dict[str, Any]) -> str:
    """One row a panel: the chosen model, cross-validated."""
    lines = [
        "| panel | patients | model | AUC | AUC inside hospitals | Brier | calibration slope |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, panel in report["panels"].items():
        chosen = panel["candidates"][panel["choice"]["candidate"]]
        texts = [
            _text(chosen["cross_validation"][key])
            for key in ("auc", "auc_within", "brier", "calibration_slope")
        ]
        cells = " | ".join([name, str(panel["patients"]), chosen["label"].lower(), *texts])
        lines.append(f"| {cells} |")
    return "\n".join(lines)


def transfer_table(evaluation: dict[str, Any]) -> str:
    """All patients of each held-out hospital, by the richest panel trained without it."""
    lines = [
        "| held-out hospital | AUC | Brier | calibration slope | observed / expected |",
        "|---|---|---|---|---|",
    ]
    for site, part in evaluation["policy"]["held_out"].items():
        keys = ("auc", "brier", "calibration_slope", "o_e")
        cells = " | ".join(_text(part["metrics"][key]) for key in keys)
        lines.append(f"| {site} | {cells} |")
    return "\n".join(lines)


def _text(interval: dict[str, float]) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
