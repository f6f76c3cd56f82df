"""Keep the figures of the last full evaluation, and check that a new one gives the same.

``python tools/evidence.py reports/evaluation.json`` writes docs/evidence.json: the evaluation
without curves and without anything that belongs to one patient. With ``--check`` nothing is
written, each figure that moved is named, and the exit code is 1. docs/evaluation.md is generated
from the kept file by tools/docs.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "docs" / "evidence.json"
TOLERANCE = 0.01
"""Another processor's arithmetic moves a figure by less; a changed method moves some by more."""
METRICS = (
    "auc",
    "auc_within",
    "brier",
    "log_loss",
    "calibration_slope",
    "calibration_in_the_large",
    "o_e",
    "ici",
    "sensitivity",
    "specificity",
    "net_benefit",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the kept figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "evaluation", type=Path, help="reports/evaluation.json of a full evaluation"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on a change")
    arguments = parser.parse_args(argv)
    document = json.loads(arguments.evaluation.read_text(encoding="utf-8"))
    if document["kind"] != "full":
        print(f"{arguments.evaluation}: not a full evaluation; run: make evaluate", file=sys.stderr)
        return 2
    found = kept(document)
    if arguments.check:
        moved = list(differences(json.loads(KEPT.read_text(encoding="utf-8")), found))
        for line in moved:
            print(line, file=sys.stderr)
        print(f"{KEPT.relative_to(ROOT)}: {len(moved)} figures differ by more than {TOLERANCE}")
        return 1 if moved else 0
    KEPT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{KEPT.relative_to(ROOT)}: written; now run `make docs` and commit both")
    return 0


def kept(document: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation without curves, per-patient lists and what is said elsewhere."""
    parts = ("kind", "summary", "not_estimable", "plan", "candidates", "ladder", "lottery")
    found = {name: _without_draws(document[name]) for name in parts}
    found["data"] = {k: document["data"][k] for k in ("name", "sha256", "patients", "events")}
    found["panels"] = {n: _without_draws(_panel(p)) for n, p in document["panels"].items()}
    policy = {k: v for k, v in document["policy"].items() if k not in ("curves", "groups")}
    policy["metrics"] = _metrics(policy["metrics"])
    for part in policy["held_out"].values():
        part["metrics"] = _metrics(part["metrics"])
    found["policy"] = _without_draws(policy)
    missing = document["missing"] or {}
    names = ("strategies", "further_panels", "panel_worth", "input_worth")
    found["missing"] = _without_draws({name: missing[name] for name in names if name in missing})
    return found


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Every figure that differs, by its place in the document; words are not compared."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() | other.keys():
            yield from differences(one.get(name), other.get(name), f"{where}/{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{where}/{place}")
    elif isinstance(one, str) and isinstance(other, str):
        return
    elif isinstance(one, int | float) and isinstance(other, int | float):
        if abs(one - other) > TOLERANCE * max(1.0, abs(one)):
            yield f"{where}: kept {one}, found {other}"
    elif one != other:
        yield f"{where}: kept {one}, found {other}"


def _panel(panel: Mapping[str, Any]) -> dict[str, Any]:
    names = ("patients", "events", "used", "chosen", "reason", "pooled", "sample_size")
    found = {name: panel[name] for name in names}
    found["calibration"] = panel["calibration"]
    found["candidates"] = {
        name: {
            "metrics": _metrics(part["metrics"]),
            "difference": part["difference"],
            "held_out": {
                site: {m: metrics[m] for m in ("auc", "brier", "log_loss")}
                for site, metrics in part["held_out"].items()
            },
        }
        for name, part in panel["candidates"].items()
    }
    stability = panel["stability"]
    if stability:
        shaken = stability["instability"]
        found["stability"] = {
            "bootstraps": stability["bootstraps"],
            "optimism": stability["optimism"],
            "instability": {k: v for k, v in shaken.items() if k not in ("p", "low", "high")},
        }
    return found


def _metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in METRICS}


def _without_draws(part: Any) -> Any:
    """The same without the list of every single draw."""
    if isinstance(part, dict):
        return {name: _without_draws(value) for name, value in part.items() if name != "aucs"}
    if isinstance(part, list):
        return [_without_draws(value) for value in part]
    return part


def readme_mismatches(readme: str, evidence: Mapping[str, Any]) -> list[str]:
    """Rows of README.md's table of held-out hospitals that the kept figures do not give."""
    shown = ("auc", "brier", "calibration_slope", "o_e")
    rows = [
        f"| {site} | {' | '.join(_fig(part['metrics'][m]) for m in shown)} |"
        for site, part in evidence["policy"]["held_out"].items()
    ]
    return [row for row in rows if row not in readme]


# -- the page --------------------------------------------------------------------------------


def page(evidence: Mapping[str, Any]) -> list[str]:
    """The paragraphs and tables of docs/evaluation.md."""
    plan = evidence["plan"]
    parts = [
        "# What the models are worth",
        f"From the full evaluation of {evidence['data']['patients']} patients "
        f"(`heartdx evaluate --full`): {plan['repeats']} times {plan['splits']}-fold nested "
        f"cross-validation, {plan['bootstraps']} bootstrap models a panel, {plan['draws']} draws "
        f"a ladder, seed {plan['seed']}. 95 % intervals in brackets. `reports/evaluation.html` has "
        "the pictures, groups and methods with their papers.",
        "## In plain words",
        "\n".join(f"- {sentence}" for sentence in evidence["summary"]),
        "## Not estimable",
        "\n".join(f"- {sentence}" for sentence in evidence["not_estimable"]) or "Nothing.",
        "## Candidates, cross-validated",
        "Log loss against plain logistic regression is paired: below 0 the candidate is better.",
        *(_candidates(name, panel, evidence) for name, panel in evidence["panels"].items()),
        "## In a hospital that trained nothing",
        "All patients of the hospital, each answered by the richest panel that could be trained "
        "without it.",
        _held_out(evidence["policy"]),
        _pooled(evidence["policy"]["pooled"]),
        *_single(evidence["policy"]["single_hospital"]),
        "## How many local patients mend the level",
        "Brier score of the other patients of the hospital, mean over draws, after the step that a "
        "closed test picks, and of intercept and prevalence from the same local patients.",
        _ladder(evidence["ladder"]),
        "## Missing inputs, in held-out hospitals",
        "A difference below 0 in the mean Brier score is better than the panels. Missing "
        "indicators may recognise the hospital from what it does not record.",
        _strategies(evidence["missing"]["strategies"]),
        "Further panels tried:",
        "\n".join(f"- {_named(p)}: {p['reason']}" for p in evidence["missing"]["further_panels"]),
        "## Stability",
        _stability(evidence["panels"]),
        "## One lucky split",
        _lottery(evidence["lottery"]),
    ]
    return [part for part in parts if part]


def _named(panel: Mapping[str, Any]) -> str:
    return f"{panel['name']} ({panel['patients']} patients)"


def _candidates(name: str, panel: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    heads = ("AUC", "inside hospitals", "Brier", "log loss", "slope", "log loss against it")
    rows = []
    for candidate, part in panel["candidates"].items():
        label = evidence["candidates"][candidate]["label"]
        metrics = part["metrics"]
        cells = [_fig(metrics[m]) for m in ("auc", "auc_within", "brier")]
        cells += [_value(metrics["log_loss"]), _fig(metrics["calibration_slope"])]
        cells.append(_fig(part["difference"].get("log_loss")))
        mark = f"**{label}**" if candidate == panel["chosen"] else label
        rows.append([mark, *cells])
    return _table([f"{name} ({panel['patients']} patients)", *heads], rows)


def _held_out(policy: Mapping[str, Any]) -> str:
    shown = ("auc", "brier", "calibration_slope", "o_e")
    rows = [
        [
            site,
            str(part["patients"]),
            str(part["events"]),
            *(_fig(part["metrics"][m]) for m in shown),
        ]
        for site, part in policy["held_out"].items()
    ]
    heads = ["hospital", "patients", "diseased", "AUC", "Brier", "slope", "observed / expected"]
    return _table(heads, rows)


def _pooled(pooled: Mapping[str, Any] | None) -> str:
    if not pooled:
        return ""
    labels = {"auc": "AUC", "o_e": "observed / expected", "calibration_slope": "slope"}
    rows = [
        [
            labels[name],
            _fig(part["mean"]),
            f"{part['prediction']['low']:.3f} to {part['prediction']['high']:.3f}",
            f"{part['tau']:.3f} ({part['scale']})",
            f"{part['i_squared']:.0f} %",
        ]
        for name, part in pooled.items()
    ]
    heads = ["over hospitals", "mean", "95 % prediction interval, new hospital", "tau", "I²"]
    return _table(heads, rows)


def _single(part: Mapping[str, Any] | None) -> Iterator[str]:
    if part is None:
        return
    yield f"Trained on {part['trained_on']} alone:"
    rows = []
    for label, key in (("all inputs", "held_out"), ("required inputs only", "required_only")):
        for site, found in part[key].items():
            metrics = found["metrics"]
            rows.append([label, site, _fig(metrics["auc"]), _fig(metrics["brier"])])
    yield _table(["model", "hospital", "AUC", "Brier"], rows)


def _ladder(ladder: Mapping[str, Any]) -> str:
    rows = []
    for site, part in ladder.items():
        for place, size in enumerate(part["sizes"]):
            briers = [
                f"{part['steps'][step]['brier'][place]['value']:.3f}"
                for step in ("none", "intercept", "closed_test", "prevalence", "refit")
            ]
            rows.append([site, str(size), *briers, _fig(part["advantage"][place])])
    heads = ["hospital", "local patients", "as it is", "intercept", "closed test"]
    return _table([*heads, "prevalence", "refit", "closed test minus prevalence"], rows)


def _strategies(strategies: Sequence[Mapping[str, Any]]) -> str:
    sites = list(strategies[0]["held_out"])
    rows = [
        [
            part["label"],
            *(
                f"{found['auc']['value']:.3f} / {found['brier']['value']:.3f}"
                for found in (part["held_out"][site] for site in sites)
            ),
            f"{part['mean_auc']:.3f} / {part['mean_brier']:.3f}",
            _fig(part["difference"]),
        ]
        for part in strategies
    ]
    return _table(["AUC / Brier", *sites, "mean", "Brier minus panels"], rows)


def _stability(panels: Mapping[str, Any]) -> str:
    rows = []
    for name, panel in panels.items():
        stability, size = panel.get("stability"), panel["sample_size"]
        if not stability:
            continue
        auc, slope = (stability["optimism"][m] for m in ("auc", "calibration_slope"))
        rows.append(
            [
                name,
                f"{auc['apparent']:.3f} → {auc['corrected']:.3f}",
                f"{slope['corrected']:.3f}",
                f"{stability['instability']['mape']:.3f}",
                f"{100 * stability['instability']['changed_decisions']:.1f} %",
                f"{size['parameters']} / {size['needed']}" if size else "-",
            ]
        )
    heads = ["panel", "AUC apparent → corrected", "slope corrected", "MAPE", "decisions changed"]
    return _table([*heads, "parameters / patients needed"], rows)


def _lottery(lottery: Mapping[str, Any] | None) -> str:
    if not lottery:
        return "Not run."
    interval = lottery["interval"]
    return (
        f"{lottery['draws']} single 80/20 splits of {lottery['site']} give AUCs from "
        f"{lottery['min']:.3f} to {lottery['max']:.3f} (95 % of them {lottery['low']:.3f} to "
        f"{lottery['high']:.3f}); seed 42 gives {lottery['seed_42']:.3f}. The estimate that uses "
        f"every patient is {_fig(interval)}."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _fig(part: Mapping[str, Any] | None) -> str:
    if not part or part["value"] is None:
        return "-"
    if part.get("low") is None:
        return f"{part['value']:.3f}"
    return f"{part['value']:.3f} ({part['low']:.3f} to {part['high']:.3f})"


def _value(part: Mapping[str, Any]) -> str:
    return "-" if part["value"] is None else f"{part['value']:.3f}"


if __name__ == "__main__":
    sys.exit(main())
