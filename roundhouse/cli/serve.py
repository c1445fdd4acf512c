"""`roundhouse serve`: the HTTP server."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
from typing import Annotated

import typer

from roundhouse.cli.common import ConfigOption, settings_of, tell
from roundhouse.config import Settings
from roundhouse.core.errors import ConfigError
from roundhouse.gateway import Gateway

__all__ = ["serve"]

_DRAIN_S = 30
_BACKLOG = 2048


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 = any free one.")] = None,
) -> None:
    """Serve OpenAI's chat API over the configured targets, until interrupted."""
    settings = settings_of(config, {"server.host": host, "server.port": port})
    _refuse_public(settings)
    listening = _listen(settings.server.host, settings.server.port)
    import uvicorn

    from roundhouse.server.app import LOOPBACK_HOSTS, build_app

    gateway = Gateway(settings)
    app = build_app(
        gateway,
        hosts=(*LOOPBACK_HOSTS, *settings.server.hosts),
        body_limit_bytes=settings.server.body_limit_mib << 20,
        on_ready=lambda: _announce(gateway, listening),
    )
    options = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_DRAIN_S,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
    )
    server = uvicorn.Server(options)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    if not server.started:
        sys.exit(1)


def _announce(gateway: Gateway, listening: socket.socket) -> None:
    for notice in gateway.notices:
        tell(f"note: {notice}")
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on http://{shown}:{port}/v1", flush=True)


def _refuse_public(settings: Settings) -> None:
    """Whoever reaches the port may use every model, so it stays on this machine."""
    host = settings.server.host
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host == "localhost":
        return
    raise ConfigError(
        f"server.host {host} can be reached from other machines, and this version has no keys to keep strangers out; "
        "listen on 127.0.0.1 and put a reverse proxy that asks for a password before it",
        source=settings.origins.get("server.host", ""),
        key="server.host",
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)  # now, so that whoever reads that we listen can connect
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; stop what uses it, or choose another --port",
            key="server.port",
        ) from error
    listening.set_inheritable(False)
    return listening
