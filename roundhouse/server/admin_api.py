"""`/admin/*`: what an operator asks and watches, and what he orders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import parse_qs

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.core.errors import InvalidRequest
from roundhouse.gateway import Gateway
from roundhouse.routing.switch import Order
from roundhouse.routing.target import Check
from roundhouse.server.context import Context
from roundhouse.server.dialect import EVENTS, bare_id, event
from roundhouse.server.errors import Stopping, openai_form
from roundhouse.server.exchange import (
    ClientGone,
    part,
    read_body,
    send_error,
    send_json,
    start_stream,
    until_client_leaves,
)
from roundhouse.server.live import row_of
from roundhouse.server.protocol import ENDLESS

__all__ = [
    "Command",
    "Decision",
    "Decisions",
    "LiveFeed",
    "Nothing",
    "Orders",
    "State",
    "SwitchAsked",
    "SwitchStatus",
    "TargetAsked",
]

_BODY_BYTES = 64 << 10
T = TypeVar("T")
_EVERY_S = 1.0
_LISTED = 200


class State:
    """`GET /admin/state`: replicas, routes, memory, switches, and the queue."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, self._gateway.state())


class Decisions:
    """`GET /admin/decisions`: the last requests, the newest first; with `?troubled=true` those that had trouble, of all
    that are remembered.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        troubled = parse_qs(scope["query_string"]).get(b"troubled") == [b"true"]
        found = await self._gateway.latest(_LISTED, troubled=troubled)
        await send_json(send, {"decisions": [row_of(report) for report in found]})


class Decision:
    """`GET /admin/decisions/{request_id}`: who was considered for a request, why not, and what was tried."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        report = await self._gateway.decided(bare_id(scope["path_params"]["request_id"]))
        if report is None:
            await _not_there(send, "there is no such request among those that are remembered")
            return
        said = msgspec.to_builtins(report)
        for choice in said["choices"]:
            choice["objections"] = [{"replica": key, "why": why} for key, why in choice["objections"]]
        await send_json(send, said)


class LiveFeed:
    """`GET /admin/live`: a server-sent event `snapshot` now and every second, until the client leaves."""

    def __init__(self, context: Context) -> None:
        self._live = context.live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ENDLESS] = True
        await start_stream(send, EVENTS, {})
        try:
            await until_client_leaves(scope, receive, self._feed(send))
        except (ClientGone, Stopping):
            return

    async def _feed(self, send: Send) -> None:
        while True:
            await send(part(event("snapshot", dict(self._live.snapshot()))))
            await asyncio.sleep(_EVERY_S)


class SwitchStatus:
    """`GET /admin/switch/{id}`: how far one of the last switches is."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        switch = await self._gateway.switch_told(scope["path_params"]["id"])
        if switch is None:
            await _not_there(send, "there is no such switch among the last ones")
            return
        await send_json(send, switch)


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """An empty body, or `{}`."""


class TargetAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an order to one target. `limit_s`: how long it may stay busy before it is left alone."""

    target: str
    limit_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class CanaryAsked(msgspec.Struct, forbid_unknown_fields=True):
    percent: Annotated[float, msgspec.Meta(gt=0, lt=100)]
    for_s: Annotated[float, msgspec.Meta(gt=0)]


class CheckAsked(msgspec.Struct, forbid_unknown_fields=True):
    prompt: str = ""
    expect: str = ""


class SwitchAsked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/switch`. `wait`: answer when it is over, not when it has begun."""

    route: str
    target: str
    canary: CanaryAsked | None = None
    check: CheckAsked | None = None
    drain_timeout_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    wait: bool = False

    def order(self) -> Order:
        percent, for_s = (self.canary.percent, self.canary.for_s) if self.canary else (0.0, 0.0)
        check = Check(self.check.prompt or Check().prompt, self.check.expect) if self.check else None
        return Order(percent, for_s, self.drain_timeout_s, check)


class Orders:
    """What each order does: the body it takes in, status and answer out."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def switch(self, asked: SwitchAsked) -> tuple[int, Any]:
        """202 once it has begun; after `wait` 200, or 409 if it was undone."""
        switch = await self._gateway.switched(asked.route, asked.target, asked.order(), wait=asked.wait)
        return (409 if switch["error"] else 200) if switch["over"] else 202, switch

    async def load(self, asked: TargetAsked) -> tuple[int, Any]:
        """200 when its engines are ready."""
        await self._gateway.load(asked.target)
        return 200, {"target": asked.target, "loaded": True}

    async def unload(self, asked: TargetAsked) -> tuple[int, Any]:
        """200 when its engines are gone, 409 if they stayed busy."""
        done = await self._gateway.unload(asked.target, asked.limit_s)
        return 200 if done else 409, {"target": asked.target, "unloaded": done}

    async def reload(self, asked: Nothing) -> tuple[int, Any]:
        """200 with what has changed; a bad configuration changes nothing."""
        return 200, await self._gateway.reloaded()


class Command(Generic[T]):
    """A POST with a JSON body of one kind. What it has begun goes on if the client leaves."""

    def __init__(self, kind: type[T], act: Callable[[T], Awaitable[tuple[int, Any]]]) -> None:
        self.kind = kind
        self._act = act

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await read_body(receive, _BODY_BYTES)
        except ClientGone:
            return
        try:
            asked = msgspec.json.decode(data or b"{}", type=self.kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the body cannot be read: {error}") from error
        status, told = await self._act(asked)
        await send_json(send, told, status)


async def _not_there(send: Send, why: str) -> None:
    await send_error(send, InvalidRequest(why), openai_form, 404)
