"""How many patients a model of a yes-or-no outcome needs before it is fitted.

Three criteria, each a number of patients: little overfitting, little optimism in the explained
variation, and a precise prevalence. The largest counts.

References
----------
.. [1] Riley RD et al. Minimum sample size for developing a multivariable prediction model: part
   II - binary and time-to-event outcomes. Stat Med 2019;38:1276-1296.
.. [2] Riley RD et al. Calculating the sample size required for developing a clinical prediction
   model. BMJ 2020;368:m441.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from heartdx.errors import UsageError

OPTIMISM = 0.05
"""Largest difference of apparent and adjusted Nagelkerke R^2 (criterion 2)."""
MARGIN = 0.05
"""Half-width of the prevalence's 95 % interval (criterion 3)."""
NORMAL_95 = 1.96
"""As printed in the paper, so that its examples come out to the patient."""
GRID = 4001
REACH = 10.0
"""Standard deviations each side of the two means; beyond them is less than 1e-22."""


@dataclass(frozen=True)
class SampleSize:
    """Patients that each criterion asks for.

    Parameters
    ----------
    shrinkage : criterion 1, an expected shrinkage factor of at least the one asked for.
    optimism : criterion 2, apparent minus adjusted Nagelkerke R^2 of at most 0.05.
    overall_risk : criterion 3, the prevalence known to within 0.05.
    n : the largest of the three.
    events : diseased patients expected among ``n``.
    events_per_parameter : at ``n``.
    max_r2_cox_snell : what a perfect model would reach at this prevalence.
    """

    shrinkage: int
    optimism: int
    overall_risk: int
    n: int
    events: float
    events_per_parameter: float
    max_r2_cox_snell: float


def minimum_sample(
    *, parameters: int, prevalence: float, r2_cox_snell: float, shrinkage: float = 0.9
) -> SampleSize:
    """Smallest number of patients that meets the three criteria of Riley et al.

    Parameters
    ----------
    parameters : candidate predictor parameters, without the intercept, those of discarded
        predictors counted.
    prevalence : in (0, 1).
    r2_cox_snell : adjusted Cox-Snell R^2 expected of the model, above 0 and below both
        ``shrinkage`` and what the prevalence allows.
    shrinkage : global shrinkage factor asked for, in (0, 1).

    Raises
    ------
    UsageError
        A number outside its range; it is named.

    References
    ----------
    .. [1] Riley RD et al. Stat Med 2019;38:1276-1296, sections 3.1 to 3.3.

    Examples
    --------
    The Chagas disease model of the paper:

    >>> size = minimum_sample(parameters=24, prevalence=0.174, r2_cox_snell=0.288)
    >>> size.shrinkage, size.optimism, size.overall_risk, size.n
    (623, 662, 221, 662)
    """
    _within("prevalence", prevalence, 1)
    _within("shrinkage", shrinkage, 1)
    highest = max_r2_cox_snell(prevalence)
    _within("r2_cox_snell", r2_cox_snell, min(highest, shrinkage))
    _counted(parameters)
    little_optimism = r2_cox_snell / (r2_cox_snell + OPTIMISM * highest)
    criteria = (
        _for_shrinkage(parameters, r2_cox_snell, shrinkage),
        _for_shrinkage(parameters, r2_cox_snell, little_optimism),
        math.ceil((NORMAL_95 / MARGIN) ** 2 * prevalence * (1 - prevalence)),
    )
    n = max(criteria)
    events = n * prevalence
    return SampleSize(*criteria, n, events, events_per_parameter(events, parameters), highest)


def events_per_parameter(events: float, parameters: int) -> float:
    """Patients with the outcome for each candidate parameter.

    Parameters
    ----------
    events : patients with the outcome; where it is the commoner one, those without are fewer and
        say more.
    parameters : candidate predictor parameters, without the intercept.

    Raises
    ------
    UsageError
        No parameter.

    References
    ----------
    .. [1] van Smeden M et al. No rationale for 1 variable per 10 events criterion for binary
       logistic regression analysis. BMC Med Res Methodol 2016;16:163. (why it is no rule)

    Examples
    --------
    >>> events_per_parameter(115, 23)
    5.0
    """
    _counted(parameters)
    return events / parameters


def max_r2_cox_snell(prevalence: float) -> float:
    """Cox-Snell R^2 of a model that is always right.

    Parameters
    ----------
    prevalence : in (0, 1).

    Raises
    ------
    UsageError
        A prevalence of 0 or 1.

    References
    ----------
    .. [1] Nagelkerke NJD. A note on a general definition of the coefficient of determination.
       Biometrika 1991;78:691-692.

    Examples
    --------
    >>> round(max_r2_cox_snell(0.5), 6)
    0.75
    """
    _within("prevalence", prevalence, 1)
    return float(1 - (prevalence**prevalence * (1 - prevalence) ** (1 - prevalence)) ** 2)


def r2_from_auc(auc: float, prevalence: float) -> float:
    """Cox-Snell R^2 that goes with an AUC, for log-odds normal in each outcome group.

    Riley et al. simulate a large sample of two normals with the same spread and fit a logistic
    model to it. That model is the true one, so its R^2 is 1 - exp(-2 I) with I the information, in
    nats, that the log-odds give about the outcome; here I is integrated, without randomness.

    Parameters
    ----------
    auc : in [0.5, 1).
    prevalence : in (0, 1).

    Raises
    ------
    UsageError
        A number outside its range.

    References
    ----------
    .. [1] Riley RD, Van Calster B, Collins GS. A note on estimating the Cox-Snell R2 from a
       reported C statistic (AUROC) to inform sample size calculations for developing a prediction
       model with a binary outcome. Stat Med 2021;40:859-864.

    Examples
    --------
    >>> round(r2_from_auc(0.81, 0.77), 3), round(r2_from_auc(0.5, 0.3), 3)
    (0.212, 0.0)
    """
    _within("prevalence", prevalence, 1)
    if not 0.5 <= auc < 1:
        raise UsageError("auc must be at least 0.5 and below 1")
    apart = float(math.sqrt(2) * stats.norm.ppf(auc))
    x, step = np.linspace(-REACH, REACH + apart, GRID, retstep=True)
    prior = math.log(prevalence / (1 - prevalence))
    eta = prior + apart * x - apart**2 / 2
    gain_diseased = -np.logaddexp(0, -eta) - math.log(prevalence)
    gain_healthy = -np.logaddexp(0, eta) - math.log(1 - prevalence)
    diseased = prevalence * stats.norm.pdf(x, apart)
    healthy = (1 - prevalence) * stats.norm.pdf(x)
    information = float((diseased * gain_diseased + healthy * gain_healthy).sum() * step)
    return -math.expm1(-2 * max(information, 0.0))


def _for_shrinkage(parameters: int, r2: float, shrinkage: float) -> int:
    """Equation 11 of Riley et al. (2019)."""
    return math.ceil(parameters / ((shrinkage - 1) * math.log1p(-r2 / shrinkage)))


def _within(name: str, value: float, below: float) -> None:
    if not 0 < value < below:
        raise UsageError(f"{name} must be above 0 and below {below:.4g}")


def _counted(parameters: int) -> None:
    if parameters < 1:
        raise UsageError("parameters must be 1 or more: count those of every candidate predictor")
