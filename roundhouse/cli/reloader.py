"""Reads the configuration again on a signal or when its file has changed, and says what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from roundhouse.config import Invalid
from roundhouse.core.errors import Error

__all__ = ["Reloader"]

_LOOK_S = 1.0
_Stamp: TypeAlias = tuple[int, int, int] | None


class Reloader:
    """Lives on an event loop. `reread` reads and takes over, and gives what came of it (`Reloaded.as_dict`); `say` is
    given each line.
    """

    def __init__(self, reread: Callable[[], Awaitable[Mapping[str, Any]]], say: Callable[[str], None]) -> None:
        self._reread = reread
        self._say = say
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def reload(self) -> None:
        """In the background. A bad configuration is said, and the old one serves on."""
        self._run(self._reload(), "reload")

    def watch(self, path: Path) -> None:
        """Reload whenever the file has changed and has been left alone since the last look."""
        self._run(self._watch(path, _stamp(path)), "watch of the configuration")

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        try:
            async with self._one_at_a_time:
                done = await self._reread()
        except Invalid as error:
            for fault in error.faults:
                self._say(f"reload: {fault}")
            self._say("reload: nothing has changed")
        except Error as error:
            self._say(f"reload: {error}; nothing has changed")
        else:
            said = [f"{name.replace('_', ' ')}: {', '.join(names)}" for name, names in done.items() if names]
            self._say(f"reload: {'; '.join(said) or 'no difference'}")

    async def _watch(self, path: Path, read: _Stamp) -> None:
        seen = read
        while True:
            await asyncio.sleep(_LOOK_S)
            now = _stamp(path)
            if now == seen and now not in (read, None):  # a file that is being written is not read by half
                read = now
                await self._reload()
            seen = now


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except OSError:  # an editor may take it away for a moment
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
