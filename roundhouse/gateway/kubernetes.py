"""The manifests of one server in Kubernetes: Deployment, Service, ConfigMap, PersistentVolumeClaim.

One Pod, for keys, experiments and the store belong to one process; a new one starts once the old has drained. Fields:
Kubernetes API reference, apps/v1 Deployment and v1 Pod; the tests hold them against the schemas of several versions.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundhouse.config import Settings, load
from roundhouse.config.source import Node, read_file
from roundhouse.core.errors import ConfigError, Error
from roundhouse.core.model import DeviceFacts
from roundhouse.gateway.build import provider_types
from roundhouse.gateway.plan import is_managed
from roundhouse.gateway.ways import ways_of

__all__ = ["Checked", "Manifests", "Wanted", "check", "manifests"]

PORT = 8473
STATE = "/var/lib/roundhouse"
CONFIG = "/etc/roundhouse"
USER = 10001  # as in deploy/Dockerfile
_SERVER_BYTES = 512 << 20  # the server itself with its connections; it is idle at 70 MB
STOP_MARGIN_S = 15
_CONFIGMAP_LIMIT_BYTES = 1_000_000  # the API server's limit is 1 MiB for the whole object
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,51}[a-z0-9])?\Z")  # RFC 1035 with room for our suffixes
# A stand-in for variables that are set in the cluster alone: long enough for a key.
_UNSET = "set-in-the-secret-of-the-cluster"
_SECRETS = ("key", "api_key")
_SECRET_HEADERS = ("authorization", "x-api-key", "api-key")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration does not say. `memory_bytes` 0 = as planned for its models; `secret` names a Secret."""

    image: str
    name: str = "roundhouse"
    namespace: str = "default"
    secret: str = "roundhouse-env"  # noqa: S105 - a name
    cpus: float = 2.0
    memory_bytes: int = 0
    gpus: int = 0
    storage_gib: int = 50
    storage_class: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration as it is written and as it is read; `variables` that it names, and whether each must be set."""

    text: str
    settings: Settings
    variables: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Manifests:
    """`documents` in the order to apply; `notes` is what has to be done besides."""

    documents: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def manifests(config: Path, wanted: Wanted) -> Manifests:
    """Raises `ConfigError` for a name that Kubernetes refuses, for a secret that stands in the file, for a server
    without keys, and for models whose memory cannot be planned here while none is given.
    """
    checked = check(config, wanted)
    text, settings, variables = checked.text, checked.settings, checked.variables
    memory_bytes = wanted.memory_bytes or _planned_bytes(settings)
    documents = (
        configmap(text, wanted),
        volume_claim(wanted),
        _deployment(text, settings, variables, memory_bytes, wanted),
        _service(settings, wanted),
    )
    return Manifests(documents, tuple(notes_on(settings, variables, wanted)))


def check(config: Path, wanted: Wanted) -> Checked:
    """Raises `ConfigError` as `manifests` does, but for models."""
    for what, value in (("name", wanted.name), ("namespace", wanted.namespace), ("secret", wanted.secret)):
        if not _LABEL.match(value):
            said = f"--{what} {value!r}: lower case letters, digits and dashes, a letter first, at most 53 characters"
            raise ConfigError(said, source="flag", key=what)
    if not wanted.image.strip() or any(char.isspace() for char in wanted.image):
        raise ConfigError("--image: expected the name of an image, such as registry.example.com/roundhouse:1.0")
    environ = _Stand(os.environ)
    settings = load(config, environ=environ, cwd=Path.cwd(), types=provider_types())
    _refuse_secrets(read_file(config, environ))
    if not (settings.auth.keys or settings.auth.required):
        said = "other machines will reach it, so it needs keys: add auth.keys with key: ${ADMIN_KEY}"
        raise ConfigError(said, source=str(config), key="auth.keys")
    text = config.read_bytes().decode("utf-8-sig")
    if len(text.encode()) > _CONFIGMAP_LIMIT_BYTES:
        raise ConfigError("it is too large for a ConfigMap, whose limit is 1 MiB", source=str(config))
    return Checked(text, settings, environ.asked)


class _Stand(dict[str, str]):
    """The environment, where what is set in the cluster alone has a stand-in; `asked`: what the file names, and
    whether it must be set.

    What overrides settings on this machine (`ROUNDHOUSE_*`) is not of the cluster.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__({name: value for name, value in environ.items() if not name.startswith("ROUNDHOUSE_")})
        self.asked: dict[str, bool] = {}

    def get(self, name: str, default: Any = None) -> Any:
        self.asked[name] = self.asked.get(name, False) or default is None
        return super().get(name, _UNSET if default is None else default)


def _refuse_secrets(node: Node, key: str = "") -> None:
    """A ConfigMap can be read by many: a secret must come from the environment."""
    if isinstance(node.value, dict):
        for name, item in node.value.items():
            _refuse_secrets(item, name)
    elif isinstance(node.value, list):
        for item in node.value:
            _refuse_secrets(item)
    elif (key in _SECRETS or key.lower() in _SECRET_HEADERS) and node.value and not node.secret:
        raise node.error(f"{key} is written out here and would stand in a ConfigMap; write ${{VAR}} instead", key)


def _planned_bytes(settings: Settings) -> int:
    """So that the share that models may take of it holds all of them, with all their replicas."""
    models = sum(size * count for size, count in planned(settings))
    return math.ceil(models / settings.resources.memory_fraction) + _SERVER_BYTES


def planned(settings: Settings) -> Iterator[tuple[int, int]]:
    """For each target that is ours to run, the bytes of a replica and how many there may be."""
    for entry in settings.targets:
        if not is_managed(entry):
            continue
        try:
            way = ways_of(entry, settings, [DeviceFacts("cpu", "cpu", 1 << 50, 1 << 50)])[0]
        except (Error, OSError) as error:
            said = f'the memory of target "{entry.name}" cannot be planned here ({error}); give --memory-gib'
            raise ConfigError(said, source=settings.source) from error
        needs = way.option.needs.get("cpu", 0)
        if not needs:
            said = f'the memory of target "{entry.name}" is not known before it is loaded; give --memory-gib'
            raise ConfigError(said, source=settings.source)
        yield needs, max(entry.replicas.min, entry.replicas.max, 1)


def notes_on(settings: Settings, variables: Mapping[str, bool], wanted: Wanted) -> Iterator[str]:
    if variables:
        flags = " ".join(f"--from-literal={name}=..." for name, must in variables.items() if must)
        optional = [name for name, must in variables.items() if not must]
        if flags:
            yield f"make the Secret first: kubectl -n {wanted.namespace} create secret generic {wanted.secret} {flags}"
        if optional:
            yield f"{', '.join(optional)} may be set in the Secret {wanted.secret} too"
    for entry in settings.targets:
        if is_managed(entry) and ("/" in entry.model or entry.model.endswith(".gguf")):
            yield f'target "{entry.name}" loads {entry.model}: it has to be in the image, or in the volume at {STATE}'
        if "localhost" in entry.endpoint or "127.0.0.1" in entry.endpoint:
            yield f'target "{entry.name}" is asked on localhost, which in the cluster is its own Pod'


def meta(wanted: Wanted, suffix: str = "") -> dict[str, Any]:
    return {"name": wanted.name + suffix, "namespace": wanted.namespace, "labels": labels(wanted)}


def labels(wanted: Wanted) -> dict[str, str]:
    return {"app.kubernetes.io/name": "roundhouse", "app.kubernetes.io/instance": wanted.name}


def configmap(text: str, wanted: Wanted) -> dict[str, Any]:
    data = {"roundhouse.yaml": text}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(wanted, "-config"), "data": data}


def volume_claim(wanted: Wanted, suffix: str = "-state", mode: str = "ReadWriteOnce") -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": [mode],
        "resources": {"requests": {"storage": f"{wanted.storage_gib}Gi"}},
    }
    if wanted.storage_class:
        spec["storageClassName"] = wanted.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta(wanted, suffix),
        "spec": spec,
    }


def _service(settings: Settings, wanted: Wanted) -> dict[str, Any]:
    port = {"name": "https" if settings.server.tls_cert else "http", "port": PORT, "targetPort": "api"}
    spec = {"type": "ClusterIP", "selector": labels(wanted), "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta(wanted), "spec": spec}


def _deployment(
    text: str, settings: Settings, variables: Mapping[str, bool], memory_bytes: int, wanted: Wanted
) -> dict[str, Any]:
    """A changed configuration makes a new Pod, by its hash in the template."""
    template = {
        "metadata": {
            "labels": labels(wanted),
            "annotations": digest(text),
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": math.ceil(settings.server.drain_s) + STOP_MARGIN_S,
            "securityContext": pod_security(),
            "containers": [_container(settings, variables, memory_bytes, wanted)],
            "volumes": [
                {"name": "config", "configMap": {"name": f"{wanted.name}-config"}},
                {"name": "state", "persistentVolumeClaim": {"claimName": f"{wanted.name}-state"}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }
    spec = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},  # the volume and what it holds belong to one Pod at a time
        "selector": {"matchLabels": labels(wanted)},
        "template": template,
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(wanted), "spec": spec}


def _container(settings: Settings, variables: Mapping[str, bool], memory_bytes: int, wanted: Wanted) -> dict[str, Any]:
    """Memory is asked for and bounded alike, so that it is there when a model is loaded."""
    memory = f"{math.ceil(memory_bytes / (1 << 20))}Mi"
    limits: dict[str, Any] = {"memory": memory}
    if wanted.gpus:
        limits["nvidia.com/gpu"] = str(wanted.gpus)
    return {
        "name": "roundhouse",
        "image": wanted.image,
        "args": ["serve", "--config", f"{CONFIG}/roundhouse.yaml", "--host", "0.0.0.0", "--port", str(PORT)],  # noqa: S104
        "env": [*plain(settings, wanted), *(from_secret(one, must, wanted) for one, must in variables.items())],
        "ports": [{"name": "api", "containerPort": PORT}],
        "resources": {"requests": {"cpu": f"{math.ceil(1000 * wanted.cpus)}m", "memory": memory}, "limits": limits},
        "startupProbe": {**_probe("/healthz", settings), "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {**_probe("/healthz", settings), "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**_probe("/readyz", settings), "periodSeconds": 5, "failureThreshold": 2},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG, "readOnly": True},
            {"name": "state", "mountPath": STATE},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the Pod's own
        ],
    }


def digest(text: str) -> dict[str, str]:
    """What changes with the configuration, and so makes new Pods."""
    return {"roundhouse/config-sha256": hashlib.sha256(text.encode()).hexdigest()}


def pod_security() -> dict[str, Any]:
    """The image's user, and nothing beyond."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def plain(settings: Settings, wanted: Wanted, service: str = "") -> list[dict[str, Any]]:
    """Where its files are, and by which names its Service is called besides those of the configuration."""
    service = service or wanted.name
    called = [service, f"{service}.{wanted.namespace}", f"{service}.{wanted.namespace}.svc"]
    hosts: Sequence[str] = [*settings.server.hosts, *called, f"*.{wanted.namespace}.svc.cluster.local"]
    values = {
        "ROUNDHOUSE_SERVER__HOSTS": "[" + ", ".join(f'"{one}"' for one in dict.fromkeys(hosts)) + "]",
        **dict.fromkeys(("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"), STATE),
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def from_secret(variable: str, must: bool, wanted: Wanted) -> dict[str, Any]:
    reference = {"name": wanted.secret, "key": variable, "optional": not must}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _probe(path: str, settings: Settings) -> dict[str, Any]:
    """With a Host header that is always answered; the kubelet would send the Pod's address."""
    scheme = "HTTPS" if settings.server.tls_cert else "HTTP"
    headers = [{"name": "Host", "value": "localhost"}]
    return {"httpGet": {"path": path, "port": "api", "scheme": scheme, "httpHeaders": headers}, "timeoutSeconds": 2}
