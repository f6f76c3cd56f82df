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
from heartdx.resampling import mean_of_means


@dataclass(frozen=True)
class Choice:
    """Which candidate, and why.

    Parameters
    ----------
    candidate : name of the chosen one.
    best : name of the one with the lowest loss.
    losses : candidate name to log loss, the mean of the means of each stratum.
    compared_with : the best, or the runner-up when the best was chosen; empty when there is none.
    difference : loss of the chosen minus loss of that one.
    standard_error : of that paired difference, patients sampled within strata.
    reason : the same as a sentence.
    """

    candidate: str
    best: str
    losses: Mapping[str, float]
    compared_with: str
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
    means = {c.name: mean_of_means(losses[c.name], strata) for c in candidates}
    best = min(candidates, key=lambda c: means[c.name])
    for candidate in sorted(candidates, key=lambda c: c.complexity):
        difference, error = _paired(losses[candidate.name], losses[best.name], strata)
        if difference <= error:
            break
    others = sorted((c for c in candidates if c is not candidate), key=lambda c: means[c.name])
    rival = best if candidate is not best else others[0] if others else None
    if rival is not None:
        difference, error = _paired(losses[candidate.name], losses[rival.name], strata)
    reason = _reason(candidate, rival, candidate is best, means, difference, error, measured)
    rival_name = rival.name if rival else ""
    return Choice(candidate.name, best.name, means, rival_name, difference, error, reason)


def _paired(one: np.ndarray, other: np.ndarray, strata: np.ndarray) -> tuple[float, float]:
    difference = mean_of_means(one, strata) - mean_of_means(other, strata)
    return difference, _standard_error(one - other, strata)


def _standard_error(differences: np.ndarray, strata: np.ndarray) -> float:
    """Of the mean of stratum means, patients sampled within strata."""
    parts = [differences[strata == stratum] for stratum in np.unique(strata)]
    variance = sum(part.var(ddof=1) / len(part) for part in parts if len(part) > 1)
    return float(np.sqrt(variance) / len(parts))


def _reason(
    chosen: Candidate,
    rival: Candidate | None,
    is_best: bool,
    means: Mapping[str, float],
    difference: float,
    error: float,
    measured: str,
) -> str:
    listed = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
    if rival is None:
        return f"{chosen.label} is the only candidate ({listed}), {measured}."
    margin = f"paired difference {difference:+.4f}, standard error {error:.4f}"
    if is_best:
        return (
            f"{chosen.label} has the lowest mean log loss ({listed}; {margin} against "
            f"{rival.label.lower()}), {measured}."
        )
    return (
        f"{chosen.label} is the simplest within one paired standard error of the best, "
        f"{rival.label.lower()} ({listed}; {margin}), {measured}."
    )
