"""The owner of targets: decides by pure functions who serves, grants slots, streams, and moves on when one fails."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from roundhouse.core.chat import ChatRequest, Chunk, Chunks
from roundhouse.core.errors import (
    Attempt as Tried,
)
from roundhouse.core.errors import (
    ContextTooLong,
    Error,
    Loading,
    Overloaded,
    QueueFull,
    TimedOut,
)
from roundhouse.core.report import Choice, Report
from roundhouse.engines.lifecycle import Engine, EngineState
from roundhouse.providers.base import LLMProvider
from roundhouse.routing import failover
from roundhouse.routing.attempt import Attempt
from roundhouse.routing.failover import Sent, conclude
from roundhouse.routing.queue import Ticket, WaitingRoom
from roundhouse.routing.replica import Replica
from roundhouse.routing.scheduler import Candidate, Decision, Exhausted, Full, Serve, Wait, choose
from roundhouse.routing.target import Target

__all__ = ["Manager", "Policy", "Reply", "Tiers"]

log = logging.getLogger(__name__)

# Names of targets in order of preference; names together are equals, among which load is balanced.
Tiers = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Policy:
    """`total_s` limits a request that brings no deadline. At most `queue` requests wait. One request may make
    `attempts`; of all active ones `retry_share` may ask a backend a second time, or `retry_floor` if that is more.
    """

    total_s: float = 600.0
    queue: int = 256
    attempts: int = 3
    retry_share: float = 0.2
    retry_floor: int = 3
    backoff_s: float = 0.1
    most_backoff_s: float = 5.0
    remembered: int = 1000


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way: iterate `chunks` once; `report` fills in as it goes and is complete at the end."""

    chunks: Chunks
    report: Report


@dataclass(slots=True)
class _Run:
    """One request while it is served. `tried`: how often each replica was; `again`: which may be asked once more."""

    request: ChatRequest
    tiers: Tiers
    report: Report
    arrived: float
    deadline: float
    prefix: int
    sent: Sent = field(default_factory=Sent)
    failures: list[tuple[Tried, Error]] = field(default_factory=list)
    tried: dict[str, int] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    attempts: int = 0
    too_long_for: int = 0
    answered: bool = False
    retrying: bool = False
    turn: asyncio.Future[_Grant] | None = None


@dataclass(frozen=True, slots=True)
class _Grant:
    target: Target
    replica: Replica
    generation: int
    at: float


class Manager:
    """Everything it holds is touched from one event loop. `chance` gives numbers in [0, 1), for jitter and ties."""

    def __init__(
        self,
        targets: Iterable[Target],
        policy: Policy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.targets = {target.name: target for target in targets}
        self.policy = policy or Policy()
        self.waiting = WaitingRoom(self.policy.queue)
        self.active = 0
        self.retrying = 0
        self._clock = clock
        self._chance = chance
        self._reports: OrderedDict[str, Report] = OrderedDict()
        self._alarm: asyncio.TimerHandle | None = None
        self._mending: set[asyncio.Task[None]] = set()
        for target in self.targets.values():
            for replica in target.replicas:
                replica.engine.listen(self._engine_changed)

    def stream(self, request: ChatRequest, tiers: Tiers, report: Report) -> Reply:
        """The answer of the first candidate that can give one. Nothing starts before the first iteration."""
        return Reply(self._serve(request, tiers, report), report)

    def decisions(self, request_id: str) -> Report | None:
        """What was decided for a request, while it is remembered."""
        return self._reports.get(request_id)

    async def reach(self, tiers: Tiers) -> tuple[Target, LLMProvider]:
        """The first target whose engine is or can be made ready, and its client; raises if none can be."""
        failures: list[tuple[Tried, Error]] = []
        for name in [name for tier in tiers for name in tier]:
            target, started = self.targets[name], self._clock()
            replica = min(target.replicas, key=lambda one: (not one.warm, one.busy))
            try:
                return target, await replica.client()
            except Error as error:
                failures.append((Tried(name, error.code, str(error), self._clock() - started), error))
                if not error.failover:
                    raise
        raise conclude(tiers[0][0], failures)

    async def aclose(self) -> None:
        """Stop every engine and close every connection; each is tried even if another fails."""
        for task in self._mending:
            task.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        replicas = [replica for target in self.targets.values() for replica in target.replicas]
        results = await asyncio.gather(*(replica.aclose() for replica in replicas), return_exceptions=True)
        for replica, result in zip(replicas, results, strict=True):
            if isinstance(result, BaseException):
                log.error("closing %s: %s", replica.key, result)

    # -- one request ------------------------------------------------------------------------------------------------

    async def _serve(self, request: ChatRequest, tiers: Tiers, report: Report) -> Chunks:
        arrived = self._clock()
        deadline = arrived + (request.deadline_s or self.policy.total_s)
        run = _Run(request, tiers, report, arrived, deadline, _prefix_of(request))
        self._remember(report)
        self.active += 1
        try:
            while not run.answered:
                grant = await self._admit(run)
                failed: Error | None = None
                try:
                    async with aclosing(self._attempted(run, grant)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                except Error as error:
                    failed = error
                finally:
                    if not run.answered:
                        self._release(grant, failed)
                if failed is not None:
                    await asyncio.sleep(self._go_on(run, grant, failed))
        finally:
            self.active -= 1
            self.retrying -= run.retrying

    async def _attempted(self, run: _Run, grant: _Grant) -> Chunks:
        """What one attempt adds to the answer. `run.sent` grows by it once it has failed."""
        attempt = Attempt(
            grant.target,
            grant.replica,
            run.request,
            run.report,
            run.sent,
            arrived=run.arrived,
            deadline=run.deadline,
            clock=self._clock,
        )
        sent = run.sent.copy()
        try:
            async with aclosing(attempt.chunks()) as chunks:
                async for chunk in chunks:
                    sent.add(chunk)
                    if chunk.finish_reason:  # the slot is free before the client has taken the last piece
                        self._succeeded(run, grant, chunk)
                    yield chunk
        finally:
            run.sent = sent

    def _succeeded(self, run: _Run, grant: _Grant, last: Chunk) -> None:
        now = self._clock()
        run.answered = True
        run.report.attempts.append(Tried(grant.target.name, "ok", seconds=now - grant.at))
        speed = last.timings.tokens_per_s if last.timings else 0.0
        grant.replica.served(run.prefix, speed, now - grant.at)
        grant.replica.standing.succeeded(grant.generation, now)
        self._give_back(grant)

    def _release(self, grant: _Grant, failed: Error | None) -> None:
        """The slot back, and what the end means for the replica; no error = the client has gone."""
        standing = grant.replica.standing
        if failed is None:
            standing.abandoned(grant.generation)
        else:
            standing.failed(failed, grant.generation, self._clock(), self._chance())
        self._give_back(grant)

    def _go_on(self, run: _Run, grant: _Grant, error: Error) -> float:
        """Seconds to pause before another attempt; raises if there shall be none."""
        name, key = grant.target.name, grant.replica.key
        tried = Tried(name, error.code, str(error), self._clock() - grant.at)
        run.report.attempts.append(tried)
        run.failures.append((tried, error))
        run.tried[key] = run.tried.get(key, 0) + 1
        log.warning("%s failed (%s): %s", key, error.code, error)
        if not failover.may_go_on(error, run.request, run.sent):
            raise error
        if isinstance(error, ContextTooLong):
            run.too_long_for = max(run.too_long_for, error.limit_tokens or grant.target.window_tokens or 1)
        if isinstance(error, Loading) or (run.tried[key] == 1 and failover.may_ask_again(error)):
            run.again.add(key)
        else:
            run.again.discard(key)
        run.attempts += failover.counts_as_attempt(error)
        now = self._clock()
        exhausted = isinstance(self._decide(run, now, self._candidates(run, now)), Exhausted)
        if exhausted or run.attempts >= self.policy.attempts:
            raise error if run.sent.committed else conclude(run.report.route, run.failures)
        if self._untried(run):
            return 0.0
        self._retry(run)
        doublings = min(len(run.failures), 16)
        longest = min(self.policy.most_backoff_s, self.policy.backoff_s * 2.0**doublings)
        return min(longest * self._chance(), max(0.0, run.deadline - self._clock()))

    def _retry(self, run: _Run) -> None:
        """A backend is to be asked a second time: within the budget, lest a failing one is buried under retries."""
        if run.retrying:
            return
        if self.retrying >= max(self.policy.retry_floor, self.policy.retry_share * self.active):
            raise conclude(run.report.route, run.failures)
        run.retrying = True
        self.retrying += 1

    # -- who serves -------------------------------------------------------------------------------------------------

    async def _admit(self, run: _Run) -> _Grant:
        """A slot for the request, waited for if need be."""
        asked = self._clock()
        candidates = self._candidates(run, asked)
        decision = self._decide(run, asked, candidates)
        _note(run, decision, asked, candidates)
        if isinstance(decision, Serve):
            return self._grant(run, decision, asked)
        if not isinstance(decision, Wait):
            raise self._refusal(run, decision)
        grant = await self._wait(run, decision)
        run.report.queue_s += grant.at - asked
        return grant

    async def _wait(self, run: _Run, decision: Wait) -> _Grant:
        run.turn = asyncio.get_running_loop().create_future()
        ticket = self.waiting.enter(run, arrived=run.arrived, priority=run.request.priority)
        self._set_alarm(decision.again_in_s)
        try:
            async with asyncio.timeout(max(0.0, run.deadline - self._clock())):
                return await asyncio.shield(run.turn)
        except TimeoutError:
            self._take_back(run)
            waited = self._clock() - run.arrived
            raise TimedOut(
                f"no slot became free within {waited:.3g} s, the request's whole time", phase="total", limit_s=waited
            ) from None
        except asyncio.CancelledError:
            self._take_back(run)
            raise
        finally:
            self.waiting.leave(ticket)

    def _take_back(self, run: _Run) -> None:
        """A slot that was granted in the moment its waiter left."""
        turn = run.turn
        if turn is not None and turn.done() and not turn.cancelled() and turn.exception() is None:
            self._release(turn.result(), None)
        elif turn is not None:
            turn.cancel()

    def _dispatch(self) -> None:
        """Something changed: give every slot that is free to the first in the queue who may have it."""
        soonest: float | None = None
        refused: set[tuple[object, ...]] = set()
        for ticket in self.waiting:
            run: _Run = ticket.payload
            if run.turn is None or run.turn.done():
                continue
            alike = (id(run.tiers), run.sent.committed, run.too_long_for, *run.tried)
            if alike in refused:
                continue
            now = self._clock()
            candidates = self._candidates(run, now)
            decision = self._decide(run, now, candidates, waiting=True)
            if isinstance(decision, Serve):
                _note(run, decision, now, candidates)
                self._let_in(ticket, self._grant(run, decision, now))
            elif isinstance(decision, Wait):
                refused.add(alike)
                if decision.again_in_s is not None:
                    soonest = min(decision.again_in_s, soonest or decision.again_in_s)
            else:
                self.waiting.leave(ticket)
                run.turn.set_exception(self._refusal(run, decision))
        self._set_alarm(soonest)

    def _let_in(self, ticket: Ticket, grant: _Grant) -> None:
        self.waiting.leave(ticket)
        run: _Run = ticket.payload
        assert run.turn is not None
        run.turn.set_result(grant)

    def _set_alarm(self, in_s: float | None) -> None:
        """Look at the queue again when the next objection ends, even if no slot becomes free before."""
        if in_s is None:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_later(in_s, self._dispatch)

    def _decide(
        self, run: _Run, now: float, candidates: Sequence[Sequence[Candidate]], *, waiting: bool = False
    ) -> Decision:
        return choose(
            candidates,
            chance=self._chance(),
            queue_full=self.waiting.full and not waiting,
            patience_s=run.deadline - now,
        )

    def _candidates(self, run: _Run, now: float) -> list[list[Candidate]]:
        return [
            [
                Candidate(
                    replica.key,
                    replica.free,
                    replica.busy,
                    self._unfit(run, target, replica),
                    replica.standing.objection(now),
                    replica.standing.routable_in_s(now),
                    replica.standing.waits_by_itself,
                    replica.speed,
                    replica.standing.breaker.weight(now),
                    replica.warm,
                    replica.holds(run.prefix),
                )
                for target in (self.targets[name] for name in tier)
                for replica in target.replicas
            ]
            for tier in run.tiers
        ]

    def _unfit(self, run: _Run, target: Target, replica: Replica) -> str:
        """Why a replica can never serve this request any more; empty = it can."""
        if replica.key in run.tried and (replica.key not in run.again or self._untried(run)):
            return "it was tried"
        if run.too_long_for and target.window_tokens <= run.too_long_for:
            return "its window is not known to be larger"
        if run.sent.committed and target.model != run.report.model:
            return "it has another model than the answer was begun by"
        if run.sent.committed and not target.capabilities.continuation:
            return "it cannot go on from a given text"
        return ""

    def _untried(self, run: _Run) -> bool:
        """Whether the request has fit replicas that it has not come to yet; they come before a second try."""
        for name in (name for tier in run.tiers for name in tier):
            target = self.targets[name]
            if run.too_long_for and target.window_tokens <= run.too_long_for:
                continue
            if run.sent.committed and (target.model != run.report.model or not target.capabilities.continuation):
                continue
            if any(replica.key not in run.tried for replica in target.replicas):
                return True
        return False

    def _grant(self, run: _Run, decision: Serve, now: float) -> _Grant:
        target, replica = next(
            (target, replica)
            for tier in run.tiers
            for target in (self.targets[name] for name in tier)
            for replica in target.replicas
            if replica.key == decision.key
        )
        replica.busy += 1
        return _Grant(target, replica, replica.standing.begin(now), now)

    def _give_back(self, grant: _Grant) -> None:
        grant.replica.busy -= 1
        self._dispatch()

    def _refusal(self, run: _Run, decision: Decision) -> Error:
        """Why a request is not served at all."""
        if isinstance(decision, Full):
            return QueueFull(
                f"{self.active - len(self.waiting) - 1} requests are running and {len(self.waiting)} are waiting, "
                "which is the limit; try again later",
                retry_after_s=self._expected_wait_s(run),
            )
        if run.failures:
            return conclude(run.report.route, run.failures)
        now = self._clock()
        soonest = min((one for tier in self._candidates(run, now) for one in tier), key=lambda one: one.routable_in_s)
        return Overloaded(
            f'no target of route "{run.report.route}" can serve in time: {soonest.key} is {soonest.objection}',
            rate_limited=True,
            retry_after_s=soonest.routable_in_s,
        )

    def _expected_wait_s(self, run: _Run) -> float:
        """Seconds until a request that came now would be served, from measured service times."""
        replicas = [one for tier in run.tiers for name in tier for one in self.targets[name].replicas]
        rate = sum(one.slots / max(one.service_s, 0.001) for one in replicas)
        return max(1.0, (len(self.waiting) + 1) / rate)

    # -- what is remembered, and engines that come back ---------------------------------------------------------------

    def _remember(self, report: Report) -> None:
        self._reports[report.request_id] = report
        if len(self._reports) > self.policy.remembered:
            self._reports.popitem(last=False)

    def _engine_changed(self, engine: Engine, old: EngineState, new: EngineState) -> None:
        """An engine that crashed while it served is started again, without waiting for someone to ask for it."""
        if old is EngineState.READY and new is EngineState.FAILED:
            task = asyncio.get_running_loop().create_task(_mend(engine), name=f"restart of {engine.target}")
            self._mending.add(task)
            task.add_done_callback(self._mending.discard)
        if new is EngineState.READY and self.waiting:
            asyncio.get_running_loop().call_soon(self._dispatch)


def _note(run: _Run, decision: Decision, now: float, candidates: Sequence[Sequence[Candidate]]) -> None:
    """Keep the decision for whoever asks why."""
    said = "forced" if isinstance(decision, Serve) and decision.forced else type(decision).__name__.lower()
    outcome = f"{said} {decision.key}" if isinstance(decision, Serve) else said
    objections = tuple(
        (one.key, one.unfit or one.objection or f"{one.busy} of {one.busy + one.free} slots are taken")
        for tier in candidates
        for one in tier
        if one.unfit or one.objection or one.free <= 0
    )
    run.report.choices.append(Choice(now - run.arrived, outcome, objections))


async def _mend(engine: Engine) -> None:
    try:
        await engine.restart()
    except Error as error:
        log.error("%s could not be started again: %s", engine.target, error)


def _prefix_of(request: ChatRequest) -> int:
    """What all turns of one conversation have in common: its system text and its first question."""
    first = request.messages[:2] if request.messages[0].role == "system" else request.messages[:1]
    return hash(tuple((message.role, message.content) for message in first))
