"""The answers of one bundle as ready pieces of JSON text.

What depends on the bundle alone is written once; a request only chooses pieces and puts its
numbers between them. ``answer.document`` says the same from a table's row; a test holds both
against each other.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from heartdx.bundle import Bundle
from heartdx.contract import BY_NAME, NAMES, PANEL_NAMES
from heartdx.reliability import (
    BANDS,
    FAR,
    STRADDLE,
    Contributions,
    DataQuality,
    Part,
    Reasons,
    Reliability,
    Values,
)
from heartdx.serve import answer
from heartdx.serve.compiled import compiled
from heartdx.serve.predictor import LABELS
from heartdx.serve.shapley import VoteReasons

encode = msgspec.json.Encoder().encode
"""A number as the shortest text that gives it back, a tenth of the cost of ``repr``."""
_BAND_ENDS = tuple(band.up_to for band in BANDS[:-1])
_NULL = "null"


class _Step(NamedTuple):
    """What all probabilities between two breaks have in common.

    Parameters
    ----------
    head : the answer up to the probability.
    positive : whether they reach the threshold.
    middle : from the calibration range up to the unused inputs; None where the policy abstains.
    """

    head: str
    positive: bool
    middle: str | None


class _Panel(NamedTuple):
    """Pieces of one panel.

    Parameters
    ----------
    breaks : where anything changes: calibration range, band or prediction.
    steps : one more than breaks; a probability at a break belongs to the step above it.
    unused : bits of the unused inputs to their text, filled as they come.
    reasons : the reasons' text; None where the panel has none to tell.
    reliability : what the data quality is judged by; None where training kept nothing.
    """

    breaks: tuple[float, ...]
    steps: tuple[_Step, ...]
    unused: dict[int, str]
    reasons: _ReasonsText | _VotesText | None
    reliability: Reliability | None


class Phrases:
    """See the module's docstring.

    Parameters
    ----------
    bundle : the model that answers.
    """

    def __init__(self, bundle: Bundle):
        self.threshold = bundle.threshold
        self._heads = _heads()
        self._panels = tuple(_panel(bundle, name) for name in PANEL_NAMES)
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
        breaks, steps, texts, _, _ = self._panels[place]
        head, positive, middle = steps[bisect_right(breaks, probability)]
        if middle is None:
            return None
        left_out = texts[unused] if unused in texts else _named(texts, unused)
        number = encode(probability).decode()
        sure = number if positive else encode(1.0 - probability).decode()
        return (
            f'{head}{number},"confidence":{sure}{middle}{left_out}'
            f'{self._tail}{prediction_id}","request_id":"{request_id}"}}'
        )

    def full(self, standard: str, place: int, values: Values) -> str:
        """The full answer, which goes on where the standard answer ends.

        Parameters
        ----------
        values : 13 numbers in contract order, None where missing.
        """
        panel = self._panels[place]
        reasons = _NULL if panel.reasons is None else panel.reasons.text(values)
        kept = panel.reliability
        quality = _NULL if kept is None else _quality(kept.population.quality(values))
        return (
            f'{standard[:-1]}{self._rule}"reasons":{reasons},"data_quality":{quality}{self._model}'
        )


def _heads() -> tuple[str, ...]:
    """The answer up to the probability, by prediction."""
    return tuple(
        f'{{"prediction":{prediction},"label":{json.dumps(label)},"probability":'
        for prediction, label in enumerate(LABELS)
    )


def _panel(bundle: Bundle, name: str) -> _Panel:
    kept = bundle.reliability.get(name)
    own = () if kept is None else kept.calibration.breaks
    # A band's upper end still belongs to it, so what follows begins at the next float.
    bands = [math.nextafter(end, math.inf) for end in _BAND_ENDS]
    breaks = tuple(sorted({*own, *bands, bundle.threshold}))
    steps = tuple(_step(bundle, name, kept, begin) for begin in (-math.inf, *breaks))
    return _Panel(breaks, steps, {}, _reasons(bundle, name, kept), kept)


def _reasons(
    bundle: Bundle, name: str, kept: Reliability | None
) -> _ReasonsText | _VotesText | None:
    if kept is not None and kept.reasons is not None:
        return _ReasonsText(kept.reasons)
    found = compiled(bundle).reasons.get(name)
    return None if found is None else _VotesText(found)


def _step(bundle: Bundle, name: str, kept: Reliability | None, begin: float) -> _Step:
    """What is said of probabilities from ``begin`` up to the next break."""
    positive = begin >= bundle.threshold
    middle = (
        f'{_range(kept, begin)},"band":{json.dumps(BANDS[bisect_left(_BAND_ENDS, begin)].name)}'
        f',"threshold":{bundle.threshold!r},"panel":{json.dumps(name)},"unused_inputs":'
    )
    abstains = kept is not None and _abstains(bundle, *kept.calibration.range(begin))
    return _Step(_heads()[positive], positive, None if abstains else middle)


def _range(kept: Reliability | None, probability: float) -> str:
    if kept is None:
        return ',"calibration_range":null'
    low, high = kept.calibration.range(probability)
    return f',"calibration_range":[{low!r},{high!r}]'


def _abstains(bundle: Bundle, low: float, high: float) -> bool:
    """Whether the policy may abstain there: where distance decides, the route looks."""
    wanted = bundle.policy.abstain_when
    return FAR in wanted or (STRADDLE in wanted and low < bundle.threshold <= high)


def _named(texts: dict[int, str], unused: int) -> str:
    names = [name for bit, name in enumerate(NAMES) if unused >> bit & 1]
    texts[unused] = json.dumps(names, separators=(",", ":"))
    return texts[unused]


def _constants(bundle: Bundle) -> tuple[str, str]:
    """What every full answer of a bundle says, before and after its reasons and data quality."""
    before, after = answer.of_bundle(bundle)
    rule, model = (encode(part).decode() for part in (before, after))
    return f",{rule[1:-1]},", f",{model[1:]}"


# -- reasons and data quality ----------------------------------------------------------------

_Entry = tuple[float, int, str]
"""Minus the size of a contribution, its place in contract order, and its text: in the order in
which they are told."""


class _ReasonsText:
    """``Contributions.document`` as text; what a code adds is written once."""

    def __init__(self, reasons: Reasons):
        empty = encode(Contributions(reasons.base, {}).document()).decode()
        self._begin = empty[:-2]  # up to the bracket of no contributions
        self._coded = [(p.place, _known(p), p) for p in reasons.parts if not p.numbers]
        self._measured = [(p.place, p, _begin(p)) for p in reasons.parts if p.numbers]

    def text(self, values: Values) -> str:
        """The reasons for one patient, the largest first.

        Raises
        ------
        UsageError
            A value is missing that the equation does not impute.
        """
        entries = []
        for place, known, part in self._coded:
            value = values[place]
            entries.append(known[value] if value in known else _entry(part, value))
        found = [part.log_odds(values[place]) for place, part, _ in self._measured]
        numbers = encode(found).decode()[1:-1].split(",")  # at once, as each call has its price
        for log_odds, number, (place, _, begin) in zip(  # noqa: B905 same by construction
            found, numbers, self._measured
        ):
            entries.append((-abs(log_odds), place, f"{begin}{number}}}"))
        entries.sort()
        return f"{self._begin}{','.join([text for _, _, text in entries])}]}}"


class _VotesText:
    """``VoteContributions.document`` as text; finding the votes takes most of the time."""

    def __init__(self, reasons: VoteReasons):
        self._reasons = reasons

    def text(self, values: Values) -> str:
        """The reasons for one patient, the largest first."""
        return encode(self._reasons.contributions(values).document()).decode()


def _known(part: Part) -> dict[float | None, _Entry]:
    """What each code adds, and a missing value where the equation puts one there."""
    values: list[float | None] = list(BY_NAME[part.attribute].code_values)
    if part.typical is not None:
        values.append(None)
    return {value: _entry(part, value) for value in values}


def _entry(part: Part, value: float | None) -> _Entry:
    log_odds = part.log_odds(value)
    return -abs(log_odds), part.place, f"{_begin(part)}{encode(log_odds).decode()}}}"


def _begin(part: Part) -> str:
    """A contribution's text up to its number."""
    named = {"attribute": part.attribute, "label": BY_NAME[part.attribute].label}
    return f'{encode(named).decode()[:-1]},"log_odds":'


def _quality(told: DataQuality) -> str:
    """``DataQuality.document`` as text; most of its lists are empty."""
    rules = told.implausible
    implausible = encode([rule.document() for rule in rules]).decode() if rules else "[]"
    return (
        f'{{"missing":{_names(told.missing)},"imputed":{_names(told.imputed)}'
        f',"implausible":{implausible},"out_of_range":{_names(told.out_of_range)}'
        f',"rare":{_names(told.rare)},"distance":{encode(round(told.distance, 4)).decode()}'
        f',"distance_limit":{encode(told.distance_limit).decode()}'
        f',"far":{"true" if told.far else "false"}}}'
    )


def _names(names: Sequence[str]) -> str:
    return encode(names).decode() if names else "[]"
