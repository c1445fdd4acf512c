"""One server's keys in step with those of all: a copy on the disk, which counts while the database is away, and limits
that hold over all servers, to within what each lets in between two exchanges.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from roundhouse.access.keys import KeyFile
from roundhouse.access.ring import KeyRing
from roundhouse.access.table import KeyTable, Level, Used
from roundhouse.core.errors import ConfigError, StoreError

__all__ = ["Sharing", "mirror"]

log = logging.getLogger(__name__)
_PERIOD_S = 0.25
T = TypeVar("T")


def mirror(table: KeyTable, copy: KeyFile) -> None:
    """Bring the copy to what the table has. Blocks. Raises `StoreError` without touching the copy, and `ConfigError`
    for one that cannot be written.
    """
    keys = table.read()
    try:
        same = copy.path.exists() and copy.read() == keys
    except ConfigError:
        same = False  # it is damaged, and only a copy
    if not same:
        copy.replace(keys)


class Sharing:
    """Runs beside the server that `ring` guards. What `table` waits for keeps nobody else waiting."""

    def __init__(self, table: KeyTable, copy: KeyFile, ring: KeyRing) -> None:
        self._table = table
        self._copy = copy
        self._ring = ring
        self._server = secrets.token_hex(8)
        self._thread = ThreadPoolExecutor(1, "keys")
        self._seen: int | None = None
        self._away = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="sharing of keys")

    async def aclose(self) -> None:
        """Tell what was used last."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if not self._away:
            await self._exchange()
        with suppress(StoreError):
            await self._apart(lambda: self._table.leave(self._server))
        self._thread.shutdown()
        self._table.close()

    async def _run(self) -> None:
        while True:
            await self._exchange()
            await asyncio.sleep(_PERIOD_S)

    async def _exchange(self) -> None:
        used, limited = self._ring.used(), self._ring.limited
        try:
            levels = await self._apart(lambda: self._told(used, limited))
        except (StoreError, ConfigError) as error:
            self._ring.take_back(used)
            if not self._away:
                log.warning("keys stay as they were known last, and limits hold for this server alone: %s", error)
            self._away = True
            return
        except BaseException:
            self._ring.take_back(used)
            raise
        if self._away:
            log.warning("keys and limits are those of all servers again")
        self._away = False
        self._ring.settle(levels)

    def _told(self, used: Mapping[str, Used], limited: bool) -> dict[str, Level]:
        seen = self._table.changes()
        if seen != self._seen:
            mirror(self._table, self._copy)
            self._seen = seen
        return self._table.exchange(self._server, used) if limited else {}

    async def _apart(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)
