"""One request while it is served, and the slot it was granted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import Attempt, Error
from roundhouse.core.report import Choice, Report
from roundhouse.routing.failover import Sent
from roundhouse.routing.replica import Replica
from roundhouse.routing.scheduler import Candidate, Decision, Serve
from roundhouse.routing.target import Target

__all__ = ["Grant", "Policy", "Run", "Tiers", "prefix_of"]

# Names of targets in order of preference; names together are equals, among which load is balanced.
Tiers: TypeAlias = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Policy:
    """`total_s` limits a request that brings no deadline. At most `queue` requests wait. One request may make
    `attempts`; of all active ones `retry_share` may ask a backend a second time, or `retry_floor` if that is more.
    After `hedge_s` without a first token a second replica is asked beside the first (0 = never).
    """

    total_s: float = 600.0
    queue: int = 256
    attempts: int = 3
    retry_share: float = 0.2
    retry_floor: int = 3
    hedge_s: float = 0.0
    backoff_s: float = 0.1
    most_backoff_s: float = 5.0
    remembered: int = 1000


@dataclass(slots=True)
class Run:
    """One request while it is served. `tried`: how often each replica was; `again`: which may be asked once more."""

    request: ChatRequest
    tiers: Tiers
    report: Report
    arrived: float
    deadline: float
    prefix: int
    sent: Sent = field(default_factory=Sent)
    failures: list[tuple[Attempt, Error]] = field(default_factory=list)
    tried: dict[str, int] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    attempts: int = 0
    too_long_for: int = 0
    answered: bool = False
    retrying: bool = False
    grants: list[Grant] = field(default_factory=list)
    turn: asyncio.Future[Grant] | None = None

    def note(self, decision: Decision, now: float, candidates: Sequence[Sequence[Candidate]]) -> None:
        """Keep the decision for whoever asks why."""
        said = "forced" if isinstance(decision, Serve) and decision.forced else type(decision).__name__.lower()
        outcome = f"{said} {decision.key}" if isinstance(decision, Serve) else said
        objections = tuple(
            (one.key, one.unfit or one.objection or f"{one.busy} of {one.busy + one.free} slots are taken")
            for tier in candidates
            for one in tier
            if one.unfit or one.objection or one.free <= 0
        )
        self.report.choices.append(Choice(now - self.arrived, outcome, objections))


@dataclass(frozen=True, slots=True)
class Grant:
    target: Target
    replica: Replica
    generation: int
    at: float


def prefix_of(request: ChatRequest) -> int:
    """What all turns of one conversation have in common: its system text and its first question."""
    first = request.messages[:2] if request.messages[0].role == "system" else request.messages[:1]
    return hash(tuple((message.role, message.content) for message in first))
