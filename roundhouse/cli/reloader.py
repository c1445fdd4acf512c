"""Reads the configuration again on a signal or when its file has changed, and says what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from roundhouse.config import Invalid
from roundhouse.core.errors import Error
from roundhouse.gateway import Gateway

__all__ = ["Reloader"]

_LOOK_S = 1.0
_Stamp: TypeAlias = tuple[int, int, int] | None


class Reloader:
    """Lives on the server's event loop; `say` is given each line."""

    def __init__(self, gateway: Gateway, say: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._say = say
        self._watching: asyncio.Task[None] | None = None

    def reload(self) -> None:
        """Never raises: a bad configuration is said, and the old one serves on."""
        try:
            done = self._gateway.reload().as_dict()
        except Invalid as error:
            for fault in error.faults:
                self._say(f"reload: {fault}")
            self._say("reload: nothing has changed")
        except Error as error:
            self._say(f"reload: {error}; nothing has changed")
        else:
            said = [f"{name.replace('_', ' ')}: {', '.join(names)}" for name, names in done.items() if names]
            self._say(f"reload: {'; '.join(said) or 'no difference'}")

    def watch(self, path: Path) -> None:
        """Reload whenever the file has changed and has been left alone since the last look."""
        watching = self._watch(path, _stamp(path))
        self._watching = asyncio.get_running_loop().create_task(watching, name="watch of the configuration")

    async def _watch(self, path: Path, read: _Stamp) -> None:
        seen = read
        while True:
            await asyncio.sleep(_LOOK_S)
            now = _stamp(path)
            if now == seen and now not in (read, None):  # a file that is being written is not read by half
                read = now
                self.reload()
            seen = now


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except OSError:  # an editor may take it away for a moment
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
