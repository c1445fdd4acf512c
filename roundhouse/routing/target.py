"""One target as the manager holds it: its engine, its slots, and the client of the engine's present endpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roundhouse.core.chat import Sampling
from roundhouse.core.errors import EngineError
from roundhouse.engines.lifecycle import Engine
from roundhouse.engines.process import Ready
from roundhouse.providers.base import LLMProvider
from roundhouse.routing.slots import Slots

__all__ = ["Target", "TokenLimits"]


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Seconds. `first_token` counts from the moment the engine is ready, `between_tokens` from content to content."""

    first_token_s: float = 30.0
    between_tokens_s: float = 15.0


class Target:
    """`connect` builds a client of a ready engine; a restarted engine answers elsewhere and so gets a new client."""

    def __init__(
        self,
        name: str,
        model: str,
        engine: Engine,
        connect: Callable[[Ready], LLMProvider],
        slots: Slots,
        sampling: Sampling,
        limits: TokenLimits,
    ) -> None:
        self.name = name
        self.model = model
        self.engine = engine
        self.slots = slots
        self.sampling = sampling
        self.limits = limits
        self._connect = connect
        self._closed = False
        self._client: LLMProvider | None = None
        self._ready: Ready | None = None

    async def client(self) -> LLMProvider:
        """The client of a ready engine; starts the engine if need be, and raises `EngineError` if that fails."""
        if self._closed:
            raise EngineError(f'target "{self.name}" is closed', target=self.name)
        ready = await self.engine.ensure_ready()
        if self._client is None or ready is not self._ready:
            stale, self._client, self._ready = self._client, self._connect(ready), ready
            if stale is not None:
                await stale.aclose()
        return self._client

    async def aclose(self) -> None:
        """Close the client, then stop the engine. A request that still comes is refused, not a reason to start it."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        await self.engine.stop()
