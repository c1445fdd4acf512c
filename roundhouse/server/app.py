"""The application: which path leads where, what happens at start and stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.gateway import Gateway
from roundhouse.server.admin_api import Decisions, State
from roundhouse.server.errors import body_of, headers_of, status_of
from roundhouse.server.openai_api import ChatCompletions, Models

__all__ = ["LOOPBACK_HOSTS", "build_app"]

# A page of another site could reach a loopback server by a name of its own that resolves to 127.0.0.1; it cannot
# choose the Host header, though. (https://en.wikipedia.org/wiki/DNS_rebinding)
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


def build_app(
    gateway: Gateway,
    *,
    hosts: Sequence[str] = LOOPBACK_HOSTS,
    body_limit_bytes: int = 32 << 20,
    on_ready: Callable[[], None] = lambda: None,
) -> Starlette:
    """The ASGI application over `gateway`, which it opens and closes.

    `hosts` are the Host headers it answers to; `on_ready` is called when the gateway is open.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with gateway:
            on_ready()
            yield

    routes = [
        Route("/v1/chat/completions", ChatCompletions(gateway, body_limit_bytes), methods=["POST"]),
        Route("/v1/models", Models(gateway), methods=["GET"]),
        Route("/admin/state", State(gateway), methods=["GET"]),
        Route("/admin/decisions/{request_id}", Decisions(gateway), methods=["GET"]),
        Route("/healthz", _alive, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={404: _unknown_path, 405: _wrong_method, Error: _refused},
    )


async def _alive(request: Request) -> Response:
    """Alive, not ready: it asks nothing of any backend."""
    return Response(b'{"status":"ok"}', media_type="application/json")


def _response(error: Error, status: int | None = None) -> Response:
    body = msgspec.json.encode(body_of(error))
    return Response(body, status or status_of(error), headers_of(error), media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Error):
        raise error
    return _response(error)


async def _unknown_path(request: Request, error: Exception) -> Response:
    return _response(InvalidRequest(f"there is nothing at {request.method} {request.url.path}"), 404)


async def _wrong_method(request: Request, error: Exception) -> Response:
    return _response(InvalidRequest(f"{request.url.path} does not take {request.method}"), 405)
