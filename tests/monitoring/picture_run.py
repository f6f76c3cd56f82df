"""The README's picture of the service dashboard: `python tests/monitoring/picture_run.py`.

Two real services and a real Prometheus on loopback for seven minutes. The load goes up and down;
in turns a caller sends another data set's codes, the model is changed in one service and then in
the other, a caller sends large tables, one asks more often than it may, a model is refused, and
predictions are stopped and go on. Then tools/dashboard_picture.py draws what Prometheus has.
Needs two trained bundles and Prometheus, which `make picture` sees to.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2

sys.path.append(str(Path(__file__).resolve().parents[1]))
import dashboard_kit as kit

MINUTES = 7.0
SCRAPE = 5.0
THREADS = 4
NIGHTLY_ROWS = 8_000
RATE_LIMIT = 32
SETTLE = 25.0
"""Seconds before the time that is drawn: a rate needs samples behind it."""


@dataclass(frozen=True)
class Episode:
    """Something that happens between two seconds of the run."""

    begins: float
    ends: float

    def now(self, second: float) -> bool:
        return self.begins <= second < self.ends


KAGGLE = Episode(75, 125)
NIGHTLY = Episode(205, 245)
GREEDY = Episode(258, 285)
STOPPED = Episode(345, 357)
SWAPS = (165.0, 185.0)
TAMPERED = 305.0


def main() -> int:
    """Serve, ask, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=kit.picture.PICTURE)
    parser.add_argument("--keep", type=Path, help="write the samples as JSON, to draw them again")
    arguments = parser.parse_args()
    document = json.loads(kit.picture.DASHBOARD.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as running:
        folder = Path(scratch)
        stores = {f"heart-api-{n}:8000": _store(folder / f"models-{n}") for n in range(2)}
        ports = {name: kit.free_port() for name in stores}
        urls = [
            running.enter_context(
                kit.served(
                    store, ports[name], folder / f"{ports[name]}.log",
                    poll_seconds=1, rate_limit=RATE_LIMIT, rate_burst=2 * RATE_LIMIT,
                )
            )
            for name, store in stores.items()
        ]  # fmt: skip
        targets = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        prometheus = running.enter_context(kit.Prometheus(folder, targets, SCRAPE))
        begun = time.time()
        _run(urls, list(stores.values()))
        found = kit.picture.asked(
            document, prometheus.url, start=begun + SETTLE, end=time.time(), scrape=SCRAPE
        )
        if arguments.keep:
            kept = {"start": found.start, "end": found.end, "answers": found.answers}
            arguments.keep.write_text(json.dumps(kept))
    arguments.out.write_bytes(kit.picture.png(kit.picture.drawn(document, found)))
    print(f"{arguments.out}: {arguments.out.stat().st_size // 1000} kB", file=sys.stderr)
    return 0


def _store(folder: Path) -> Path:
    """A models folder with the repository's bundles, the current one among them."""
    folder.mkdir()
    shutil.copytree(kit.ROOT / "models" / "bundles", folder / "bundles")
    shutil.copy(kit.ROOT / "models" / "current", folder / "current")
    return folder


def _run(urls: list[str], stores: list[Path]) -> None:
    begun = time.monotonic()
    ended = threading.Event()
    threads = [
        threading.Thread(target=_ask, args=(urls, begun, number, ended))
        for number in range(THREADS)
    ]
    threads += [threading.Thread(target=_nightly, args=(url, begun, ended)) for url in 2 * urls]
    for thread in threads:
        thread.start()
    for at, act in _acts(stores):
        time.sleep(max(0.0, begun + at - time.monotonic()))
        act()
    time.sleep(max(0.0, begun + 60 * MINUTES - time.monotonic()))
    ended.set()
    for thread in threads:
        thread.join()


def _acts(stores: list[Path]) -> list[tuple[float, Callable[[], object]]]:
    first, second = stores
    before = (first / "current").read_text().strip()
    others = [p.name for p in sorted((first / "bundles").iterdir()) if p.name != before]
    if not others:
        raise SystemExit("picture_run: only one bundle in models/; train another: make train")
    after = others[0]

    def name(store: Path, digest: str) -> None:
        (store / "current").write_text(digest + "\n")

    def tamper() -> None:
        broken = first / "bundles" / ("0" * 64)
        shutil.copytree(first / "bundles" / before, broken)
        name(first, broken.name)

    def each(act: Callable[[Path], object]) -> Callable[[], object]:
        return lambda: [act(store) for store in stores]

    return sorted(
        [
            (SWAPS[0], lambda: name(first, after)),
            (SWAPS[1], lambda: name(second, after)),
            (TAMPERED, tamper),
            (TAMPERED + 8, lambda: name(first, after)),
            (STOPPED.begins, each(lambda store: (store / "stopped").touch())),
            (STOPPED.ends, each(lambda store: (store / "stopped").unlink())),
        ],
        key=lambda act: act[0],
    )


def _ask(urls: list[str], begun: float, number: int, ended: threading.Event) -> None:
    draw = random.Random(number)
    clients = itertools.cycle([httpx2.Client(base_url=url, timeout=30) for url in urls])
    for client in clients:
        second = time.monotonic() - begun
        if ended.is_set():
            return
        _one(client, draw, second)
        time.sleep(draw.expovariate(_rate(second) / THREADS))


def _nightly(url: str, begun: float, ended: threading.Event) -> None:
    """A caller with large tables, one after the other."""
    body = kit.ndjson([kit.patient(random.Random(7))] * NIGHTLY_ROWS)
    ended.wait(begun + NIGHTLY.begins - time.monotonic())
    with httpx2.Client(base_url=url, timeout=60) as client:
        while not ended.is_set() and NIGHTLY.now(time.monotonic() - begun):
            _batch(client, body)
            time.sleep(0.02)


def _batch(client: httpx2.Client, body: str) -> None:
    client.post("/v1/predict/batch", content=body, headers={"content-type": kit.NDJSON})


def _rate(second: float) -> float:
    """Requests per second of all threads: two waves over the run, and much more in a burst."""
    if GREEDY.now(second):
        return 120.0
    return 32.0 + 18.0 * math.sin(2 * math.pi * second / 200.0 - 1.2)


def _one(client: httpx2.Client, draw: random.Random, second: float) -> None:
    panel = draw.choices(("bedside", "exercise", "imaging"), (3, 5, 2))[0]
    one = kit.patient(draw, panel)
    if KAGGLE.now(second) and draw.random() < 0.45:
        client.post("/predict", json={**one, "cp": 0})
        return
    chosen = draw.random()
    if chosen < 0.62:
        client.post("/predict", json=one)
    elif chosen < 0.80:
        client.post("/v1/predict", json=one)
    elif chosen < 0.88:
        client.post("/invocations", json={"dataframe_records": [one]})
    elif chosen < 0.93:
        client.post(f"/v2/models/{kit.MODEL_NAME}/infer", json=kit.grid(kit.patient(draw)))
    elif chosen < 0.97:
        client.get("/health")
    else:
        _batch(client, kit.ndjson([one] * int(10 ** draw.uniform(1, 3.3))))


if __name__ == "__main__":
    sys.exit(main())
