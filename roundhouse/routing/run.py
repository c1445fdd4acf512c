"""One request while it is served, and the slot it was granted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from roundhouse.core.chat import ChatRequest, Chunk, Timings, Usage
from roundhouse.core.errors import Attempt, Error
from roundhouse.core.report import Choice, Report
from roundhouse.routing.canary import Arm
from roundhouse.routing.failover import Sent
from roundhouse.routing.replica import Replica
from roundhouse.routing.route import Route, Tiers
from roundhouse.routing.scheduler import Candidate, Decision, Serve
from roundhouse.routing.target import Target
from roundhouse.telemetry.buckets import Gaps
from roundhouse.telemetry.events import Followed, RequestEnded, RequestTraced

if TYPE_CHECKING:
    from roundhouse.routing.errand import Errand

__all__ = ["Grant", "Policy", "Run", "ended", "opening_of", "prefix_of", "traced"]


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
    """One request while it is served. `tried`: how often each replica was; `again`: which may be asked once more.

    `arm`: on which side of the route's canary it is, None = there is none; `observed`: that one was told of it.
    `last`: the end of the answer. `gaps`: times between its pieces, the latest of which was given on at `piece_at`.
    `followed`: the attempts of a traced request. `errand`: of another process, which carries the attempts out.
    """

    request: ChatRequest
    route: Route
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
    arm: Arm | None = None
    observed: bool = False
    followed: list[Followed] = field(default_factory=list)
    last: Chunk | None = None
    gaps: Gaps = field(default_factory=Gaps)
    piece_at: float = 0.0
    errand: Errand | None = None

    @property
    def tiers(self) -> Tiers:
        """Whom it may be sent to, as the route says now: a switch moves also those who wait."""
        return self.route.trial if self.arm is Arm.NEW and self.route.canary else self.route.tiers

    def passed(self, now: float) -> None:
        """A piece with content was given on. Whoever carries an attempt out measures for itself."""
        if self.errand is not None:
            return
        if self.piece_at:
            self.gaps.add(now - self.piece_at)
        self.piece_at = now

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


class Grant(msgspec.Struct, frozen=True):
    target: Target
    replica: Replica
    generation: int
    at: float


def prefix_of(request: ChatRequest) -> int:
    """What all turns of one conversation have in common: its system text and its first question."""
    if request.wording is not None:
        return request.wording.prefix
    return hash(opening_of(request))


def opening_of(request: ChatRequest) -> tuple[tuple[str, str], ...]:
    """Role and text of the turns that a conversation keeps: its system text and its first question."""
    first = request.messages[:2] if request.messages[0].role == "system" else request.messages[:1]
    return tuple((message.role, message.content) for message in first)


def ended(run: Run, outcome: str, now: float) -> RequestEnded:
    """What is told of a request that is over."""
    report = run.report
    timings = (run.last and run.last.timings) or Timings()
    usage = (run.last and run.last.usage) or Usage()
    return RequestEnded(
        request_id=report.request_id,
        route=report.route,
        target=report.target,
        outcome=outcome,
        total_s=now - run.arrived,
        queue_s=report.queue_s,
        load_s=report.load_s,
        own_s=report.overhead_s + max(0.0, now - run.arrived - timings.total_s) if run.answered else None,
        first_token_s=timings.first_token_s or None,
        decoding_s=max(0.0, timings.total_s - timings.first_token_s),
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        failed=tuple((tried.target, tried.outcome) for tried in report.attempts if tried.outcome != "ok"),
        seams=len(report.seams),
        gaps=run.gaps,
        model=report.model,
        prompt=report.prompt,
        variant=report.variant,
        experiment=report.experiment,
        arm=report.arm,
    )


def traced(run: Run, event: RequestEnded) -> RequestTraced | None:
    """What is told besides of a request that is traced."""
    asked = run.request
    if asked.trace is None:
        return None
    finish_reason = (run.last and run.last.finish_reason) or ""
    return RequestTraced(event, asked.trace, tuple(run.followed), asked.sampling, asked.raw, finish_reason)
