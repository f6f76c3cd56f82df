"""A document says what the run knows, *not stated* for the rest, and invents no number."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documents_kit import SHIPPED, changed, evaluation, facts, manifest, paths, rows, sentences
from documents_kit import without as lacking

from heartdx.contract import OUTCOME
from heartdx.documents import (
    DOCUMENTS,
    NOT_STATED,
    Facts,
    numbers_without_evidence,
    render,
    tables,
)
from heartdx.documents.probast import DEVELOPMENT, EVALUATION, QUESTIONS, answers_of, overall
from heartdx.documents.tripod import ITEMS
from heartdx.errors import UsageError

LONGEST_SENTENCE = 45
"""Words."""

# TRIPOD+AI, BMJ 2024;385:e078378: the 27 items with their letters.
TRIPOD_ITEMS = {
    **dict.fromkeys((1, 2, 4, 7, *range(10, 12), *range(13, 18), 19, 21, 22, *range(24, 27)), ""),
    **{3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef"},
    **{20: "abc", 23: "ab", 27: "abc"},
}
CARD_SECTIONS = [
    "Model",
    "Intended use",
    "Factors",
    "Training data",
    "Evaluation data",
    "Performance by panel",
    "Calibration",
    "Decisions at the declared threshold",
    "In a hospital it has not seen",
    "Groups of patients",
    "Limits",
    "Ethical considerations",
    "Before use in a hospital",
    "How to reproduce",
    "Sources",
]


def everything(run: Facts) -> str:
    return "\n".join(render(name, run) for name in DOCUMENTS)


# -- what is there -------------------------------------------------------------------------------


def test_tripod_has_every_item_once_and_in_order():
    (table,) = rows(render("tripod", facts()))

    assert sorted(TRIPOD_ITEMS) == list(range(1, 28))
    assert [row[0] for row in table[2:]] == [
        f"{item}{letter}" for item in range(1, 28) for letter in TRIPOD_ITEMS[item] or [""]
    ]


def test_the_card_has_every_section_once_and_in_order():
    text = render("card", facts())

    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == CARD_SECTIONS


def test_probast_asks_16_questions_of_the_development_and_18_of_the_evaluation():
    """The numbers of questions in the abstract of BMJ 2025;388:e082505, in four domains each."""
    development, judged, evaluated, _ = rows(render("probast", facts()))

    assert len(development[2:]) == len(QUESTIONS[DEVELOPMENT]) == 16
    assert len(evaluated[2:]) == len(QUESTIONS[EVALUATION]) == 18
    assert [row[0] for row in judged[2:]] == [
        "Participants and data sources",
        "Predictors",
        "Outcome",
        "Analysis",
        "**Overall**",
    ]


def test_probast_says_that_it_is_a_self_assessment():
    assert "self-assessment" in render("probast", facts()).splitlines()[0]


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("run", [facts(), Facts({})], ids=["a full run", "nothing known"])
def test_every_table_has_the_same_number_of_cells_in_each_row(name: str, run: Facts):
    for table in rows(render(name, run)):
        assert len({len(row) for row in table}) == 1


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_sentence_is_longer_than_a_breath(name: str):
    long = [s for s in sentences(render(name, facts())) if len(s.split()) > LONGEST_SENTENCE]

    assert long == []


def test_a_figure_stands_with_its_interval_beside_the_auc_inside_hospitals():
    metrics = evaluation()["panels"]["bedside"]["candidates"]["logreg"]["metrics"]

    text = render("card", facts())

    auc, inside = (metrics[name] for name in ("auc", "auc_within"))
    assert (
        f"| {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f}) | {inside['value']:.3f} ("
        in text
    )


def test_a_panel_whose_transfer_is_not_estimable_is_said_to_be():
    assert "- panel imaging: not estimable from these data" in render("card", facts())


def test_a_bar_in_a_text_of_the_run_does_not_break_a_table():
    run = facts(summary=["AUC | Brier\nand more"])

    (table,) = rows(render("tripod", run))

    assert {len(row) for row in table} == {5}


# -- what is not known is not stated -------------------------------------------------------------


@pytest.mark.parametrize("path", paths(evaluation()))
def test_a_fact_that_is_lost_never_stops_a_document_nor_becomes_a_number(path: str):
    run = Facts(lacking(evaluation(), path), manifest())

    text = everything(run)

    assert numbers_without_evidence(text, run) == []


@pytest.mark.parametrize("path", paths(manifest()))
def test_a_fact_of_the_manifest_that_is_lost_never_stops_a_document(path: str):
    run = Facts(evaluation(), lacking(manifest(), path))

    text = everything(run)

    assert numbers_without_evidence(text, run) == []


@pytest.mark.parametrize("path", paths(evaluation(), depth=2))
def test_a_fact_that_is_null_never_stops_a_document(path: str):
    everything(Facts(changed(evaluation(), path, None), manifest()))


PRINTED = [
    ("card", "panels.bedside.patients"),
    ("card", "panels.bedside.label"),
    ("card", "panels.bedside.reason"),
    ("card", "panels.bedside.calibration"),
    ("card", "panels.bedside.operating_point"),
    ("card", "panels.bedside.candidates"),
    ("card", "panels.bedside.pooled"),
    ("card", "panels.bedside.candidates.logreg.metrics.auc"),
    ("card", "panels.bedside.candidates.logreg.metrics.auc_within"),
    ("card", "panels.bedside.candidates.logreg.metrics.net_benefit"),
    ("card", "policy.held_out"),
    ("card", "policy.pooled"),
    ("card", "policy.groups"),
    ("card", "data.events"),
    ("card", "data.sites.va.women"),
    ("card", "plan.bootstraps"),
    ("card", "ladder"),
    ("card", "gates"),
    ("card", "not_estimable"),
    ("card", "findings"),
    ("tripod", "summary"),
    ("tripod", "metrics"),
    ("tripod", "plan.repeats"),
    ("tripod", "policy.panels"),
    ("tripod", "policy.groups"),
    ("tripod", "policy.pooled"),
    ("tripod", "ladder"),
    ("tripod", "data.sites.va.age_median"),
    ("tripod", "panels.exercise.events"),
    ("tripod", "panels.exercise.calibration.slope"),
    ("tripod", "panels.exercise.sample_size.needed"),
    ("probast", "missing.by_site"),
    ("probast", "plan.splits"),
    ("probast", "policy.patients"),
    ("probast", "data.events"),
]


@pytest.mark.parametrize(("name", "path"), PRINTED)
def test_a_fact_that_is_lost_is_not_stated(name: str, path: str):
    whole, poorer = facts(), Facts(lacking(evaluation(), path), manifest())

    assert render(name, poorer).count(NOT_STATED) > render(name, whole).count(NOT_STATED)


def test_without_a_manifest_version_code_and_libraries_are_not_stated():
    text = render("card", Facts(changed(evaluation(), "model", None)))

    for told in ("- Version:", "- Digest:", "- Code:", "- Contract:"):
        assert f"{told} {NOT_STATED}" in text


def test_of_nothing_known_every_item_that_rests_on_a_run_is_not_stated():
    (table,) = rows(render("tripod", Facts({})))

    answers = {row[0]: row[3] for row in table[2:]}
    for item in ("2", "5b", "6a", "10", "12a", "12c", "16", "20a", "20b", "21", "22", "23a", "24"):
        assert answers[item] == NOT_STATED


@pytest.mark.parametrize("item", ["3c", "6c", "8b", "8c", "9c", "18a", "18b", "18d", "19"])
def test_what_no_run_can_know_is_never_stated(item: str):
    (answer,) = (i.answer(facts()) for i in ITEMS if i.number == item)

    assert answer == NOT_STATED


def test_the_source_of_a_file_is_uci_only_when_every_row_was_recognised():
    foreign = lacking(evaluation(), "data.findings")
    partly = changed(
        evaluation(), "data.findings", [SHIPPED.replace("920 of 920", "303 of 920", 1)]
    )

    assert "10.24432/C52P4X" in render("card", Facts(evaluation()))
    assert "10.24432/C52P4X" not in render("card", Facts(foreign))
    assert "10.24432/C52P4X" not in render("card", Facts(partly))


# -- documents of two runs do not mix ------------------------------------------------------------


def test_an_evaluation_of_another_model_than_the_manifests_is_refused():
    with pytest.raises(UsageError, match="the manifest is of"):
        Facts(evaluation(), {**manifest(), "digest": "another"})


def test_an_evaluation_of_another_schema_is_refused():
    with pytest.raises(UsageError, match="schema 2, expected 1"):
        Facts({**evaluation(), "schema": 2})


def test_an_unknown_document_is_refused_by_name():
    with pytest.raises(UsageError, match="choose one of card, tripod, probast"):
        render("leaflet", facts())


def test_a_model_trained_on_another_file_is_said_to_be():
    run = Facts(evaluation(), changed(manifest(), "data.sha256", "ef" * 32))

    assert "Another file than the training data" in render("card", run)
    assert "Another file than the training data" in render("tripod", run)


def test_a_threshold_that_is_not_the_models_is_said_to_be():
    run = Facts(changed(evaluation(), "plan.threshold", 0.5), manifest())

    text = render("card", run)

    assert "from a probability of 0.2 on" in text
    assert "judges decisions at 0.5, not at that threshold" in text


# -- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("kind", ["quick", "full", "file"])
def test_every_number_of_a_document_is_in_the_facts(name: str, kind: str):
    run = facts(kind=kind)

    assert numbers_without_evidence(render(name, run), run) == []


@pytest.mark.parametrize("name", ["card", "tripod"])
def test_a_changed_figure_changes_the_text_and_leaves_the_old_one_without_evidence(name: str):
    path = "panels.bedside.candidates.logreg.metrics.auc"
    figure = {"value": 0.1119, "low": 0.1018, "high": 0.1221}
    run = Facts(changed(evaluation(), path, figure), manifest())
    old = render(name, facts())

    assert "0.112 (0.102 to 0.122)" in render(name, run)
    assert len(numbers_without_evidence(old, run)) == 1


TAMPERED = [
    ("| 920 patients |", "| 921 patients |", "921"),
    ("AUC 0.876 (0.853 to 0.898)", "AUC 0.877 (0.853 to 0.898)", "0.877 (0.853 to 0.898)"),
    ("AUC 0.876 (0.853 to 0.898)", "AUC 0.876 (0.853 to 0.899)", "0.876 (0.853 to 0.899)"),
    ("0.571 to 0.910 expected", "0.571 to 0.911 expected", "0.571 to 0.911"),
    ("(25 %) women", "(26 %) women", "26 %"),
    ("level -0.525", "level 0.525", "0.525"),
    ("AUC 0.88", "AUC 0.87", "0.87"),
]


@pytest.mark.parametrize(("right", "wrong", "found"), TAMPERED)
def test_a_tampered_number_is_found(right: str, wrong: str, found: str):
    run = Facts(
        {
            "data": {"patients": 920, "women": 230, "level": -0.5251},
            "auc": {"value": 0.8762, "low": 0.8531, "high": 0.8984},
            "prediction": {"low": 0.5712, "high": 0.9102},
        }
    )

    assert numbers_without_evidence(right, run) == []
    assert [n.strip() for n in numbers_without_evidence(wrong, run)] == [found]


def test_the_parts_of_one_figure_do_not_vouch_for_another():
    run = Facts(
        {
            "one": {"value": 0.8, "low": 0.7, "high": 0.9},
            "other": {"value": 0.6, "low": 0.5, "high": 0.65},
        }
    )

    mixed = numbers_without_evidence("0.800 (0.500 to 0.900)", run)

    assert mixed == ["0.800 (0.500 to 0.900)"]


NO_RESULTS = [
    "heartdx `1.2.7` of `777 bytes`",
    "BMJ doi:10.9999/777 and [page](docs/777.md) and https://example.org/777",
    "## Sources\n\n- Stat Med 777;35:777-778.\n\n### Part\n\n777\n",
    "## Sources\n\n777\n",
    "seen 1981-1987, published 2024",
    "SHA-256, item 12a, version 1.26.4, docs/adr/0777",
    "with 95 % intervals",
    "```\n777\n```",
    "| Item | answer |\n|---|---|\n| 777 | none |",
    "## 777. A section",
]


@pytest.mark.parametrize("text", NO_RESULTS)
def test_what_is_marked_as_no_result_needs_no_evidence(text: str):
    assert numbers_without_evidence(text, Facts({})) == []


def test_a_number_after_the_sources_needs_evidence_again():
    text = "## Sources\n\n777\n\n## Results\n\n888 patients, and | 777 |"

    assert numbers_without_evidence(text, Facts({})) == ["888", "777"]


def test_the_tables_of_a_readme_can_be_checked_alone():
    readme = "In 3 minutes:\n\n| panel | patients |\n|---|---|\n| bedside | 921 |\n"
    run = Facts({"panels": {"bedside": {"patients": 920}}})

    assert numbers_without_evidence(tables(readme), run) == ["921"]


def test_a_curve_vouches_for_no_number():
    run = Facts({"panels": {"bedside": {"curves": {"roc": [0.123]}}}})

    assert numbers_without_evidence("AUC 0.123", run) == ["0.123"]


# -- PROBAST+AI: each rule can give each of its answers --------------------------------------------

Change = Callable[[dict[str, Any]], None]


def put(path: str, value: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        *way, last = path.split(".")
        for key in way:
            document = document[key]
        document[last] = value

    return change


def drop(path: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        *way, last = path.split(".")
        for key in way:
            document = document[key]
        del document[last]

    return change


def each_panel(key: str, value: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        for panel in document["panels"].values():
            panel[key] = copy.deepcopy(value)

    return change


def each_hospital(**counts: int) -> Change:
    def change(document: dict[str, Any]) -> None:
        for site in document["data"]["sites"].values():
            site.update(counts)

    return change


def no_metric(name: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        del document["panels"]["exercise"]["candidates"]["logreg"]["metrics"][name]

    return change


UNCHANGED: Change = lambda _document: None  # noqa: E731
FOREIGN = put("data.findings", [])
ENOUGH = {"events_per_parameter": 21.16, "needed": 613, "enough": True}
EVERYWHERE = {"va": {"chol": {"missing": 56, "patients": 200}}}
NOWHERE = {"switzerland": {"chol": {"missing": 123, "patients": 123}}}

RULES: dict[str, list[tuple[str, Change]]] = {
    "D1.1": [("probably yes", UNCHANGED), ("no information", FOREIGN)],
    "D1.2": [
        ("probably no", UNCHANGED),  # 115 of 123 in Switzerland
        ("probably yes", each_hospital(patients=300, events=150)),
        ("no information", drop("data.sites")),
    ],
    "D2.1": [
        ("probably yes", put("missing.by_site", EVERYWHERE)),
        ("probably no", put("missing.by_site", NOWHERE)),
        ("no information", put("missing", None)),
    ],
    "D2.2": [("no information", UNCHANGED)],
    "D2.3": [("yes", UNCHANGED), ("no information", put("panels", {}))],
    "D3.1": [("yes", UNCHANGED), ("no information", FOREIGN)],
    "D3.2": [("probably yes", UNCHANGED), ("no information", FOREIGN)],
    "D3.3": [
        ("yes", UNCHANGED),
        ("probably yes", put("panels.imaging.inputs", ["age", "ca"])),
        ("no", put("panels.imaging.inputs", ["age", OUTCOME.name])),
        ("no information", put("panels", {})),
    ],
    "D3.4": [("no information", UNCHANGED)],
    "D3.5": [("no information", UNCHANGED)],
    "D4.1": [
        ("yes", each_panel("sample_size", ENOUGH)),
        ("no", each_panel("sample_size", {**ENOUGH, "events_per_parameter": 9.99})),
        ("probably no", each_panel("sample_size", {**ENOUGH, "enough": False})),
        ("no information", put("panels.imaging.sample_size", None)),
    ],
    "D4.2": [
        ("probably yes", UNCHANGED),
        ("yes", each_panel("chosen", "forest")),
        ("no information", put("panels", {})),
    ],
    "D4.3": [
        ("probably yes", UNCHANGED),
        ("no", put("policy.patients", 919)),
        ("no information", drop("policy.patients")),
    ],
    "D4.4": [("probably yes", UNCHANGED), ("probably no", put("missing", None))],
    "D4.5": [("yes", UNCHANGED), ("no information", drop("plan.splits"))],
    "D4.6": [("yes", UNCHANGED)],
    "E4.1": [
        ("probably no", UNCHANGED),
        ("yes", each_hospital(patients=300, events=150)),
        ("no", put("data.events", 99)),
        ("no information", drop("data.events")),
    ],
    "E4.2": [("probably yes", UNCHANGED), ("no", put("policy.patients", 919))],
    "E4.3": [("probably yes", UNCHANGED), ("probably no", put("missing", None))],
    "E4.4": [
        ("yes", UNCHANGED),
        ("probably yes", put("policy.held_out", {})),
        ("no information", lambda d: (d.pop("policy"), d.pop("plan"), None)[-1]),
    ],
    "E4.5": [("yes", UNCHANGED), ("no information", drop("plan.splits"))],
    "E4.6": [
        ("yes", UNCHANGED),
        ("probably no", no_metric("net_benefit")),
        ("no", no_metric("calibration_slope")),
        ("no information", put("panels", {})),
    ],
    "E4.7": [
        ("yes", UNCHANGED),
        ("probably yes", put("policy.pooled", None)),
        ("probably no", lambda d: d["policy"].update(pooled=None, held_out={})),
        ("no information", drop("policy")),
    ],
    "E4.8": [("yes", UNCHANGED)],
}


@pytest.mark.parametrize(
    ("number", "answer", "change"),
    [(number, answer, change) for number, cases in RULES.items() for answer, change in cases],
)
def test_a_rule_answers_from_the_facts(number: str, answer: str, change: Change):
    document = evaluation()
    change(document)
    part = DEVELOPMENT if number.startswith("D") else EVALUATION

    found, reason = answers_of(part, Facts(document))[number]

    assert found == answer
    assert reason


def test_every_question_of_its_own_has_its_cases():
    """Domains 1 to 3 of the evaluation ask the same rules as the development."""
    asked = {q.number for part in QUESTIONS.values() for q in part}

    assert {n for n in asked if not n.startswith(("E1", "E2", "E3"))} == set(RULES)


@pytest.mark.parametrize(
    ("overlap", "answer"),
    [
        ({"rows": 303, "of": 310, "message": "303 of 310 rows."}, "no"),
        ({"rows": 0, "of": 310, "message": "none."}, "yes"),
        (None, "yes"),
    ],
)
def test_a_hospitals_file_with_training_rows_in_it_is_biased(overlap: Any, answer: str):
    run = facts(kind="file", overlap=overlap)

    answers = answers_of(EVALUATION, run)

    assert (answers["E4.4"][0], answers["E4.5"][0]) == (answer, answer)


def test_a_hospitals_file_of_unknown_overlap_gives_no_information():
    run = Facts(lacking(evaluation("file"), "overlap"), manifest())

    assert answers_of(EVALUATION, run)["E4.4"][0] == "no information"


@pytest.mark.parametrize(
    ("answer", "concern"),
    [
        ("no", "high"),
        ("probably no", "high"),
        ("no information", "unclear"),
        ("yes", "low"),
        ("probably yes", "low"),
    ],
)
def test_the_worst_answer_decides_overall(answer: str, concern: str):
    """PROBAST: any no is high; all yes is low; else unclear."""
    answers = {q.number: ("yes", "") for q in QUESTIONS[EVALUATION]}

    answers["E3.2"] = (answer, "")

    assert overall(EVALUATION, answers) == concern


def test_a_no_weighs_more_than_no_information():
    answers = {q.number: ("no information", "") for q in QUESTIONS[DEVELOPMENT]}

    answers["D1.1"] = ("no", "")

    assert overall(DEVELOPMENT, answers) == "high"


def test_every_page_a_document_points_to_exists():
    root = Path(__file__).resolve().parents[2]
    pages = r"docs/(?:adr/\d{4}|[a-z]+\.md)|README\.md|GLOSSARY\.md"
    named = set(re.findall(pages, everything(facts())))

    assert any(name.startswith("docs/adr/") for name in named)
    for name in named:
        assert list(root.glob(f"{name}*")), name
