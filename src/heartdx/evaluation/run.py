"""An evaluation from data to files: quick after every training, in full on demand.

evaluate candidates → panel policy → (stability, ladder, missing data, single hospital, lottery) →
document → page, pictures, out-of-fold probabilities
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from heartdx import atomic, checks, logs
from heartdx.contract import NAMES, PANEL_BY_NAME
from heartdx.evaluation import internal, ladder, lottery, missing, page, single
from heartdx.evaluation.document import Extras, evaluation_document
from heartdx.evaluation.panels import (
    PanelResult,
    Plan,
    Progress,
    Results,
    evaluate_and_fit,
    panel_rows,
)
from heartdx.evaluation.policy import Answers, answers
from heartdx.evaluation.values import fig
from heartdx.pipelines import BY_CANDIDATE

LOG = logs.get("evaluate")
DOCUMENT, PAGE, OUT_OF_FOLD = "evaluation.json", "evaluation.html", "out_of_fold.csv"
FIGURES = "figures"
BOOTSTRAPS = 200
LOTTERY_PANEL, LOTTERY_SITE = "imaging", "cleveland"
Verdicts = Callable[[Results], tuple[Sequence[Mapping[str, Any]], Sequence[str]]]
"""Results to the gates' verdicts, and to what is told beside them."""


def quick(
    data: checks.Loaded,
    plan: Plan,
    results: Results,
    *,
    gates: Sequence[Mapping[str, Any]],
    told: Sequence[str],
) -> dict[str, Any]:
    """The document of a training run: all but what takes minutes."""
    found = answers(data, results)
    extras = Extras(ladder=ladders(data, found, results, plan, refit=False), draws=ladder.DRAWS)
    return evaluation_document(
        data, plan, results, found, kind="quick", extras=extras, gates=gates, told=told
    )


def full(
    data: checks.Loaded, plan: Plan, *, progress: Progress, verdicts: Verdicts, bootstraps: int
) -> tuple[dict[str, Any], Results]:
    """The document of a full evaluation, and the results behind it.

    Parameters
    ----------
    data : checked patients.
    plan : with comparators.
    progress : wraps each long loop.
    verdicts : the gates' verdicts on the results, and what is told beside them.
    bootstraps : models for optimism and instability.
    """
    clock = _Clock()
    results = evaluate_and_fit(data, plan, progress=progress)
    clock.told("candidates evaluated", panels=len(results.panels))
    found = answers(data, results)
    stability = {
        name: _stability(result, plan, bootstraps, progress)
        for name, result in results.panels.items()
    }
    clock.told("bootstrap models fitted", models=bootstraps * len(stability))
    rungs = ladders(data, found, results, plan, refit=True)
    clock.told("recalibration ladders climbed", hospitals=len(rungs or {}))
    absent = missing.section(
        data,
        policy={site: found.between[found.sites == site] for site in found.held_out_sites},
        plan=plan,
        panels={name: result.patients for name, result in results.panels.items()},
        progress=progress,
    )
    clock.told("missing data studied")
    extras = Extras(
        stability=stability,
        ladder=rungs,
        missing=absent,
        lottery=_lottery(results, plan),
        single_hospital=single.section(data, plan),
        bootstraps=bootstraps,
        draws=ladder.DRAWS,
    )
    clock.told("single hospital and lottery done")
    gates, told = verdicts(results)
    document = evaluation_document(
        data, plan, results, found, kind="full", extras=extras, gates=gates, told=told
    )
    return document, results


def write(
    document: Mapping[str, Any], reports_dir: Path, *, stem: str = "evaluation"
) -> list[Path]:
    """The document as JSON and as a page with its pictures; each file whole or not at all."""
    pictures = page.figures(document)
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ": "))
    files: dict[str, bytes] = {
        f"{stem}.json": (text + "\n").encode("utf-8"),
        f"{stem}.html": page.page(document, drawn=pictures).encode("utf-8"),
        **{f"{FIGURES}/{stem}_{name}.png": image for name, image in pictures.items()},
    }
    for name, content in files.items():
        atomic.write_bytes(reports_dir / name, content)
    return [reports_dir / name for name in files]


def write_out_of_fold(data: checks.Loaded, results: Results, path: Path) -> Path:
    """Every out-of-sample probability of every candidate as CSV, so that anyone can recompute.

    One line a panel, protocol, repeat and patient; ``patient`` counts the rows of the data file
    from 1; a column of probabilities for each candidate.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = list(next(iter(results.panels.values())).evaluations)
    writer.writerow(["panel", "protocol", "repeat", "patient", "site", "disease", *names])
    for panel, result in results.panels.items():
        rows = panel_rows(PANEL_BY_NAME[panel], data)
        tables = [
            ("cross-validation", repeat, [e.y_prob[:, repeat] for e in result.evaluations.values()])
            for repeat in range(result.headline.y_prob.shape[1])
        ]
        tables.append(("held-out hospital", 0, [e.between for e in result.evaluations.values()]))
        for protocol, repeat, columns in tables:
            for place, patient in enumerate(rows):
                if np.isnan(columns[0][place]):
                    continue
                patients = result.patients
                cells = [patient + 1, patients.sites[place], int(patients.y[place])]
                chances = [f"{column[place]:.17g}" for column in columns]
                writer.writerow([panel, protocol, repeat, *cells, *chances])
    atomic.write_text(path, stream.getvalue())
    return path


# -- parts -----------------------------------------------------------------------------------


def ladders(
    data: checks.Loaded, found: Answers, results: Results, plan: Plan, *, refit: bool
) -> dict[str, Any] | None:
    """The recalibration ladder in every held-out hospital; None when there is none."""
    table = data.frame[list(NAMES)].to_numpy(dtype=np.float64)
    work = []
    for site in found.held_out_sites:
        rows = found.sites == site
        if rows.sum() - min(ladder.SIZES) < ladder.FEWEST_TO_SCORE:
            continue
        anew = None
        if refit:
            pipelines = _pipelines_without(site, results, plan)
            anew = ladder.logistic_refit(table[rows], found.y[rows], pipelines)
        work.append((site, found.y[rows], found.between[rows], anew))
    sections = Parallel(n_jobs=plan.jobs)(
        delayed(ladder.section)(y, y_prob, seed=plan.seed, refit=anew)
        for _, y, y_prob, anew in work
    )
    return {site: part for (site, *_), part in zip(work, sections, strict=True)} or None


def _pipelines_without(site: str, results: Results, plan: Plan) -> dict[str, Any]:
    """Unfitted logistic regressions with the settings tuned without this hospital."""
    found = {}
    for name, result in results.panels.items():
        parameters = result.evaluations["logreg"].tuned_without.get(site)
        if parameters is not None:
            panel = PANEL_BY_NAME[name]
            found[name] = BY_CANDIDATE["logreg"].pipeline(panel, parameters, seed=plan.seed)
    return found


def _stability(
    result: PanelResult, plan: Plan, models: int, progress: Progress
) -> dict[str, Any] | None:
    candidate = BY_CANDIDATE[result.choice.candidate]
    made = internal.bootstraps(
        candidate, result.patients, models=models, seed=plan.seed, jobs=plan.jobs, progress=progress
    )
    return internal.stability(
        result.chosen.pipeline, result.patients, made, threshold=plan.threshold
    )


def _lottery(results: Results, plan: Plan) -> dict[str, Any] | None:
    result = results.panels.get(LOTTERY_PANEL)
    if result is None:
        return None
    here = np.flatnonzero(result.patients.sites == LOTTERY_SITE)
    if not len(here):
        return None
    interval = fig(result.evaluations["logreg"].metrics["auc"])
    return lottery.section(
        result.patients.take(here), interval=interval, seed=plan.seed, jobs=plan.jobs
    )


class _Clock:
    """Says what was done and how long it took; the times stand in the log, not in the document."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def told(self, what: str, **facts: Any) -> None:
        now = time.monotonic()
        logs.event(LOG, what, **facts, seconds=round(now - self._since, 1))
        self._since = now
