"""Started workers that wait for a model, so that a load need not wait for an interpreter and its imports.

One is asked for ahead of a load that is coming (`prepare`), or a number of each kind is kept (`keep`). A spare that
died meanwhile is thrown away; nobody is refused for want of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TypeAlias

from roundhouse.core.errors import Error
from roundhouse.engines.launch import Spawn
from roundhouse.engines.process import Child

__all__ = ["Spares"]

log = logging.getLogger(__name__)
_IMPORT_LIMIT_S = 60.0
# Workers with the same command and environment are alike until they are told their model.
_Kind: TypeAlias = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


class Spares:
    """Lives on one event loop. `keep`: how many of each kind are held ready once one of it was used."""

    def __init__(self, keep: int = 0) -> None:
        self.keep = keep
        self._waiting: defaultdict[_Kind, list[Child]] = defaultdict(list)
        self._starting: Counter[_Kind] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take(self, spawn: Spawn) -> Child | None:
        """A worker that this spawn could have started; None = there is none."""
        kind = _kind(spawn)
        waiting = self._waiting[kind]
        found = None
        while waiting and found is None:
            child = waiting.pop()
            found = child if child.death() is None else None
        if self.keep:
            self._fill(spawn, self.keep)
        return found

    async def prepare(self, spawn: Spawn) -> None:
        """Have at least one, with its imports done, for a load that is coming; gives up after a while."""
        if spawn.settings is None:
            return
        self._fill(spawn, max(1, self.keep))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IMPORT_LIMIT_S):
                while not self._waiting[_kind(spawn)] and self._tasks:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                for child in self._waiting[_kind(spawn)]:
                    await child.imported()

    async def aclose(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        children = [child for waiting in self._waiting.values() for child in waiting]
        self._waiting.clear()
        await asyncio.gather(*(child.stop(grace_s=0) for child in children))

    def _fill(self, spawn: Spawn, count: int) -> None:
        kind = _kind(spawn)
        there = len(self._waiting[kind]) + self._starting[kind]
        if spawn.settings is None or self._closed:
            return
        for _ in range(count - there):
            self._starting[kind] += 1
            task = asyncio.create_task(self._start(spawn), name="a spare worker")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _start(self, spawn: Spawn) -> None:
        kind = _kind(spawn)
        try:
            self._waiting[kind].append(await Child.spawned("a spare worker", spawn))
        except Error as error:
            log.warning("%s", error)
        finally:
            self._starting[kind] -= 1


def _kind(spawn: Spawn) -> _Kind:
    environment: Mapping[str, str] = spawn.env
    return spawn.argv, tuple(sorted(environment.items()))
