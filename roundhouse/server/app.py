"""The application: the table of paths behind the guard, and what happens at start and stop."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from roundhouse.access.ring import KeyRing
from roundhouse.access.sharing import Sharing
from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.gateway import Gateway
from roundhouse.server.context import Context
from roundhouse.server.errors import form_of, headers_of, status_of
from roundhouse.server.guard import LOOPBACK_HOSTS, Entrance, Guard
from roundhouse.server.live import Live
from roundhouse.server.openapi import Document
from roundhouse.server.page import page
from roundhouse.server.paths import paths
from roundhouse.server.renewal import renewal

__all__ = ["LOOPBACK_HOSTS", "Access", "build_app"]

_PARAMETER = re.compile(r"{(\w+)}")  # the last part of its path; names of models may well have a slash


@dataclass(frozen=True, slots=True)
class Access:
    """`hosts`: the Host headers that are answered; `origins`: sites whose pages may ask. `sharing` keeps the keys in
    step with other servers.
    """

    ring: KeyRing
    hosts: Sequence[str] = LOOPBACK_HOSTS
    origins: Sequence[str] = ()
    sharing: Sharing | None = None


def build_app(
    gateway: Gateway,
    access: Access,
    *,
    body_limit_bytes: int = 32 << 20,
    on_ready: Callable[[], None] = lambda: None,
    beside: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
) -> ASGIApp:
    """The ASGI application over `gateway`, which it opens and closes; `on_ready` is called when that is open.

    `beside`: what lives as long as it does, and needs it.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with gateway:
            if access.sharing is not None:
                access.sharing.start()
            try:
                async with beside():
                    on_ready()
                    yield
            finally:
                if access.sharing is not None:
                    await access.sharing.aclose()

    context = Context(gateway, Live(gateway), body_limit_bytes)
    table = paths(context)
    table += [*page(), Document(table).path()]
    inner = Starlette(
        routes=[Route(_PARAMETER.sub(r"{\1:path}", one.path), one.app, methods=[one.method]) for one in table],
        lifespan=lifespan,
        exception_handlers={404: _unknown_path, 405: _wrong_method, Error: _refused},
    )
    exact = {(one.method, one.path): Entrance(one.app, one.role, one.metered) for one in table if "{" not in one.path}
    prefixes = {one.path.partition("{")[0]: one.role for one in table if "{" in one.path}
    guard = Guard(
        exact,
        inner,
        prefixes,
        access.ring,
        hosts=access.hosts,
        origins=access.origins,
        body_limit_bytes=lambda: context.body_limit_bytes,
    )
    gateway.before_reload(renewal(guard, context, access.ring))
    return guard


def _response(request: Request, error: Error, status: int | None = None) -> Response:
    body = msgspec.json.encode(form_of(request.url.path)(error))
    return Response(body, status or status_of(error), headers_of(error), media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Error):
        raise error
    return _response(request, error)


async def _unknown_path(request: Request, error: Exception) -> Response:
    return _response(request, InvalidRequest(f"there is nothing at {request.method} {request.url.path}"), 404)


async def _wrong_method(request: Request, error: Exception) -> Response:
    response = _response(request, InvalidRequest(f"{request.url.path} does not take {request.method}"), 405)
    response.headers["allow"] = (getattr(error, "headers", None) or {}).get("Allow", "")
    return response
