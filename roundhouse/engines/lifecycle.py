"""The life of one engine: a table of states, and the owner that carries out what they ask."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum, auto
from typing import Protocol, TypeAlias

from roundhouse.core.errors import Died, EngineError, Error, LaunchFailed
from roundhouse.core.machine import Machine
from roundhouse.engines.launch import Attach, Spawn
from roundhouse.engines.process import Child, Ready
from roundhouse.engines.spares import Spares

__all__ = ["ENGINE", "Engine", "EngineInput", "EngineState", "Lodging", "Running"]


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
# Entered before a start, for what is to be spawned; left when it is ready or has failed.
Lodging: TypeAlias = Callable[[], AbstractAsyncContextManager[Spawn]]


class Running(Protocol):
    """What a start gives: a process here (`Child`), or what stands for some elsewhere. `exited` completes when it is
    gone.
    """

    exited: asyncio.Task[int]

    @property
    def pid(self) -> int | None: ...

    @property
    def log_tail(self) -> tuple[str, ...]: ...

    def death(self) -> Died | None: ...

    async def stop(self, grace_s: float = 5.0) -> None: ...


class Engine:
    """One backend of one target, started on demand, owned by one event loop.

    `ensure_ready` is the only way to it: whoever asks while it starts joins the same start, and a start outlives those
    who asked. An engine that keeps failing is started again only after a pause of 0.5 s that doubles up to 30 s; asked
    before that, it fails at once with the reason it failed for. Listeners are called at each change of state.
    `lodging` is entered at every start, for what is to be started can change and has to find room; what it raises is
    why the start failed.
    `stands_back`: while it starts it gives way to engines that are busy, for nobody waits for it.
    Engines that share `turn` start one after the other. A worker is taken from `spares` if there is one.
    """

    def __init__(
        self,
        target: str,
        lodging: Attach | Lodging,
        *,
        load_limit_s: float = 300.0,
        turn: asyncio.Lock | None = None,
        spares: Spares | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.state = ENGINE.initial
        self.failure: Error | None = None
        self.stands_back = False
        self._lodging = lodging
        self._load_limit_s = load_limit_s
        self._turn = turn
        self._spares = spares or Spares()
        self._clock = clock
        self._listeners: list[Listener] = []
        self._child: Running | None = None
        self._ready: Ready | None = None
        self._starting: asyncio.Task[Ready] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._verdict: Error | None = None

    @property
    def managed(self) -> bool:
        """Whether it is a process of ours."""
        return not isinstance(self._lodging, Attach)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def death(self) -> Error | None:
        """Why its process is gone, also in the moment before the state has caught up with it."""
        return self.failure or self._verdict or (self._child.death() if self._child else None)

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

    async def give_up(self, why: str) -> None:
        """End a process that does not answer any more; it counts as crashed, for the reason `why`."""
        child = self._child
        if child is not None and self.state is EngineState.READY:
            self._verdict = Died(
                f'the engine of target "{self.target}" {why}', target=self.target, log_tail=child.log_tail
            )
            await child.stop(grace_s=0)

    def stop(self) -> asyncio.Future[None]:
        """End it; awaited, until it is gone. It can be started again. From the call on nobody gets to it any more:
        a coroutine would begin a turn of the loop later, and a request that comes in that turn would meet its end.
        """
        if self._stopping is None:
            self._ready = None
            self._move(EngineInput.STOP)
            for task in (self._starting, self._watching):
                if task is not None:
                    task.cancel()  # now, lest one of them moves on before the stopping has begun
            self._stopping = asyncio.create_task(self._stop(), name=f"stop of {self.target}")
        return asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        tasks = [task for task in (self._starting, self._watching) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        child, self._child, self._ready, self._starting, self.failure = self._child, None, None, None, None
        if child is not None:
            await child.stop()
        self._stopping = None
        self._move(EngineInput.EXITED)

    async def _start(self) -> Ready:
        if isinstance(self._lodging, Attach):
            self._move(EngineInput.START)
            return self._settle(Ready(self._lodging.url, self._lodging.key))
        if self._watching is not None:  # a crash that nobody has seen yet
            await asyncio.wait((self._watching,))
        self._move(EngineInput.START)
        self.failure = None
        try:
            self._child, ready = await self._launch(self._lodging)
        except Exception as error:
            self._starting = None
            failure = self._as_ours(error)
            self._fail(failure, EngineInput.REFUSED)
            if failure is error:
                raise
            raise failure from error
        self._watching = asyncio.create_task(self._watch(self._child), name=f"watch of {self.target}")
        return self._settle(ready)

    async def _launch(self, lodging: Lodging) -> tuple[Running, Ready]:
        """Start it and wait until it answers. A cancelled or failed start leaves nothing behind."""
        async with self._turn or contextlib.nullcontext(), lodging() as spawn:
            spare = await self._spares.take(spawn)
            return await Child.start(self.target, spawn, self._load_limit_s, spare, standing_back=self.stands_back)

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

    async def _watch(self, child: Running) -> None:
        """Notice a crash at once."""
        began = self._clock()
        await asyncio.wait((child.exited,))
        await child.stop(grace_s=0)  # reap what it may have left
        if self._clock() - began > _STABLE_S:
            self._failures = 0
        self._watching = None
        verdict, self._verdict = self._verdict, None
        if (death := verdict or child.death()) is not None:
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
            try:
                listener(self, old, self.state)
            except Exception:  # an engine half stopped, because somebody who looks on failed, would never stop
                log.exception("a listener of the engine of %s failed", self.target)
