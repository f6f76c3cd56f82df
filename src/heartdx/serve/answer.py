"""What a patient's answer says, in three lengths, and the same as ready pieces of JSON text.

``document`` builds the answer from a table's row; ``Phrases`` writes the standard answer of the
hot path from pieces that are made once for a bundle. A test holds both against each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from heartdx.bundle import Bundle
from heartdx.contract import OUTCOME
from heartdx.reliability import RANGE_HOLDS_FOR, Values, VoteContributions, band
from heartdx.serve import compiled
from heartdx.serve.predictor import LABELS, Answers

Detail = Literal["none", "standard", "full"]
DETAILS: tuple[Detail, ...] = ("none", "standard", "full")
INTENDED_USE = (
    "for patients sent to angiography; probability of "
    f"{OUTCOME.positive} at that examination, in support of a clinician's judgement"
)


@dataclass(frozen=True)
class Ids:
    """What names one answer.

    Parameters
    ----------
    prediction_id : unique for each answered patient.
    request_id : the request's own if it was fit, else a new one.
    """

    prediction_id: str
    request_id: str


def document(answers: Answers, row: int, detail: Detail, ids: Ids) -> dict[str, Any]:
    """The answer to one patient of a table.

    Parameters
    ----------
    answers : of the table.
    row : the patient's place in it.
    detail : ``none`` is the bare answer; ``standard`` says how sure it is and who answers;
        ``full`` adds reasons, data quality and the model's whole identity.
    ids : what names the answer.
    """
    bundle, probability = answers.bundle, float(answers.probability[row])
    abstained = answers.abstained.get(row)
    prediction = None if abstained else int(probability >= bundle.threshold)
    bare: dict[str, Any] = {
        "prediction": prediction,
        "label": None if prediction is None else LABELS[prediction],
        "probability": probability,
    }
    named = {"prediction_id": ids.prediction_id, "request_id": ids.request_id}
    if detail == "none":
        return {**bare, **named}
    panel = answers.panels[row]
    standard = {
        **bare,
        "confidence": _confidence(probability, bundle.threshold),
        "calibration_range": _range(answers.ranges[row]),
        "band": band(probability).name,
        "threshold": bundle.threshold,
        "panel": panel,
        "unused_inputs": bundle.unused_inputs(answers.X[row], panel),
        "abstain": abstained is not None,
        "abstain_reason": abstained,
        "model_name": bundle.name,
        "model_version": bundle.version,
        **named,
    }
    if detail == "standard":
        return standard
    return {**standard, **_full(bundle, panel, answers.X[row])}


def threshold_name(bundle: Bundle) -> str:
    """The rule that the threshold follows from, in words."""
    ratio = float(bundle.manifest["harm_ratio"])
    return f"harm of a missed disease is {ratio:g} times that of a false alarm"


def of_bundle(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    """What every full answer of a bundle says, before and after what is the patient's own."""
    before = {
        "threshold_name": threshold_name(bundle),
        "calibration_range_note": RANGE_HOLDS_FOR,
    }
    after = {
        "model": {
            "name": bundle.name,
            "version": bundle.version,
            "digest": bundle.digest,
            "contract": bundle.manifest["contract"]["fingerprint"],
        },
        "intended_use": INTENDED_USE,
    }
    return before, after


def _full(bundle: Bundle, panel: str, row: np.ndarray) -> dict[str, Any]:
    before, after = of_bundle(bundle)
    kept, values = bundle.reliability.get(panel), row.tolist()
    reasons = None if kept is None else kept.contributions(values) or _votes(bundle, panel, values)
    return {
        **before,
        "reasons": None if reasons is None else reasons.document(),
        "data_quality": None if kept is None else kept.population.quality(values).document(),
        **after,
    }


def _votes(bundle: Bundle, panel: str, values: Values) -> VoteContributions | None:
    """Reasons of a forest; None where its trees could not be read."""
    found = compiled.compiled(bundle).reasons.get(panel)
    return None if found is None else found.contributions(values)


def _confidence(probability: float, threshold: float) -> float:
    return probability if probability >= threshold else 1.0 - probability


def _range(pair: np.ndarray) -> list[float] | None:
    return None if math.isnan(pair[0]) else [float(pair[0]), float(pair[1])]
