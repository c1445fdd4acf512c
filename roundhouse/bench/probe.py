"""One rate of a search: driven until it is over or cannot keep the SLOs any more, and what was busy meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import psutil

from roundhouse.bench.arrivals import OpenLoop, pick, plan
from roundhouse.bench.binding import Load, Occupied, loads
from roundhouse.bench.driver import Ask, planned, quiet, send
from roundhouse.bench.records import Record, latency
from roundhouse.bench.run import Setup
from roundhouse.bench.sampling import Sampler
from roundhouse.bench.search import Search, Trial
from roundhouse.bench.statistics import effective_size
from roundhouse.bench.summary import lateness
from roundhouse.resources.hardware import cpu, usable_threads

__all__ = ["Probe", "probe"]

_LOOK_S = 0.1
Slots = Callable[[], Occupied | None]


@dataclass(frozen=True, slots=True)
class Probe:
    """A trial, and how loaded everything was in the middle of it."""

    trial: Trial
    load: Load


async def probe(ask: Ask, setup: Setup, load: OpenLoop, search: Search, slots: Slots, number: int) -> Probe:
    """Drive `load`. `number` tells trials of one rate apart, so that each has arrivals of its own.

    It is stopped as soon as more requests have missed than may: the verdict can then not change any more.
    """
    seed = setup.seed + number
    due = plan(replace(load, seed=seed))
    records = planned(pick(range(len(setup.requests)), len(due), seed), due)
    allowed = int((1 - search.attainment) * len(records))
    occupied: list[Occupied] = []
    with quiet(), Sampler(setup.hertz) as sampler:
        begun = sampler.begun
        driving = asyncio.ensure_future(send(ask, setup.requests, records, begun, limit_s=setup.limit_s))
        stopped = False
        try:
            while not driving.done():
                await asyncio.wait((driving,), timeout=_LOOK_S)
                if (busy := slots()) is not None:
                    occupied.append(busy)
                outcomes = judged(records, setup.slos, time.monotonic() - begun)
                if not driving.done() and outcomes.count(False) > allowed:
                    stopped = True
                    break
        finally:
            driving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await driving
        ended = time.monotonic() - begun
    outcomes = judged(records, setup.slos, ended)
    trial = Trial(
        rate=load.rate,
        judged=len(outcomes),
        kept=outcomes.count(True),
        effective=effective_size([float(one) for one in outcomes]),
        stopped=stopped,
        degraded=lateness([record for record in records if record.sent]),
    )
    cores, ours, memory_bytes = psutil.cpu_count() or 1, usable_threads(), cpu().total_bytes
    return Probe(trial, loads(sampler.samples, occupied, cores=cores, ours=ours, memory_bytes=memory_bytes))


def judged(records: Sequence[Record], slos: Mapping[str, float], now: float) -> list[bool]:
    """For each request of which it is known at `now` whether it keeps all of `slos`; in the order of sending.

    Whoever waits longer than its limit has missed, though nobody knows yet by how much.
    """
    found = (_judged(record, slos, now) for record in records if record.sent)
    return [one for one in found if one is not None]


def _judged(record: Record, slos: Mapping[str, float], now: float) -> bool | None:
    if record.error:
        return False
    if record.end and not record.cut:
        values = [(latency(record, name), most) for name, most in slos.items()]
        return all(value <= most for value, most in values if value is not None)
    for name, most in slos.items():
        begun = record.scheduled if name.endswith("_sched") else record.sent
        pending = record.first is None if name.startswith("ttft") else name.startswith("e2e")
        if pending and now - begun > most:
            return False
    return None
