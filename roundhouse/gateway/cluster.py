"""What fits where in a cluster, how many replicas an objective takes, and what a dead node costs. Starts nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from roundhouse.config import Resources, Settings, TargetSettings
from roundhouse.config.cluster import ClusterFile, ClusterModel, ClusterNode
from roundhouse.core.errors import ConfigError, ModelNotFound
from roundhouse.core.model import DeviceFacts
from roundhouse.gateway.plan import located, slots_of
from roundhouse.gateway.ways import ways_of
from roundhouse.resources.cluster import CORES, Cluster, Demand, NodeFacts, after_loss, assign
from roundhouse.resources.placement import Option
from roundhouse.resources.queueing import Load, Wait, replicas_for, wait_of
from roundhouse.store.hub_models import is_hub_name

__all__ = ["ClusterPlan", "Loss", "ModelPlan", "plan_cluster"]

_MILLI = 1000


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """`needed` replicas for its objective, or asked for if that is more; `placed` of them have a node.

    `wait` and `wait_s` (at the objective's percentile) are those of the placed ones; None without a rate. `notes` says
    what was given up so that a replica fits.
    """

    model: ClusterModel
    needed: int
    placed: int
    wait: Wait | None
    wait_s: float | None
    notes: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """All replicas have a node, and the objective holds."""
        in_time = self.wait_s is None or self.wait_s <= self.model.wait_s
        return self.placed >= self.needed and in_time


@dataclass(frozen=True, slots=True)
class Loss:
    """A model when a node dies: replicas before, at once and once those that fit elsewhere are back.

    `served` is the share of its expected requests that those left can answer; `wait_s` as of `ModelPlan`.
    """

    model: str
    before: int
    left: int
    back: int
    served: float
    wait_s: float | None
    held: bool


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """`losses` by node that dies: the models which it takes replicas of."""

    nodes: tuple[NodeFacts, ...]
    models: tuple[ModelPlan, ...]
    cluster: Cluster
    losses: Mapping[str, tuple[Loss, ...]]

    @property
    def fits(self) -> bool:
        return all(one.held for one in self.models)


def plan_cluster(file: ClusterFile, settings: Settings) -> ClusterPlan:
    """Raises `ModelNotFound` for files that are not here, `BadHeader`, `ConfigError` for an objective out of reach.

    `settings` say where the store is.
    """
    settings = replace(settings, source=file.source, resources=Resources(file.memory_fraction))
    nodes = [node for kind in file.nodes for node in _machines(kind, file.memory_fraction)]
    ways = {model.name: {kind.name: _ways(model, kind, settings) for kind in file.nodes} for model in file.models}
    loads = {model.name: _load(model) for model in file.models}
    demands = [
        Demand(
            model.name,
            _needed(model, loads[model.name], file.source),
            {kind: [option for option, _ in found] for kind, found in ways[model.name].items()},
        )
        for model in file.models
    ]
    cluster = assign(nodes, demands)
    kinds = {node.name: node.kind for node in nodes}
    models = []
    for model, demand in zip(file.models, demands, strict=True):
        placed = cluster.count(model.name)
        notes = {ways[model.name][kinds[one.node]][one.option][1] for one in cluster.placed if one.model == model.name}
        wait, wait_s = _wait(model, loads[model.name], placed)
        models.append(ModelPlan(model, demand.replicas, placed, wait, wait_s, tuple(sorted(notes - {""}))))
    losses = {node.name: _losses(node.name, nodes, demands, cluster, file.models, loads) for node in nodes}
    return ClusterPlan(tuple(nodes), tuple(models), cluster, losses)


def _machines(kind: ClusterNode, fraction: float) -> list[NodeFacts]:
    room = {one.place: int(fraction * one.total_bytes) for one in _devices(kind)}
    room[CORES] = int(kind.cpus * _MILLI)
    names = [kind.name] if kind.count == 1 else [f"{kind.name}-{number + 1}" for number in range(kind.count)]
    return [NodeFacts(name, kind.name, room) for name in names]


def _devices(kind: ClusterNode) -> list[DeviceFacts]:
    """Those of a node on which nothing runs yet."""
    cpu = DeviceFacts("cpu", "cpu", kind.memory_bytes, kind.memory_bytes, cores=max(1, int(kind.cpus)))
    size = kind.gpu_memory_bytes
    return [cpu, *(DeviceFacts(f"GPU {number}", "cuda", size, size, index=number) for number in range(kind.gpus))]


def _ways(model: ClusterModel, kind: ClusterNode, settings: Settings) -> list[tuple[Option, str]]:
    """How a replica can run on such a node, best first, and what is given up for it."""
    found = _from_files(model, kind, settings) if model.model else _as_declared(model, kind)
    return [(replace(one, needs={**one.needs, CORES: int(model.cpus * _MILLI)}), note) for one, note in found]


def _as_declared(model: ClusterModel, kind: ClusterNode) -> list[tuple[Option, str]]:
    if not model.gpu_memory_bytes:
        return [(Option({"cpu": model.memory_bytes}), "")]
    gpus = [one.place for one in _devices(kind) if one.kind == "cuda"]
    return [(Option({"cpu": model.memory_bytes, gpu: model.gpu_memory_bytes}), "") for gpu in gpus]


def _from_files(model: ClusterModel, kind: ClusterNode, settings: Settings) -> list[tuple[Option, str]]:
    entry, devices = _entry(model), _devices(kind)
    path = located(entry, settings)
    if entry.type != "vllm":
        if not path.exists() and (entry.type == "llamacpp" or not is_hub_name(entry.model)):
            raise ModelNotFound(
                f'"{model.name}": {path} is not here; fetch it, or give memory_gib and gpu_memory_gib', model=model.name
            )
        return [(way.option, way.note) for way in ways_of(entry, settings, devices, elsewhere=True)]
    # vLLM takes a share of so many whole GPUs, whichever they are.
    gpus, each = devices[1:], int(entry.options.get("tensor_parallel_size", 1))
    groups = [gpus[start : start + each] for start in range(0, len(gpus) - each + 1, each)]
    return [(way.option, way.note) for group in groups for way in ways_of(entry, settings, group, elsewhere=True)]


def _entry(model: ClusterModel) -> TargetSettings:
    return TargetSettings(name=model.name, type=model.type, model=model.model, options=model.options)


def _load(model: ClusterModel) -> Load | None:
    if not model.rate:
        return None
    slots = model.slots or (slots_of(_entry(model)) if model.model else 1)
    return Load(model.rate, model.per_replica, slots, model.arrival_cv, model.service_cv)


def _needed(model: ClusterModel, load: Load | None, source: str) -> int:
    if load is None:
        return model.replicas
    try:
        return max(model.replicas, replicas_for(load, model.wait_s, model.share))
    except ValueError as error:
        raise ConfigError(f'"{model.name}": {error}; look at rate and per_replica', source=source) from error


def _wait(model: ClusterModel, load: Load | None, replicas: int) -> tuple[Wait | None, float | None]:
    if load is None:
        return None, None
    wait = wait_of(load, replicas)
    return wait, wait.percentile_s(model.share) if math.isfinite(wait.mean_s) else math.inf


def _losses(
    node: str,
    nodes: Sequence[NodeFacts],
    demands: Sequence[Demand],
    cluster: Cluster,
    models: Sequence[ClusterModel],
    loads: Mapping[str, Load | None],
) -> tuple[Loss, ...]:
    hit = {one.model for one in cluster.on(node)}
    after = after_loss(node, nodes, demands, cluster)
    losses = []
    for model in models:
        if model.name not in hit:
            continue
        before, back, load = cluster.count(model.name), after.count(model.name), loads[model.name]
        left = before - sum(one.model == model.name for one in cluster.on(node))
        served = min(1.0, left * load.per_replica / load.rate) if load else float(left > 0)
        _, wait_s = _wait(model, load, back)
        held = back > 0 and (wait_s is None or wait_s <= model.wait_s)
        losses.append(Loss(model.name, before, left, back, served, wait_s, held))
    return tuple(losses)
