"""The life of one engine: a table of states, and the owner that carries out what they ask."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import TypeAlias

from roundhouse.core.errors import EngineError, Error, LaunchFailed
from roundhouse.core.machine import Machine
from roundhouse.engines.launch import Attach, Spawn
from roundhouse.engines.process import Child, Ready

__all__ = ["ENGINE", "Engine", "EngineInput", "EngineState"]


log = logging.getLogger(__name__)


class EngineState(Enum):
    COLD = auto()
    STARTING = auto()
    READY = auto()
    STOPPING = auto()
    FAILED = auto()


class EngineInput(Enum):
    START = auto()
    HEALTHY = auto()
    REFUSED = auto()
    EXITED = auto()
    STOP = auto()


_S, _I = EngineState, EngineInput
ENGINE: Machine[EngineState, EngineInput] = Machine(
    _S.COLD,
    {
        (_S.COLD, _I.START): _S.STARTING,
        (_S.STARTING, _I.HEALTHY): _S.READY,
        (_S.STARTING, _I.REFUSED): _S.FAILED,
        (_S.STARTING, _I.STOP): _S.STOPPING,
        (_S.READY, _I.EXITED): _S.FAILED,
        (_S.READY, _I.STOP): _S.STOPPING,
        (_S.STOPPING, _I.EXITED): _S.COLD,
        (_S.FAILED, _I.START): _S.STARTING,
        (_S.FAILED, _I.STOP): _S.STOPPING,
        (_S.COLD, _I.STOP): _S.STOPPING,
    },
)

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MOST_S = 30.0
_STABLE_S = 60.0
_RESTARTS = 5


Listener: TypeAlias = "Callable[[Engine, EngineState, EngineState], None]"


class Engine:
    """One backend of one target, started on demand, owned by one event loop.

    `ensure_ready` is the only way to it: whoever asks while it starts joins the same start, and a start outlives those
    who asked. An engine that keeps failing is started again only after a pause of 0.5 s that doubles up to 30 s; asked
    before that, it fails at once with the reason it failed for. Listeners are called at each change of state.
    `plan` is asked at every start, for what is to be started can change; what it raises is why the start failed.
    Engines that share `turn` start one after the other.
    """

    def __init__(
        self,
        target: str,
        plan: Attach | Callable[[], Spawn],
        *,
        load_limit_s: float = 300.0,
        turn: asyncio.Lock | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.state = ENGINE.initial
        self.failure: Error | None = None
        self.started_at = 0.0
        self._plan = plan
        self._load_limit_s = load_limit_s
        self._turn = turn
        self._clock = clock
        self._listeners: list[Listener] = []
        self._child: Child | None = None
        self._ready: Ready | None = None
        self._starting: asyncio.Task[Ready] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before = 0.0

    @property
    def managed(self) -> bool:
        """Whether it is a process of ours."""
        return not isinstance(self._plan, Attach)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def death(self) -> Error | None:
        """Why its process is gone, also in the moment before the state has caught up with it."""
        return self.failure or (self._child.death() if self._child else None)

    @property
    def ready(self) -> Ready | None:
        """Where it answers, if it does right now."""
        return self._ready if self._ready is not None and self.death is None else None

    async def ensure_ready(self) -> Ready:
        """Where it answers, started if need be. Raises the error that kept it from starting."""
        if (ready := self.ready) is not None:
            return ready
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
        if self._starting is None:
            if self.failure is not None and self._clock() < self._not_before:
                raise self.failure
            self._starting = asyncio.create_task(self._start(), name=f"start of {self.target}")
        starting = self._starting
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if starting.cancelled() and task is not None and not task.cancelling():
                raise EngineError(
                    f'the engine of target "{self.target}" was stopped while it started', target=self.target
                ) from None
            raise

    def listen(self, listener: Listener) -> None:
        """Have `listener(engine, old, new)` called at each change of state."""
        self._listeners.append(listener)

    async def restart(self) -> None:
        """Bring it back after a crash, pausing as its failures ask. Raises the last reason when it fails too often."""
        for tries_left in range(_RESTARTS, 0, -1):
            await asyncio.sleep(max(0.0, self._not_before - self._clock()))
            if self.failure is None:  # it runs again, or was stopped on purpose
                return
            try:
                await self.ensure_ready()
            except Error:
                if tries_left == 1:
                    raise

    async def stop(self) -> None:
        """End it and wait until it is gone; it can be started again."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop of {self.target}")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self._move(EngineInput.STOP)
        tasks = [task for task in (self._starting, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        child, self._child, self._ready, self._starting, self.failure = self._child, None, None, None, None
        if child is not None:
            await child.stop()
        self._stopping = None
        self._move(EngineInput.EXITED)

    async def _start(self) -> Ready:
        if isinstance(self._plan, Attach):
            self._move(EngineInput.START)
            return self._settle(Ready(self._plan.url, self._plan.key))
        if self._watching is not None:  # a crash that nobody has seen yet
            await asyncio.wait((self._watching,))
        self._move(EngineInput.START)
        self.failure, self.started_at = None, self._clock()
        try:
            async with self._turn or contextlib.nullcontext():
                spawn = await asyncio.to_thread(self._plan)
                self._child, ready = await Child.start(self.target, spawn, self._load_limit_s)
        except Exception as error:
            self._starting = None
            failure = self._as_ours(error)
            self._fail(failure, EngineInput.REFUSED)
            if failure is error:
                raise
            raise failure from error
        self._watching = asyncio.create_task(self._watch(self._child), name=f"watch of {self.target}")
        return self._settle(ready)

    def _as_ours(self, error: Exception) -> Error:
        """What keeps an engine from starting is told as an error of the house, whoever raised it."""
        if isinstance(error, Error):
            return error
        log.error("starting %s", self.target, exc_info=error)
        said = f'target "{self.target}" could not be started: {type(error).__name__}: {error}'
        return LaunchFailed(said, target=self.target)

    def _settle(self, ready: Ready) -> Ready:
        self._ready, self._starting = ready, None
        self._move(EngineInput.HEALTHY)
        return ready

    async def _watch(self, child: Child) -> None:
        """Notice a crash at once."""
        began = self._clock()
        await asyncio.wait((child.exited,))
        await child.stop(grace_s=0)  # reap what it may have left
        if self._clock() - began > _STABLE_S:
            self._failures = 0
        self._watching = None
        if (death := child.death()) is not None:
            self._fail(death, EngineInput.EXITED)

    def _fail(self, error: Error, given: EngineInput) -> None:
        self._ready, self.failure = None, error
        pause_s = min(_BACKOFF_MOST_S, _BACKOFF_FIRST_S * 2 ** (self._failures - 1)) if self._failures else 0.0
        self._failures += 1
        self._not_before = self._clock() + pause_s
        self._move(given)

    def _move(self, given: EngineInput) -> None:
        old, self.state = self.state, ENGINE.next(self.state, given)
        for listener in self._listeners:
            listener(self, old, self.state)
