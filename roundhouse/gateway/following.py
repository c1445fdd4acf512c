"""Routes as switches have led them: kept over a restart, and followed by all servers that share a database.

What is known of other servers is learned beside the requests, by one thread; a database that is away is missed by
nobody: the last records lie on the disk of every server.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from roundhouse.config import Settings
from roundhouse.core.errors import Error, InvalidRequest, StoreError
from roundhouse.database import Place
from roundhouse.database.journal import waiting_bytes
from roundhouse.gateway.house import tiers_of
from roundhouse.gateway.plan import is_managed
from roundhouse.routing.breaker import BreakerState
from roundhouse.routing.manager import Manager
from roundhouse.routing.records import Hint, Record, RouteTable, applied, configured_as, newer
from roundhouse.routing.route import Route, Tiers

__all__ = ["Following"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_PERIOD_S = 0.25
_LONGEST_HINT_S = 120.0


class Following(Collector):
    """Belongs to an event loop. `copy`: the file of this server's own records; `shared`: where those of all servers
    are, None = it is alone.
    """

    def __init__(self, settings: Settings, copy: Path, shared: Place | None) -> None:
        self._copy = copy
        self._shared = None if shared is None else RouteTable(shared)
        # Servers of one user that share nothing but this folder may have routes of the same names.
        self._scope = "" if shared is not None else settings.source
        self._server = secrets.token_hex(8)
        self._thread = ThreadPoolExecutor(1, "routes")
        self._records: dict[str, Record] = {}
        self._followed: dict[str, float] = {}
        self._hinted: set[tuple[str, str, int]] = set()
        self._manager: Manager | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._away = False
        self._adopt(settings)

    async def begin(self) -> None:
        """Know the records, those of other servers too if they can be had within some seconds. Never raises."""
        try:
            if self._copy.exists():
                self._records = await self._apart(lambda: self._own(lambda table: table.read(self._scope)))
            if self._shared is not None:
                await self._learn([])
        except StoreError as error:
            self._miss(error)

    def join(self, manager: Manager) -> None:
        """From now on switches are recorded, and others' are followed."""
        self._manager = manager
        manager.turntable.led = self._led
        if self._shared is not None:
            self._following = self._run(self._follow())

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Whether the database is there, and what waits for it on this machine, for `/metrics`."""
        if self._shared is None:
            return
        up = "1 while the database that servers share answers"
        yield GaugeMetricFamily("roundhouse_database_up", up, value=float(not self._away))
        said = "What waits on this machine's disk for the database"
        yield GaugeMetricFamily(
            "roundhouse_database_waiting_bytes", said, value=float(waiting_bytes(self._copy.parent))
        )

    def tiers(self, settings: Settings) -> Mapping[str, Tiers]:
        """Every route as the configuration has it, or where a switch has led it since."""
        self._adopt(settings)
        return {name: self._recorded(name) or tiers for name, tiers in tiers_of(settings).items()}

    def notices(self) -> list[str]:
        """What leads elsewhere than the configuration says, and how to end that."""
        said = []
        for name, tiers in self._routes.items():
            recorded = self._recorded(name)
            if recorded is not None and recorded != _plain(tiers):
                since = datetime.fromtimestamp(self._records[name].at).astimezone()
                said.append(
                    f'route "{name}" leads to {_said(recorded)}, where it was switched at {since:%Y-%m-%d %H:%M}, and '
                    f"not to {_said(tiers)} as configured; to end that, switch it back or configure it anew"
                )
        return said

    async def aclose(self) -> None:
        """A record that is being written is."""
        if self._following is not None:
            self._following.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)
        if self._shared is not None:
            self._shared.close()

    def _adopt(self, settings: Settings) -> None:
        models = {entry.name: (entry.type, entry.model) for entry in settings.targets}
        self._known = tuple(models)
        self._routes = {name: tiers for name, tiers in tiers_of(settings).items() if name not in models}
        self._configured = {name: configured_as(tiers, models) for name, tiers in self._routes.items()}
        self._backends = {
            entry.name: sha256(repr((entry.type, entry.endpoint, entry.model)).encode()).hexdigest()[:16]
            for entry in settings.targets
            if not is_managed(entry)  # an engine of ours is nobody else's
        }

    def _recorded(self, route: str) -> tuple[tuple[str, ...], ...] | None:
        tiers = applied(self._records.get(route), self._configured.get(route, ""), self._known)
        return None if tiers is None else _plain(tiers)

    def _led(self, route: Route) -> None:
        """A switch has led a route elsewhere, here."""
        configured, tiers = self._configured.get(route.name), _plain(route.tiers)
        if configured is None or self._recorded(route.name) == tiers:
            return
        self._records[route.name] = Record(route.name, configured, tiers, time.time())
        self._run(self._keep())

    async def _keep(self) -> None:
        records = list(self._records.values())
        try:  # not behind a database that may be away
            await asyncio.to_thread(self._own, lambda table: table.write(self._scope, records))
        except StoreError as error:
            log.warning("where routes lead will not be known after a restart: %s", error)

    async def _follow(self) -> None:
        while True:
            try:
                await self._learn(self._open_breakers())
            except StoreError as error:
                self._miss(error)
            else:
                if self._away:
                    log.warning("switches of other servers are followed again")
                self._away = False
            await asyncio.sleep(_PERIOD_S)

    async def _learn(self, own: list[Hint]) -> None:
        mine = dict(self._records)
        theirs, hints = await self._apart(lambda: self._exchanged(mine, own))
        fresh = newer(theirs, self._records)
        self._records.update(fresh)
        if fresh:
            await self._keep()
        for route in self._records:
            self._take_over(route)
        self._take(hints)

    def _exchanged(self, mine: Mapping[str, Record], own: list[Hint]) -> tuple[dict[str, Record], list[Hint]]:
        assert self._shared is not None
        theirs = self._shared.read(self._scope)
        if untold := newer(mine, theirs):
            self._shared.write(self._scope, untold.values())
        return theirs, self._shared.exchange_hints(self._server, own)

    def _take_over(self, route: str) -> None:
        """Switch here as it was switched there; what fails is not begun again."""
        tiers, at = self._recorded(route), self._records[route].at
        if self._manager is None or tiers is None or self._followed.get(route) == at:
            return
        if _plain(self._manager.routes[route].tiers) != tiers:
            try:
                self._manager.turntable.follow(route, tiers)
            except InvalidRequest:
                return  # another switch is under way: when it is over
            except Error as error:
                log.warning("another server has switched %s to %s; here: %s", route, _said(tiers), error)
        self._followed[route] = at

    def _open_breakers(self) -> list[Hint]:
        assert self._manager is not None
        now, found = self._manager.clock(), []
        for name, backend in self._backends.items():
            target = self._manager.targets.get(name)
            breaker = target.replicas[0].standing.breaker if target is not None else None
            if breaker is not None and breaker.state is BreakerState.OPEN and breaker.opens_at > now:
                found.append(Hint(backend, self._server, breaker.generation, breaker.opens_at - now))
        return found

    def _take(self, hints: list[Hint]) -> None:
        """Each counts once: what this server finds out by itself counts from then on."""
        if self._manager is None:
            return
        now, current = self._manager.clock(), {(one.backend, one.server, one.opening) for one in hints}
        for hint in hints:
            if (hint.backend, hint.server, hint.opening) not in self._hinted:
                for name, backend in self._backends.items():
                    target = self._manager.targets.get(name)
                    if backend == hint.backend and target is not None:
                        target.replicas[0].standing.breaker.hint(now + min(hint.for_s, _LONGEST_HINT_S))
        self._hinted = current

    def _own(self, act: Callable[[RouteTable], T]) -> T:
        table = RouteTable(self._copy)
        try:
            return act(table)
        finally:
            table.close()

    def _miss(self, error: StoreError) -> None:
        if not self._away:
            log.warning("routes lead where they were known to lead last: %s", error)
        self._away = True

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _apart(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)


def _plain(tiers: Tiers) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(tier) for tier in tiers)


def _said(tiers: Tiers) -> str:
    return ", ".join(" | ".join(tier) for tier in tiers)
