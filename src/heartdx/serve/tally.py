"""Counts of the hot path: numbers in one row, added without a lock, read at a scrape.

prometheus_client's counters cost more than a whole prediction. One worker writes its row from
one thread; a scrape adds the rows of all workers to the families of prometheus_client. Alone,
the row is a list; with sister workers it is a file mapped into memory, which outlives its
worker, so a worker that is killed loses no count.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

Row = MutableSequence[float]
Labels = tuple[tuple[str, str], ...]

_FILES = "tally_*.row"
_WIDTH = 8  # bytes of a float64


@dataclass(frozen=True)
class Series:
    """One number: a sample of a metric.

    Parameters
    ----------
    metric : the family it belongs to.
    name : the sample's name (family, or family with ``_sum`` and the like).
    labels : label names and values.
    """

    metric: str
    name: str
    labels: Labels


@dataclass(frozen=True)
class Histogram:
    """Where a histogram's numbers are: one place for each bound and above, then the sum.

    Parameters
    ----------
    bounds : upper bounds, ascending, without infinity.
    first : place of the first bucket.
    """

    bounds: tuple[float, ...]
    first: int

    @property
    def sum_at(self) -> int:
        """Place of the sum."""
        return self.first + len(self.bounds) + 1


class Layout:
    """The places of all series; the same in every worker of a release."""

    def __init__(self) -> None:
        self.size = 0
        self._counters: list[tuple[int, Series, bool]] = []
        self._histograms: list[tuple[Histogram, str, Labels, bool]] = []

    def counter(self, metric: str, labels: Mapping[str, str], *, shown: bool = True) -> int:
        """A counter's place; ``shown`` says whether it is exposed while it is zero."""
        place, self.size = self.size, self.size + 1
        series = Series(metric.removesuffix("_total"), metric, tuple(labels.items()))
        self._counters.append((place, series, shown))
        return place

    def histogram(
        self, metric: str, bounds: Sequence[float], labels: Mapping[str, str], *, shown: bool = True
    ) -> Histogram:
        """A histogram's places; ``shown`` says whether it is exposed while it is empty."""
        made = Histogram(tuple(bounds), self.size)
        self.size = made.sum_at + 1
        self._histograms.append((made, metric, tuple(labels.items()), shown))
        return made

    def samples(self, row: Sequence[float]) -> Iterator[tuple[Series, float]]:
        """What a row says, as Prometheus samples."""
        for place, series, shown in self._counters:
            if shown or row[place]:
                yield series, row[place]
        for histogram, metric, labels, shown in self._histograms:
            counts = row[histogram.first : histogram.sum_at]
            if not (shown or any(counts)):
                continue
            reached = 0.0
            for count, bound in zip(counts, (*histogram.bounds, math.inf), strict=True):
                reached += count
                le = (("le", floatToGoString(bound)),)
                yield Series(metric, metric + "_bucket", (*labels, *le)), reached
            yield Series(metric, metric + "_sum", labels), row[histogram.sum_at]
            yield Series(metric, metric + "_count", labels), reached


def row(layout: Layout, folder: Path | None) -> Row:
    """The row of numbers of this worker, added to as ``row[place] += 1``.

    Parameters
    ----------
    folder : where the workers of one parent count together; None for a single process.
    """
    if folder is None:
        return [0.0] * layout.size
    path = folder / _FILES.replace("*", str(os.getpid()))
    with path.open("a+b") as file:  # a pid that comes again goes on counting
        file.truncate(layout.size * _WIDTH)
        mapped = memoryview(mmap.mmap(file.fileno(), layout.size * _WIDTH)).cast("d")
    return cast("Row", mapped)


def total(layout: Layout, mine: Row, folder: Path | None) -> list[float]:
    """The sum of all workers' rows."""
    if folder is None:
        return list(mine)
    summed = [0.0] * layout.size
    for path in folder.glob(_FILES):
        content = path.read_bytes()
        if len(content) == layout.size * _WIDTH:  # else a worker is just making it: all zero
            summed = [a + b for a, b in zip(summed, memoryview(content).cast("d"), strict=True)]
    return summed


class Merged(Collector):
    """prometheus_client's families with the tally's counts in them.

    Parameters
    ----------
    source : where prometheus_client's families come from.
    counted : samples of the tally.
    about : name of a family to its text and type, for a family that only the tally has.
    """

    def __init__(
        self,
        source: Collector,
        counted: Iterable[tuple[Series, float]],
        about: Callable[[str], tuple[str, str]],
    ):
        self._source = source
        self._about = about
        self._counted: dict[str, dict[tuple[str, frozenset], tuple[Series, float]]] = {}
        for series, value in counted:
            key = (series.name, frozenset(series.labels))
            self._counted.setdefault(series.metric, {})[key] = (series, value)

    def collect(self) -> Iterator[Metric]:
        """The families, one after the other."""
        left = dict(self._counted)
        for family in self._source.collect():
            yield _added(family, left.pop(family.name, {}))
        for name, mine in left.items():
            text, kind = self._about(name)
            yield _added(Metric(name, text, kind), mine)


def _added(family: Metric, mine: dict[tuple[str, frozenset], tuple[Series, float]]) -> Metric:
    left = dict(mine)
    samples = []
    for sample in family.samples:
        _, value = left.pop((sample.name, frozenset(sample.labels.items())), (None, 0.0))
        samples.append(Sample(sample.name, sample.labels, sample.value + value))
    samples += [Sample(s.name, dict(s.labels), value) for s, value in left.values()]
    family.samples = samples
    return family
