"""What is compared, on whom, by what measure, and which arm a unit is in. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from roundhouse.core.errors import ConfigError

__all__ = ["AUTOMATIC", "Allocation", "Arm", "Assigned", "Experiment", "Goal", "assign", "exposure_id", "unit_id"]

# Measured by the house itself for every exposure, in the unit of their name; `refusal` and `error` are 0 or 1.
AUTOMATIC = ("error", "first_token_s", "total_s", "output_tokens", "cut_off", "refusal")


class Goal(Enum):
    HIGHER = "higher"
    LOWER = "lower"


class Allocation(Enum):
    """`thompson`: shares change, after every batch of units, towards the arm that seems to be the best."""

    FIXED = "fixed"
    THOMPSON = "thompson"


@dataclass(frozen=True, slots=True)
class Arm:
    """What a request of this arm gets in place of what it asked for; empty = what it asked for.

    `prompt`: a prompt, with a label or version if wanted; `route`: a route or target; `settings`: sampling.
    """

    name: str
    weight: float = 1.0
    prompt: str = ""
    route: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Experiment:
    """The first arm is the control. It concerns requests for `prompt`, or without a prompt for `route`.

    `unit`: `body` (experiment_unit or user), `header:NAME`, `key` (the API key) or `request` (each by itself).
    `guardrails`: by metric, how much worse than the control an arm may be; for all of them, lower is better.
    `alpha` bounds the chance of ever naming a winner where there is none; `least`: units of each arm before a verdict.
    `planned`: units at which the intervals are narrowest, fixed before the start. `covariate`: "characters", the size
    of what was asked, which is known before an arm is chosen; or none. `scorers`: names of scorers that judge every
    answer, each a metric of its name. `batch`: units between two changes of the shares, where they change.

    Raises `ConfigError` for a design that cannot be run.
    """

    name: str
    arms: tuple[Arm, ...]
    metric: str
    prompt: str = ""
    route: str = ""
    goal: Goal = Goal.HIGHER
    unit: str = "body"
    guardrails: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 0.05
    least: int = 50
    planned: int = 500
    auto_promote: bool = False
    covariate: str = ""
    scorers: tuple[str, ...] = ()
    allocation: Allocation = Allocation.FIXED
    batch: int = 200

    def __post_init__(self) -> None:
        if len(self.arms) < 2:
            raise self._refused("it needs two arms at least; the first is the control")
        if bool(self.prompt) == bool(self.route):
            raise self._refused("name the prompt or the route whose requests it concerns, one of the two")
        if sum(arm.weight for arm in self.arms) <= 0:
            raise self._refused("all weights are 0, so that nobody could be assigned")
        if self.metric in self.guardrails:
            raise self._refused(f'"{self.metric}" is its metric already and cannot be a guardrail too')
        if not (self.unit in ("body", "key", "request") or self.unit.startswith("header:")):
            raise self._refused(f'unit "{self.unit}" is none; use body, key, request or header:NAME')

    @property
    def weights(self) -> dict[str, float]:
        """Shares that sum to 1."""
        total = sum(arm.weight for arm in self.arms)
        return {arm.name: arm.weight / total for arm in self.arms}

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def _refused(self, said: str) -> ConfigError:
        return ConfigError(f"experiments.{self.name}: {said}", key=f"experiments.{self.name}")


@dataclass(frozen=True, slots=True)
class Assigned:
    arm: str
    probability: float


def assign(salt: str, unit: str, weights: Mapping[str, float]) -> Assigned:
    """The arm of a unit: 53 bits of a salted SHA-256 as a number in [0, 1), and the shares in their order.

    The salt differs between experiments, so that an arm in one says nothing about the arm in another.
    """
    digest = hashlib.sha256(f"{salt}\0{unit}".encode("utf-8", "surrogatepass")).digest()
    point = (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
    reached, last = 0.0, ""
    for name, share in weights.items():
        if share > 0:
            reached, last = reached + share, name
            if point < reached:
                break
    return Assigned(last, weights[last])


def unit_id(salt: str, unit: str) -> int:
    """What is stored of a unit: 63 bits of a hash, so that no user's name or key lies on the disk."""
    return (
        int.from_bytes(hashlib.sha256(f"unit\0{salt}\0{unit}".encode("utf-8", "surrogatepass")).digest()[:8], "big")
        >> 1
    )


def exposure_id(experiment: str, request_id: str) -> int:
    """One number for one request in one experiment."""
    return int.from_bytes(hashlib.sha256(f"{experiment}\0{request_id}".encode()).digest()[:8], "big") >> 1
