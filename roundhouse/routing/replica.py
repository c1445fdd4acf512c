"""One engine of a target as the manager holds it: its slots, its client, its standing, what it is good for.

An engine that was idle for its `ttl_s` is stopped; the next request starts it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from roundhouse.core.errors import EngineError
from roundhouse.engines.lifecycle import Engine, EngineState
from roundhouse.engines.process import Ready
from roundhouse.providers.base import LLMProvider
from roundhouse.resources.placement import Popularity
from roundhouse.routing.breaker import BreakerPolicy
from roundhouse.routing.contact import Contact
from roundhouse.routing.standing import Standing
from roundhouse.routing.way import Plan

__all__ = ["Replica", "TellsContact"]

log = logging.getLogger(__name__)
_REMEMBERED_PREFIXES = 256
_SMOOTHING = 0.2
# How soon a request that waits for a leaving engine looks again, should nobody tell it.
_LEAVING_S = 1.0


@runtime_checkable
class TellsContact(Protocol):
    """What `connect` may be besides: one that tells how another process would do the same."""

    def contact(self, ready: Ready) -> Contact: ...


class Replica:
    """`connect` builds a client of a ready engine; a restarted engine answers elsewhere and so gets a new client.

    `target`: whose replica it is, if not its only one. `pin`: it is never unloaded. `plan`: how it could be run here,
    None = it is not ours to run. `notes`: what was given up so that it fits the memory. `gave_at`: when the last piece
    of an answer came from it; `moved_at`: the same, or when an attempt began.
    """

    def __init__(
        self,
        key: str,
        engine: Engine,
        connect: Callable[[Ready], LLMProvider],
        slots: int,
        policy: BreakerPolicy | None = None,
        *,
        ttl_s: float | None = None,
        pin: bool = False,
        plan: Plan | None = None,
        target: str = "",
    ) -> None:
        self.key = key
        self.target = target or key
        self.engine = engine
        self.slots = slots
        self.busy = 0
        self.standing = Standing(policy)
        self.ttl_s = ttl_s if engine.managed and not pin else None
        self.pin = pin
        self.plan = plan
        self.moved_at = 0.0
        self.gave_at = 0.0
        self.leaving = ""
        self.notes: tuple[str, ...] = ()
        self.popularity = Popularity()
        self.speed = 0.0
        self.service_s = 1.0
        self._connect = connect
        self._prefixes: OrderedDict[int, None] = OrderedDict()
        self._closed = False
        self._unloading: asyncio.TimerHandle | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._client: LLMProvider | None = None
        self._ready: Ready | None = None

    @property
    def free(self) -> int:
        return self.slots - self.busy

    @property
    def warm(self) -> bool:
        """Whether a request would be answered without a start first."""
        return not self.engine.managed or self.engine.state is EngineState.READY

    def objection(self, now: float) -> str:
        """Why no request should go there now; empty = none. `leaving` is such a reason, set by whoever waits for it."""
        return self.leaving or self.standing.objection(now)

    def routable_in_s(self, now: float) -> float:
        """Seconds until that may have changed."""
        return _LEAVING_S if self.leaving else self.standing.routable_in_s(now)

    def passes(self, now: float) -> bool:
        """Whether it is worth waiting for."""
        return bool(self.leaving) or self.standing.passes(now)

    def take(self, now: float) -> None:
        """A request has one of its slots now."""
        if not self.busy:
            self.moved_at = now
        self.busy += 1
        self._idle.clear()
        self.popularity.used(now)
        if self._unloading is not None:
            self._unloading.cancel()
            self._unloading = None

    def give_back(self) -> None:
        """The request has ended; after the last one, and `ttl_s` without another, the engine gives its memory back."""
        self.busy -= 1
        if self.busy:
            return
        self._idle.set()
        if self.ttl_s is not None and not self._closed:
            self._unloading = asyncio.get_running_loop().call_later(self.ttl_s, self._unload)

    async def drained(self, limit_s: float | None = None) -> bool:
        """Wait until none of its slots is taken; False if that took longer than `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                while self.busy:
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _unload(self) -> None:
        self._unloading = None
        if not self.busy and self.engine.state is EngineState.READY:
            log.info("%s was idle for %g s and is unloaded", self.key, self.ttl_s)
            self._stopping = self.engine.stop()

    def holds(self, prefix: int) -> bool:
        return prefix in self._prefixes

    def served(self, prefix: int, tokens_per_s: float, served_s: float) -> None:
        """Learn from an answer: its beginning is in the cache now, and this is how fast it was."""
        self._prefixes[prefix] = None
        self._prefixes.move_to_end(prefix)
        if len(self._prefixes) > _REMEMBERED_PREFIXES:
            self._prefixes.popitem(last=False)
        if tokens_per_s > 0:
            self.speed += (tokens_per_s - self.speed) * (_SMOOTHING if self.speed else 1.0)
        self.service_s += (served_s - self.service_s) * _SMOOTHING

    @property
    def ready_client(self) -> LLMProvider | None:
        """The client, if there is nothing to wait for: the usual case, which should cost nothing."""
        return self._client if self._client is not None and self.engine.ready is self._ready else None

    @property
    def contact(self) -> Contact | None:
        """How another process would reach the ready engine; None = only this one can."""
        if self._ready is None or not isinstance(self._connect, TellsContact):
            return None
        return self._connect.contact(self._ready)

    async def client(self) -> LLMProvider:
        """The client of a ready engine; starts the engine if need be, and raises `EngineError` if that fails."""
        if self._closed:
            raise EngineError(f"{self.key} is closed", target=self.key)
        ready = await self.engine.ensure_ready()
        if self._client is None or ready is not self._ready:
            stale, self._client, self._ready = self._client, self._connect(ready), ready
            self._prefixes.clear()
            if stale is not None:
                await stale.aclose()
        return self._client

    async def aclose(self) -> None:
        """Close the client, then stop the engine. A request that still comes is refused, not a reason to start it."""
        self._closed = True
        if self._unloading is not None:
            self._unloading.cancel()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        await self.engine.stop()
