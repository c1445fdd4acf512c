"""The running part behind the gateway: built from settings, changed by an operator while it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from roundhouse.config import Settings, TargetSettings
from roundhouse.core.errors import InvalidRequest
from roundhouse.engines.spares import Spares
from roundhouse.gateway.build import build_room, build_target, build_targets, room_policy
from roundhouse.gateway.embeddings import Embeddings
from roundhouse.gateway.hosting import Hosting
from roundhouse.gateway.reload import Reloaded, compare, same_engines
from roundhouse.routing.manager import Manager
from roundhouse.routing.route import Tiers
from roundhouse.routing.run import Policy
from roundhouse.routing.switch import Order, Switch
from roundhouse.routing.target import Target
from roundhouse.telemetry.events import Event, Tell
from roundhouse.telemetry.prometheus import Meter

__all__ = ["House", "tiers_of"]

log = logging.getLogger(__name__)


class House:
    """Belongs to the event loop that built it. Raises `ConfigError` for settings that cannot be served.

    `listeners` are told of every event, after the metrics. `tiers`: where the routes of settings lead. `hosting`: who
    runs its engines, None = its own children.
    """

    def __init__(
        self,
        settings: Settings,
        *listeners: Tell,
        tiers: Callable[[Settings], Mapping[str, Tiers]] | None = None,
        hosting: Hosting | None = None,
    ) -> None:
        self.settings = settings
        self._hosting = hosting
        self._tiers = tiers or tiers_of
        self._entries: dict[str, TargetSettings] = {entry.name: entry for entry in settings.targets}
        self._room = hosting.room(settings) if hosting is not None else build_room(settings)
        self._spares = Spares(settings.resources.spare_workers)
        self._one_at_a_time = asyncio.Lock()
        self._generation = 0
        self._names = set(self._entries)
        self.meter = Meter()
        self._listeners = [*listeners]
        self.manager = Manager(
            build_targets(settings, self._room, self._spares, hosting),
            _policy(settings),
            routes=self._tiers(settings),
            room=self._room,
            spares=self._spares,
            told=self.tell,
        )
        self.meter.watch(self.manager.state)
        self.meter.expect(self._entries)
        self.embeddings = Embeddings(self.manager, self.tell)
        self.manager.start(entry.name for entry in settings.targets if entry.preload)

    @property
    def serving(self) -> Settings:
        """The settings with each target as it serves: one that is to be exchanged, or could not be, is what it was."""
        return replace(self.settings, targets=tuple(self._entries[one.name] for one in self.settings.targets))

    async def aclose(self) -> None:
        await self.embeddings.aclose()
        await self.manager.aclose()
        await self._spares.aclose()

    def reload(self, new: Settings) -> Reloaded:
        """Serve by `new` from now on. Changed models are exchanged as by a switch, which goes on in the background.

        Raises `ConfigError` for what cannot be served and `InvalidRequest` during a switch; then nothing has changed.
        """
        if any(not switch.over for switch in self.manager.turntable.switches.values()):
            raise InvalidRequest("a switch is under way; reload when it is over", param="")
        same = same_engines if self._hosting is None else self._hosting.same_engines
        change = compare(self.settings, tuple(self._entries.values()), new, same)
        self._generation += 1
        built = {
            entry.name: self._build(entry, new)
            for entry in new.targets
            if entry.name in (*change.added, *change.exchanged, *change.adjusted)
        }
        self.settings = new
        self._room.policy = room_policy(new)
        self.manager.policy = _policy(new)
        for name in change.added:
            self.manager.add(built[name])
        for name in change.adjusted:
            self.manager.adjust(built[name])
        for name in (*change.added, *change.adjusted):
            self._entries[name] = _entry(new, name)
        removed = [self.manager.targets[name] for name in change.removed]
        self.meter.expect(change.added)
        self.manager.lead(self._tiers(new))
        for target in removed:
            self._entries.pop(target.name)
            self.manager.remove(target)
        self.manager.start(name for name in change.added if _entry(new, name).preload)
        done = Reloaded(change)
        for name in change.exchanged:
            switch = self._exchange(built[name], _entry(new, name))
            done.switches += [switch.id] if switch is not None else []
        return done

    def listen(self, listener: Tell) -> None:
        self._listeners.append(listener)

    def tell(self, event: Event) -> None:
        """Count an event, and have every listener told of it."""
        self.meter.record(event)
        for listener in self._listeners:
            listener(event)

    def _build(self, entry: TargetSettings, settings: Settings) -> Target:
        """Its engines are told from those that any target of its name had before, which may still be busy."""
        generation = self._generation if entry.name in self._names else 0
        self._names.add(entry.name)
        return build_target(entry, settings, self._room, self._spares, self._one_at_a_time, generation, self._hosting)

    def _exchange(self, target: Target, entry: TargetSettings) -> Switch | None:
        """Put `target` in the place of the one of its name; None if that needed no start, for nothing ran."""
        manager = self.manager
        old = manager.targets[target.name]

        def flip() -> None:
            self._entries[entry.name] = entry
            manager.replace(target)

        if not any(replica.engine.managed and replica.warm for replica in old.replicas):
            flip()
            manager.remove(old)
            return None
        manager.know(target)
        routes = [route for route in manager.routes.values() if target.name in route.targets]
        what = f"target {target.name}: as the configuration has it now"
        switch = manager.turntable.begin(what, routes, old.replicas, target, flip, Order())
        manager.upkeep.run(self._settle(switch, old, target), f"after {what}")
        return switch

    async def _settle(self, switch: Switch, old: Target, new: Target) -> None:
        """Forget whichever of the two does not serve."""
        assert switch.task is not None
        await asyncio.wait((switch.task,))
        self.manager.remove(new if switch.error else old)


def tiers_of(settings: Settings) -> Mapping[str, Tiers]:
    """Every route and every target by name; `a|b` in a route are equals."""
    routes = {name: tuple(tuple(entry.split("|")) for entry in entries) for name, entries in settings.routes.items()}
    return {**routes, **{target.name: ((target.name,),) for target in settings.targets}}


def _entry(settings: Settings, name: str) -> TargetSettings:
    return next(entry for entry in settings.targets if entry.name == name)


def _policy(settings: Settings) -> Policy:
    limits = settings.limits
    return Policy(total_s=limits.total_s, queue=limits.queue, attempts=limits.attempts, hedge_s=limits.hedge_s)
