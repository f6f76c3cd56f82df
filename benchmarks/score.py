"""Files of any length: ``heartdx score`` beside reading and rewriting the same file.

::

    python benchmarks/score.py --rows 1000000 10000000

Each measurement is a process of its own, the two kinds in turn, so that memory is the peak of
one piece of work and a busy machine slows both. The baseline is polars reading the file and
writing it again. Data are the shipped patients drawn with replacement and slightly moved; they
live in a temporary folder and go with it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROWS = (1_000_000, 10_000_000)
FORMATS = ("parquet", "csv")
LABELS = {"parquet": "Parquet", "csv": "CSV"}
WORKS = ("rewrite", "score", "score with input")
DRAWN = 1_000_000
"""Patients drawn; longer files repeat them."""
ROW_GROUP = 250_000
"""Of a Parquet file; others write from 100,000 to all in one."""
SEED = 2024
REPEATED = 100_000
"""Rows below which a work is done again and again, after a first time that does not count: what a
process pays once says nothing about the rows."""
MOVED = {"age": 3.0, "trestbps": 4.0, "chol": 10.0, "thalach": 5.0}
"""Standard deviation added to numbers, so that they do not compress as 920 patients would."""


@dataclass(frozen=True)
class Measured:
    """One process.

    Parameters
    ----------
    seconds : of the clock.
    cpu_seconds : of all threads.
    peak_megabytes : most memory held.
    written_megabytes : size of what it wrote.
    """

    seconds: float
    cpu_seconds: float
    peak_megabytes: float
    written_megabytes: float


def measure(
    rows: tuple[int, ...], *, formats: tuple[str, ...], models: Path, row_group: int = ROW_GROUP
) -> dict[str, Any]:
    """Every work on files of every length, as one document.

    Returns
    -------
    {"rows": [{"format", "rows", "work", ...Measured, "cpu_ratio", "clock_ratio"}]}, the ratios
    being the baseline's time over the work's, so that 1.0 is as fast as rewriting.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in rows:
            for kind in formats:
                source = Path(folder) / f"patients.{kind}"
                _in_own_process("make", source, source, models, count, row_group)
                of_work = {
                    work: _in_own_process(work, source, Path(folder) / f"out.{kind}", models)
                    for work in WORKS
                }
                source.unlink()
                base = of_work["rewrite"]
                found += [
                    {
                        "format": kind,
                        "rows": count,
                        "work": work,
                        **asdict(each),
                        "cpu_ratio": base.cpu_seconds / each.cpu_seconds,
                        "clock_ratio": base.seconds / each.seconds,
                    }
                    for work, each in of_work.items()
                ]
    return {"rows": found}


def growth(
    rows: tuple[int, ...], *, formats: tuple[str, ...], models: Path
) -> dict[str, dict[int, float]]:
    """CPU per row of scoring files of every length, microseconds: label to rows to cost."""
    found: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, count in itertools.product(formats, rows):
            source = Path(folder) / f"patients.{kind}"
            _in_own_process("make", source, source, models, count)
            done = _in_own_process("score", source, Path(folder) / f"out.{kind}", models, count)
            source.unlink()
            label = f"heartdx score, {LABELS[kind]}"
            found.setdefault(label, {})[count] = 1e6 * done.cpu_seconds / count
    return found


def table(document: dict[str, Any]) -> str:
    """The document as a Markdown table."""
    lines = [
        "| file | rows | work | s | CPU s | µs CPU per row | peak MB | written MB "
        "| speed, of the rewrite (CPU) | (clock) |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in document["rows"]:
        per_row = row["cpu_seconds"] / row["rows"] * 1e6
        lines.append(
            f"| {row['format']} | {row['rows']:,} | {row['work']} | {row['seconds']:.1f} "
            f"| {row['cpu_seconds']:.1f} | {per_row:.2f} | {row['peak_megabytes']:.0f} "
            f"| {row['written_megabytes']:.0f} | {row['cpu_ratio']:.2f} "
            f"| {row['clock_ratio']:.2f} |"
        )
    return "\n".join(lines)


def _in_own_process(
    work: str, source: Path, output: Path, models: Path, count: int = 0, row_group: int = ROW_GROUP
) -> Measured:
    command = [sys.executable, __file__, "--work", work, "--source", str(source)]
    command += ["--output", str(output), "--models-dir", str(models), "--rows", str(count)]
    command += ["--row-group", str(row_group)]
    done = subprocess.run(  # noqa: S603 - this very file, no shell
        command, check=True, stdout=subprocess.PIPE, text=True
    )
    measured = Measured(**json.loads(done.stdout.splitlines()[-1]))
    if output != source:
        output.unlink()
    return measured


def _do(
    work: str, source: Path, output: Path, models: Path, count: int, row_group: int = ROW_GROUP
) -> None:
    if work == "make":
        _make(source, count, row_group)
    elif work == "rewrite":
        _rewrite(source, output)
    else:
        # polars is imported by the work itself, as it is from the command line.
        from heartdx import bundle, scoring

        model = bundle.load(bundle.locate(models_dir=models))
        scoring.score_file(source, output, model=model, with_input=work == "score with input")


def _rewrite(source: Path, output: Path) -> None:
    import polars as pl

    if source.suffix == ".parquet":
        pl.scan_parquet(source).sink_parquet(output)
    else:
        pl.scan_csv(source).sink_csv(output)


def _make(path: Path, count: int, row_group: int = ROW_GROUP) -> None:
    import numpy as np
    import polars as pl

    from heartdx.codings import shipped
    from heartdx.contract import BY_NAME, NAMES

    draw = np.random.default_rng(SEED)
    X = shipped.patients().X
    drawn = X[draw.integers(0, len(X), min(count, DRAWN))]
    for name, deviation in MOVED.items():
        low, high = BY_NAME[name].plausible or (0, 0)
        place = NAMES.index(name)
        moved = np.round(drawn[:, place] + draw.normal(0, deviation, len(drawn)))
        drawn[:, place] = np.clip(moved, low, high)
    part = pl.LazyFrame(drawn, schema=list(NAMES), orient="row").fill_nan(None)
    whole, rest = divmod(count, len(drawn))
    patients = pl.concat([part] * whole + ([part.head(rest)] if rest else []))
    if path.suffix == ".parquet":
        patients.sink_parquet(path, row_group_size=row_group)
    else:
        patients.sink_csv(path)


def _one_work(arguments: argparse.Namespace) -> None:
    import resource
    import time

    def do() -> None:
        place = arguments.source, arguments.output, arguments.models_dir
        _do(work, *place, count, arguments.row_group)

    work, count = arguments.work, arguments.rows[0]
    times = REPEATED // count if work == "score" and count else 0
    if times:
        do()
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(max(times, 1)):
        do()
    measured = Measured(
        (time.perf_counter() - begun) / max(times, 1),
        (time.process_time() - cpu) / max(times, 1),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        arguments.output.stat().st_size / 1e6,
    )
    print(json.dumps(asdict(measured)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="heartdx score beside rewriting the same file")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="lengths of the files")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--row-group", type=int, default=ROW_GROUP, help="rows, of Parquet")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--work", choices=("make", *WORKS), help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        _one_work(arguments)
    else:
        formats = tuple(arguments.formats)
        found = measure(
            tuple(arguments.rows),
            formats=formats,
            models=arguments.models_dir,
            row_group=arguments.row_group,
        )
        print(table(found))


if __name__ == "__main__":
    main()
