"""One engine of a target as the manager holds it: its slots, its client, its standing, what it is good for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from roundhouse.core.errors import EngineError
from roundhouse.engines.lifecycle import Engine, EngineState
from roundhouse.engines.process import Ready
from roundhouse.providers.base import LLMProvider
from roundhouse.routing.breaker import BreakerPolicy
from roundhouse.routing.standing import Standing

__all__ = ["Replica"]

_REMEMBERED_PREFIXES = 256
_SMOOTHING = 0.2


class Replica:
    """`connect` builds a client of a ready engine; a restarted engine answers elsewhere and so gets a new client."""

    def __init__(
        self,
        key: str,
        engine: Engine,
        connect: Callable[[Ready], LLMProvider],
        slots: int,
        policy: BreakerPolicy | None = None,
    ) -> None:
        self.key = key
        self.engine = engine
        self.slots = slots
        self.busy = 0
        self.standing = Standing(policy)
        self.speed = 0.0
        self.service_s = 1.0
        self._connect = connect
        self._prefixes: OrderedDict[int, None] = OrderedDict()
        self._closed = False
        self._client: LLMProvider | None = None
        self._ready: Ready | None = None

    @property
    def free(self) -> int:
        return self.slots - self.busy

    @property
    def warm(self) -> bool:
        """Whether a request would be answered without a start first."""
        return not self.engine.managed or self.engine.state is EngineState.READY

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
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        await asyncio.shield(self.engine.stop())
