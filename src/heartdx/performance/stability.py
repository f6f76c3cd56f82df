"""What a model's good figures owe to the patients it happened to be fitted on.

Both answers come from repeating the whole modelling on bootstrap samples: optimism compares
each repeated model on its own sample and on the original one; instability compares what the
repeated models say about the same patient.

References
----------
.. [1] Harrell FE, Lee KL, Mark DB. Multivariable prognostic models. Stat Med 1996;15:361-387.
.. [2] Riley RD, Collins GS. Stability of clinical prediction models developed using statistical
   or machine learning methods. Biom J 2023;65:2200302.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from heartdx.errors import ContractError, UsageError
from heartdx.performance.intervals import Interval

PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Optimism:
    """A statistic as it looks, how much of that is optimism, and what is left.

    Parameters
    ----------
    apparent : the model on the patients it was fitted on.
    optimism : mean over resamples of (on its bootstrap sample - on the original patients).
    corrected : ``apparent`` - ``optimism`` with its location-shifted 95 % interval.
    resamples : bootstrap models that gave a number on both.
    """

    apparent: float
    optimism: float
    corrected: Interval
    resamples: int


@dataclass(frozen=True)
class Instability:
    """How far bootstrap models part from the model, patient by patient.

    Parameters
    ----------
    per_patient : shape (n,), mean absolute difference of probability (MAPE).
    mean, median, largest : of ``per_patient``.
    low, high : shape (n,), between which 95 % of the bootstrap models' probabilities lie.
    models : number of bootstrap models.
    """

    per_patient: np.ndarray
    mean: float
    median: float
    largest: float
    low: np.ndarray
    high: np.ndarray
    models: int


def optimism(apparent: float, on_bootstrap: np.ndarray, on_original: np.ndarray) -> Optimism:
    """Optimism-corrected statistic by Harrell's bootstrap.

    Parameters
    ----------
    apparent : the statistic of the model on the patients it was fitted on.
    on_bootstrap : shape (resamples,), of each bootstrap model on its own bootstrap sample.
    on_original : shape (resamples,), of the same models on the original patients.

    Notes
    -----
    A resample that is NaN on either side is left out of both; with none left the answer is NaN.
    The interval holds the percentiles of ``on_bootstrap`` moved by the optimism. It does not add
    the uncertainty of the optimism itself, and can be a little short with few patients.

    Raises
    ------
    ContractError
        Shapes that differ or are not (resamples,).

    References
    ----------
    .. [1] Harrell FE, Lee KL, Mark DB. Stat Med 1996;15:361-387.
    .. [2] Noma H et al. Confidence intervals of prediction accuracy measures for multivariable
       prediction models based on the bootstrap-based optimism correction methods. Stat Med
       2021;40:5691-5701. (location-shifted bootstrap)

    Examples
    --------
    >>> found = optimism(0.80, np.array([0.82, 0.84]), np.array([0.78, 0.80]))
    >>> round(found.optimism, 3), round(found.corrected.value, 3)
    (0.04, 0.76)
    """
    own, original = np.asarray(on_bootstrap, dtype=float), np.asarray(on_original, dtype=float)
    if own.ndim != 1 or own.shape != original.shape:
        raise ContractError(
            f"bootstrap statistics have shapes {own.shape} and {original.shape}; expected the same "
            "shape (resamples,) for both, one statistic at a time"
        )
    known = np.isfinite(own) & np.isfinite(original)
    if not known.any():
        return Optimism(apparent, np.nan, Interval(np.nan, np.nan, np.nan), 0)
    surplus = float((own - original)[known].mean())
    low, high = np.percentile(own[known], PERCENTILES) - surplus
    corrected = Interval(apparent - surplus, float(low), float(high))
    return Optimism(apparent, surplus, corrected, int(known.sum()))


def instability(y_prob: np.ndarray, bootstrap_probs: np.ndarray) -> Instability:
    """How much each patient's probability depends on the sample the model was fitted on.

    Parameters
    ----------
    y_prob : shape (n,), the model's probabilities.
    bootstrap_probs : shape (models, n), what each bootstrap model says about the same patients.

    Raises
    ------
    ContractError
        Shapes that do not fit, or a probability that is missing or outside 0 to 1.

    References
    ----------
    .. [1] Riley RD, Collins GS. Biom J 2023;65:2200302. (MAPE, instability plot)

    Examples
    --------
    >>> found = instability(np.array([0.2, 0.6]), np.array([[0.1, 0.6], [0.3, 0.8]]))
    >>> found.per_patient.round(2), round(found.mean, 2)
    (array([0.1, 0.1]), 0.1)
    """
    y_prob, probs = _checked(y_prob, bootstrap_probs)
    per_patient = np.abs(probs - y_prob).mean(axis=0)
    low, high = np.percentile(probs, PERCENTILES, axis=0)
    return Instability(
        per_patient=per_patient,
        mean=float(per_patient.mean()),
        median=float(np.median(per_patient)),
        largest=float(per_patient.max()),
        low=low,
        high=high,
        models=len(probs),
    )


def classification_instability(
    y_prob: np.ndarray, bootstrap_probs: np.ndarray, *, threshold: float
) -> np.ndarray:
    """Share of bootstrap models that put a patient on the other side of the threshold.

    Parameters
    ----------
    y_prob, bootstrap_probs : as for ``instability``.
    threshold : in [0, 1], probability from which the answer is *disease*.

    Returns
    -------
    shape (n,), in [0, 1].

    Raises
    ------
    ContractError
        As ``instability``.
    UsageError
        A threshold outside 0 to 1.

    References
    ----------
    .. [1] Riley RD, Collins GS. Biom J 2023;65:2200302. (classification instability index)

    Examples
    --------
    >>> probs = np.array([[0.1, 0.6], [0.3, 0.4]])
    >>> classification_instability(np.array([0.2, 0.5]), probs, threshold=0.5)
    array([0. , 0.5])
    """
    if not 0 <= threshold <= 1:
        raise UsageError("threshold must be a probability, from 0 to 1")
    y_prob, probs = _checked(y_prob, bootstrap_probs)
    changed: np.ndarray = ((probs >= threshold) != (y_prob >= threshold)).mean(axis=0)
    return changed


def _checked(y_prob: np.ndarray, bootstrap_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y_prob, probs = np.asarray(y_prob, dtype=float), np.asarray(bootstrap_probs, dtype=float)
    fits = y_prob.ndim == 1 and probs.ndim == 2 and probs.shape[1] == len(y_prob)
    if not fits or not probs.size:
        raise ContractError(
            f"probabilities have shape {y_prob.shape} and bootstrap probabilities {probs.shape}; "
            "expected (n,) and (models, n), none of them 0"
        )
    for name, values in (("probabilities", y_prob), ("bootstrap probabilities", probs)):
        outside = int((~((values >= 0) & (values <= 1))).sum())
        if outside:
            raise ContractError(
                f"{outside} of {values.size} {name} are missing or outside 0 to 1; leave out the "
                "bootstrap models that could not be fitted and say how many"
            )
    return y_prob, probs
