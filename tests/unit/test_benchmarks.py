"""The benchmark: its arithmetic, its load generator against a small server, its page, its pins."""

from __future__ import annotations

import doctest
import http.server
import importlib
import json
import math
import re
import statistics
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import instructions, measure, noop, peers, report, run, servers
from benchmarks.load import Request, generate, load, percentile
from benchmarks.measure import Batch, Cost, Counted, Results, Served, Start
from benchmarks.servers import Memory, Server, running

# -- arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [1, 50, 99, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 100, 1001])
def test_a_percentile_is_numpys_inverted_distribution_function(count, percent):
    values = np.random.default_rng(3).exponential(size=count).tolist()

    found = percentile(values, percent)

    assert found == np.percentile(values, percent, method="inverted_cdf")


def test_no_latencies_have_no_percentile():
    assert math.isnan(percentile([], 50))


def test_a_ratio_to_nothing_is_unknown_not_infinite():
    assert measure.ratio(3.0, 4.0) == 0.75
    assert math.isnan(measure.ratio(3.0, 0.0))


def test_the_rounds_count_by_their_median_and_errors_add_up():
    rounds = [Cost(10, 100, 1, 9, 0), Cost(30, 120, 3, 5, 2), Cost(11, 500, 2, 7, 1)]

    found = measure.median_cost(rounds)

    assert found == Cost(11, 120, 2, 7, 3)
    assert found.cpu_us == statistics.median([10, 30, 11])


class Counters:
    """A server in which a request costs 141,000, a second of timers 2 million, a start 5 million.

    The second difference meets a full garbage collection; reading the counter takes no time.
    """

    def __init__(self, monkeypatch):
        self.sent, self.cost, self.now = [], 0.0, 0.0
        monkeypatch.setattr(instructions, "_send", self.send)
        monkeypatch.setattr(instructions, "_cost", self.dump)
        monkeypatch.setattr(instructions.time, "sleep", self.wait)
        monkeypatch.setattr(instructions.time, "perf_counter", lambda: self.now)

    def send(self, _started: object, _request: Request, count: int) -> None:
        self.sent.append(count)
        self.cost += 5e6 + 141_000 * count + (9e7 if len(self.sent) == 5 else 0)
        self.wait(count / 100)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.cost += 2e6 * seconds

    def dump(self, *_: object) -> float:
        cost, self.cost = self.cost, 0.0
        return cost


def test_instructions_leave_out_start_timers_and_a_garbage_collection(monkeypatch, tmp_path):
    server = Counters(monkeypatch)

    found = instructions._difference(None, Request("/", b""), (20, 120), tmp_path)

    assert found == pytest.approx(141_000)
    assert server.sent == [instructions.WARM_UP, *[20, 120] * instructions.REPEATS]


def test_without_valgrind_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(instructions.shutil, "which", lambda _: None)

    with pytest.raises(RuntimeError, match="apt-get install valgrind"):
        instructions.instructions_per_request(servers.NOOP, Request("/", b""))


# -- the load generator ----------------------------------------------------------------------


class Counter(http.server.BaseHTTPRequestHandler):
    """Answers 200, every third time 503; chunked where the path says so; counts what came."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.bodies.append(body)
            turn = len(self.server.bodies)
        answer = b"x" * 100_000 if self.path == "/long" else b"yes"
        self.send_response(503 if self.path == "/third" and turn % 3 == 0 else 200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            answer = b"3\r\nyes\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(answer)))
        if self.path == "/closing":
            self.close_connection = True
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def counter() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counter)
    server.bodies, server.lock = [], threading.Lock()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/", "/chunked", "/long"])
@pytest.mark.parametrize("connections", [1, 4])
def test_the_generator_sends_as_many_requests_as_asked_and_counts_every_answer(
    counter, path, connections
):
    seen = generate(
        counter.server_port,
        Request(path, b"hello"),
        connections=connections,
        requests=30,
        seconds=10,
    )

    assert (seen.requests, seen.errors) == (30, 0)
    assert counter.bodies == [b"hello"] * 30
    assert 0 < seen.p50_ms <= seen.p99_ms <= 1000 * seen.seconds


def test_an_answer_that_is_not_200_is_an_error_and_has_no_latency(counter):
    seen = generate(
        counter.server_port, Request("/third", b""), connections=2, requests=30, seconds=10
    )

    assert (seen.requests, seen.errors) == (20, 10)
    assert seen.refusal == 503


def test_the_generator_stops_when_its_seconds_are_over(counter):
    seen = generate(
        counter.server_port, Request("/", b""), connections=1, requests=10**9, seconds=0.2
    )

    assert seen.requests == len(counter.bodies)
    assert 0.2 <= seen.seconds < 2


def test_a_connection_closed_by_the_server_is_an_error_and_opened_again(counter):
    seen = generate(
        counter.server_port, Request("/closing", b""), connections=1, requests=4, seconds=10
    )

    assert seen.requests == len(counter.bodies)
    assert (seen.requests + seen.errors, seen.requests) == (4, 2)


def test_the_status_of_a_door_is_the_one_it_answers(counter):
    counter.bodies += [b"", b""]

    found = [servers.status_of(counter.server_port, Request("/third", b"")) for _ in range(2)]

    assert found == [503, 200]


def test_the_generator_runs_as_a_process_of_its_own(counter):
    body = b"\x00\xff" * 300_000

    seen = load(counter.server_port, Request("/", body), connections=2, requests=6, seconds=10)

    assert (seen.requests, seen.errors) == (6, 0)
    assert counter.bodies == [body] * 6


def test_a_server_that_is_not_there_is_an_error_with_its_reason():
    (port,) = servers.free_ports(1)

    with pytest.raises(RuntimeError, match="refused"):
        load(port, Request("/", b""), connections=1, requests=1, seconds=1)


# -- servers ---------------------------------------------------------------------------------


def test_the_limit_answers_is_measured_and_ends_with_all_its_processes():
    with running(servers.uvicorn(servers.NOOP, name="limit"), Request("/predict", b"{}")) as one:
        started = psutil.Process(one.pid)
        memory = one.memory()

        assert json.loads(one.first_answer) == json.loads(noop._ANSWER)
        assert 0 < one.cpu_seconds() < 10
        assert 1 < memory.pss <= memory.rss < 500

    assert not started.is_running()


def test_a_server_that_ends_at_its_start_is_told_with_its_last_words():
    broken = Server("broken", (sys.executable, "-c", "raise SystemExit('no model today')"))

    with (
        pytest.raises(RuntimeError, match="broken: no answer; its last words: no model today"),
        running(broken, Request("/", b"")),
    ):
        pass


# -- bodies ----------------------------------------------------------------------------------


def test_every_format_holds_the_same_patients():
    import io

    import polars as pl

    patients = [dict(measure.PATIENT), dict(measure.PATIENT) | {"age": 70.0}]
    expected = [list(map(float, patient.values())) for patient in patients]

    rows = {
        "json": [list(r.values()) for r in json.loads(measure.as_json(patients))["records"]],
        "ndjson": [
            list(json.loads(line).values()) for line in measure.as_ndjson(patients).splitlines()
        ],
        "csv": pl.read_csv(io.BytesIO(measure.as_csv(patients))).rows(),
        "arrow": pl.read_ipc_stream(io.BytesIO(measure.as_arrow(patients))).rows(),
    }

    for name, found in rows.items():
        assert [list(map(float, row)) for row in found] == expected, name


# -- the page --------------------------------------------------------------------------------


def results() -> Results:
    """A small run: the service costs twice the limit; a peer could not be installed."""
    limit, ours = Cost(50, 10_000, 0.1, 0.2, 0), Cost(100, 6_000, 0.12, 0.4, 1)
    return Results(
        instructions=[Counted(measure.NO_OP_LABEL, 150_000), Counted("heartdx `/predict`", 200e3)],
        served=[
            Served(measure.NO_OP_LABEL, {1: limit, 16: limit}),
            Served("heartdx `/predict`", {1: ours, 16: ours}),
            Served("MLServer", note="not installed: no wheel"),
            Served("BentoML", {1: ours, 16: Cost(9000, 50, 1, 1, 0)}, beside=ours),
        ],
        batches=[Batch("limit", 0.5), Batch("heartdx, JSON", 5.0), Batch("x", math.nan, "404")],
        starts=[Start("heartdx", 0.8, Memory(70, 40))],
        growth_requests={"no-op": {1: 100, 64: 50}, "heartdx": {1: 100.0, 64: 110.0}},
        growth_rows={"JSON": {1000: 4.0, 10_000: 8.0}},
    )


def test_goals_say_met_short_or_not_measured():
    verdicts = {goal.text: (goal.measured, goal.verdict) for goal in report.goals(results())}

    by = "heartdx `/predict`: "
    assert verdicts[by + "share of the limit by instructions"] == (0.75, "met")
    share = "share of the limit's requests per second, 16 connections"
    assert verdicts[by + share] == (0.6, "met")
    assert verdicts["CPU per row of a JSON batch, µs"] == (5.0, "short")
    assert verdicts["CPU per row of Arrow IPC, µs"][1] == "not measured"
    assert verdicts[by + "requests per second in units of MLServer"][1] == "not measured"
    assert verdicts[by + "requests per second in units of BentoML"] == (120.0, "met")
    grown = "JSON: cost per row at 10,000 rows in units of that at 1,000"
    assert verdicts[grown] == (2.0, "short")


def test_the_page_gives_ratios_first_and_why_a_number_is_missing():
    page = report.page(results(), environment="2 cores", plot="growth.png")

    assert "| heartdx `/predict` | 0.750 | 200 |" in page
    assert re.search(r"\| heartdx `/predict` \| 2\.00 \| 100 \| 0\.600 \|", page)
    assert re.search(r"\| MLServer \(not installed: no wheel\) \|( – \|)+", page)
    assert "| x (404) | – | – |" in page
    assert "nan" not in page


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    page = report.page(results(), environment="2 cores", plot="growth.png")

    for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1,230"), (0.07654, "0.0765"), (1.0, "1.00"), (0.9999, "1.00"), (math.nan, "–")],
)
def test_a_figure_has_three_significant_digits(value, shown):
    assert report.figure(value) == shown


def test_the_page_names_neither_host_nor_folder(monkeypatch, tmp_path):
    import platform

    monkeypatch.setattr(report, "_digest", lambda: "0" * 12)

    line = report.surroundings("2026-01-01")

    assert platform.node() not in line
    assert str(servers.ROOT) not in line
    assert str(Path.home()) not in line


def test_the_plot_is_a_small_picture(tmp_path):
    file = tmp_path / "growth.png"

    report.draw(results(), file)

    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size < 200_000


def test_every_point_of_the_plot_lies_inside_its_panel(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "close", lambda chart: None)
    report.draw(results(), tmp_path / "growth.png")

    panels = plt.gcf().axes
    monkeypatch.undo()
    for panel in panels:
        low, high = panel.get_ylim()
        points = [y for line in panel.lines for y in line.get_ydata()]
        assert points
        assert all(low < y < high for y in points)
    plt.close("all")


# -- peers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlserver", "bentoml", "litserve"])
def test_a_peers_environment_is_pinned_with_the_scikit_learn_that_wrote_the_pipeline(
    name, repository
):
    ours = dict(
        line.split(" ")[0].split("==")
        for line in (repository / "requirements.txt").read_text().splitlines()
        if line.startswith("scikit-learn==")
    )

    pinned = peers.pins(name)

    assert name in pinned
    assert pinned["scikit-learn"] == ours["scikit-learn"]
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.!+]*", version) for version in pinned.values())


def test_a_line_that_is_no_exact_pin_is_refused(monkeypatch, tmp_path):
    (tmp_path / "loose.txt").write_text("# pins\nnumpy>=2\n")
    monkeypatch.setattr(peers, "HERE", tmp_path)

    with pytest.raises(ValueError, match=r"loose\.txt, line 2"):
        peers.pins("loose")


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.name)
def test_a_peer_is_sent_all_13_values_of_every_patient(peer):
    batch = peer.batch or (lambda patients: peer.single(patients[0]))

    sent = batch([measure.PATIENT]).body.decode()

    numbers = re.findall(r"(?<=[\s\[:])-?\d+(?:\.\d+)?(?=[,\]}])", sent)
    values = [float(number) for number in numbers]
    for value in measure.PATIENT.values():
        assert value in values


def test_a_peer_nobody_knows_is_refused_by_name():
    with pytest.raises(SystemExit, match="no seldon; known are naive"):
        run.chosen("naive,seldon", quick=False)


def test_quick_leaves_the_peers_out():
    assert run.chosen("all", quick=True) == []
    assert [peer.name for peer in run.chosen("mlserver", quick=True)] == ["mlserver"]
    assert run.chosen("all", quick=False) == list(peers.PEERS)


@pytest.mark.parametrize("module", ["load", "measure", "report"])
def test_the_examples_in_the_benchmarks_words_run(module):
    found = doctest.testmod(importlib.import_module(f"benchmarks.{module}"))

    assert found.attempted > 0
    assert found.failed == 0
