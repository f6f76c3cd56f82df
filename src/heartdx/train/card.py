"""The model card that travels inside the bundle: short, from the facts of the run only.

References
----------
.. [1] Mitchell M et al. Model cards for model reporting. FAT* 2019:220-229.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heartdx import checks
from heartdx.contract import OUTCOME, PANEL_BY_NAME
from heartdx.train.evaluate import LABELS, PROCEDURE, PanelResult, Plan


def text(
    *,
    data: checks.Loaded,
    plan: Plan,
    panels: Mapping[str, PanelResult],
    origin: Mapping[str, Any],
) -> str:
    """The card as Markdown; ``{version}`` and ``{digest}`` are filled in when it is written."""
    sites = ", ".join(f"{site} {count}" for site, count in origin["data"]["sites"].items())
    lines = [
        "# heartdx {version}",
        "",
        f"**Answers:** the probability of {OUTCOME.positive} ({OUTCOME.description[0].lower()}"
        f"{OUTCOME.description[1:]})",
        "",
        "**For:** patients who have been sent to coronary angiography. Not for screening, not for "
        "prognosis, not a medical device.",
        "",
        f"**Decision:** *{OUTCOME.positive}* from a probability of {plan.threshold:g} on; it "
        f"follows from a declared harm ratio of {plan.harm_ratio:g} (harm of a missed patient over "
        "harm of a false alarm). Declare your own with --harm-ratio.",
        "",
        f"**Trained on:** {len(data.frame)} patients ({sites}), seen 1981-1987; "
        "UCI Heart Disease, doi:10.24432/C52P4X, CC BY 4.0.",
        "",
        "| panel | needs | model | patients | AUC | Brier | calibration slope |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in panels.items():
        metrics = result.evaluations[PROCEDURE].metrics
        numbers = " | ".join(str(metrics[key]) for key in ("auc", "brier", "calibration_slope"))
        lines.append(
            f"| {name} | {', '.join(PANEL_BY_NAME[name].required)} | "
            f"{LABELS[result.choice.candidate]} | {len(result.patients.y)} | {numbers} |"
        )
    lines += [
        "",
        f"Estimates: {plan.repeats} times {plan.splits}-fold nested cross-validation by patient, "
        "tuning and choice inside; 95 % intervals.",
        "",
        "**In a hospital it has not seen** (trained without that hospital):",
        "",
        *_transfer(panels),
        "",
        "**Limits:** four hospitals, forty years ago; no external validation since; the imaging "
        "panel rests on one hospital; few women; recalibrate on local patients before use.",
        "",
        f"Code {origin['code_version']}; seed {plan.seed}; digest {{digest}}.",
        "",
    ]
    return "\n".join(lines)


def _transfer(panels: Mapping[str, PanelResult]) -> list[str]:
    lines = []
    for name, result in panels.items():
        by_site = result.evaluations[PROCEDURE].by_site
        told = "; ".join(
            f"{site} AUC {metrics['auc']}, Brier {metrics['brier']}"
            for site, metrics in by_site.items()
        )
        lines.append(f"- {name}: {told or 'not estimable from these data'}")
    return lines
