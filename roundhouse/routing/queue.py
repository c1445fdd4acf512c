"""The one bounded queue before all slots. Pure: who waits, in which order; the manager decides and grants."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Ticket", "WaitingRoom"]

# A step of priority is worth this much waiting, so that no priority can starve another.
_PRIORITY_S = 10.0


@dataclass(order=True, slots=True)
class Ticket:
    """One waiting request. Lower `rank` is served first; `number` keeps equal ranks in the order they came."""

    rank: float
    number: int
    payload: Any = field(compare=False, default=None)


class WaitingRoom:
    """At most `limit` tickets, first come first served but for priorities."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tickets: list[Ticket] = []
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """In the order of service; a copy, so that tickets may leave meanwhile."""
        return iter(tuple(self._tickets))

    @property
    def full(self) -> bool:
        return len(self._tickets) >= self.limit

    def enter(self, payload: Any, *, arrived: float, priority: int) -> Ticket:
        """A place by arrival and priority. The caller has seen that it is not `full`."""
        self._numbers += 1
        ticket = Ticket(arrived - _PRIORITY_S * priority, self._numbers, payload)
        bisect.insort(self._tickets, ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Safe to call twice."""
        place = bisect.bisect_left(self._tickets, ticket)
        if place < len(self._tickets) and self._tickets[place] is ticket:
            del self._tickets[place]
