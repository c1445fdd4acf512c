"""`roundhouse serve --cluster`: connect to a Ray, or start one here, and have Serve run owner and entrances."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig

from roundhouse.cluster.entrance import Entrance
from roundhouse.cluster.fleet import Fleet
from roundhouse.cluster.owner import OWNER, Owner
from roundhouse.config import Settings
from roundhouse.config import load as load_settings
from roundhouse.core.errors import ConfigError, ConnectFailed, LaunchFailed
from roundhouse.gateway.build import notices as build_notices
from roundhouse.gateway.build import provider_types
from roundhouse.gateway.carrying import CARRYING
from roundhouse.gateway.plan import is_demo, is_managed
from roundhouse.gateway.trials import designs_of
from roundhouse.gateway.wordings import catalog_of
from roundhouse.server.access import key_ring

__all__ = ["APPLICATION", "Service", "application", "build", "checked", "connect", "notices", "start"]

log = logging.getLogger(__name__)
APPLICATION = "roundhouse"
_STORE_BYTES = 128 << 20  # what travels is small, and goes from worker to worker without it
_FOLLOWED = 1000  # each entrance has one call at the owner all the time
_LEAST_ENTRANCES = 2


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs. `connected`: for it alone; a Ray that was started for it ends with the connection."""

    url: str
    connected: bool

    def stop(self, limit_s: float) -> None:
        """Requests that run are finished within `limit_s`; then everything of ours is taken down."""
        ends = time.monotonic() + limit_s
        with contextlib.suppress(TimeoutError):
            serve.delete(APPLICATION)
        fleet = Fleet(Settings())
        for name in fleet.status():
            serve.delete(name, _blocking=False)
        while fleet.status() and time.monotonic() < ends:
            time.sleep(0.2)
        if self.connected:
            ray.shutdown()


def start(
    settings: Settings, address: str = "", tls: tuple[str, str] | None = None, proxies: str = "EveryNode"
) -> Service:
    """Returns when entrances answer; targets start in the background. `address` as Ray writes it, empty = the Ray of
    this machine, or one that is started here; "local" = one that is started here whatever else runs.

    Raises `ConnectFailed` where no Ray answers, `ConfigError` for settings that cannot be served this way.
    """
    checked(settings)
    server = settings.server
    if not server.port:
        raise ConfigError("a cluster needs the same port on every node: set server.port", key="server.port")
    connected = connect(address)
    try:
        _run(settings, tls, proxies)
    except BaseException:
        if connected:
            ray.shutdown()
        raise
    host = f"[{server.host}]" if ":" in server.host else server.host
    return Service(f"{'https' if tls else 'http'}://{host}:{server.port}", connected)


def _run(settings: Settings, tls: tuple[str, str] | None, proxies: str) -> None:
    certificate, key = tls or (None, None)
    server = settings.server
    options = HTTPOptions(
        host=server.host,
        port=server.port,
        keep_alive_timeout_s=math.ceil(server.keep_alive_timeout_s),
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    quiet = LoggingConfig(enable_access_log=False)  # entrances write a line of each request, with more in it
    run = serve.RunTarget(
        application(settings, secrets.token_hex(8)), name=APPLICATION, route_prefix="/", logging_config=quiet
    )
    try:
        serve.start(proxy_location=proxies, http_options=options, logging_config=quiet)
        there = _get_global_client().http_config
        if (there.host, there.port, there.ssl_certfile) != (options.host, options.port, options.ssl_certfile):
            raise ConfigError(
                f"Serve runs in this cluster already, at {there.host}:{there.port}, and cannot move: set server.host "
                "and server.port to these, or end it with `serve shutdown`",
                key="server.port",
            )
        serve.run_many([run])
    except RuntimeError as error:
        raise LaunchFailed(f"the entrances could not be started: {error}") from error


def connect(address: str = "") -> bool:
    """False if this process was connected already, by whose settings Serve then runs. No usage is reported to anybody,
    unless the user said so.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.WARNING)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    carrying = {name: os.environ.get(name, usual) for name, usual in CARRYING.items()}
    joining: dict[str, Any] = {
        "runtime_env": {"env_vars": carrying},
        **quiet,
    }  # all that Serve starts for us inherits it
    try:
        if address != "local":
            ray.init(address or "auto", **joining)
            return True
    except ConnectionError as error:
        if address or os.environ.get("RAY_ADDRESS"):
            where = address or os.environ["RAY_ADDRESS"]
            raise ConnectFailed(f"no Ray answers at {where}: {error}", target="ray", refused=True) from error
    ray.init("local", include_dashboard=False, object_store_memory=_STORE_BYTES, **joining)
    return True


def application(settings: Settings, run: str) -> Any:
    """Entrances and owner as one application of Serve. `run` tells this start from others."""
    settings = replace(checked(settings), origins={})
    owner = serve.deployment(
        Owner,
        name=OWNER,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_FOLLOWED,
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=1.0,
    ).bind(settings, run)
    count = max(_LEAST_ENTRANCES, sum(one["Alive"] for one in ray.nodes()))
    return serve.deployment(
        serve.ingress()(Entrance),
        name="entrance",
        num_replicas=count,
        ray_actor_options={"num_cpus": 0},  # models have the processors; an entrance waits most of the time
        max_ongoing_requests=settings.server.connections,
        graceful_shutdown_timeout_s=settings.server.drain_s,
        health_check_period_s=2.0,
    ).bind(settings, APPLICATION, owner)


def checked(settings: Settings) -> Settings:
    """`settings`, which the entrances can go by. Raises `ConfigError` for what they would stumble over."""
    if not settings.targets:
        raise ConfigError("a cluster needs targets in its configuration: add llm.providers", source=settings.source)
    key_ring(settings)
    designs_of(settings, catalog_of(settings))
    return settings


def notices(settings: Settings) -> list[str]:
    """What a user should know of these settings in a cluster, besides what he should on one machine."""
    said = [one for one in build_notices(settings) if "has no effect" not in one or "started by us" in one]
    for entry in settings.targets:
        if is_managed(entry) and not is_demo(entry):
            said.append(f'target "{entry.name}" loads {entry.model}: it has to be on every node that may run it')
    if settings.experiments and not settings.state.url:
        said.append("each node keeps what it saw of the experiments: set state.url to a PostgreSQL, which joins them")
    if settings.telemetry.drift.act == "roll_back":
        said.append("drift warns in a cluster; it does not roll back")
    return said


def build(arguments: dict[str, Any]) -> Any:
    """For a configuration of Serve itself (`import_path: roundhouse.cluster.start:build`): `config` names the file."""
    path = Path(arguments["config"])
    settings = load_settings(path, environ=os.environ, cwd=Path.cwd(), types=provider_types())
    return application(settings, hashlib.sha256(path.read_bytes()).hexdigest()[:16])
