"""What a model would take on this machine, and how far it could be stretched. Loads nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from roundhouse.config import Settings
from roundhouse.core.errors import ModelNotFound
from roundhouse.core.model import ModelFacts
from roundhouse.engines import launch
from roundhouse.gateway.demo import DEMO_MODEL, demo_gguf
from roundhouse.resources import hardware
from roundhouse.resources.memory import Estimate, LlamaCppSettings, estimate
from roundhouse.resources.memory_transformers import TransformersSettings, estimate_transformers
from roundhouse.store.headers import read_model

__all__ = ["Prospect", "prospect"]

_STEP_TOKENS = 256
_MOST_SLOTS = 256


@dataclass(frozen=True, slots=True)
class Prospect:
    """`context` and `slots` as asked; the largest of each that fit while the other stays, 0 = none does."""

    backend: str
    path: str
    facts: ModelFacts
    context: int
    slots: int
    needs: Estimate
    free_bytes: int
    largest_context: int
    most_slots: int

    @property
    def fits(self) -> bool:
        return self.needs.total <= self.free_bytes


def prospect(model: str, settings: Settings, *, context: int = 0, slots: int = 0) -> Prospect:
    """For a target of the configuration, `demo`, a GGUF file or a folder of safetensors; what is unset is the target's.

    Raises `ModelNotFound` for a name that is none of these, `BadHeader` for a file that cannot be read.
    """
    entry = next((target for target in settings.targets if target.name == model), None)
    options = dict(entry.options) if entry is not None else {}
    path = demo_gguf() if model == DEMO_MODEL and entry is None else Path(entry.model if entry else model).expanduser()
    if entry is not None and entry.model == DEMO_MODEL:
        path = demo_gguf()
    if not path.exists():
        known = ", ".join(target.name for target in settings.targets) or "there are none"
        raise ModelNotFound(f'"{model}" is no target ({known}), no file and no folder', model=model)
    facts = read_model(path)
    options |= {name: value for name, value in (("n_ctx", context), ("n_parallel", slots)) if value}
    free = int(hardware.cpu().free_bytes * settings.resources.memory_fraction)
    needs: Callable[[int, int], Estimate]
    if path.is_dir():
        backend = "huggingface"
        slots = int(options.get("n_parallel") or launch.HUGGINGFACE_SLOTS)
        asked = TransformersSettings.of(options, slots=slots, cpu_flags=hardware.cpu_flags())

        def needs(context: int, slots: int) -> Estimate:
            return estimate_transformers(facts, replace(asked, n_ctx=context, slots=slots))
    else:
        backend = "llamacpp"
        slots = int(options.get("n_parallel") or launch.DEFAULT_SLOTS)
        wanted = LlamaCppSettings.of({**options, "n_parallel": slots})

        def needs(context: int, slots: int) -> Estimate:
            return estimate(facts, replace(wanted, n_ctx=context, n_parallel=slots))

    context = int(options.get("n_ctx") or facts.context)
    return Prospect(
        backend,
        str(path),
        facts,
        context,
        slots,
        needs(context, slots),
        free,
        min(
            facts.context,
            _STEP_TOKENS
            * _largest(-(-facts.context // _STEP_TOKENS), lambda n: needs(n * _STEP_TOKENS, slots).total <= free),
        ),
        _largest(_MOST_SLOTS, lambda n: needs(context, n).total <= free),
    )


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` that fits, if smaller ones fit too; 0 = none."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
