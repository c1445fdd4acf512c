"""A worker's side of the channel: asks the owner, and has the answers come to whoever asked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import msgspec

from roundhouse.core.portable import restored
from roundhouse.server.workers.frames import Channel, Done, FromOwner, Give, Refused, Setup, Stop

__all__ = ["Link"]


class Link:
    """`setup` and `stop` are called when the owner says so, `lost` when it is gone."""

    def __init__(self, setup: Callable[[Setup], None], stop: Callable[[], None], lost: Callable[[], None]) -> None:
        self.channel: Channel[FromOwner] = Channel(FromOwner, self._hear, lost)
        self._setup = setup
        self._stop = stop
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Give | Done]] = {}

    def number(self) -> int:
        """For something that the owner will know by it."""
        return next(self._numbers)

    def tell(self, frame: msgspec.Struct) -> None:
        self.channel.tell(frame)

    def ask(self, number: int, frame: msgspec.Struct) -> Awaitable[Give | Done]:
        """What the owner says to that; raises the error with which it refuses."""
        answer: asyncio.Future[Give | Done] = asyncio.get_running_loop().create_future()
        self.channel.tell(frame)
        self._waiting[number] = answer
        return answer

    def forget(self, number: int) -> None:
        """Nobody waits for an answer any more."""
        self._waiting.pop(number, None)

    def _hear(self, frame: FromOwner) -> None:
        match frame:
            case Setup():
                self._setup(frame)
            case Stop():
                self._stop()
            case Refused(id=number, error=error):
                answer = self._waiting.pop(number, None)
                if answer is not None and not answer.done():
                    answer.set_exception(restored(error))
            case Give(id=number) | Done(id=number):
                answer = self._waiting.pop(number, None)
                if answer is not None and not answer.done():
                    answer.set_result(frame)
