"""What is known of the experiments that run. A file is read when it is asked for; of a database, which may be slow or
away, a thread learns beforehand, so that no request waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from roundhouse.core.errors import StoreError
from roundhouse.core.files import write_atomically
from roundhouse.database import Place, Unavailable
from roundhouse.experiments.store import Exposure, First, Run, Store

__all__ = ["Runs"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_REREAD_S = 0.5
_LIMIT_S = 3.0
_LOOK_UP_S = 0.5
_REMEMBERED = 20_000
# Another server may have an exposure for as long as its batches take.
_LOOKS = 3
_BETWEEN_LOOKS_S = 0.3
_CATCHING_UP_S = 30.0


class Runs:
    """Belongs to an event loop, but `units_of`, which blocks. `copy`: a file for what a database said last.

    `away`: the database does not answer; `unsure`: exposures may be missing in it that wait on the disk of another
    server, for it is away or was so a moment ago.
    """

    def __init__(self, place: Place, copy: Path | None = None) -> None:
        self._copy = copy
        self._store = Store(place, limit_s=_LIMIT_S)
        self.remote = self._store.remote
        self.away = self.remote
        self._failed = False
        self._failed_at = -math.inf
        self._runs: Mapping[str, Run] = {} if self.remote else self._store.runs()
        self._seen = None if self.remote else self._store.changes()
        self._reread_at = 0.0
        self._thread = ThreadPoolExecutor(1, "experiments-reader") if self.remote else None
        self._firsts: OrderedDict[tuple[str, int], First | None] = OrderedDict()
        self._units: OrderedDict[int, int] = OrderedDict()

    def close(self) -> None:
        """Blocks for the time of one call."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._store.close()

    @property
    def unsure(self) -> bool:
        return self.away or time.monotonic() - self._failed_at < _CATCHING_UP_S

    def now(self) -> Mapping[str, Run]:
        """All that was ever started, by name. Of a file: with what another process did half a second ago."""
        if not self.remote and time.monotonic() >= self._reread_at:
            self._reread_at = time.monotonic() + _REREAD_S
            if (seen := self._store.changes()) != self._seen:
                self._seen, self._runs = seen, self._store.runs()
        return self._runs

    async def begin(self) -> None:
        """Know what runs, by the copy of this server if the database cannot tell. Never raises."""
        await self.refresh()
        if self.away and self._copy is not None:
            self._runs = await self._apart(partial(_read, self._copy))

    async def refresh(self) -> None:
        """Learn what other servers have started or stopped. Does nothing for a file. Never raises."""
        if not self.remote:
            return
        try:
            if (seen := await self._apart(self._store.changes)) != self._seen:
                self._runs = await self._apart(self._read_and_kept)
                self._seen = seen
                self._firsts.clear()
        except StoreError as error:
            if not self._failed:
                log.warning("experiments stay as they were known last: %s", error)
            self.away = self._failed = True
            self._failed_at = time.monotonic()
        else:
            self.away = self._failed = False

    async def follow(self) -> None:
        """Refresh for ever."""
        while self.remote:
            await asyncio.sleep(_REREAD_S)
            await self.refresh()

    async def learn(self, run: Run, unit: int) -> None:
        """For `first_of`, where weights have changed. Waits half a second at most; never raises."""
        key = (run.name, unit)
        if not self.remote or run.generation == 1 or self.away or key in self._firsts:
            return
        try:
            async with asyncio.timeout(_LOOK_UP_S):
                first = await self._apart(lambda: self._store.first_of(*key))
        except (StoreError, TimeoutError) as error:
            self.away = True  # until the next refresh; meanwhile nobody waits for it
            log.warning("experiments cannot look up a unit: %s", error or "the database is slow")
            return
        _remember(self._firsts, key, first)

    def first_of(self, run: Run, unit: int) -> First | None:
        """How a unit got its arm, None = it was never seen. Raises `Unavailable` where that is not known now."""
        if run.generation == 1:
            return None
        if not self.remote:
            return self._store.first_of(run.name, unit)
        try:
            return self._firsts[run.name, unit]
        except KeyError:
            raise Unavailable("the database is away, and the arm that this unit had is not known") from None

    def seen(self, exposure: Exposure) -> None:
        _remember(self._units, exposure.id, exposure.unit)

    def recent(self, exposure: int) -> int | None:
        """The unit of one of the last exposures of this process."""
        return self._units.get(exposure)

    def units_of(self, exposures: Mapping[str, int]) -> dict[str, int]:
        """By the same names, the units of those exposures that there are. Blocks; raises `StoreError`."""
        found: dict[str, int] = {}
        for look in range(_LOOKS if self.remote else 1):
            if look:
                time.sleep(_BETWEEN_LOOKS_S)
            units = {name: self._store.unit_of(number) for name, number in exposures.items()}
            found = {name: unit for name, unit in units.items() if unit is not None}
            if found:
                break
        return found

    def _read_and_kept(self) -> dict[str, Run]:
        runs = self._store.runs()
        if self._copy is not None:
            try:
                self._copy.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._copy, msgspec.json.encode(list(runs.values())), 0o600)
            except OSError as error:
                log.warning("what runs will not be known after a start without the database: %s", error)
        return runs

    async def _apart(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)


def _read(copy: Path) -> dict[str, Run]:
    """A copy that is missing or damaged is the same as none."""
    try:
        return {run.name: run for run in msgspec.json.decode(copy.read_bytes(), type=list[Run])}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


K = TypeVar("K")
V = TypeVar("V")


def _remember(known: OrderedDict[K, V], key: K, value: V) -> None:
    known[key] = value
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
