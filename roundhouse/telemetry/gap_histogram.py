"""The gaps of all answers for `/metrics`.

A histogram of prometheus-client takes its values one at a time, which for an answer of a thousand pieces is a
millisecond when it ends; so that answers bring their counts, and these are exported by a collector of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from roundhouse.telemetry.gaps import BOUNDS, Gaps

__all__ = ["GapHistogram"]

_LABELS = ("route", "target")


class GapHistogram(Collector):
    """The gaps of all answers, by route and target."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], Gaps] = {}

    def of(self, route: str, target: str) -> Gaps:
        """Where the answers of these are summed up."""
        return self._series.setdefault((route, target), Gaps())

    def describe(self) -> Iterable[Metric]:
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        for names, gaps in self._series.items():
            bounds = (*(str(bound) for bound in BOUNDS), "+Inf")
            family.add_metric(names, list(zip(bounds, accumulate(gaps.counts), strict=True)), gaps.total_s)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(
            "roundhouse_time_between_tokens_seconds", "Between a piece of an answer and the next", labels=_LABELS
        )
