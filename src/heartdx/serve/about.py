"""What ``/v1/model`` and ``/v1/schema`` say."""

from __future__ import annotations

from typing import Any

from heartdx import contract as declaration
from heartdx.bundle import Bundle
from heartdx.contract import ATTRIBUTES, OUTCOME, PANELS, Attribute
from heartdx.records import ALWAYS_REQUIRED
from heartdx.serve.answer import INTENDED_USE, threshold_name

_PANEL_FACTS = ("model", "label", "inputs", "required", "used", "patients", "diseased", "metrics")
CARD = "card.md"


def model(bundle: Bundle) -> dict[str, Any]:
    """The model's identity, use, threshold, panels with their validation, and its card.

    Parameters
    ----------
    bundle : a verified bundle.
    """
    return {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "contract": bundle.manifest["contract"]["fingerprint"],
        "intended_use": INTENDED_USE,
        "threshold": bundle.threshold,
        "threshold_name": threshold_name(bundle),
        "abstain_when": list(bundle.policy.abstain_when),
        "panels": {
            name: {key: facts[key] for key in _PANEL_FACTS if key in facts}
            for name, facts in bundle.manifest["panels"].items()
        },
        "card": _card(bundle),
    }


def _card(bundle: Bundle) -> str | None:
    """The card; None when there is none, or none that can be read as a text of the bundle."""
    try:
        card = (bundle.folder / CARD).resolve(strict=True)
        inside = card.is_relative_to(bundle.folder.resolve())
        return card.read_text(encoding="utf-8") if inside else None
    except (OSError, UnicodeDecodeError):
        return None


def contract() -> dict[str, Any]:
    """The attributes, codes and panels, as the contract declares them.

    Examples
    --------
    >>> contract()["attributes"][0]["name"]
    'age'
    """
    return {
        "version": declaration.VERSION,
        "fingerprint": declaration.fingerprint(),
        "outcome": {
            "name": OUTCOME.name,
            "positive": OUTCOME.positive,
            "negative": OUTCOME.negative,
        },
        "attributes": [_attribute(attribute) for attribute in ATTRIBUTES],
        "panels": [
            {
                "name": panel.name,
                "label": panel.label,
                "inputs": list(panel.inputs),
                "required": list(panel.required),
            }
            for panel in PANELS
        ],
    }


def _attribute(attribute: Attribute) -> dict[str, Any]:
    return {
        "name": attribute.name,
        "label": attribute.label,
        "unit": attribute.unit or None,
        "description": attribute.description,
        "required": attribute.name in ALWAYS_REQUIRED,
        "range": None if attribute.plausible is None else list(attribute.plausible),
        "codes": [
            {"value": code.value, "name": code.name, "kaggle": code.kaggle}
            for code in attribute.codes
        ],
    }
