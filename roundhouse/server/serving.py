"""How uvicorn serves the application, by the settings of the server; what of that a reload changes."""

from __future__ import annotations

import asyncio
import gc
import math
import socket
import sys
from collections.abc import Callable
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from roundhouse.config import Server as ServerSettings
from roundhouse.config import Settings
from roundhouse.server.guard import SECURITY_HEADERS
from roundhouse.server.protocol import ConnectionLimits, Limited, limited
from roundhouse.server.tls import tls_files

__all__ = ["Server", "config_of", "renewal_of", "settle"]

_COLLECT_AFTER = 20_000  # allocations beyond frees; 700 is Python's own, which is hundreds of times a second under load


class Server(uvicorn.Server):
    """uvicorn, but that after a second Ctrl-C it waits for no answer, yet tells whoever has one under way and stops the
    engines; and that a client has as long for its TLS handshake as for the head of a request.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if not sockets or self.config.ssl is None:
            await super().startup(sockets)
            return
        await super().startup([])  # the application; uvicorn would give each handshake a minute
        loop = asyncio.get_running_loop()
        for listening in sockets:
            server = await loop.create_server(
                self.protocol,
                sock=listening,
                ssl=self.config.ssl,
                backlog=self.config.backlog,
                ssl_handshake_timeout=self.handshake_s,
            )
            self.servers.append(server)

    @property
    def handshake_s(self) -> float | None:
        """None: there is no handshake."""
        return None if self.config.ssl is None else _limited(self.config).limits.head_s

    def protocol(self) -> asyncio.Protocol:
        """Of a new connection."""
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn then leaves the application as it is, which dies of being cancelled
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()


def config_of(
    app: ASGIApp,
    settings: ServerSettings,
    tls: tuple[str, str] | None,
    *,
    connections: int = 0,
    behind: bool = False,
    lifespan: Literal["on", "off"] = "on",
) -> uvicorn.Config:
    """`connections` 0 = as many as the settings say. `behind`: a worker of ours stands before it, and adds the headers
    of every answer.
    """
    certificate, private_key = tls or (None, None)
    return uvicorn.Config(
        app,
        http=limited(limits_of(settings)),
        ws="none",
        log_config=None,  # its lines go where ours go
        log_level="warning",
        access_log=False,
        headers=[] if behind else list(SECURITY_HEADERS),
        date_header=not behind,
        limit_concurrency=connections or settings.connections,
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
        server_header=False,
        proxy_headers=False,
        lifespan=lifespan,
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
    )


def _limited(config: uvicorn.Config) -> type[Limited]:
    protocol = config.http
    assert isinstance(protocol, type)
    assert issubclass(protocol, Limited)
    return protocol


def limits_of(settings: ServerSettings) -> ConnectionLimits:
    return ConnectionLimits(
        head_s=settings.head_timeout_s,
        request_s=settings.request_timeout_s,
        stalled_s=settings.stalled_timeout_s,
        idle_s=settings.keep_alive_timeout_s,
        head_bytes=settings.head_limit_kib << 10,
    )


def renewal_of(config: uvicorn.Config) -> Callable[[Settings], Callable[[], None]]:
    """For `Gateway.before_reload`: limits of connections, and a certificate that was renewed in its files."""

    def prepare(new: Settings) -> Callable[[], None]:
        files = tls_files(new)

        def apply() -> None:
            _limited(config).limits = limits_of(new.server)
            config.limit_concurrency = new.server.connections
            config.timeout_graceful_shutdown = math.ceil(new.server.drain_s)
            if files and config.ssl_certfile and config.ssl is not None:
                config.ssl.load_cert_chain(*files)

        return apply

    return prepare


def settle() -> None:
    """For the running loop, once everything is built.

    What was built by now stays for good, so the collector need not look at it again and again; and a request leaves no
    cycles behind, so it need not look often. The loop keeps a list of async generators, to close at its end those that
    nobody has closed: whoever has one here closes it, and the list costs some eight microseconds a request.
    """
    sys.set_asyncgen_hooks(firstiter=None)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)
