"""The metrics of several processes as one exposition: every series says which process it is of.

So each of them grows as its process counts, and ends with it: what Prometheus takes a restarted process for. A sum over
processes that come and go would fall with each that goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["Family", "exposition_of", "families_of"]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric of one process, as it travels."""

    name: str
    about: str
    kind: str
    samples: list[Sample]


def families_of(registry: CollectorRegistry) -> list[Family]:
    return [
        Family(one.name, one.documentation, one.type, [Sample(s.name, dict(s.labels), s.value) for s in one.samples])
        for one in registry.collect()
    ]


def exposition_of(parts: Mapping[str, Sequence[Family]], label: str) -> bytes:
    """Prometheus' text format; `label` of each series is the key of the part that it comes from."""
    registry = CollectorRegistry()
    registry.register(_Merged(parts, label))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, parts: Mapping[str, Sequence[Family]], label: str) -> None:
        self._parts = parts
        self._label = label

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Each name once, with the series of all parts."""
        merged: dict[str, Metric] = {}
        for part, families in self._parts.items():
            for family in families:
                known = merged.get(family.name)
                if known is None:
                    known = merged[family.name] = Metric(family.name, family.about, family.kind)
                for sample in family.samples:
                    known.add_sample(sample.name, {**sample.labels, self._label: part}, sample.value)
        yield from merged.values()
