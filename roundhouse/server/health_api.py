"""`/healthz` and `/readyz`, for whatever starts, watches and balances servers. Neither asks a backend for anything."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from roundhouse.server.context import Context
from roundhouse.server.exchange import send_bytes

__all__ = ["Alive", "Ready"]


class Alive:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_bytes(send, b'{"status":"ok"}')


class Ready:
    """503 while no target at all would take a request: each has failed, or its breaker is open."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replicas = self._context.gateway.state()["replicas"]
        if any(not replica["objection"] for replica in replicas):
            await send_bytes(send, b'{"status":"ready"}')
        else:
            await send_bytes(send, b'{"status":"no target would take a request now"}', 503)
