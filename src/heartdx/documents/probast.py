"""PROBAST+AI: a self-assessment of quality and risk of bias, each answer by a rule on the facts.

Questions are in our own words and grouped under the tool's four domains; the numbers are ours. A
rule gives an answer and the reason that it rests on. A rule that has nothing to go by says *no
information*; nothing is answered from good will.

References
----------
.. [1] Moons KGM et al. PROBAST+AI: an updated quality, risk of bias, and applicability assessment
   tool for prediction models using regression or artificial intelligence methods. BMJ
   2025;388:e082505.
.. [2] Peduzzi P et al. A simulation study of the number of events per variable in logistic
   regression analysis. J Clin Epidemiol 1996;49:1373-1379.
.. [3] Collins GS, Ogundimu EO, Altman DG. Sample size considerations for the external validation
   of a multivariable prognostic model: a resampling study. Stat Med 2016;35:214-226.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heartdx.contract import OUTCOME
from heartdx.documents.facts import (
    NOT_STATED,
    Facts,
    at,
    entries,
    headline,
    is_shipped,
    mappings,
    number,
    share,
    table,
    words,
)

YES, PROBABLY_YES = "yes", "probably yes"
NO, PROBABLY_NO = "no", "probably no"
NO_INFORMATION = "no information"
HIGH, LOW, UNCLEAR = "high", "low", "unclear"

FEWEST_EVENTS_PER_PARAMETER = 10
"""Peduzzi 1996; below it weights are unstable whatever a formula says."""
FEWEST_OF_AN_OUTCOME = 100
"""Collins 2016: patients with, and without, the outcome that an evaluation needs."""
EXTREME_PREVALENCE = 0.9
"""Our own convention: beyond it (or below its complement) those sent were selected by more than
the referral that the model is for."""

DOMAINS = ("Participants and data sources", "Predictors", "Outcome", "Analysis")
DEVELOPMENT, EVALUATION = "Development: quality", "Evaluation: risk of bias"
Found = tuple[str, str]
Rule = Callable[[Facts, Mapping[str, Any]], Found]


@dataclass(frozen=True)
class Question:
    """One signalling question.

    Parameters
    ----------
    number : part, domain and place, as D4.1.
    domain : one of ``DOMAINS``.
    asked : in our words; *yes* is good.
    rule : facts and the data of the part to (answer, reason).
    """

    number: str
    domain: str
    asked: str
    rule: Rule


def probast(facts: Facts) -> str:
    """The self-assessment as Markdown."""
    lines = [
        "# PROBAST+AI self-assessment",
        "",
        "A self-assessment: the people who made the model let rules answer from the facts of the "
        "run. It does not replace the judgement of a reviewer who was not involved. The wording "
        "and numbers of the questions are ours, by the domains of the tool: answer its own form "
        "before you cite it.",
        "",
        "A domain with a *no* or *probably no* is of high concern; with only *yes* and *probably "
        "yes* of low concern; else unclear. The worst domain decides overall.",
        "",
        "Applicability depends on the question a reviewer asks; it is not judged here.",
        "",
    ]
    for part, questions in QUESTIONS.items():
        answers = answers_of(part, facts)
        rows = [[q.number, q.domain, q.asked, *answers[q.number]] for q in questions]
        judged = [[domain, judgement(part, domain, answers)] for domain in DOMAINS]
        lines += [
            f"## {part}",
            "",
            *table(["Question", "domain", "asked", "answer", "reason"], rows),
            "",
            *table(["domain", "concern"], [*judged, ["**Overall**", overall(part, answers)]]),
            "",
        ]
    return "\n".join([*lines, *_SOURCES])


def answers_of(part: str, facts: Facts) -> dict[str, Found]:
    """Question number to (answer, reason) of one part, in order."""
    data = facts.trained_on if part == DEVELOPMENT else facts.judged_on
    return {question.number: question.rule(facts, data) for question in QUESTIONS[part]}


def judgement(part: str, domain: str, answers: Mapping[str, Found]) -> str:
    """Concern of one domain: high, low or unclear."""
    return _concern(answers[q.number][0] for q in QUESTIONS[part] if q.domain == domain)


def overall(part: str, answers: Mapping[str, Found]) -> str:
    """Concern of a part: the worst of its domains."""
    found = {judgement(part, domain, answers) for domain in DOMAINS}
    return HIGH if HIGH in found else UNCLEAR if UNCLEAR in found else LOW


def _concern(answers: Any) -> str:
    given = set(answers)
    if given & {NO, PROBABLY_NO}:
        return HIGH
    return UNCLEAR if NO_INFORMATION in given else LOW


# -- participants and data sources -----------------------------------------------------------------


def data_source(_facts: Facts, data: Mapping[str, Any]) -> Found:
    """Whether the source suits a diagnostic question."""
    if is_shipped(data):
        return PROBABLY_YES, "UCI's records of patients sent to angiography, all with the reference"
    return NO_INFORMATION, f"origin of the file {NOT_STATED}"


def selection(_facts: Facts, data: Mapping[str, Any]) -> Found:
    """Whether those included are those the model is for."""
    counts = {
        site: (found["events"], found["patients"])
        for site, found in mappings(data.get("sites")).items()
        if isinstance(found.get("events"), int) and found.get("patients")
    }
    for site, (events, patients) in counts.items():
        if not 1 - EXTREME_PREVALENCE <= events / patients <= EXTREME_PREVALENCE:
            return (
                PROBABLY_NO,
                f"{site}: {share(events, patients)} with disease, above 90 % or below 10 %: "
                "selected by more than referral",
            )
    if counts and is_shipped(data):
        return PROBABLY_YES, "sent to angiography, both outcomes common at every hospital"
    return NO_INFORMATION, f"criteria of inclusion {NOT_STATED}"


def _is_judged(facts: Facts, data: Mapping[str, Any]) -> bool:
    """Whether the evaluation speaks of these very data."""
    return data.get("sha256") == facts.judged_on.get("sha256")


# -- predictors ------------------------------------------------------------------------------------


def predictors_alike(facts: Facts, data: Mapping[str, Any]) -> Found:
    """Whether predictors were defined and measured alike for all."""
    by_site = mappings(at(facts.evaluation, "missing", "by_site"))
    if not by_site or not _is_judged(facts, data):
        return NO_INFORMATION, f"what was measured where {NOT_STATED}"
    for site, attributes in by_site.items():
        for name, found in mappings(attributes).items():
            if found.get("patients") and found.get("missing") == found["patients"]:
                return PROBABLY_NO, f"{name} is known for nobody at {site}"
    return PROBABLY_YES, "one contract for all hospitals, and every input measured at each"


def predictors_blind(_facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether predictors were assessed without knowledge of the outcome."""
    return NO_INFORMATION, "the data do not say in which order tests were read"


def predictors_available(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether predictors are known when the model is used."""
    if not facts.panels:
        return NO_INFORMATION, f"panels {NOT_STATED}"
    return YES, "the panel that answers needs only what is known by then; no test is filled in"


# -- outcome ---------------------------------------------------------------------------------------


def outcome_appropriate(_facts: Facts, data: Mapping[str, Any]) -> Found:
    """Whether the outcome was determined well."""
    if is_shipped(data):
        return YES, f"the reference standard, coronary angiography ({OUTCOME.name})"
    return NO_INFORMATION, f"how the outcome of the file was determined {NOT_STATED}"


def outcome_alike(_facts: Facts, data: Mapping[str, Any]) -> Found:
    """Whether the outcome was determined alike for all."""
    if is_shipped(data):
        return PROBABLY_YES, "one definition of narrowing; grades are not used, any above 0 counts"
    return NO_INFORMATION, f"how the outcome of the file was determined {NOT_STATED}"


def outcome_without_predictors(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether the outcome's definition leaves the predictors out."""
    inputs = {name for panel in facts.panels.values() for name in panel.get("inputs") or ()}
    if not inputs:
        return NO_INFORMATION, f"inputs {NOT_STATED}"
    if OUTCOME.name in inputs:
        return NO, f"{OUTCOME.name} is an input"
    if "ca" in inputs:
        return PROBABLY_YES, "no input defines it; fluoroscopy (ca) looks at the same vessels"
    return YES, "no input is part of the definition"


def outcome_blind(_facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether the outcome was determined without knowledge of the predictors."""
    return NO_INFORMATION, "whether angiograms were read blind is not in the data"


def interval(_facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether the time between predictors and outcome is right."""
    return NO_INFORMATION, "days between tests and angiography are not in the data"


# -- analysis --------------------------------------------------------------------------------------


def development_size(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether enough patients had the outcome for the model's parameters."""
    sizes = {name: panel.get("sample_size") for name, panel in facts.panels.items()}
    known = {name: size for name, size in sizes.items() if isinstance(size, Mapping)}
    for name, size in known.items():
        events = size.get("events_per_parameter")
        if isinstance(events, int | float) and events < FEWEST_EVENTS_PER_PARAMETER:
            return NO, f"{name}: {number(events)}, fewer than 10 events per parameter"
    for name, size in known.items():
        if size.get("enough") is False:
            return PROBABLY_NO, f"{name}: needed {number(size.get('needed'))} patients"
    if not known or len(known) < len(sizes):
        return NO_INFORMATION, f"sample size of every panel {NOT_STATED}"
    return YES, "every panel meets the criteria, at least 10 events per parameter"


def predictors_handled(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether numbers and codes were handled well."""
    chosen = {panel.get("chosen") for panel in facts.panels.values()} - {None}
    if not chosen:
        return NO_INFORMATION, f"model {NOT_STATED}"
    if "logreg" in chosen:
        return PROBABLY_YES, "numbers stay continuous, effects are straight lines in the log-odds"
    return YES, "numbers stay continuous, their form is found by the model"


def all_included(facts: Facts, data: Mapping[str, Any]) -> Found:
    """Whether every patient was analysed."""
    patients, answered = data.get("patients"), at(facts.evaluation, "policy", "patients")
    known = isinstance(patients, int) and isinstance(answered, int)
    if not known or not _is_judged(facts, data):
        return NO_INFORMATION, f"patients answered {NOT_STATED}"
    if answered < patients:
        return NO, f"{number(answered)} answered of {number(patients)}"
    return PROBABLY_YES, "every patient is answered by some panel; a panel has those it can answer"


def missing_handled(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether missing values were handled well."""
    compared = entries(at(facts.evaluation, "missing", "strategies"))
    told = "one typical value inside the fitted model"
    if not compared:
        return PROBABLY_NO, f"{told}; no comparison with other ways in this run"
    return PROBABLY_YES, f"{told}; compared with {words([s.get('label') for s in compared])}"


def optimism_handled(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether overfitting was met, and its price shown."""
    splits = at(facts.evaluation, "plan", "splits")
    if splits is None:
        return NO_INFORMATION, f"protocol {NOT_STATED}"
    return YES, f"penalised or averaged models, tuned in inner folds of {number(splits)} outer ones"


def imbalance(_facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether methods against class imbalance left the probabilities right."""
    return YES, "none used: no resampling, no class weights"


def evaluation_size(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether enough patients of both outcomes evaluate."""
    whole = _rarer(facts.judged_on)
    if whole is None:
        return NO_INFORMATION, f"patients with disease {NOT_STATED}"
    limit = "100 with and 100 without disease"
    if whole < FEWEST_OF_AN_OUTCOME:
        return NO, f"not {limit}"
    for site, found in mappings(facts.judged_on.get("sites")).items():
        rarer = _rarer(found)
        if rarer is not None and rarer < FEWEST_OF_AN_OUTCOME:
            told = share(found.get("events"), found.get("patients"))
            return PROBABLY_NO, f"{site}, with disease {told}: not {limit}"
    return YES, f"at least {limit} in every hospital"


def _rarer(data: Mapping[str, Any]) -> int | None:
    patients, events = data.get("patients"), data.get("events")
    if not isinstance(patients, int) or not isinstance(events, int):
        return None
    return min(events, patients - events)


def other_patients(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether those who evaluate are not those who trained."""
    if facts.is_local:
        if "overlap" not in facts.evaluation:
            return NO_INFORMATION, f"overlap with the training data {NOT_STATED}"
        rows = at(facts.evaluation, "overlap", "rows")
        if rows:
            return NO, f"{number(rows)} rows were training data"
        return YES, "no row was training data"
    if mappings(at(facts.evaluation, "policy", "held_out")):
        return YES, "each hospital is scored by models that never saw it"
    if at(facts.evaluation, "plan", "splits") is not None:
        return PROBABLY_YES, "cross-validation by patient; no hospital could be left out"
    return NO_INFORMATION, f"protocol {NOT_STATED}"


def leakage(facts: Facts, data: Mapping[str, Any]) -> Found:
    """Whether nothing of the scored patients reached the fit."""
    if facts.is_local:
        return other_patients(facts, data)
    if at(facts.evaluation, "plan", "splits") is None:
        return NO_INFORMATION, f"protocol {NOT_STATED}"
    return YES, "imputing, scaling, tuning and choice inside training folds; duplicates together"


def measures(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether discrimination, calibration and usefulness are all reported."""
    found = [at(headline(panel), "metrics") or {} for panel in facts.panels.values()]
    if not any(found):
        return NO_INFORMATION, f"measures {NOT_STATED}"
    wanted = {
        "discrimination": "auc",
        "calibration": "calibration_slope",
        "net benefit": "net_benefit",
    }
    lacking = [name for name, key in wanted.items() if not all(key in each for each in found)]
    if "calibration" in lacking or "discrimination" in lacking:
        return NO, f"lacking: {words(lacking)}"
    if lacking:
        return PROBABLY_NO, f"lacking: {words(lacking)}"
    return YES, "discrimination, calibration and net benefit, with intervals"


def clusters(facts: Facts, _data: Mapping[str, Any]) -> Found:
    """Whether differences between hospitals were accounted for."""
    policy = facts.evaluation.get("policy")
    if not isinstance(policy, Mapping):
        return NO_INFORMATION, f"results by hospital {NOT_STATED}"
    if policy.get("pooled"):
        return YES, "each hospital left out in turn, pooled with a prediction interval"
    if mappings(policy.get("held_out")):
        return PROBABLY_YES, "each hospital left out in turn, not pooled"
    return PROBABLY_NO, "no hospital was left out"


_PARTICIPANTS: tuple[tuple[str, Rule], ...] = (
    ("Does the data source suit the question?", data_source),
    ("Are those included the patients the model is for?", selection),
)
_PREDICTORS: tuple[tuple[str, Rule], ...] = (
    ("Are predictors defined and measured alike for all?", predictors_alike),
    ("Were they assessed without knowing the outcome?", predictors_blind),
    ("Are they known when the model is to be used?", predictors_available),
)
_OUTCOME: tuple[tuple[str, Rule], ...] = (
    ("Was the outcome determined well?", outcome_appropriate),
    ("Was it determined alike for all?", outcome_alike),
    ("Does its definition leave the predictors out?", outcome_without_predictors),
    ("Was it determined without knowing the predictors?", outcome_blind),
    ("Is the time between predictors and outcome right?", interval),
)
_DEVELOPED: tuple[tuple[str, Rule], ...] = (
    ("Are there enough patients with the outcome?", development_size),
    ("Were numbers and codes handled well?", predictors_handled),
    ("Were all patients analysed?", all_included),
    ("Were missing values handled well?", missing_handled),
    ("Was overfitting met?", optimism_handled),
    ("Did methods against class imbalance leave probabilities right?", imbalance),
)
_EVALUATED: tuple[tuple[str, Rule], ...] = (
    ("Are there enough patients with the outcome?", evaluation_size),
    ("Were all patients analysed?", all_included),
    ("Were missing values handled well?", missing_handled),
    ("Are those scored others than those who trained?", other_patients),
    ("Was leakage avoided?", leakage),
    ("Are discrimination, calibration and usefulness reported?", measures),
    ("Were differences between hospitals accounted for?", clusters),
    ("Did methods against class imbalance leave probabilities right?", imbalance),
)


def _numbered(letter: str, analysis: tuple[tuple[str, Rule], ...]) -> tuple[Question, ...]:
    asked = (_PARTICIPANTS, _PREDICTORS, _OUTCOME, analysis)
    return tuple(
        Question(f"{letter}{place}.{within}", domain, question, rule)
        for place, (domain, questions) in enumerate(zip(DOMAINS, asked, strict=True), start=1)
        for within, (question, rule) in enumerate(questions, start=1)
    )


QUESTIONS: Mapping[str, tuple[Question, ...]] = {
    DEVELOPMENT: _numbered("D", _DEVELOPED),
    EVALUATION: _numbered("E", _EVALUATED),
}

_SOURCES = (
    "## Sources",
    "",
    "- Moons KGM et al. PROBAST+AI. BMJ 2025;388:e082505.",
    "- Peduzzi P et al. Number of events per variable. J Clin Epidemiol 1996;49:1373-1379.",
    "- Collins GS, Ogundimu EO, Altman DG. Sample size for external validation. Stat Med "
    "2016;35:214-226.",
    "",
)
