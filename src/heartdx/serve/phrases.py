"""The standard answer of one bundle as ready pieces of JSON text.

What depends on the bundle alone is written once; a request only chooses pieces and puts its
numbers between them. ``answer.document`` says the same from a table's row; a test holds both
against each other.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import msgspec

from heartdx.bundle import Bundle
from heartdx.contract import NAMES, PANEL_NAMES
from heartdx.reliability import BANDS, FAR, STRADDLE, Values
from heartdx.serve import answer
from heartdx.serve.predictor import LABELS

encode = msgspec.json.Encoder().encode
"""A number as the shortest text that gives it back, a tenth of the cost of ``repr``."""
_BAND_ENDS = tuple(band.up_to for band in BANDS[:-1])
_BANDS = tuple(f',"band":{json.dumps(band.name)}' for band in BANDS)


@dataclass(frozen=True)
class _PanelPhrases:
    """Pieces of one panel.

    Parameters
    ----------
    breaks : where the calibration range changes.
    ranges : the range between two breaks as text; None where the policy abstains.
    panel : the panel's part of the answer.
    unused : bits of the unused inputs to their text, filled as they come.
    """

    breaks: tuple[float, ...]
    ranges: tuple[str | None, ...]
    panel: str
    unused: dict[int, str] = field(default_factory=dict)


class Phrases:
    """See the module's docstring.

    Parameters
    ----------
    bundle : the model that answers.
    """

    def __init__(self, bundle: Bundle):
        self.threshold = bundle.threshold
        self._heads = tuple(
            f'{{"prediction":{prediction},"label":{json.dumps(label)},"probability":'
            for prediction, label in enumerate(LABELS)
        )
        self._panels = tuple(_phrases(bundle, name) for name in PANEL_NAMES)
        self._reliability = tuple(bundle.reliability.get(name) for name in PANEL_NAMES)
        self._rule, self._model = _constants(bundle)
        self._tail = (
            ',"abstain":false,"abstain_reason":null'
            f',"model_name":{json.dumps(bundle.name)},"model_version":{json.dumps(bundle.version)}'
            ',"prediction_id":"'
        )

    def bare(self, probability: float, prediction_id: str, request_id: str) -> str:
        """The answer of ``detail=none``."""
        return (
            f"{self._heads[probability >= self.threshold]}{encode(probability).decode()}"
            f',"prediction_id":"{prediction_id}","request_id":"{request_id}"}}'
        )

    def standard(
        self, probability: float, place: int, unused: int, prediction_id: str, request_id: str
    ) -> str | None:
        """The standard answer; None where the declared policy abstains.

        Parameters
        ----------
        place, unused : as :data:`heartdx.serve.compiled.ScoreOne` gives them.
        """
        kept = self._panels[place]
        interval = kept.ranges[bisect_right(kept.breaks, probability)]
        if interval is None:
            return None
        positive = probability >= self.threshold
        left_out = kept.unused.get(unused) or self._name(kept, unused)
        number = encode(probability).decode()
        sure = number if positive else encode(1.0 - probability).decode()
        return (
            f'{self._heads[positive]}{number},"confidence":{sure}{interval}'
            f"{_BANDS[bisect_left(_BAND_ENDS, probability)]}{kept.panel}{left_out}"
            f'{self._tail}{prediction_id}","request_id":"{request_id}"}}'
        )

    def full(self, standard: str, place: int, values: Values) -> str:
        """The full answer, which goes on where the standard answer ends.

        Parameters
        ----------
        values : 13 numbers in contract order, None where missing.
        """
        kept = self._reliability[place]
        reasons = quality = "null"
        if kept is not None:
            taken_apart = kept.contributions(values)
            if taken_apart is not None:
                reasons = encode(taken_apart.document()).decode()
            quality = encode(kept.population.quality(values).document()).decode()
        return (
            f'{standard[:-1]}{self._rule}"reasons":{reasons},"data_quality":{quality}{self._model}'
        )

    @staticmethod
    def _name(kept: _PanelPhrases, unused: int) -> str:
        names = [name for bit, name in enumerate(NAMES) if unused >> bit & 1]
        kept.unused[unused] = json.dumps(names, separators=(",", ":"))
        return kept.unused[unused]


def _constants(bundle: Bundle) -> tuple[str, str]:
    """What every full answer of a bundle says, before and after its reasons and data quality."""
    before, after = answer.of_bundle(bundle)
    rule, model = (encode(part).decode() for part in (before, after))
    return f",{rule[1:-1]},", f",{model[1:]}"


def _phrases(bundle: Bundle, panel: str) -> _PanelPhrases:
    start = f',"threshold":{bundle.threshold!r},"panel":{json.dumps(panel)},"unused_inputs":'
    kept = bundle.reliability.get(panel)
    if kept is None:
        return _PanelPhrases((), (',"calibration_range":null',), start)
    wanted = bundle.policy.abstain_when
    ranges = []
    for low, high in zip(kept.calibration.low, kept.calibration.high, strict=True):
        abstains = FAR in wanted or (STRADDLE in wanted and low < bundle.threshold <= high)
        text = f',"calibration_range":[{float(low)!r},{float(high)!r}]'
        ranges.append(None if abstains else text)
    return _PanelPhrases(kept.calibration.breaks, tuple(ranges), start)
