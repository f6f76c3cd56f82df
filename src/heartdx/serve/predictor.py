"""The loaded model of a service, and its answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from heartdx import bundle as bundles
from heartdx import logs, signing
from heartdx.bundle import Bundle
from heartdx.contract import BY_NAME, NAMES, OUTCOME, PANEL_NAMES, PANELS
from heartdx.errors import (
    BundleError,
    FieldProblem,
    NoModelError,
    UsageError,
    VerificationError,
)
from heartdx.reliability import ABSTAIN_REASONS, FAR, STRADDLE
from heartdx.serve import compiled
from heartdx.serve.inputs import MAX_PROBLEMS, Ask
from heartdx.serve.problems import InputError, Located, RequestError
from heartdx.settings import Settings

_LOG = logs.get("serve")
ABSTENTIONS = tuple(ABSTAIN_REASONS.values())
LABELS = (OUTCOME.negative, OUTCOME.positive)


@dataclass(frozen=True)
class Loaded:
    """What a start found: a verified bundle, or the reason why there is none.

    Parameters
    ----------
    bundle : the model that answers; None when there is none.
    reason : one sentence with the command to run, empty with a model.
    """

    bundle: Bundle | None
    reason: str = ""

    def require(self) -> Bundle:
        """The model.

        Raises
        ------
        RequestError
            There is none; the service answers 503, never a number.
        """
        if self.bundle is None:
            raise RequestError("no-model", self.reason)
        return self.bundle


NOT_STARTED = Loaded(None, "the service has not finished its start; ask /readyz again")


def load(settings: Settings) -> Loaded:
    """The bundle the settings name, verified; a missing or damaged one becomes the reason.

    Raises
    ------
    UsageError
        The settings name something that is never served.
    """
    try:
        folder = bundles.locate(models_dir=settings.models_dir, model_path=settings.model_path)
        bundle = signing.load(folder, settings)
        compiled.verify(bundle)
        return Loaded(bundle)
    except UsageError:
        raise
    except (NoModelError, VerificationError) as refusal:
        return Loaded(None, _without_places(str(refusal), settings))
    except Exception as cause:  # noqa: BLE001 - whatever a damaged bundle does to its readers
        logs.event(
            _LOG,
            "bundle_unreadable",
            level=logging.ERROR,
            error=type(cause).__name__,
            where=logs.places(cause),
        )
        return Loaded(
            None,
            f"the bundle cannot be read ({type(cause).__name__}); train again: "
            f"{bundles.HOW_TO_TRAIN}",
        )


def _without_places(reason: str, settings: Settings) -> str:
    """A reason that any client may read: it names files by their folder, not where that lies."""
    for path in (settings.models_dir, settings.model_path, settings.public_key):
        if path is not None and path.is_absolute() and path.parent != path:
            reason = reason.replace(f"{path.parent}/", "")
    return reason


@dataclass(frozen=True)
class Answers:
    """Answers to a table, one entry for each patient.

    Parameters
    ----------
    bundle : what answered.
    X : array of shape (n_patients, 13), what was asked.
    probability : shape (n_patients,), of disease.
    place : shape (n_patients,), place of the answering panel in ``contract.PANELS``.
    """

    bundle: Bundle
    X: np.ndarray
    probability: np.ndarray
    place: np.ndarray

    @property
    def positive(self) -> np.ndarray:
        """Whether the probability reaches the threshold, shape (n_patients,)."""
        reached: np.ndarray = self.probability >= self.bundle.threshold
        return reached

    @property
    def probabilities(self) -> list[float]:
        """The probabilities as plain numbers."""
        listed: list[float] = self.probability.tolist()
        return listed

    @property
    def predictions(self) -> list[int]:
        """1 from the threshold on, else 0."""
        listed: list[int] = self.positive.astype(int).tolist()
        return listed

    @property
    def labels(self) -> list[str]:
        """The predictions in words."""
        return [LABELS[prediction] for prediction in self.predictions]

    @property
    def panels(self) -> list[str]:
        """Names of the answering panels."""
        return [PANEL_NAMES[place] for place in self.place.tolist()]

    @cached_property
    def ranges(self) -> np.ndarray:
        """Calibration range of each patient, shape (n_patients, 2); NaN where there is none."""
        ranges = np.full((len(self.X), 2), np.nan)
        for place, name in enumerate(PANEL_NAMES):
            kept = self.bundle.reliability.get(name)
            rows = np.flatnonzero(self.place == place)
            if kept is not None and rows.size:
                ranges[rows] = kept.calibration.ranges(self.probability[rows])
        return ranges

    @cached_property
    def abstained(self) -> dict[int, str]:
        """Row to reason, where the model's declared policy gives no prediction."""
        return abstentions(self)

    def of_batch(self) -> dict[str, Any]:
        """The columns of a batch.

        Where the policy abstains, prediction and label are None and ``abstained`` says why; it is
        None for all others.
        """
        reasons = [self.abstained.get(row) for row in range(len(self.X))]
        return {
            "predictions": _unless(reasons, self.predictions),
            "probabilities": self.probabilities,
            "labels": _unless(reasons, self.labels),
            "panels": self.panels,
            "abstained": reasons,
            "threshold": self.bundle.threshold,
            "model_name": self.bundle.name,
            "model_version": self.bundle.version,
        }


def _unless(reasons: list[str | None], values: Sequence[object]) -> list[object]:
    return [v if reason is None else None for v, reason in zip(values, reasons, strict=True)]


def answers(bundle: Bundle, ask: Ask) -> Answers:
    """The model's answers to what was asked.

    Raises
    ------
    InputError
        A patient lacks what every panel of this bundle needs.
    RequestError
        A sub-model gave no probability.
    """
    _refuse_unanswerable(bundle, ask)
    try:
        scored = bundle.score(ask.X)
    except BundleError as cause:
        raise RequestError(
            "model-failed", "the model gave no probability for this input, so there is no answer"
        ) from cause
    return Answers(bundle, ask.X, scored.probability, scored.panel)


def abstentions(answers: Answers) -> dict[int, str]:
    """Row to reason, by the policy that the bundle declares; empty without one."""
    found: dict[int, str] = {}
    wanted, threshold = answers.bundle.policy.abstain_when, answers.bundle.threshold
    if FAR in wanted:
        for place, name in enumerate(PANEL_NAMES):
            kept = answers.bundle.reliability.get(name)
            rows = np.flatnonzero(answers.place == place)
            if kept is not None and rows.size:
                far = rows[kept.population.far(answers.X[rows])]
                found |= dict.fromkeys(far.tolist(), ABSTAIN_REASONS[FAR])
    if STRADDLE in wanted:
        low, high = answers.ranges.T
        straddling = np.flatnonzero((low < threshold) & (threshold <= high))
        found |= dict.fromkeys(straddling.tolist(), ABSTAIN_REASONS[STRADDLE])
    return found


def facts(bundle: Bundle) -> dict[str, Any]:
    """What ``/health`` says of a model."""
    return {
        "model_name": bundle.name,
        "model_version": bundle.version,
        "model_digest": bundle.digest,
        "panels": [panel.name for panel in PANELS if panel.name in bundle.scorers],
    }


def _refuse_unanswerable(bundle: Bundle, ask: Ask) -> None:
    """Only a bundle without the bedside panel can meet a patient it has no panel for."""
    if PANELS[0].name in bundle.scorers:
        return
    first = next(panel for panel in PANELS if panel.name in bundle.scorers)
    unknown = np.isnan(ask.X[:, [NAMES.index(name) for name in first.required]])
    mend = f"this model has no panel before {first.name}; send the value"
    found = []
    for row, column in np.argwhere(unknown)[:MAX_PROBLEMS]:
        name = first.required[column]
        place = int(row) if ask.is_batch else None
        problem = FieldProblem(name, "missing", BY_NAME[name].expected, mend, place)
        found.append(Located(problem, f"/records/{row}" if ask.is_batch else ""))
    if found:
        raise InputError(found)
