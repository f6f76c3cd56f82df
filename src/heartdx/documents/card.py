"""The long model card: what a model is for, made from, worth, and not for.

References
----------
.. [1] Mitchell M et al. Model cards for model reporting. FAT* 2019:220-229.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heartdx.contract import OUTCOME, PANEL_NAMES
from heartdx.documents.facts import (
    NOT_ESTIMABLE,
    NOT_STATED,
    Facts,
    at,
    code,
    entries,
    figure,
    headline,
    is_shipped,
    mappings,
    number,
    share,
    span,
    table,
    words,
)

PERFORMANCE = (
    ("AUC", "auc"),
    ("AUC inside hospitals", "auc_within"),
    ("Brier score", "brier"),
    ("log loss", "log_loss"),
)
CALIBRATION = (
    ("slope (1 is right)", "slope"),
    ("in the large (0 is right)", "in_the_large"),
    ("observed / expected (1 is right)", "o_e"),
    ("calibration index (0 is right)", "ici"),
)
DECISION = (
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("PPV", "ppv"),
    ("NPV", "npv"),
)
HELD_OUT = (
    ("AUC", "auc"),
    ("Brier score", "brier"),
    ("calibration slope", "calibration_slope"),
    ("in the large", "calibration_in_the_large"),
    ("observed / expected", "o_e"),
)
GROUPS = (
    ("AUC", "auc"),
    ("observed / expected", "o_e"),
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("net benefit", "net_benefit"),
)
POOLED = (("auc", "AUC"), ("o_e", "observed / expected"), ("calibration_slope", "slope"))


def card(facts: Facts) -> str:
    """The card as Markdown."""
    sections = (
        ("Model", _model(facts)),
        ("Intended use", _use(facts)),
        ("Factors", _factors(facts)),
        ("Training data", _data(facts.trained_on)),
        ("Evaluation data", _judged(facts)),
        ("Performance by panel", _panels(facts)),
        ("Calibration", _calibration(facts)),
        ("Decisions at the declared threshold", _decisions(facts)),
        ("In a hospital it has not seen", _transfer(facts)),
        ("Groups of patients", _groups(facts)),
        ("Limits", _limits(facts)),
        ("Ethical considerations", _ethics(facts)),
        ("Before use in a hospital", _updating(facts)),
        ("How to reproduce", _reproduce(facts)),
        ("Sources", _sources(facts)),
    )
    lines = ["# Model card", ""]
    for title, body in sections:
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _model(facts: Facts) -> list[str]:
    model, manifest = facts.evaluation.get("model"), facts.manifest
    made_by = at(manifest, "code_version") or facts.evaluation.get("heartdx_version")
    return [
        f"- Name: {words(at(manifest, 'name') or at(model, 'name'))}",
        f"- Version: {code(at(manifest, 'version') or at(model, 'version'))}",
        f"- Digest: {code(at(manifest, 'digest') or at(model, 'digest'))}",
        f"- Made on: {code(at(manifest, 'created'))}, by heartdx {code(made_by)}",
        f"- Kind: {_kinds(facts)}",
        f"- Answers: the probability of {OUTCOME.positive} at angiography. {OUTCOME.description}",
        f"- Owner and contact: {NOT_STATED}",
        f"- Licence of the model: {NOT_STATED}",
    ]


def _kinds(facts: Facts) -> str:
    told = [f"{name}: {_chosen_label(facts, panel)}" for name, panel in facts.panels.items()]
    return words(told)


def _chosen_label(facts: Facts, panel: Mapping[str, Any]) -> str:
    chosen = panel.get("chosen")
    return words(at(facts.evaluation, "candidates", str(chosen), "label") or chosen)


def _use(facts: Facts) -> list[str]:
    return [
        "- Use: a diagnostic probability for a patient who has been sent to coronary angiography.",
        "- Users: clinical prediction teams and engineers who study, extend or test it.",
        "- Out of scope: screening, prognosis, patients not sent to angiography, and care. It is "
        "not a medical device.",
        f"- Decision: *{OUTCOME.positive}* from a probability of {number(facts.threshold)} on. It "
        f"follows from a declared harm ratio of {number(facts.harm_ratio)}: the harm of a missed "
        "patient over the harm of a false alarm.",
        *_judged_elsewhere(facts),
    ]


def _judged_elsewhere(facts: Facts) -> list[str]:
    judged = at(facts.evaluation, "plan", "threshold")
    if judged is None or judged == facts.threshold:
        return []
    return [f"- The evaluation below judges decisions at {number(judged)}, not at that threshold."]


def _factors(facts: Facts) -> list[str]:
    told = [
        [name, words(panel.get("label")), words(panel.get("required")), words(panel.get("used"))]
        for name, panel in facts.panels.items()
    ]
    by = dict.fromkeys(
        words(group.get("by")) for group in entries(at(facts.evaluation, "policy", "groups"))
    )
    return [
        "The richest panel whose required inputs are known answers a patient.",
        "",
        *table(["panel", "stands for", "required", "used"], told),
        "",
        f"Groups looked at: {words(list(by))}.",
    ]


def _data(data: Mapping[str, Any]) -> list[str]:
    sites = at(data, "sites")
    told = mappings(sites)
    counted = {s: n for s, n in sites.items() if s not in told} if sites else {}
    rows = [
        [
            site,
            number(found.get("patients")),
            share(found.get("events"), found.get("patients")),
            share(found.get("women"), found.get("patients")),
            number(found.get("age_median")),
        ]
        for site, found in told.items()
    ] + [[site, number(n), *[NOT_STATED] * 3] for site, n in counted.items()]
    return [
        f"- Patients: {number(data.get('patients'))}",
        f"- With disease: {number(data.get('events'))}",
        f"- File: {words(data.get('name'))}, SHA-256 {code(data.get('sha256'))}",
        f"- Coding: {words(data.get('coding'))}",
        f"- Source: {_source(data)}",
        *_bullets("Found in it", data.get("findings")),
        "",
        *table(["hospital", "patients", "with disease", "women", "median age"], rows),
    ]


def _bullets(title: str, said: object) -> list[str]:
    """A sentence each; one word where a list says that there is nothing."""
    if isinstance(said, list) and said:
        return [f"- {title}:", *(f"  - {words(sentence)}" for sentence in said)]
    return [f"- {title}: {'none' if said == [] else words(said)}"]


def _source(data: Mapping[str, Any]) -> str:
    if not is_shipped(data):
        return NOT_STATED
    return (
        "UCI Heart Disease, doi:10.24432/C52P4X, CC BY 4.0; patients sent to angiography, 1981-1987"
    )


def _judged(facts: Facts) -> list[str]:
    plan = facts.evaluation.get("plan")
    if facts.is_local:
        overlap = at(facts.evaluation, "overlap", "message")
        return [
            "A hospital's own file.",
            "",
            *_data(facts.judged_on),
            "",
            f"Overlap with the training data: {words(overlap)}.",
        ]
    whose = "The training data" if facts.is_same_file else "Another file than the training data"
    return [
        f"{whose}, out of sample.",
        "",
        f"- Nested cross-validation by patient: {number(at(plan, 'splits'))} folds, "
        f"{number(at(plan, 'repeats'))} repeats, tuning inside.",
        "- Each hospital scored by models that the other hospitals trained, where there are any.",
        f"- Bootstrap samples: {number(at(plan, 'bootstraps'))}",
        *([] if facts.is_same_file else ["", *_data(facts.judged_on)]),
    ]


def _panels(facts: Facts) -> list[str]:
    rows = [
        [
            name,
            _chosen_label(facts, panel),
            number(panel.get("patients")),
            number(panel.get("events")),
            *_figures(at(headline(panel), "metrics"), PERFORMANCE),
        ]
        for name, panel in facts.panels.items()
    ]
    header = ["panel", "model", "patients", "with disease", *_names(PERFORMANCE)]
    return [
        "Estimates with 95 % intervals. A pooled AUC also rewards telling hospitals apart, so the "
        "AUC inside hospitals stands beside it.",
        "",
        *table(header, rows),
        "",
        *(f"- {name}: {words(panel.get('reason'))}" for name, panel in facts.panels.items()),
    ]


def _calibration(facts: Facts) -> list[str]:
    rows = [
        [name, *_figures(panel.get("calibration"), CALIBRATION)]
        for name, panel in facts.panels.items()
    ]
    return table(["panel", *_names(CALIBRATION)], rows)


def _decisions(facts: Facts) -> list[str]:
    rows = [
        [
            name,
            number(at(panel, "operating_point", "threshold")),
            *_figures(panel.get("operating_point"), DECISION),
            figure(at(headline(panel), "metrics", "net_benefit")),
        ]
        for name, panel in facts.panels.items()
    ]
    return table(["panel", "threshold", *_names(DECISION), "net benefit"], rows)


def _transfer(facts: Facts) -> list[str]:
    policy = facts.evaluation.get("policy")
    rows = [
        [
            site,
            number(found.get("patients")),
            share(found.get("events"), found.get("patients")),
            *_figures(found.get("metrics"), HELD_OUT),
        ]
        for site, found in mappings(at(policy, "held_out")).items()
    ]
    return [
        "Every patient answered by the richest panel, by models that saw nobody of the hospital. "
        "In the large above 0: probabilities too low there.",
        "",
        *table(["hospital", "patients", "with disease", *_names(HELD_OUT)], rows),
        "",
        "What a further hospital may expect:",
        "",
        *_pooled("every patient", policy),
        *(line for name, panel in facts.panels.items() for line in _pooled(f"panel {name}", panel)),
    ]


def _pooled(whom: str, found: object) -> list[str]:
    if not isinstance(found, Mapping) or "pooled" not in found:
        return [f"- {whom}: {NOT_STATED}"]
    if found["pooled"] is None:
        return [f"- {whom}: {NOT_ESTIMABLE} from these data"]
    pooled = found["pooled"]
    return [
        f"- {whom}, {label}: mean {figure(at(pooled, key, 'mean'))}, 95 % prediction interval "
        f"{span(at(pooled, key, 'prediction'))}, {number(at(pooled, key, 'hospitals'))} hospitals"
        for key, label in POOLED
    ]


def _groups(facts: Facts) -> list[str]:
    rows = []
    for group in entries(at(facts.evaluation, "policy", "groups")):
        shown = _figures(group.get("metrics"), GROUPS)
        if group.get("shown") is False:
            shown = [f"not shown: {words(group.get('reason'))}", *["-"] * (len(GROUPS) - 1)]
        rows.append(
            [
                words(group.get("by")),
                words(group.get("group")),
                number(group.get("patients")),
                number(group.get("events")),
                *shown,
            ]
        )
    return table(["by", "group", "patients", "with disease", *_names(GROUPS)], rows)


def _limits(facts: Facts) -> list[str]:
    evaluation = facts.evaluation
    skipped = at(facts.manifest, "skipped_panels")
    left_out = (
        [f"{name}: {why}" for name, why in skipped.items()]
        if isinstance(skipped, Mapping)
        else None
    )
    sizes = [
        f"{name} {'enough' if found.get('enough') else 'too few'}, "
        f"{number(panel.get('patients'))} patients, {number(found.get('needed'))} needed"
        for name, panel in facts.panels.items()
        if isinstance(found := panel.get("sample_size"), Mapping)
    ]
    told: tuple[tuple[str, object], ...] = (
        ("Not estimable", evaluation.get("not_estimable")),
        ("Found", evaluation.get("findings")),
        ("Panels not trained", left_out),
        ("Sample size", sizes or None),
        ("Gates not passed", _failed_gates(facts)),
    )
    return [
        *(line for title, said in told for line in _bullets(title, said)),
        "- A diagnosis at the time of the examination: no statement on the future of a patient.",
        "- Every patient was sent to angiography; a probability holds for such patients only.",
        f"- Validation in care: {NOT_STATED}",
    ]


def _failed_gates(facts: Facts) -> object:
    gates = facts.evaluation.get("gates")
    if not isinstance(gates, list) or not gates:
        return None
    return [
        f"{words(gate.get('name'))} ({words(gate.get('reason'))})"
        for gate in entries(gates)
        if gate.get("passed") is not True
    ]


def _ethics(facts: Facts) -> list[str]:
    return [
        "- Personal data: the bundle holds weights and synthetic records, no patient.",
        f"- Consent and ethical approval of the data collection: {NOT_STATED}",
        f"- Ethnicity, income and other sociodemographic attributes: {NOT_STATED}; the data have "
        "age, sex and hospital only.",
        "- Sex is an input. How far performance differs by sex stands under *Groups of patients*.",
        f"- Harms weighed: a missed patient counts {number(facts.harm_ratio)} times a false alarm; "
        "who decides declares it.",
        f"- Patients and public involved: {NOT_STATED}",
    ]


def _updating(facts: Facts) -> list[str]:
    ladder = facts.evaluation.get("ladder")
    rows = [
        [
            site,
            number(found.get("patients")),
            _usable_from(found),
        ]
        for site, found in mappings(ladder).items()
    ]
    return [
        "Recalibrate on local patients, and evaluate on others of them. How many local patients "
        "updating took here, each hospital treated as new:",
        "",
        *table(["hospital", "patients", "better than its prevalence from"], rows),
    ]


def _usable_from(found: Mapping[str, Any]) -> str:
    if "usable_from" in found and found["usable_from"] is None:
        return "none of the sizes tried"
    told = number(found.get("usable_from"))
    return (
        f"{told}, but too few of one outcome to prove it" if found.get("gated") is False else told
    )


def _reproduce(facts: Facts) -> list[str]:
    manifest = facts.manifest
    plan = {**(at(manifest, "evaluation") or at(facts.evaluation, "plan") or {})}
    libraries = at(manifest, "libraries")
    named = [f"{name} {code(v)}" for name, v in libraries.items()] if libraries else None
    return [
        f"- Seed: {number(plan.get('seed'))}",
        f"- Folds and repeats: {number(plan.get('splits'))} and {number(plan.get('repeats'))}",
        f"- Data, SHA-256: {code(at(facts.trained_on, 'sha256'))}",
        f"- Code: {code(at(manifest, 'code_version'))}",
        f"- Python: {code(at(manifest, 'python'))}; libraries: {words(named)}",
        f"- Contract: {code(at(manifest, 'contract', 'fingerprint'))}",
        f"- Command: `{_command({**plan, 'harm_ratio': facts.harm_ratio})}`",
        "",
        f"The panels, in the order of care: {', '.join(PANEL_NAMES)}.",
    ]


def _command(plan: Mapping[str, Any]) -> str:
    options = (
        ("--cv-splits", "splits"),
        ("--repeats", "repeats"),
        ("--seed", "seed"),
        ("--harm-ratio", "harm_ratio"),
    )
    told = [f"{option} {plan[key]:g}" for option, key in options if plan.get(key) is not None]
    return " ".join(["heartdx train --data FILE", *told])


def _sources(facts: Facts) -> list[str]:
    cited = dict.fromkeys(
        words(method.get("source"))
        for method in mappings(facts.evaluation.get("methods")).values()
        if method.get("source")
    )
    return [
        "- Mitchell M et al. Model cards for model reporting. FAT* 2019:220-229.",
        *(f"- {source}" for source in cited),
    ]


def _figures(found: object, columns: tuple[tuple[str, str], ...]) -> list[str]:
    return [figure(at(found, key)) for _, key in columns]


def _names(columns: tuple[tuple[str, str], ...]) -> list[str]:
    return [label for label, _ in columns]
