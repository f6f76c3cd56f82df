"""How sure an answer is and why: calibration range, data quality, reasons, bands, abstaining.

Training keeps, for each panel, what is needed to say these things of one patient without any
library (``<panel>/reliability.json`` in the bundle); this module reads it. One patient costs a few
microseconds of plain arithmetic, a table is done in NumPy, and both say the same.

A patient is a sequence of 13 numbers in contract order, None (or NaN) where missing.

References
----------
.. [1] Vovk V, Petej I. Venn-Abers predictors. UAI 2014:829-838.
.. [2] Vovk V, Petej I, Fedorova V. Large-scale probabilistic predictors with and without
   guarantees of validity. NeurIPS 2015;28:892-900.
.. [3] Mahalanobis PC. On the generalised distance in statistics. Proc Natl Inst Sci India
   1936;2:49-55.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from heartdx.contract import BY_NAME, NAMES
from heartdx.errors import BundleError, UsageError

FEW_PATIENTS = 10
"""A code that fewer training patients had is rare. The number is ours: with ten, the 95 % interval
of the share of diseased among them can still be 0.53 wide (Wilson EB. J Am Stat Assoc
1927;22:209-212)."""

RANGE_HOLDS_FOR = (
    "approximate, for patients like those of the hospitals that trained the model; not valid for "
    "a hospital that trained nothing"
)
"""What stands beside every calibration range."""

STRADDLE, FAR = "straddle", "far"
ABSTAIN_REASONS: Mapping[str, str] = {
    STRADDLE: "range straddles threshold",
    FAR: "far from training population",
}
"""What may be declared under ``--abstain-when``, and how the answer says it."""

Values = Sequence["float | None"]


@dataclass(frozen=True)
class Reliability:
    """What one panel's answer can be judged by.

    Parameters
    ----------
    calibration : score to calibration range.
    population : who trained the panel.
    reasons : a logistic regression taken apart by attribute; None for a forest, whose trees stand
        elsewhere (``heartdx.serve.shapley``).
    """

    calibration: Calibration
    population: Population
    reasons: Reasons | None

    def contributions(self, values: Values) -> Contributions | None:
        """Log-odds by attribute for one patient; None where the panel is served by a forest."""
        return None if self.reasons is None else self.reasons.contributions(values)


def reliability_of(
    document: Mapping[str, Any], *, equation: Mapping[str, Any] | None = None
) -> Reliability:
    """A panel's reliability as read from the bundle.

    Parameters
    ----------
    document : content of ``reliability.json``.
    equation : content of the panel's ``score.json``; None for a forest.

    Raises
    ------
    BundleError
        A part is missing, or its numbers cannot be what training writes.
    """
    try:
        reference = document["reference"]
        reasons = None
        if equation is not None and reference is not None:
            reasons = Reasons.of(equation, reference)
        return Reliability(
            Calibration.of(document["calibration"]), Population.of(document["population"]), reasons
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as cause:
        raise BundleError(
            f"reliability.json: is none of this release ({type(cause).__name__}: {cause}); train "
            "again"
        ) from cause


# -- calibration range -----------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """Cross-Venn-Abers range of a probability, as a table of steps.

    Each outer fold of the grouped cross-validation calibrates: its patients were scored by a
    model that saw none of them, and an inductive Venn-Abers predictor of these scores and
    outcomes gives two probabilities for a new score, one with the new patient taken as healthy
    (p0) and one as diseased (p1) [1]_. Low is the mean of p0 over all folds and repeats, high
    the mean of p1. The arithmetic mean keeps what each fold promises on average, namely that the
    outcomes' mean lies between the means of p0 and p1, and cannot put low above high, as the
    geometric means of [2]_ can when folds disagree. ``point`` is the geometric merger of [2]_.

    It is approximate: the score looked up is the served model's, which all patients trained, not
    each fold's own. It says nothing of a hospital that trained nothing.

    Parameters
    ----------
    breaks : k probabilities, rising; a score at a break belongs to the step above it.
    low, high, point : k + 1 probabilities each, never falling.

    References
    ----------
    .. [1] Vovk V, Petej I. Venn-Abers predictors. UAI 2014:829-838.
    .. [2] Vovk V, Petej I, Fedorova V. Large-scale probabilistic predictors with and without
       guarantees of validity. NeurIPS 2015;28:892-900.

    Examples
    --------
    >>> Calibration((0.5,), (0.1, 0.6), (0.3, 0.8), (0.2, 0.7)).range(0.9)
    (0.6, 0.8)
    """

    breaks: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    point: tuple[float, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Calibration:
        """As read.

        Raises
        ------
        ValueError
            The steps are not a rising table of probabilities with low at most high.
        """
        parts = {name: tuple(map(float, document[name])) for name in cls.__dataclass_fields__}
        steps = [parts[name] for name in ("low", "high", "point")]
        if any(len(column) != len(parts["breaks"]) + 1 for column in steps):
            raise ValueError("calibration has not one step more than breaks")
        rising = all(list(column) == sorted(column) for column in (parts["breaks"], *steps))
        within = all(0 <= p <= 1 for column in parts.values() for p in column)
        ordered = all(a <= b for a, b in zip(parts["low"], parts["high"], strict=True))
        if not (rising and within and ordered):
            raise ValueError("calibration is no rising table of probabilities")
        return cls(**parts)

    @cached_property
    def _pairs(self) -> tuple[tuple[float, float], ...]:
        return tuple(zip(self.low, self.high, strict=True))

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.breaks), np.array(self._pairs)

    def range(self, p: float) -> tuple[float, float]:
        """Low and high for one served probability."""
        return self._pairs[bisect_right(self.breaks, p)]

    def ranges(self, p: np.ndarray) -> np.ndarray:
        """Low and high for probabilities of shape (n,): shape (n, 2)."""
        breaks, pairs = self._tables
        found: np.ndarray = pairs[np.searchsorted(breaks, p, side="right")]
        return found

    def merged(self, p: float) -> float:
        """The one probability into which cross-Venn-Abers merges the range; not what is served."""
        return self.point[bisect_right(self.breaks, p)]


# -- data quality ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """Values that are each accepted and still contradict physiology, alone or together.

    Parameters
    ----------
    name : stable short name.
    attributes : what it looks at; it never applies where one of them is missing.
    says : in words, without any patient's value.
    source : where the limit is from.
    applies : the values of ``attributes``, in that order, to whether they contradict.
    """

    name: str
    attributes: tuple[str, ...]
    says: str
    source: str
    applies: Callable[..., bool]

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Places of the attributes in contract order."""
        return tuple(NAMES.index(name) for name in self.attributes)

    def document(self) -> dict[str, Any]:
        """For an answer."""
        return {"rule": self.name, "attributes": list(self.attributes), "says": self.says}


EXERCISE_STANDARDS = "Fletcher GF et al. Exercise standards. Circulation 2013;128:873-934"
RULES: tuple[Rule, ...] = (
    Rule(
        "heart_rate_above_age",
        ("age", "thalach"),
        "maximum heart rate more than 40 beats/min above 208 - 0.7 x age, four standard "
        "deviations of healthy adults",
        "Tanaka H et al. J Am Coll Cardiol 2001;37:153-156 (standard deviation near 10)",
        lambda age, thalach: thalach > 208 - 0.7 * age + 40,
    ),
    Rule(
        "heart_rate_below_rest",
        ("thalach",),
        "maximum heart rate below 50 beats/min, which is bradycardia at rest",
        "Kusumoto FM et al. Bradycardia guideline. Circulation 2019;140:e382-e482",
        lambda thalach: thalach < 50,
    ),
    Rule(
        "shock_and_exercise",
        ("trestbps", "thalach"),
        "resting pressure below 80 mm Hg, which is shock, beside an exercise test",
        "van Diepen S et al. Cardiogenic shock. Circulation 2017;136:e232-e268 (below 90)",
        lambda trestbps, thalach: trestbps < 80,
    ),
    Rule(
        "hypertension_and_exercise",
        ("trestbps", "thalach"),
        "resting pressure above 200 mm Hg, which forbids the exercise test that was recorded",
        EXERCISE_STANDARDS,
        lambda trestbps, thalach: trestbps > 200,
    ),
    Rule(
        "st_elevation",
        ("oldpeak",),
        "ST elevation of more than 3 mm in exercise, where 1 mm ends the test",
        EXERCISE_STANDARDS,
        lambda oldpeak: oldpeak < -3,
    ),
)
"""Declared by us from the sources beside them; each is meant to find slips of the pen, not disease,
and none of them refuses a patient."""


class DataQuality(NamedTuple):
    """What is to be said of one patient's values; names only, never a value.

    Parameters
    ----------
    missing : attributes that are not known.
    imputed : of these, the ones the panel looks at; the model put a typical value there.
    implausible : rules of ``RULES`` that apply.
    out_of_range : numbers the panel looks at outside those of its training patients.
    rare : codes the panel looks at that fewer than ``FEW_PATIENTS`` training patients had.
    distance : from the training population, in standard deviations of all inputs together.
    distance_limit : above it the patient is far; 1 in 100 like the training patients is.
    """

    missing: tuple[str, ...]
    imputed: tuple[str, ...]
    implausible: tuple[Rule, ...]
    out_of_range: tuple[str, ...]
    rare: tuple[str, ...]
    distance: float
    distance_limit: float

    @property
    def far(self) -> bool:
        """Whether the patient is unlike those who trained the panel."""
        return self.distance > self.distance_limit

    def document(self) -> dict[str, Any]:
        """For an answer."""
        return {
            "missing": list(self.missing),
            "imputed": list(self.imputed),
            "implausible": [rule.document() for rule in self.implausible],
            "out_of_range": list(self.out_of_range),
            "rare": list(self.rare),
            "distance": round(self.distance, 4),
            "distance_limit": self.distance_limit,
            "far": self.far,
        }


class Column(NamedTuple):
    """One coordinate of the distance: ``(value - mean) / scale``, or ``(value == code) - mean``."""

    attribute: str
    code: int | None
    mean: float
    scale: float


class FalsePositives(NamedTuple):
    """How often a training patient, left out of the population, was called far.

    ``nominal`` was aimed at; ``measured`` was found by grouped cross-validation, with Wilson's 95 %
    interval from ``low`` to ``high``.
    """

    nominal: float
    measured: float
    low: float
    high: float
    patients: int


@dataclass(frozen=True)
class Population:
    """Who trained a panel, as far as it is needed to say that a patient is unlike them.

    The distance of a patient is Mahalanobis' on the inputs the panel looks at: numbers are
    standardised, each code is one 0/1 column, and S = (1 - r) C + r t I is the covariance C of
    these columns shrunk towards t I, t being the mean variance and r Ledoit and Wolf's intensity,
    so that S can be inverted although the columns of one attribute sum to 1. With z a patient's
    deviation from the means, 0 where missing, and W'W the inverse of S, the distance is |W z|.

    Parameters
    ----------
    patients : how many trained the panel.
    numbers : attribute to the lowest and highest value of a training patient.
    codes : attribute to (code to number of training patients).
    columns : coordinates of the distance, in the factor's order.
    factor : rows of W, lower triangle, shape (columns, up to columns).
    limit : a patient further than this is far.
    false_positives : of that limit.

    References
    ----------
    .. [1] Mahalanobis PC. On the generalised distance in statistics. Proc Natl Inst Sci India
       1936;2:49-55.
    .. [2] Ledoit O, Wolf M. A well-conditioned estimator for large-dimensional covariance
       matrices. J Multivar Anal 2004;88:365-411.
    """

    patients: int
    numbers: Mapping[str, tuple[float, float]]
    codes: Mapping[str, Mapping[int, int]]
    columns: tuple[Column, ...]
    factor: tuple[tuple[float, ...], ...]
    limit: float
    false_positives: FalsePositives

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Population:
        """As read.

        Raises
        ------
        KeyError, ValueError
            Something is missing, or the columns and the factor do not belong together.
        """
        distance = document["distance"]
        columns = tuple(
            Column(
                str(c["attribute"]),
                int(c["code"]) if "code" in c else None,
                float(c["mean"]),
                float(c.get("scale", 1.0)),
            )
            for c in distance["columns"]
        )
        factor = tuple(tuple(map(float, row)) for row in distance["factor"])
        if [len(row) for row in factor] != list(range(1, len(columns) + 1)):
            raise ValueError("the distance's factor does not fit its columns")
        if not all(math.isfinite(number) for row in factor for number in row):
            raise ValueError("the distance's factor is not finite")
        if not all(column.scale > 0 and column.attribute in NAMES for column in columns):
            raise ValueError("a column of the distance has no attribute or no scale")
        return cls(
            int(document["patients"]),
            {n: (float(low), float(high)) for n, (low, high) in document["numbers"].items()},
            {n: {int(c): int(k) for c, k in of.items()} for n, of in document["codes"].items()},
            columns,
            factor,
            float(distance["limit"]),
            FalsePositives(**distance["false_positives"]),
        )

    @property
    def used(self) -> tuple[str, ...]:
        """Attributes the panel looks at, in contract order."""
        return tuple(name for name in NAMES if name in self.numbers or name in self.codes)

    @property
    def typical(self) -> tuple[float | None, ...]:
        """A patient with the mean of each number and the most frequent of each code.

        In contract order, None for what the panel does not look at. Of codes as frequent the
        first in the contract is taken.
        """
        found: dict[str, float] = {c.attribute: c.mean for c in self.columns if c.code is None}
        for name, counts in self.codes.items():
            found[name] = float(
                max(BY_NAME[name].code_values, key=lambda code: counts.get(code, 0))
            )
        return tuple(found.get(name) for name in NAMES)

    def quality(self, values: Values) -> DataQuality:
        """What is to be said of one patient's values."""
        missing, imputed, out_of_range, rare = [], [], [], []
        for value, (name, used, low, high, counts) in zip(  # noqa: B905 both have 13
            values, self._facts
        ):
            if value is None or value != value:
                missing.append(name)
                if used:
                    imputed.append(name)
            elif counts is not None:
                if value not in counts or counts[value] < FEW_PATIENTS:
                    rare.append(name)
            elif not low <= value <= high:
                out_of_range.append(name)
        return DataQuality(
            tuple(missing),
            tuple(imputed),
            implausible(values),
            tuple(out_of_range),
            tuple(rare),
            self.distance(values),
            self.limit,
        )

    def distance(self, values: Values) -> float:
        """Distance of one patient from the training population."""
        return self._distance_of_one(values)

    def distances(self, X: np.ndarray) -> np.ndarray:
        """Distances of a table of shape (n, 13) from the training population: shape (n,)."""
        whitened = deviations(X, self.columns) @ self._factor_matrix.T
        found: np.ndarray = np.sqrt((whitened**2).sum(axis=1))
        return found

    def far(self, X: np.ndarray) -> np.ndarray:
        """Whether each patient of a table of shape (n, 13) is far: shape (n,)."""
        answer: np.ndarray = self.distances(X) > self.limit
        return answer

    def document(self) -> dict[str, Any]:
        """As written in ``reliability.json``."""
        return {
            "patients": self.patients,
            "numbers": {name: list(bounds) for name, bounds in self.numbers.items()},
            "codes": {
                name: {str(code): count for code, count in counts.items()}
                for name, counts in self.codes.items()
            },
            "distance": {
                "columns": [_column_document(column) for column in self.columns],
                "factor": [list(row) for row in self.factor],
                "limit": self.limit,
                "false_positives": self.false_positives._asdict(),
            },
        }

    @cached_property
    def _facts(self) -> tuple[tuple[Any, ...], ...]:
        """For each attribute: name, whether used, lowest, highest, counts of codes."""
        facts: list[tuple[Any, ...]] = []
        for name in NAMES:
            low, high = self.numbers.get(name, (-math.inf, math.inf))
            counts = self.codes.get(name)
            facts.append((name, name in self.numbers or counts is not None, low, high, counts))
        return tuple(facts)

    @cached_property
    def _factor_matrix(self) -> np.ndarray:
        matrix = np.zeros((len(self.columns), len(self.columns)))
        for place, row in enumerate(self.factor):
            matrix[place, : len(row)] = row
        return matrix

    @cached_property
    def _distance_of_one(self) -> Callable[[Values], float]:
        return _scalar_distance(self.columns, self._factor_matrix)


def data_quality(values: Values, population: Population) -> DataQuality:
    """What is to be said of one patient's values, judged by a panel's training population."""
    return population.quality(values)


def implausible(values: Values) -> tuple[Rule, ...]:
    """The declared rules that one patient's values break.

    Examples
    --------
    >>> patient = [30, 1, 4, 120, None, None, None, 200, 0, 0.0, None, None, None]
    >>> [rule.name for rule in implausible(patient)]
    []
    >>> patient[0] = 80
    >>> [rule.name for rule in implausible(patient)]
    ['heart_rate_above_age']
    """
    found = []
    for rule in RULES:
        known = []
        for place in rule.places:
            value = values[place]
            if value is None or value != value:
                break
            known.append(value)
        else:
            if rule.applies(*known):
                found.append(rule)
    return tuple(found)


def deviations(X: np.ndarray, columns: Sequence[Column]) -> np.ndarray:
    """Deviations from the training means, 0 where missing.

    Parameters
    ----------
    X : shape (n, 13).

    Returns
    -------
    array of shape (n, columns).
    """
    z = np.empty((len(X), len(columns)))
    for place, (attribute, code, mean, scale) in enumerate(columns):
        values = X[:, NAMES.index(attribute)]
        coordinate = values if code is None else (values == code).astype(np.float64)
        z[:, place] = np.where(np.isnan(values), 0.0, (coordinate - mean) / scale)
    return z


def _column_document(column: Column) -> dict[str, Any]:
    if column.code is None:
        return {"attribute": column.attribute, "mean": column.mean, "scale": column.scale}
    return {"attribute": column.attribute, "code": column.code, "mean": column.mean}


MOST_KEPT = 10_000
"""Combinations of codes whose share of the distance is kept. The contract has 6,912 (41,472 with
those that may be missing): this bounds memory, and what is not kept is computed again."""


def _scalar_distance(columns: Sequence[Column], factor: np.ndarray) -> Callable[[Values], float]:
    """The distance as a function of one patient, codes apart from numbers.

    For given codes the squared distance z'Pz is ``constant + z'(slopes + Qz)`` over the numbers,
    Q being their part of P: some thirty products instead of four hundred. Constant and slopes are
    computed when a combination of codes is first met.
    """
    precision = factor.T @ factor
    numbers = [i for i, column in enumerate(columns) if column.code is None]
    inner = [tuple(row) for row in precision[np.ix_(numbers, numbers)].tolist()]
    measured = [
        (NAMES.index(columns[i].attribute), columns[i].mean, columns[i].scale) for i in numbers
    ]
    places = sorted({NAMES.index(c.attribute) for c in columns if c.code is not None})
    kept: dict[tuple[float | None, ...], tuple[float, list[float]]] = {}

    def share_of(given: tuple[float | None, ...]) -> tuple[float, list[float]]:
        codes = tuple([code if code == code else None for code in given])  # a NaN is never found
        if codes in kept:
            return kept[codes]
        row = np.full((1, len(NAMES)), np.nan)
        row[0, places] = [math.nan if code is None else code for code in codes]
        z = deviations(row, columns)[0]
        pulled = precision @ z
        share = float(z @ pulled), (2 * pulled[numbers]).tolist()
        if len(kept) < MOST_KEPT:
            kept[codes] = share
        return share

    def distance(values: Values) -> float:
        given = tuple([values[place] for place in places])
        constant, slopes = kept.get(given) or share_of(given)
        z = []
        for place, mean, scale in measured:
            value = values[place]
            z.append(0.0 if value is None or value != value else (value - mean) / scale)
        pulled = [math.sumprod(row, z) for row in inner]
        squared = constant + math.sumprod(z, slopes) + math.sumprod(z, pulled)
        return math.sqrt(squared) if squared > 0 else 0.0

    return distance


# -- reasons ---------------------------------------------------------------------------------


class Contributions(NamedTuple):
    """A logit as a sum over attributes: exact, not an approximation.

    Parameters
    ----------
    base : log-odds of a patient in whom every attribute contributes its training mean.
    by_attribute : attribute to the log-odds it adds to (or takes from) that.
    """

    base: float
    by_attribute: dict[str, float]

    def document(self) -> dict[str, Any]:
        """For an answer, the largest first."""
        largest_first = sorted(self.by_attribute.items(), key=lambda item: -abs(item[1]))
        return {
            "scale": "log-odds",
            "reference": "mean of the panel's training patients",
            "base": self.base,
            "contributions": [
                {"attribute": name, "label": BY_NAME[name].label, "log_odds": log_odds}
                for name, log_odds in largest_first
            ],
        }


class VoteContributions(NamedTuple):
    """A forest's votes as a sum over attributes: exact, not an approximation.

    The calibration that makes a probability of the votes stands apart: it is one curve for all
    patients and belongs to no attribute.

    Parameters
    ----------
    base : votes for the typical training patient.
    by_attribute : attribute to the votes it adds to (or takes from) that.
    votes : of this patient, the mean over the trees of the leaf's share of disease.
    slope, intercept : the logit of the probability is ``slope * votes + intercept``.
    """

    base: float
    by_attribute: dict[str, float]
    votes: float
    slope: float
    intercept: float

    def document(self) -> dict[str, Any]:
        """For an answer, the largest first."""
        largest_first = sorted(self.by_attribute.items(), key=lambda item: -abs(item[1]))
        return {
            "scale": "votes",
            "reference": "typical training patient of the panel: means and most frequent codes",
            "base": self.base,
            "contributions": [
                {"attribute": name, "label": BY_NAME[name].label, "votes": votes}
                for name, votes in largest_first
            ],
            "votes": self.votes,
            "calibration": {"slope": self.slope, "intercept": self.intercept},
        }


class Part(NamedTuple):
    """One attribute of a logistic regression, the calibration slope in every weight.

    Parameters
    ----------
    attribute : its name.
    place : of its value in contract order.
    typical : value taken where it is missing; None where the equation puts none.
    numbers : (weight, center, scale) of each number term.
    codes : code to weight; any other code weighs 0.
    reference : mean contribution of the training patients.
    """

    attribute: str
    place: int
    typical: float | None
    numbers: tuple[tuple[float, float, float], ...]
    codes: Mapping[float, float]
    reference: float

    def log_odds(self, value: float | None) -> float:
        """What a patient's value adds to the base.

        Raises
        ------
        UsageError
            It is missing, and the equation does not impute it.
        """
        name, _, typical, numbers, codes, reference = self
        if value is None or value != value:
            if typical is None:
                raise UsageError(f"{name}: missing, and the equation puts no value there")
            value = typical
        own = codes.get(value, 0.0)
        for weight, center, scale in numbers:
            own += weight * ((value - center) / scale)
        return own - reference


@dataclass(frozen=True)
class Reasons:
    """A logistic regression taken apart by attribute, ready for one patient.

    Parameters
    ----------
    base : see ``Contributions``.
    parts : one for each attribute, in contract order.
    """

    base: float
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, equation: Mapping[str, Any], reference: Mapping[str, float]) -> Reasons:
        """From a printed equation and each attribute's mean contribution."""
        slope, shift = (float(equation["calibration"][key]) for key in ("slope", "intercept"))
        names = list(dict.fromkeys(term["attribute"] for term in equation["terms"]))
        if set(names) != set(reference):
            raise ValueError("the reference names other attributes than the equation")
        numbers: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
        codes: dict[str, dict[float, float]] = {name: {} for name in names}
        for term in equation["terms"]:
            weight = slope * float(term["coefficient"])
            if "code" in term:
                of_code = codes[term["attribute"]]
                of_code[float(term["code"])] = of_code.get(float(term["code"]), 0.0) + weight
            else:
                center, scale = float(term["center"]), float(term["scale"])
                numbers[term["attribute"]].append((weight, center, scale))
        base = slope * float(equation["intercept"]) + shift + math.fsum(reference.values())
        parts = [
            Part(
                name,
                NAMES.index(name),
                equation["impute"].get(name),
                tuple(numbers[name]),
                codes[name],
                float(reference[name]),
            )
            for name in NAMES
            if name in names
        ]
        return cls(base, tuple(parts))

    def contributions(self, values: Values) -> Contributions:
        """Log-odds by attribute for one patient.

        Raises
        ------
        UsageError
            A value is missing that the equation does not impute.
        """
        found = {part.attribute: part.log_odds(values[part.place]) for part in self.parts}
        return Contributions(self.base, found)


def contributions(
    equation: Mapping[str, Any], reference: Mapping[str, float], values: Values
) -> Contributions:
    """Exact additive reasons of a logistic regression for one patient.

    An attribute contributes the sum of its terms times the calibration slope, minus the mean of
    that sum over the panel's training patients: coefficient times (value - mean), which is the
    Shapley value of a linear model with independent inputs [1]_. Base and contributions sum to the
    logit of the served probability.

    Parameters
    ----------
    equation : content of ``score.json``.
    reference : attribute to the mean, over the training patients, of its terms' sum times the
        calibration slope.
    values : 13 numbers in contract order, None where missing.

    Raises
    ------
    UsageError
        A value is missing that the equation does not impute.

    References
    ----------
    .. [1] Strumbelj E, Kononenko I. Explaining prediction models and individual predictions with
       feature contributions. Knowl Inf Syst 2014;41:647-665.

    Examples
    --------
    >>> term = {"attribute": "age", "coefficient": 2.0, "center": 50.0, "scale": 10.0}
    >>> equation = {"intercept": -1.0, "impute": {}, "terms": [term],
    ...             "calibration": {"slope": 1.0, "intercept": 0.0}}
    >>> contributions(equation, {"age": 0.5}, [60.0] + 12 * [None])
    Contributions(base=-0.5, by_attribute={'age': 1.5})
    """
    return Reasons.of(equation, reference).contributions(values)


# -- bands and abstaining --------------------------------------------------------------------


@dataclass(frozen=True)
class ProbabilityBand:
    """A named part of [0, 1]: above ``above``, up to and including ``up_to``."""

    name: str
    above: float
    up_to: float

    def document(self) -> dict[str, Any]:
        """For an answer."""
        return {"name": self.name, "above": self.above, "up_to": self.up_to}


BANDS: tuple[ProbabilityBand, ...] = (
    ProbabilityBand("very low", 0.0, 0.05),
    ProbabilityBand("low", 0.05, 0.15),
    ProbabilityBand("moderate", 0.15, 0.50),
    ProbabilityBand("high", 0.50, 0.85),
    ProbabilityBand("very high", 0.85, 1.0),
)
"""Names and limits of the likelihood of obstructive coronary disease in Vrints C et al. 2024 ESC
Guidelines for the management of chronic coronary syndromes. Eur Heart J 2024;45:3415-3537.
There they belong to a likelihood before testing in patients with symptoms; that they name a
probability in patients already sent to angiography, after tests too, is our use of them. A
probability of exactly 0 is very low."""

_UPPER = tuple(band.up_to for band in BANDS[:-1])


def band(p: float) -> ProbabilityBand:
    """The named band of a probability.

    Examples
    --------
    >>> [band(p).name for p in (0.0, 0.05, 0.051, 0.5, 0.86)]
    ['very low', 'very low', 'low', 'moderate', 'very high']
    """
    return BANDS[bisect_left(_UPPER, p)]


@dataclass(frozen=True)
class Policy:
    """When the model declines to decide; declared at training, part of the model's digest.

    The probability is told all the same; it is the decision that is left to people.

    Parameters
    ----------
    abstain_when : of ``straddle`` (the calibration range reaches both sides of the threshold) and
        ``far`` (the patient is unlike the training population); empty for never.

    Raises
    ------
    UsageError
        Another word was declared.
    """

    abstain_when: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [word for word in self.abstain_when if word not in ABSTAIN_REASONS]
        if unknown:
            raise UsageError(
                f"abstain-when: {', '.join(map(repr, unknown))}; expected "
                f"{' and '.join(ABSTAIN_REASONS)}, separated by a comma"
            )

    @classmethod
    def declared(cls, text: str) -> Policy:
        """From the command line: words separated by commas, in the order of the declaration.

        Examples
        --------
        >>> Policy.declared("far,straddle")
        Policy(abstain_when=('straddle', 'far'))
        """
        words = [word.strip() for word in text.split(",") if word.strip()]
        return cls(tuple(sorted(dict.fromkeys(words), key=_declared_order)))

    @classmethod
    def of(cls, document: Mapping[str, Any] | None) -> Policy:
        """As read from a manifest; a manifest without one never abstains.

        Raises
        ------
        BundleError
            The manifest holds a reason that this release does not know.
        """
        try:
            return cls(tuple(document["abstain_when"])) if document else cls()
        except UsageError as cause:
            raise BundleError(f"the manifest's policy cannot be kept: {cause}") from cause

    def document(self) -> dict[str, Any]:
        """As written in the manifest."""
        return {"abstain_when": list(self.abstain_when)}

    def reasons(
        self, *, low: float, high: float, threshold: float, far: bool = False
    ) -> tuple[str, ...]:
        """Why no decision is given; empty where one is.

        Parameters
        ----------
        low, high : calibration range of the answer.
        threshold : probability from which the answer is *disease*.
        far : whether the patient is far from the training population.

        Examples
        --------
        >>> Policy(("straddle",)).reasons(low=0.4, high=0.6, threshold=0.5)
        ('range straddles threshold',)
        >>> Policy().reasons(low=0.4, high=0.6, threshold=0.5)
        ()
        """
        if not self.abstain_when:
            return ()
        holds = {STRADDLE: low < threshold <= high, FAR: far}
        return tuple(ABSTAIN_REASONS[word] for word in self.abstain_when if holds[word])


def _declared_order(word: str) -> int:
    words = list(ABSTAIN_REASONS)
    return words.index(word) if word in words else len(words)
