"""What one replica of a target asks of a node, from the memory plan of its model. Pure but for the model's header."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roundhouse.config import Settings, TargetSettings
from roundhouse.core.errors import NoFit
from roundhouse.core.model import DeviceFacts
from roundhouse.gateway.plan import slots_of
from roundhouse.gateway.ways import ways_of
from roundhouse.resources.cluster import CORES, Demand, NodeFacts, assign
from roundhouse.resources.placement import Option
from roundhouse.routing.scaling import ScalingPolicy
from roundhouse.routing.way import Way

__all__ = ["Scale", "Share", "fit", "scale_of", "share_of"]

_HUNDREDTH = 0.01
_MILLI = 1000
_ZERO_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class Share:
    """Ray keeps account by it and places by it. `gpus` below 1 is a part of one GPU, by its memory; above, whole ones.
    `note`: what is given up so that it fits anywhere.
    """

    cpus: float
    gpus: float = 0.0
    memory_bytes: int = 0
    note: str = ""

    def options(self) -> dict[str, float]:
        """As Ray's `ray_actor_options`."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory_bytes}


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas: `least` to `most`, so that each has `load` requests, by the house's own rule of scaling."""

    least: int
    most: int
    load: float
    up_s: float
    down_s: float
    to_zero_s: float


def scale_of(entry: TargetSettings, policy: ScalingPolicy | None = None) -> Scale:
    """`replicas.min: 0` leaves none running after `ttl` without a request; the next request starts one."""
    policy = policy or ScalingPolicy()
    most = max(1, entry.replicas.min, entry.replicas.max)
    to_zero_s = entry.ttl_s if entry.ttl_s is not None else _ZERO_AFTER_S
    least = 1 if entry.pin and not entry.replicas.min else entry.replicas.min
    return Scale(least, most, policy.full * slots_of(entry), policy.up_s, policy.down_s, to_zero_s)


def share_of(entry: TargetSettings, settings: Settings, nodes: Sequence[Sequence[DeviceFacts]]) -> Share:
    """By the best way to run it on any of `nodes`, each told by its devices with their whole size.

    Processors: `n_threads` if it is set, else 1; an engine uses whatever of the node is idle, as on one machine.
    Raises `NoFit` where no node could hold it even if nothing else ran there, and what reading its header raises.
    """
    found: list[tuple[bool, int, Way, Mapping[str, DeviceFacts]]] = []
    short = 0
    for devices in nodes:
        places: Mapping[str, DeviceFacts] = {one.place: one for one in devices}
        for rank, way in enumerate(ways_of(entry, settings, devices, elsewhere=True)):
            if all(_holds(places.get(place), needed, settings) for place, needed in way.option.needs.items()):
                found.append((way.option.compromise, rank, way, places))
                break
            short = max(short, *way.option.needs.values())
    if not found:
        raise NoFit(
            f'target "{entry.name}" fits on no node of the cluster; `roundhouse plan {entry.name}` says what it takes',
            needed_bytes=short,
            target=entry.name,
        )
    _, _, way, places = min(found, key=lambda one: (one[0], not _on_gpus(one[2]), one[1]))
    gpus = _gpus(_on_gpus(way), places, settings)
    threads = float(entry.options.get("n_threads") or 1)
    return Share(threads, gpus, way.option.needs.get("cpu", 0), way.note)


def _on_gpus(way: Way) -> dict[str, int]:
    return {place: needed for place, needed in way.option.needs.items() if place != "cpu"}


def fit(nodes: Sequence[Mapping[str, float]], wanted: Sequence[tuple[str, Share, int]]) -> bool:
    """Whether so many replicas of each share have room at once, on nodes of these resources as Ray counts them."""
    places = [NodeFacts(str(number), str(number), _room(resources)) for number, resources in enumerate(nodes)]
    demands = [
        Demand(name, count, {one.kind: [Option(_needs(share))] for one in places}) for name, share, count in wanted
    ]
    return not assign(places, demands).missing


def _room(resources: Mapping[str, float]) -> dict[str, int]:
    return {
        CORES: int(_MILLI * resources.get("CPU", 0)),
        "gpu": int(_MILLI * resources.get("GPU", 0)),
        "cpu": int(resources.get("memory", 0)),
    }


def _needs(share: Share) -> dict[str, int]:
    return {CORES: int(_MILLI * share.cpus), "gpu": int(_MILLI * share.gpus), "cpu": share.memory_bytes}


def _holds(device: DeviceFacts | None, needed: int, settings: Settings) -> bool:
    """Ray's account of a node's memory has its own reserve already; of a GPU the configured share is for models."""
    if device is None:
        return False
    share = 1.0 if device.kind == "cpu" else settings.resources.memory_fraction
    return needed <= device.total_bytes * share


def _gpus(needs: Mapping[str, int], places: Mapping[str, DeviceFacts], settings: Settings) -> float:
    """None, several whole ones, or the part of one that its memory is; never less than Ray counts."""
    if len(needs) != 1:
        return float(len(needs))
    ((place, needed),) = needs.items()
    part = needed / (places[place].total_bytes * settings.resources.memory_fraction)
    return min(1.0, math.ceil(part / _HUNDREDTH) * _HUNDREDTH)
