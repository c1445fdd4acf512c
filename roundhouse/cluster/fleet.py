"""The targets of a cluster as applications of Ray Serve: put up, looked at, taken down. Its calls block."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import ApplicationStatus, LoggingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from roundhouse.cluster.router import HomeRouter
from roundhouse.cluster.shares import Share, fit, scale_of, share_of
from roundhouse.cluster.worker import Worker
from roundhouse.config import Settings, TargetSettings
from roundhouse.core.model import DeviceFacts
from roundhouse.gateway.plan import slots_of
from roundhouse.resources import hardware

__all__ = ["ENGINE", "Fleet", "Status", "application_of"]

ENGINE = "engine"
_PREFIX = "roundhouse-"
_TRIES = 2
_HEALTH_PERIOD_S = 2.0
_HEALTH_TIMEOUT_S = 20.0
_METRICS_S = 0.5
_LOOK_BACK_S = 1.5
_PROBE_S = 60.0
_LOOK_S = 0.2
_FALLBACKS = 64  # so many of the other replicas are asked in turn when the home is full


@dataclass(frozen=True, slots=True)
class Status:
    """How an application is. One that runs may have replicas that are being replaced. `replicas` by Serve's words for
    their states; `message` says what is wrong.
    """

    running: bool
    failed: bool
    leaving: bool
    message: str
    replicas: Mapping[str, int]


def application_of(entry: TargetSettings, settings: Settings) -> str:
    """The name of the application that runs `entry` as it is configured: a changed entry is another application."""
    what = {**asdict(entry), "load_s": settings.limits.load_s, "resources": asdict(settings.resources)}
    for live in ("family", "sampling", "timeout_s", "check", "preload"):  # kept by entrances, or of no matter here
        what.pop(live)
    digest = hashlib.sha256(msgspec.json.encode(what, order="sorted")).hexdigest()[:8]
    return f"{_PREFIX}{re.sub(r'[^A-Za-z0-9_.-]', '-', entry.name)}-{digest}"


# Serve's configurations register modules with a pickler that all threads share, each time that one is built; of two at
# once, one unregisters the other's (ray 2.60, serve/config.py).
_ONE_AT_A_TIME = threading.Lock()


class Fleet:
    """Needs a Ray that is connected and a Serve that runs. Safe to use from several threads. `settings` may be
    exchanged for others that name applications alike.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def deploy(self, entry: TargetSettings) -> bool:
        """Ask for the application; Serve starts it in the background. False if it is there already, as after the death
        of an owner before this one.

        Raises `NoFit` for a model that no node could hold.
        """
        share = share_of(entry, self.settings, nodes())
        name = application_of(entry, self.settings)
        while (there := self.status().get(name)) is not None and there.leaving:
            time.sleep(_LOOK_S)
        if there is not None and not there.failed:
            return False
        with _ONE_AT_A_TIME:
            application = _deployment(entry, self.settings, share).bind(entry, self.settings)
            quiet = LoggingConfig(enable_access_log=False)
            run = serve.RunTarget(application, name=name, route_prefix=None, logging_config=quiet)
            serve.run_many([run], wait_for_applications_running=False)
        return True

    def fits(
        self, wanted: Sequence[TargetSettings], leaving: Sequence[TargetSettings], known: Iterable[TargetSettings]
    ) -> bool:
        """Whether `wanted` have room beside those of `known` that run, once `leaving` have gone. Raises as `deploy`
        does.
        """
        machines = nodes()
        there = self.status()
        gone = {application_of(entry, self.settings) for entry in leaving}
        running = []
        for name, entry in {application_of(one, self.settings): one for one in known}.items():
            if name in there and name not in gone and entry not in wanted:
                count = max(scale_of(entry).least, sum(there[name].replicas.values()))
                running.append((name, share_of(entry, self.settings, machines), count))
        added = [(one.name, share_of(one, self.settings, machines), max(1, scale_of(one).least)) for one in wanted]
        return fit([one["Resources"] for one in ray.nodes() if one["Alive"]], [*running, *added])

    def delete(self, name: str) -> None:
        """Take it down, and wait until its replicas have finished what they had and are gone."""
        if name in self.status():
            with _ONE_AT_A_TIME:
                serve.delete(name, _blocking=False)
        while name in self.status():
            time.sleep(_LOOK_S)

    def status(self) -> Mapping[str, Status]:
        """All applications of ours."""
        with _ONE_AT_A_TIME:
            found = serve.status().applications
        return {name: _status(one) for name, one in found.items() if name.startswith(_PREFIX)}


def nodes() -> list[list[DeviceFacts]]:
    """The living nodes of the cluster, each by its devices with their whole size."""
    alive = [one for one in ray.nodes() if one["Alive"]]
    return [[_processor(one["Resources"]), *_gpus(one)] for one in alive]


def _processor(resources: Mapping[str, float]) -> DeviceFacts:
    size = int(resources.get("memory", 0))
    return DeviceFacts("cpu", "cpu", size, size, cores=max(1, int(resources.get("CPU", 1))))


def _gpus(node: Mapping[str, Any]) -> Sequence[DeviceFacts]:
    """Asked on the node itself, since Ray counts GPUs and does not know their memory."""
    if not node["Resources"].get("GPU"):
        return ()
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    ask = ray.remote(num_cpus=0)(hardware.gpus).options(scheduling_strategy=there)
    found: Sequence[DeviceFacts] = ray.get(ask.remote(), timeout=_PROBE_S)
    return found


def _status(found: Any) -> Status:
    deployment = found.deployments.get(ENGINE)
    states = deployment.replica_states if deployment is not None else {}
    message = "; ".join(said for said in (found.message, deployment.message if deployment else "") if said)
    state = ApplicationStatus(found.status)
    return Status(
        running=state in (ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY),
        failed=state is ApplicationStatus.DEPLOY_FAILED,
        leaving=state is ApplicationStatus.DELETING,
        message=message,
        replicas={str(one).rpartition(".")[2].lower(): count for one, count in states.items()},
    )


def _deployment(entry: TargetSettings, settings: Settings, share: Share) -> Any:
    scale = scale_of(entry)
    size: dict[str, Any] = {"num_replicas": scale.most}
    if scale.least < scale.most:
        size = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scale.least,
                initial_replicas=max(1, scale.least),  # it is deployed because somebody asks for it
                max_replicas=scale.most,
                target_ongoing_requests=scale.load,
                upscale_delay_s=scale.up_s,
                downscale_delay_s=scale.down_s,
                downscale_to_zero_delay_s=scale.to_zero_s,
                metrics_interval_s=_METRICS_S,
                look_back_period_s=_LOOK_BACK_S,
            )
        }
    slots = slots_of(entry)
    return serve.deployment(
        Worker,
        name=ENGINE,
        ray_actor_options=share.options(),
        max_ongoing_requests=slots,
        max_queued_requests=settings.limits.queue + scale.most * slots,
        # A replica that is taken away finishes what it has; no request lasts longer.
        graceful_shutdown_timeout_s=settings.limits.total_s,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        max_constructor_retry_count=_TRIES,
        request_router_config=RequestRouterConfig(
            request_router_class=HomeRouter, request_router_kwargs={"num_fallback_replicas": _FALLBACKS}
        ),
        **size,
    )
