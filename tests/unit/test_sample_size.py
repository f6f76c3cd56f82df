"""Minimum sample sizes are the published ones."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from heartdx.errors import UsageError
from heartdx.performance.sample_size import (
    events_per_parameter,
    max_r2_cox_snell,
    minimum_sample,
    r2_from_auc,
)

# pmsampsize 0.1.0 (PyPI, its authors' Python edition), type="b": parameters, prevalence,
# csrsquared, shrinkage, then criteria 1 to 3, EPP at the final size and Max_Rsq. The first row is
# the Chagas disease example of its help page and of Riley et al., Stat Med 2019.
PMSAMPSIZE = [
    (24, 0.174, 0.288, 0.9, 623, 662, 221, 4.80, 0.6032086677670351),
    (24, 0.174, 0.55, 0.9, 255, 532, 221, 3.86, 0.6032086677670351),
    (36, 0.174, 0.288, 0.9, 934, 992, 221, 4.79, 0.6032086677670351),
    (24, 0.25, 0.288, 0.9, 623, 590, 289, 6.49, 0.6752404735808355),
    (15, 0.55, 0.45, 0.9, 217, 293, 381, 13.97, 0.7474832327263237),
    (10, 0.05, 0.1, 0.95, 1799, 575, 73, 9.00, 0.32768647129508865),
]


@pytest.mark.parametrize("row", PMSAMPSIZE, ids=str)
def test_each_criterion_asks_for_as_many_patients_as_pmsampsize(row: tuple[float, ...]) -> None:
    parameters, prevalence, r2, shrinkage, first, second, third, epp, highest = row

    found = minimum_sample(
        parameters=int(parameters), prevalence=prevalence, r2_cox_snell=r2, shrinkage=shrinkage
    )

    assert (found.shrinkage, found.optimism, found.overall_risk) == (first, second, third)
    assert found.n == max(first, second, third)
    assert round(found.events_per_parameter, 2) == epp
    assert found.max_r2_cox_snell == pytest.approx(highest, abs=1e-12)


@pytest.mark.parametrize(
    ("auc", "prevalence", "simulated"), [(0.89, 0.174, 0.2908), (0.81, 0.77, 0.2112)]
)
def test_an_auc_gives_the_r2_that_pmsampsize_simulates(
    auc: float, prevalence: float, simulated: float
) -> None:
    """cstat2rsq of pmsampsize 0.1.0, a million patients: its last digit is noise."""
    assert r2_from_auc(auc, prevalence) == pytest.approx(simulated, abs=1e-3)


@pytest.mark.parametrize(("auc", "prevalence"), [(0.6, 0.1), (0.75, 0.5), (0.9, 0.8)])
def test_an_auc_gives_the_r2_of_a_logistic_model_of_two_normals(
    auc: float, prevalence: float
) -> None:
    generator = np.random.default_rng(5)
    n = 400_000
    y = np.arange(n) < prevalence * n
    x = generator.normal(0, 1, n) + y * {0.6: 0.3583, 0.75: 0.9539, 0.9: 1.8124}[auc]
    fit = sm.GLM(y.astype(float), sm.add_constant(x), family=sm.families.Binomial()).fit()
    simulated = 1 - np.exp(-(fit.null_deviance - fit.deviance) / n)

    assert r2_from_auc(auc, prevalence) == pytest.approx(simulated, abs=2e-3)


def test_which_outcome_is_called_disease_does_not_matter_to_the_r2() -> None:
    assert r2_from_auc(0.8, 0.2) == pytest.approx(r2_from_auc(0.8, 0.8), abs=1e-12)


def test_the_r2_of_an_auc_runs_from_nothing_to_what_the_prevalence_allows() -> None:
    found = [r2_from_auc(auc, 0.3) for auc in (0.5, 0.7, 0.9, 0.99, 1 - 1e-12)]

    assert found == sorted(found)
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found[-1] == pytest.approx(max_r2_cox_snell(0.3), abs=1e-6)


def test_the_highest_r2_is_riley_and_colleagues_printed_one() -> None:
    """Riley et al. 2019: 0.75 at a prevalence of 0.5, 0.33 at 0.05, 0.11 at 0.01."""
    found = [round(max_r2_cox_snell(p), 2) for p in (0.5, 0.05, 0.01)]

    assert found == [0.75, 0.33, 0.11]


def test_events_are_shared_among_the_parameters() -> None:
    assert events_per_parameter(411, 15) == 27.4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"parameters": 0}, "parameters"),
        ({"prevalence": 0.0}, "prevalence"),
        ({"prevalence": 1.0}, "prevalence"),
        ({"r2_cox_snell": 0.0}, "r2_cox_snell"),
        ({"r2_cox_snell": 0.61}, "r2_cox_snell"),
        ({"shrinkage": 1.0}, "shrinkage"),
        ({"shrinkage": 0.2}, "r2_cox_snell"),
    ],
    ids=str,
)
def test_a_number_out_of_range_is_named(change: dict[str, float], named: str) -> None:
    usual = {"parameters": 24, "prevalence": 0.174, "r2_cox_snell": 0.288}

    with pytest.raises(UsageError, match=named):
        minimum_sample(**{**usual, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("auc", [0.4, 1.0, np.nan])
def test_an_auc_worse_than_chance_or_perfect_has_no_r2(auc: float) -> None:
    with pytest.raises(UsageError, match="auc"):
        r2_from_auc(auc, 0.3)
