"""The experiments of a house behind one door: who takes part, what comes of it, how they stand, and their end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from roundhouse.config import Settings
from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.experiments.store import Run
from roundhouse.gateway.keeping import address_of, cache_folder, experiments_place
from roundhouse.gateway.standings import Standings
from roundhouse.gateway.steering import begin, end
from roundhouse.gateway.trials import CALLERS_OWN, Caller, Enrolled, Trials, designs_of
from roundhouse.prompts.catalog import Catalog
from roundhouse.routing.manager import Reply

__all__ = ["Laboratory"]


class Laboratory:
    """Belongs to an event loop once it is open. Raises `ConfigError` for experiments that cannot be run.

    `first_target` tells the target and model that a route would ask first.
    """

    def __init__(self, settings: Settings, catalog: Catalog, first_target: Callable[[str], tuple[str, str]]) -> None:
        self._settings = settings
        self._designs = designs_of(settings, catalog)
        self._first_target = first_target
        self._trials: Trials | None = None
        self._standings: Standings | None = None

    async def open(self, settings: Settings) -> None:
        """Take part from now on."""
        self._settings = settings
        self._begin()
        if self._trials is not None:
            await self._trials.ready()

    async def aclose(self) -> None:
        """Write what waits."""
        trials, self._trials = self._trials, None
        if trials is not None:
            await trials.aclose()

    def prepared(self, settings: Settings, catalog: Catalog) -> Callable[[], None]:
        """The change to other settings, which is made by calling what is returned. Raises `ConfigError`."""
        designs = designs_of(settings, catalog)

        def adopt() -> None:
            self._designs = designs
            if self._trials is None:
                self._begin()
            else:
                self._trials.designs = designs
            if self._standings is not None:
                self._standings.designs = designs

        return adopt

    async def enrol(
        self, request: ChatRequest, prompt: str, values: Mapping[str, Any], caller: Caller, request_id: str
    ) -> Enrolled | None:
        """The arm of a request, if an experiment concerns it."""
        if self._trials is None:
            return None
        await self._trials.look_up(request, prompt, caller)
        return self._trials.enrol(request, prompt, caller, _size(request, values), request_id)

    def failed(self, enrolled: Enrolled | None, error: Error) -> None:
        """A request could not even be asked; a caller's own mistake says nothing of its arm."""
        if enrolled is not None and self._trials is not None and not isinstance(error, CALLERS_OWN):
            self._trials.fail(enrolled)

    def watch(self, reply: Reply, enrolled: Enrolled | None, values: Mapping[str, Any]) -> Reply:
        """`reply`, whose outcomes are recorded when it ends."""
        return reply if enrolled is None or self._trials is None else self._trials.watch(reply, enrolled, values)

    async def feedback(self, request_id: str, metric: str, value: float) -> list[str]:
        """The experiments that the request was in. Raises `InvalidRequest` if it was in none."""
        if self._trials is None:
            raise InvalidRequest("there are no experiments in the configuration", param="id")
        return await asyncio.to_thread(self._trials.feedback, request_id, metric, value)

    async def all(self) -> list[dict[str, Any]]:
        """Every experiment of the configuration, and what its data allow to say, as plain values."""
        return [] if self._standings is None else await asyncio.to_thread(self._standings.all)

    async def course(self, name: str) -> list[dict[str, Any]]:
        """Its intervals at past times and now. Raises `InvalidRequest` for an unknown name."""
        if self._standings is None:
            raise InvalidRequest("there are no experiments in the configuration", param="name")
        return await asyncio.to_thread(self._standings.course, name, time.time())

    async def begin(self, name: str) -> Run:
        """Begin one, or go on. Raises `InvalidRequest` for one that the configuration does not have."""
        return await asyncio.to_thread(begin, experiments_place(self._settings), self._designs, name)

    async def end(self, name: str, promote: str, reason: str) -> Run:
        """Stop one, or give everybody the arm to `promote`. Raises `InvalidRequest` where that does not apply."""
        place = experiments_place(self._settings)
        return await asyncio.to_thread(end, place, self._designs, name, promote, reason)

    def _begin(self) -> None:
        """Only a house with experiments has a file of them."""
        if self._designs:
            place, address = experiments_place(self._settings), address_of(self._settings)
            journal = None if address is None else cache_folder(address)
            self._trials = Trials(self._designs, place, self._first_target, journal)
            self._standings = Standings(self._designs, place)
            self._trials.start()


def _size(request: ChatRequest, values: Mapping[str, Any]) -> int:
    """Characters of what was asked."""
    said = sum(len(message.content) for message in request.messages)
    return said + sum(len(value) for value in values.values() if isinstance(value, str))
