"""What is done without being asked for: crashed engines are started again, hung ones ended, replicas added and taken
away.

It belongs to the manager, which owns what it acts on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from roundhouse.core.errors import Error
from roundhouse.engines.lifecycle import Engine, EngineState
from roundhouse.resources.hardware import processor_seconds
from roundhouse.routing.admission import Admission
from roundhouse.routing.replica import Replica
from roundhouse.routing.room import Room
from roundhouse.routing.scaling import Scaler, ScalingPolicy
from roundhouse.routing.target import Target
from roundhouse.telemetry.events import OK, EngineDied, LoadEnded, Tell

__all__ = ["Upkeep"]

log = logging.getLogger(__name__)
_TICK_S = 0.25
# An engine that used less than this share of one core for so long, while requests waited on it, does nothing at all.
_IDLE_SHARE = 0.02
_LOOK_S = 1.0
# One that computes but gave nobody a token for so long, with request after request timing out, will give none.
_FRUITLESS_S = 300.0


class Upkeep:
    """Lives on the manager's event loop. `start` once there is a loop."""

    def __init__(
        self,
        admission: Admission,
        room: Room,
        clock: Callable[[], float],
        scaling: ScalingPolicy | None = None,
        told: Tell = lambda event: None,
    ) -> None:
        self._admission = admission
        self._room = room
        self._clock = clock
        self._told = told
        self._began: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()
        self._scaling = scaling or ScalingPolicy()
        self._scalers: dict[str, Scaler] = {}
        self._known: WeakSet[Engine] = WeakSet()
        self._growing: set[str] = set()
        self._looked_at: set[str] = set()
        self._in_vain: WeakKeyDictionary[Replica, tuple[int | None, float]] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.Task[None] | None = None

    def watch(self, target: Target) -> None:
        """Restart its engines when they crash, and scale it if it may have more than one."""
        for replica in target.replicas:
            if replica.engine not in self._known:
                self._known.add(replica.engine)
                replica.engine.listen(self._engine_changed)
                if replica.engine.managed:
                    replica.engine.listen(partial(self._tell, target.name))
        if target.wanted and len(target.replicas) > target.wanted:
            self._scalers[target.name] = Scaler(target.wanted, len(target.replicas), self._scaling)

    def _tell(self, target: str, engine: Engine, old: EngineState, new: EngineState) -> None:
        """What became of a start, and of an engine that was ready."""
        now = self._clock()
        failure = engine.failure.code if engine.failure is not None else ""
        if new is EngineState.STARTING:
            self._began[engine] = now
        elif old is EngineState.STARTING and new in (EngineState.READY, EngineState.FAILED):
            seconds = now - self._began.pop(engine, now)
            self._told(LoadEnded(target, OK if new is EngineState.READY else failure, seconds))
        elif new is EngineState.FAILED:
            self._told(EngineDied(target, failure))

    def forget(self, target: Target) -> None:
        self._scalers.pop(target.name, None)

    def begin(self) -> None:
        """Start to scale, if there is anything to scale; safe to call again."""
        if self._scalers and self._ticking is None:
            self._ticking = asyncio.create_task(self._tick(), name="scaling")

    def run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Have `work` done in the background; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(_logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step, it was never awaited

    def suspect(self, replica: Replica, limit_s: float) -> None:
        """A request timed out there. If nobody got a token for as long, and its process does nothing, it is ended; one
        that computes has longer.
        """
        if not replica.engine.managed or replica.key in self._looked_at:
            return
        pid, since = self._in_vain.get(replica, (None, 0.0))
        if pid != replica.engine.pid or replica.gave_at > since:
            self._in_vain[replica] = replica.engine.pid, replica.moved_at
        if self._clock() - replica.moved_at >= 0.9 * limit_s:
            self._looked_at.add(replica.key)
            self.run(self._examine(replica, limit_s), f"is {replica.key} hung")

    async def aclose(self) -> None:
        tasks = [*self._tasks, *([self._ticking] if self._ticking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _engine_changed(self, engine: Engine, old: EngineState, new: EngineState) -> None:
        """An engine that crashed while it served is started again, without waiting for someone to ask for it."""
        if old is EngineState.READY and new is EngineState.FAILED:
            self.run(engine.restart(), f"restart of {engine.target}")
        if new is EngineState.READY and self._admission.waiting:
            asyncio.get_running_loop().call_soon(self._admission.dispatch)

    async def _examine(self, replica: Replica, limit_s: float) -> None:
        try:
            pid = replica.engine.pid
            before = await asyncio.to_thread(processor_seconds, pid) if pid is not None else None
            await asyncio.sleep(_LOOK_S)
            after = await asyncio.to_thread(processor_seconds, pid) if pid is not None else None
            if before is None or after is None or replica.engine.pid != pid:
                return
            now, (_, since) = self._clock(), self._in_vain[replica]
            said = ""
            if after - before <= _IDLE_SHARE * _LOOK_S and now - replica.moved_at >= limit_s:
                said = f"gave no token for {limit_s:g} s and did nothing"
            elif replica.gave_at <= since and now - since >= _FRUITLESS_S:
                said = f"gave nobody a token for {now - since:.0f} s, though it computed"
            if said:
                log.error("%s %s: it is ended", replica.key, said)
                await replica.engine.give_up(f"{said}: it hung, and was ended")
        finally:
            self._looked_at.discard(replica.key)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for name, scaler in list(self._scalers.items()):
                self._scale(self._admission.targets[name], scaler)

    def _scale(self, target: Target, scaler: Scaler) -> None:
        active = target.active
        if target.name in self._growing or not any(replica.warm for replica in active):
            return
        wanted = scaler.decide(
            self._clock(),
            running=len(active),
            slots=sum(replica.slots for replica in active),
            asked=sum(replica.busy for replica in active) + self._admission.waiting_for(target.name),
        )
        if wanted > len(active):
            self._growing.add(target.name)
            self.run(self._grow(target, scaler), f"one more of {target.name}")
        elif wanted < len(active):
            target.wanted = wanted
            self.run(self._retire(target.replicas[wanted]), f"one less of {target.name}")

    async def _grow(self, target: Target, scaler: Scaler) -> None:
        """Start one more, if nobody has to leave for it, and send requests there once it is ready."""
        replica = target.replicas[target.wanted]
        try:
            if not await self._room.has_room_for(replica.key):
                log.info("%s could use one more replica, but there is no memory for it", target.name)
                scaler.refused(self._clock())
                return
            replica.engine.stands_back = True
            await replica.client()
        except Error:
            scaler.refused(self._clock())
            raise
        finally:
            replica.engine.stands_back = False
            self._growing.discard(target.name)
        target.wanted += 1
        self._admission.dispatch()

    async def _retire(self, replica: Replica) -> None:
        await replica.drained()
        await replica.engine.stop()


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except Error as error:
        log.error("%s: %s", name, error)
