"""`roundhouse serve`: the HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import math
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from starlette.types import ASGIApp

from roundhouse.cli.common import ConfigOption, settings_of
from roundhouse.cli.reloader import Reloader
from roundhouse.config import Server, Settings
from roundhouse.core.errors import ConfigError, MissingExtra
from roundhouse.gateway import Gateway
from roundhouse.gateway.keeping import log_style
from roundhouse.gateway.labels import renew_labels
from roundhouse.server.access import key_ring, sharing_of
from roundhouse.telemetry.log import Log

if TYPE_CHECKING:  # loaded only when a server starts
    import uvicorn

    from roundhouse.server.protocol import ConnectionLimits, Limited

__all__ = ["serve"]

_BACKLOG = 2048
_HINTS = {
    errno.EACCES: "ports below 1024 want rights; choose another --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another --host",
    socket.EAI_NONAME: "no such name is known; choose another --host",
}
_COLLECT_AFTER = 20_000  # allocations beyond frees; 700 is Python's own, which is hundreds of times a second under load


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 = any free one.")] = None,
    cluster: Annotated[
        str, typer.Option(metavar="ray[://HOST:PORT]", help="Run targets and entrances on a Ray cluster.")
    ] = "",
) -> None:
    """Serve the wires of OpenAI, Anthropic and Ollama, and the dashboard, over the configured targets."""
    debug = "debug" if logging.getLogger().level == logging.DEBUG else None  # by --debug, which beats the file
    flags = {"server.host": host, "server.port": port, "telemetry.log.level": debug}
    settings = settings_of(config, flags)
    ring, tls = key_ring(settings), _tls(settings)
    renew_labels(settings)
    if cluster:
        _serve_cluster(settings, cluster, tls)
        return
    _more_files()
    listening = _listen(settings.server.host, settings.server.port)
    from roundhouse.server.app import LOOPBACK_HOSTS, Access, build_app

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
    app = build_app(
        gateway,
        Access(ring, (*LOOPBACK_HOSTS, *settings.server.hosts), settings.server.origins, sharing_of(settings, ring)),
        body_limit_bytes=settings.server.body_limit_mib << 20,
        on_ready=lambda: _open(gateway, log, settings, listening, "https" if tls else "http"),
    )
    try:
        _run(app, gateway, settings.server, listening, tls)
    finally:
        log.close()


def _serve_cluster(settings: Settings, where: str, tls: tuple[str, str] | None) -> None:
    """Until a signal, which ends the whole service; requests that run are finished first."""
    kind, _, address = where.partition("://")
    if kind != "ray":
        raise ConfigError(f"--cluster {where}: expected ray, or ray://HOST:PORT", source="flag", key="cluster")
    try:
        import ray  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingExtra('--cluster needs Ray: pip install "roundhouse[ray]"', extra="ray") from error
    from roundhouse.cluster.start import notices, start

    ended = threading.Event()
    service = start(settings, where if address else "", tls)
    for number in (signal.SIGINT, signal.SIGTERM):  # not before: Ray sets handlers of its own, by which it aborts
        signal.signal(number, lambda *_: ended.set())
    try:
        for notice in notices(settings):
            print(f"note: {notice}", file=sys.stderr)
        print(f"listening on {service.url}/v1", flush=True)
        ended.wait()
    finally:
        service.stop(settings.server.drain_s)


def _run(
    app: ASGIApp, gateway: Gateway, settings: Server, listening: socket.socket, tls: tuple[str, str] | None
) -> None:
    """Until a signal; leaves with 1 if it could not start."""
    import uvicorn

    from roundhouse.server.guard import SECURITY_HEADERS
    from roundhouse.server.protocol import limited

    protocol = limited(_limits(settings))
    certificate, private_key = tls or (None, None)
    options = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_config=None,  # its lines go where ours go
        log_level="warning",
        access_log=False,
        headers=list(SECURITY_HEADERS),
        limit_concurrency=settings.connections,
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
    )
    gateway.before_reload(_renewal(options, protocol, tls))
    server = uvicorn.Server(options)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    if not server.started:
        sys.exit(1)


def _limits(settings: Server) -> ConnectionLimits:
    from roundhouse.server.protocol import ConnectionLimits

    return ConnectionLimits(
        head_s=settings.head_timeout_s,
        request_s=settings.request_timeout_s,
        stalled_s=settings.stalled_timeout_s,
        head_bytes=settings.head_limit_kib << 10,
    )


def _renewal(
    options: uvicorn.Config, protocol: type[Limited], tls: tuple[str, str] | None
) -> Callable[[Settings], Callable[[], None]]:
    """For `Gateway.before_reload`: limits of connections, and a certificate that was renewed in its files."""

    def prepare(new: Settings) -> Callable[[], None]:
        files = _tls(new)

        def apply() -> None:
            protocol.limits = _limits(new.server)
            options.limit_concurrency = new.server.connections
            options.timeout_graceful_shutdown = math.ceil(new.server.drain_s)
            if files and tls and options.ssl is not None:
                options.ssl.load_cert_chain(*files)

        return apply

    return prepare


def _settle_memory() -> None:
    """What was built by now stays for good, so the collector need not look at it again and again; and a request leaves
    no cycles behind, so it need not look often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)


def _open(gateway: Gateway, log: Log, settings: Settings, listening: socket.socket, scheme: str) -> None:
    """From now on requests are served, and the configuration is read again when asked."""
    _settle_memory()
    reloader = Reloader(gateway, log.say)
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.reload)
    path = Path(settings.source)
    if settings.server.watch and path.is_file():
        reloader.watch(path)
    for notice in gateway.notices:
        log.say(f"note: {notice}")
    _announce(listening, scheme)


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


def _tls(settings: Settings) -> tuple[str, str] | None:
    """The files of certificate and key. Raises `ConfigError` unless both files are there, or neither is asked for."""
    server = settings.server
    files = {"tls_cert": server.tls_cert, "tls_key": server.tls_key}
    if not any(files.values()):
        return None
    found = {}
    for name, text in files.items():
        path = Path(settings.source).parent / Path(text).expanduser()
        if not text or not path.is_file():
            said = f"there is no file {path}" if text else "both tls_cert and tls_key are needed"
            raise ConfigError(f"server.{name}: {said}", source=settings.source, key=f"server.{name}")
        found[name] = str(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found["tls_cert"], found["tls_key"], lambda: "")
    except (ssl.SSLError, OSError) as error:
        said = f"server.tls_cert and tls_key cannot be used: {error}"
        raise ConfigError(said, source=settings.source, key="server.tls_cert") from error
    return found["tls_cert"], found["tls_key"]


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
