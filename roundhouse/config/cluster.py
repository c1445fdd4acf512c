"""The file of `roundhouse plan --cluster`: nodes, models, what is expected of them. Same rules and messages as the
configuration's (docs/cluster.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from roundhouse.config.load import Invalid
from roundhouse.config.rules import Anything, Duration, Faults, ListOf, MapOf, Number, Rule, Section, Text
from roundhouse.config.source import Node, read_file
from roundhouse.core.errors import ConfigError

__all__ = ["ClusterFile", "ClusterModel", "ClusterNode", "read_cluster"]

_GIB = 1 << 30
_MOST_NODES = 1000


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """`count` machines that are alike: processors, bytes, GPUs with the bytes of each."""

    name: str
    cpus: float
    memory_bytes: int
    count: int = 1
    gpus: int = 0
    gpu_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ClusterModel:
    """A model and its traffic. Either its files (`model`), or `memory_bytes` and `gpu_memory_bytes` as measured.

    `rate` is expected and `per_replica` measured, in requests per second; `per_replica` 0 = not measured, and then
    `replicas` are wanted. `share` of the requests shall wait `wait_s` at most.
    """

    name: str
    type: str = "llamacpp"
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    memory_bytes: int = 0
    gpu_memory_bytes: int = 0
    cpus: float = 1.0
    rate: float = 0.0
    per_replica: float = 0.0
    slots: int = 0
    arrival_cv: float = 1.0
    service_cv: float = 1.0
    wait_s: float = 1.0
    share: float = 0.95
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class ClusterFile:
    nodes: tuple[ClusterNode, ...]
    models: tuple[ClusterModel, ...]
    memory_fraction: float = 0.8
    source: str = ""


def read_cluster(path: Path) -> ClusterFile:
    """Raises `Invalid`, which names every fault with its line, or `ConfigError`."""
    root = read_file(path, os.environ, begins="nodes")
    faults: Faults = []
    values = _rule().check(root, "", faults) or {}
    if not faults:
        _consistent(root, faults)
    if faults:
        faults.sort(key=lambda fault: (fault.line, fault.column))
        raise Invalid(**{f.name: getattr(faults[0], f.name) for f in fields(ConfigError)}, faults=tuple(faults))
    nodes = tuple(ClusterNode(**_in_bytes(one)) for one in values["nodes"])
    models = tuple(ClusterModel(**_named(_in_bytes(one))) for one in values["models"])
    return ClusterFile(nodes, models, values.get("memory_fraction", 0.8), str(path))


def _rule() -> Section:
    node: dict[str, Rule] = {
        "name": Text("Its name; machines that are alike are numbered."),
        "count": Number("Machines like this.", 1, _MOST_NODES, whole=True),
        "cpus": Number("Processors.", 0.1, 100_000),
        "memory_gib": Number("Memory.", 0.01, 1_000_000),
        "gpus": Number("GPUs in each.", 0, 64, whole=True),
        "gpu_memory_gib": Number("Memory of one GPU.", 0.01, 10_000),
    }
    model: dict[str, Rule] = {
        "name": Text("Its name in the plan."),
        "type": Text("Who runs it.", ("llamacpp", "huggingface", "vllm")),
        "model": Text("A GGUF file, a folder of safetensors, a name in the store, or demo."),
        "options": MapOf(Anything(), "Settings as in llm.providers: n_ctx, n_parallel, ..."),
        "memory_gib": Number("What a replica takes, instead of `model`.", 0, 1_000_000),
        "gpu_memory_gib": Number("What it takes of one GPU, beside memory_gib.", 0, 10_000),
        "cpus": Number("Processors of one replica.", 0, 100_000),
        "rate": Number("Requests per second that are expected.", 0, 1_000_000),
        "per_replica": Number("Requests per second that one replica was measured to answer, saturated.", 1e-6, 1e6),
        "slots": Number("Requests that one replica answers at once; default: from the options.", 1, 10_000, whole=True),
        "arrival_cv": Number("Coefficient of variation of the times between arrivals.", 0, 100),
        "service_cv": Number("Coefficient of variation of the service times.", 0, 100),
        "wait": Duration("The longest wait for a slot that is accepted.", low=0),
        "percentile": Number("The percentage of requests for which this holds.", 1, 99.999),
        "replicas": Number("At least so many.", 1, 10_000, whole=True),
    }
    return Section(
        {
            "nodes": ListOf(Section(node, "A machine.", ("name", "cpus", "memory_gib"), named="a node"), least=1),
            "models": ListOf(Section(model, "A model.", ("name",), named="a model"), least=1),
            "memory_fraction": Number("Share of each memory that models may take.", 0.01, 1),
        },
        "A cluster to plan for",
        ("nodes", "models"),
    )


def _consistent(root: Node, faults: Faults) -> None:
    """What no rule of a single key can see."""
    for kind in ("nodes", "models"):
        seen: dict[str, int] = {}
        for entry in root.value[kind].value:
            name = entry.value["name"]
            if name.value in seen:
                faults.append(
                    name.error(f'{kind}: "{name.value}" stands twice; the first is in line {seen[name.value]}')
                )
            seen[name.value] = name.line
    for entry in root.value["nodes"].value:
        has_gpus = "gpus" in entry.value and entry.value["gpus"].value > 0
        if has_gpus != ("gpu_memory_gib" in entry.value):
            faults.append(entry.error(f"{_title(entry)}: gpus and gpu_memory_gib are given together"))
    for entry in root.value["models"].value:
        _consistent_model(entry, faults)
    count = sum(entry.value["count"].value if "count" in entry.value else 1 for entry in root.value["nodes"].value)
    if count > _MOST_NODES:
        faults.append(root.value["nodes"].error(f"nodes: {count} machines; at most {_MOST_NODES:,} can be planned"))


def _consistent_model(entry: Node, faults: Faults) -> None:
    keys = entry.value.keys()
    sized = bool({"memory_gib", "gpu_memory_gib"} & keys)
    if ("model" in keys) == sized:
        faults.append(entry.error(f"{_title(entry)}: give either model, or memory_gib and gpu_memory_gib"))
    if sized and "type" in keys:
        faults.append(entry.value["type"].error(f"{_title(entry)}: type says how to read `model`, which is not given"))
    if "rate" in keys and entry.value["rate"].value > 0 and "per_replica" not in keys:
        faults.append(
            entry.error(
                f"{_title(entry)}: rate needs per_replica, the requests per second that one replica answers: "
                "measure it with `roundhouse bench run`"
            )
        )
    for key in ("wait", "percentile"):
        if key in keys and "rate" not in keys:
            faults.append(entry.value[key].error(f"{_title(entry)}: {key} says nothing without rate"))


def _title(entry: Node) -> str:
    return f'"{entry.value["name"].value}"'


def _in_bytes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.replace("_gib", "_bytes"): int(value * _GIB) if key.endswith("_gib") else value
        for key, value in values.items()
    }


def _named(values: dict[str, Any]) -> dict[str, Any]:
    if "wait" in values:
        values["wait_s"] = values.pop("wait")
    if "percentile" in values:
        values["share"] = values.pop("percentile") / 100
    return values
