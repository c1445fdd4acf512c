"""The owner of targets: streams from who was chosen, decides what follows a failure, brings crashed engines back."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from roundhouse.core.chat import ChatRequest, Chunk, Chunks
from roundhouse.core.errors import Attempt as Tried
from roundhouse.core.errors import (
    ContextTooLong,
    EngineError,
    Error,
    Loading,
    ModelNotFound,
    ProviderError,
    TimedOut,
)
from roundhouse.core.report import Report
from roundhouse.engines.spares import Spares
from roundhouse.providers.base import LLMProvider
from roundhouse.routing import failover
from roundhouse.routing.admission import Admission
from roundhouse.routing.attempt import Attempt
from roundhouse.routing.canary import Outcome
from roundhouse.routing.describe import describe
from roundhouse.routing.errand import Errand, Ordered
from roundhouse.routing.failover import conclude
from roundhouse.routing.follow import followed
from roundhouse.routing.room import Room
from roundhouse.routing.route import Route, Tiers
from roundhouse.routing.run import Grant, Policy, Run, ended, prefix_of, traced
from roundhouse.routing.scaling import ScalingPolicy
from roundhouse.routing.scheduler import Exhausted, Serve
from roundhouse.routing.target import Target
from roundhouse.routing.turntable import Turntable
from roundhouse.routing.upkeep import Upkeep
from roundhouse.telemetry.events import CLIENT_LEFT, OK, Tell

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
        routes: Mapping[str, Tiers] | None = None,
        room: Room | None = None,
        scaling: ScalingPolicy | None = None,
        spares: Spares | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        told: Tell = lambda event: None,
    ) -> None:
        self.targets = {target.name: target for target in targets}
        self.routes = {name: Route(name, tiers) for name, tiers in (routes or {}).items()}
        self.policy = policy or Policy()
        self.room = room or Room()
        self.admission = Admission(self.targets, self.policy.queue, clock, chance, self.room.changed)
        self.room.listen(self.admission.dispatch)
        self.room.told = told
        self.upkeep = Upkeep(self.admission, self.room, clock, scaling, told)
        self.turntable = Turntable(
            self.targets,
            self.routes,
            self.admission,
            self.room,
            spares or Spares(),
            longest_s=self.policy.total_s,
            clock=clock,
            told=told,
        )
        self.active = 0
        self.retrying = 0
        self.clock = clock
        self._chance = chance
        self._told = told
        self._reports: OrderedDict[str, Report] = OrderedDict()
        for target in self.targets.values():
            for replica in target.replicas:
                self.room.admit(replica)
            self.upkeep.watch(target)

    def start(self, preload: Iterable[str] = ()) -> None:
        """Begin what is done without being asked for; `preload` names targets to load in the background."""
        self.upkeep.begin()
        for name in preload:
            self.upkeep.run(self.load(name), f"preload of {name}")

    def know(self, target: Target) -> None:
        """Take its engines into the common memory; requests are not sent to it by this."""
        for replica in target.replicas:
            self.room.admit(replica)
        self.upkeep.watch(target)
        self.upkeep.begin()

    def add(self, target: Target) -> None:
        """One more target."""
        self.targets[target.name] = target
        self.know(target)

    def adjust(self, target: Target) -> None:
        """Take over what can change while engines run; the engines of `target` itself are not used."""
        known = self.targets[target.name]
        for name in ("sampling", "limits", "family", "check"):
            setattr(known, name, getattr(target, name))
        for replica in known.replicas:
            replica.pin, replica.ttl_s = target.replicas[0].pin, target.replicas[0].ttl_s

    def replace(self, target: Target) -> None:
        """Send requests for the target of this name to these engines from now on."""
        self.targets[target.name] = target
        self.know(target)
        self.admission.dispatch()

    def remove(self, target: Target) -> None:
        """Forget a target: what runs there is finished, then its engines are stopped."""
        if self.targets.get(target.name) is target:
            del self.targets[target.name]
            self.upkeep.forget(target)
        self.upkeep.run(self._retired(target), f"end of {target.name}")

    def avoid(self, target: str, yes: bool) -> None:
        """Have a target asked only after the others of a route from now on, or (`yes` false) in its place again."""
        (self.admission.avoided.add if yes else self.admission.avoided.discard)(target)
        self.admission.dispatch()

    def lead(self, routes: Mapping[str, Tiers]) -> None:
        """Have the routes lead where these say, all at once; one that is not there any more leads nowhere."""
        for name, route in list(self.routes.items()):
            route.tiers = routes.get(name, ())
            if name not in routes:
                del self.routes[name]
        for name, tiers in routes.items():
            if name not in self.routes:
                self.routes[name] = Route(name, tiers)
        self.admission.waiting.limit = self.policy.queue
        self.admission.dispatch()

    async def _retired(self, target: Target) -> None:
        for replica in target.replicas:
            await replica.drained(self.policy.total_s)
            await replica.aclose()
            self.room.dismiss(replica)

    def stream(self, request: ChatRequest, route: Route, report: Report, errand: Errand | None = None) -> Reply:
        """The answer of the first candidate that can give one. Nothing starts before the first iteration.

        `errand`: another process carries the attempts out; what it gave its client comes here as one piece.
        """
        return Reply(self._serve(request, route, report, errand), report)

    def recent(self, count: int) -> list[Report]:
        """The last requests, the newest first."""
        return [report for report, _ in zip(reversed(self._reports.values()), range(count), strict=False)]

    def decisions(self, request_id: str) -> Report | None:
        """What was decided for a request, while it is remembered."""
        return self._reports.get(request_id)

    def state(self) -> dict[str, Any]:
        """Every replica as it stands, how many requests run and wait, who has how much memory, the switches."""
        return describe(self)

    async def load(self, name: str) -> None:
        """Have a target's engines ready before anyone asks. Raises what keeps one from starting."""
        results = await asyncio.gather(*(one.client() for one in self._target(name).active), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def unload(self, name: str, limit_s: float | None = None) -> bool:
        """Stop a target's engines once they are idle; they start again when they are asked. False if they stay busy."""
        replicas = [one for one in self._target(name).replicas if one.engine.managed and one.warm]
        for replica in replicas:
            replica.leaving = "it is being unloaded"
        try:
            idle = await asyncio.gather(*(one.drained(limit_s or self.policy.total_s) for one in replicas))
            await asyncio.gather(*(one.engine.stop() for one, is_idle in zip(replicas, idle, strict=True) if is_idle))
        finally:
            for replica in replicas:
                replica.leaving = ""
            self.admission.dispatch()
        return all(idle)

    def _target(self, name: str) -> Target:
        try:
            return self.targets[name]
        except KeyError:
            known = ", ".join(self.targets)
            raise ModelNotFound(f'there is no target "{name}"; there are {known}', model=name) from None

    async def reach(self, route: Route) -> tuple[Target, LLMProvider]:
        """The first target whose engine is or can be made ready, and its client; raises if none can be."""
        async with self.using(route) as found:
            return found

    @asynccontextmanager
    async def using(self, route: Route) -> AsyncIterator[tuple[Target, LLMProvider]]:
        """As `reach`, for what is no chat; the engine counts as busy meanwhile, so that it is not unloaded."""
        failures: list[tuple[Tried, Error]] = []
        for name in route.targets:
            target, started = self.targets[name], self.clock()
            replica = min(target.active, key=lambda one: (not one.warm, one.busy))
            replica.take(started)
            try:
                try:
                    client = await replica.client()
                except Error as error:
                    failures.append((Tried(name, error.code, str(error), self.clock() - started), error))
                    if not error.failover:
                        raise
                    continue
                yield target, client
                return
            finally:
                self.admission.release(replica)
        raise conclude(route.name, failures)

    async def aclose(self) -> None:
        """Stop every engine and close every connection; each is tried even if another fails."""
        await self.turntable.aclose()
        await self.upkeep.aclose()
        await self.room.aclose()
        self.admission.close()
        replicas = self.room.replicas  # with those that were leaving, or coming in a switch, and serve no target
        results = await asyncio.gather(*(replica.aclose() for replica in replicas), return_exceptions=True)
        for replica, result in zip(replicas, results, strict=True):
            if isinstance(result, BaseException):
                log.error("closing %s: %s", replica.key, result)

    async def _serve(self, request: ChatRequest, route: Route, report: Report, errand: Errand | None) -> Chunks:
        arrived = self.clock() if errand is None else errand.arrived
        deadline = arrived + (request.deadline_s or self.policy.total_s)
        run = Run(request, route, report, arrived, deadline, prefix_of(request))
        if errand is not None:
            run.errand, run.gaps = errand, errand.gaps
        if route.canary is not None:
            run.arm = route.canary.arm(self._chance())
        self._remember(report)
        self.active += 1
        outcome = CLIENT_LEFT
        try:
            while not run.answered:
                run.grants.append(await self.admission.admit(run))
                failed: Error | None = None
                try:
                    races = self.policy.hedge_s and errand is None
                    lane = self._raced(run) if races else self._attempted(run, run.grants[0])
                    async with aclosing(lane) as chunks:
                        async for chunk in chunks:
                            if chunk.has_content:
                                run.passed(self.clock())
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
        except Error as error:
            outcome = error.code
            raise
        finally:
            self.active -= 1
            self.retrying -= run.retrying
            event = ended(run, OK if run.answered else outcome, self.clock())
            self._told(event)
            if (more := traced(run, event)) is not None:
                self._told(more)

    def _attempted(self, run: Run, grant: Grant) -> Chunks:
        """What one attempt adds to the answer; `run.sent` has grown by it in the end."""
        if run.request.trace is None:
            return self._asked(run, grant, run.request)
        return followed(run, grant, self._asked, self.clock)

    async def _asked(self, run: Run, grant: Grant, request: ChatRequest) -> Chunks:
        attempt = (Attempt if run.errand is None else partial(Ordered, run.errand))(
            grant.target,
            grant.replica,
            request,
            run.report,
            run.sent,
            arrived=run.arrived,
            deadline=run.deadline,
            clock=self.clock,
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
        now = self.clock()
        run.answered, run.last = True, last
        run.report.attempts.append(Tried(grant.target.name, "ok", seconds=now - grant.at))
        speed = last.timings.tokens_per_s if last.timings else 0.0
        grant.replica.served(run.prefix, speed, now - grant.at)
        grant.replica.standing.succeeded(grant.generation, now)
        if last.timings is not None and not run.report.seams:
            first_token_s = run.arrived + last.timings.first_token_s - grant.at
            grant.target.first_tokens_s.append(first_token_s)
            _tell_canary(run, grant, Outcome(failed=False, first_token_s=first_token_s))
        self.admission.give_back(grant)

    def _release(self, grant: Grant, failed: Error | None) -> None:
        """The slot back, and what the end means for the replica; no error = the client has gone."""
        if failed is None:
            self.admission.abandon(grant)
            return
        grant.replica.standing.failed(failed, grant.generation, self.clock(), self._chance())
        self.admission.give_back(grant)

    def _note_failure(self, run: Run, grant: Grant, error: Error) -> None:
        """What is known of the request's candidates after one of them failed."""
        key = grant.replica.key
        tried = Tried(grant.target.name, error.code, str(error), self.clock() - grant.at)
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
        if isinstance(error, (ProviderError, EngineError)):
            _tell_canary(run, grant, Outcome(failed=True))
        if isinstance(error, TimedOut) and error.phase in ("first_token", "between_tokens"):
            self.upkeep.suspect(grant.replica, error.limit_s)
        named = {"request_id": run.report.request_id, "target": grant.target.name, "code": error.code}
        log.warning("%s failed (%s): %s", key, error.code, error, extra=named)

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
        return min(longest * self._chance(), max(0.0, run.deadline - self.clock()))

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


def _tell_canary(run: Run, grant: Grant, outcome: Outcome) -> None:
    """The first result of a request, if the target that its arm begins with gave it."""
    arm, canary = run.arm, run.route.canary
    if arm is not None and canary is not None and not run.observed and grant.target.name in run.tiers[0]:
        run.observed = True
        canary.observe(arm, outcome)


async def _cancelled(tasks: Iterable[asyncio.Task[Chunk]]) -> None:
    """Wait until they are gone; what they raise on the way is nobody's concern any more."""
    ended = list(tasks)
    for task in ended:
        task.cancel()
    await asyncio.gather(*ended, return_exceptions=True)
