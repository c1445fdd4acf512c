"""Who gets which slot: decides by pure functions over what it owns, the slots of all and the queue before them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from roundhouse.core.errors import Error, ModelNotFound, Overloaded, QueueFull, TimedOut
from roundhouse.routing.failover import conclude
from roundhouse.routing.queue import Ticket, WaitingRoom
from roundhouse.routing.replica import Replica
from roundhouse.routing.route import avoiding
from roundhouse.routing.run import Grant, Run
from roundhouse.routing.scheduler import Candidate, Decision, Full, Serve, Wait, choose
from roundhouse.routing.target import Target

__all__ = ["Admission"]


class Admission:
    """Touched from one event loop. `chance` gives numbers in [0, 1) for ties; `on_idle` is told when an engine is
    idle.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        queue: int,
        clock: Callable[[], float],
        chance: Callable[[], float],
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.targets = targets
        self.waiting = WaitingRoom(queue)
        self.avoided: set[str] = set()
        self._clock = clock
        self._chance = chance
        self._on_idle = on_idle
        self._alarm: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def prospect(self, run: Run) -> Decision:
        """What would be decided for the request now."""
        now = self._clock()
        return self._decide(run, now, self._candidates(run, now))

    def at_once(self, run: Run) -> Grant | None:
        """A slot that is free now at a replica without an objection, or None."""
        now = self._clock()
        candidates = self._candidates(run, now)
        decision = self._decide(run, now, candidates)
        if not isinstance(decision, Serve) or decision.forced:
            return None
        run.note(decision, now, candidates)
        return self._grant(run, decision, now)

    def waiting_for(self, target: str) -> int:
        """Requests in the queue that would be sent to this target first."""
        return sum(target in ticket.payload.tiers[0] for ticket in self.waiting if ticket.payload.tiers)

    def abandon(self, grant: Grant) -> None:
        """The slot back from a request whose end says nothing of the replica."""
        grant.replica.standing.abandoned(grant.generation)
        self.give_back(grant)

    def _running(self) -> int:
        return sum(replica.busy for target in self.targets.values() for replica in target.replicas)

    async def admit(self, run: Run) -> Grant:
        """A slot for the request, waited for if need be."""
        asked = self._clock()
        candidates = self._candidates(run, asked)
        decision = self._decide(run, asked, candidates)
        run.note(decision, asked, candidates)
        if isinstance(decision, Serve):
            return self._grant(run, decision, asked)
        if not isinstance(decision, Wait):
            raise self._refusal(run, decision)
        grant = await self._wait(run, decision)
        run.report.queue_s += grant.at - asked
        return grant

    async def _wait(self, run: Run, decision: Wait) -> Grant:
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

    def _take_back(self, run: Run) -> None:
        """A slot that was granted in the moment its waiter left."""
        turn = run.turn
        if turn is not None and turn.done() and not turn.cancelled() and turn.exception() is None:
            self.abandon(turn.result())
        elif turn is not None:
            turn.cancel()

    def dispatch(self) -> None:
        """Something changed: give every slot that is free to the first in the queue who may have it."""
        soonest: float | None = None
        refused: set[tuple[object, ...]] = set()
        for ticket in self.waiting:
            run: Run = ticket.payload
            if run.turn is None or run.turn.done():
                continue
            alike = (run.route.name, run.arm, run.sent.committed, run.too_long_for, *run.tried)
            if alike in refused:
                continue
            now = self._clock()
            candidates = self._candidates(run, now)
            decision = self._decide(run, now, candidates, waiting=True)
            if isinstance(decision, Serve):
                run.note(decision, now, candidates)
                self._let_in(ticket, self._grant(run, decision, now))
            elif isinstance(decision, Wait):
                refused.add(alike)
                if decision.again_in_s is not None:
                    soonest = min(decision.again_in_s, soonest or decision.again_in_s)
            else:
                self.waiting.leave(ticket)
                run.turn.set_exception(self._refusal(run, decision))
        self._set_alarm(soonest)

    def _let_in(self, ticket: Ticket, grant: Grant) -> None:
        self.waiting.leave(ticket)
        run: Run = ticket.payload
        assert run.turn is not None
        run.turn.set_result(grant)

    def _set_alarm(self, in_s: float | None) -> None:
        """Look at the queue again when the next objection ends, even if no slot becomes free before."""
        if in_s is None:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_later(in_s, self.dispatch)

    def _decide(
        self, run: Run, now: float, candidates: Sequence[Sequence[Candidate]], *, waiting: bool = False
    ) -> Decision:
        if run.route.held:
            return Full() if self.waiting.full and not waiting else Wait()
        return choose(
            candidates,
            chance=self._chance(),
            queue_full=self.waiting.full and not waiting,
            patience_s=run.deadline - now,
        )

    def _candidates(self, run: Run, now: float) -> list[list[Candidate]]:
        return [
            [
                self._candidate(run, target, replica, now)
                for target in map(self.targets.__getitem__, tier)
                for replica in target.active
            ]
            for tier in avoiding(run.tiers, self.avoided)
        ]

    def _candidate(self, run: Run, target: Target, replica: Replica, now: float) -> Candidate:
        objection = replica.objection(now)
        return Candidate(
            replica.key,
            replica.free,
            replica.busy,
            self._unfit(run, target, replica),
            objection,
            replica.routable_in_s(now) if objection else 0.0,
            bool(objection) and replica.passes(now),
            replica.speed,
            replica.standing.breaker.weight(now),
            replica.warm,
            replica.holds(run.prefix),
            replica.key in run.tried,
        )

    def _unfit(self, run: Run, target: Target, replica: Replica) -> str:
        """Why a replica can never serve this request any more; empty = it can."""
        if run.grants and any(grant.replica is replica for grant in run.grants):
            return "it is being asked"
        if replica.key in run.tried and replica.key not in run.again:
            return "it was tried"
        if run.too_long_for and target.window_tokens <= run.too_long_for:
            return "its window is not known to be larger"
        if run.sent.committed and target.model != run.report.model:
            return "it has another model than the answer was begun by"
        if run.sent.committed and not target.capabilities.continuation:
            return "it cannot go on from a given text"
        return ""

    def _grant(self, run: Run, decision: Serve, now: float) -> Grant:
        target, replica = next(
            (target, replica)
            for tier in run.tiers
            for target in (self.targets[name] for name in tier)
            for replica in target.replicas
            if replica.key == decision.key
        )
        replica.take(now)
        return Grant(target, replica, replica.standing.begin(now), now)

    def give_back(self, grant: Grant) -> None:
        self.release(grant.replica)

    def release(self, replica: Replica) -> None:
        """One of its slots is free again."""
        replica.give_back()
        self.dispatch()
        if not replica.busy:
            self._on_idle()

    def _refusal(self, run: Run, decision: Decision) -> Error:
        """Why a request is not served at all."""
        if isinstance(decision, Full):
            return QueueFull(
                f"{self._running()} requests are running and {len(self.waiting)} are waiting, "
                "which is the limit; try again later",
                retry_after_s=self._expected_wait_s(run),
            )
        if run.failures:
            return conclude(run.report.route, run.failures)
        if not any(run.tiers):
            return ModelNotFound(f'"{run.route.name}" was taken out of the configuration', model=run.route.name)
        now = self._clock()
        soonest = min((one for tier in self._candidates(run, now) for one in tier), key=lambda one: one.routable_in_s)
        return Overloaded(
            f'no target of route "{run.report.route}" can serve in time: {soonest.key} is {soonest.objection}',
            retry_after_s=soonest.routable_in_s,
        )

    def _expected_wait_s(self, run: Run) -> float:
        """Seconds until a request that came now would be served, from measured service times."""
        replicas = [one for tier in run.tiers for name in tier for one in self.targets[name].active]
        rate = sum(one.slots / max(one.service_s, 0.001) for one in replicas)
        return max(1.0, (len(self.waiting) + 1) / rate) if rate else 1.0
