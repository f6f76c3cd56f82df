"""A hospital's own labelled patients against a model that is already there.

Nothing is fitted: the bundle answers, the outcomes judge. Patients who trained the model are left
out of the judgement wherever they can be recognised, since a model knows its own.

References
----------
.. [1] Collins GS et al. TRIPOD+AI statement: updated guidance for reporting clinical prediction
   models that use regression or machine learning methods. BMJ 2024;385:e078378.
.. [2] Van Calster B, McLernon DJ, van Smeden M, Wynants L, Steyerberg EW. Calibration: the Achilles
   heel of predictive analytics. BMC Med 2019;17:230.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from heartdx import __version__, bundle, checks, performance, records
from heartdx.codings import UNKNOWN_SITE, said_lines, shipped
from heartdx.contract import NAMES, PANEL_BY_NAME, PANEL_NAMES, SITE_COLUMN, SITE_NAMES
from heartdx.errors import ContractError
from heartdx.evaluation import curves, groups, ladder, summary
from heartdx.evaluation.document import SCHEMA, calibration_part, data_part, operating_point
from heartdx.evaluation.methods import METHODS
from heartdx.evaluation.panels import LABELS, ROLES
from heartdx.evaluation.values import fig, figs, number
from heartdx.performance import Interval
from heartdx.performance.calibration import Calibration
from heartdx.performance.discrimination import OperatingPoint
from heartdx.performance.net_benefit import decision_curve

THIS_FILE = "this file"
"""The hospital of a file that names none."""
FROM_UCI = "patients of UCI's four files"
"""Words of the finding by which a manifest tells that UCI's patients trained its model."""
RECOGNISED_ONLY = (
    "A bundle stores no patient: only UCI's own, or a training file of the same bytes, are "
    "recognised."
)
COUNTS = ("tp", "fp", "fn", "tn")
CALIBRATION_LISTS = ("grid", "observed", "low", "high", "edges", "events", "non_events")
DECISION_LISTS = (
    "thresholds",
    "model",
    "low",
    "high",
    "treat_all",
    "avoided",
    "avoided_low",
    "avoided_high",
)
USED_METHODS = (
    "intervals",
    "delong",
    "operating_point",
    "calibration",
    "net_benefit",
    "groups",
    "ladder",
)
UNRECOGNISABLE = (
    "Whether further patients of this file trained the model: a bundle stores no patient, so only "
    f"UCI's own can be recognised, and only with {shipped.STRONG_CELLS} or more values in common."
)


@dataclass(frozen=True)
class Overlap:
    """Patients of the file who trained the model.

    Parameters
    ----------
    trained : array of bool, shape (n,), by row of the file.
    left_out : whether the judgement is without them.
    message : what was found and done; None where there is none.
    """

    trained: np.ndarray
    left_out: bool
    message: str | None

    @property
    def everything(self) -> bool:
        """Whether there is no other patient."""
        return bool(self.trained.all())


@dataclass(frozen=True)
class Judged:
    """The patients on whom the model is judged, answered.

    Parameters
    ----------
    frame : m rows as in ``checks.Loaded``; an unnamed hospital is ``this file``.
    y : shape (m,), 0 or 1.
    y_prob : shape (m,), from the richest panel met.
    panel : shape (m,), place of the answering panel in ``contract.PANELS``.
    """

    frame: pd.DataFrame
    y: np.ndarray
    y_prob: np.ndarray
    panel: np.ndarray

    @property
    def sites(self) -> np.ndarray:
        """The hospital of each patient, shape (m,)."""
        return self.frame[SITE_COLUMN].to_numpy(dtype=str)

    def take(self, rows: np.ndarray) -> Judged:
        """These patients only; ``rows`` is of bool, shape (m,)."""
        kept = self.frame[rows].reset_index(drop=True)
        return Judged(kept, self.y[rows], self.y_prob[rows], self.panel[rows])


def document(
    data: checks.Loaded,
    model: bundle.Bundle,
    *,
    seed: int,
) -> dict[str, Any]:
    """The evaluation document of a model on the patients of one file.

    Parameters
    ----------
    data : the file, every patient with an outcome.
    model : a verified bundle.
    seed : of the resampling.

    Raises
    ------
    ContractError
        A patient whom no panel can answer, or fewer than 20 patients of an outcome.

    References
    ----------
    .. [1] Collins GS et al. TRIPOD+AI statement. BMJ 2024;385:e078378.
    """
    used, overlap = judged(data, model, lines=data.lines or None)
    rungs = _ladders(used, seed) if not overlap.everything else None
    panels: dict[str, Any] = {
        name: _panel(name, used, model, seed) for name in PANEL_NAMES if name in model.scorers
    }
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "file",
        "heartdx_version": __version__,
        "model": {"name": model.name, "version": model.version, "digest": model.digest},
        "summary": [],
        "not_estimable": _not_estimable(used, panels, overlap),
        "findings": [],
        "methods": {name: METHODS[name] for name in USED_METHODS if name != "ladder" or rungs},
        "metrics": dict(performance.METRICS),
        "data": data_part(dataclasses.replace(data, frame=_sites_named(data.frame))),
        "plan": {
            "splits": None,
            "repeats": None,
            "seed": seed,
            "harm_ratio": float(model.manifest["harm_ratio"]),
            "threshold": model.threshold,
            "bootstraps": None,
            "draws": ladder.DRAWS if rungs else None,
        },
        "candidates": {
            panel["chosen"]: {"label": LABELS[panel["chosen"]], "role": ROLES[panel["chosen"]]}
            for panel in panels.values()
        },
        "panels": panels,
        "policy": _policy(used, model, seed),
        "ladder": rungs,
        "missing": None,
        "lottery": None,
        "overlap": _overlap_part(overlap),
        "gates": [],
    }
    found["summary"] = _summary(used, model, overlap, found["policy"]["metrics"], seed)
    found["findings"] = summary.findings(found)
    return found


def judged(
    data: checks.Loaded, model: bundle.Bundle, *, lines: Sequence[int] | None = None
) -> tuple[Judged, Overlap]:
    """The patients on whom the model can be judged, and those of the file who trained it.

    Recognised training patients are left out where 20 of each outcome remain without them.

    Parameters
    ----------
    data : the file, every patient with an outcome.
    model : a verified bundle.
    lines : the file's line of each row, for messages; rows are counted where it is None.

    Raises
    ------
    ContractError
        A patient whom no panel can answer, or fewer than 20 patients of an outcome.
    """
    X, y = data.frame[list(NAMES)].to_numpy(dtype=np.float64), checks.outcome(data.frame)
    _refuse_unanswerable(data, X, lines)
    _refuse_too_few(data, y)
    scored = model.score(X)
    frame, label = _sites_named(data.frame), y.astype(np.float64)
    everybody = Judged(frame, label, scored.probability, scored.panel)
    overlap = _overlap(data, X, y, model, lines)
    return (everybody.take(~overlap.trained) if overlap.left_out else everybody), overlap


def _sites_named(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**{SITE_COLUMN: frame[SITE_COLUMN].replace(UNKNOWN_SITE, THIS_FILE)})


# -- refusals --------------------------------------------------------------------------------


def _refuse_unanswerable(data: checks.Loaded, X: np.ndarray, lines: Sequence[int] | None) -> None:
    places = [NAMES.index(name) for name in records.ALWAYS_REQUIRED]
    lacking = np.isnan(X[:, places]).any(axis=1)
    if lacking.any():
        raise ContractError(
            f"{data.name}: {int(lacking.sum())} of {len(X)} patients lack "
            f"{', '.join(records.ALWAYS_REQUIRED)} in part ({_named(lacking, lines)}); every panel "
            "needs them: complete or remove these lines"
        )


def _refuse_too_few(data: checks.Loaded, y: np.ndarray) -> None:
    diseased = int(y.sum())
    healthy = len(y) - diseased
    if not diseased or not healthy:
        raise ContractError(
            f"{data.name}: all {len(y)} patients are {'with' if diseased else 'without'} disease; "
            "a model can be judged on both outcomes only: add patients of the other one"
        )
    if groups.too_few(y):
        raise ContractError(
            f"{data.name}: {diseased} patients with and {healthy} without disease; judging a "
            f"model needs {groups.FEWEST_OF_AN_OUTCOME} of each: add patients whose outcome is "
            "known"
        )


def _named(rows: np.ndarray, lines: Sequence[int] | None) -> str:
    """Rows in words; without the file's lines they are counted from 1 as they were read."""
    places = np.flatnonzero(rows)
    if lines is not None:
        return said_lines(int(lines[place]) for place in places.tolist())
    return said_lines(int(place) + 1 for place in places).replace("line", "row")


# -- patients who trained the model ----------------------------------------------------------


def _overlap(
    data: checks.Loaded,
    X: np.ndarray,
    y: np.ndarray,
    model: bundle.Bundle,
    lines: Sequence[int] | None,
) -> Overlap:
    same_file = _same_file(data, model)
    trained = same_file | _shipped_and_trained(data, X, y, model)
    count, others = int(trained.sum()), int((~trained).sum())
    if not count:
        return Overlap(trained, False, None)
    few = groups.too_few(y[~trained])
    whose = (
        "stand in the very file that trained this model"
        if same_file.any()
        else "are patients of UCI's files, which trained this model"
    )
    if not others:
        done = "all figures below are apparent ones of training patients, no validation"
    elif few:
        done = (
            f"figures on them flatter, and without them too few are left ({few}), so they are "
            "judged with the others"
        )
    else:
        done = f"figures on them flatter, so the model is judged on the other {others} alone"
    told = f"{count} of {len(y)} rows ({_named(trained, lines)}) {whose}: {done}."
    return Overlap(trained, few is None, f"{told} {RECOGNISED_ONLY}")


def _same_file(data: checks.Loaded, model: bundle.Bundle) -> np.ndarray:
    """Rows of the training file itself, of the hospitals that were kept for training."""
    origin = model.manifest.get("data", {})
    if origin.get("sha256") != data.sha256:
        return np.zeros(len(data.frame), dtype=bool)
    return np.isin(data.frame[SITE_COLUMN].to_numpy(dtype=str), list(origin["sites"]))


def _shipped_and_trained(
    data: checks.Loaded, X: np.ndarray, y: np.ndarray, model: bundle.Bundle
) -> np.ndarray:
    """Rows recognised among UCI's patients, of the hospitals whose patients trained the model."""
    taught = _training_hospitals(model)
    if not taught:
        return np.zeros(len(X), dtype=bool)
    foreign = ~data.frame[SITE_COLUMN].isin((UNKNOWN_SITE, *SITE_NAMES)).to_numpy()
    found = shipped.match(X, y.astype(np.float64), foreign=foreign).patient
    home = np.array(shipped.patients().site)[found]
    return (found >= 0) & np.isin(home, list(taught))


def _training_hospitals(model: bundle.Bundle) -> set[str]:
    """UCI's hospitals behind the model: those that its training file was found to hold and kept.

    Where it held some of a hospital's patients, the manifest does not say whom: all count.
    """
    origin = model.manifest.get("data", {})
    told = next((text for text in origin.get("findings", ()) if FROM_UCI in text), "")
    held = {site for site in SITE_NAMES if re.search(rf"\b{site} \d", told)}
    kept = set(origin.get("sites", ()))
    return held if UNKNOWN_SITE in kept else held & kept


def _overlap_part(overlap: Overlap) -> dict[str, Any] | None:
    if overlap.message is None:
        return None
    trained = overlap.trained
    return {"rows": int(trained.sum()), "of": len(trained), "message": overlap.message}


# -- panels ----------------------------------------------------------------------------------


def _panel(name: str, used: Judged, model: bundle.Bundle, seed: int) -> dict[str, Any]:
    facts, own = model.manifest["panels"][name], used.take(used.panel == PANEL_NAMES.index(name))
    few = groups.too_few(own.y)
    return {
        "label": PANEL_BY_NAME[name].label,
        "inputs": list(facts["inputs"]),
        "required": list(facts["required"]),
        "used": list(facts.get("used", facts["inputs"])),
        "patients": len(own.y),
        "events": int(own.y.sum()),
        "sites": _counts(own.sites),
        "chosen": facts["model"],
        "reason": f"Suppressed: {few}."
        if few
        else "The model of the bundle as it is; nothing was fitted to this file.",
        "parameters": {facts["model"]: dict(facts.get("parameters", {}))},
        "pooled": None,
        "sample_size": None,
        "stability": None,
        **(_suppressed(facts, model) if few else _figures(own, facts, model, seed)),
    }


def _figures(
    own: Judged, facts: Mapping[str, Any], model: bundle.Bundle, seed: int
) -> dict[str, Any]:
    y, p, sites = own.y, own.y_prob, own.sites
    return {
        "candidates": {
            facts["model"]: {
                "metrics": _metrics(own, model, seed),
                "within_sites": _within(own),
                "difference": {},
                "held_out": {
                    site: _metrics(part, model, seed)
                    for site, part in _by_site(own).items()
                    if groups.too_few(part.y) is None
                },
            }
        },
        "operating_point": operating_point(y, p, model.threshold),
        "calibration": calibration_part(y, p, sites, seed),
        "curves": {
            "roc": {facts["model"]: curves.roc(y, p)},
            "calibration": curves.calibration_curve(y, p, sites=sites, seed=seed),
            "decision": curves.decision(y, p, sites=sites, seed=seed),
        },
    }


def _suppressed(facts: Mapping[str, Any], model: bundle.Bundle) -> dict[str, Any]:
    """The same parts without a number in them."""
    blank: dict[str, Any] = {"metrics": {}, "within_sites": {}, "difference": {}, "held_out": {}}
    nothing = dict.fromkeys(("value", "low", "high"))
    statistics = [f.name for f in dataclasses.fields(Calibration) if f.name != "curve"]
    rates = [f.name for f in dataclasses.fields(OperatingPoint)[1:] if f.name not in COUNTS]
    return {
        "candidates": {facts["model"]: blank},
        "operating_point": {
            "threshold": model.threshold,
            "counts": dict.fromkeys(COUNTS),
            **{name: dict(nothing) for name in rates},
        },
        "calibration": {name: dict(nothing) for name in (*statistics, "auc_delong")},
        "curves": {
            "roc": {},
            "calibration": {name: [] for name in CALIBRATION_LISTS},
            "decision": {name: [] for name in DECISION_LISTS},
        },
    }


# -- all patients ----------------------------------------------------------------------------


def _policy(used: Judged, model: bundle.Bundle, seed: int) -> dict[str, Any]:
    by_site = _by_site(used)
    judgeable = {site: part for site, part in by_site.items() if groups.too_few(part.y) is None}
    return {
        "patients": len(used.y),
        "events": int(used.y.sum()),
        "panels": _answered(used),
        "metrics": _metrics(used, model, seed),
        "within_sites": _within(used),
        "held_out": {
            site: {
                "patients": len(part.y),
                "events": int(part.y.sum()),
                "prevalence": number(part.y.mean()),
                "panels": _answered(part),
                "metrics": _metrics(part, model, seed) if site in judgeable else {},
            }
            for site, part in by_site.items()
        },
        "pooled": None,
        "curves": {
            "held_out_calibration": {
                site: curves.calibration_curve(part.y, part.y_prob, sites=part.sites, seed=seed)
                for site, part in judgeable.items()
            }
        },
        "groups": groups.section(
            used.frame, used.y, used.y_prob, threshold=model.threshold, seed=seed
        ),
        "single_hospital": None,
    }


def _metrics(part: Judged, model: bundle.Bundle, seed: int) -> dict[str, Any]:
    found = performance.estimates(
        part.y, part.y_prob, threshold=model.threshold, sites=part.sites, seed=seed
    )
    return figs(found)


def _within(part: Judged) -> dict[str, float | None]:
    found = performance.within_site_auc(part.y, part.y_prob, part.sites)
    return {site: number(auc) for site, auc in found.items()}


def _ladders(used: Judged, seed: int) -> dict[str, Any] | None:
    """What local patients of each hospital of the file would mend; None where it has too few."""
    found = {
        site: ladder.section(part.y, part.y_prob, seed=seed)
        for site, part in _by_site(used).items()
        if len(part.y) - min(ladder.SIZES) >= ladder.FEWEST_TO_SCORE
    }
    return found or None


def _by_site(used: Judged) -> dict[str, Judged]:
    return {site: used.take(used.sites == site) for site in _counts(used.sites)}


def _answered(used: Judged) -> dict[str, int]:
    counts = {name: int((used.panel == place).sum()) for place, name in enumerate(PANEL_NAMES)}
    return {name: count for name, count in counts.items() if count}


def _counts(sites: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(sites, return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True)}


# -- in words --------------------------------------------------------------------------------


def _summary(
    used: Judged, model: bundle.Bundle, overlap: Overlap, metrics: Mapping[str, Any], seed: int
) -> list[str]:
    return [
        *_of_training(overlap),
        _who(used),
        _auc(metrics["auc"]),
        _in_the_large(used, metrics["o_e"]),
        *_spread(metrics["calibration_slope"]),
        _at_threshold(used, model),
        _worth(used, model, seed),
    ]


def _of_training(overlap: Overlap) -> list[str]:
    if overlap.message is None:
        return []
    count = int(overlap.trained.sum())
    if overlap.everything:
        return [
            "This is no validation: every patient of this file trained the model, so these are "
            "apparent figures, and they flatter."
        ]
    if overlap.left_out:
        return [f"{count} patients of this file trained the model; they are left out of all below."]
    return [
        f"Caution: {count} patients of this file trained the model and are included below, since "
        "too few would be left without them; the figures flatter."
    ]


def _who(used: Judged) -> str:
    answered = ", ".join(f"{name} {count}" for name, count in _answered(used).items())
    return (
        f"{len(used.y)} patients, {int(used.y.sum())} with disease, each answered by the richest "
        f"panel whose inputs are known ({answered})."
    )


def _auc(auc: Mapping[str, float]) -> str:
    return (
        f"In this file the AUC is {_said(auc)}: the chance that a diseased patient is given a "
        "higher probability than one without disease."
    )


def _in_the_large(used: Judged, ratio: Mapping[str, float]) -> str:
    counted = (
        f"{used.y_prob.sum():.0f} with disease expected, {used.y.sum():.0f} observed (observed "
        f"over expected {_said(ratio)})."
    )
    if ratio["low"] > 1:
        return f"Probabilities are too low on average: {counted}"
    if ratio["high"] < 1:
        return f"Probabilities are too high on average: {counted}"
    return f"Probabilities are not shown to be too high or too low on average: {counted}"


def _spread(slope: Mapping[str, float | None]) -> list[str]:
    low, high = slope["low"], slope["high"]
    if low is None or high is None or low <= 1 <= high:
        return []
    if high < 1:
        return [f"They are too extreme, both high and low ones: calibration slope {_said(slope)}."]
    return [f"They are not extreme enough: calibration slope {_said(slope)}."]


def _at_threshold(used: Judged, model: bundle.Bundle) -> str:
    point = operating_point(used.y, used.y_prob, model.threshold)
    count = point["counts"]
    return (
        f"At the threshold {model.threshold:g} the model finds {count['tp']} of "
        f"{count['tp'] + count['fn']} with disease (sensitivity {_said(point['sensitivity'])}) and "
        f"clears {count['tn']} of {count['tn'] + count['fp']} without (specificity "
        f"{_said(point['specificity'])})."
    )


def _worth(used: Judged, model: bundle.Bundle, seed: int) -> str:
    curve = decision_curve(
        used.y,
        used.y_prob,
        thresholds=np.array([model.threshold]),
        sites=used.sites,
        seed=seed,
    ).advantage
    gain = fig(Interval(curve.value[0], curve.low[0], curve.high[0]))
    said = (
        f"net benefit above the better of treating all and treating none {_said(gain, 3)} at the "
        "threshold"
    )
    if curve.low[0] > 0:
        return f"Acting on it is worth more than treating everyone or no one: {said}."
    if curve.high[0] < 0:
        return f"Acting on it is worth less than treating everyone or no one: {said}."
    return f"Acting on it is not shown to be worth more than treating everyone or no one: {said}."


def _not_estimable(
    used: Judged, panels: Mapping[str, Mapping[str, Any]], overlap: Overlap
) -> list[str]:
    of_panels = [
        f"The {name} panel on its own, which answered {panel['patients']} of these patients: "
        f"{panel['reason']}"
        for name, panel in panels.items()
        if not panel["curves"]["roc"]
    ]
    of_sites = [
        f"{site} on its own: {few}."
        for site, part in _by_site(used).items()
        if (few := groups.too_few(part.y))
    ]
    return [*of_panels, *of_sites, *([] if overlap.message else [UNRECOGNISABLE])]


def _said(found: Mapping[str, float | None], digits: int = 2) -> str:
    value, low, high = (found[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "not estimable"
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
