"""A limit on each of many short waits, by one timer: an `asyncio.timeout` for every token would cost more than all else
that is done for it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["Patience"]

# A limit is kept to this. Loops keep their timers to the millisecond, so one that was set for a wait just before may
# seem to ring too late for the next one.
_EXACT_S = 0.005

T = TypeVar("T")


class Patience:
    """Waits one after the other, each with its limit, in whatever task they happen. `close` it in the end.

    The timer is set anew only when it rings early, which is seldom: most waits end long before their limit. `often_s`:
    it rings at least so often, so that a wait that is shorter than the one before needs no timer of its own.
    """

    def __init__(self, often_s: float = math.inf) -> None:
        self._often_s = often_s
        self._loop = asyncio.get_running_loop()
        self._ends = 0.0
        self._waiting: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._overdue = False

    async def wait(self, work: Awaitable[T], limit_s: float) -> T:
        """The result of `work`; raises `TimeoutError` after `limit_s`, once `work` is cancelled."""
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._ends = self._loop.time() + limit_s
        self._overdue = False
        if self._timer is None or self._timer.when() > self._ends + _EXACT_S:
            self._set()
        self._waiting = task
        try:
            return await work
        except asyncio.CancelledError:
            if self._overdue and task.uncancel() <= cancelling:
                raise TimeoutError from None
            raise
        except BaseException:
            if self._overdue:  # it failed in the moment it was cancelled
                task.uncancel()
            raise
        finally:
            self._waiting = None

    def prolong(self, for_s: float) -> None:
        """Let the present wait go on for so long from now."""
        self._ends = self._loop.time() + for_s

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        self.close()
        self._timer = self._loop.call_at(min(self._ends, self._loop.time() + self._often_s), self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if self._loop.time() < self._ends:
            self._set()
            return
        self._overdue = True
        self._waiting.cancel()
