"""`roundhouse serve`: the HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roundhouse.cli.common import ConfigOption, settings_of
from roundhouse.cli.reloader import Reloader
from roundhouse.config import Settings
from roundhouse.core.errors import ConfigError, MissingExtra
from roundhouse.gateway import Gateway
from roundhouse.gateway.keeping import log_style
from roundhouse.gateway.labels import renew_labels
from roundhouse.server.access import key_ring, sharing_of
from roundhouse.server.tls import tls_files
from roundhouse.telemetry.log import Log

if TYPE_CHECKING:  # loaded only when a server starts
    import uvicorn

    from roundhouse.access.ring import KeyRing
    from roundhouse.cluster.start import Service
    from roundhouse.server.workers.crew import Crew

__all__ = ["serve"]

_BACKLOG = 2048
_HINTS = {
    errno.EACCES: "ports below 1024 want rights; choose another --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another --host",
    socket.EAI_NONAME: "no such name is known; choose another --host",
}


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 = any free one.")] = None,
    cluster: Annotated[
        str, typer.Option(metavar="ray[://HOST:PORT]", help="Run targets and entrances on a Ray cluster.")
    ] = "",
    workers: Annotated[int | None, typer.Option(help="Processes that answer; 1 = this one alone.")] = None,
) -> None:
    """Serve the wires of OpenAI, Anthropic and Ollama, and the dashboard, over the configured targets."""
    debug = "debug" if logging.getLogger().level == logging.DEBUG else None  # by --debug, which beats the file
    flags = {"server.host": host, "server.port": port, "server.workers": workers, "telemetry.log.level": debug}
    settings = settings_of(config, flags)
    ring, tls = key_ring(settings), tls_files(settings)
    renew_labels(settings)
    if cluster:
        _serve_cluster(settings, cluster, tls, lambda: settings_of(config, flags))
        return
    _more_files()
    listening = _listen(settings.server.host, settings.server.port)
    from roundhouse.server.app import LOOPBACK_HOSTS, Access, build_app
    from roundhouse.server.serving import Server, config_of, renewal_of

    log = Log(log_style(settings))
    gateway = Gateway(
        settings,
        reread=lambda: settings_of(config, flags),
        keeps_history=True,
        exports=True,
        watches=True,
        keeps_routes=True,
        log=log,
    )
    gateway.before_reload(lambda new: partial(log.apply, log_style(new)))
    crew = _crew(gateway, ring, settings, listening)
    app = build_app(
        gateway,
        Access(ring, (*LOOPBACK_HOSTS, *settings.server.hosts), settings.server.origins, sharing_of(settings, ring)),
        body_limit_bytes=settings.server.body_limit_mib << 20,
        on_ready=lambda: _open(gateway, log, settings, listening, "https" if tls else "http"),
        beside=(lambda: crew) if crew else contextlib.nullcontext,
    )
    options = config_of(app, settings.server, None if crew else tls, behind=crew is not None)
    gateway.before_reload(renewal_of(options))
    try:
        _run(crew.server(options) if crew else Server(options), [] if crew else [listening])
    finally:
        log.close()


def _serve_cluster(settings: Settings, where: str, tls: tuple[str, str] | None, reread: Callable[[], Settings]) -> None:
    """Until a signal, which ends the whole service; requests that run are finished first."""
    kind, _, address = where.partition("://")
    if kind != "ray":
        said = f"--cluster {where}: expected ray, ray://local, or ray://HOST:PORT"
        raise ConfigError(said, source="flag", key="cluster")
    _take_token()
    try:
        import ray  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingExtra('--cluster needs Ray: pip install "roundhouse[ray]"', extra="ray") from error
    from roundhouse.cluster.start import start

    service = start(settings, address, tls)
    try:
        asyncio.run(_attended(service, settings, reread))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # it is being stopped already
            signal.signal(number, lambda *_: None)
        service.stop(settings.server.drain_s)


async def _attended(service: Service, settings: Settings, reread: Callable[[], Settings]) -> None:
    """The cluster goes by the file that lies with this process, which reads it again when asked, until a signal."""
    from roundhouse.cluster.reader import Reader
    from roundhouse.cluster.start import notices

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # not before: Ray sets handlers of its own, by which it aborts
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    reader = Reader(reread)
    reloader = Reloader(reader.reloaded, lambda line: print(line, file=sys.stderr, flush=True))
    _reloads(reloader, settings)
    for notice in notices(settings):
        print(f"note: {notice}", file=sys.stderr)
    print(f"listening on {service.url}/v1", flush=True)
    answering = asyncio.create_task(reader.answer(), name="whoever asks for a reload")
    try:
        await ended.wait()
    finally:
        answering.cancel()
        await asyncio.gather(answering, reloader.aclose(), return_exceptions=True)


def _take_token() -> None:
    """A cluster that `ray start` made where a token lies wants that token; who joins it by himself is to say so, before
    Ray is imported (docs.ray.io, Ray security, token authentication).
    """
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if named or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _crew(gateway: Gateway, ring: KeyRing, settings: Settings, listening: socket.socket) -> Crew | None:
    """None = this process answers by itself."""
    if settings.server.workers == 1:
        return None
    if not hasattr(socket, "send_fds"):
        raise ConfigError("server.workers: this system cannot hand connections over; use 1", key="server.workers")
    from roundhouse.server.workers.crew import Crew

    return Crew(gateway, ring, settings, listening)


def _run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
    """Until a signal; leaves with 1 if it could not start."""
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=sockets)
    if not server.started:
        sys.exit(1)


def _open(gateway: Gateway, log: Log, settings: Settings, listening: socket.socket, scheme: str) -> None:
    """From now on requests are served, and the configuration is read again when asked."""
    from roundhouse.server.serving import settle

    settle()
    _reloads(Reloader(gateway.reloaded, log.say), settings)
    for notice in gateway.notices:
        log.say(f"note: {notice}")
    _announce(listening, scheme)


def _reloads(reloader: Reloader, settings: Settings) -> None:
    """From now on, on a signal, and by itself if that is configured."""
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.reload)
    path = Path(settings.source)
    if settings.server.watch and path.is_file():
        reloader.watch(path)


def _announce(listening: socket.socket, scheme: str) -> None:
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on {scheme}://{shown}:{port}/v1", flush=True)


def _more_files() -> None:
    """As many open connections as this process may have; the usual default of 1,024 is for programs that use select."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)  # now, so that whoever reads that we listen can connect
    except OSError as error:
        listening.close()
        said = _HINTS.get(error.errno or 0, "stop what uses it, or choose another --port")
        why = error.strerror or error
        raise ConfigError(f"cannot listen on {host}:{port}: {why}; {said}", key="server.port") from error
    listening.set_inheritable(False)
    return listening
