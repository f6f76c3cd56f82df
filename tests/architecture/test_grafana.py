"""Grafana's dashboards ask for what the service exposes, and are what the tool writes.

Oracles from outside: the service's own exposition after traffic of every kind, a second PromQL
parser, and Grafana's list of units.
"""

from __future__ import annotations

import doctest
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import dashboard_kit as kit
from dashboard_kit import ROOT, Exposed, dashboards, findings, picture, wait_until
from heartdx.bundle import CURRENT
from heartdx.serve import create_app
from heartdx.settings import Settings

Document = dict[str, Any]
TINY = kit.service_test_module("tiny_bundle")


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Exposed:
    """What a service says after every kind of traffic, a swap, a refused model and a stop."""
    models_dir = tmp_path_factory.mktemp("models")
    next_one = TINY.write(models_dir, slant=0.5)
    TINY.write(models_dir, abstain_when=("straddle", "far"))
    draw = random.Random(5)
    settings = Settings(models_dir=models_dir, poll_seconds=1, shadow_path=next_one)
    with TestClient(create_app(settings)) as client:
        assert set(kit.answered(client, draw)) == {200}
        assert set(kit.refused(client, draw)) == {400, 404, 415, 422}
        (models_dir / CURRENT).write_text(next_one.name + "\n")
        wait_until(lambda: 'outcome="switched"} 1.0' in client.get("/metrics").text)
        (models_dir / "stopped").touch()
        wait_until(lambda: client.post("/predict", json={}).status_code == 503)
        return Exposed.of(client.get("/metrics").text)


@pytest.fixture
def documents() -> dict[str, Document]:
    folder = ROOT / "ops" / "grafana"
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


# -- the files -------------------------------------------------------------------------------


def test_the_checked_in_files_are_what_the_tool_writes(capsys):
    assert dashboards.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("spoilt", ["changed", "missing", "left over"])
def test_a_file_that_is_out_of_date_is_named(spoilt, tmp_path, capsys):
    assert dashboards.main([], root=tmp_path) == 0
    path = tmp_path / "ops" / "grafana" / "model.json"
    if spoilt == "changed":
        path.write_text(path.read_text().replace("heartdx: model", "heartdx: modell"))
    elif spoilt == "missing":
        path.unlink()
    else:
        path = path.with_name("old.json")
        path.write_text("{}")

    assert dashboards.main(["--check"], root=tmp_path) == 1

    assert path.name in capsys.readouterr().err
    assert dashboards.main([], root=tmp_path) == 0
    assert dashboards.main(["--check"], root=tmp_path) == 0


def test_the_examples_in_the_tools_run():
    for module in (dashboards, picture):
        assert not doctest.testmod(module).failed


# -- what they ask for -----------------------------------------------------------------------


def test_the_dashboards_ask_for_what_the_service_exposes(documents, exposed):
    assert tuple(sorted(documents)) == tuple(sorted(kit.NAMES))

    assert findings(documents, exposed) == []


def test_the_doors_of_predictions_are_those_of_the_service():
    paths = create_app(Settings()).openapi()["paths"]
    predicting = {path for path, methods in paths.items() if "post" in methods}

    chosen = {path for path in paths if kit.fully(dashboards.PREDICTIONS, path)}

    assert chosen == predicting
    assert {path for path in paths if kit.fully(dashboards.SINGLES, path)} == {
        "/predict",
        "/v1/predict",
    }


def panel(documents: dict[str, Document], name: str, title: str) -> Document:
    (found,) = [p for p in documents[name]["panels"] if p["title"] == title]
    return found


def of_traffic(documents: dict[str, Document]) -> Document:
    return panel(documents, "service", "Answers by status")


def expr(old: str, new: str) -> Callable[[dict[str, Document]], None]:
    def spoil(documents: dict[str, Document]) -> None:
        target = of_traffic(documents)["targets"][0]
        assert old in target["expr"]
        target["expr"] = target["expr"].replace(old, new)

    return spoil


MUTATIONS: dict[str, tuple[Callable[[dict[str, Document]], Any], str]] = {
    "two panels of one id": (lambda d: of_traffic(d).update(id=1), "2 panels have the id 1"),
    "two dashboards of one uid": (
        lambda d: d["data"].update(uid="heartdx-model"),
        "heartdx-model: the uid of several dashboards",
    ),
    "panels that overlap": (
        lambda d: of_traffic(d)["gridPos"].update(x=11),
        "Requests by door and Answers by status overlap",
    ),
    "a panel outside the grid": (
        lambda d: of_traffic(d)["gridPos"].update(w=13),
        "Answers by status: outside the grid",
    ),
    "no description": (lambda d: of_traffic(d).pop("description"), "lacks a title or a descr"),
    "a unit that Grafana lacks": (
        lambda d: of_traffic(d)["fieldConfig"]["defaults"].update(unit="req/sec"),
        "no unit of Grafana: 'req/sec'",
    ),
    "no unit": (
        lambda d: of_traffic(d)["fieldConfig"]["defaults"].pop("unit"),
        "no unit of Grafana: ''",
    ),
    "no thresholds": (
        lambda d: panel(d, "service", "Instances")["fieldConfig"]["defaults"].pop("thresholds"),
        "Instances: no thresholds",
    ),
    "thresholds that fall": (
        lambda d: panel(d, "service", "Server errors")["fieldConfig"]["defaults"]["thresholds"][
            "steps"
        ][2].update(value=0.001),
        "Server errors: thresholds that do not ascend",
    ),
    "a data source of its own": (
        lambda d: of_traffic(d)["datasource"].update(uid="prometheus"),
        "Answers by status: not the chosen data source",
    ),
    "a runbook that is none": (
        lambda d: of_traffic(d)["links"][0].update(url="${runbooks}/HeartApiUp.md"),
        "Answers by status: no file docs/runbooks/HeartApiUp.md",
    ),
    "no PromQL": (expr("sum by", "sum over"), "Answers by status: A: no PromQL"),
    "a metric that is none": (expr("requests_total", "request_total"), "no metric api_request_tot"),
    "a label that is none": (expr('job="$job"', 'job="$job", code="200"'), "has no label code"),
    "a value that is none": (
        expr('job="$job"', 'job="$job", endpoint="/predictions"'),
        "api_requests_total: endpoint is never /predictions",
    ),
    "a group that is none": (expr("http_status", "status"), "grouped by status, which no metric"),
    "a legend without its label": (
        lambda d: of_traffic(d)["targets"][0].update(legendFormat="{{method}}"),
        "the legend names method, which the query leaves out",
    ),
    "every job": (expr('job="$job", ', ""), "api_requests_total of every instance or job"),
    "a rule that is none": (
        lambda d: panel(d, "service", "Server errors")["targets"][0].update(
            expr='job:heartdx_predictions:failed_ratio_rate10m{job="$job", instance=~"$instance"}'
        ),
        "no metric job:heartdx_predictions:failed_ratio_rate10m",
    ),
    "a metric on no dashboard": (
        lambda d: panel(d, "service", "Shed, by reason")["targets"][0].update(expr="vector(1)"),
        "heartdx_shed_total: on no dashboard",
    ),
    "a broken annotation": (
        lambda d: d["data"]["annotations"]["list"][0].update(expr="heartdx_swaps"),
        "heartdx-data: Model swaps: no metric heartdx_swaps",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_dashboard_that_is_broken_is_reported(name, documents, exposed):
    spoil, told = MUTATIONS[name]
    before = findings(documents, exposed)

    spoil(documents)

    new = [line for line in findings(documents, exposed) if line not in before]
    assert any(told in line for line in new), new


def test_a_variable_that_no_dashboard_has_is_refused(documents):
    with pytest.raises(KeyError, match="workers"):
        picture.substituted('x{w="$workers"}', picture.variables(documents["data"], **ASKED))


ASKED = {"seconds": 3600.0, "step": 15.0, "scrape": 15.0}


def test_the_rate_interval_is_four_scrapes_or_a_step_and_a_scrape(documents):
    known = picture.variables(documents["service"], **ASKED)
    wide = picture.variables(documents["service"], seconds=86_400.0, step=360.0, scrape=15.0)

    assert known == {
        "__rate_interval": "60s",
        "__interval": "15s",
        "__range": "3600s",
        "job": "heart-api",
        "instance": ".*",
    }
    assert wide["__rate_interval"] == "375s"


# -- the picture -----------------------------------------------------------------------------

START = 1_000_000.0


def recorded(document: Document, series: int) -> Any:
    """For each query the answer of a Prometheus with so many series of five samples."""

    def answer(where: int) -> list[dict[str, Any]]:
        return [
            {
                "metric": {label: f"{label}{place}" for label in LEGENDS} | {"le": str(place)},
                "values": [[START + 15 * t, str(1 + where + place + t)] for t in range(5)],
            }
            for place in range(series)
        ]

    answers = {
        f"{p['id']}{target['refId']}": answer(p["id"])
        for p in picture.panels(document)
        for target in p["targets"]
    }
    swaps = [{"metric": {"outcome": "switched"}, "values": [[START + 30, "1"], [START + 45, "1"]]}]
    return picture.Asked(START, START + 60, {**answers, "swaps": swaps})


LEGENDS = ("endpoint", "http_status", "reason", "instance", "name", "version", "python", "panel",
           "outcome", "field", "kind")  # fmt: skip


def marks(axes: Any, kind: str) -> int:
    """How many series an axes shows, by what each kind of panel draws for one."""
    if kind == "timeseries":
        return len([line for line in axes.lines if not line.get_label().startswith("_")]) + len(
            axes.containers
        )
    if kind == "stat":
        return len([t for t in axes.texts if t.get_weight() == "bold"])
    if kind == "state-timeline":
        return len([t for t in axes.texts if t.get_weight() != "bold"])
    if kind == "heatmap":
        return int(np.any(axes.collections[0].get_array() > 0, axis=1).sum())
    return len(axes.containers)


@pytest.mark.parametrize("name", kit.NAMES)
@pytest.mark.parametrize("series", [1, 3])
def test_the_picture_shows_every_panel_with_all_its_series(name, series, documents):
    document = documents[name]
    wanted = {p["title"]: series * len(p["targets"]) for p in picture.panels(document)}

    figure = picture.drawn(document, recorded(document, series))

    kinds = {p["title"]: p["type"] for p in picture.panels(document)}
    shown = {a.get_label(): marks(a, kinds[a.get_label()]) for a in figure.axes}
    assert shown == wanted


def test_the_picture_says_what_it_is_and_names_panels_rows_and_units(documents):
    document = documents["service"]

    figure = picture.drawn(document, recorded(document, 1))

    said = " ".join(text.get_text() for text in figure.texts)
    assert picture.HONEST in said
    for part in document["panels"]:
        assert part["title"] in said
    ticks = {
        a.get_label(): a.yaxis.get_major_formatter()(0.05, 0)
        for a in figure.axes
        if a.get_label() in ("Median latency, by door", "Requests by door", "Error budget burn")
    }
    assert ticks == {
        "Median latency, by door": "50 ms",
        "Requests by door": "0.05 req/s",
        "Error budget burn": "0.05×",
    }


def test_a_series_has_the_colour_of_the_last_override_that_fits(documents):
    statuses = of_traffic(documents)

    colours = {name: picture._colour(statuses, name, 0) for name in ("200", "422", "429", "503")}

    assert colours == {
        "200": dashboards.GREEN,
        "422": dashboards.AMBER,
        "429": dashboards.YELLOW,
        "503": dashboards.RED,
    }


def test_a_panel_without_samples_is_drawn_empty(documents):
    document = documents["service"]

    figure = picture.drawn(document, picture.Asked(START, START + 60, {}))

    assert len(figure.axes) == len(picture.panels(document))
    assert picture.png(figure).startswith(b"\x89PNG")


def test_stacked_series_stand_on_one_another_and_samples_that_are_no_number_are_left_out():
    asked = picture.Asked(0, 30, {"1A": [
        {"metric": {"a": "x"}, "values": [[0, "1"], [15, "NaN"], [30, "3"]]},
        {"metric": {"a": "y"}, "values": [[15, "10"], [30, "20"]]},
    ]})  # fmt: skip
    x, y = asked.series("1A")

    stack = picture._Stack([("x", x), ("y", y)])
    first, second = stack.add(x), stack.add(y)

    np.testing.assert_array_equal(first, [[0, 0, 0], [1, 0, 3]])
    np.testing.assert_array_equal(second, [[1, 0, 3], [1, 10, 23]])


def test_the_picture_of_the_readme_is_small():
    path = ROOT / "docs" / "images" / "dashboard.png"

    assert path.stat().st_size < 200_000


def test_matplotlib_is_loaded_by_the_picture_alone():
    assert "matplotlib" not in Path(dashboards.__file__).read_text(encoding="utf-8")
