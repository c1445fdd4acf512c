"""Who wants the configuration to be read again, and who can: its file lies with the command that started all."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from roundhouse.core.errors import EngineError, Error, InvalidRequest

__all__ = ["Reading"]

_LISTENS_S = 5.0
_GONE_S = 15.0
_READ_S = 60.0


class Reading:
    """Belongs to an event loop. The command asks all the time what is wanted of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._wanted = asyncio.Event()
        self._heard_at = -math.inf

    async def ask(self) -> dict[str, Any]:
        """What came of it. Raises what kept the file from being read or taken over, and `InvalidRequest` where nobody
        holds it.
        """
        if self._clock() - self._heard_at > _GONE_S:
            raise InvalidRequest(
                "the command that started this service is not there, and with it lies the configuration's file: start "
                "it again, or have Serve deploy the new configuration",
                param="",
            )
        self._numbers += 1
        number = self._numbers
        came = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._wanted.set()
        try:
            return await asyncio.wait_for(came, _READ_S)
        except TimeoutError as error:
            raise EngineError(f"the configuration was not read within {_READ_S:g} s, and may be yet") from error
        finally:
            self._waiting.pop(number, None)

    async def wanted(self) -> int:
        """The last request to read that nothing came of yet, waited for; 0 = there is none for now."""
        self._heard_at = self._clock()
        if not self._waiting:
            self._wanted.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), _LISTENS_S)
        self._heard_at = self._clock()
        return max(self._waiting, default=0)

    def came(self, number: int, outcome: dict[str, Any] | Error) -> None:
        """For all who had asked by then."""
        for one in [one for one in self._waiting if one <= number]:
            future = self._waiting.pop(one)
            if future.done():
                continue
            if isinstance(outcome, Error):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
