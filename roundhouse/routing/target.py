"""One target as the manager holds it: its engine, its slots, and the client of the engine's present endpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.core.errors import EngineError, Error
from roundhouse.engines.lifecycle import Engine
from roundhouse.engines.process import Ready
from roundhouse.prompts.families import DEFAULT, FAMILIES, Family, fit_roles, recognise
from roundhouse.providers.base import DescribesModel, LLMProvider
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
        family: str = "",
    ) -> None:
        self.name = name
        self.model = model
        self.engine = engine
        self.slots = slots
        self.sampling = sampling
        self.limits = limits
        self._family = next((known for known in FAMILIES if known.name == family), None)
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

    async def fitted(self, request: ChatRequest, client: LLMProvider) -> ChatRequest:
        """As this target's model wants it: unset sampling by its family, turns as its template takes them."""
        if self._family is None:
            self._family = await _family_of(self.model, client)
        if self._family is DEFAULT:
            return request
        able = client.capabilities.sampling
        wanted = {name: getattr(self._family.sampling, name) for name in Sampling.__slots__ if name in able}
        return replace(
            request,
            sampling=request.sampling.over(Sampling(**wanted)),
            messages=fit_roles(request.messages, self._family),
        )

    async def aclose(self) -> None:
        """Close the client, then stop the engine. A request that still comes is refused, not a reason to start it."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        await self.engine.stop()


async def _family_of(model: str, client: LLMProvider) -> Family:
    """By the model's own word where the backend passes it on, else by its name."""
    if not isinstance(client, DescribesModel):
        return recognise(model)
    try:
        told = await client.adescribe()
    except Error:  # the request that follows will say what is wrong
        return recognise(model)
    return recognise(told.name or model, told.architecture, told.chat_template)
