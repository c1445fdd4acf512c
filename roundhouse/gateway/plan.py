"""What to start for an entry that we run ourselves, and whether it fits. Looks at files and at the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from roundhouse.config import Settings, TargetSettings
from roundhouse.engines import launch
from roundhouse.gateway.demo import DEMO_MODEL, DEMO_OPTIONS, demo_gguf, demo_safetensors
from roundhouse.resources import hardware
from roundhouse.resources.memory import Estimate, check_fit, estimate_llamacpp
from roundhouse.resources.memory_transformers import TransformersSettings, estimate_transformers
from roundhouse.store.headers import read_gguf, read_model

__all__ = ["PLANS", "Plan", "is_demo", "is_managed", "slots_of"]

VLLM_COMMAND = "vllm"


@dataclass(frozen=True, slots=True)
class Plan:
    """`estimate` None: the backend plans its memory itself, within the share that it is given."""

    spawn: launch.Spawn
    estimate: Estimate | None = None
    free_bytes: int = 0


def is_demo(entry: TargetSettings) -> bool:
    return entry.model == DEMO_MODEL and not entry.endpoint


def is_managed(entry: TargetSettings) -> bool:
    """Whether we start it: a type of ours without an endpoint. vLLM only by a program that the user names."""
    return not entry.endpoint and entry.type in PLANS and (entry.type != "vllm" or bool(entry.executable))


def slots_of(entry: TargetSettings) -> int:
    """Requests that a managed entry serves at once."""
    option, default = {
        "llamacpp": ("n_parallel", launch.DEFAULT_SLOTS),
        "huggingface": ("n_parallel", launch.HUGGINGFACE_SLOTS),
        "vllm": ("max_num_seqs", launch.VLLM_SLOTS),
    }[entry.type]
    return int(entry.options.get(option, default))


def plan_llamacpp(entry: TargetSettings, settings: Settings) -> Plan:
    """Raises `BadHeader`, `NoFit`."""
    path = _model_path(entry.model, settings.source, demo_gguf)
    facts = read_gguf(path)
    options = {**DEMO_OPTIONS, **entry.options} if is_demo(entry) else entry.options
    window = options.get("n_ctx") or facts.context
    spawn = launch.llamacpp(
        str(path),
        {**options, "n_ctx": window},
        cores=hardware.usable_cores(),
        env=entry.env,
        executable=entry.executable,
    )
    estimate = estimate_llamacpp(facts, {"n_parallel": spawn.slots, **options, "window": window})
    return _checked(Plan(spawn, estimate, _free_bytes(settings)), entry)


def plan_huggingface(entry: TargetSettings, settings: Settings) -> Plan:
    """Raises `BadHeader`, `NoFit`. A hub name is not looked at before it is loaded: its files may not be here yet."""
    path = _model_path(entry.model, settings.source, demo_safetensors)
    local = path.is_dir()
    spawn = launch.huggingface(
        str(path) if local else entry.model,
        entry.options,
        cores=hardware.usable_cores(),
        cpu_flags=hardware.cpu_flags(),
        env=entry.env,
    )
    if not local or hardware.gpus():  # on a GPU the worker takes its cache from what it finds free
        return Plan(spawn)
    flags = hardware.cpu_flags()
    asked = TransformersSettings.of(entry.options, slots=spawn.slots, cpu_flags=flags)
    return _checked(Plan(spawn, estimate_transformers(read_model(path), asked), _free_bytes(settings)), entry)


def plan_vllm(entry: TargetSettings, settings: Settings) -> Plan:
    path = _model_path(entry.model, settings.source, demo_safetensors)
    model = str(path) if path.is_dir() else entry.model
    return Plan(launch.vllm(model, entry.model, entry.options, executable=entry.executable, env=entry.env))


PLANS: Mapping[str, Callable[[TargetSettings, Settings], Plan]] = {
    "llamacpp": plan_llamacpp,
    "huggingface": plan_huggingface,
    "vllm": plan_vllm,
}


def _checked(plan: Plan, entry: TargetSettings) -> Plan:
    assert plan.estimate is not None
    check_fit(plan.estimate, plan.free_bytes, entry.name)
    return plan


def _free_bytes(settings: Settings) -> int:
    return int(hardware.cpu().free_bytes * settings.resources.memory_fraction)


def _model_path(model: str, source: str, demo: Callable[[], Path]) -> Path:
    """`demo`, or a file or folder: as written, or beside the configuration's folder if it is not here."""
    if model == DEMO_MODEL:
        return demo()
    path = Path(os.path.expandvars(model)).expanduser()
    beside = Path(source).parent / path
    return beside if not path.exists() and beside.exists() else path
