"""The manifests of a service over many machines in Kubernetes: a RayService of KubeRay, with its ConfigMap and volume.

Its operator starts the Pods of a Ray cluster, has Serve run the application that `serve --cluster` would, and makes the
Services `NAME-head-svc` and `NAME-serve-svc`. Fields: ray-project/kuberay, ray-operator/apis/ray/v1; Serve's own
configuration: ray/serve/schema.py, ServeDeploySchema.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from roundhouse.config import Settings
from roundhouse.core.errors import ConfigError
from roundhouse.gateway.carrying import CARRYING
from roundhouse.gateway.kubernetes import (
    CONFIG,
    PORT,
    STATE,
    STOP_MARGIN_S,
    Checked,
    Manifests,
    Wanted,
    check,
    configmap,
    container_security,
    digest,
    from_secret,
    labels,
    meta,
    notes_on,
    plain,
    planned,
    pod_security,
    volume_claim,
)

__all__ = ["WantedNodes", "ray_manifests"]

_RAY = "2.60.0"
_MODELS = f"{STATE}/models"
_OBJECTS_BYTES = 256 << 20  # what travels is small
_RAY_BYTES = 2 << 30  # raylet, agent, proxy, entrance, and a process of 150 MB beside each engine
_HEAD_BYTES = 4 << 30
_HEAD_CPUS = 2.0
_AGENT_PORT = 52365


@dataclass(frozen=True, slots=True)
class WantedNodes:
    """Of what `Wanted` says, `cpus`, `memory_bytes` and `gpus` are those of one node. `most`: so many at most, should
    the autoscaler of Ray want more.
    """

    count: int
    most: int


def ray_manifests(config: Path, wanted: Wanted, nodes: WantedNodes) -> Manifests:
    """Raises as `kubernetes.manifests` does, and `ConfigError` for a number of nodes that makes no sense."""
    if not 1 <= nodes.count <= nodes.most:
        raise ConfigError(f"--nodes {nodes.count}, at most {nodes.most}: expected 1 or more, and no more than at most")
    checked = check(config, wanted)
    if not checked.settings.auth.keys:
        said = "a file of keys would be another one on each node: add auth.keys with key: ${ADMIN_KEY}"
        raise ConfigError(said, source=str(config), key="auth.keys")
    memory = _memory(checked.settings, wanted, nodes)
    documents = (
        configmap(checked.text, wanted),
        volume_claim(wanted, "-models", "ReadWriteMany"),
        _service(checked, memory, wanted, nodes),
    )
    return Manifests(documents, (*notes_on(checked.settings, checked.variables, wanted), *_notes(wanted)))


@dataclass(frozen=True, slots=True)
class _Memory:
    """Of one node, in bytes: all of it, and what Ray may promise to models."""

    node: int
    models: int


def _memory(settings: Settings, wanted: Wanted, nodes: WantedNodes) -> _Memory:
    """Room for an equal part of all replicas, and for one more of the largest: then they fit in whatever order they
    come.
    """
    fraction = settings.resources.memory_fraction
    if wanted.memory_bytes:
        models = int((wanted.memory_bytes - _RAY_BYTES) * fraction)
        if models <= 0:
            raise ConfigError(f"--memory-gib: Ray itself needs {_RAY_BYTES >> 30} GiB of each node; give more")
        return _Memory(wanted.memory_bytes, models)
    sizes = list(planned(settings))
    largest = max((size for size, _ in sizes), default=0)
    models = math.ceil(sum(size * count for size, count in sizes) / nodes.count) + largest
    return _Memory(math.ceil(models / fraction) + _RAY_BYTES, models)


def _notes(wanted: Wanted) -> Iterator[str]:
    yield "the cluster needs the KubeRay operator, 1.5 or newer"
    yield "the image needs Ray: docker build --build-arg EXTRAS=llamacpp,hub,ray"
    yield f"models lie in the volume {wanted.name}-models, which all nodes share: its class has to offer ReadWriteMany"


def _service(checked: Checked, memory: _Memory, wanted: Wanted, nodes: WantedNodes) -> dict[str, Any]:
    """A changed configuration makes a new Ray cluster beside the old one, which leaves when the new one serves."""
    starts = {
        "num-cpus": str(max(1, int(wanted.cpus))),
        "memory": str(memory.models),
        "object-store-memory": str(_OBJECTS_BYTES),
    }
    workers = {
        "groupName": "nodes",
        "replicas": nodes.count,
        "minReplicas": nodes.count,
        "maxReplicas": nodes.most,
        "rayStartParams": {**starts, "num-gpus": str(wanted.gpus)} if wanted.gpus else starts,
        "template": _pod("node", checked, _limits(wanted, memory), wanted),
    }
    head = {
        # It keeps account and runs no engine: a model that takes its memory would take the whole service with it.
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "object-store-memory": str(_OBJECTS_BYTES)},
        "template": _pod("head", checked, {"cpu": _milli(_HEAD_CPUS), "memory": _mib(_HEAD_BYTES)}, wanted),
    }
    cluster: dict[str, Any] = {
        "rayVersion": _RAY,
        "authOptions": {"mode": "token"},
        "headGroupSpec": head,
        "workerGroupSpecs": [workers],
    }
    if nodes.most > nodes.count:
        cluster |= {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}
    spec = {
        "serveConfigV2": yaml.safe_dump(_serve_config(checked.settings), sort_keys=False),
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": cluster,
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": meta(wanted), "spec": spec}


def _serve_config(settings: Settings) -> dict[str, Any]:
    """What `serve --cluster` asks of Serve, declared."""
    http: dict[str, Any] = {"host": "0.0.0.0", "port": PORT}  # noqa: S104 - reached through the Service alone
    if settings.server.tls_cert:
        http |= {"ssl_certfile": settings.server.tls_cert, "ssl_keyfile": settings.server.tls_key}
    application = {
        "name": "roundhouse",
        "route_prefix": "/",
        "import_path": "roundhouse.cluster.start:build",
        "args": {"config": f"{CONFIG}/roundhouse.yaml"},
    }
    return {"proxy_location": "EveryNode", "http_options": http, "applications": [application]}


def _pod(role: str, checked: Checked, limits: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """KubeRay adds the command, the memory for objects, and what the Pods need to find each other."""
    return {
        "metadata": {"labels": labels(wanted), "annotations": digest(checked.text)},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": math.ceil(checked.settings.server.drain_s) + STOP_MARGIN_S,
            "securityContext": pod_security(),
            "containers": [_container(role, checked, limits, wanted)],
            "volumes": [
                {"name": "config", "configMap": {"name": f"{wanted.name}-config"}},
                {"name": "models", "persistentVolumeClaim": {"claimName": f"{wanted.name}-models"}},
                {"name": "state", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }


def _container(role: str, checked: Checked, limits: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    requests = {name: limits[name] for name in ("cpu", "memory")}
    bounds = {name: value for name, value in limits.items() if name != "cpu"}
    alive = {"path": "/api/local_raylet_healthz", "port": _AGENT_PORT, "scheme": "HTTP"}
    ports = [{"name": "serve", "containerPort": PORT}]
    if role == "head":
        ports += [{"name": "gcs", "containerPort": 6379}, {"name": "dashboard", "containerPort": 8265}]
    # Its own way to ask would need wget in the image.
    probe = {"httpGet": alive, "timeoutSeconds": 5, "periodSeconds": 5}
    return {
        "name": f"ray-{role}",
        "image": wanted.image,
        "env": [*_environment(checked, wanted), *(from_secret(*one, wanted) for one in checked.variables.items())],
        "ports": ports,
        "resources": {"requests": requests, "limits": bounds},
        "livenessProbe": {**probe, "initialDelaySeconds": 30, "failureThreshold": 24},
        "readinessProbe": {**probe, "initialDelaySeconds": 5, "failureThreshold": 3},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG, "readOnly": True},
            {"name": "state", "mountPath": STATE},
            {"name": "models", "mountPath": _MODELS},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the Pod's own
        ],
    }


def _environment(checked: Checked, wanted: Wanted) -> list[dict[str, Any]]:
    """As of a single server; the Service has another name, nobody is told of the usage, and requests are carried as by
    `serve --cluster`.
    """
    called = f"{wanted.name}-serve-svc"
    changed = {"XDG_DATA_HOME": _MODELS}
    found = [
        {**one, "value": changed.get(one["name"], one["value"])} for one in plain(checked.settings, wanted, called)
    ]
    serves = {"RAY_USAGE_STATS_ENABLED": "0", **CARRYING}
    return [*found, *({"name": name, "value": value} for name, value in serves.items())]


def _limits(wanted: Wanted, memory: _Memory) -> dict[str, Any]:
    limits = {"cpu": _milli(wanted.cpus), "memory": _mib(memory.node)}
    return {**limits, "nvidia.com/gpu": str(wanted.gpus)} if wanted.gpus else limits


def _milli(cpus: float) -> str:
    return f"{math.ceil(1000 * cpus)}m"


def _mib(size_bytes: int) -> str:
    return f"{math.ceil(size_bytes / (1 << 20))}Mi"
