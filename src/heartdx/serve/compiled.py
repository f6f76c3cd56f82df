"""A bundle as one Python function of 13 numbers, for a request that asks about one patient.

A table of one row costs NumPy tens of microseconds, an equation as plain arithmetic about one.
The function is written from the bundle's own numbers, term by term in the order in which
:class:`heartdx.bundle.Equation` adds them, so that both give the same probability (1e-15).
A forest becomes nested comparisons, read back from its ONNX file, and agrees with ONNX Runtime as
closely as that sums its votes (1e-6).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heartdx.bundle import GOLDEN_TOLERANCE, ONNX, Bundle, Equation, OnnxModel
from heartdx.contract import BY_NAME, NAMES, PANELS, Panel
from heartdx.errors import BundleError, UsageError
from heartdx.serve import forest
from heartdx.serve.shapley import VoteReasons

Values = Sequence["float | None"]
ScoreOne = Callable[..., "tuple[float, int, int] | None"]
"""13 values in contract order (None where missing) to probability, place of the panel in
``contract.PANELS`` and the unused inputs as bits in contract order; None when no panel fits."""


@dataclass(frozen=True)
class Compiled:
    """What is made once of a bundle.

    Parameters
    ----------
    score : scores one patient.
    reasons : panel to what explains its forest; without one where ONNX Runtime answers, or where
        training kept no population to compare with.
    """

    score: ScoreOne
    reasons: Mapping[str, VoteReasons]


_KEPT: dict[int, Compiled] = {}
"""By the identity of bundles that are in use: a forest takes a moment, and a bundle is verified
before it serves."""


def compiled(bundle: Bundle) -> Compiled:
    """What is made of the bundle, at the first call."""
    made = _KEPT.get(id(bundle))
    if made is None:
        made = _KEPT[id(bundle)] = _compiled(bundle)
        weakref.finalize(bundle, _KEPT.pop, id(bundle), None).atexit = False
    return made


def score_one(bundle: Bundle) -> ScoreOne:
    """The function that scores one patient as ``bundle.score`` scores a table.

    Raises
    ------
    ArithmeticError, LookupError, TypeError
        The returned function, where the equation leaves the range of a float; ask the table.
    """
    return compiled(bundle).score


def _compiled(bundle: Bundle) -> Compiled:
    forests = {
        panel.name: _forest(bundle, panel)
        for panel in PANELS
        if isinstance(bundle.scorers.get(panel.name), OnnxModel)
    }
    names: dict[str, Any] = {"exp": math.exp}
    lines = [f"def answer({', '.join(NAMES)}):"]
    for place, panel in reversed(list(enumerate(PANELS))):
        if panel.name in bundle.scorers:
            lines += _panel(bundle, panel, place, names, forests.get(panel.name))
    lines.append("    return None")
    # The text holds attribute names of the contract and numbers passed through float() only.
    exec(compile("\n".join(lines), f"<bundle {bundle.version}>", "exec"), names)  # noqa: S102
    reasons: dict[str, VoteReasons] = {}
    for name, found in forests.items():
        kept = bundle.reliability.get(name)
        if found is not None and kept is not None:
            with contextlib.suppress(UsageError):  # training knew no value of an input
                reasons[name] = VoteReasons(found.trees, kept.population.typical)
    return Compiled(names["answer"], reasons)


def verify(bundle: Bundle) -> None:
    """Hold the compiled function of every panel against the table on the golden records.

    A record is answered by its richest panel, so for each panel what only richer ones look at
    is left out.

    Raises
    ------
    BundleError
        It gives another probability than the verified bundle.
    """
    score = score_one(bundle)
    golden = np.array(bundle.manifest["golden"]["records"], dtype=np.float64)
    for panel in PANELS:
        if panel.name not in bundle.scorers:
            continue
        X = golden.copy()
        X[:, [place for place in range(len(NAMES)) if place not in panel.columns]] = np.nan
        X = X[~np.isnan(X[:, [NAMES.index(name) for name in panel.required]]).any(axis=1)]
        for row, expected in zip(X, bundle.score(X).probability.tolist(), strict=True):
            scored = score(*(None if math.isnan(value) else value for value in row.tolist()))
            if scored is None or not abs(scored[0] - expected) <= GOLDEN_TOLERANCE:
                raise BundleError(
                    f"{bundle.folder}: the compiled {panel.name} model differs from the bundle's "
                    "on the golden records; this machine does not compute what was trained"
                )


def _panel(
    bundle: Bundle, panel: Panel, place: int, names: dict[str, Any], found: _Forest | None
) -> list[str]:
    known = " and ".join(f"{name} is not None" for name in panel.required)
    scorer = bundle.scorers[panel.name]
    if isinstance(scorer, Equation):
        body = _equation(scorer.document, panel, names)
    else:
        assert isinstance(scorer, OnnxModel)
        one = scorer.one_patient() if found is None else found.one_patient
        names[f"{panel.name}_forest"] = one
        body = [f"probability = {panel.name}_forest({', '.join(panel.inputs)})"]
    returned = f"return probability, {place}, {_unused(bundle, panel)}"
    return [f"    if {known}:", *(f"        {line}" for line in [*body, returned])]


@dataclass(frozen=True)
class _Forest:
    """A forest's trees, and the same as one function."""

    trees: forest.Forest
    one_patient: forest.OnePatient


def _forest(bundle: Bundle, panel: Panel) -> _Forest | None:
    """A forest as comparisons; None where its file is gone or holds another graph."""
    name = f"{panel.name}/{ONNX}"
    try:
        content = (bundle.folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != bundle.manifest["files"][name]:
            return None  # changed since the bundle was verified: what was loaded then answers
        trees = forest.read(content, panel)
        return _Forest(trees, trees.one_patient())
    except (OSError, *forest.UNKNOWN):
        return None


def _unused(bundle: Bundle, panel: Panel) -> str:
    used = bundle.used(panel.name)
    bits = [f"({name} is not None) << {bit}" for bit, name in enumerate(NAMES) if name not in used]
    return " | ".join(bits) or "0"


def _equation(document: Mapping[str, Any], panel: Panel, names: dict[str, Any]) -> list[str]:
    used = [name for name in panel.inputs if any(t["attribute"] == name for t in document["terms"])]
    lines = [
        f"if {name} is None: {name} = {_number(value)}"
        for name, value in document["impute"].items()
        if name in used
    ]
    sums = [_number(document["intercept"])]
    coded: dict[str, dict[float | None, float]] = {}
    for term in document["terms"]:
        name = term["attribute"]
        if name not in NAMES:
            raise ValueError("a term of the equation is no attribute of the contract")
        if "code" in term:
            if name not in coded:
                coded[name] = dict.fromkeys((None, *BY_NAME[name].code_values), 0.0)
                sums.append(f"{panel.name}_{name}[{name}]")
            coded[name][float(term["code"])] = float(term["coefficient"])
        else:
            shifted = f"({name} - {_number(term['center'])}) / {_number(term['scale'])}"
            sums.append(f"{_number(term['coefficient'])} * ({shifted})")
    names.update({f"{panel.name}_{name}": codes for name, codes in coded.items()})
    slope, intercept = (_number(document["calibration"][key]) for key in ("slope", "intercept"))
    logit = f"{slope} * ({' + '.join(sums)}) + {intercept}"
    if (slope, intercept) == ("(1.0)", "(0.0)"):  # as nearly always, and the same number
        logit = " + ".join(sums)
    return [
        *lines,
        f"logit = {logit}",
        "probability = 1.0 / (1.0 + exp(-logit))",
    ]


def _number(value: object) -> str:
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError("a number of the equation is not finite")
    return f"({number!r})"
