"""Counters and histograms of what every request adds to, for `/metrics`.

Those of prometheus-client take a lock for each number and look for a bucket one by one: for the twelve numbers of a
request some ten microseconds. Here a count is an attribute of an object that is looked up once, and the library's own
families tell them when somebody asks. For one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from roundhouse.telemetry.buckets import Buckets

__all__ = ["Bucketed", "Counted", "Tally"]


class Tally:
    """What was counted under one set of labels."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


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
