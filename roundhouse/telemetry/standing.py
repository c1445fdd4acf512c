"""The house as it stands at a scrape: engines, slots, breakers, memory, devices. Read then, so that nothing is counted
between scrapes and what is gone is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["Standing"]

_ENGINES = ("cold", "starting", "ready", "stopping", "failed", "attached")
_BREAKERS = ("closed", "open", "half_open")
_REPLICA = ("target", "replica")


class Standing(Collector):
    """`look` gives what `Manager.state` gives. States are one series each, of which one is 1."""

    def __init__(self, look: Callable[[], Mapping[str, Any]]) -> None:
        self._look = look

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise look before there is anything to see."""
        return ()

    def collect(self) -> Iterator[Metric]:
        state = self._look()
        yield _gauge("active_requests", "Requests that run or wait", (), [((), state["active"])])
        yield _gauge("waiting_requests", "Requests that wait for a slot", (), [((), state["waiting"])])
        yield from _replicas(state["replicas"])
        yield from _memory(state["memory"])
        held = [((name,), float(bool(route["held"]))) for name, route in state["routes"].items()]
        yield _gauge("route_held", "1 while a switch holds the requests of a route", ("route",), held)


def _replicas(replicas: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    rows = [((one["target"], one["replica"]), one) for one in replicas]
    yield _gauge("slots", "Requests an engine serves at once", _REPLICA, [(key, one["slots"]) for key, one in rows])
    yield _gauge("slots_busy", "Slots that are taken", _REPLICA, [(key, one["busy"]) for key, one in rows])
    speeds = [(key, one["tokens_per_s"]) for key, one in rows]
    yield _gauge("tokens_per_second", "Of one request at a time, as last measured", _REPLICA, speeds)
    engines = [((*key, state), float(one["engine"] == state)) for key, one in rows for state in _ENGINES]
    yield _gauge("engine_state", "1 for the state that an engine is in", (*_REPLICA, "state"), engines)
    breakers = [((*key, state), float(one["breaker"] == state)) for key, one in rows for state in _BREAKERS]
    yield _gauge("breaker_state", "1 for the state that a breaker is in", (*_REPLICA, "state"), breakers)


def _memory(memory: Mapping[str, Any]) -> Iterator[Metric]:
    models = [
        ((replica, place, kind), float(size))
        for replica, one in memory["models"].items()
        for kind in ("promised", "taken")
        for place, size in one[f"{kind}_bytes"].items()
    ]
    said = "Memory a model was promised, and has taken by the system's account"
    yield _gauge("model_memory_bytes", said, ("replica", "place", "kind"), models)
    devices = memory["devices"]
    sizes = [
        ((one["place"], kind), float(one[f"{kind}_bytes"])) for one in devices for kind in ("total", "free", "room")
    ]
    said = "Memory of a device: all of it, what is free, what may still be given to models"
    yield _gauge("device_memory_bytes", said, ("place", "kind"), sizes)
    used = [((one["place"],), one["utilisation"]) for one in devices if one["utilisation"] is not None]
    yield _gauge("device_utilisation_ratio", "Share of time a device was busy, 0 to 1", ("place",), used)


def _gauge(
    name: str, about: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    found = GaugeMetricFamily(f"roundhouse_{name}", about, labels=labels)
    for values, value in rows:
        found.add_metric(values, value)
    return found
