"""What all entrances are asked at once, since each knows of its own requests alone: the owner passes a question on with
its news, and gathers the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TypeAlias

import msgspec

__all__ = ["Decided", "Gathering", "Latest", "Question", "Scrape", "What"]


class Scrape(msgspec.Struct, frozen=True, tag="scrape"):
    """Its metrics, as `list[Family]`."""


class Decided(msgspec.Struct, frozen=True, tag="decided"):
    """What was decided for a request, as `Report | None`."""

    request_id: str


class Latest(msgspec.Struct, frozen=True, tag="latest"):
    """Its last requests, the newest first, as `list[Report]`."""

    count: int
    troubled: bool


What: TypeAlias = Scrape | Decided | Latest


class Question(msgspec.Struct, frozen=True):
    number: int
    what: What


class Gathering:
    """The questions that are open, and who has answered them. Belongs to an event loop."""

    def __init__(self) -> None:
        self._numbers = 0
        self._open: dict[int, tuple[Question, dict[str, bytes]]] = {}
        self._came = asyncio.Event()

    def ask(self, what: What) -> int:
        """Open a question; `close` it in the end."""
        self._numbers += 1
        self._open[self._numbers] = Question(self._numbers, what), {}
        return self._numbers

    def of(self, entrance: str) -> tuple[Question, ...]:
        """Those that it has not answered yet."""
        return tuple(question for question, answers in self._open.values() if entrance not in answers)

    def came(self, number: int, entrance: str, answer: bytes) -> None:
        """An answer to a question that is not open any more comes too late."""
        if number in self._open:
            self._open[number][1][entrance] = answer
            came, self._came = self._came, asyncio.Event()
            came.set()

    async def all_from(self, number: int, entrances: Collection[str]) -> None:
        """Until all of them have answered."""
        while not set(entrances) <= set(self._open[number][1]):
            await self._came.wait()

    def close(self, number: int) -> dict[str, bytes]:
        """What came, by entrance."""
        return self._open.pop(number)[1]
