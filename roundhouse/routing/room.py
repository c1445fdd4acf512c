"""The memory of this machine as its models share it: who has how much, who waits for it, who is sent away for it.

It decides by `resources.placement` over what it holds and carries out what that says. What is promised to a model
counts from the decision on, so that two that start together cannot both be given the same bytes. A model that waits for
busy ones longer than `patience_s` closes them to new requests, so that it cannot starve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from roundhouse.core.errors import NoFit
from roundhouse.core.model import DeviceFacts
from roundhouse.engines.launch import Spawn
from roundhouse.engines.lifecycle import Engine, EngineState
from roundhouse.resources import hardware
from roundhouse.resources.learned import Learned
from roundhouse.resources.memory import no_fit
from roundhouse.resources.placement import Decision, Never, Place, Resident, WaitFor, place
from roundhouse.routing.replica import Replica
from roundhouse.routing.tenants import Tenants
from roundhouse.routing.way import Way
from roundhouse.telemetry.events import Evicted, Tell

__all__ = ["Room", "RoomPolicy"]

log = logging.getLogger(__name__)
# How often what engines hold is looked at; and memory that was given back, as some drivers take their time.
_WATCH_S = 2.0
_LOADING_S = 0.25
_POLL_S = 0.05
_RETURN_S = 5.0
_RETURNED = 0.75


@dataclass(frozen=True, slots=True)
class RoomPolicy:
    """`fraction` of the memory that is nobody else's is for models, on the processor at most `cap_bytes` (None = all).

    A model waits for room for at most `limit_s`.
    """

    fraction: float = 0.8
    cap_bytes: int | None = None
    patience_s: float = 10.0
    limit_s: float = 300.0


@dataclass(slots=True)
class _Waiter:
    key: str
    since: float
    closed: set[str] = field(default_factory=set)


class Room:
    """Touched from one event loop. `devices` and `taken_by` ask the machine, in a thread."""

    def __init__(
        self,
        policy: RoomPolicy | None = None,
        *,
        devices: Callable[[], Sequence[DeviceFacts]] = hardware.devices,
        taken_by: Callable[[int], Mapping[str, int]] = hardware.taken_by,
        learned: Learned | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy or RoomPolicy()
        self.devices: Sequence[DeviceFacts] = ()
        self.tenants = Tenants(learned or Learned())
        self.kept: set[str] = set()
        self.told: Tell = lambda event: None
        self._ask_devices = devices
        self._taken_by = taken_by
        self._clock = clock
        self._replicas: dict[str, Replica] = {}
        self._waiters: list[_Waiter] = []
        self._deciding = asyncio.Lock()
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener()` called when a replica is closed to new requests, or open to them again."""
        self._listeners.append(listener)

    def admit(self, replica: Replica) -> None:
        """Know a replica; safe to call again."""
        if self._replicas.get(replica.key) is replica:
            return
        self._replicas[replica.key] = replica
        replica.engine.listen(self._engine_changed)

    def dismiss(self, replica: Replica) -> None:
        """Forget a replica whose engine was stopped."""
        if self._replicas.get(replica.key) is replica:
            del self._replicas[replica.key]

    @property
    def replicas(self) -> list[Replica]:
        """All that are known: those of every target, and those that leave or are yet to serve."""
        return list(self._replicas.values())

    def changed(self) -> None:
        """A replica has become idle, or something else that a decision looked at is different now."""
        self._changed.set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def lodging(self, key: str) -> AsyncIterator[Spawn]:
        """Memory for the replica `key` while it starts, and how to start it; it keeps the memory if that succeeds.

        Raises `NoFit`, or what its plan raises for files that cannot be read.
        """
        await self._look()
        way = await self._reserve(key, await self._ways(key))
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="what engines hold")
        try:
            yield way.spawn
        except BaseException:
            self._leave(key)
            raise
        tenant = self.tenants[key]
        tenant.ready_at = self._clock()
        if way.note:
            log.warning("%s: %s", key, way.note)

    async def fits(self, keys: Sequence[str], *, without: Collection[str] = ()) -> bool:
        """Whether these replicas could be started now beside all that must stay, once `without` have left.

        Raises what their plans raise.
        """
        await self._look()
        residents = [one for one in self._residents() if one.key not in without]
        room = self._room(without)
        for key in keys:
            if key in self.tenants and key not in without:
                continue
            ways = await self._ways(key)
            decision = place([self.tenants.option(way, self.devices) for way in ways], residents, room)
            if not isinstance(decision, Place):
                return False
            needs = self.tenants.option(ways[decision.option], self.devices).needs
            freed = [one for one in residents if one.key in decision.leave]
            residents = [one for one in residents if one.key not in decision.leave]
            room = {
                name: size - needs.get(name, 0) + sum(one.held.get(name, 0) for one in freed)
                for name, size in room.items()
            }
        return True

    async def has_room_for(self, key: str) -> bool:
        """Whether the replica `key` could be started now with nobody leaving for it."""
        await self._look()
        return self._decide(await self._ways(key)) == Place(0)

    def state(self) -> dict[str, Any]:
        """Devices with the room on each, and what each model was promised and has taken; plain values, in bytes."""
        room = self._room()
        devices = [
            {
                "place": one.place,
                "name": one.name,
                "total_bytes": one.total_bytes,
                "free_bytes": one.free_bytes,
                "room_bytes": room[one.place],
                "utilisation": one.utilisation,
            }
            for one in self.devices
        ]
        return {"devices": devices, "models": self.tenants.told(), "waiting": [one.key for one in self._waiters]}

    async def refresh(self) -> None:
        """Look at the devices, and at what the engines hold."""
        await self._look()
        pids = {
            key: pid
            for key, one in self._replicas.items()
            if key in self.tenants and (pid := one.engine.pid) is not None
        }
        held = await asyncio.to_thread(lambda: {key: self._taken_by(pid) for key, pid in pids.items()})
        read = await asyncio.to_thread(lambda: {key: hardware.resident_bytes(pid) for key, pid in pids.items()})
        for key, taken in held.items():
            if taken and key in self.tenants and self._replicas[key].engine.pid == pids[key]:
                self.tenants.saw(key, taken, read[key])

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def spare_for(self, key: str) -> Spawn | None:
        """What to start an empty worker for the replica `key` by, if there is room for one; else None."""
        way = (await self._ways(key))[0]
        fits = way.estimate is not None and way.estimate.runtime <= self._room().get("cpu", 0)
        return way.spawn if fits else None

    async def _ways(self, key: str) -> Sequence[Way]:
        plan = self._replicas[key].plan
        assert plan is not None, "only engines that we start have a plan"
        return await asyncio.to_thread(plan, self.devices)

    async def _look(self) -> None:
        self.devices = await asyncio.to_thread(self._ask_devices)

    async def _reserve(self, key: str, ways: Sequence[Way]) -> Way:
        """The way that was chosen, its memory promised to `key`; waits for it if need be."""
        waiter = _Waiter(key, self._clock())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self.policy.limit_s):
                while True:
                    decision: Decision = WaitFor(())
                    if not self._goes_after(waiter):
                        async with self._deciding:
                            way, decision = await self._try(waiter, ways)
                        if way is not None:
                            return way
                    await self._wait(waiter, decision)
        except TimeoutError:
            raise no_fit_now(ways[0], self._room(), key, self.policy.limit_s) from None
        finally:
            self._waiters.remove(waiter)
            self._open(waiter)
            self.changed()

    def _goes_after(self, waiter: _Waiter) -> bool:
        """Whether somebody has waited for too long to be overtaken by one who needs less."""
        now = self._clock()
        ahead = self._waiters[: self._waiters.index(waiter)]
        return any(now - one.since > self.policy.patience_s for one in ahead)

    async def _try(self, waiter: _Waiter, ways: Sequence[Way]) -> tuple[Way | None, Decision]:
        """One decision, carried out. Raises `NoFit` if it can never fit."""
        await self._look()
        while True:
            decision = self._decide(ways)
            match decision:
                case Place(option, ()):
                    way = ways[option]
                    self._promise(waiter.key, way)
                    return way, decision
                case Place(_, leave):
                    await self._send_away(leave, waiter.key)
                case WaitFor():
                    return None, decision
                case Never(option):
                    raise _never(ways[option], decision, self._room(), waiter.key)

    def _decide(self, ways: Sequence[Way]) -> Decision:
        return place([self.tenants.option(way, self.devices) for way in ways], self._residents(), self._room())

    def _promise(self, key: str, way: Way) -> None:
        self.tenants.promise(key, way, self.tenants.option(way, self.devices).needs, self._clock())
        replica = self._replicas[key]
        replica.slots = way.spawn.slots
        replica.notes = (way.note,) if way.note else ()

    def _residents(self) -> list[Resident]:
        return self.tenants.residents(self._replicas, self.kept, self._clock())

    def _room(self, without: Collection[str] = ()) -> dict[str, int]:
        return self.tenants.left(self.devices, self.policy.fraction, self.policy.cap_bytes, without)

    async def _send_away(self, keys: Iterable[str], wanted_by: str) -> None:
        """Stop idle engines, and wait until the drivers have what they held.

        The kernel has a process's memory back before it tells of its end, so there is nothing to wait for on the
        processor, where others take and give at the same time.
        """
        leaving = [self.tenants[key] for key in keys]
        for tenant in leaving:
            log.info("%s is unloaded: %s needs its memory", tenant.key, wanted_by)
            self.told(Evicted(self._replicas[tenant.key].target, self._replicas[wanted_by].target))
        before = {one.place: one.free_bytes for one in self.devices}
        await asyncio.gather(*(self._replicas[one.key].engine.stop() for one in leaving))
        expected = {
            name: size + _RETURNED * sum(one.now_taken.get(name, 0) for one in leaving)
            for name, size in before.items()
            if name != "cpu"
        }
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETURN_S):
                while True:
                    await self._look()
                    if all(one.free_bytes >= expected.get(one.place, 0) for one in self.devices):
                        return
                    await asyncio.sleep(_POLL_S)

    async def _wait(self, waiter: _Waiter, decision: Decision) -> None:
        """Until something changes, or somebody's minimum residence or this one's patience is over."""
        assert isinstance(decision, WaitFor)
        patience = self.policy.patience_s - (self._clock() - waiter.since)
        if patience <= 0:
            self._close(waiter, decision.keys)
        waits = [_WATCH_S, *(one for one in (decision.again_in_s, patience) if one is not None and one > 0)]
        changed = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.01, min(waits))):
                await changed.wait()

    def _close(self, waiter: _Waiter, keys: Iterable[str]) -> None:
        """No new requests for those whose memory has been waited for long enough: they finish what they have."""
        for key in keys:
            replica = self._replicas[key]
            if not replica.leaving:
                log.info("%s takes no new requests: %s waits for its memory", key, waiter.key)
                replica.leaving = f"it makes room for {waiter.key}"
                waiter.closed.add(key)

    def _open(self, waiter: _Waiter) -> None:
        for key in waiter.closed:
            if key in self._replicas:
                self._replicas[key].leaving = ""
        if waiter.closed:
            for listener in self._listeners:
                listener()

    def _engine_changed(self, engine: Engine, old: EngineState, new: EngineState) -> None:
        if new in (EngineState.COLD, EngineState.FAILED):
            self._leave(engine.target)

    def _leave(self, key: str) -> None:
        if self.tenants.leave(key):
            self.changed()

    async def _watch(self) -> None:
        while True:
            await self.refresh()
            loading = any(one.ready_at is None for one in self.tenants.values())
            await asyncio.sleep(_LOADING_S if loading else _WATCH_S)


def no_fit_now(way: Way, room: Mapping[str, int], key: str, limit_s: float) -> NoFit:
    needed = sum(way.option.needs.values())
    return NoFit(
        f'target "{key}" waited {limit_s:g} s for {needed >> 20} MiB of memory, and what holds it stayed busy',
        needed_bytes=needed,
        free_bytes=max(0, sum(room.get(name, 0) for name in way.option.needs)),
        target=key,
    )


def _never(way: Way, decision: Never, room: Mapping[str, int], key: str) -> NoFit:
    needed = sum(way.option.needs.get(name, 0) for name in decision.short)
    could = max(0, needed - sum(decision.short.values()))
    if way.estimate is not None:
        return no_fit(way.estimate, could, key, needed)
    places = ", ".join(decision.short)
    return NoFit(
        f'target "{key}" needs {needed >> 20} MiB on {places} and {could >> 20} MiB may be used',
        needed_bytes=needed,
        free_bytes=could,
        target=key,
    )
