"""Which resource keeps a rate from growing: what was full while it failed. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, median
from typing import TypeVar

from roundhouse.bench.sampling import Sample

__all__ = ["Binding", "Load", "Occupied", "Resource", "binding", "loads"]

_Seen = TypeVar("_Seen")

_FULL = 0.9
_SCARCE = 0.95


class Resource(StrEnum):
    COMPUTE = "compute"
    MEMORY = "memory"
    SLOTS = "slots"
    GENERATOR = "generator"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Occupied:
    """Of the slots of engines that run: how many are busy, how many there are; and how many requests wait."""

    busy: int
    slots: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Load:
    """Shares of 1, over the middle of a trial; None = nobody tells. `cores` in use by us and our engines, of all."""

    processor: float | None = None
    cores: float | None = None
    gpu: float | None = None
    memory: float | None = None
    slots: float | None = None
    waiting: float | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """`evidence` in words, with numbers; `advice`: the setting to change."""

    resource: Resource
    evidence: str
    advice: str


def loads(
    samples: Sequence[Sample], occupied: Sequence[Occupied], *, cores: int, ours: float, memory_bytes: int
) -> Load:
    """Means over a trial. The first fifth is left out, for a queue is only growing then.

    `cores` of the machine, `ours`: of which we may use so many; whichever is fuller counts.
    """
    samples, occupied = _grown(samples), _grown(occupied)
    slotted = [one for one in occupied if one.slots]
    gpus = [max(share for share, *_ in sample.gpus) for sample in samples if sample.gpus]
    return Load(
        processor=_fullest(samples, cores, ours) if samples else None,
        cores=fmean(one.own_cores for one in samples) if samples else None,
        gpu=fmean(gpus) if gpus else None,
        memory=max(one.machine_bytes for one in samples) / memory_bytes if samples else None,
        slots=fmean(one.busy / one.slots for one in slotted) if slotted else None,
        waiting=median(one.waiting for one in slotted) if slotted else None,
    )


def _fullest(samples: Sequence[Sample], cores: int, ours: float) -> float:
    return max(fmean(one.machine_cores for one in samples) / cores, fmean(one.own_cores for one in samples) / ours)


def binding(load: Load, degraded: str) -> Binding:
    """Of the first rate that failed. What is scarcest first: more slots do not help where the processor is full,
    and there a generator is late for that reason.
    """
    told = _evidence(load) + (f"; {degraded}" if degraded else "")
    if (load.memory or 0) >= _SCARCE:
        return Binding(Resource.MEMORY, told, "a smaller model, quantisation or context; fewer models at once")
    if (load.gpu or 0) >= _FULL or (load.processor or 0) >= _FULL:
        return Binding(Resource.COMPUTE, told, "a faster device, a smaller or more quantised model, or more replicas")
    if degraded:
        return Binding(Resource.GENERATOR, told, "run the benchmark on another machine, or with a core of its own")
    if (load.slots or 0) >= _FULL:
        return Binding(Resource.SLOTS, told, "more parallel slots of the engine (n_parallel, OLLAMA_NUM_PARALLEL, "
                       "max_num_seqs) or threads; there is processor left")  # fmt: skip
    return Binding(Resource.UNKNOWN, told, "nothing that can be seen from here was full: look at the server itself")


def _evidence(load: Load) -> str:
    said = []
    for name, share in (("processor", load.processor), ("GPU", load.gpu), ("memory", load.memory)):
        said += [f"{name} {share:.0%}"] if share is not None else []
    if load.cores is not None:
        said.append(f"{load.cores:.1f} cores ours")
    if load.slots is not None:
        said.append(f"slots {load.slots:.0%} busy with {load.waiting:g} requests waiting")
    return ", ".join(said) or "nothing was sampled: the trial was too short"


def _grown(values: Sequence[_Seen]) -> Sequence[_Seen]:
    return values[math.ceil(len(values) / 5) :] if len(values) > 1 else values
