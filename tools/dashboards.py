"""Write Grafana's dashboards: `python tools/dashboards.py [--check]`.

Three files of ops/grafana: ``service.json`` (does it answer, how fast, what does it refuse),
``model.json`` (what the model says) and ``data.json`` (what the callers send). With ``--check``
nothing is written; a file that is out of date is named and the exit code is 1.

The metrics are those of docs/settings.md#metrics. The objectives are the alerts' own: 99.5 % of
predictions without a server error, 99 % of single predictions within 100 ms.

Grafana reads older dashboards, so the newest schema on PyPI does for every later Grafana.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as parts
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from heartdx.contract import PANEL_NAMES

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("ops") / "grafana"
JOB = "heart-api"
RUNBOOKS = "docs/runbooks"
ERROR_BUDGET = 0.005
"""Share of predictions that may end in a server error."""
LATENCY_BUDGET = 0.01
"""Share of single predictions that may take longer than the objective."""
OBJECTIVE_SECONDS = 0.1
BURNS = (("6h", "6 hours"), ("1h", "1 hour"), ("5m", "5 minutes"))
"""What is asked last is drawn on top."""
PAGE, TICKET = 14.4, 6.0
"""Burn rates that spend 2 % of 30 days' budget in an hour and 5 % in six (SRE Workbook, ch. 5)."""

PREDICTIONS = "/predict|/v1/predict|/v1/predict/batch|/invocations|/v2/models/.+/infer"
ASKED = f'method="POST", endpoint=~"{PREDICTIONS}|unmatched", http_status!="404"'
"""Requests for predictions as the rules of ops/prometheus count them: one that is refused before
routing is unmatched, as is a path that does not exist."""
SINGLES = "/predict|/v1/predict"

GREEN, YELLOW, AMBER, RED, BLUE, VIOLET, TEAL, GREY = (
    "#56A64B", "#E8C547", "#E0922F", "#D44A3A", "#3274D9", "#8F5BC4", "#2A9D8F", "#8E8E8E",
)  # fmt: skip
OF_DOOR = {
    "/predict": BLUE,
    "/v1/predict": "#6FB1F2",
    "/v1/predict/batch": VIOLET,
    "/invocations": TEAL,
    "/v2/models/.+/infer": "#C774B2",
    "/metrics|/health|/readyz|/livez|/ping": GREY,
    "unmatched": AMBER,
}
OF_PANEL: dict[str, str] = dict(zip(PANEL_NAMES, (TEAL, BLUE, VIOLET), strict=True))
OF_STATUS = {"2..": GREEN, "3..": GREY, "4..": AMBER, "429": YELLOW, "5..": RED}
"""The last that fits counts."""
OF_WINDOW = {"5 minutes": AMBER, "1 hour": RED, "6 hours": VIOLET}

RATE = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Parameters
    ----------
    expr : PromQL with Grafana's variables.
    legend : what a series is called, with ``{{label}}``.
    """

    expr: str
    legend: str


@dataclass(frozen=True)
class Row:
    """A titled row of panels, which share its height and, unless they say else, its width."""

    title: str
    height: int
    panels: tuple[Any, ...]


@dataclass(frozen=True)
class Page:
    """A dashboard.

    Parameters
    ----------
    name : of the file; the uid is ``heartdx-<name>``.
    hours : what the time picker shows at first.
    """

    name: str
    title: str
    about: str
    hours: int
    rows: tuple[Row, ...]


def main(argv: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Write what differs, or with ``--check`` name it."""
    parser = argparse.ArgumentParser(description="write ops/grafana from this tool")
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    checking = parser.parse_args(argv).check
    wanted = written()
    old = [name for name, text in wanted.items() if _read(root / name) != text]
    old += [name for name in _left_over(root) if name not in wanted]
    for name in old:
        if checking:
            print(f"{name}: out of date; run `python tools/dashboards.py`", file=sys.stderr)
        elif name in wanted:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(wanted[name], encoding="utf-8")
            print(f"wrote {name}", file=sys.stderr)
        else:
            (root / name).unlink()
            print(f"removed {name}", file=sys.stderr)
    return 1 if checking and old else 0


def written() -> dict[str, str]:
    """Every file that this tool writes, and its text."""
    return {str(FOLDER / f"{page.name}.json"): rendered(page) for page in pages()}


def pages() -> tuple[Page, Page, Page]:
    """The dashboards."""
    return service(), model(), data()


# -- service: does it answer, how fast, what does it refuse ----------------------------------


def service() -> Page:
    """The dashboard of whoever is on call."""
    return Page(
        "service",
        "heartdx: service",
        "Does the service answer, how fast, and what does it refuse.",
        6,
        (
            Row("Now", 4, _now()),
            Row("Traffic", 8, _traffic()),
            Row("Objectives", 8, (_error_burn(), _latency_burn())),
            Row("Latency and load", 8, _latency()),
            Row("Batches and models", 8, _batches()),
        ),
    )


def _now() -> tuple[Any, ...]:
    ready = number(
        "Instances",
        "Instances that Prometheus reaches, and those of them whose every worker has a verified "
        "model.",
        "short",
        Query(f"sum({of('up')})", "up"),
        Query(f"sum({of('heartdx_model_ready')})", "ready"),
        steps=[(None, RED), (1, GREEN)],
        runbooks=("HeartApiDown", "HeartApiNoModel"),
    )
    requests = number(
        "Requests",
        "Answered HTTP requests of every kind.",
        "reqps",
        Query(f"sum({rate('api_requests_total')})", "requests"),
        steps=[(None, BLUE)],
        graph=True,
    )
    errors = number(
        "Server errors",
        "Share of predictions answered with a 5xx in the last 5 minutes. The objective allows "
        "0.5 % over 30 days.",
        "percentunit",
        Query(recorded("failed", "5m"), "5xx"),
        steps=[(None, GREEN), (ERROR_BUDGET, AMBER), (PAGE * ERROR_BUDGET, RED)],
        runbooks=("HeartApiErrorBudgetBurn",),
    )
    slow = number(
        "Single predictions, p99",
        "99 of 100 single predictions of the last 5 minutes were answered within this time. The "
        "objective is 100 ms.",
        "s",
        Query(
            quantile("0.99", "api_request_latency_seconds", "5m", f'endpoint=~"{SINGLES}"'), "p99"
        ),
        steps=[(None, GREEN), (OBJECTIVE_SECONDS / 2, AMBER), (OBJECTIVE_SECONDS, RED)],
        runbooks=("HeartApiLatencyBudgetBurn",),
    )
    busy = number(
        "In flight",
        "Requests being answered at this moment, over all instances. Each worker refuses beyond "
        "HEARTDX_MAX_IN_FLIGHT.",
        "short",
        Query(f"sum({of('heartdx_in_flight')})", "in flight"),
        steps=[(None, BLUE)],
        graph=True,
    )
    release = number(
        "Model and release",
        "The model that answers, and the release that runs. More than one of either for longer "
        "than a rollout is a fault.",
        "string",
        Query(f"max by (name, version) ({of('heartdx_model_info')} == 1)", "{{name}} {{version}}"),
        Query(f"max by (version, python) ({of('heartdx_build_info')})", "release {{version}}"),
        steps=[(None, BLUE)],
        named=True,
        runbooks=("HeartApiTwoModels",),
    )
    return ready, requests, errors, slow, busy, release


def _traffic() -> tuple[Any, ...]:
    doors = lines(
        "Requests by door",
        "Answered requests per second by the route's template; `unmatched` are unknown paths.",
        "reqps",
        Query(f"sum by (endpoint) ({rate('api_requests_total')})", "{{endpoint}}"),
        colours=OF_DOOR,
        stacked=True,
    )
    statuses = lines(
        "Answers by status",
        "2xx answered, 4xx the caller's to mend, 5xx ours (503 includes what was shed).",
        "reqps",
        Query(f"sum by (http_status) ({rate('api_requests_total')})", "{{http_status}}"),
        colours=OF_STATUS,
        stacked=True,
        runbooks=("HeartApiErrorBudgetBurn", "HeartApiRejectionSpike"),
    )
    return doors, statuses


def _error_burn() -> Any:
    return burn(
        "Error budget burn",
        "How many times faster than allowed predictions fail with a 5xx (1 spends the budget of "
        "30 days in 30 days). The alert pages at 14.4 over an hour or 6 over six hours.",
        [(recorded("failed", window), name) for window, name in BURNS],
        ERROR_BUDGET,
        "HeartApiErrorBudgetBurn",
    )


def _latency_burn() -> Any:
    return burn(
        "Latency budget burn",
        "How many times more often than allowed (1 in 100) a single prediction takes longer than "
        "100 ms. The alert pages at 14.4 over an hour or 6 over six hours.",
        [(recorded("slow", window), name) for window, name in BURNS],
        LATENCY_BUDGET,
        "HeartApiLatencyBudgetBurn",
    )


def _latency() -> tuple[Any, ...]:
    answered = f'endpoint=~"{PREDICTIONS}"'
    by_door = [
        lines(
            f"{title}, by door",
            f"Seconds within which {words} of a door's predictions were answered. The line is "
            "the objective of single predictions; a batch takes as long as its table.",
            "s",
            Query(
                quantile(q, "api_request_latency_seconds", RATE, answered, "endpoint"),
                "{{endpoint}}",
            ),
            colours=OF_DOOR,
            steps=[(None, GREEN), (OBJECTIVE_SECONDS, RED)],
            log=True,
            runbooks=("HeartApiLatencyBudgetBurn",),
        )
        for q, title, words in (
            ("0.5", "Median latency", "half"),
            ("0.99", "p99 latency", "99 of 100"),
        )
    ]
    shed = lines(
        "Shed, by reason",
        "Requests refused before they were looked at. `overloaded` means more load than the "
        "instances take; `stopped` that somebody stopped predictions on purpose.",
        "reqps",
        Query(f"sum by (reason) ({rate('heartdx_shed_total')})", "{{reason}}"),
        colours={"overloaded": RED, "stopped": GREY, "rate-limited": AMBER, "unauthorized": VIOLET},
        runbooks=("HeartApiOverloaded",),
    )
    return *by_door, shed


def _batches() -> tuple[Any, ...]:
    in_flight = lines(
        "In flight, by instance",
        "Requests being answered. A plateau is a limit or a caller that waits.",
        "short",
        Query(f"sum by (instance) ({of('heartdx_in_flight')})", "{{instance}}"),
        runbooks=("HeartApiOverloaded",),
    )
    batches = lines(
        "Patients in a batch",
        "Mean and 90th percentile of the rows of one batch; the histogram's bounds are powers of "
        "ten.",
        "short",
        Query(mean("heartdx_batch_rows", RATE), "mean"),
        Query(quantile("0.9", "heartdx_batch_rows", RATE), "p90"),
        colours={"mean": BLUE, "p90": VIOLET},
    )
    return in_flight, batches, models("Models that answer")


# -- model: what it says ---------------------------------------------------------------------


def model() -> Page:
    """The dashboard of whoever answers for the model."""
    return Page(
        "model",
        "heartdx: model",
        "What the model says: its probabilities, labels and abstentions, which model it is, and "
        "what a challenger would have said.",
        24,
        (
            Row("Answered probabilities", 8, tuple(map(_distribution, PANEL_NAMES))),
            Row("Against a day and a week before", 8, tuple(map(_shift, PANEL_NAMES))),
            Row("Answers", 8, _answers()),
            Row("Which model", 7, _changes()),
            Row("Challenger in shadow", 8, _shadow()),
        ),
    )


def _distribution(panel: str) -> Any:
    chosen = of("heartdx_probability_bucket", f'panel="{panel}"')
    return (
        _common(
            heatmap.Panel(),
            f"Probability of disease: {panel}",
            f"How many patients of the panel `{panel}` got which probability, in tenths.",
            "percentunit",
            [Query(f"sum by (le) (increase({chosen}[{RATE}]))", "{{le}}")],
            ("HeartApiProbabilityShift",),
            shape=PromQueryFormat.HEATMAP,
        )
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(32)
        )
        .y_axis(heatmap.YAxisConfig().unit("percentunit").decimals(0))
        .cell_values(heatmap.CellValues().unit("short").decimals(0))
        .show_legend()
    )


def _shift(panel: str) -> Any:
    asked = f'panel="{panel}"'
    return lines(
        f"Mean probability: {panel}",
        f"Mean answered probability of the panel `{panel}` over an hour, beside the same hour a "
        "day and a week before. A step that no other hour shows is another model, other patients "
        "or another coding.",
        "percentunit",
        Query(mean("heartdx_probability", "1h", asked), "now"),
        Query(mean("heartdx_probability", "1h", asked, " offset 1d"), "a day before"),
        Query(mean("heartdx_probability", "1h", asked, " offset 1w"), "a week before"),
        colours={"now": OF_PANEL[panel], "a day before": AMBER, "a week before": GREY},
        top=1,
        runbooks=("HeartApiProbabilityShift",),
    )


def _answers() -> tuple[Any, ...]:
    answered = rate("heartdx_predictions_total")
    patients = lines(
        "Patients by panel",
        "Patients answered per second. `bedside` takes history, blood and resting ECG, `exercise` "
        "the exercise test too, `imaging` also fluoroscopy and thallium scan: a move towards "
        "`bedside` means that callers leave fields out.",
        "short",
        Query(f"sum by (panel) ({answered})", "{{panel}}"),
        colours=OF_PANEL,
        stacked=True,
    )
    diseased = rate("heartdx_predictions_total", 'label="disease"')
    share = lines(
        "Labelled as disease",
        "Share of answered patients at or above the decision threshold, by panel.",
        "percentunit",
        Query(f"sum by (panel) ({diseased}) / sum by (panel) ({answered})", "{{panel}}"),
        colours=OF_PANEL,
        top=1,
        runbooks=("HeartApiProbabilityShift",),
    )
    abstained = rate("heartdx_abstentions_total")
    silent = lines(
        "Abstentions by reason",
        "Share of answered patients for whom the model's policy abstains. A patient may have both "
        "reasons.",
        "percentunit",
        Query(f"sum by (reason) ({abstained}) / on () group_left () sum({answered})", "{{reason}}"),
        colours={"range straddles threshold": AMBER, "far from training population": RED},
        runbooks=("HeartApiAbstentionSpike",),
    )
    return patients, share, silent


def _changes() -> tuple[Any, ...]:
    increase = f"increase({of('heartdx_model_swaps_total')}[{RATE}])"
    swaps = lines(
        "Swaps by outcome",
        "Changes of the model while serving. `refused`: the new bundle did not verify, and the "
        "old model goes on.",
        "short",
        Query(f"sum by (outcome) ({increase})", "{{outcome}}"),
        colours={"switched": GREEN, "refused": RED},
        bars=True,
        runbooks=("HeartApiSwapFailed",),
    ).span(8)
    return swaps, models("Models over time").span(16)


def _shadow() -> tuple[Any, ...]:
    outcomes = rate("heartdx_shadow_patients_total")
    patients = lines(
        "Patients in shadow",
        "Patients given to the challenger too. `dropped`: it was too slow; `failed`: it raised. "
        "Neither touches an answer.",
        "short",
        Query(f"sum by (outcome) ({outcomes})", "{{outcome}}"),
        colours={"same_label": GREEN, "other_label": AMBER, "dropped": GREY, "failed": RED},
        stacked=True,
    )
    other = rate("heartdx_shadow_patients_total", 'outcome="other_label"')
    scored = rate("heartdx_shadow_patients_total", 'outcome=~"same_label|other_label"')
    disagreement = lines(
        "Disagreement",
        "Share of the patients scored by both to whom the challenger gives the other label.",
        "percentunit",
        Query(f"sum({other}) / sum({scored})", "other label"),
        colours={"other label": AMBER},
        top=1,
        runbooks=("HeartApiShadowDisagreement",),
    )
    distance = lines(
        "Difference in probability",
        "Distance between the challenger's and the champion's probability: mean and 90th "
        "percentile.",
        "percentunit",
        Query(mean("heartdx_shadow_difference", RATE), "mean"),
        Query(quantile("0.9", "heartdx_shadow_difference", RATE), "p90"),
        colours={"mean": BLUE, "p90": VIOLET},
        runbooks=("HeartApiShadowDisagreement",),
    )
    return patients, disagreement, distance


# -- data: what the callers send -------------------------------------------------------------


def data() -> Page:
    """The dashboard of whoever sends patients."""
    return Page(
        "data",
        "heartdx: data",
        "What callers send: attributes they leave out, fields and requests that are refused.",
        24,
        (
            Row("Left out", 10, _missing()),
            Row("Refused", 9, (_refused_share(), _refused_kinds())),
            Row("Refused fields in the chosen time", 10, (_refused_fields(),)),
        ),
    )


def _missing() -> tuple[Any, ...]:
    def share(counted: str, all_of: str) -> str:
        return f"sum by (field) ({counted}) / on () group_left () sum({all_of})"

    whole = share(
        f"increase({of('heartdx_missing_fields_total')}[$__range])",
        f"increase({of('heartdx_predictions_total')}[$__range])",
    )
    lately = share(rate("heartdx_missing_fields_total"), rate("heartdx_predictions_total"))
    about = "Share of answered patients without the attribute"
    bars = ranked(
        "Missing, over the chosen time",
        f"{about}, over the whole time chosen above.",
        "percentunit",
        Query(f"sort_desc({whole})", "{{field}}"),
        steps=[(None, GREEN), (0.5, AMBER), (0.9, RED)],
        top=1,
    ).span(9)
    over_time = lines(
        "Missing, by attribute",
        f"{about}. A step is a caller that changed what it sends.",
        "percentunit",
        Query(lately, "{{field}}"),
        top=1,
        legend_right=True,
    ).span(15)
    return bars, over_time


def _refused_share() -> Any:
    every = rate("api_requests_total", ASKED)
    refused = rate("api_requests_total", f'{ASKED}, http_status=~"4.."')
    return lines(
        "Requests refused, by status",
        "Share of prediction requests that the caller has to mend: 400 not JSON, 401 no key, 413 "
        "too large, 415 another media type, 422 a field outside the contract, 429 too often.",
        "percentunit",
        Query(
            f"sum by (http_status) ({refused}) / on () group_left () sum({every})",
            "{{http_status}}",
        ),
        steps=[(None, GREEN), (0.2, RED)],
        stacked=True,
        runbooks=("HeartApiRejectionSpike",),
    )


def _refused_kinds() -> Any:
    return lines(
        "Refused fields, by kind",
        "`missing` a required attribute, `unknown` a name outside the contract, `range` an "
        "implausible number, `code` a number that is no code, `type` anything but a number, "
        "`coding` codes of the Kaggle recoding without saying so.",
        "short",
        Query(f"sum by (kind) ({rate('heartdx_rejected_fields_total')})", "{{kind}}"),
        stacked=True,
        runbooks=("HeartApiRejectionSpike",),
    )


def _refused_fields() -> Any:
    counted = f"increase({of('heartdx_rejected_fields_total')}[$__range])"
    return ranked(
        "Most refused: field and kind",
        "The fifteen pairs of field and kind refused most often; `other` is every name outside "
        "the contract, `body` the request as a whole.",
        "short",
        Query(f"topk(15, sum by (field, kind) ({counted}))", "{{field}}: {{kind}}"),
        steps=[(None, AMBER)],
        runbooks=("HeartApiRejectionSpike",),
    )


# -- PromQL ----------------------------------------------------------------------------------


def of(metric: str, more: str = "") -> str:
    """The series of a metric that the dashboard's variables choose."""
    return f'{metric}{{job="$job", instance=~"$instance"{", " + more if more else ""}}}'


def rate(metric: str, more: str = "", window: str = RATE) -> str:
    """Growth of a counter per second."""
    return f"rate({of(metric, more)}[{window}])"


def mean(histogram: str, window: str, more: str = "", shift: str = "") -> str:
    """Mean of what a histogram saw in a window, ``shift`` being an offset of it."""
    total, count = (
        f"sum(rate({of(f'{histogram}_{part}', more)}[{window}]{shift}))"
        for part in ("sum", "count")
    )
    return f"{total} / {count}"


def quantile(q: str, histogram: str, window: str, more: str = "", by: str = "") -> str:
    """A quantile of what a histogram saw in a window."""
    grouped = f"le, {by}" if by else "le"
    buckets = rate(f"{histogram}_bucket", more, window)
    return f"histogram_quantile({q}, sum by ({grouped}) ({buckets}))"


def recorded(ratio: str, window: str) -> str:
    """A ratio that the rules of ops/prometheus record, over all instances."""
    return f'job:heartdx_predictions:{ratio}_ratio_rate{window}{{job="$job"}}'


# -- panels ----------------------------------------------------------------------------------


def lines(
    title: str,
    about: str,
    unit: str,
    *queries: Query,
    colours: dict[str, str] | None = None,
    steps: list[tuple[float | None, str]] | None = None,
    stacked: bool = False,
    bars: bool = False,
    top: float | None = None,
    log: bool = False,
    legend_right: bool = False,
    runbooks: Sequence[str] = (),
) -> Any:
    """Series over time from zero or, with ``log``, over powers of ten.

    Thresholds other than the first are drawn as lines.
    """
    panel = _common(timeseries.Panel(), title, about, unit, list(queries), runbooks)
    # On top of a stack the line of a series at 0 would hide what is below.
    panel.line_width(0 if stacked else 2).fill_opacity(70 if stacked or bars else 0)
    panel.draw_style(shapes.GraphDrawStyle.BARS if bars else shapes.GraphDrawStyle.LINE)
    panel.show_points(shapes.VisibilityMode.NEVER)
    by_name = parts.FieldColorModeId.PALETTE_CLASSIC_BY_NAME
    panel.color_scheme(dashboard.FieldColor().mode(by_name))
    if stacked:
        panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    if log:
        logarithm = common.ScaleDistributionConfig().type(shapes.ScaleDistribution.LOG).log(10)
        panel.scale_distribution(logarithm)
    else:
        panel.min(0)
    if top is not None:
        panel.max(top)
    if steps:
        panel.thresholds(_thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
        )
    for name, colour in (colours or {}).items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_regexp(
            f"^({name})$", [parts.DynamicConfigValue(id_val="color", value=fixed)]
        )
    place = shapes.LegendPlacement.RIGHT if legend_right else shapes.LegendPlacement.BOTTOM
    return panel.legend(
        common.VizLegendOptions()
        .display_mode(shapes.LegendDisplayMode.LIST)
        .placement(place)
        .show_legend(True)
    ).tooltip(
        common.VizTooltipOptions()
        .mode(shapes.TooltipDisplayMode.MULTI)
        .sort(shapes.SortOrder.DESCENDING)
    )


def burn(
    title: str, about: str, ratios: Sequence[tuple[str, str]], budget: float, runbook: str
) -> Any:
    """Burn rates of a budget over several windows."""
    return lines(
        title,
        about,
        "suffix:×",
        *(Query(f"{ratio} / {budget}", name) for ratio, name in ratios),
        colours=OF_WINDOW,
        steps=[(None, GREEN), (TICKET, AMBER), (PAGE, RED)],
        runbooks=(runbook,),
    )


def number(
    title: str,
    about: str,
    unit: str,
    *queries: Query,
    steps: list[tuple[float | None, str]],
    graph: bool = False,
    named: bool = False,
    runbooks: Sequence[str] = (),
) -> Any:
    """The newest value in large; ``named`` shows the legend in its place."""
    mode = shapes.BigValueTextMode
    several = len(queries) > 1
    return (
        _common(stat.Panel(), title, about, unit, list(queries), runbooks)
        .thresholds(_thresholds(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .text_mode(mode.NAME if named else mode.VALUE_AND_NAME if several else mode.VALUE)
        .graph_mode(shapes.BigValueGraphMode.AREA if graph else shapes.BigValueGraphMode.NONE)
        .color_mode(shapes.BigValueColorMode.VALUE)
        .justify_mode(shapes.BigValueJustifyMode.CENTER)
    )


def ranked(
    title: str,
    about: str,
    unit: str,
    query: Query,
    *,
    steps: list[tuple[float | None, str]],
    top: float | None = None,
    runbooks: Sequence[str] = (),
) -> Any:
    """One horizontal bar for each series, asked once for the whole chosen time."""
    panel = _common(bargauge.Panel(), title, about, unit, [query], runbooks, instant=True)
    panel.min(0)
    if top is not None:
        panel.max(top)
    return (
        panel.thresholds(_thresholds(steps))
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )


def models(title: str) -> Any:
    """Which models answered when, and at how many instances."""
    panel = _common(
        statetimeline.Panel(),
        title,
        "One line for each model: the number of instances that answer with it, over time. Two "
        "lines with a number at once are a rollout, or a fault when they stay.",
        "short",
        [Query(f"sum by (name, version) ({of('heartdx_model_info')})", "{{name}} {{version}}")],
        ("HeartApiTwoModels", "HeartApiSwapFailed"),
    )
    return (
        panel.thresholds(_thresholds([(None, GREY), (1, BLUE)]))
        .color_scheme(dashboard.FieldColor().mode(parts.FieldColorModeId.THRESHOLDS))
        .merge_values(True)
        .show_value(shapes.VisibilityMode.AUTO)
        .row_height(0.7)
        .fill_opacity(80)
    )


def _common(
    panel: Any,
    title: str,
    about: str,
    unit: str,
    queries: Sequence[Query],
    runbooks: Sequence[str],
    *,
    instant: bool = False,
    shape: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> Any:
    if runbooks:
        about += f" Runbooks: {', '.join(f'{RUNBOOKS}/{name}.md' for name in runbooks)}."
    panel.title(title).description(about).unit(unit).datasource(_source())
    panel.links([_link(f"Runbook: {name}", f"${{runbooks}}/{name}.md") for name in runbooks])
    for place, query in enumerate(queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).format(shape)
        panel.with_target((target.instant() if instant else target.range()).ref_id("ABC"[place]))
    return panel


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> Any:
    return (
        dashboard.ThresholdsConfig()
        .mode(parts.ThresholdsMode.ABSOLUTE)
        .steps([parts.Threshold(value=value, color=colour) for value, colour in steps])
    )


def _source() -> parts.DataSourceRef:
    return parts.DataSourceRef(type_val="prometheus", uid="${datasource}")


def _link(title: str, url: str) -> Any:
    return (
        dashboard.DashboardLink(title)
        .type(parts.DashboardLinkType.LINK)
        .icon("doc")
        .url(url)
        .target_blank(True)
    )


# -- dashboards ------------------------------------------------------------------------------


def rendered(page: Page) -> str:
    """A dashboard as Grafana reads it."""
    built = (
        dashboard.Dashboard(page.title)
        .uid(f"heartdx-{page.name}")
        .description(f"{page.about} Written by tools/dashboards.py; edit there.")
        .tags(["heartdx"])
        .timezone("browser")
        .readonly()
        .tooltip(parts.DashboardCursorSync.CROSSHAIR)
        .time(f"now-{page.hours}h", "now")
        .refresh("30s")
        .variables(_variables())
        .annotations([_swaps()])
        .links(_dashboard_links())
    )
    number_of = iter(range(1, 1_000))
    for row in page.rows:
        built.with_row(dashboard.Row(row.title).id(next(number_of)))
        for panel in row.panels:
            width = panel.build().grid_pos
            if width is None:
                panel.span(24 // len(row.panels))
            built.with_panel(panel.height(row.height).id(next(number_of)))
    plain = json.loads(JSONEncoder().encode(built.build()))
    return json.dumps(plain, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _variables() -> list[Any]:
    return [
        dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        dashboard.QueryVariable("job")
        .label("Job")
        .datasource(_source())
        .query("label_values(heartdx_build_info, job)")
        .refresh(parts.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(parts.VariableSort.ALPHABETICAL_ASC)
        .current(parts.VariableOption(text=JOB, value=JOB)),
        dashboard.QueryVariable("instance")
        .label("Instance")
        .datasource(_source())
        .query('label_values(heartdx_build_info{job="$job"}, instance)')
        .refresh(parts.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(parts.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(parts.VariableOption(text=["All"], value=["$__all"])),
        dashboard.TextBoxVariable("runbooks")
        .label("Runbooks at")
        .description(f"Where {RUNBOOKS} of this repository is read, for the panels' links.")
        .default_value(f"/{RUNBOOKS}"),
    ]


def _swaps() -> Any:
    expr = f"sum by (outcome) (increase({of('heartdx_model_swaps_total')}[{RATE}])) > 0"
    built = (
        dashboard.AnnotationQuery()
        .name("Model swaps")
        .datasource(_source())
        .enable(True)
        .icon_color(VIOLET)
        .expr(expr)
    )
    return built


def _dashboard_links() -> list[Any]:
    return [
        dashboard.DashboardLink("heartdx")
        .type(parts.DashboardLinkType.DASHBOARDS)
        .tags(["heartdx"])
        .keep_time(True)
        .include_vars(True)
    ]


def _left_over(root: Path) -> list[str]:
    return [str(FOLDER / path.name) for path in sorted((root / FOLDER).glob("*.json"))]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
