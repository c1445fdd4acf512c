"""What Serve's proxies do with each answer besides; named in their environment (roundhouse/gateway/carrying.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["OneRequestId", "middlewares"]

_HEADER = b"x-request-id"


def middlewares() -> list[Middleware]:
    """As Serve asks, when a proxy starts."""
    return [Middleware(OneRequestId)]


class OneRequestId:
    """The proxy adds an `x-request-id` of its own behind the one by which a request is looked up: the first stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = list(_once(message.get("headers", ())))
            await send(message)

        await self._app(scope, receive, sending)


def _once(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    seen = False
    for name, value in headers:
        if name.lower() != _HEADER or not seen:
            yield name, value
        seen = seen or name.lower() == _HEADER
