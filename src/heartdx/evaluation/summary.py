"""What an evaluation says in plain language, from its document alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Part = Mapping[str, Any]


def sentences(document: Part) -> list[str]:
    """The summary, most useful first."""
    return [*_overall(document), *_unseen(document), *_level(document), *_rivals(document)]


def findings(document: Part) -> list[str]:
    """What else a careful reader should know."""
    return [
        *_strategies(document),
        *_ladders(document),
        *_stability(document),
        *_group_findings(document),
    ]


def _overall(document: Part) -> Iterator[str]:
    metrics = document["policy"]["metrics"]
    auc, within = metrics["auc"], metrics["auc_within"]
    yield (
        f"All {document['policy']['patients']} patients, each answered by the richest panel their "
        f"known inputs allow, cross-validated: AUC {_said(auc)}; inside hospitals, where the "
        f"hospital itself gives nothing away, {_said(within)}; Brier score "
        f"{_said(metrics['brier'])}."
    )


def _unseen(document: Part) -> Iterator[str]:
    pooled = document["policy"]["pooled"]
    if not pooled:
        yield "What to expect in an unseen hospital cannot be estimated from these data."
        return
    auc = pooled["auc"]
    each = ", ".join(
        f"{site} {part['metrics']['auc']['value']:.3f}"
        for site, part in document["policy"]["held_out"].items()
    )
    low, high = auc["prediction"]["low"], auc["prediction"]["high"]
    if low is None:
        yield f"Held-out hospitals: {each}; too few for a prediction interval."
        return
    yield (
        f"In an unseen hospital expect an AUC between {low:.2f} and {high:.2f} (95 % prediction "
        f"interval from {auc['hospitals']} hospitals, each scored by models that never saw it: "
        f"{each}). From so few hospitals the interval is wide and itself uncertain."
    )


def _level(document: Part) -> Iterator[str]:
    pooled = document["policy"]["pooled"]
    if not pooled or "o_e" not in pooled:
        return
    far = [
        f"{site} {metrics['o_e']['value']:.2f}"
        for site, part in document["policy"]["held_out"].items()
        if (metrics := part["metrics"])["o_e"]["value"] is not None
    ]
    yield (
        "The level of the probabilities does not carry over: observed over expected patients with "
        f"disease is {', '.join(far)} (1 is right). Recalibrate on local patients before use."
    )
    by_size: dict[int, list[str]] = {}
    for site, part in (document["ladder"] or {}).items():
        if part["usable_from"] is not None:
            by_size.setdefault(part["usable_from"], []).append(site)
    for size, sites in by_size.items():
        yield (
            f"Recalibrated on {size} local patients, the probabilities beat the prevalence of the "
            f"same patients at {', '.join(sites)}, on average over draws."
        )


def _rivals(document: Part) -> Iterator[str]:
    """By how much anything beats plain logistic regression, or that nothing does."""
    for name, panel in document["panels"].items():
        rivals = {
            candidate: part["difference"]["log_loss"]
            for candidate, part in panel["candidates"].items()
            if part["difference"]
            and _role(document, candidate) in ("eligible", "comparator")
            and part["difference"]["log_loss"] != {"value": 0.0, "low": 0.0, "high": 0.0}
        }
        better = {c: d for c, d in rivals.items() if d["high"] is not None and d["high"] < 0}
        if not rivals:
            continue
        if better:
            told = "; ".join(
                f"{document['candidates'][c]['label'].lower()} by {_said(d)}"
                for c, d in better.items()
            )
            yield f"{name}: in log loss plain logistic regression is beaten by {told}."
        else:
            best = min(rivals, key=lambda c: rivals[c]["value"])
            yield (
                f"{name}: no rival beats plain logistic regression beyond chance; the nearest is "
                f"{document['candidates'][best]['label'].lower()}, whose log loss differs by "
                f"{_said(rivals[best])}."
            )


def _strategies(document: Part) -> Iterator[str]:
    """Which ways to live with missing inputs differ from the panels, for better or worse."""
    for strategy in (document["missing"] or {}).get("strategies", ()):
        difference = strategy["difference"]
        if not difference or difference["high"] is None:
            continue
        if difference["high"] < 0 or difference["low"] > 0:
            better = "better" if difference["high"] < 0 else "worse"
            yield (
                f"Missing inputs in held-out hospitals: {strategy['label'].lower()} is {better} "
                f"than the panels by {_said(difference)} in the mean Brier score (mean AUC inside "
                f"hospitals {strategy['mean_auc']:.3f})."
            )


def _ladders(document: Part) -> Iterator[str]:
    for site, part in (document["ladder"] or {}).items():
        if not part["gated"]:
            rarer = min(part["events"], part["patients"] - part["events"])
            yield (
                f"At {site} only {rarer} patients have the rarer outcome: its ladder is shown and "
                "proves nothing."
            )


def _stability(document: Part) -> Iterator[str]:
    for name, panel in document["panels"].items():
        size = panel["sample_size"]
        if size and not size["enough"]:
            yield (
                f"{name}: {panel['patients']} patients are fewer than the {size['needed']} that "
                f"{size['parameters']} parameters ask for."
            )
        if panel["stability"]:
            shaken = panel["stability"]["instability"]
            yield (
                f"{name}: another sample of as many patients would change a probability by "
                f"{shaken['mape']:.3f} on average, and "
                f"{shaken['changed_decisions']:.1%} of the decisions."
            )


def _group_findings(document: Part) -> Iterator[str]:
    for group in document["policy"]["groups"]:
        for metric, p in (group.get("p_adjusted") or {}).items():
            if p is not None and p < 0.05:
                label = document["metrics"].get(metric, metric)
                yield (
                    f"{group['by']} {group['group']}: {label} differs from all other patients by "
                    f"{_said(group['difference'][metric])}, adjusted p {_p(p)}."
                )


def _role(document: Part, candidate: str) -> str:
    return str(document["candidates"][candidate]["role"])


def _said(part: Part) -> str:
    if part["value"] is None:
        return "not estimable"
    if part["low"] is None:
        return f"{part['value']:.3f}"
    return f"{part['value']:.3f} ({part['low']:.3f} to {part['high']:.3f})"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"
