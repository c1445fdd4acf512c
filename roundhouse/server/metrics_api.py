"""`GET /metrics`: for Prometheus to scrape."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from roundhouse.core.errors import NotAllowed
from roundhouse.gateway import Gateway
from roundhouse.server.context import caller_of
from roundhouse.telemetry.prometheus import CONTENT_TYPE

__all__ = ["Metrics"]


class Metrics:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `NotAllowed` for a key of some routes only: the figures name all of them."""
        caller = caller_of(scope)
        if caller.routes:
            raise NotAllowed(f'the key "{caller.name}" may use some routes only, and the metrics tell of all')
        await Response(await self._gateway.scraped(), media_type=CONTENT_TYPE)(scope, receive, send)
