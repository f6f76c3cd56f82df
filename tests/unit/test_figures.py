"""The pictures: drawn from arrays, the same bytes each time, with nothing global left behind."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from heartdx.contract import NAMES, SITE_NAMES
from heartdx.figures import style, training

LABELS = ("no disease", "disease")


@pytest.fixture
def answers():
    random = np.random.default_rng(7)
    y_prob = random.random(240)
    return (random.random(240) < y_prob).astype(int), y_prob


def _texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def _drawn(figure: Figure) -> bytes:
    image = style.png(figure)
    assert image.startswith(b"\x89PNG")
    return image


def _pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.fixture
def every_picture(answers):
    curves = {"LogReg: 0.80": answers, "Forest: 0.78": (answers[0], answers[1] ** 2)}
    return {
        "roc": lambda: training.roc(curves, title="ROC"),
        "precision_recall": lambda: training.precision_recall(curves, title="PR"),
        "calibration": lambda: training.calibration(curves, title="Calibration"),
        "confusion": lambda: training.confusion(
            np.array([[140, 24], [21, 118]]), title="Matrix", threshold=0.5, labels=LABELS
        ),
        "coefficients": lambda: training.coefficients(NAMES, np.linspace(-1, 1, 13), title="C"),
        "importances": lambda: training.importances(
            NAMES, np.arange(13.0), np.arange(13.0) - 1, np.arange(13.0) + 1, title="I"
        ),
        "losses_by_site": lambda: training.losses_by_site(
            {"LogReg": dict.fromkeys(SITE_NAMES, 0.4), "Forest": {"va": 0.6}}, title="L"
        ),
    }


def test_the_same_arrays_give_the_same_bytes(every_picture):
    for name, draw in every_picture.items():
        assert _drawn(draw()) == _drawn(draw()), name


def test_a_png_holds_no_time_and_no_version(every_picture):
    image = _drawn(every_picture["roc"]())
    place, kinds = 8, []
    while place < len(image):
        (length,) = struct.unpack(">I", image[place : place + 4])
        kinds.append(image[place + 4 : place + 8])
        place += 12 + length

    assert not {b"tEXt", b"iTXt", b"zTXt", b"tIME"} & set(kinds)


def test_drawing_leaves_matplotlibs_settings_as_they_were(every_picture):
    before = dict(matplotlib.rcParams)

    for draw in every_picture.values():
        _drawn(draw())

    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_loaded():
    code = (
        "import sys; import heartdx.figures.eda, heartdx.figures.training; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], check=False)

    assert done.returncode == 0


def test_a_data_uri_holds_the_image_itself():
    prefix, _, payload = style.data_uri(b"\x89PNG image").partition(",")

    assert prefix == "data:image/png;base64"
    assert base64.b64decode(payload) == b"\x89PNG image"


def test_text_is_dark_on_light_and_light_on_dark():
    assert style.text_colour(1, 1, 1) == style.INK
    assert style.text_colour(0.1, 0.1, 0.3) == "white"


def test_nothing_is_cut_at_the_edge_of_a_picture(every_picture):
    for name, draw in every_picture.items():
        pixels = _pixels(draw())

        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge == 255).all(), name


def test_a_legend_never_covers_the_axes_or_their_labels(answers):
    random = np.random.default_rng(1)
    for count in (1, 2, 6):
        curves = {
            f"curve {place}": (random.permutation(answers[0])[place:], answers[1][place:])
            for place in range(count)
        }
        for draw in (training.roc, training.precision_recall, training.calibration):
            figure = draw(curves, title="t")
            figure.canvas.draw()

            legend = figure.legends[0].get_window_extent()
            lowest = min(axes.get_tightbbox().y0 for axes in figure.axes)
            assert 0 <= legend.y0 < legend.y1 <= lowest, (draw.__name__, count)


def test_legends_show_the_keys_as_they_are_given(every_picture):
    for name in ("roc", "precision_recall", "calibration"):
        assert "LogReg: 0.80" in _texts(every_picture[name]()), name


def test_a_curve_needs_both_outcomes_and_is_left_out_without(answers):
    curves = {"all ill": (np.ones(9), np.linspace(0, 1, 9)), "mixed": answers}

    for draw in (training.roc, training.precision_recall):
        figure = draw(curves, title="t")

        assert "mixed" in _texts(figure)
        assert "all ill" not in _texts(figure)
        _drawn(figure)


def test_the_matrix_names_its_shares_and_its_threshold(every_picture):
    texts = _texts(every_picture["confusion"]())

    assert "sensitivity 85 %" in texts
    assert "specificity 85 %" in texts
    assert "PPV 83 %" in texts
    assert "NPV 87 %" in texts
    assert "from a probability of 0.50" in texts


def test_a_matrix_without_ill_patients_says_so():
    figure = training.confusion(np.array([[5, 0], [0, 0]]), title="t", threshold=0.5, labels=LABELS)

    assert "nobody to count" in _texts(figure)
    _drawn(figure)


def test_importances_stand_largest_first():
    figure = training.importances(["a", "b", "c"], [1, 3, 2], [0, 2, 1], [2, 4, 3], title="t")

    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "c", "a"]


def test_bins_hold_every_patient_once_and_ties_stay_together():
    y_prob = np.repeat([0.1, 0.2, 0.2, 0.9], 30)

    bins = training.quantile_bins(y_prob)

    assert sorted(np.concatenate(bins).tolist()) == list(range(120))
    for rows in bins:
        others = np.setdiff1d(np.arange(120), rows)
        assert not set(y_prob[rows]) & set(y_prob[others])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_answers_still_give_a_calibration_picture(n):
    _drawn(training.calibration({"few": (np.ones(n), np.full(n, 0.7))}, title="t"))


def test_empty_lists_still_give_a_picture():
    _drawn(training.coefficients([], [], title="t"))
    _drawn(training.importances([], [], [], [], title="t"))
    _drawn(training.losses_by_site({}, title="t"))
    _drawn(training.roc({}, title="t"))
    _drawn(training.precision_recall({}, title="t"))
