"""Measure what an answer costs and write benchmarks/results.md and growth.png: ``make bench``.

.venv/bin/python benchmarks/run.py             # everything, about 12 minutes at most
.venv/bin/python benchmarks/run.py --quick     # without peers, under 90 seconds
.venv/bin/python benchmarks/run.py --peers naive,mlserver
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # as a script, Python puts this folder there instead of the project's

from benchmarks import measure, peers, report  # noqa: E402

OUT = ROOT / "benchmarks" / "results.md"


def main(words: list[str] | None = None) -> int:
    """Measure and write; the exit code is 0 when the page is written."""
    options = _parsed(words)
    signal.signal(signal.SIGTERM, _stopped)
    begun = time.monotonic()
    results = measure.measure(
        options.paths.split(","),
        chosen(options.peers, quick=options.quick),
        pipeline=pipeline(),
        effort=measure.QUICK if options.quick else measure.FULL,
    )
    report.write(results, options.out, date=datetime.now(UTC).date().isoformat())
    for goal in report.goals(results):
        print(f"{goal.verdict:12}  {report.figure(goal.measured):>8}  {goal.text}")
    print(f"{options.out}: written in {time.monotonic() - begun:.0f} s; next: read it")
    return 0


def chosen(names: str, *, quick: bool) -> list[peers.Peer]:
    """The peers of an option: ``all``, ``none`` or names with commas.

    Raises
    ------
    SystemExit
        A name that is no peer's.
    """
    if names == "none" or (quick and names == "all"):
        return []
    if names == "all":
        return list(peers.PEERS)
    unknown = [name for name in names.split(",") if name not in peers.BY_NAME]
    if unknown:
        raise SystemExit(f"--peers: no {unknown[0]}; known are {', '.join(peers.BY_NAME)}")
    return [peers.BY_NAME[name] for name in names.split(",")]


def pipeline() -> Path:
    """The newest bundle's scikit-learn pipeline of the panel that takes all 13 inputs.

    Raises
    ------
    SystemExit
        Nothing was trained yet.
    """
    current = ROOT / "models" / "current"
    if not current.is_file():
        raise SystemExit("models/current: no model to serve; train one: make train")
    digest = current.read_text().strip()
    return ROOT / "models" / "bundles" / digest / "imaging" / "pipeline.joblib"


def _stopped(*_: object) -> None:
    """Leave through every ``finally``, so that no server outlives the run."""
    raise SystemExit("stopped")


def _parsed(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure the service beside the web server's limit and its peers."
    )
    parser.add_argument("--quick", action="store_true", help="short, without peers")
    parser.add_argument(
        "--peers", default="all", help=f"all, none, or of {', '.join(peers.BY_NAME)} (all)"
    )
    parser.add_argument(
        "--paths",
        default=",".join(measure.PATHS),
        help=f"doors for one patient ({','.join(measure.PATHS)})",
    )
    parser.add_argument("--out", type=Path, default=OUT, help="page to write; the plot beside it")
    return parser.parse_args(words)


if __name__ == "__main__":
    raise SystemExit(main())
