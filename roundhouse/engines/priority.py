"""How much processor time a child gets beside busy ones, where Linux groups processes by session.

A child of ours runs in a session of its own, and with `sched_autogroup_enabled` each session is one share of the
processor
(sched(7), "The autogroup feature"). A share can be made smaller and given back without privileges, which a process's
own nice value cannot. Where there are no such groups nothing happens.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["standing_back"]

log = logging.getLogger(__name__)
_NICE = 5  # about a third of a busy neighbour's share
_TRIES = 20
_PAUSE_S = 0.1  # the kernel takes one change in this time


@asynccontextmanager
async def standing_back(pid: int, wanted: bool) -> AsyncIterator[None]:
    """While it lasts, the session of `pid` gives way to others that are busy; if `wanted`."""
    lowered = wanted and await _set(pid, _NICE)
    try:
        yield
    finally:
        if lowered and not await asyncio.shield(_set(pid, 0)):
            log.warning("process %d could not be given its full share of the processor again", pid)


async def _set(pid: int, nice: int) -> bool:
    for _ in range(_TRIES):
        done = _write(pid, nice)
        if done is not None:
            return done
        await asyncio.sleep(_PAUSE_S)
    return False


def _write(pid: int, nice: int) -> bool | None:
    """Whether there is nothing left to do; None = ask again later."""
    group = Path(f"/proc/{pid}/autogroup")
    try:
        group.write_text(str(nice))
    except OSError as error:
        return None if error.errno == errno.EAGAIN else not group.parent.exists()
    return True
