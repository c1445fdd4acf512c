"""`GET /metrics`: for Prometheus to scrape."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from roundhouse.gateway import Gateway
from roundhouse.telemetry.prometheus import CONTENT_TYPE

__all__ = ["Metrics"]


class Metrics:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Response(self._gateway.metrics(), media_type=CONTENT_TYPE)(scope, receive, send)
