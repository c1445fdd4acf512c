"""The HTTP entrance on every node: the app of one machine, over a house whose engines are the cluster's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roundhouse.cluster.link import Link, RelayedCanary
from roundhouse.cluster.owner import SwitchAsked
from roundhouse.cluster.provider import ClusterProvider
from roundhouse.cluster.published import Published
from roundhouse.cluster.questions import Decided, Latest, Scrape, What
from roundhouse.cluster.shares import scale_of
from roundhouse.config import Settings, TargetSettings
from roundhouse.core.errors import Error
from roundhouse.core.report import Report
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.gateway import Gateway
from roundhouse.gateway.build import build_room, capabilities_of
from roundhouse.gateway.keeping import log_style
from roundhouse.gateway.plan import is_managed, slots_of
from roundhouse.gateway.reload import same_engines
from roundhouse.routing.breaker import BreakerPolicy
from roundhouse.routing.replica import Replica
from roundhouse.routing.room import Room
from roundhouse.routing.switch import Order
from roundhouse.server.access import key_ring, sharing_of
from roundhouse.server.app import LOOPBACK_HOSTS, Access, build_app
from roundhouse.server.guard import SECURITY_HEADERS
from roundhouse.telemetry.log import Log
from roundhouse.telemetry.merged import Family, exposition_of, families_of

__all__ = ["ClusterGateway", "Entrance"]

log = logging.getLogger(__name__)


class ClusterGateway(Gateway):
    """A gateway whose managed targets run in the cluster, and whose orders are the owner's to carry out."""

    def __init__(self, settings: Settings, application: str, log: Log | None = None) -> None:
        super().__init__(
            settings, lambda: self._told, keeps_history=True, exports=True, watches=True, log=log, hosting=self
        )
        self._told = settings
        self._application = application
        self._link: Link | None = None

    async def __aenter__(self) -> ClusterGateway:
        await super().__aenter__()
        self._allow_retries()
        manager = self._open_manager
        waiting = manager.admission.waiting
        self._link = Link(
            self._application, self._adopt, self._apply, lambda: (manager.active, len(waiting)), self._answer
        )
        await self._link.open()
        return self

    async def aclose(self) -> None:
        link, self._link = self._link, None
        await super().aclose()
        if link is not None:
            await link.aclose()

    def replica(self, entry: TargetSettings, key: str, breaker: BreakerPolicy) -> Replica:
        """As `Hosting` asks: attached, for it is run elsewhere. It has the slots of all replicas that there may be;
        what of them is taken by other entrances is waited for at Serve.
        """

        return Replica(
            key,
            Engine(key, launch.attach(f"ray://{entry.name}")),
            lambda ready: ClusterProvider(
                entry.name, capabilities_of(entry), lambda: self._open_link.using(entry.name)
            ),
            slots_of(entry) * scale_of(entry).most,
            breaker,
            target=entry.name,
        )

    def room(self, settings: Settings) -> Room:
        """As `Hosting` asks; nothing of this process takes any."""
        return build_room(settings)

    def same_engines(self, one: TargetSettings, other: TargetSettings) -> bool:
        """As `Hosting` asks."""
        return same_engines(one, other)

    async def switched(self, route: str, target: str, order: Order, *, wait: bool = False) -> dict[str, Any]:
        asked = SwitchAsked(route, target, order, wait)
        return dict(await self._open_link.order("switch", asked, dict[str, Any]))

    async def switch_told(self, number: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = await self._open_link.order("switched", number, dict[str, Any] | None)
        return found

    async def load(self, target: str) -> None:
        await self._open_link.order("load", target, str)

    async def unload(self, target: str, limit_s: float | None = None) -> bool:
        return bool(await self._open_link.order("unload", (target, limit_s), bool))

    async def reloaded(self) -> dict[str, Any]:
        """The command that holds the file reads it; then the owner goes by it, and so do all entrances."""
        return dict(await self._open_link.order("reload", None, dict[str, Any]))

    def state(self) -> Mapping[str, Any]:
        """Of the whole cluster as the owner sees it; what this entrance thinks of each target stands in its rows."""
        local = {row["target"]: row for row in super().state()["replicas"]}
        told = dict(self._open_link.state)
        kept = ("breaker", "objection", "tokens_per_s")
        rows = [
            {**row, **{name: local[row["target"]][name] for name in kept if row["target"] in local}}
            for row in told.get("replicas", ())
        ]
        return {**told, "replicas": rows}

    async def scraped(self) -> bytes:
        """Of all entrances and the owner; `entrance` of each series says whose it is."""
        return exposition_of(await self._open_link.ask_all(Scrape(), list[Family]), "entrance")

    async def decided(self, request_id: str) -> Report | None:
        """By whichever entrance it came."""
        if (found := self.decisions(request_id)) is not None:
            return found
        told = await self._open_link.ask_all(Decided(request_id), Report | None)
        return next((report for report in told.values() if report is not None), None)

    async def latest(self, count: int, *, troubled: bool = False) -> list[Report]:
        """Of all entrances in turn, each by the newest first: a report does not say when it was."""
        told = await self._open_link.ask_all(Latest(count, troubled), list[Report])
        ranks = zip_longest(*(told[name] for name in sorted(told)))
        return [report for rank in ranks for report in rank if report is not None][:count]

    def _answer(self, what: What) -> bytes:
        told: object
        match what:
            case Scrape():
                told = families_of(self.meter.registry)
            case Decided(request_id):
                told = self.decisions(request_id)
            case Latest(count, troubled):
                told = self._own_latest(count, troubled=troubled)
        return msgspec.msgpack.encode(told)

    @property
    def _open_link(self) -> Link:
        if self._link is None:
            raise RuntimeError("the gateway is not open; use it as `async with ...`")
        return self._link

    def _allow_retries(self) -> None:
        """One replica that dies takes as many requests with it as it has slots; all of them may be asked for again."""
        manager = self._open_manager
        slots = sum(slots_of(one) * scale_of(one).most for one in self._settings.targets if is_managed(one))
        manager.policy = replace(manager.policy, retry_floor=max(manager.policy.retry_floor, slots))

    def _adopt(self, settings: Settings) -> None:
        """Go by another configuration from now on, which the owner goes by already."""
        self._told = settings
        try:
            self.reload()
        except Error:  # the command has checked it; going on by the old one is better than hearing nothing any more
            log.exception("the configuration could not be taken over by this entrance")
        self._allow_retries()

    def _apply(self, published: Published) -> None:
        """Where routes lead changes in one go; who waits is moved, too."""
        manager, link = self._open_manager, self._open_link
        for name, tiers in published.routes.items():
            if (route := manager.routes.get(name)) is None:
                continue
            route.tiers, route.held = tiers, published.held.get(name, "")
            told = published.canaries.get(name)
            if told is None:
                route.canary, route.trial = None, ()
            elif not isinstance(route.canary, RelayedCanary) or route.canary.switch != told.switch:
                route.canary, route.trial = RelayedCanary(told, link.tell), told.trial
        manager.admission.dispatch()


class Entrance:
    """A deployment of the app; Serve's proxies hand it what comes in on any node."""

    def __init__(self, settings: Settings, application: str, owner: object = None) -> None:
        """`owner` makes it a part of the same application."""
        logging.getLogger("roundhouse").setLevel(settings.telemetry.log.level.upper())
        self._settings = settings
        self._log = Log(log_style(settings))
        self._gateway = ClusterGateway(settings, application, self._log)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        server = self._settings.server
        ring = key_ring(self._settings)
        self._gateway.before_reload(lambda new: partial(self._log.apply, log_style(new)))
        hosts = (*LOOPBACK_HOSTS, *server.hosts)
        access = Access(ring, hosts, server.origins, sharing_of(self._settings, ring))
        return _secured(build_app(self._gateway, access, body_limit_bytes=server.body_limit_mib << 20))


def _secured(app: ASGIApp) -> ASGIApp:
    """The headers that our own server sends with every answer; Serve's proxy knows nothing of them."""
    headers = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS]

    async def secured(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await app(scope, receive, sending if scope["type"] == "http" else send)

    return secured
