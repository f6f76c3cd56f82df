"""The loaded model of a service, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heartdx import bundle as bundles
from heartdx.bundle import Bundle
from heartdx.contract import BY_NAME, NAMES, OUTCOME, PANELS
from heartdx.errors import BundleError, FieldProblem, NoModelError, VerificationError
from heartdx.serve.inputs import MAX_PROBLEMS, Ask
from heartdx.serve.problems import InputError, Located, RequestError
from heartdx.settings import Settings

LABELS = (OUTCOME.negative, OUTCOME.positive)
_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, ImportError)


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
        return Loaded(bundles.load(folder))
    except (NoModelError, VerificationError) as refusal:
        return Loaded(None, str(refusal))
    except _UNREADABLE as cause:
        return Loaded(
            None,
            f"the bundle cannot be read ({type(cause).__name__}); train again: "
            f"{bundles.HOW_TO_TRAIN}",
        )


@dataclass(frozen=True)
class Answers:
    """Answers to a table, one entry for each patient.

    Parameters
    ----------
    bundle : what answered.
    probabilities : of disease.
    panels : name of the answering panel.
    """

    bundle: Bundle
    probabilities: Sequence[float]
    panels: Sequence[str]

    @property
    def predictions(self) -> list[int]:
        """1 from the threshold on, else 0."""
        return [int(p >= self.bundle.threshold) for p in self.probabilities]

    @property
    def labels(self) -> list[str]:
        """The predictions in words."""
        return [LABELS[prediction] for prediction in self.predictions]

    def of_batch(self) -> dict[str, object]:
        """The document of a batch."""
        return {
            "predictions": self.predictions,
            "probabilities": self.probabilities,
            "labels": self.labels,
            "panels": self.panels,
            **_model(self.bundle),
        }

    def of_one(self, row: np.ndarray) -> dict[str, object]:
        """The document of the only patient, whose row of the table is given."""
        probability, prediction = self.probabilities[0], self.predictions[0]
        return {
            "prediction": prediction,
            "label": LABELS[prediction],
            "probability": probability,
            "confidence": probability if prediction else 1.0 - probability,
            "panel": self.panels[0],
            "unused_inputs": self.bundle.unused_inputs(row, self.panels[0]),
            **_model(self.bundle),
        }


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
    panels = [scored.panel_name(row) for row in range(len(ask.X))]
    return Answers(bundle, scored.probability.tolist(), panels)


def facts(bundle: Bundle) -> dict[str, Any]:
    """What ``/health`` says of a model."""
    return {
        "model_name": bundle.name,
        "model_version": bundle.version,
        "model_digest": bundle.digest,
        "panels": [panel.name for panel in PANELS if panel.name in bundle.scorers],
    }


def _model(bundle: Bundle) -> dict[str, object]:
    return {
        "threshold": bundle.threshold,
        "model_name": bundle.name,
        "model_version": bundle.version,
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
