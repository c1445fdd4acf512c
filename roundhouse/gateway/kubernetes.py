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

__all__ = ["Manifests", "Wanted", "manifests"]

_PORT = 8473
_STATE = "/var/lib/roundhouse"
_CONFIG = "/etc/roundhouse"
_USER = 10001  # as in deploy/Dockerfile
_SERVER_BYTES = 512 << 20  # the server itself with its connections; it is idle at 70 MB
_STOP_MARGIN_S = 15
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
class Manifests:
    """`documents` in the order to apply; `notes` is what has to be done besides."""

    documents: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def manifests(config: Path, wanted: Wanted) -> Manifests:
    """Raises `ConfigError` for a name that Kubernetes refuses, for a secret that stands in the file, for a server
    without keys, and for models whose memory cannot be planned here while none is given.
    """
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
    variables = environ.asked
    memory_bytes = wanted.memory_bytes or _planned_bytes(settings)
    documents = (
        _configmap(text, wanted),
        _volume_claim(wanted),
        _deployment(text, settings, variables, memory_bytes, wanted),
        _service(settings, wanted),
    )
    return Manifests(documents, tuple(_notes(settings, variables, wanted)))


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
    models = 0
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
        models += needs * max(entry.replicas.min, entry.replicas.max, 1)
    return math.ceil(models / settings.resources.memory_fraction) + _SERVER_BYTES


def _notes(settings: Settings, variables: Mapping[str, bool], wanted: Wanted) -> Iterator[str]:
    if variables:
        flags = " ".join(f"--from-literal={name}=..." for name, must in variables.items() if must)
        optional = [name for name, must in variables.items() if not must]
        if flags:
            yield f"make the Secret first: kubectl -n {wanted.namespace} create secret generic {wanted.secret} {flags}"
        if optional:
            yield f"{', '.join(optional)} may be set in the Secret {wanted.secret} too"
    for entry in settings.targets:
        if is_managed(entry) and ("/" in entry.model or entry.model.endswith(".gguf")):
            yield f'target "{entry.name}" loads {entry.model}: it has to be in the image, or in the volume at {_STATE}'
        if "localhost" in entry.endpoint or "127.0.0.1" in entry.endpoint:
            yield f'target "{entry.name}" is asked on localhost, which in the cluster is its own Pod'


def _meta(wanted: Wanted, suffix: str = "") -> dict[str, Any]:
    return {"name": wanted.name + suffix, "namespace": wanted.namespace, "labels": _labels(wanted)}


def _labels(wanted: Wanted) -> dict[str, str]:
    return {"app.kubernetes.io/name": "roundhouse", "app.kubernetes.io/instance": wanted.name}


def _configmap(text: str, wanted: Wanted) -> dict[str, Any]:
    data = {"roundhouse.yaml": text}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(wanted, "-config"), "data": data}


def _volume_claim(wanted: Wanted) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{wanted.storage_gib}Gi"}},
    }
    if wanted.storage_class:
        spec["storageClassName"] = wanted.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _meta(wanted, "-state"),
        "spec": spec,
    }


def _service(settings: Settings, wanted: Wanted) -> dict[str, Any]:
    port = {"name": "https" if settings.server.tls_cert else "http", "port": _PORT, "targetPort": "api"}
    spec = {"type": "ClusterIP", "selector": _labels(wanted), "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(wanted), "spec": spec}


def _deployment(
    text: str, settings: Settings, variables: Mapping[str, bool], memory_bytes: int, wanted: Wanted
) -> dict[str, Any]:
    """A changed configuration makes a new Pod, by its hash in the template."""
    template = {
        "metadata": {
            "labels": _labels(wanted),
            "annotations": {"roundhouse/config-sha256": hashlib.sha256(text.encode()).hexdigest()},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": math.ceil(settings.server.drain_s) + _STOP_MARGIN_S,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
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
        "selector": {"matchLabels": _labels(wanted)},
        "template": template,
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _meta(wanted), "spec": spec}


def _container(settings: Settings, variables: Mapping[str, bool], memory_bytes: int, wanted: Wanted) -> dict[str, Any]:
    """Memory is asked for and bounded alike, so that it is there when a model is loaded."""
    memory = f"{math.ceil(memory_bytes / (1 << 20))}Mi"
    limits: dict[str, Any] = {"memory": memory}
    if wanted.gpus:
        limits["nvidia.com/gpu"] = str(wanted.gpus)
    return {
        "name": "roundhouse",
        "image": wanted.image,
        "args": ["serve", "--config", f"{_CONFIG}/roundhouse.yaml", "--host", "0.0.0.0", "--port", str(_PORT)],  # noqa: S104
        "env": [*_plain(settings, wanted), *(_from_secret(one, must, wanted) for one, must in variables.items())],
        "ports": [{"name": "api", "containerPort": _PORT}],
        "resources": {"requests": {"cpu": f"{math.ceil(1000 * wanted.cpus)}m", "memory": memory}, "limits": limits},
        "startupProbe": {**_probe("/healthz", settings), "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {**_probe("/healthz", settings), "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**_probe("/readyz", settings), "periodSeconds": 5, "failureThreshold": 2},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG, "readOnly": True},
            {"name": "state", "mountPath": _STATE},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the Pod's own
        ],
    }


def _plain(settings: Settings, wanted: Wanted) -> list[dict[str, Any]]:
    """Where its files are, and by which names the Service is called besides those of the configuration."""
    called = [wanted.name, f"{wanted.name}.{wanted.namespace}", f"{wanted.name}.{wanted.namespace}.svc"]
    hosts: Sequence[str] = [*settings.server.hosts, *called, f"*.{wanted.namespace}.svc.cluster.local"]
    values = {
        "ROUNDHOUSE_SERVER__HOSTS": "[" + ", ".join(f'"{one}"' for one in dict.fromkeys(hosts)) + "]",
        **dict.fromkeys(("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"), _STATE),
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _from_secret(variable: str, must: bool, wanted: Wanted) -> dict[str, Any]:
    reference = {"name": wanted.secret, "key": variable, "optional": not must}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _probe(path: str, settings: Settings) -> dict[str, Any]:
    """With a Host header that is always answered; the kubelet would send the Pod's address."""
    scheme = "HTTPS" if settings.server.tls_cert else "HTTP"
    headers = [{"name": "Host", "value": "localhost"}]
    return {"httpGet": {"path": path, "port": "api", "scheme": scheme, "httpHeaders": headers}, "timeoutSeconds": 2}
