"""A worker's clients of the backends, one for each engine that it was sent to."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from roundhouse.providers.base import LLMProvider
from roundhouse.providers.registry import create
from roundhouse.routing.contact import Contact
from roundhouse.routing.errand import Order, Place

__all__ = ["Clients"]

_MOST = 256


@dataclass(slots=True)
class _Known:
    contact: Contact
    client: LLMProvider
    place: Place
    users: int = 0
    stale: bool = False


@dataclass(slots=True)
class Clients:
    """By replica. An engine that answers elsewhere now gets another client; the old one is closed once it is idle."""

    _known: OrderedDict[str, _Known] = field(default_factory=OrderedDict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)
    _told: dict[str, float] = field(default_factory=dict)

    def place(self, order: Order) -> Place:
        return self._of(order).place

    @asynccontextmanager
    async def using(self, order: Order) -> AsyncIterator[LLMProvider]:
        known = self._of(order)
        known.users += 1
        try:
            yield known.client
        finally:
            known.users -= 1
            if known.stale:
                self._retire(known)

    def moved(self) -> dict[str, float]:
        """When each replica gave something last, for those of which that was not told yet."""
        now = {key: known.place.gave_at for key, known in self._known.items()}
        new = {key: at for key, at in now.items() if at > self._told.get(key, 0.0)}
        self._told = now
        return new

    async def aclose(self) -> None:
        known, self._known = self._known, OrderedDict()
        await asyncio.gather(*(one.client.aclose() for one in known.values()), *self._closing, return_exceptions=True)

    def _of(self, order: Order) -> _Known:
        known = self._known.get(order.replica)
        if known is None or known.contact != order.contact:
            if known is not None:
                self._retire(known)
            client = create(order.contact.kind, order.contact.endpoint)
            known = self._known[order.replica] = _Known(order.contact, client, Place.of(order))
            if len(self._known) > _MOST:
                _, oldest = self._known.popitem(last=False)
                self._retire(oldest)
        return known

    def _retire(self, known: _Known) -> None:
        known.stale = True
        if known.users == 0:
            task = asyncio.get_running_loop().create_task(known.client.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
