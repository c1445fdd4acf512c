"""One switch: what was asked for, the states that it goes through, and how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from roundhouse.core.machine import Machine
from roundhouse.routing.canary import Canary
from roundhouse.routing.replica import Replica
from roundhouse.routing.route import Route
from roundhouse.routing.target import Check, Target

__all__ = ["SWITCH", "Order", "Switch", "SwitchInput", "SwitchState"]


class SwitchState(Enum):
    PLANNING = auto()
    DRAINING = auto()
    STARTING = auto()
    CHECKING = auto()
    CANARY = auto()
    RETIRING = auto()
    DONE = auto()
    RESTORING = auto()
    FAILED = auto()


class SwitchInput(Enum):
    FITS = auto()
    FULL = auto()
    STOPPED = auto()
    READY = auto()
    TRY = auto()
    TAKE_OVER = auto()
    GONE = auto()
    FAIL = auto()
    RESTORED = auto()


_S, _I = SwitchState, SwitchInput
SWITCH: Machine[SwitchState, SwitchInput] = Machine(
    _S.PLANNING,
    {
        (_S.PLANNING, _I.FITS): _S.STARTING,
        (_S.PLANNING, _I.FULL): _S.DRAINING,
        (_S.DRAINING, _I.STOPPED): _S.STARTING,
        (_S.STARTING, _I.READY): _S.CHECKING,
        (_S.CHECKING, _I.TRY): _S.CANARY,
        (_S.CHECKING, _I.TAKE_OVER): _S.RETIRING,
        (_S.CANARY, _I.TAKE_OVER): _S.RETIRING,
        (_S.RETIRING, _I.GONE): _S.DONE,
        (_S.PLANNING, _I.FAIL): _S.RESTORING,
        (_S.DRAINING, _I.FAIL): _S.RESTORING,
        (_S.STARTING, _I.FAIL): _S.RESTORING,
        (_S.CHECKING, _I.FAIL): _S.RESTORING,
        (_S.CANARY, _I.FAIL): _S.RESTORING,
        (_S.RESTORING, _I.RESTORED): _S.FAILED,
    },
)


@dataclass(frozen=True, slots=True)
class Order:
    """`percent` of the requests go to the new target for `for_s` first (0 = no canary). `drain_s`: how long the old one
    may take to finish, None = as long as a request may. `check`: in place of the target's own.
    """

    percent: float = 0.0
    for_s: float = 0.0
    drain_s: float | None = None
    check: Check | None = None


@dataclass(slots=True, eq=False)
class Switch:
    """One switch, as far as it is. `what` in words; `beside`: old and new run at the same time; `former`: the target
    that served its route before, empty = it was not one alone.
    """

    id: str
    what: str
    routes: Sequence[Route]
    old: Sequence[Replica]
    new: Target
    flip: Callable[[], None]
    order: Order
    began: float
    state: SwitchState = SWITCH.initial
    beside: bool = True
    ended: float = 0.0
    held_s: float = 0.0
    held_at: float = 0.0
    error: str = ""
    former: str = ""
    reached: dict[str, float] = field(default_factory=dict)
    cold: Sequence[Replica] = ()
    stopped: Sequence[Replica] = ()
    canary: Canary | None = None
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return self.state in (SwitchState.DONE, SwitchState.FAILED)

    def move(self, given: SwitchInput, now: float) -> None:
        self.state = SWITCH.next(self.state, given)
        self.reached[self.state.name.lower()] = round(now - self.began, 3)
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for whoever watches."""
        told: dict[str, Any] = {
            "id": self.id,
            "what": self.what,
            "target": self.new.name,
            "state": self.state.name.lower(),
            "over": self.over,
            "mode": "side by side" if self.beside else "one after the other",
            "reached_s": self.reached,
            "held_s": round(self.held_s, 3),
            "error": self.error,
        }
        if self.canary is not None:
            told["canary"] = {
                "percent": self.canary.percent,
                "requests": {arm.value: count for arm, count in self.canary.counts.items()},
                "slow_s": round(self.canary.slow_s, 3),
                "evidence_of_failures": round(self.canary.failures.evidence, 3),
                "evidence_of_slowness": round(self.canary.slowness.evidence, 3),
            }
        return told
