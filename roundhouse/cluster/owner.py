"""The one owner of a cluster's routes and applications: starts, switches, and tells every entrance.

It is a house whose engines are applications of Serve; the turntable, its checks, canaries and ways back are those of
one machine. It serves no request itself: as long as it is away, entrances go on by what they heard last.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import msgspec
from ray import serve

from roundhouse.cluster.deployed import DeployedEngine, Watch
from roundhouse.cluster.fleet import ENGINE, Fleet, application_of
from roundhouse.cluster.keeping import Keeping, Kept
from roundhouse.cluster.provider import ClusterProvider
from roundhouse.cluster.published import CanaryTold, Followers, News, Published, Report
from roundhouse.cluster.questions import Gathering, Scrape, What
from roundhouse.cluster.reading import Reading
from roundhouse.cluster.renewal import as_told, leading, taken_over
from roundhouse.cluster.room import ClusterRoom, planned_by_the_fleet
from roundhouse.cluster.shares import scale_of
from roundhouse.config import Settings, TargetSettings
from roundhouse.core.errors import Error
from roundhouse.core.portable import portable, restored
from roundhouse.engines.lifecycle import EngineState
from roundhouse.gateway.build import capabilities_of
from roundhouse.gateway.house import House
from roundhouse.gateway.plan import is_managed, slots_of
from roundhouse.gateway.reload import same_engines
from roundhouse.providers.base import DescribesModel, LLMProvider
from roundhouse.routing.breaker import BreakerPolicy
from roundhouse.routing.canary import Outcome
from roundhouse.routing.describe import describe
from roundhouse.routing.replica import Replica
from roundhouse.routing.room import Room
from roundhouse.routing.route import Tiers
from roundhouse.routing.switch import Order
from roundhouse.telemetry.merged import families_of

__all__ = ["OWNER", "Owner", "SwitchAsked"]

OWNER = "owner"
log = logging.getLogger(__name__)
_USUALLY_S = 1.0
_SWITCHING_S = 0.1
_LOOK_S = 0.05
_WITHDRAWN_S = 60.0
_AGAIN_S = 5.0
_GATHERED_S = 2.0


class SwitchAsked(msgspec.Struct, frozen=True):
    route: str
    target: str
    order: Order
    wait: bool = False


class OwnedReplica(Replica):
    """All replicas of a target. It is idle when no entrance uses it any more. `awake`: whether its application has any
    replica now; Serve takes the last one of some away when nobody asks.
    """

    def __init__(
        self, *args: Any, unused: Callable[[], Awaitable[None]], awake: Callable[[], bool], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._unused = unused
        self._awake = awake

    @property
    def warm(self) -> bool:
        return super().warm and self._awake()

    async def client(self) -> LLMProvider:
        """One that has a replica to ask: what it costs to start it is no part of the first answer."""
        client = await super().client()
        if not self._awake() and isinstance(client, DescribesModel):
            await client.adescribe()
        return client

    async def drained(self, limit_s: float | None = None) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                await self._unused()
        except TimeoutError:
            return False
        return await super().drained(limit_s)


class Owner:
    """A deployment of one replica. What Serve restarts, wherever it is, goes on from what was kept."""

    async def __init__(self, settings: Settings, run: str) -> None:  # type: ignore[misc]  # Serve awaits it
        self._keeping = Keeping(run)
        kept = self._keeping.load()
        self._settings = kept.settings(settings)
        self._fleet = Fleet(self._settings)
        self._watch = Watch(self._fleet)
        self._followers = Followers()
        self._gathering = Gathering()
        self._reading = Reading()
        self._name = f"{OWNER}/{secrets.token_hex(4)}"
        self._up: set[str] = set()
        self._published = Published(int(1000 * time.time()))  # beyond that of an owner before this one
        self._changed = asyncio.Event()
        self._stirred = asyncio.Event()
        self._entries: dict[str, TargetSettings] = {}
        self._led: Mapping[str, Tiers] = kept.routes
        self._house = House(self._settings, tiers=self._tiers, hosting=self)
        self._number, self._serving = kept.number, self._house.serving
        self._publish()
        self._tasks = [asyncio.create_task(work, name=name) for work, name in self._duties()]

    def replica(self, entry: TargetSettings, key: str, breaker: BreakerPolicy) -> Replica:
        """As `Hosting` asks."""
        name = application_of(entry, self._settings)
        self._entries[key] = entry
        engine = DeployedEngine(
            entry,
            name,
            self._fleet,
            self._watch,
            load_limit_s=self._settings.limits.load_s,
            up=lambda: self._put_up(name),
            withdrawn=lambda: self._withdraw(key, name),
        )

        @asynccontextmanager
        async def find() -> AsyncIterator[Any]:
            yield serve.get_deployment_handle(ENGINE, name)

        return OwnedReplica(
            key,
            engine,
            lambda ready: ClusterProvider(entry.name, capabilities_of(entry), find),
            slots_of(entry),
            breaker,
            target=entry.name,
            pin=entry.pin,
            plan=planned_by_the_fleet,
            unused=lambda: self._unused(name),
            awake=lambda: self._is_awake(name),
        )

    def room(self, settings: Settings) -> Room:
        """As `Hosting` asks."""
        return ClusterRoom(self._fleet, self._entries)

    def same_engines(self, one: TargetSettings, other: TargetSettings) -> bool:
        """As `Hosting` asks."""
        if not (is_managed(one) and is_managed(other)):
            return same_engines(one, other)
        return application_of(one, self._settings) == application_of(other, self._settings)

    async def settings(self) -> tuple[int, Settings]:
        """What entrances go by, with the routes as they lead now, and its number."""
        routes = {name: tuple("|".join(tier) for tier in tiers) for name, tiers in self._routes().items()}
        return self._number, replace(self._serving, routes=routes)

    async def wanted(self) -> int:
        """For the command that holds the configuration's file: the number by which it is to be read, 0 = not now."""
        return await self._reading.wanted()

    async def read(self, number: int, settings: Settings | None, failure: bytes) -> bytes:
        """What the command has read, or why it could not; `number`: who had asked for it. What came of it is told as
        by `order`.
        """
        outcome: dict[str, Any] | Error
        try:
            if settings is None:
                raise restored(msgspec.msgpack.decode(failure))
            outcome = self._reload(settings)
            await self._known()
        except Error as error:
            outcome = error
        self._reading.came(number, outcome)
        told_ = {"error": portable(outcome)} if isinstance(outcome, Error) else {"value": outcome}
        return msgspec.msgpack.encode(told_)

    async def follow(self, data: bytes) -> bytes:
        """News for an entrance: at once if it goes by an older version, else soon; what it reports is noted."""
        report = msgspec.msgpack.decode(data, type=Report)
        self._followers.heard(report, time.monotonic())
        self._note(report)
        if report.version == self._published.version and not self._gathering.of(report.entrance):
            within_s = _SWITCHING_S if self._switching else _USUALLY_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), within_s)
        within_s = _SWITCHING_S if self._switching else _USUALLY_S
        questions = self._gathering.of(report.entrance)
        return msgspec.msgpack.encode(News(self._published, self._state(), within_s, questions))

    async def answer(self, number: int, entrance: str, data: bytes) -> None:
        """What an entrance tells, as its news asked it to."""
        self._gathering.came(number, entrance, data)

    async def order(self, what: str, data: bytes) -> bytes:
        """`{"value": ...}` or `{"error": ...}`: switch, its status, load, unload, reload, a question to all."""
        try:
            value = await self._ordered(what, data)
        except Error as error:
            return msgspec.msgpack.encode({"error": portable(error)})
        return msgspec.msgpack.encode({"value": value})

    async def _ordered(self, what: str, data: bytes) -> Any:
        manager = self._house.manager
        match what:
            case "switch":
                asked = msgspec.msgpack.decode(data, type=SwitchAsked)
                switch = manager.turntable.switch(asked.route, asked.target, asked.order)
                self._changed.set()
                self._stirred.set()
                while asked.wait and not switch.over:
                    await switch.changed.wait()
                if switch.over:  # whoever is told that it is done finds it done at every entrance
                    await self._known()
                return switch.as_dict()
            case "switched":
                found = manager.turntable.switches.get(msgspec.msgpack.decode(data, type=str))
                return None if found is None else found.as_dict()
            case "load":
                name = msgspec.msgpack.decode(data, type=str)
                await manager.load(name)
                return self._applications().get(name, "")
            case "unload":
                name, limit_s = msgspec.msgpack.decode(data, type=tuple[str, float | None])
                return await manager.unload(name, limit_s)
            case "reload":
                return await self._reading.ask()
            case "ask":
                return await self._gathered(msgspec.msgpack.decode(data, type=What))
        raise ValueError(what)

    async def _gathered(self, what: What) -> dict[str, bytes]:
        """The answers of all entrances that give one in time, by their names; of metrics, those of the owner too."""
        number = self._gathering.ask(what)
        self._wake()
        try:
            names = [one.entrance for one in self._followers.living(time.monotonic())]
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gathering.all_from(number, names), _GATHERED_S)
        finally:
            answers = self._gathering.close(number)
        if isinstance(what, Scrape):
            answers[self._name] = msgspec.msgpack.encode(families_of(self._house.meter.registry))
        return answers

    def _reload(self, new: Settings) -> dict[str, Any]:
        """Serve by `new` from now on; entrances do as they hear of it. Raises as `House.reload` does."""
        self._publish()  # where the last switch led
        serving = self._settings
        done = self._house.reload(taken_over(serving, new))
        self._settings = self._fleet.settings = self._house.settings
        self._publish()
        self._stirred.set()
        self._house.manager.upkeep.run(self._load_wanted(), "start of what is new")
        return replace(done, change=as_told(done.change, serving, new)).as_dict()

    def _tiers(self, settings: Settings) -> Mapping[str, Tiers]:
        """As `House` asks, at the start and at each reload."""
        return leading(self._settings, self._led, settings)

    @property
    def _switching(self) -> bool:
        return any(not switch.over for switch in self._house.manager.turntable.switches.values())

    def _duties(self) -> list[tuple[Any, str]]:
        return [(self._look_after(), "publishing"), (self._bring_up(), "first start")]

    async def _look_after(self) -> None:
        """Publish what the turntable changes, and look at the applications for whoever asks."""
        while True:
            self._stirred.clear()
            try:
                self._publish()
                await self._watch.look(_USUALLY_S)
            except Exception:  # a store that is away for a moment must not end the publishing
                log.exception("publishing failed; it is tried again")
                await asyncio.sleep(_USUALLY_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stirred.wait(), _LOOK_S if self._switching else _USUALLY_S)

    async def _bring_up(self) -> None:
        """What the routes lead to is started, and tried again where that failed; what an earlier owner left and nobody
        asks for is taken down.
        """
        await self._watch.look()
        await self._load_wanted()
        for name in await self._watch.look():
            if name not in self._up and not self._is_ours(name):
                await self._unused(name)
                log.warning("%s is taken down: no target is run by it any more", name)
                await asyncio.to_thread(self._fleet.delete, name)
        while True:
            await asyncio.sleep(_AGAIN_S)
            targets = self._house.manager.targets
            failed = [name for name in self._wanted() if targets[name].replicas[0].engine.state is EngineState.FAILED]
            if not self._switching:
                await asyncio.gather(*(self._load(name) for name in failed))

    async def _load_wanted(self) -> None:
        await asyncio.gather(*(self._load(name) for name in self._wanted()))

    async def _load(self, name: str) -> None:
        try:
            await self._house.manager.load(name)
        except Error as error:
            log.error("%s: %s", name, error)

    def _wanted(self) -> list[str]:
        """The targets that are to run although nobody has asked for them. One that may have no replica waits until it
        is asked, or is there already, as after the death of an owner before this one.
        """
        manager = self._house.manager
        ours = [route for name, route in manager.routes.items() if name not in manager.targets]
        led_to = {name for route in ours for name in route.targets}
        wanted = [one.name for one in self._settings.targets if one.name in led_to or one.preload or one.pin]
        return [name for name in wanted if self._may_start(name)]

    def _may_start(self, name: str) -> bool:
        replica = self._house.manager.targets[name].replicas[0]
        if not isinstance(replica, OwnedReplica):
            return False
        entry = self._entries[replica.key]
        sleeps = not scale_of(entry).least and not entry.preload
        return not sleeps or application_of(entry, self._settings) in self._watch.last

    def _is_awake(self, application: str) -> bool:
        status = self._watch.last.get(application)
        return status is not None and status.replicas.get("running", 0) > 0

    def _is_ours(self, application: str) -> bool:
        engines = [one.engine for one in self._house.manager.room.replicas if isinstance(one.engine, DeployedEngine)]
        idle = (EngineState.COLD, EngineState.FAILED)
        return any(one.application == application and one.state not in idle for one in engines)

    def _applications(self) -> dict[str, str]:
        """Those that serve, by target. One that is to take another's place serves when it has been checked."""
        engines = {name: target.replicas[0].engine for name, target in self._house.manager.targets.items()}
        return {
            name: engine.application
            for name, engine in engines.items()
            if isinstance(engine, DeployedEngine) and engine.application in self._up
        }

    def _routes(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Where those of the configuration lead now."""
        manager = self._house.manager
        return {name: _frozen(one.tiers) for name, one in manager.routes.items() if name not in manager.targets}

    def _put_up(self, application: str) -> None:
        self._up.add(application)
        self._publish()

    async def _withdraw(self, key: str, application: str) -> bool:
        """No entrance sends it anything from now on; what it has is finished, if that does not take for ever. False if
        it is not to be taken down: the target was taken out of the configuration, and put into it again meanwhile.
        """
        self._up.discard(application)
        try:
            async with asyncio.timeout(max(_WITHDRAWN_S, self._settings.server.drain_s)):
                await self._unused(application)
        except TimeoutError:
            log.warning("%s was still in use after all the time that it had", application)
        targets = self._house.manager.targets.values()
        return not any(
            isinstance(one.engine, DeployedEngine) and one.engine.application == application and one.key != key
            for target in targets
            for one in target.replicas
        )

    async def _known(self) -> None:
        """Until every entrance goes by what is published now."""
        version = self._publish()
        while not self._followers.go_by(version, time.monotonic()):  # noqa: ASYNC110 - or time passes
            await asyncio.sleep(_LOOK_S)

    async def _unused(self, application: str) -> None:
        """Until every entrance goes by what is published now, and has no request there."""
        version = self._publish()
        while not self._followers.free_of(application, version, time.monotonic()):  # noqa: ASYNC110 - or time passes
            await asyncio.sleep(_LOOK_S)

    def _publish(self) -> int:
        """Tell what has changed, if anything has; gives the version that says it."""
        if (serving := self._house.serving) != self._serving:
            self._number, self._serving = self._number + 1, serving
        now = self._to_publish()
        if not now.same(self._published):
            self._published = msgspec.structs.replace(now, version=self._published.version + 1)
            self._led = now.routes
            self._keeping.save(Kept.of(now.routes, self._number, self._serving))
            self._wake()
        return self._published.version

    def _wake(self) -> None:
        """Have all entrances hear of something at once."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _to_publish(self) -> Published:
        manager = self._house.manager
        routes = [route for name, route in manager.routes.items() if name not in manager.targets]
        switches = manager.turntable.switches.values()
        canaries = {
            route.name: CanaryTold(
                next((one.id for one in switches if one.canary is route.canary), ""),
                route.canary.percent,
                route.canary.for_s,
                route.canary.slow_s,
                _frozen(route.trial),
            )
            for route in routes
            if route.canary is not None
        }
        return Published(
            0,
            self._routes(),
            {route.name: route.held for route in routes if route.held},
            canaries,
            self._applications(),
            self._number,
        )

    def _note(self, report: Report) -> None:
        """What requests showed, for the canary that is asked and for what is usual."""
        manager = self._house.manager
        for seen in report.seen:
            switch = manager.turntable.switches.get(seen.switch)
            if switch is not None and switch.canary is not None and not switch.over:
                switch.canary.observe(seen.arm, Outcome(seen.failed, seen.first_token_s))
        for name, seconds in report.first_tokens_s.items():
            if (target := manager.targets.get(name)) is not None:
                target.first_tokens_s.extend(seconds)

    def _state(self) -> dict[str, Any]:
        """As on one machine, with what Serve says of the replicas."""
        now = time.monotonic()
        told_ = describe(self._house.manager)
        living, applications = list(self._followers.living(now)), self._applications()
        for row in told_["replicas"]:
            application = applications.get(row["target"], "")
            status = self._watch.last.get(application)
            if row["engine"] != "attached":
                row["nodes"] = dict(status.replicas) if status is not None else {}
                row["busy"] = self._followers.uses(application, now)
                row["slots"] *= max(1, row["nodes"].get("running", 0))
                failure = self._house.manager.targets[row["target"]].replicas[0].engine.failure
                row["notes"] = [str(failure)] if failure is not None else []
        told_["active"] = sum(one.running for one in living)
        told_["waiting"] = sum(one.waiting for one in living)
        told_["entrances"] = sorted(one.entrance for one in living)
        return told_


def _frozen(tiers: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(tier) for tier in tiers)
