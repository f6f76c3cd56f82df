"""The model as it is used: every patient answered by the richest panel met.

A panel on its own is judged on the patients who meet it. A hospital gets all its patients
answered, so the family of panels is judged on all of them: cross-validated by patient, and in
hospitals that trained nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from heartdx import checks
from heartdx.contract import PANEL_BY_NAME, PANEL_NAMES, SITE_COLUMN
from heartdx.evaluation.panels import Results, panel_rows
from heartdx.performance import countable_sites


@dataclass(frozen=True)
class Answers:
    """Out-of-sample probabilities of all patients.

    Parameters
    ----------
    y : shape (n,), 0 or 1.
    sites : shape (n,).
    y_prob : shape (n, repeats), cross-validated by patient.
    panel : shape (n,), place in ``PANEL_NAMES`` of the panel behind ``y_prob``.
    between : shape (n,), from models that saw no patient of the hospital; NaN where the hospital
        could not be held out.
    between_panel : shape (n,), place of the panel behind ``between``, -1 where it is NaN. Imaging
        needs patients of more than one hospital, so a richer patient may be answered by less.
    """

    y: np.ndarray
    sites: np.ndarray
    y_prob: np.ndarray
    panel: np.ndarray
    between: np.ndarray
    between_panel: np.ndarray

    @property
    def held_out_sites(self) -> tuple[str, ...]:
        """Hospitals all of whose patients were answered by models that never saw it."""
        return tuple(
            site
            for site in countable_sites(self.y, self.sites)
            if not np.isnan(self.between[self.sites == site]).any()
        )

    def panels_of(self, rows: np.ndarray, *, between: bool = False) -> dict[str, int]:
        """How many of these patients each panel answered."""
        places = (self.between_panel if between else self.panel)[rows]
        return {name: int((places == i).sum()) for i, name in enumerate(PANEL_NAMES)}


def answers(
    data: checks.Loaded, results: Results, *, candidates: Mapping[str, str] | None = None
) -> Answers:
    """Every patient's out-of-sample probability from the richest panel met.

    Parameters
    ----------
    data : all patients.
    results : evaluated panels.
    candidates : panel to candidate; the chosen ones when None.
    """
    n = len(data.frame)
    repeats = next(iter(results.panels.values())).headline.y_prob.shape[1]
    y_prob, panel = np.full((n, repeats), np.nan), np.full(n, -1)
    between, between_panel = np.full(n, np.nan), np.full(n, -1)
    for name, result in results.panels.items():
        candidate = (candidates or {}).get(name, result.choice.candidate)
        evaluation = result.evaluations[candidate]
        rows, place = panel_rows(PANEL_BY_NAME[name], data), PANEL_NAMES.index(name)
        y_prob[rows], panel[rows] = evaluation.y_prob, place
        scored = ~np.isnan(evaluation.between)
        between[rows[scored]] = evaluation.between[scored]
        between_panel[rows[scored]] = place
    return Answers(
        checks.outcome(data.frame).astype(np.float64),
        data.frame[SITE_COLUMN].to_numpy(dtype=str),
        y_prob,
        panel,
        between,
        between_panel,
    )
