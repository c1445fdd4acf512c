"""The owner of targets: streams from who was chosen, decides what follows a failure, brings crashed engines back."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from roundhouse.core.chat import ChatRequest, Chunk, Chunks
from roundhouse.core.errors import Attempt as Tried
from roundhouse.core.errors import ContextTooLong, Error, Loading
from roundhouse.core.report import Report
from roundhouse.engines.lifecycle import Engine, EngineState
from roundhouse.providers.base import LLMProvider
from roundhouse.routing import failover
from roundhouse.routing.admission import Admission
from roundhouse.routing.attempt import Attempt
from roundhouse.routing.failover import conclude
from roundhouse.routing.run import Grant, Policy, Run, Tiers, prefix_of
from roundhouse.routing.scheduler import Exhausted, Serve
from roundhouse.routing.target import Target

__all__ = ["Manager", "Reply"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way: iterate `chunks` once; `report` fills in as it goes and is complete at the end."""

    chunks: Chunks
    report: Report


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
        self.admission = Admission(self.targets, self.policy.queue, clock, chance)
        self.active = 0
        self.retrying = 0
        self._clock = clock
        self._chance = chance
        self._reports: OrderedDict[str, Report] = OrderedDict()
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

    def state(self) -> dict[str, Any]:
        """Every replica as it stands, and how many requests run and wait; plain values."""
        now = self._clock()
        replicas = [
            {
                "target": target.name,
                "replica": replica.key,
                "model": target.model,
                "engine": replica.engine.state.name.lower() if replica.engine.managed else "attached",
                "pid": replica.engine.pid,
                "busy": replica.busy,
                "slots": replica.slots,
                "breaker": replica.standing.breaker.state.name.lower(),
                "objection": replica.standing.objection(now),
                "tokens_per_s": round(replica.speed, 1),
            }
            for target in self.targets.values()
            for replica in target.replicas
        ]
        return {"active": self.active, "waiting": len(self.admission.waiting), "replicas": replicas}

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
        self.admission.close()
        replicas = [replica for target in self.targets.values() for replica in target.replicas]
        results = await asyncio.gather(*(replica.aclose() for replica in replicas), return_exceptions=True)
        for replica, result in zip(replicas, results, strict=True):
            if isinstance(result, BaseException):
                log.error("closing %s: %s", replica.key, result)

    async def _serve(self, request: ChatRequest, tiers: Tiers, report: Report) -> Chunks:
        arrived = self._clock()
        deadline = arrived + (request.deadline_s or self.policy.total_s)
        run = Run(request, tiers, report, arrived, deadline, prefix_of(request))
        self._remember(report)
        self.active += 1
        try:
            while not run.answered:
                run.grants.append(await self.admission.admit(run))
                failed: Error | None = None
                try:
                    lane = self._raced(run) if self.policy.hedge_s else self._attempted(run, run.grants[0])
                    async with aclosing(lane) as chunks:
                        async for chunk in chunks:
                            yield chunk
                except Error as error:
                    failed = error
                finally:
                    grant = run.grants.pop()  # whoever lost a race has left already
                    if not run.answered:
                        self._release(grant, failed)
                if failed is not None:
                    self._note_failure(run, grant, failed)
                    await asyncio.sleep(self._go_on(run, grant, failed))
        finally:
            self.active -= 1
            self.retrying -= run.retrying

    async def _attempted(self, run: Run, grant: Grant) -> Chunks:
        """What one attempt adds to the answer; `run.sent` has grown by it in the end."""
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
            async with aclosing(await attempt.chunks()) as chunks:
                async for chunk in chunks:
                    sent.add(chunk)
                    if chunk.finish_reason:  # the slot is free before the client has taken the last piece
                        self._succeeded(run, grant, chunk)
                    yield chunk
        finally:
            attempt.close()
            if sent.committed:
                run.sent = sent

    async def _raced(self, run: Run) -> Chunks:
        """The answer of whoever begins first: the replica that was granted, or a second one, asked when it is late.

        In the end `run.grants` holds the one that won, or the last that failed.
        """
        lanes = [(run.grants[0], self._attempted(run, run.grants[0]))]
        first: dict[asyncio.Task[Chunk], int] = {}
        try:
            first[asyncio.ensure_future(anext(lanes[0][1]))] = 0
            await asyncio.wait(first, timeout=self.policy.hedge_s)
            second = None if any(task.done() for task in first) or run.sent.committed else self.admission.at_once(run)
            if second is not None:
                run.grants.append(second)
                lanes.append((second, self._attempted(run, second)))
                first[asyncio.ensure_future(anext(lanes[1][1]))] = 1
            winner = await self._first_to_begin(run, lanes, first)
            for number, (grant, lane) in enumerate(lanes):
                if number != winner:
                    await _cancelled(task for task, of in first.items() if of == number)
                    await lane.aclose()
                    if grant in run.grants:
                        run.grants.remove(grant)
                        self._release(grant, None)
            yield next(task for task, number in first.items() if number == winner).result()
            async for chunk in lanes[winner][1]:
                yield chunk
        finally:
            await _cancelled(first)
            for grant, lane in lanes:
                await lane.aclose()
                if len(run.grants) > 1 and grant in run.grants:
                    run.grants.remove(grant)
                    self._release(grant, None)

    async def _first_to_begin(
        self, run: Run, lanes: list[tuple[Grant, Chunks]], first: dict[asyncio.Task[Chunk], int]
    ) -> int:
        """The number of the lane that gave content; raises when the last lane has failed."""
        waiting = set(first)
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    return first[task]
                if not waiting or not isinstance(error, Error):
                    raise error
                grant = lanes[first[task]][0]
                run.grants.remove(grant)
                self._release(grant, error)
                self._note_failure(run, grant, error)

    def _succeeded(self, run: Run, grant: Grant, last: Chunk) -> None:
        now = self._clock()
        run.answered = True
        run.report.attempts.append(Tried(grant.target.name, "ok", seconds=now - grant.at))
        speed = last.timings.tokens_per_s if last.timings else 0.0
        grant.replica.served(run.prefix, speed, now - grant.at)
        grant.replica.standing.succeeded(grant.generation, now)
        self.admission.give_back(grant)

    def _release(self, grant: Grant, failed: Error | None) -> None:
        """The slot back, and what the end means for the replica; no error = the client has gone."""
        if failed is None:
            self.admission.abandon(grant)
            return
        grant.replica.standing.failed(failed, grant.generation, self._clock(), self._chance())
        self.admission.give_back(grant)

    def _note_failure(self, run: Run, grant: Grant, error: Error) -> None:
        """What is known of the request's candidates after one of them failed."""
        key = grant.replica.key
        tried = Tried(grant.target.name, error.code, str(error), self._clock() - grant.at)
        run.report.attempts.append(tried)
        run.failures.append((tried, error))
        run.tried[key] = run.tried.get(key, 0) + 1
        run.attempts += failover.counts_as_attempt(error)
        if isinstance(error, ContextTooLong):
            run.too_long_for = max(run.too_long_for, error.limit_tokens or grant.target.window_tokens or 1)
        if isinstance(error, Loading) or (run.tried[key] == 1 and failover.may_ask_again(error)):
            run.again.add(key)
        else:
            run.again.discard(key)
        log.warning("%s failed (%s): %s", key, error.code, error)

    def _go_on(self, run: Run, grant: Grant, error: Error) -> float:
        """Seconds to pause before another attempt; raises if there shall be none."""
        if not failover.may_go_on(error, run.request, run.sent):
            raise error
        prospect = self.admission.prospect(run)
        if isinstance(prospect, Exhausted) or run.attempts >= self.policy.attempts:
            raise error if run.sent.committed else conclude(run.report.route, run.failures)
        if not isinstance(prospect, Serve) or prospect.key not in run.tried:
            return 0.0
        self._retry(run)
        doublings = min(len(run.failures), 16)
        longest = min(self.policy.most_backoff_s, self.policy.backoff_s * 2.0**doublings)
        return min(longest * self._chance(), max(0.0, run.deadline - self._clock()))

    def _retry(self, run: Run) -> None:
        """A backend is to be asked a second time: within the budget, lest a failing one is buried under retries."""
        if run.retrying:
            return
        if self.retrying >= max(self.policy.retry_floor, self.policy.retry_share * self.active):
            raise conclude(run.report.route, run.failures)
        run.retrying = True
        self.retrying += 1

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
        if new is EngineState.READY and self.admission.waiting:
            asyncio.get_running_loop().call_soon(self.admission.dispatch)


async def _mend(engine: Engine) -> None:
    try:
        await engine.restart()
    except Error as error:
        log.error("%s could not be started again: %s", engine.target, error)


async def _cancelled(tasks: Iterable[asyncio.Task[Chunk]]) -> None:
    """Wait until they are gone; what they raise on the way is nobody's concern any more."""
    ended = list(tasks)
    for task in ended:
        task.cancel()
    await asyncio.gather(*ended, return_exceptions=True)
