"""The evaluation page: every number said, nothing loaded, nothing trusted."""

from __future__ import annotations

import html
import io
import itertools
import struct
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import matplotlib
import numpy as np
import pytest
from evaluation_document import SITES, document
from PIL import Image

from heartdx.contract import SITE_NAMES
from heartdx.evaluation.page import figures, page
from heartdx.figures import evaluation, style

BLANK = b"\x89PNG in place of a picture"
HOSTILE = '<img src="https://evil.example/x" onerror=alert(1)>&"\'$\\frac$'
LEVELS = {f"h{level}" for level in range(1, 7)}
VOID = {"meta", "img", "br"}
OUTSIDE_THE_TABLES = {"curves", "aucs", "schema"}
"""Drawn, not written."""


class Parsed(HTMLParser):
    """Tags with their attributes, headings, cells and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.headings.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return "\n".join(self.text)


class AnyImage(dict):
    """Every picture as the same bytes, for tests about words."""

    def __missing__(self, name: str) -> bytes:
        return BLANK


def words_page(made: dict[str, Any]) -> str:
    return page(made, drawn=AnyImage())


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    return figures(document())


def leaves(part: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    if isinstance(part, dict | list):
        pairs = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in pairs:
            if key not in OUTSIDE_THE_TABLES:
                yield from leaves(value, (*path, key))
    else:
        yield path, part


def estimates(part: Any, path: tuple = ()) -> Iterator[tuple[tuple, dict[str, float]]]:
    if isinstance(part, dict) and part.keys() >= {"value", "low", "high"}:
        yield path, part
    elif isinstance(part, dict | list):
        pairs = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in pairs:
            yield from estimates(value, (*path, key))


def is_repetition(path: tuple) -> bool:
    """Recall repeats sensitivity; only the chosen candidate's transfer is shown in full.

    A hospital's own AUC is the AUC inside hospitals; the policy's transfer leaves out what
    its calibration picture or another column shows.
    """
    if "recall" in path:
        return True
    if "held_out" not in path or "candidates" not in path:
        return path[:2] == ("policy", "held_out") and path[-1] not in {
            "auc",
            "brier",
            "log_loss",
            "calibration_slope",
            "calibration_in_the_large",
            "o_e",
            "sensitivity",
            "specificity",
            "net_benefit",
        }
    return "logreg" not in path or path[-1] in {"auc_within", "pr_auc"}


def put(part: Any, path: tuple, value: Any) -> None:
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value


def minus(text: str) -> str:
    return text.replace("-", "−")


# -- what is said --------------------------------------------------------------------------------


def test_every_estimate_is_written_with_its_interval():
    made = document()
    words = Parsed(words_page(made)).words

    shown = [(path, e) for path, e in estimates(made) if not is_repetition(path)]

    assert len(shown) > 500
    for path, e in shown:
        digits = 2 if str(path[-1]).startswith("lr_") else 3
        value, low, high = (
            None if n is None else minus(f"{n:.{digits}f}").replace("−0.000", "0.000")
            for n in (e["value"], e["low"], e["high"])
        )
        expected = "not estimable" if value is None else f"{value} ({low} to {high})"
        assert expected in words, path


@pytest.mark.parametrize(
    "words",
    [
        "0.2",  # threshold in the plan
        "451",
        "187",
        "0.031",
        "0.159",
        "0.065",
        "0.887 (0.866 to 0.908)",
        "0.902",
        "0.841 to 0.952",
        "0.937",
        "62 %",
        "0.570 to 0.950",
        "21.2",
        "0.372",
        "613",
        "431",
        "101 of 303 (33 %)",
        "usable from 100 local patients",
        "does not count for the gate",
        "0.812",
        "FAILED",
        "Average precision",
        "Positive predictive value (precision)",
        "Sensitivity (recall)",
        "DeLong 1988, doi:10.2307/1",
        "fewer than 10 diseased",
        "C 0.37",
        "ab" * 32,
    ],
)
def test_the_page_says(words):
    assert words in Parsed(words_page(document())).words


def test_a_page_differs_when_any_other_number_differs():
    """The numbers without an interval; those with one are looked for above."""
    made = document()
    before = words_page(made)
    inside = {path for path, _ in estimates(made)}

    unseen = []
    for path, value in leaves(made):
        drawn_only = "instability" in path and isinstance(path[-1], int)
        if path[:-1] in inside or drawn_only or isinstance(value, str | bool | None):
            continue
        put(made, path, value + 1)
        if words_page(made) == before:
            unseen.append(path)
        put(made, path, value)

    assert unseen == []


@pytest.mark.parametrize(
    "changes",
    [
        {
            "roc_bedside": "panels bedside curves roc forest true_positive_rate 9",
            "calibration_bedside": "panels bedside curves calibration observed 20",
            "decision_exercise": "panels exercise curves decision model 40",
            "instability_bedside": "panels bedside stability instability high 99",
            "hospitals": "policy held_out va metrics auc value",
            "groups": "policy groups 0 metrics sensitivity low",
            "ladder": "ladder va steps refit brier 1 value",
            "input_worth": "missing input_worth 0 auc_loss value",
            "strategies": "missing strategies 1 held_out va brier high",
            "lottery": "lottery seed_42",
            "held_out_calibration": "policy curves held_out_calibration hungary observed 9",
        },
        {
            "calibration_exercise": "panels exercise curves calibration high 20",
            "decision_bedside": "panels bedside curves decision avoided 40",
            "instability_exercise": "panels exercise stability instability p 99",
            "hospitals": "policy pooled o_e prediction low",
            "lottery": "lottery aucs 17",
        },
    ],
)
def test_a_picture_differs_when_its_number_differs_and_no_other_does(drawn, changes):
    changed = document()
    for place in changes.values():
        path = tuple(int(step) if step.isdigit() else step for step in place.split())
        number = changed
        for step in path:
            number = number[step]
        put(changed, path, 0.35 * number)

    found = figures(changed)

    assert {name for name in drawn if found[name] != drawn[name]} == set(changes)


def test_auc_inside_hospitals_stands_beside_every_candidates_auc():
    words = Parsed(words_page(document())).text

    place = words.index("Area under the ROC curve")

    assert "AUC inside hospitals (mean)" in words[place : place + 2]


def test_what_is_not_estimable_is_said_in_the_place_of_the_number():
    made = document()
    before = Parsed(words_page(made)).words.count("not estimable")
    made["panels"]["bedside"]["operating_point"]["specificity"] = dict.fromkeys(
        ("value", "low", "high")
    )
    made["panels"]["bedside"]["candidates"]["forest"]["within_sites"]["va"] = None

    words = Parsed(words_page(made)).words

    assert words.count("not estimable") == before + 2
    assert "None" not in words
    assert "nan" not in words.lower().split()


def test_plain_words_come_first_then_limits_then_the_contents():
    parsed = Parsed(words_page(document()))

    assert parsed.headings[:5] == [
        "How good is the model? Evaluation on heart.csv",
        "In plain words",
        "What could not be estimated",
        "What was found",
        "Contents",
    ]


def test_a_hospitals_own_file_names_itself_and_warns_of_overlap_before_all_else():
    text = words_page(document("file"))
    parsed = Parsed(text)

    assert parsed.headings[0] == "How the model answers the patients of heart.csv"
    assert parsed.words.index("303 of 310 rows") < parsed.words.index("In plain words")


# -- what is left out ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "heading", "pictures"),
    [
        ("ladder", "With a few local patients", {"ladder"}),
        ("missing", "Missing inputs", {"input_worth", "strategies"}),
        ("lottery", "Appendix: one split is a lottery", {"lottery"}),
    ],
)
def test_a_null_part_has_no_chapter_and_no_picture(drawn, part, heading, pictures):
    whole = Parsed(words_page(document()))

    parsed = Parsed(words_page(document() | {part: None}))

    assert heading in whole.headings
    assert heading not in parsed.headings
    assert len(parsed.of("img")) == len(drawn) - len(pictures & drawn.keys())


def test_a_quick_evaluation_has_no_bootstrap_and_no_single_hospital():
    made = document("quick")
    made |= {"ladder": None, "missing": None, "lottery": None, "overlap": None}
    made["plan"] |= {"bootstraps": None, "draws": None}
    made["policy"]["single_hospital"] = None
    for panel in made["panels"].values():
        panel |= {"stability": None, "sample_size": None}

    parsed = Parsed(page(made))

    assert "Stability and sample size" not in parsed.headings
    assert "Bootstraps" not in parsed.words
    assert "alone and scored elsewhere" not in parsed.words


def test_a_transfer_that_nobody_could_estimate_is_said():
    made = document("quick")
    made["not_estimable"] = []
    made["policy"] |= {"pooled": None, "held_out": {}, "curves": {"held_out_calibration": {}}}
    for panel in made["panels"].values():
        panel["pooled"] = None
        for candidate in panel["candidates"].values():
            candidate["held_out"] = {}

    parsed = Parsed(page(made))

    assert "Transfer to hospitals the model never saw: not estimable." in parsed.words
    assert "Transfer of the exercise panel to hospitals it never saw" in parsed.words
    assert "hospitals" not in figures(made)


def test_a_hospitals_own_file_is_not_called_cross_validated_or_unseen():
    parsed = Parsed(page(document("file")))

    assert "cross-validated" not in parsed.words.lower()
    assert "never saw" not in parsed.words
    assert "Every patient is answered by the model as it is; nothing is fitted." in parsed.words


# -- a file of its own ---------------------------------------------------------------------------


def test_nothing_is_loaded_from_outside_the_file(drawn):
    parsed = Parsed(page(document(), drawn=drawn))

    assert not {"script", "link", "iframe", "object", "embed", "base"} & {t for t, _ in parsed.tags}
    for _tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("data:image/png;base64,", "#"))
    styles = page(document(), drawn=drawn).split("<style>")[1].split("</style>")[0]
    assert "url(" not in styles
    assert "@import" not in styles


def test_links_of_the_contents_lead_somewhere():
    parsed = Parsed(words_page(document()))

    anchors = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]

    assert len(anchors) == len(set(anchors))
    assert {a["href"] for a in parsed.of("a")} <= {f"#{anchor}" for anchor in anchors}


def hostile(part: Any) -> Any:
    """The same document with a hostile text after every text and in every free name."""
    if isinstance(part, dict):
        return {key: hostile(value) for key, value in part.items()}
    if isinstance(part, list):
        return [hostile(value) for value in part]
    return part + HOSTILE if isinstance(part, str) else part


def test_every_text_of_the_document_is_escaped_in_words_and_pictures():
    made = hostile(document()) | {"kind": "file"}
    for panel in made["panels"].values():
        panel["chosen"] = "logreg"
        panel["sites"] = {HOSTILE: 3}
    made["panels"] = {HOSTILE: made["panels"]["bedside"]}
    policy = made["policy"]
    policy["held_out"] = {f"{s}{HOSTILE}": part for s, part in policy["held_out"].items()}
    made["ladder"] = {f"{s}{HOSTILE}": part for s, part in made["ladder"].items()}
    made["methods"] = {HOSTILE: made["methods"]["auc"]}

    text = page(made)
    parsed = Parsed(text)

    assert "<img src=&quot;" not in text.replace(html.escape(HOSTILE), "")
    assert HOSTILE in parsed.words
    assert all((a["src"] or "").startswith("data:image/png") for a in parsed.of("img"))
    assert "onerror" not in {name for _, attributes in parsed.tags for name in attributes}


# -- for every reader ----------------------------------------------------------------------------


def test_headings_go_down_one_level_at_a_time():
    levels = [int(tag[1]) for tag, _ in Parsed(words_page(document())).tags if tag in LEVELS]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_picture_has_its_own_words():
    alts = [attributes["alt"] or "" for attributes in Parsed(words_page(document())).of("img")]

    assert len(alts) == len(set(alts)) == len(figures(document()))
    assert all(len(alt) > 40 for alt in alts)


def test_every_table_has_a_caption_and_every_heading_cell_a_scope():
    parsed = Parsed(words_page(document()))

    assert len(parsed.of("table")) == len(parsed.of("caption")) > 30
    assert {attributes.get("scope") for attributes in parsed.of("th")} == {"col", "row"}


def test_every_row_of_a_table_has_as_many_cells_as_the_head():
    tags = [tag for tag, _ in Parsed(words_page(document())).tags]

    for table in " ".join(tags).split("table ")[1:]:
        rows = [row.split() for row in table.split("tr ")[1:]]
        widths = {sum(tag in {"th", "td"} for tag in row) for row in rows}
        assert len(widths) == 1, table


# -- the pictures --------------------------------------------------------------------------------


def test_pictures_are_pngs_and_the_same_bytes_each_time(drawn):
    assert figures(document()) == drawn
    for image in drawn.values():
        assert image.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", image[16:24])
        assert min(width, height) > 300


def test_the_same_document_gives_the_same_page_drawn_or_not(drawn):
    assert page(document()) == page(document(), drawn=drawn)


def test_the_page_of_three_panels_stays_below_three_megabytes(drawn):
    made = document()
    made["panels"]["imaging"] = made["panels"]["exercise"]
    third = {name.replace("exercise", "imaging"): image for name, image in drawn.items()}

    assert len(page(made, drawn=drawn | third)) < 3_000_000


def texts(figure: evaluation.Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_a_group_too_small_is_named_and_not_drawn():
    figure = evaluation.forest_by_group(document()["policy"]["groups"], title="t")

    rows = [name.get_text() for name in figure.axes[0].get_yticklabels()]
    assert not [row for row in rows if "women 60 and over" in row]
    assert "Not drawn: sex × age: women 60 and over (fewer than 10 diseased)" in texts(figure)


def test_an_estimate_that_is_none_is_said_in_the_forest_and_has_no_marker():
    held_out = {"va": document()["policy"]["held_out"]["va"]}
    held_out["va"]["metrics"]["calibration_slope"] = dict.fromkeys(("value", "low", "high"))

    figure = evaluation.forest_by_hospital(held_out, None, title="t")

    slope = figure.axes[1]
    assert [text.get_text() for text in slope.texts] == ["not estimable"]
    assert not [line for line in slope.lines if line.get_marker() == "s"]


def test_nothing_is_cut_at_the_edge_of_a_picture(drawn):
    for name, image in drawn.items():
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("L"))
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge == 255).all(), name


def test_a_legend_covers_no_axes():
    made = document()
    panel, policy = made["panels"]["bedside"], made["policy"]
    pictures = [
        evaluation.roc(panel["curves"]["roc"], title="t"),
        evaluation.calibration(panel["curves"]["calibration"], title="t"),
        evaluation.decision(panel["curves"]["decision"], title="t", threshold=0.2),
        evaluation.instability(panel["stability"]["instability"], title="t"),
        evaluation.lottery(made["lottery"], title="t"),
        evaluation.strategies(made["missing"]["strategies"], title="t"),
        evaluation.input_worth(made["missing"]["input_worth"], title="t"),
        evaluation.ladder(made["ladder"], labels={s: s for s in ("none", "refit")}, title="t"),
        evaluation.held_out_calibration(policy["curves"]["held_out_calibration"], title="t"),
    ]
    for figure in pictures:
        figure.canvas.draw()

        legend = figure.legends[0].get_window_extent()
        lowest = min(axes.get_tightbbox().y0 for axes in figure.axes)
        assert 0 <= legend.y0 < legend.y1 <= lowest


@pytest.mark.parametrize("sites", [1, 2, 3, 6])
def test_any_number_of_hospitals_can_be_drawn(sites):
    policy, ladder = document()["policy"], document()["ladder"]["va"]
    curve = policy["curves"]["held_out_calibration"]["va"]
    names = [f"hospital {place}" for place in range(sites)]

    for figure in (
        evaluation.held_out_calibration(dict.fromkeys(names, curve), title="t"),
        evaluation.ladder(dict.fromkeys(names, ladder), labels={"refit": "R"}, title="t"),
        evaluation.forest_by_hospital(
            dict.fromkeys(names, policy["held_out"]["va"]), policy["pooled"], title="t"
        ),
    ):
        assert style.png(figure).startswith(b"\x89PNG")
        assert all(name in texts(figure).lower() for name in names)


def test_the_made_up_hospitals_are_those_of_the_contract():
    assert set(SITES) == set(SITE_NAMES)
