"""The pre-declared rule that picks a model, stated before any result is seen.

The simplest eligible candidate whose log loss is within one paired standard error of the best.

References
----------
.. [1] Breiman L, Friedman JH, Olshen RA, Stone CJ. Classification and regression trees. Wadsworth,
   1984, section 3.4.3 (the one-standard-error rule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heartdx.pipelines import Candidate


@dataclass(frozen=True)
class Choice:
    """Which candidate, and why.

    Parameters
    ----------
    candidate : name of the chosen one.
    best : name of the one with the lowest loss.
    losses : candidate name to log loss, the mean of the means of each stratum.
    difference : loss of the chosen minus loss of the best.
    standard_error : of that paired difference.
    reason : the same as a sentence.
    """

    candidate: str
    best: str
    losses: Mapping[str, float]
    difference: float
    standard_error: float
    reason: str


def choose(
    losses: Mapping[str, np.ndarray],
    strata: np.ndarray,
    *,
    candidates: Sequence[Candidate],
    measured: str,
) -> Choice:
    """Apply the rule.

    Parameters
    ----------
    losses : candidate name to log loss of each patient, shape (n,), all on the same patients.
    strata : shape (n,); each stratum (hospital) weighs the same, whatever its size.
    candidates : the eligible ones.
    measured : how the losses were obtained, for the reason.
    """
    means = {c.name: _mean_of_means(losses[c.name], strata) for c in candidates}
    best = min(candidates, key=lambda c: means[c.name])
    for candidate in sorted(candidates, key=lambda c: c.complexity):
        difference = means[candidate.name] - means[best.name]
        error = _standard_error(losses[candidate.name] - losses[best.name], strata)
        if difference <= error:
            break
    reason = _reason(candidate, best, means, difference, error, measured)
    return Choice(candidate.name, best.name, means, difference, error, reason)


def _mean_of_means(values: np.ndarray, strata: np.ndarray) -> float:
    return float(np.mean([values[strata == stratum].mean() for stratum in np.unique(strata)]))


def _standard_error(differences: np.ndarray, strata: np.ndarray) -> float:
    """Of the mean of stratum means, patients sampled within strata."""
    parts = [differences[strata == stratum] for stratum in np.unique(strata)]
    variance = sum(part.var(ddof=1) / len(part) for part in parts if len(part) > 1)
    return float(np.sqrt(variance) / len(parts))


def _reason(
    chosen: Candidate,
    best: Candidate,
    means: Mapping[str, float],
    difference: float,
    error: float,
    measured: str,
) -> str:
    listed = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
    if chosen.name == best.name:
        return f"{chosen.label} has the lowest log loss ({listed}), {measured}."
    return (
        f"{chosen.label} is the simplest within one paired standard error of the best, "
        f"{best.label}: difference {difference:.4f}, standard error {error:.4f} ({listed}), "
        f"{measured}."
    )
