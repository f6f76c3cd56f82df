"""Recalibration in a new hospital: a ladder from no change to a model fitted anew.

The published model keeps its predictors and their relative weights; a few local patients are
asked for an intercept (the hospital's prevalence is another one), then for a slope too (the
predictors weigh less or more there). What the local patients cannot support is not climbed to.

References
----------
.. [1] Steyerberg EW et al. Validation and updating of predictive logistic regression models: a
   study on sample size and shrinkage. Stat Med 2004;23:2567-2586.
.. [2] Vergouwe Y et al. A closed testing procedure to select an appropriate method for updating
   prediction models. Stat Med 2017;36:4529-4539.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from heartdx.errors import ContractError, UsageError

Recalibration = Literal["none", "intercept", "intercept_slope"]
Step = Literal["none", "intercept", "intercept_slope", "refit"]

RECALIBRATIONS: tuple[Recalibration, ...] = ("none", "intercept", "intercept_slope")
"""From the least to the most that is estimated: 0, 1 and 2 parameters."""
JEFFREYS = 0.5
PROBABILITY_FLOOR = 1e-6
"""A probability nearer to 0 or 1 than this has its log-odds cut there, about +-13.8."""
ITERATIONS = 60
LONGEST_STEP = 5.0
TOLERANCE = 1e-12
NO_SPREAD = 1e-9
"""Log-odds that span less are one value, and one value has no slope."""


@dataclass(frozen=True)
class Update:
    """An update of a model: log-odds = ``intercept`` + ``slope`` * original log-odds.

    Parameters
    ----------
    step : "none", "intercept", "intercept_slope", or "refit" for a model fitted anew, whose own
        probabilities then stand as they are.
    intercept : 0 when nothing is changed.
    slope : 1 when nothing is changed.
    """

    step: Step
    intercept: float = 0.0
    slope: float = 1.0

    def probability(self, y_prob: np.ndarray) -> np.ndarray:
        """Updated probabilities of the original ``y_prob``, same shape, in [0, 1]."""
        y_prob = np.asarray(y_prob, dtype=float)
        if (self.intercept, self.slope) == (0.0, 1.0):
            return y_prob.copy()
        return _expit(self.intercept + self.slope * _log_odds(y_prob))


@dataclass(frozen=True)
class LikelihoodRatio:
    """Test of the most changed model against one that is changed less.

    Parameters
    ----------
    against : the step tested.
    statistic : twice the gain in log-likelihood, at least 0.
    degrees : of freedom of its chi-square.
    p_value : in [0, 1].
    """

    against: Step
    statistic: float
    degrees: int
    p_value: float


@dataclass(frozen=True)
class ClosedTest:
    """The step a closed test picks, and the tests made on the way.

    Parameters
    ----------
    step : the simplest one that is not rejected, or the most changed one.
    tests : in the order made; the last one is not rejected unless ``step`` is the most changed.
    level : probability of changing anything when nothing needs a change.
    """

    step: Step
    tests: tuple[LikelihoodRatio, ...]
    level: float


def update(y: np.ndarray, y_prob: np.ndarray, *, step: Recalibration) -> Update:
    """Logistic recalibration on local patients, by maximum likelihood without a penalty.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    y_prob : shape (n,), the original model's probabilities in [0, 1].
    step : "none", "intercept" (slope stays 1) or "intercept_slope".

    Notes
    -----
    When a value of the log-odds separates the two outcomes there is no finite slope; then, and
    only then, the likelihood is penalised by Jeffreys' prior (Firth), which has one. A separated
    sample is a small one: the slope it gives is finite, not precise.

    Raises
    ------
    ContractError
        One outcome only, or for the slope probabilities that do not differ.
    UsageError
        A step that is not a recalibration: a model fitted anew needs its predictors.

    References
    ----------
    .. [1] Cox DR. Two further applications of a model for binary regression. Biometrika
       1958;45:562-565.
    .. [2] Firth D. Bias reduction of maximum likelihood estimates. Biometrika 1993;80:27-38.
    .. [3] Heinze G, Schemper M. A solution to the problem of separation in logistic regression.
       Stat Med 2002;21:2409-2419.

    Examples
    --------
    >>> y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.3, 0.4])
    >>> local = update(y, p, step="intercept")
    >>> round(float(local.probability(p).sum()), 6)
    2.0
    """
    _known(step)
    y, y_prob = _checked(y, y_prob)
    if step == "none":
        return Update("none")
    x = _log_odds(y_prob)
    _supports(y, x, step)
    intercepts, slopes = _fits(y[None, :], x[None, :], step)
    return Update(step, float(intercepts[0]), float(slopes[0]))


def update_many(
    y: np.ndarray, y_prob: np.ndarray, samples: np.ndarray, *, step: Recalibration
) -> tuple[np.ndarray, np.ndarray]:
    """Intercept and slope of ``update`` for many samples of patients at once.

    Parameters
    ----------
    y, y_prob : shape (n,), as for ``update``.
    samples : shape (draws, k), places of the sampled patients among the n.
    step : as for ``update``.

    Returns
    -------
    intercepts, slopes : each of shape (draws,). NaN where ``update`` refuses: one outcome only,
        or no two different probabilities for the slope. A separated draw has the finite slope of
        the penalised likelihood, as in ``update``.

    Raises
    ------
    ContractError
        Labels, probabilities or places that are not usable.
    UsageError
        A step that is not a recalibration.

    Examples
    --------
    >>> y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.3, 0.4])
    >>> intercepts, slopes = update_many(y, p, np.array([[0, 1, 2], [2, 3, 3]]), step="intercept")
    >>> intercepts.round(2), slopes
    (array([0.35,  nan]), array([ 1., nan]))
    """
    _known(step)
    y, y_prob = _checked(y, y_prob)
    samples = np.asarray(samples)
    if samples.ndim != 2 or not samples.shape[1] or not np.issubdtype(samples.dtype, np.integer):
        raise ContractError(
            f"samples have shape {samples.shape} and type {samples.dtype}; expected whole numbers "
            "of shape (draws, k), the places of the sampled patients"
        )
    if samples.size and (samples.min() < 0 or samples.max() >= len(y)):
        raise ContractError(f"samples name places outside 0 to {len(y) - 1}; draw them from these")
    if step == "none":
        return np.zeros(len(samples)), np.ones(len(samples))
    return _fits(y[samples], _log_odds(y_prob)[samples], step)


def closed_test(
    y: np.ndarray,
    y_prob: np.ndarray,
    *,
    refit_loglik: float | None = None,
    refit_df: int | None = None,
    level: float = 0.05,
) -> ClosedTest:
    """The simplest update the local patients do not reject.

    The most changed model is tested against the original, then the intercept, then intercept and
    slope, each by a likelihood ratio at the same level; the first one not rejected is taken. The
    order closes the family: all simpler models are nested, so the level holds for the whole.
    Without a refitted model the ladder ends at intercept and slope.

    Parameters
    ----------
    y, y_prob : shape (n,), local patients and the original model's probabilities.
    refit_loglik : log-likelihood, in nats, of the model fitted anew on the same patients.
    refit_df : number of parameters of that model, its intercept counted; at least 3.
    level : of each test and of the whole.

    Notes
    -----
    In a separated sample the log-likelihood with a slope is taken at the penalised estimate: a
    little below its bound, so a slope is chosen slightly less often.

    Raises
    ------
    ContractError
        As ``update``.
    UsageError
        A refit with its log-likelihood or its number of parameters alone, or with fewer than 3.

    References
    ----------
    .. [1] Vergouwe Y et al. Stat Med 2017;36:4529-4539.

    Examples
    --------
    >>> y = np.r_[np.ones(30), np.zeros(10), np.ones(10), np.zeros(30)]
    >>> closed_test(y, np.r_[np.full(40, 0.75), np.full(40, 0.25)]).step
    'none'
    >>> closed_test(y, np.r_[np.full(40, 0.5), np.full(40, 0.1)]).step
    'intercept'
    """
    ladder = {step: _log_likelihood_of(y, y_prob, step) for step in RECALIBRATIONS}
    top, loglik, parameters = _top(ladder, refit_loglik, refit_df)
    tests: list[LikelihoodRatio] = []
    for fewer, step in enumerate(RECALIBRATIONS):
        if step == top:
            break
        tests.append(_likelihood_ratio(step, loglik - ladder[step], parameters - fewer))
        if tests[-1].p_value >= level:
            return ClosedTest(step, tuple(tests), level)
    return ClosedTest(top, tuple(tests), level)


def local_prevalence(y: np.ndarray, *, prior: float = JEFFREYS) -> float:
    """Prevalence among local patients, never 0 or 1, so that its log loss is finite.

    The posterior mean (diseased + prior) / (n + 2 prior) of a binomial proportion; with Jeffreys'
    prior a half is added to each outcome.

    Parameters
    ----------
    y : shape (n,), 0 or 1, n at least 1.
    prior : patients added to each outcome, above 0.

    Raises
    ------
    ContractError
        No patient, or labels other than 0 and 1.
    UsageError
        A prior that is not above 0.

    References
    ----------
    .. [1] Brown LD, Cai TT, DasGupta A. Interval estimation for a binomial proportion. Stat Sci
       2001;16:101-133. (Jeffreys' prior)

    Examples
    --------
    >>> local_prevalence(np.array([1, 1, 0, 1])), local_prevalence(np.zeros(4))
    (0.7, 0.1)
    """
    if not 0 < prior < np.inf:
        raise UsageError("prior must be above 0: with 0 a hospital without disease has no log loss")
    y = _labels(y)
    return float((y.sum() + prior) / (len(y) + 2 * prior))


def _known(step: str) -> None:
    if step not in RECALIBRATIONS:
        raise UsageError(
            f"step {step!r} is no recalibration; use one of {', '.join(RECALIBRATIONS)}, or fit "
            "the model anew with its predictors"
        )


def _labels(y: np.ndarray) -> np.ndarray:
    y = np.asarray(y, dtype=float)
    if y.ndim != 1 or not len(y) or not np.isin(y, (0, 1)).all():
        raise ContractError(
            f"labels have shape {y.shape}; expected shape (n,) with at least one patient, each 0 "
            "or 1"
        )
    return y


def _checked(y: np.ndarray, y_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, y_prob = _labels(y), np.asarray(y_prob, dtype=float)
    if y_prob.shape != y.shape:
        raise ContractError(
            f"{len(y)} labels came with probabilities of shape {y_prob.shape}; expected one each"
        )
    outside = int((~((y_prob >= 0) & (y_prob <= 1))).sum())
    if outside:
        raise ContractError(
            f"{outside} of {len(y)} probabilities are missing or outside 0 to 1; score these "
            "patients or leave them out"
        )
    return y, y_prob


def _supports(y: np.ndarray, x: np.ndarray, step: Recalibration) -> None:
    if y.min() == y.max():
        raise ContractError(
            f"all {len(y)} patients have the same outcome; recalibration needs both, so wait for "
            "more patients or keep the model as it is"
        )
    if step == "intercept_slope" and np.ptp(x) < NO_SPREAD:
        raise ContractError(
            f"all {len(y)} patients have the same probability; a slope needs two different ones, "
            "so update the intercept only"
        )


def _top(
    ladder: dict[Recalibration, float], refit_loglik: float | None, refit_df: int | None
) -> tuple[Step, float, int]:
    if refit_loglik is None and refit_df is None:
        return "intercept_slope", ladder["intercept_slope"], 2
    if refit_loglik is None or refit_df is None or refit_df < 3:
        raise UsageError(
            "a refitted model needs refit_loglik and refit_df together, and at least 3 parameters "
            "with the intercept; otherwise leave both out"
        )
    return "refit", refit_loglik, refit_df


def _likelihood_ratio(against: Step, gain: float, degrees: int) -> LikelihoodRatio:
    statistic = max(0.0, 2 * gain)  # a penalised refit can lie below
    return LikelihoodRatio(against, statistic, degrees, float(stats.chi2.sf(statistic, degrees)))


def _log_likelihood_of(y: np.ndarray, y_prob: np.ndarray, step: Recalibration) -> float:
    found = update(y, y_prob, step=step)
    y, y_prob = _checked(y, y_prob)
    eta = found.intercept + found.slope * _log_odds(y_prob)
    return float(_log_likelihood(y, eta))


def _fits(y: np.ndarray, x: np.ndarray, step: Recalibration) -> tuple[np.ndarray, np.ndarray]:
    """Intercepts and slopes, each (draws,), of ``y`` and log-odds ``x``, both (draws, k)."""
    with_slope = step == "intercept_slope"
    usable = y.min(axis=1) < y.max(axis=1)
    if with_slope:
        usable &= np.ptp(x, axis=1) >= NO_SPREAD
    intercepts, slopes = np.full(len(y), np.nan), np.full(len(y), np.nan)
    y, x = y[usable], x[usable]
    penalised = _separated(y, x) & with_slope
    intercepts[usable], slopes[usable] = _maximise(y, x, with_slope, penalised)
    return intercepts, slopes


def _separated(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Draws in which one value of x parts the outcomes, exactly the ones without a finite slope."""
    highest_healthy = np.where(y == 0, x, -np.inf).max(axis=1)
    lowest_healthy = np.where(y == 0, x, np.inf).min(axis=1)
    highest_diseased = np.where(y == 1, x, -np.inf).max(axis=1)
    lowest_diseased = np.where(y == 1, x, np.inf).min(axis=1)
    parted: np.ndarray = (highest_healthy <= lowest_diseased) | (highest_diseased <= lowest_healthy)
    return parted


def _maximise(
    y: np.ndarray, x: np.ndarray, with_slope: bool, penalised: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Newton steps, all draws at once, each step halved until the likelihood does not fall."""
    slope = np.full(len(y), 0.0 if with_slope else 1.0)
    share = y.mean(axis=1)
    intercept = np.log(share / (1 - share)) - slope * x.mean(axis=1)
    reached = _objective(y, x, intercept, slope, penalised)
    for _ in range(ITERATIONS):
        by_intercept, by_slope = _newton(y, x, intercept, slope, with_slope, penalised)
        if max(np.abs(by_intercept).max(initial=0), np.abs(by_slope).max(initial=0)) < TOLERANCE:
            break
        length = np.ones(len(y))
        for _ in range(ITERATIONS):
            tried = _objective(
                y, x, intercept + length * by_intercept, slope + length * by_slope, penalised
            )
            falls = tried < reached - TOLERANCE * np.abs(reached)
            if not falls.any():
                break
            length[falls] /= 2
        intercept, slope = intercept + length * by_intercept, slope + length * by_slope
        reached = tried
    return intercept, slope


def _newton(
    y: np.ndarray,
    x: np.ndarray,
    intercept: np.ndarray,
    slope: np.ndarray,
    with_slope: bool,
    penalised: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Steps of intercept and slope, each (draws,); x is centred, so the 2 by 2 system is diagonal.

    The penalty adds leverage * (1/2 - p) to a patient's residual (Heinze and Schemper, 2002).
    """
    p = _expit(intercept[:, None] + slope[:, None] * x)
    w = p * (1 - p)
    total = w.sum(axis=1)
    residual = y - p
    if not with_slope:
        by_intercept = np.clip(residual.sum(axis=1) / total, -LONGEST_STEP, LONGEST_STEP)
        return by_intercept, np.zeros(len(y))
    centre = (w * x).sum(axis=1) / total
    deviation = x - centre[:, None]
    spread = (w * deviation**2).sum(axis=1)
    leverage = w * (1 / total[:, None] + deviation**2 / spread[:, None])
    residual = residual + penalised[:, None] * leverage * (0.5 - p)
    by_slope = np.clip((residual * deviation).sum(axis=1) / spread, -LONGEST_STEP, LONGEST_STEP)
    at_centre = np.clip(residual.sum(axis=1) / total, -LONGEST_STEP, LONGEST_STEP)
    return at_centre - centre * by_slope, by_slope


def _objective(
    y: np.ndarray, x: np.ndarray, intercept: np.ndarray, slope: np.ndarray, penalised: np.ndarray
) -> np.ndarray:
    """Log-likelihood (draws,), with half the log determinant of the information if penalised."""
    eta = intercept[:, None] + slope[:, None] * x
    found = _log_likelihood(y, eta)
    if penalised.any():
        w = _expit(eta[penalised]) * _expit(-eta[penalised])
        total, x = w.sum(axis=1), x[penalised]
        deviation = x - ((w * x).sum(axis=1) / total)[:, None]
        found[penalised] += (np.log(total) + np.log((w * deviation**2).sum(axis=1))) / 2
    return found


def _log_likelihood(y: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Sum over the last axis, finite however large the log-odds are."""
    total: np.ndarray = -np.logaddexp(0, np.where(y == 1, -eta, eta)).sum(axis=-1)
    return total


def _log_odds(y_prob: np.ndarray) -> np.ndarray:
    p = np.clip(y_prob, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    logit: np.ndarray = np.log(p) - np.log1p(-p)
    return logit


def _expit(eta: np.ndarray) -> np.ndarray:
    p: np.ndarray = (1 + np.tanh(eta / 2)) / 2
    return p
