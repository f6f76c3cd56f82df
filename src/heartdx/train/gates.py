"""Quality gates: a model that fails one is not promoted, and the command exits 4.

Every figure is out of sample. The limits, each with its reason, stand in ``limits.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from heartdx.errors import GateError
from heartdx.performance import Interval, mean_log_losses
from heartdx.performance.pooling import Pooled
from heartdx.train import limits

NORMAL_95 = NormalDist().inv_cdf(0.975)
PRESENT = "the present model"


@dataclass(frozen=True)
class Gate:
    """One verdict.

    Parameters
    ----------
    name : of the gate, with its panel.
    passed : the verdict.
    figure : the numbers behind it, and what was needed.
    reason : why the gate is there, one sentence.
    """

    name: str
    passed: bool
    figure: str
    reason: str


@dataclass(frozen=True)
class HeldOut:
    """A hospital scored by models that never saw it.

    Parameters
    ----------
    auc : with its 95 % interval, NaN where it has one outcome only.
    patients, events : how many there are, and how many of them are diseased.
    """

    auc: Interval
    patients: int
    events: int

    @property
    def rarer(self) -> int:
        """Patients of the rarer outcome."""
        return min(self.events, self.patients - self.events)


@dataclass(frozen=True)
class Agreement:
    """How far an exported form of a model is from the fitted pipeline.

    Parameters
    ----------
    difference : largest absolute difference of a probability over all rows.
    tolerance : what is allowed.
    rows : how many rows were compared.
    """

    difference: float
    tolerance: float
    rows: int


def judge(
    panel: str,
    *,
    y: np.ndarray,
    y_prob: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    metrics: Mapping[str, Interval],
    held_out: Mapping[str, HeldOut] | None = None,
    groups: Mapping[str, np.ndarray] | None = None,
    champion: np.ndarray | None = None,
) -> list[Gate]:
    """The gates of one panel's chosen model, on its out-of-sample probabilities.

    Parameters
    ----------
    panel : name.
    y : shape (n,), 0 or 1.
    y_prob : shape (n, repeats), cross-validated, of the chosen model.
    baselines : baseline label to its probabilities on the same folds; with groups and without a
        champion one of them is ``limits.GROUP_BASELINE``.
    metrics : cross-validated estimates of the chosen model.
    held_out : hospital to what models that never saw it were worth there; none where transfer
        cannot be estimated.
    groups : label to a mask of shape (n,), the patients in it.
    champion : shape (n, repeats), probabilities of the present model's candidate and parameters
        refitted on the same folds; None when there is no present model. What the present model
        itself says of patients that may have trained it would flatter it.
    """
    losses = mean_log_losses(y, y_prob)
    against = {name: losses - mean_log_losses(y, other) for name, other in baselines.items()}
    gates = [_enough(panel, y), _ranks_inside_hospitals(panel, metrics["auc_within"])]
    gates += [_beats(panel, name, differences) for name, differences in against.items()]
    gates += _calibrated(panel, metrics)
    gates += [
        _carries_over(panel, site, found)
        for site, found in (held_out or {}).items()
        if is_gated(found)
    ]
    if champion is not None:
        against[PRESENT] = losses - mean_log_losses(y, champion)
    gates.append(_not_worse(panel, against.get(PRESENT)))
    if groups:
        rival = PRESENT if PRESENT in against else limits.GROUP_BASELINE
        gates.append(_no_group_worse_off(panel, y, against[rival], groups, rival=rival))
    return gates


def export_gate(panel: str, forms: Mapping[str, Agreement]) -> Gate:
    """Whether every exported form answers as the fitted pipeline does, row by row.

    Parameters
    ----------
    panel : name.
    forms : exported form to how far it is from the pipeline; none at all fails.

    Examples
    --------
    >>> export_gate("bedside", {"onnx": Agreement(2e-8, 1e-6, 977)}).figure
    'onnx: largest difference 2e-08 over 977 rows, allowed 1e-06'
    """
    agree = [form.rows > 0 and form.difference <= form.tolerance for form in forms.values()]
    figures = [
        f"{name}: largest difference {form.difference:.2g} over {form.rows} rows, "
        f"allowed {form.tolerance:.2g}"
        for name, form in forms.items()
    ]
    return Gate(
        name=f"{panel}: export agrees with the fitted pipeline",
        passed=bool(agree) and all(agree),
        figure="; ".join(figures) or "no form was compared",
        reason="What is served must be what was evaluated.",
    )


def findings(
    panel: str,
    *,
    y: np.ndarray,
    held_out: Mapping[str, HeldOut],
    groups: Mapping[str, np.ndarray],
    pooled_auc: Pooled | None,
) -> list[str]:
    """What is told beside the verdicts because no verdict can rest on it; sentences.

    Parameters
    ----------
    panel : name.
    y : shape (n,), 0 or 1.
    held_out, groups : as for ``judge``.
    pooled_auc : the AUC pooled over held-out hospitals; None when there are fewer than two.
    """
    told = [_transfer(panel, held_out, pooled_auc)]
    for site, found in held_out.items():
        if not is_gated(found):
            told.append(
                f"{panel}: {site} has {found.patients} patients, {found.rarer} of the rarer "
                f"outcome: too few to be gated as a held-out hospital"
            )
        elif found.rarer < limits.FEWEST_OF_AN_OUTCOME:
            told.append(
                f"{panel}: held-out {site} has {found.rarer} of the rarer outcome, AUC "
                f"{found.auc}: its lower bound is not gated"
            )
    few = [label for label, rows in groups.items() if not _is_judged(y, rows)]
    if few:
        told.append(
            f"{panel}: groups with fewer than {limits.FEWEST_OF_AN_OUTCOME} of an outcome are not "
            f"gated: {', '.join(few)}"
        )
    return told


def enforce(gates: list[Gate]) -> None:
    """Refuse when a gate failed.

    Raises
    ------
    GateError
        Names every failed gate with its figure.
    """
    failed = [f"{gate.name} ({gate.figure})" for gate in gates if not gate.passed]
    if failed:
        raise GateError(
            f"{len(failed)} of {len(gates)} quality gates failed: {'; '.join(failed)}; no "
            "model was made current; the report that was written has every figure"
        )


def is_gated(found: HeldOut) -> bool:
    """Whether a held-out hospital has patients enough, and an AUC, to be gated."""
    return found.patients >= limits.HELD_OUT_PATIENTS and found.rarer > 0


# -- the gates, in the order of ``judge`` ----------------------------------------------------


def _enough(panel: str, y: np.ndarray) -> Gate:
    rarer = int(min((y == 1).sum(), (y == 0).sum()))
    return Gate(
        name=f"{panel}: enough patients",
        passed=rarer >= limits.FEWEST_OF_AN_OUTCOME,
        figure=f"{rarer} of the rarer outcome, needed {limits.FEWEST_OF_AN_OUTCOME}",
        reason="With fewer patients of one outcome every other figure is a guess.",
    )


def _ranks_inside_hospitals(panel: str, within: Interval) -> Gate:
    return Gate(
        name=f"{panel}: better than chance inside hospitals",
        passed=within.low > limits.CHANCE,
        figure=f"AUC inside hospitals {within}, needed above {limits.CHANCE}",
        reason="A pooled AUC also rewards telling hospitals apart, which helps no patient.",
    )


def _beats(panel: str, name: str, differences: np.ndarray) -> Gate:
    """The paired difference in log loss lies below 0 with its whole 95 % interval."""
    paired = _paired(differences)
    return Gate(
        name=f"{panel}: better than {name}",
        passed=paired.high < 0,
        figure=f"difference in log loss {paired}, needed wholly below 0",
        reason="A model that knows no more than this baseline is not worth its measurements.",
    )


def _calibrated(panel: str, metrics: Mapping[str, Interval]) -> list[Gate]:
    """The estimate is inside its band; NaN is not."""
    slope, o_e = metrics["calibration_slope"], metrics["o_e"]
    return [
        Gate(
            name=f"{panel}: calibration slope",
            passed=_inside(slope.value, limits.SLOPE_BAND),
            figure=f"slope {slope}, needed {_band(limits.SLOPE_BAND)}",
            reason="Probabilities that are too extreme or too timid mislead at every threshold.",
        ),
        Gate(
            name=f"{panel}: observed over expected",
            passed=_inside(o_e.value, limits.O_E_BAND),
            figure=f"observed over expected {o_e}, needed {_band(limits.O_E_BAND)}",
            reason="Of 100 patients with 30 % some 30 must be diseased.",
        ),
    ]


def _carries_over(panel: str, site: str, found: HeldOut) -> Gate:
    """With enough of both outcomes the lower bound is judged, with fewer the AUC itself."""
    if found.rarer >= limits.FEWEST_OF_AN_OUTCOME:
        passed = found.auc.low > limits.HELD_OUT_FLOOR
        needed = f"lower bound above {limits.HELD_OUT_FLOOR}"
    else:
        passed = found.auc.value > limits.HELD_OUT_FLOOR_FEW
        needed = f"above {limits.HELD_OUT_FLOOR_FEW}"
    return Gate(
        name=f"{panel}: held-out {site}",
        passed=passed,
        figure=f"AUC {found.auc}, {found.rarer} of the rarer outcome, needed {needed}",
        reason="The model will be used in hospitals that trained nothing.",
    )


def _not_worse(panel: str, differences: np.ndarray | None) -> Gate:
    """The interval of new minus present is not wholly above the margin."""
    figure, passed = "no present model", True
    if differences is not None:
        paired = _paired(differences)
        passed = paired.low <= limits.LOSS_MARGIN
        figure = (
            f"difference in log loss {paired} on the same folds, "
            f"needed not wholly above {limits.LOSS_MARGIN}"
        )
    return Gate(
        name=f"{panel}: not worse than the present model",
        passed=passed,
        figure=figure,
        reason="A newer model is not a better one until it is compared.",
    )


def _no_group_worse_off(
    panel: str,
    y: np.ndarray,
    differences: np.ndarray,
    groups: Mapping[str, np.ndarray],
    *,
    rival: str,
) -> Gate:
    """No group's interval is wholly above the margin; the figure names those, or the nearest."""
    judged = {
        label: _paired(differences[rows]) for label, rows in groups.items() if _is_judged(y, rows)
    }
    worse = [label for label, paired in judged.items() if not paired.low <= limits.LOSS_MARGIN]
    named = worse or sorted(judged, key=lambda label: -judged[label].low)[:1]
    told = "".join(f", {label} {judged[label]}" for label in named)
    return Gate(
        name=f"{panel}: no group worse off",
        passed=not worse,
        figure=(
            f"difference in log loss from {rival} in {len(judged)} of {len(groups)} groups"
            f"{told}, needed not wholly above {limits.LOSS_MARGIN}"
        ),
        reason="A better mean can be paid for by some of the patients.",
    )


# -- details -----------------------------------------------------------------------------------


def _paired(differences: np.ndarray) -> Interval:
    """Mean of each patient's difference with its normal 95 % interval."""
    mean = float(differences.mean())
    half = float(NORMAL_95 * differences.std(ddof=1) / np.sqrt(len(differences)))
    return Interval(mean, mean - half, mean + half)


def _is_judged(y: np.ndarray, rows: np.ndarray) -> bool:
    events, patients = int((y[rows] == 1).sum()), int(rows.sum())
    return min(events, patients - events) >= limits.FEWEST_OF_AN_OUTCOME


def _inside(value: float, band: tuple[float, float]) -> bool:
    return band[0] <= value <= band[1]


def _band(band: tuple[float, float]) -> str:
    return f"{band[0]} to {band[1]}"


def _transfer(panel: str, held_out: Mapping[str, HeldOut], pooled_auc: Pooled | None) -> str:
    if not held_out:
        return f"{panel}: no hospital could be held out, so transfer is not estimable"
    if pooled_auc is None or not np.isfinite(pooled_auc.prediction.low):
        return f"{panel}: too few held-out hospitals to say what to expect in the next one"
    likely = pooled_auc.natural_prediction
    return (
        f"{panel}: in a hospital not seen yet the AUC is likely between {likely.low:.2f} and "
        f"{likely.high:.2f} (95 % prediction interval from {pooled_auc.k} hospitals); it is not "
        "gated, for so few hospitals cannot make it narrow"
    )
