"""How a model could be run here: what to spawn, what it takes of each memory, what was given up for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from roundhouse.core.model import DeviceFacts
from roundhouse.engines.launch import Spawn
from roundhouse.resources.memory import Estimate
from roundhouse.resources.placement import Option

__all__ = ["Plan", "Way"]


@dataclass(frozen=True, slots=True)
class Way:
    """`estimate`: where the bytes go, None = the backend plans its memory itself. `note`: what was given up for this
    way.

    `key` identifies the load in what was learned of earlier ones; empty = nothing is learned.
    """

    spawn: Spawn
    option: Option
    estimate: Estimate | None = None
    note: str = ""
    key: str = ""


# The ways of one model over the devices as they are now, best first. It may read files: call it in a thread.
Plan: TypeAlias = Callable[[Sequence[DeviceFacts]], Sequence[Way]]
