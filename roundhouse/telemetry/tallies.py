"""Counters and histograms of what every request adds to, for `/metrics`.

Those of prometheus-client take a lock for each number and look for a bucket one by one: for the twelve numbers of a
request some ten microseconds. Here a count is an attribute of an object that is looked up once, and the library's own
families tell them when somebody asks. For one thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from roundhouse.telemetry.gaps import Gaps

__all__ = ["Bucketed", "Buckets", "Counted", "Tally"]


class Tally:
    """What was counted under one set of labels."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Buckets:
    """How many values fell below each of `bounds`, which are inclusive, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, gaps: Gaps) -> None:
        """Add what an answer has counted by the same bounds."""
        self.counts = [one + more for one, more in zip(self.counts, gaps.counts, strict=True)]
        self.total += gaps.total_s


class Counted(Collector):
    """A counter by labels."""

    def __init__(self, name: str, about: str, labels: Sequence[str]) -> None:
        self._name, self._about, self._labels = name, about, labels
        self._tallies: dict[tuple[str, ...], Tally] = {}

    def of(self, *labels: str) -> Tally:
        """Where these are counted; told as 0 from now on."""
        return self._tallies.setdefault(labels, Tally())

    def describe(self) -> Iterable[Metric]:
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for labels, tally in self._tallies.items():
            family.add_metric(labels, tally.count)
        yield family

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self._name, self._about, labels=self._labels)


class Bucketed(Collector):
    """A histogram by labels; `bounds` are those of its buckets, without the last, which has none."""

    def __init__(self, name: str, about: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._about, self._labels = name, about, labels
        self._bounds = bounds
        self._told = (*(str(float(bound)) for bound in bounds), "+Inf")
        self._buckets: dict[tuple[str, ...], Buckets] = {}

    def of(self, *labels: str) -> Buckets:
        """Where values of these are counted; told as empty from now on."""
        return self._buckets.setdefault(labels, Buckets(self._bounds))

    def describe(self) -> Iterable[Metric]:
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for labels, buckets in self._buckets.items():
            family.add_metric(labels, list(zip(self._told, accumulate(buckets.counts), strict=True)), buckets.total)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._about, labels=self._labels)
