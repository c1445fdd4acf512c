"""A gateway for code that never opens one: it opens on first use, in the event loop that uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from roundhouse.config import Settings
from roundhouse.gateway.gateway import Gateway
from roundhouse.providers import blocking

__all__ = ["Opened"]


class Opened:
    """A gateway that opens on first use, in the event loop that uses it, and stays with it."""

    def __init__(self, settings: Settings, reread: Callable[[], Settings] | None = None) -> None:
        self._gateway = Gateway(settings, reread, exports=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[Gateway] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def get(self) -> Gateway:
        self._loop = self._only_here()
        if self._opening is None:
            self._opening = asyncio.create_task(self._gateway.__aenter__())
        return await asyncio.shield(self._opening)

    def _only_here(self) -> asyncio.AbstractEventLoop:
        here = asyncio.get_running_loop()
        if self._loop not in (None, here):
            raise RuntimeError(
                "it was used first in another event loop, to which its connections belong; use either the blocking "
                "calls or one event loop, or make one object for each"
            )
        return here

    async def aclose(self) -> None:
        """Close it and wait until it is closed, also if somebody else is closing it already."""
        self._only_here()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._opening is not None:
            self._opening = None
            await self._gateway.aclose()
        self._loop = self._closing = None
        blocking.forget(self)
