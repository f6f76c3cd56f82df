"""TRIPOD+AI: every item of the reporting guideline, answered from the facts or *not stated*.

The items are asked in our own words; the guideline's text is the authority.

References
----------
.. [1] Collins GS et al. TRIPOD+AI statement: updated guidance for reporting clinical prediction
   models that use regression or machine learning methods. BMJ 2024;385:e078378.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heartdx.contract import ATTRIBUTES, OUTCOME, SITES
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
    unmarked,
    words,
)

Answer = Callable[[Facts], str]


@dataclass(frozen=True)
class Item:
    """One item of the guideline.

    Parameters
    ----------
    number : as in the guideline, with its letter.
    topic : section and topic.
    asked : what is asked, in our words.
    answer : from facts to a text, or to the marker where the run does not know.
    where : where a reader finds it.
    """

    number: str
    topic: str
    asked: str
    answer: Answer
    where: str


def tripod(facts: Facts) -> str:
    """The filled-in list as Markdown."""
    answers = [(item, item.answer(facts)) for item in ITEMS]
    rows = [
        [
            item.number,
            item.topic,
            item.asked,
            answer,
            item.where if answer != NOT_STATED else NOT_STATED,
        ]
        for item, answer in answers
    ]
    silent = [code(item.number) for item, answer in answers if answer == NOT_STATED]
    partly = [
        code(item.number)
        for item, answer in answers
        if answer != NOT_STATED and not unmarked(answer)
    ]
    return "\n".join(
        [
            "# TRIPOD+AI",
            "",
            "What the facts of a run answer of each item, for the development and the evaluation "
            "of the model. Items are asked in our own words.",
            "",
            f"Not stated: {', '.join(silent) or 'none'}.",
            "",
            f"Stated in part: {', '.join(partly) or 'none'}.",
            "",
            *table(["Item", "section", "asked", "answer", "where"], rows),
            "",
            "## Sources",
            "",
            "- Collins GS et al. TRIPOD+AI statement. BMJ 2024;385:e078378.",
            "",
        ]
    )


# -- title, introduction ---------------------------------------------------------------------------


def _silent(_facts: Facts) -> str:
    return NOT_STATED


def _says(text: str) -> Answer:
    return lambda _facts: text


def _title(facts: Facts) -> str:
    study = "Evaluation" if facts.is_local else "Development and evaluation"
    return (
        f"{study} of a model of the probability of {OUTCOME.positive} at coronary angiography, in "
        f"patients sent to it; {_kinds(facts)}"
    )


def _kinds(facts: Facts) -> str:
    labels = dict.fromkeys(_label(facts, panel) for panel in facts.panels.values())
    return words(list(labels))


def _label(facts: Facts, panel: Mapping[str, Any]) -> str:
    chosen = panel.get("chosen")
    return words(at(facts.evaluation, "candidates", str(chosen), "label") or chosen)


def _objectives(facts: Facts) -> str:
    if facts.is_local:
        return "Evaluation of a finished model on a hospital's own patients"
    return "Development, and evaluation inside and between hospitals"


# -- methods ---------------------------------------------------------------------------------------


def _data_sources(facts: Facts) -> str:
    developed = f"Development: {_source(facts.trained_on)}"
    judged = f"Evaluation: {_source(facts.judged_on)}"
    return f"{developed}. {judged}. Representativeness: {NOT_STATED}"


def _source(data: Mapping[str, Any]) -> str:
    if is_shipped(data):
        return "UCI Heart Disease, existing records of patients sent to angiography"
    return f"file {code(data['name'])}, origin {NOT_STATED}" if data.get("name") else NOT_STATED


def _dates(facts: Facts) -> str:
    return "1981 to 1987; no follow-up" if is_shipped(facts.trained_on) else NOT_STATED


def _setting(facts: Facts) -> str:
    sites = at(facts.judged_on, "sites")
    if not isinstance(sites, Mapping) or not sites:
        return NOT_STATED
    labels = {site.name: site.label for site in SITES}
    named = [labels.get(site, site) for site in sites]
    return f"{len(sites)} hospitals: {words(named)}"


def _eligible(facts: Facts) -> str:
    if not is_shipped(facts.trained_on):
        return f"Sent to coronary angiography; further criteria {NOT_STATED}"
    return f"Sent to coronary angiography at one of the hospitals; further criteria {NOT_STATED}"


def _preparation(facts: Facts) -> str:
    coding, findings = facts.judged_on.get("coding"), facts.judged_on.get("findings")
    if coding is None and findings is None:
        return NOT_STATED
    return (
        f"Coding found: {words(coding)}. Ranges and codes checked against the contract, alike for "
        f"all. Found: {words(findings)}"
    )


def _outcome(_facts: Facts) -> str:
    return (
        f"{OUTCOME.label}. {OUTCOME.description} Consistency across sociodemographic groups: "
        f"{NOT_STATED}"
    )


def _predictor_choice(facts: Facts) -> str:
    used = [f"{name} {number(len(panel.get('used') or []))}" for name, panel in _used(facts)]
    told = f"; inputs with a weight by panel: {words(used)}" if used else ""
    return (
        f"The {len(ATTRIBUTES)} inputs of the contract, chosen by availability along the order of "
        f"care, none by its relation to the outcome{told}"
    )


def _used(facts: Facts) -> list[tuple[str, Mapping[str, Any]]]:
    return [(n, p) for n, p in facts.panels.items() if isinstance(p.get("used"), list)]


def _size(facts: Facts) -> str:
    told = [
        f"{name}: {number(panel.get('patients'))} patients, {number(panel.get('events'))} with "
        f"disease, needed {number(found.get('needed'))}, events per parameter "
        f"{number(found.get('events_per_parameter'))}"
        for name, panel in facts.panels.items()
        if isinstance(found := panel.get("sample_size"), Mapping)
    ]
    return (
        f"All patients of the file, no size set beforehand. {words(told)}" if told else NOT_STATED
    )


def _missing(facts: Facts) -> str:
    imputed = [a.label for a in ATTRIBUTES if a.imputed]
    told = (
        f"Imputed with one typical value inside the fitted model: {words(imputed)}. Any other "
        "missing input leads to a poorer panel; nobody is left out for it"
    )
    strategies = entries(at(facts.evaluation, "missing", "strategies"))
    compared = words([words(s.get("label")) for s in strategies])
    return f"{told}. Compared with: {compared}" if strategies else told


def _use_of_data(facts: Facts) -> str:
    if facts.is_local:
        return (
            "All patients of the file evaluate the model; none trained it unless item 20c says so"
        )
    plan = facts.evaluation.get("plan")
    if not isinstance(plan, Mapping):
        return NOT_STATED
    return (
        f"All patients develop the final model. Evaluation: {number(plan.get('splits'))} folds, "
        f"{number(plan.get('repeats'))} repeats, by patient; and each hospital left out"
    )


def _building(facts: Facts) -> str:
    if not facts.panels:
        return NOT_STATED
    eligible = [
        words(found.get("label"))
        for found in mappings(facts.evaluation.get("candidates")).values()
        if found.get("role") == "eligible"
    ]
    return (
        f"Candidates: {words(eligible)}. Tuned in inner folds; the simplest within one standard "
        f"error of the lowest log loss is chosen. Chosen: {_chosen(facts)}"
    )


def _chosen(facts: Facts) -> str:
    return words([f"{name} {_label(facts, panel)}" for name, panel in facts.panels.items()])


def _clusters(facts: Facts) -> str:
    if at(facts.evaluation, "policy", "held_out") is None:
        return NOT_STATED
    return (
        "Performance in each left-out hospital, pooled by random effects with a prediction "
        f"interval; heterogeneity of weights {NOT_STATED}"
    )


def _measures(facts: Facts) -> str:
    labels = facts.evaluation.get("metrics")
    told = list(labels.values()) if isinstance(labels, Mapping) else None
    return words(told)


def _updating(facts: Facts) -> str:
    steps = {
        step.replace("_", " "): None
        for found in mappings(facts.evaluation.get("ladder")).values()
        for step in at(found, "steps") or ()
    }
    return (
        f"Tried in each hospital as if it were new: {words(list(steps))}" if steps else NOT_STATED
    )


def _calculation(facts: Facts) -> str:
    digest = at(facts.manifest, "digest") or at(facts.evaluation, "model", "digest")
    return f"By the model with digest {code(digest)}" if digest else NOT_STATED


def _fairness(facts: Facts) -> str:
    by = dict.fromkeys(
        words(g.get("by")) for g in entries(at(facts.evaluation, "policy", "groups"))
    )
    return f"Performance by {words(list(by))}; nothing was adjusted by group" if by else NOT_STATED


def _output(facts: Facts) -> str:
    return (
        f"A probability; *{OUTCOME.positive}* from {number(facts.threshold)} on, from a declared "
        f"harm ratio of {number(facts.harm_ratio)}, not found on the data"
    )


def _differences(facts: Facts) -> str:
    if facts.trained_on.get("sha256") is None or facts.judged_on.get("sha256") is None:
        return NOT_STATED
    if facts.is_same_file:
        return "None in the file: the same patients, out of sample"
    return f"Another file than the training data; differences in setting {NOT_STATED}"


def _ethics(facts: Facts) -> str:
    if is_shipped(facts.trained_on) and is_shipped(facts.judged_on):
        return f"Public data, no new patients; approval and consent then {NOT_STATED}"
    return NOT_STATED


def _data_sharing(facts: Facts) -> str:
    if is_shipped(facts.judged_on):
        return "Public: UCI Heart Disease, doi:10.24432/C52P4X, CC BY 4.0"
    return NOT_STATED


def _code_sharing(facts: Facts) -> str:
    version = at(facts.manifest, "code_version") or facts.evaluation.get("heartdx_version")
    return f"heartdx {code(version)}, Apache-2.0" if version else NOT_STATED


# -- results and discussion ------------------------------------------------------------------------


def _flow(facts: Facts) -> str:
    patients = at(facts.evaluation, "policy", "patients")
    panels = at(facts.evaluation, "policy", "panels")
    if patients is None and not panels:
        return NOT_STATED
    told = [f"{name} {number(n)}" for name, n in panels.items()] if panels else None
    return (
        f"{number(facts.judged_on.get('patients'))} in the file, {number(patients)} answered: "
        f"{words(told)}"
    )


def _characteristics(facts: Facts) -> str:
    told = [
        f"{site}: {number(found.get('patients'))} patients, with disease "
        f"{share(found.get('events'), found.get('patients'))}, women "
        f"{share(found.get('women'), found.get('patients'))}, median age "
        f"{number(found.get('age_median'))}"
        for site, found in mappings(facts.judged_on.get("sites")).items()
    ]
    return words(told)


def _comparison(facts: Facts) -> str:
    if facts.is_local:
        return words(at(facts.evaluation, "overlap", "message"))
    return _differences(facts)


def _numbers(facts: Facts) -> str:
    return words(
        [
            f"{name}: {number(panel.get('patients'))} patients, {number(panel.get('events'))} with "
            "disease"
            for name, panel in facts.panels.items()
        ]
    )


def _specification(facts: Facts) -> str:
    if facts.manifest is None:
        return NOT_STATED
    return f"Equation or graph of every panel, version {code(facts.manifest.get('version'))}"


def _performance(facts: Facts) -> str:
    told = [
        f"{name}: AUC {figure(at(headline(panel), 'metrics', 'auc'))}, inside hospitals "
        f"{figure(at(headline(panel), 'metrics', 'auc_within'))}, Brier "
        f"{figure(at(headline(panel), 'metrics', 'brier'))}, calibration slope "
        f"{figure(at(panel, 'calibration', 'slope'))}, net benefit "
        f"{figure(at(headline(panel), 'metrics', 'net_benefit'))}"
        for name, panel in facts.panels.items()
    ]
    return words(told)


def _heterogeneity(facts: Facts) -> str:
    policy = facts.evaluation.get("policy")
    if not isinstance(policy, Mapping) or "pooled" not in policy:
        return NOT_STATED
    pooled = policy["pooled"]
    if pooled is None:
        return f"Transfer is {NOT_ESTIMABLE} from these data"
    return (
        f"AUC in a further hospital: mean {figure(at(pooled, 'auc', 'mean'))}, 95 % prediction "
        f"interval {span(at(pooled, 'auc', 'prediction'))}"
    )


def _updated(facts: Facts) -> str:
    told = [
        f"{site} from {number(found.get('usable_from'))} patients"
        if found.get("usable_from") is not None
        else f"{site} at none of the sizes tried"
        for site, found in mappings(facts.evaluation.get("ladder")).items()
        if "usable_from" in found
    ]
    return f"Updating was better than the prevalence alone: {words(told)}" if told else NOT_STATED


def _interpretation(facts: Facts) -> str:
    return words(facts.evaluation.get("summary"))


def _limitations(facts: Facts) -> str:
    not_estimable, found = (facts.evaluation.get(k) for k in ("not_estimable", "findings"))
    if not not_estimable and not found:
        return NOT_STATED
    return f"Not estimable: {words(not_estimable)}. Found: {words(found)}"


_PAGE = "evaluation page"
_CONTRACT = "docs/contract.md"

ITEMS: tuple[Item, ...] = (
    Item("1", "Title", "Model, population and outcome named", _title, "this document"),
    Item("2", "Abstract", "A structured summary", _interpretation, "evaluation.json: summary"),
    Item(
        "3a",
        "Introduction: background",
        "Diagnosis or prognosis, why, and which models exist",
        _says(
            "Diagnosis. A worked, checked example of a calibrated diagnostic model. Existing "
            f"models: {NOT_STATED}"
        ),
        "README.md",
    ),
    Item(
        "3b",
        "Introduction: background",
        "For whom, where in care, used by whom",
        _says(
            "Patients sent to coronary angiography, before it; for prediction teams and engineers, "
            "not for care"
        ),
        "README.md",
    ),
    Item("3c", "Introduction: background", "Known health inequalities", _silent, _PAGE),
    Item("4", "Introduction: objectives", "Development, evaluation or both", _objectives, _PAGE),
    Item(
        "5a", "Methods: data", "Where the data come from, and why", _data_sources, "data/SOURCES.md"
    ),
    Item("5b", "Methods: data", "When patients were seen", _dates, "data/SOURCES.md"),
    Item("6a", "Methods: participants", "Setting and centres", _setting, _CONTRACT),
    Item("6b", "Methods: participants", "Who was eligible", _eligible, "data/SOURCES.md"),
    Item("6c", "Methods: participants", "Treatments received", _silent, "data/SOURCES.md"),
    Item(
        "7",
        "Methods: data preparation",
        "Cleaning and checks, alike for all groups",
        _preparation,
        f"{_CONTRACT}; evaluation.json: data.findings",
    ),
    Item("8a", "Methods: outcome", "Outcome, how and when assessed", _outcome, _CONTRACT),
    Item("8b", "Methods: outcome", "Who assessed it", _silent, _CONTRACT),
    Item("8c", "Methods: outcome", "Blinding of its assessment", _silent, _CONTRACT),
    Item("9a", "Methods: predictors", "How candidates were picked", _predictor_choice, _CONTRACT),
    Item(
        "9b",
        "Methods: predictors",
        "Definition, time and blinding of each",
        _says(f"Each defined with unit and codes; time and blinding {NOT_STATED}"),
        _CONTRACT,
    ),
    Item("9c", "Methods: predictors", "Who assessed them", _silent, _CONTRACT),
    Item(
        "10",
        "Methods: sample size",
        "How the size came about, and whether it suffices",
        _size,
        "evaluation.json: panels.*.sample_size",
    ),
    Item(
        "11", "Methods: missing data", "How gaps were handled", _missing, "docs/adr/0002; " + _PAGE
    ),
    Item(
        "12a", "Methods: analysis", "What each part of the data did", _use_of_data, "docs/adr/0005"
    ),
    Item(
        "12b",
        "Methods: analysis",
        "Form of the predictors",
        _says(
            "Numbers standardised and kept continuous, codes one column each, yes/no as one column"
        ),
        "bundle: */score.json",
    ),
    Item("12c", "Methods: analysis", "Kind of model, building, tuning", _building, "docs/adr/0005"),
    Item("12d", "Methods: analysis", "Differences between hospitals", _clusters, _PAGE),
    Item("12e", "Methods: analysis", "Measures of performance", _measures, "GLOSSARY.md"),
    Item("12f", "Methods: analysis", "Updating", _updating, "evaluation.json: ladder"),
    Item(
        "12g", "Methods: analysis", "How predictions were computed", _calculation, "manifest.json"
    ),
    Item(
        "13",
        "Methods: class imbalance",
        "Methods against it, recalibration after",
        _says("None: no resampling, no class weights; the prevalence stays as it is"),
        "src/heartdx/pipelines.py",
    ),
    Item("14", "Methods: fairness", "What was done for it, and why", _fairness, _PAGE),
    Item(
        "15",
        "Methods: model output",
        "What the model gives, and where thresholds come from",
        _output,
        "docs/adr/0009; manifest.json: threshold",
    ),
    Item(
        "16",
        "Methods: training versus evaluation",
        "How the two data differ",
        _differences,
        "manifest.json and evaluation.json: data.sha256",
    ),
    Item("17", "Methods: ethical approval", "Committee and consent", _ethics, "data/SOURCES.md"),
    Item("18a", "Open science", "Funding", _silent, "README.md"),
    Item("18b", "Open science", "Conflicts of interest", _silent, "README.md"),
    Item(
        "18c",
        "Open science",
        "Protocol",
        _says("Rules of choice and gates are written down beforehand; no published protocol"),
        "docs/adr/0005",
    ),
    Item("18d", "Open science", "Registration", _silent, "README.md"),
    Item("18e", "Open science", "Data sharing", _data_sharing, "data/SOURCES.md"),
    Item("18f", "Open science", "Code sharing", _code_sharing, "manifest.json: code_version"),
    Item("19", "Patient and public involvement", "Who was involved", _silent, "README.md"),
    Item(
        "20a",
        "Results: participants",
        "Flow of participants",
        _flow,
        "evaluation.json: policy.panels",
    ),
    Item(
        "20b",
        "Results: participants",
        "Characteristics by source",
        _characteristics,
        "eda.html; evaluation.json: data.sites",
    ),
    Item(
        "20c",
        "Results: participants",
        "Evaluation beside development data",
        _comparison,
        "evaluation.json: overlap, data",
    ),
    Item(
        "21",
        "Results: model development",
        "Patients and events of each analysis",
        _numbers,
        "evaluation.json: panels",
    ),
    Item(
        "22",
        "Results: model specification",
        "The full model, for others to use",
        _specification,
        "bundle: */score.json, */model.onnx",
    ),
    Item("23a", "Results: performance", "Performance with intervals", _performance, _PAGE),
    Item("23b", "Results: performance", "Differences between hospitals", _heterogeneity, _PAGE),
    Item(
        "24",
        "Results: model updating",
        "Results after updating",
        _updated,
        "evaluation.json: ladder",
    ),
    Item("25", "Discussion: interpretation", "What it means", _interpretation, _PAGE),
    Item("26", "Discussion: limitations", "What limits it", _limitations, _PAGE),
    Item(
        "27a",
        "Discussion: usability",
        "Poor or missing inputs in use",
        _says(
            "A value outside its range or code is refused with the reason; a missing input leads "
            "to the panel that does without it, and the answer names the panel"
        ),
        f"{_CONTRACT}; docs/adr/0002",
    ),
    Item(
        "27b",
        "Discussion: usability",
        "What users do, and must know",
        _says(f"Inputs are sent as a table or a request; expertise required {NOT_STATED}"),
        "docs/settings.md",
    ),
    Item(
        "27c",
        "Discussion: usability",
        "Next steps",
        _says("Recalibration and evaluation on patients of the hospital that wants to use it"),
        "model card",
    ),
)
