"""The hot switch: another target takes over what one serves, and no request is lost on the way, whatever goes wrong.

Where both fit into the memory the new one is started beside the old one, answers a check, takes over, and the old one
finishes what it has. Where they do not, new requests are held while the old one finishes, leaves, and the new one
starts. Whatever fails before the taking over brings back what was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

from roundhouse.core.chat import ChatRequest, Sampling, collect
from roundhouse.core.errors import EngineError, Error, InvalidRequest, ModelNotFound, NoFit, NotHealthy, Unsupported
from roundhouse.core.report import Report
from roundhouse.engines.spares import Spares
from roundhouse.routing.admission import Admission
from roundhouse.routing.attempt import Attempt
from roundhouse.routing.canary import Arm, Canary, slow_limit_s
from roundhouse.routing.failover import Sent
from roundhouse.routing.replica import Replica
from roundhouse.routing.room import Room
from roundhouse.routing.route import Route, Tiers
from roundhouse.routing.switch import Order, Switch, SwitchInput
from roundhouse.routing.target import Target
from roundhouse.telemetry.events import OK, UNDONE, SwitchEnded, Tell

__all__ = ["Turntable"]

log = logging.getLogger(__name__)
_REMEMBERED = 50
_LOOK_S = 0.05
_CHECK_TOKENS = 32


class Turntable:
    """`targets` and `routes` are the manager's own; a switch changes a route in one assignment. `longest_s` bounds a
    request, and so how long the old target may take to finish. `led` is told of a route that a switch has led
    elsewhere, at that moment.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        routes: Mapping[str, Route],
        admission: Admission,
        room: Room,
        spares: Spares,
        *,
        longest_s: float,
        clock: Callable[[], float] = time.monotonic,
        told: Tell = lambda event: None,
    ) -> None:
        self.switches: OrderedDict[str, Switch] = OrderedDict()
        self.led: Callable[[Route], None] = lambda route: None
        self._targets = targets
        self._routes = routes
        self._admission = admission
        self._room = room
        self._spares = spares
        self._longest_s = longest_s
        self._clock = clock
        self._told = told
        self._numbers = 0

    def switch(self, route_name: str, target_name: str, order: Order) -> Switch:
        """Begin to have `target_name` serve a route in place of its first targets; fallbacks stay behind it.

        Raises `ModelNotFound` for an unknown name, `InvalidRequest` for a route that leads there already or that is
        being switched.
        """
        if target_name not in self._targets:
            known = ", ".join(self._targets)
            raise ModelNotFound(f'there is no target "{target_name}"; there are {known}', model=target_name)
        route = self._routes.get(route_name)
        if route is None or route_name in self._targets:
            names = tuple(name for name in self._routes if name not in self._targets)
            raise ModelNotFound(f'there is no route "{route_name}"; there are {", ".join(names)}', model=route_name)
        if tuple(map(tuple, route.tiers[:1])) == ((target_name,),):
            raise InvalidRequest(f'route "{route_name}" leads to "{target_name}" already', param="target")
        return self._lead(route, _led_to(route.tiers, target_name), order)

    def follow(self, route_name: str, tiers: Tiers) -> Switch:
        """Begin to have a route lead where a switch on another server has led it. Raises as `switch` does."""
        route = self._routes.get(route_name)
        if route is None:
            raise ModelNotFound(f'there is no route "{route_name}"', model=route_name)
        return self._lead(route, tiers, Order())

    def _lead(self, route: Route, tiers: Tiers, order: Order) -> Switch:
        target_name = tiers[0][0]
        leaving = set(route.tiers[0]) - {name for tier in tiers for name in tier}
        old = [replica for name in sorted(leaving) for replica in self._targets[name].replicas]

        def flip() -> None:
            route.tiers = tiers
            self.led(route)

        what = f"route {route.name}: {' | '.join(route.tiers[0])} -> {target_name}"
        former = route.tiers[0][0] if len(route.tiers[0]) == 1 else ""
        switch = self.begin(what, [route], old, self._targets[target_name], flip, order)
        switch.former = former
        return switch

    def begin(
        self,
        what: str,
        routes: Sequence[Route],
        old: Sequence[Replica],
        new: Target,
        flip: Callable[[], None],
        order: Order,
    ) -> Switch:
        """Have `new` take the place of `old`, which `flip` brings about at once when `new` is ready.

        `routes` are held if the two cannot run at the same time. Raises `InvalidRequest` if one is being switched.
        """
        for other in self.switches.values():
            if not other.over and {id(route) for route in routes} & {id(route) for route in other.routes}:
                raise InvalidRequest(f"a switch is under way: {other.what} ({other.id})", param="route")
        self._numbers += 1
        switch = Switch(f"s{self._numbers}", what, routes, old, new, flip, order, self._clock())
        self.switches[switch.id] = switch
        while len(self.switches) > _REMEMBERED:
            self.switches.popitem(last=False)
        switch.task = asyncio.create_task(self._run(switch), name=what)
        return switch

    async def aclose(self) -> None:
        tasks = [one.task for one in self.switches.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, switch: Switch) -> None:
        kept = {replica.key for replica in (*switch.old, *switch.new.replicas)} - self._room.kept
        self._room.kept |= kept
        try:
            try:
                await self._turn(switch)
            except Error as error:
                log.error("%s: %s", switch.what, error)
                switch.error = str(error)
            except Exception as error:  # what is written here must never leave a route held
                log.exception("%s", switch.what)
                switch.error = f"{type(error).__name__}: {error}"
            if switch.error:
                self._move(switch, SwitchInput.FAIL)
                await self._restore(switch)
                self._move(switch, SwitchInput.RESTORED)
        finally:
            self._release(switch)
            self._room.kept -= kept
            switch.ended = self._clock()
            outcome = UNDONE if switch.error else OK
            self._told(SwitchEnded(switch.new.name, outcome, switch.ended - switch.began, switch.held_s))

    async def _turn(self, switch: Switch) -> None:
        switch.cold = [replica for replica in switch.new.active if not replica.warm]
        switch.beside = await self._beside(switch)
        if switch.order.percent and not switch.beside:
            raise NoFit(
                f'a canary needs old and new at the same time, and "{switch.new.name}" fits in place of the old one '
                "alone; switch without a canary, or free memory",
                target=switch.new.name,
            )
        self._move(switch, SwitchInput.FITS if switch.beside else SwitchInput.FULL)
        if not switch.beside:
            await self._clear(switch)
        for replica in switch.cold:
            replica.engine.stands_back = switch.beside
        try:
            await asyncio.gather(*(replica.client() for replica in switch.new.active))
        finally:
            for replica in switch.cold:
                replica.engine.stands_back = False
        self._move(switch, SwitchInput.READY)
        for replica in switch.new.active:
            await self._check(switch, replica)
        if switch.order.percent:
            self._move(switch, SwitchInput.TRY)
            await self._try(switch)
        switch.flip()
        self._move(switch, SwitchInput.TAKE_OVER)
        self._release(switch)
        await self._retire(switch)
        self._move(switch, SwitchInput.GONE)

    async def _beside(self, switch: Switch) -> bool:
        """Whether old and new fit at the same time. Raises `NoFit` if the new one fits in no case."""
        wanted = [replica.key for replica in switch.cold if replica.plan is not None]
        old = {replica.key for replica in switch.old}
        if not wanted or await self._room.fits(wanted):
            return True
        if await self._room.fits(wanted, without=old):
            return False
        raise NoFit(
            f'target "{switch.new.name}" does not fit into the memory, not even in place of the old one; '
            f"`roundhouse plan {switch.new.name}` says what it takes",
            target=switch.new.name,
        )

    async def _clear(self, switch: Switch) -> None:
        """Hold new requests, wait for those that run, stop the old engines."""
        for replica in switch.cold:  # interpreter and imports need not be waited for while requests are held
            spawn = await self._room.spare_for(replica.key) if replica.plan is not None else None
            if spawn is not None:
                await self._spares.prepare(spawn)
        switch.held_at = self._clock()
        for route in switch.routes:
            route.held = f"{switch.what} is under way"
        for replica in switch.old:
            replica.leaving = f"{switch.what} is under way"
        limit_s = switch.order.drain_s if switch.order.drain_s is not None else self._longest_s
        idle = await asyncio.gather(*(replica.drained(limit_s) for replica in switch.old))
        if not all(idle):
            raise EngineError(f"the old target was still busy after {limit_s:g} s; it goes on serving", target="")
        switch.stopped = [replica for replica in switch.old if replica.warm]
        await asyncio.gather(*(replica.engine.stop() for replica in switch.stopped))
        self._move(switch, SwitchInput.STOPPED)

    async def _check(self, switch: Switch, replica: Replica) -> None:
        """One short answer, which warms it up and shows that it works. Raises `NotHealthy` for a wrong one."""
        check = switch.order.check or switch.new.check
        sampling = Sampling(max_tokens=_CHECK_TOKENS, temperature=0.0)
        now = self._clock()
        attempt = Attempt(
            switch.new,
            replica,
            ChatRequest.of(check.prompt, sampling=sampling),
            Report("check", switch.new.name),
            Sent(),
            arrived=now,
            deadline=now + switch.new.limits.load_s,
            clock=self._clock,
        )
        replica.take(now)
        try:
            async with aclosing(await attempt.chunks()) as chunks:
                text = collect([chunk async for chunk in chunks]).text
        except Unsupported as error:  # it serves embeddings or rankings; that it loaded is all that can be seen
            log.info("%s was not asked the check prompt: %s", replica.key, error)
            return
        finally:
            attempt.close()
            self._admission.release(replica)
        if check.expect.casefold() not in text.casefold():
            raise NotHealthy(
                f'target "{switch.new.name}" answered the check prompt with {text[:200]!r}, '
                f"which does not contain {check.expect!r}",
                target=switch.new.name,
            )

    async def _try(self, switch: Switch) -> None:
        """Send it a share of the requests for a while. Raises `NotHealthy` as soon as it is shown to be worse."""
        (route,) = switch.routes
        before = [seconds for name in route.tiers[0] for seconds in self._targets[name].first_tokens_s]
        canary = Canary(switch.order.percent, switch.order.for_s, slow_limit_s(before))
        switch.canary = canary
        route.trial = ((switch.new.name,), *(tier for tier in route.tiers if tuple(tier) != (switch.new.name,)))
        route.canary = canary
        ends = self._clock() + canary.for_s
        while self._clock() < ends:
            await asyncio.sleep(min(_LOOK_S, canary.for_s))
            if canary.verdict:
                raise NotHealthy(f'target "{switch.new.name}": {canary.verdict}', target=switch.new.name)
        if not canary.counts[Arm.NEW]:
            raise NotHealthy(
                f'no request reached the canary in {canary.for_s:g} s, so nothing is known of "{switch.new.name}"; '
                "give it more time, or a larger share",
                target=switch.new.name,
            )
        route.canary = None

    async def _retire(self, switch: Switch) -> None:
        """The old engines finish what they have and are stopped, unless another route leads to them."""
        needed = {name for route in self._routes.values() if route.name not in self._targets for name in route.targets}
        keep = {replica.key for name in needed if name in self._targets for replica in self._targets[name].replicas}
        leaving = [one for one in switch.old if one.key not in keep and not one.pin and one.engine.managed]
        limit_s = switch.order.drain_s if switch.order.drain_s is not None else self._longest_s
        ended = await asyncio.gather(*(self._stop(replica, limit_s) for replica in leaving), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):  # the new target serves all the same
                log.error("%s: stopping the old target: %s", switch.what, error)

    async def _stop(self, replica: Replica, limit_s: float) -> None:
        if not await replica.drained(limit_s):
            log.warning("%s is stopped although it is busy: it had %g s to finish", replica.key, limit_s)
        await replica.engine.stop()

    async def _restore(self, switch: Switch) -> None:
        """As it was before: the new engines that were started for this are stopped, the old ones run."""
        for route in switch.routes:
            route.canary, route.trial = None, ()
        fresh = [one for one in switch.cold if one.engine.managed]
        await asyncio.gather(*(one.drained(switch.new.limits.load_s) for one in fresh))
        await asyncio.gather(*(one.engine.stop() for one in fresh))
        results = await asyncio.gather(*(one.client() for one in switch.stopped), return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                log.error("%s: the old target could not be started again: %s", switch.what, error)
                switch.error += f"; and the old target could not be started again: {error}"

    def _release(self, switch: Switch) -> None:
        """Let go of the requests that were held."""
        if switch.held_at:
            switch.held_s += self._clock() - switch.held_at
            switch.held_at = 0.0
        for route in switch.routes:
            route.held = ""
        for replica in switch.old:
            replica.leaving = ""
        self._admission.dispatch()

    def _move(self, switch: Switch, given: SwitchInput) -> None:
        switch.move(given, self._clock())
        log.info("%s: %s", switch.what, switch.state.name.lower())


def _led_to(tiers: Tiers, target: str) -> Tiers:
    """The route with `target` in place of its first tier, and nowhere else."""
    rest = (tuple(name for name in tier if name != target) for tier in tiers[1:])
    return ((target,), *(tier for tier in rest if tier))
