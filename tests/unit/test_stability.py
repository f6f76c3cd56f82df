"""Optimism and instability are those of tables small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from heartdx.errors import ContractError, UsageError
from heartdx.performance.stability import classification_instability, instability, optimism

#                      patient    1    2    3
MODEL = np.array([0.20, 0.50, 0.90])
BOOTSTRAP = np.array(
    [
        [0.10, 0.40, 0.90],
        [0.30, 0.60, 0.90],
        [0.20, 0.70, 0.90],
        [0.60, 0.50, 0.90],
    ]
)

# -- optimism ------------------------------------------------------------------------------------


def test_the_mean_optimism_is_taken_off_the_apparent_statistic() -> None:
    found = optimism(0.80, np.array([0.85, 0.81, 0.86]), np.array([0.79, 0.80, 0.78]))

    assert found.optimism == pytest.approx(0.05)
    assert found.corrected.value == pytest.approx(0.75)
    assert found.apparent == 0.80
    assert found.resamples == 3


def test_the_interval_is_the_bootstrap_one_moved_by_the_optimism() -> None:
    """Noma et al. 2021, algorithm 1; percentiles of 0, 1, ..., 40 are 1 and 39."""
    own = np.arange(41) / 100

    found = optimism(0.2, own, own - 0.03).corrected

    assert (found.low, found.high) == pytest.approx((0.01 - 0.03, 0.39 - 0.03))


def test_optimism_of_a_linear_model_is_the_known_one() -> None:
    """In-sample error of p least squares coefficients is short by 2 p sigma^2 / n (Mallows)."""
    generator = np.random.default_rng(0)
    n, columns = 400, 20
    X = generator.normal(0, 1, (n, columns))
    y = X[:, 0] + generator.normal(0, 1, n)

    def fitted(rows: np.ndarray) -> np.ndarray:
        coefficients: np.ndarray = np.linalg.lstsq(X[rows], y[rows], rcond=None)[0]
        return coefficients

    def error(b: np.ndarray, rows: np.ndarray) -> float:
        return float(((y[rows] - X[rows] @ b) ** 2).mean())

    everyone = np.arange(n)
    draws = generator.integers(0, n, (400, n))
    models = [fitted(rows) for rows in draws]
    own = np.array([error(b, rows) for b, rows in zip(models, draws, strict=True)])
    original = np.array([error(b, everyone) for b in models])

    found = optimism(error(fitted(everyone), everyone), own, original)

    assert found.optimism == pytest.approx(-2 * columns / n, rel=0.25)
    assert found.corrected.low < found.corrected.value < found.corrected.high


def test_a_resample_without_a_number_is_left_out_of_both() -> None:
    found = optimism(0.8, np.array([0.9, np.nan, 0.7]), np.array([0.8, 0.1, np.nan]))

    assert found.optimism == pytest.approx(0.1)
    assert found.resamples == 1


def test_no_resample_gives_no_number() -> None:
    found = optimism(0.8, np.array([np.nan]), np.array([0.8]))

    assert found.resamples == 0
    assert np.isnan([found.optimism, found.corrected.value, found.corrected.low]).all()


def test_statistics_of_different_resamples_are_refused() -> None:
    with pytest.raises(ContractError, match="same shape"):
        optimism(0.8, np.zeros(3), np.zeros(2))
    with pytest.raises(ContractError, match="one statistic at a time"):
        optimism(0.8, np.zeros((3, 2)), np.zeros((3, 2)))


# -- instability ---------------------------------------------------------------------------------


def test_instability_is_the_mean_absolute_difference_of_each_patient() -> None:
    found = instability(MODEL, BOOTSTRAP)

    assert found.per_patient == pytest.approx([0.6 / 4, 0.4 / 4, 0])
    assert (found.mean, found.median, found.largest) == pytest.approx((0.25 / 3, 0.1, 0.15))
    assert found.models == 4


def test_the_band_holds_95_percent_of_the_bootstrap_models() -> None:
    probs = np.tile(np.arange(41)[:, None] / 40, (1, 2))  # percentiles 2.5 and 97.5: 1/40 and 39/40

    found = instability(np.array([0.5, 0.5]), probs)

    assert found.low == pytest.approx([1 / 40, 1 / 40])
    assert found.high == pytest.approx([39 / 40, 39 / 40])


def test_a_model_that_never_changes_is_stable() -> None:
    found = instability(MODEL, np.tile(MODEL, (5, 1)))

    assert found.largest == 0
    assert (found.low == MODEL).all()
    assert (found.high == MODEL).all()


def test_classification_instability_is_the_share_of_models_that_change_side() -> None:
    """At 0.5 patient 2 is *disease*: one model of four disagrees, as for patient 1."""
    found = classification_instability(MODEL, BOOTSTRAP, threshold=0.5)

    assert found.tolist() == [0.25, 0.25, 0]


def test_nobody_changes_side_at_a_threshold_of_0() -> None:
    assert not classification_instability(MODEL, BOOTSTRAP, threshold=0.0).any()


@pytest.mark.parametrize(
    ("y_prob", "probs", "said"),
    [
        (MODEL, BOOTSTRAP[:, :2], "shape"),
        (MODEL, MODEL, "shape"),
        (MODEL, BOOTSTRAP[:0], "shape"),
        (MODEL, np.where(BOOTSTRAP == 0.7, np.nan, BOOTSTRAP), "1 of 12 bootstrap probabilities"),
        (MODEL + 0.2, BOOTSTRAP, "1 of 3 probabilities"),
    ],
)
def test_probabilities_that_do_not_fit_are_refused(
    y_prob: np.ndarray, probs: np.ndarray, said: str
) -> None:
    with pytest.raises(ContractError, match=said):
        instability(y_prob, probs)


def test_a_threshold_outside_0_to_1_is_refused() -> None:
    with pytest.raises(UsageError, match="threshold"):
        classification_instability(MODEL, BOOTSTRAP, threshold=50)
