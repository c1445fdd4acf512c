"""What a model would take on this machine, and how far it could be stretched. Loads nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from roundhouse.config import Settings, TargetSettings
from roundhouse.core.errors import ModelNotFound
from roundhouse.core.model import ModelFacts
from roundhouse.gateway.plan import located, needs, slots_of, usable_bytes, window_of
from roundhouse.resources.memory import Estimate
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

    Raises `ModelNotFound` for a name that is none of these or whose memory is not ours to plan, `BadHeader` for a file
    that cannot be read.
    """
    kind = "huggingface" if Path(model).expanduser().is_dir() else "llamacpp"
    bare = TargetSettings(name=model, type=kind, model=model)
    entry = next((target for target in settings.targets if target.name == model), bare)
    asked = {name: value for name, value in (("n_ctx", context), ("n_parallel", slots)) if value}
    entry = replace(entry, options={**entry.options, **asked})
    path = located(entry, settings)
    if entry.endpoint or entry.type not in ("llamacpp", "huggingface"):
        raise ModelNotFound(f'target "{model}" is run by {entry.type}, which plans its own memory', model=model)
    if not path.exists():
        known = ", ".join(target.name for target in settings.targets) or "there are none"
        raise ModelNotFound(f'"{model}" is no target ({known}), or its file {path} is not here', model=model)
    facts = read_model(path)
    takes, free = needs(entry, facts), usable_bytes(settings)
    context, slots = window_of(entry, facts), slots_of(entry)
    windows = -(-facts.context // _STEP_TOKENS)
    steps = _largest(windows, lambda step: takes(step * _STEP_TOKENS, slots).total <= free)
    return Prospect(
        backend=entry.type,
        path=str(path),
        facts=facts,
        context=context,
        slots=slots,
        needs=takes(context, slots),
        free_bytes=free,
        largest_context=min(facts.context, steps * _STEP_TOKENS),
        most_slots=_largest(_MOST_SLOTS, lambda count: takes(context, count).total <= free),
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
