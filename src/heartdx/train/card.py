"""The model card that travels inside the bundle: short, from the facts of the run only.

References
----------
.. [1] Mitchell M et al. Model cards for model reporting. FAT* 2019:220-229.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heartdx import checks
from heartdx.contract import OUTCOME, PANEL_BY_NAME, SITE_COLUMN
from heartdx.evaluation.panels import LABELS, Plan, Results
from heartdx.reliability import ABSTAIN_REASONS, Policy

SHIPPED = "shipped_patients"
"""Kind of the finding that counts rows recognised as UCI's."""


def text(
    *,
    data: checks.Loaded,
    plan: Plan,
    results: Results,
    origin: Mapping[str, Any],
    policy: Policy | None = None,
) -> str:
    """The card as Markdown; ``{version}`` and ``{digest}`` are filled in when it is written."""
    return "\n".join(
        [
            "# heartdx {version}",
            "",
            f"**Answers:** the probability of {OUTCOME.positive} "
            f"({OUTCOME.description[0].lower()}{OUTCOME.description[1:]})",
            "",
            "**For:** patients who have been sent to coronary angiography. Not for screening, not "
            "for prognosis, not a medical device.",
            "",
            f"**Decision:** *{OUTCOME.positive}* from a probability of {plan.threshold:g} on; it "
            f"follows from a declared harm ratio of {plan.harm_ratio:g} (harm of a missed patient "
            "over harm of a false alarm). Declare your own with --harm-ratio. "
            f"{_abstains(policy or Policy())}",
            "",
            f"**Trained on:** {_patients(data, origin)}",
            "",
            *_panels(results),
            "",
            f"Estimates of the chosen models: {plan.repeats} times {plan.splits}-fold nested "
            "cross-validation by patient, tuning inside; 95 % intervals over patients. Inside "
            "hospitals: the mean of each hospital's own AUC.",
            "",
            "**In a hospital it has not seen** (trained without that hospital; in the large above "
            "0: probabilities too low there):",
            "",
            *_transfer(results),
            "",
            f"**Limits:** {_limits(data, results)}",
            "",
            f"Code {origin['code_version']}; seed {plan.seed}; digest {{digest}}.",
            "",
        ]
    )


def _abstains(policy: Policy) -> str:
    if not policy.abstain_when:
        return "The decision is never left open (--abstain-when)."
    reasons = " or ".join(ABSTAIN_REASONS[word] for word in policy.abstain_when)
    return f"It is left open where: {reasons}."


def _patients(data: checks.Loaded, origin: Mapping[str, Any]) -> str:
    sites = ", ".join(f"{site} {count}" for site, count in origin["data"]["sites"].items())
    told = f"{len(data.frame)} patients ({sites})."
    known = sum(f.count for f in data.findings if f.kind == SHIPPED)
    if known >= len(data.frame):  # the finding counts the whole file, --site may take a part
        return told + (
            " All are of UCI Heart Disease, doi:10.24432/C52P4X, CC BY 4.0, seen 1981-1987."
        )
    if known:
        return told + f" {known} of them are of UCI Heart Disease, doi:10.24432/C52P4X, CC BY 4.0."
    return told


def _panels(results: Results) -> list[str]:
    lines = [
        "| panel | needs | model | patients | AUC | inside hospitals | Brier | calibration slope |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.panels.items():
        metrics = result.headline.metrics
        numbers = " | ".join(
            str(metrics[key]) for key in ("auc", "auc_within", "brier", "calibration_slope")
        )
        lines.append(
            f"| {name} | {', '.join(PANEL_BY_NAME[name].required)} | "
            f"{LABELS[result.choice.candidate]} | {len(result.patients.y)} | {numbers} |"
        )
    lines += ["", *(f"Not trained: {name}; {why}." for name, why in results.skipped.items())]
    return lines


def _transfer(results: Results) -> list[str]:
    lines = []
    for name, result in results.panels.items():
        told = "; ".join(
            f"{site} AUC {metrics['auc']}, Brier {metrics['brier']}, calibration in the large "
            f"{metrics['calibration_in_the_large']}"
            for site, metrics in result.headline.by_site.items()
        )
        lines.append(f"- {name}: {told or 'not estimable from these data'}")
    return lines


def _limits(data: checks.Loaded, results: Results) -> str:
    sites = data.frame[SITE_COLUMN].nunique()
    women = float((data.frame["sex"] == 0).mean())
    alone = [name for name, result in results.panels.items() if not result.headline.by_site]
    limits = [f"{sites} hospital{'s' if sites > 1 else ''}", f"{women:.0%} women"]
    if alone:
        limits.append(f"transfer of {', '.join(alone)} rests on no second hospital")
    return ", ".join(limits) + "; no validation since; recalibrate on local patients before use."
