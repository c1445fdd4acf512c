"""What is put under load: a route of this house, or anybody's URL; and what the demo's questions are asked with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from roundhouse.bench.driver import Ask, Asked
from roundhouse.bench.happenings import Happenings
from roundhouse.core.chat import ChatRequest
from roundhouse.gateway import Gateway
from roundhouse.providers.base import AsyncProvider, Endpoint
from roundhouse.providers.registry import create

__all__ = ["of_gateway", "of_url"]


@asynccontextmanager
async def of_gateway(gateway: Gateway, happenings: Happenings | None = None) -> AsyncIterator[Ask]:
    """A route or target, by the request's `model`, in this very process; `happenings` are told what it does."""
    async with gateway:
        if happenings is not None:
            gateway.listen(happenings.note)

        def ask(request: ChatRequest) -> Asked:
            reply = gateway.stream(request)
            return Asked(reply.chunks, lambda: reply.report.target)

        yield ask


@asynccontextmanager
async def of_url(
    url: str, kind: str, model: str, key: str = "", happenings: Happenings | None = None
) -> AsyncIterator[Ask]:
    """A server: `kind` is a provider's name, such as openai or ollama. Raises `ValueError` for an unknown one.

    `happenings` watch it meanwhile, if it is one of ours.
    """
    client = create(kind, Endpoint("bench", url, model, key))
    try:
        async with nullcontext() if happenings is None else happenings.watching(url, key):
            yield lambda request: Asked(client.astream(request))
    finally:
        if isinstance(client, AsyncProvider):
            await client.aclose()
