"""`/admin/*`: what an operator asks."""

from __future__ import annotations

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.core.errors import InvalidRequest
from roundhouse.gateway import Gateway
from roundhouse.server.errors import body_of
from roundhouse.server.exchange import send_bytes

__all__ = ["Decisions", "State"]


class State:
    """`GET /admin/state`: every replica, what it does and how it stands, and the queue."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_bytes(send, msgspec.json.encode(self._gateway.state()))


class Decisions:
    """`GET /admin/decisions/{request_id}`: who was considered for a request, why not, and what was tried."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope["path_params"]["request_id"].removeprefix("chatcmpl-")
        report = self._gateway.decisions(request_id)
        if report is None:
            error = InvalidRequest("there is no such request among those that are remembered")
            await send_bytes(send, msgspec.json.encode(body_of(error)), 404)
            return
        said = msgspec.to_builtins(report)
        for choice in said["choices"]:
            choice["objections"] = [{"replica": key, "why": why} for key, why in choice["objections"]]
        await send_bytes(send, msgspec.json.encode(said))
