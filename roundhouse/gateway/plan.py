"""What to start for an entry that we run ourselves, and whether it fits. Looks at files and at the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from roundhouse.config import Settings, TargetSettings
from roundhouse.core.model import ModelFacts
from roundhouse.engines import launch
from roundhouse.gateway.demo import DEMO_MODEL, DEMO_OPTIONS, demo_gguf, demo_safetensors
from roundhouse.resources import hardware
from roundhouse.resources.memory import Estimate, LlamaCppSettings, check_fit, estimate
from roundhouse.resources.memory_transformers import TransformersSettings, estimate_transformers
from roundhouse.store.headers import read_gguf, read_model

__all__ = [
    "PLANS",
    "Plan",
    "is_demo",
    "is_managed",
    "located",
    "needs",
    "slots_of",
    "usable_bytes",
    "window_of",
]


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


def located(entry: TargetSettings, settings: Settings) -> Path:
    """Its file or folder: that of the demo, as written, or beside the configuration's folder if it is not here."""
    if entry.model == DEMO_MODEL:
        return demo_gguf() if entry.type == "llamacpp" else demo_safetensors()
    path = Path(os.path.expandvars(entry.model)).expanduser()
    beside = Path(settings.source).parent / path
    return beside if not path.exists() and beside.exists() else path


def needs(entry: TargetSettings, facts: ModelFacts) -> Callable[[int, int], Estimate]:
    """What a model takes on this processor by an entry's options, as a function of window and slots."""
    if entry.type == "huggingface":
        asked = TransformersSettings.of(entry.options, slots=1, cpu_flags=hardware.cpu_flags())
        return lambda window, slots: estimate_transformers(facts, replace(asked, n_ctx=window, slots=slots))
    wanted = LlamaCppSettings.of(entry.options)
    return lambda window, slots: estimate(facts, replace(wanted, n_ctx=window, n_parallel=slots))


def window_of(entry: TargetSettings, facts: ModelFacts) -> int:
    """Tokens of one request: as asked, else as trained."""
    return int(entry.options.get("n_ctx") or facts.context)


def usable_bytes(settings: Settings) -> int:
    """Memory of the processor that models may take now."""
    return int(hardware.cpu().free_bytes * settings.resources.memory_fraction)


def plan_llamacpp(entry: TargetSettings, settings: Settings) -> Plan:
    """Raises `BadHeader`, `NoFit`."""
    path = located(entry, settings)
    facts = read_gguf(path)
    options = {**DEMO_OPTIONS, **entry.options} if is_demo(entry) else entry.options
    spawn = launch.llamacpp(
        str(path),
        {**options, "n_ctx": window_of(entry, facts)},
        cores=hardware.usable_cores(),
        env=entry.env,
        executable=entry.executable,
    )
    return _checked(spawn, entry, facts, settings)


def plan_huggingface(entry: TargetSettings, settings: Settings) -> Plan:
    """Raises `BadHeader`, `NoFit`. A hub name is not looked at before it is loaded: its files may not be here yet."""
    path = located(entry, settings)
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
    return _checked(spawn, entry, read_model(path), settings)


def plan_vllm(entry: TargetSettings, settings: Settings) -> Plan:
    path = located(entry, settings)
    model = str(path) if path.is_dir() else entry.model
    return Plan(launch.vllm(model, entry.model, entry.options, executable=entry.executable, env=entry.env))


PLANS: Mapping[str, Callable[[TargetSettings, Settings], Plan]] = {
    "llamacpp": plan_llamacpp,
    "huggingface": plan_huggingface,
    "vllm": plan_vllm,
}


def _checked(spawn: launch.Spawn, entry: TargetSettings, facts: ModelFacts, settings: Settings) -> Plan:
    plan = Plan(spawn, needs(entry, facts)(window_of(entry, facts), spawn.slots), usable_bytes(settings))
    assert plan.estimate is not None
    check_fit(plan.estimate, plan.free_bytes, entry.name)
    return plan
