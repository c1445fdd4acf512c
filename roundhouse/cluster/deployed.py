"""An engine of the house that is an application of Serve: the same life, told by the same table (engines/lifecycle)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from roundhouse.cluster.fleet import Fleet, Status
from roundhouse.config import TargetSettings
from roundhouse.core.errors import Died, LaunchFailed, NotHealthy
from roundhouse.engines.launch import Spawn
from roundhouse.engines.lifecycle import Engine, Lodging, Running
from roundhouse.engines.process import Ready

__all__ = ["Deployed", "DeployedEngine", "Watch"]

log = logging.getLogger(__name__)
_LOOK_S = 0.2
_IDLY_S = 1.0


class Watch:
    """What Serve says of all applications, asked once for all who want to know."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._asking: asyncio.Task[Mapping[str, Status]] | None = None
        self._at = -math.inf
        self.last: Mapping[str, Status] = {}

    async def look(self, old_s: float = 0.0) -> Mapping[str, Status]:
        """As of now, or what was the answer at most `old_s` ago. The last answer where Serve's controller does not give
        any: it is being restarted, and the applications live on.
        """
        if time.monotonic() - self._at < old_s:
            return self.last
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(self._fleet.status), name="look at the applications")
        with contextlib.suppress(RayError, RayServeException):
            self.last = await asyncio.shield(self._asking)
            self._at = time.monotonic()
        return self.last


class Deployed:
    """One application that is up. `withdrawn` is awaited before it is taken down: nobody uses it after that. If it
    gives False, the application has become that of another engine, which goes on with it.
    """

    def __init__(
        self, target: str, name: str, fleet: Fleet, watch: Watch, withdrawn: Callable[[], Awaitable[bool]]
    ) -> None:
        self._target = target
        self._name = name
        self._fleet = fleet
        self._watch = watch
        self._withdrawn = withdrawn
        self._stopping = False
        self._deleted = asyncio.Event()
        self.exited: asyncio.Task[int] = asyncio.create_task(self._gone(), name=f"end of {name}")

    @property
    def pid(self) -> int | None:
        """Its processes are on other machines."""
        return None

    @property
    def log_tail(self) -> tuple[str, ...]:
        return ()

    def death(self) -> Died | None:
        if not self.exited.done() or self._stopping:
            return None
        return Died(f'target "{self._target}": its application {self._name} was taken down', target=self._target)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Serve lets its replicas finish what they have, however long that takes."""
        if not self.exited.done():
            self._stopping = True
            if await self._withdrawn():
                await asyncio.to_thread(self._fleet.delete, self._name)
            self._deleted.set()
        await self.exited

    async def _gone(self) -> int:
        """Serve tells of no end, so it is asked now and then."""
        while not self._deleted.is_set() and self._name in await self._watch.look(_IDLY_S):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._deleted.wait(), _IDLY_S)
        return 0


class DeployedEngine(Engine):
    """`entry` as an application called `name`. `up` is told once it serves, `withdrawn` awaited before it goes."""

    def __init__(
        self,
        entry: TargetSettings,
        name: str,
        fleet: Fleet,
        watch: Watch,
        *,
        load_limit_s: float,
        up: Callable[[], None],
        withdrawn: Callable[[], Awaitable[bool]],
    ) -> None:
        super().__init__(entry.name, _nowhere, load_limit_s=load_limit_s)
        self._entry = entry
        self.application = name
        self._fleet = fleet
        self._looks = watch
        self._limit_s = load_limit_s
        self._up = up
        self._withdrawn = withdrawn

    async def _launch(self, lodging: Lodging) -> tuple[Running, Ready]:
        """What was there before is left alone if it cannot be looked at: it may well serve."""
        fresh = False
        try:
            async with asyncio.timeout(self._limit_s):
                fresh = await asyncio.to_thread(self._fleet.deploy, self._entry)
                await self._running()
        except TimeoutError:
            said = await self._said()
            if fresh:
                await self._undo()
            raise NotHealthy(
                f'target "{self.target}" was not ready in the cluster after {self._limit_s:g} s, the load limit{said}',
                target=self.target,
                limit_s=self._limit_s,
            ) from None
        except BaseException:
            if fresh:
                await asyncio.shield(self._undo())
            raise
        self._up()
        deployed = Deployed(self.target, self.application, self._fleet, self._looks, self._withdrawn)
        return deployed, Ready(f"ray://{self.application}")

    async def _running(self) -> None:
        while True:
            status = (await self._looks.look()).get(self.application)
            if status is not None and status.running:
                return
            if status is not None and status.failed:
                raise LaunchFailed(
                    f'target "{self.target}" could not be started in the cluster: {_reason(status.message)}',
                    target=self.target,
                    log_tail=tuple(status.message.splitlines()),
                )
            await asyncio.sleep(_LOOK_S)

    async def _said(self) -> str:
        status = (await self._looks.look()).get(self.application)
        return f"; Serve says: {_reason(status.message)}" if status is not None and status.message else ""

    async def _undo(self) -> None:
        with contextlib.suppress(RayError, RayServeException):
            await asyncio.to_thread(self._fleet.delete, self.application)


def _reason(message: str) -> str:
    """The line that names the exception, out of Serve's words with their traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line or line.startswith("roundhouse.")]
    return named[-1] if named else lines[-1] if lines else "no reason was given"


@asynccontextmanager
async def _nowhere() -> AsyncIterator[Spawn]:
    raise NotImplementedError("nothing is spawned here: the cluster starts it")
    yield
