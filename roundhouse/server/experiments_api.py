"""`/admin/experiments`: how they stand, and their intervals over time."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from roundhouse.gateway import Gateway
from roundhouse.server.exchange import send_json

__all__ = ["Course", "Experiments"]


class Experiments:
    """`GET /admin/experiments`: every experiment of the configuration and what its data allow to say."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, {"experiments": await self._gateway.experiments()})


class Course:
    """`GET /admin/experiments/{name}`: the interval of each arm against the control, at past times and now."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        await send_json(send, {"name": name, "course": await self._gateway.course(name)})
