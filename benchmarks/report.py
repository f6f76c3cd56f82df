"""The page and the plot of one run."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import BATCH_ROWS, CONNECTIONS, Results, Served, ratio
from benchmarks.servers import ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BUSY = CONNECTIONS[-1]
NONE = "–"


@dataclass(frozen=True)
class Goal:
    """A goal of the service beside what was measured.

    Parameters
    ----------
    text : what is asked.
    measured : nan when it was not measured.
    bound : the least or the most.
    at_least : whether the bound is the least.
    """

    text: str
    measured: float
    bound: float
    at_least: bool

    @property
    def verdict(self) -> str:
        """``met``, ``short`` or ``not measured``."""
        if math.isnan(self.measured):
            return "not measured"
        good = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        return "met" if good else "short"


def write(results: Results, out: Path, *, date: str, plot: str = "growth.png") -> None:
    """Write the page, and the plot beside it."""
    draw(results, out.with_name(plot))
    out.write_text(page(results, environment=surroundings(date), plot=plot))


def page(results: Results, *, environment: str, plot: str) -> str:
    """The page in Markdown."""
    return (
        "\n\n".join(
            [
                "<!-- written by benchmarks/run.py; run `make bench` to write it again -->",
                "# What an answer costs",
                environment,
                "## Goals\n\n" + _goals_table(goals(results)),
                "## Instructions per request\n\n" + _instructions_table(results),
                "## Under load, one patient a request\n\n" + _load_table(results),
                f"## {BATCH_ROWS:,} rows a request\n\n" + _batch_table(results),
                "## Start and memory\n\n" + _start_table(results),
                "## Growth\n\n" + _growth(results, plot),
                "## How it was measured\n\n" + HOW,
            ]
        )
        + "\n"
    )


HOW = """\
Everything above comes from one run on one machine; read the ratios, not the numbers. Each server
has one worker, and is asked over keep-alive connections on the loopback address by a load
generator in a process of its own (`benchmarks/load.py`). The body has 13 fields.

- **Instructions**: callgrind counts the whole server process, warm, over two numbers of requests;
  the difference is divided by the difference in number. The share is the limit's count over ours.
- **The limit** is an ASGI application that reads the body and answers a constant, on the same
  uvicorn (uvloop, httptools, no access log) with the same default headers.
- **CPU** is user and system time of all processes of a server by good answer. The limit and the
  service take turns; the median of the rounds counts. Peers are measured once,
  and the service once more beside each, so that both meet the same minute of the machine.
- **Peers** serve the bundle's own scikit-learn pipeline (it loads in each environment), with the
  versions pinned in `benchmarks/peers/`; naive FastAPI and MLflow run in this project's
  environment. A peer's probability is compared with the pipeline's.
- **Growth** of `heartdx score` (`benchmarks/score.py`) is CPU of all threads in a process of its
  own; up to 100,000 rows the file is scored again and again after a first time, as what a process
  pays once for its imports says nothing about rows.
- **Start** is from starting the process to its first good answer to a prediction; the fastest of
  several for the limit and the service. Memory adds up the processes of a server (one worker);
  in PSS a page shared by n processes counts 1/n in each."""


def surroundings(date: str) -> str:
    """One line on machine and versions: nothing that names a host or a folder."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("heartdx", "uvicorn", "uvloop", "httptools", "fastapi")
    )
    return (
        f"{date}. {os.cpu_count()} cores ({_processor()}), {platform.system()}, "
        f"Python {platform.python_version()}, {versions}; bundle `{_digest()}`."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _digest() -> str:
    return (ROOT / "models" / "current").read_text().strip()[:12]


# -- goals -----------------------------------------------------------------------------------


def goals(results: Results) -> list[Goal]:
    """What the service is to reach, with what this run measured."""
    return [*_instruction_goals(results), *_load_goals(results), *_other_goals(results)]


def _instruction_goals(results: Results) -> list[Goal]:
    limit = results.instructions[0].instructions
    return [
        Goal(
            f"{row.label}: share of the limit by instructions",
            ratio(limit, row.instructions),
            0.3 if "detail=full" in row.label else 0.6,
            at_least=True,
        )
        for row in results.instructions[1:]
    ]


def _load_goals(results: Results) -> list[Goal]:
    limit, ours = results.served[0], results.served[1]
    found = [
        Goal(
            f"{ours.label}: share of the limit's requests per second, {BUSY} connections",
            ratio(_per_second(ours), _per_second(limit)),
            0.5,
            at_least=True,
        ),
        Goal(
            f"{ours.label}: p50 in units of the limit's, 1 connection",
            ratio(_p50(ours), _p50(limit)),
            1.3,
            at_least=False,
        ),
    ]
    for peer in (row for row in results.served if not row.label.startswith(("heartdx", "no-op"))):
        times = 100 if "one-row DataFrame" in peer.label else 25
        if any(name in peer.label for name in ("one-row", "MLServer", "BentoML", "mlflow")):
            text = f"{ours.label}: requests per second in units of {peer.label}"
            measured = ratio(peer.beside.per_second, _per_second(peer)) if peer.beside else math.nan
            found.append(Goal(text, measured, times, at_least=True))
    return found


def _other_goals(results: Results) -> list[Goal]:
    by_row = {batch.label: batch.cpu_us_per_row for batch in results.batches}
    start = next((row for row in results.starts if row.label == "heartdx"), None)
    found = [
        Goal("CPU per row of a JSON batch, µs", by_row.get("heartdx, JSON", math.nan), 4, False),
        Goal("CPU per row of Arrow IPC, µs", by_row.get("heartdx, Arrow IPC", math.nan), 2, False),
        Goal("start to the first answer, s", start.seconds if start else math.nan, 1.0, False),
        Goal("memory of a worker, RSS, MB", start.memory.rss if start else math.nan, 80, False),
    ]
    for label, costs in results.growth_requests.items():
        if label != "no-op":
            text = f"{label}: cost per request at {max(costs)} connections in units of that at 1"
            found.append(Goal(text, ratio(costs[max(costs)], costs[min(costs)]), 1.2, False))
    for label, costs in results.growth_rows.items():
        text = f"{label}: cost per row at {max(costs):,} rows in units of that at {min(costs):,}"
        found.append(Goal(text, ratio(costs[max(costs)], costs[min(costs)]), 1.2, False))
    return found


def _per_second(row: Served) -> float:
    return row.costs[BUSY].per_second if row.costs else math.nan


def _p50(row: Served) -> float:
    return row.costs[1].p50_ms if row.costs else math.nan


# -- tables ----------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A Markdown table; the first column is text, the others are figures.

    Examples
    --------
    >>> print(table(["what", "cost"], [["a|b", "1.0"]]))
    | what | cost |
    |---|---:|
    | a\|b | 1.0 |
    """
    lines = [head, *rows]
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([shown[0], "|---" + "|---:" * (len(head) - 1) + "|", *shown[1:]])


def figure(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, a dash for nan.

    Examples
    --------
    >>> figure(1234.5), figure(0.07654), figure(float("nan"))
    ('1,230', '0.0765', '–')
    """
    if math.isnan(value):
        return NONE
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(places, 0)}f}"


def _goals_table(found: Sequence[Goal]) -> str:
    def row(goal: Goal) -> list[str]:
        asked = f"{'≥' if goal.at_least else '≤'} {figure(goal.bound)}"
        return [goal.text, figure(goal.measured), asked, goal.verdict]

    return table(["", "measured", "goal", ""], map(row, found))


def _instructions_table(results: Results) -> str:
    limit = results.instructions[0].instructions
    return table(
        ["", "share of the limit", "instructions, thousands"],
        [
            [_noted(row.label, row.note), figure(ratio(limit, row.instructions)),
             figure(row.instructions / 1000)]
            for row in results.instructions
        ],
    )  # fmt: skip


def _load_table(results: Results) -> str:
    limit = results.served[0].costs[BUSY]
    head = ["", f"CPU, limit = 1 ({BUSY} connections)", "CPU, µs"]
    head += ["requests/s, limit = 1", "heartdx beside it, times its requests/s"]
    for connections in CONNECTIONS:
        head += [f"requests/s ({connections})", f"p50, ms ({connections})"]
        head += [f"p99, ms ({connections})"]
    head.append("errors")
    return table(head, [_load_row(row, limit.cpu_us, limit.per_second) for row in results.served])


def _load_row(row: Served, limit_cpu: float, limit_per_second: float) -> list[str]:
    label = _noted(row.label, row.note)
    if not row.costs:
        return [label] + [NONE] * (5 + 3 * len(CONNECTIONS))
    busy = row.costs[BUSY]
    cells = [label, figure(ratio(busy.cpu_us, limit_cpu)), figure(busy.cpu_us)]
    times = ratio(row.beside.per_second, busy.per_second) if row.beside else math.nan
    cells += [figure(ratio(busy.per_second, limit_per_second)), figure(times)]
    for connections in CONNECTIONS:
        cost = row.costs[connections]
        cells += [figure(cost.per_second), figure(cost.p50_ms), figure(cost.p99_ms)]
    return [*cells, str(sum(cost.errors for cost in row.costs.values()))]


def _batch_table(results: Results) -> str:
    limit = results.batches[0].cpu_us_per_row
    return table(
        ["", "limit = 1", "CPU per row, µs"],
        [
            [_noted(row.label, row.note), figure(ratio(row.cpu_us_per_row, limit)),
             figure(row.cpu_us_per_row)]
            for row in results.batches
        ],
    )  # fmt: skip


def _start_table(results: Results) -> str:
    starts = table(
        ["", "start, s", "RSS, MB", "PSS, MB"],
        [
            [row.label, figure(row.seconds), figure(row.memory.rss), figure(row.memory.pss)]
            for row in results.starts
        ],
    )
    slowest = ", ".join(f"{name} {figure(spent)}" for name, spent in results.imports)
    return f"{starts}\n\nHeaviest imports of the service, own ms (`-X importtime`): {slowest}."


def _growth(results: Results, plot: str) -> str:
    parts = [
        f"![CPU per request by connections, and per row by rows]({plot})",
        _curve_table("CPU per request, µs; connections:", results.growth_requests),
        _curve_table("CPU per row, µs; rows:", results.growth_rows),
    ]
    return "\n\n".join(parts)


def _curve_table(head: str, curves: Mapping[str, Mapping[int, float]]) -> str:
    places = sorted({place for curve in curves.values() for place in curve})
    return table(
        [head, *(f"{place:,}" for place in places)],
        [
            [label, *(figure(curve.get(place, math.nan)) for place in places)]
            for label, curve in curves.items()
        ],
    )


def _noted(label: str, note: str) -> str:
    return f"{label} ({note})" if note else label


# -- the plot --------------------------------------------------------------------------------


def draw(results: Results, file: Path) -> None:
    """Cost by connections and by rows; a flat line is what is wanted."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chart, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    _panel(left, results.growth_requests, "connections", "CPU per request, µs")
    _panel(right, results.growth_rows, "rows in the body or file", "CPU per row, µs")
    left.set_ylim(bottom=0)
    right.set_yscale("log")  # a short file's fixed cost is a hundred times a long one's per row
    chart.savefig(file, dpi=110)
    plt.close(chart)


def _panel(axes: Axes, curves: Mapping[str, Mapping[int, float]], x: str, y: str) -> None:
    for label, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), marker="o", label=label)
    axes.set(xscale="log", xlabel=x, ylabel=y)
    axes.set_xticks(sorted({place for curve in curves.values() for place in curve}))
    axes.xaxis.set_major_formatter(
        lambda place, _: f"{place:,.0f}" if place < 1e5 else f"{place:.0e}"
    )
    axes.minorticks_off()
    if curves:
        axes.legend(frameon=False, fontsize=8)
