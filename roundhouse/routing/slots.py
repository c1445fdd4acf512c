"""Slots of one target and the bounded queue before them. Owned by the manager, touched from its loop alone."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from roundhouse.core.errors import QueueFull

__all__ = ["Slots"]


class Slots:
    """At most `total` requests at once, at most `queue_limit` waiting, first come first served.

    A slot is handed directly from the leaver to the first waiter, so a newcomer cannot overtake the queue.
    """

    def __init__(self, total: int, queue_limit: int) -> None:
        self.total = total
        self.queue_limit = queue_limit
        self.busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_service_s = 1.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def try_take(self) -> bool:
        """Take a free slot if there is one."""
        if self.busy >= self.total:
            return False
        self.busy += 1
        return True

    async def take(self) -> None:
        """Wait for a slot. Raises `QueueFull` at once when too many wait already; cancelling leaves the queue."""
        if self.try_take():
            return
        if len(self._waiting) >= self.queue_limit:
            raise QueueFull(
                f"{self.busy} requests are running and {self.waiting} are waiting, which is the limit; try again later",
                retry_after_s=self.expected_wait_s(),
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._hand_on()
            else:
                with suppress(ValueError):  # a leaver may have passed over the cancelled turn already
                    self._waiting.remove(turn)
            raise

    def give_back(self, served_s: float) -> None:
        """Return a slot after `served_s` seconds; the first in the queue has it next."""
        self._mean_service_s += 0.1 * (served_s - self._mean_service_s)
        self._hand_on()

    def expected_wait_s(self) -> float:
        """Seconds until a request that came now would be served, from the measured mean service time."""
        return max(1.0, (self.waiting + 1) / self.total * self._mean_service_s)

    def _hand_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.busy -= 1
