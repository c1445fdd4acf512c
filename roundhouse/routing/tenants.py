"""The book of a machine's memory: what each model was promised, what it was seen to hold, and what is left."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roundhouse.core.model import DeviceFacts
from roundhouse.resources.learned import Learned
from roundhouse.resources.placement import Option, Resident, room_in
from roundhouse.routing.replica import Replica
from roundhouse.routing.way import Way

__all__ = ["Tenant", "Tenants"]


@dataclass(slots=True)
class Tenant:
    """A model that has memory. `held` is what it was promised, `taken` the most it was seen to hold."""

    key: str
    way: Way
    held: Mapping[str, int]
    since: float
    ready_at: float | None = None
    taken: dict[str, int] = field(default_factory=dict)
    now_taken: dict[str, int] = field(default_factory=dict)
    read_bytes: int = 0

    @property
    def counted(self) -> dict[str, int]:
        """By place, what it was promised or what it holds, whichever is more; a backend that plans for itself too."""
        places = self.held.keys() | self.now_taken.keys()
        return {name: max(self.held.get(name, 0), self.now_taken.get(name, 0)) for name in places}

    @property
    def loaded(self) -> float:
        """The share of its load that is done, as far as its process shows; 1 = ready."""
        if self.ready_at is not None:
            return 1.0
        expected = self.way.estimate.resident if self.way.estimate is not None else sum(self.held.values())
        return min(0.99, round(self.read_bytes / expected, 3)) if expected else 0.0


class Tenants(Mapping[str, Tenant]):
    """By the key of their replica. What is promised counts from then on; what a load took is kept for the next plan."""

    def __init__(self, learned: Learned) -> None:
        self.learned = learned
        self._all: dict[str, Tenant] = {}

    def __getitem__(self, key: str) -> Tenant:
        return self._all[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def option(self, way: Way, devices: Sequence[DeviceFacts]) -> Option:
        """What `way` takes, with what such a load took before, and without places that this machine does not have."""
        known = {one.place for one in devices}
        needs = self.learned.raised(way.key, way.option.needs) if way.key else dict(way.option.needs)
        return Option({name: size for name, size in needs.items() if name in known}, way.option.compromise)

    def promise(self, key: str, way: Way, needs: Mapping[str, int], now: float) -> None:
        """Have it count, in bytes by place, before it is taken."""
        self._all[key] = Tenant(key, way, needs, now)

    def saw(self, key: str, taken: Mapping[str, int], read_bytes: int) -> None:
        """What its process holds now, in bytes by place, and how much of its files it has read."""
        tenant = self._all[key]
        tenant.now_taken, tenant.read_bytes = dict(taken), read_bytes
        tenant.taken = {name: max(size, tenant.taken.get(name, 0)) for name, size in taken.items()}

    def leave(self, key: str) -> bool:
        """Its memory is free again; False if it had none."""
        tenant = self._all.pop(key, None)
        if tenant is None:
            return False
        if tenant.ready_at is not None and tenant.taken and tenant.way.key:
            self.learned.record(tenant.way.key, tenant.way.option.needs, tenant.taken)
        return True

    def residents(self, replicas: Mapping[str, Replica], kept: Collection[str], now: float) -> list[Resident]:
        """As a decision looks at them. `kept`: those who must stay besides the pinned ones."""
        return [
            Resident(
                key,
                tenant.counted,
                busy=replicas[key].busy > 0 or tenant.ready_at is None,
                kept=replicas[key].pin or key in kept,
                rate=replicas[key].popularity.rate(now),
                reload_s=max(0.1, (tenant.ready_at or now) - tenant.since),
                resident_s=now - (tenant.ready_at or now),
            )
            for key, tenant in self._all.items()
        ]

    def left(
        self, devices: Sequence[DeviceFacts], fraction: float, cap_bytes: int | None, without: Collection[str] = ()
    ) -> dict[str, int]:
        """Bytes by place that may still be promised, once `without` have left."""
        free = {one.place: one.free_bytes for one in devices}
        held: dict[str, int] = {}
        ours: dict[str, int] = {}
        for key, tenant in self._all.items():
            for name, size in tenant.now_taken.items():
                ours[name] = ours.get(name, 0) + size
            if key not in without:
                for name, size in tenant.counted.items():
                    held[name] = held.get(name, 0) + size
        return room_in(free, ours, held, fraction=fraction, cap=cap_bytes)

    def told(self) -> dict[str, dict[str, Any]]:
        """Each in plain values, in bytes."""
        return {
            key: {
                "promised_bytes": dict(one.held),
                "taken_bytes": dict(one.now_taken),
                "most_taken_bytes": dict(one.taken),
                "note": one.way.note,
                "read_bytes": one.read_bytes,
                "loaded": one.loaded,
            }
            for key, one in self._all.items()
        }
