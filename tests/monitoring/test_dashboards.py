"""Every query of every dashboard has samples in a real Prometheus after real traffic."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import dashboard_kit as kit
from dashboard_kit import ROOT, picture, wait_until
from heartdx.bundle import CURRENT

SCRAPE = 0.5
TRAFFIC_SECONDS = 6.0
TINY = kit.service_test_module("tiny_bundle")
DOCUMENTS = {
    name: json.loads((ROOT / "ops" / "grafana" / f"{name}.json").read_text(encoding="utf-8"))
    for name in kit.NAMES
}
QUERIES = {
    f"{name}: {panel['title']}: {target['refId']}": (name, target["expr"])
    for name, document in DOCUMENTS.items()
    for panel in picture.panels(document)
    for target in panel["targets"]
}


class Watched:
    """A Prometheus that saw a service from ``start`` to ``end``."""

    def __init__(self, url: str, start: float, end: float):
        self.url, self.start, self.end = url, start, end

    def series(self, document: dict[str, Any], expr: str) -> list[picture.Series]:
        """A query's series, as Grafana would ask for them; NaN left out.

        A query of the day before is asked a day later: by then these samples are a day old.
        """
        known = picture.variables(document, seconds=self.end - self.start, step=1.0, scrape=SCRAPE)
        asked = picture.substituted(expr, known)
        shift = kit.longest_shift(asked)
        answer = picture.query_range(self.url, asked, self.start + shift, self.end + shift, 1.0)
        return picture.Asked(self.start, self.end, {"A": answer}).series("A")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Traffic of every kind, a challenger in shadow, another model, a stop."""
    models_dir, folder = (tmp_path_factory.mktemp(name) for name in ("models", "prometheus"))
    challenger = TINY.write(models_dir, slant=0.5)
    TINY.write(models_dir, abstain_when=("straddle", "far"))
    port = kit.free_port()
    settings = {"poll_seconds": 1, "shadow_path": challenger}
    targets = {"heart-api-0:8000": f"127.0.0.1:{port}"}
    with (
        kit.served(models_dir, port, folder / "service.log", **settings) as url,
        kit.Prometheus(folder, targets, SCRAPE) as prometheus,
        httpx2.Client(base_url=url, timeout=30) as client,
    ):
        start = time.time()
        _traffic(client, models_dir, challenger)
        time.sleep(4 * SCRAPE)
        yield Watched(prometheus.url, start, time.time())


def _traffic(client: httpx2.Client, models_dir: Path, challenger: Path) -> None:
    draw = random.Random(3)

    def ask(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert set(kit.answered(client, draw)) == {200}
            assert set(kit.refused(client, draw)) == {400, 404, 415, 422}
            time.sleep(0.2)

    ask(TRAFFIC_SECONDS / 2)
    (models_dir / CURRENT).write_text(challenger.name + "\n")
    wait_until(lambda: client.get("/health").json()["model_digest"] == challenger.name)
    ask(TRAFFIC_SECONDS / 2)
    stop = models_dir / "stopped"
    stop.touch()
    wait_until(lambda: client.post("/predict", json={}).status_code == 503)
    stop.unlink()
    wait_until(lambda: client.post("/predict", json={}).status_code == 422)


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_every_panel_has_a_finite_sample(query, watched):
    name, expr = QUERIES[query]

    assert watched.series(DOCUMENTS[name], expr), expr


@pytest.mark.parametrize("name", kit.NAMES)
def test_the_swap_is_marked_on_every_dashboard(name, watched):
    [annotation] = DOCUMENTS[name]["annotations"]["list"]

    found = watched.series(DOCUMENTS[name], annotation["expr"])

    assert [series.labels for series in found] == [{"outcome": "switched"}]


def test_a_query_of_what_nobody_exposes_has_no_sample(watched):
    gone = 'rate(api_requests_made{job="$job", instance=~"$instance"}[$__rate_interval])'
    never = f"{QUERIES['service: Requests: A'][1]} / 0 * 0"

    assert watched.series(DOCUMENTS["service"], gone) == []
    assert watched.series(DOCUMENTS["service"], never) == []


@pytest.mark.parametrize("variable", ["job", "instance"])
def test_the_variables_offer_what_prometheus_scrapes(variable, watched):
    [declared] = [v for v in DOCUMENTS["service"]["templating"]["list"] if v["name"] == variable]
    metric = declared["query"].removeprefix("label_values(").rpartition(",")[0]
    known = picture.variables(DOCUMENTS["service"], seconds=60.0, step=1.0, scrape=SCRAPE)

    found = picture.query_range(
        watched.url, picture.substituted(metric, known), watched.start, watched.end, 1.0
    )

    values = {series["metric"][variable] for series in found}
    assert values == {"job": {"heart-api"}, "instance": {"heart-api-0:8000"}}[variable]


def test_the_picture_draws_what_prometheus_answers(watched, tmp_path):
    out = tmp_path / "drawn.png"

    done = picture.main(
        [watched.url, "--minutes", "0.5", "--scrape", str(SCRAPE), "--out", str(out)]
    )

    assert done == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert out.stat().st_size < 200_000
