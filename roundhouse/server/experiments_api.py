"""`/admin/experiments`: how they stand, their intervals over time, and their beginning and end."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.gateway import Gateway
from roundhouse.server.exchange import send_json

__all__ = ["Course", "Experiments", "StartAsked", "Steering", "StopAsked"]

_LONGEST_REASON = 1_000


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


class StartAsked(msgspec.Struct, forbid_unknown_fields=True):
    experiment: str


class StopAsked(msgspec.Struct, forbid_unknown_fields=True):
    """`promote`: the arm that everybody gets from now on; empty = what was asked for."""

    experiment: str
    promote: str = ""
    reason: str = "by hand"


class Steering:
    """What each order does: the body it takes in, status and answer out."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def start(self, asked: StartAsked) -> tuple[int, Any]:
        run = await self._gateway.begin_experiment(asked.experiment)
        return 200, {"name": run.name, "state": run.state.value, "weights": run.weights}

    async def stop(self, asked: StopAsked) -> tuple[int, Any]:
        reason = asked.reason[:_LONGEST_REASON]
        run = await self._gateway.end_experiment(asked.experiment, asked.promote, reason)
        return 200, {"name": run.name, "state": run.state.value, "winner": run.winner}
