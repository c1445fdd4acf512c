"""The side of the command that started the service: it holds the configuration's file, and gives what it reads there to
the owner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
from ray import serve

from roundhouse.cluster.answered import answered
from roundhouse.cluster.owner import OWNER
from roundhouse.cluster.start import APPLICATION, checked
from roundhouse.config import Settings
from roundhouse.core.errors import EngineError, Error
from roundhouse.core.portable import portable, restored

__all__ = ["Reader"]

log = logging.getLogger(__name__)
_AGAIN_S = 1.0


class Reader:
    """Lives on an event loop, in a process that is connected to the cluster. `reread` gives the settings as they are in
    the file now.
    """

    def __init__(self, reread: Callable[[], Settings], application: str = APPLICATION) -> None:
        self._reread = reread
        self._owner = serve.get_deployment_handle(OWNER, application)

    async def reloaded(self) -> dict[str, Any]:
        """Have the cluster go by the file as it is now; what came of it as `Reloaded.as_dict`.

        Raises `ConfigError` for a file that cannot be served, `InvalidRequest` during a switch and `EngineError` while
        there is no owner; then nothing has changed.
        """
        return await self._given(0)

    async def answer(self) -> None:
        """Read it for whoever asks the service to. Does not return."""
        while True:
            try:
                number = await answered(self._owner.wanted.remote())
            except EngineError as error:
                log.info("nobody asks for the configuration: %s", error)
                await asyncio.sleep(_AGAIN_S)
                continue
            if number:
                with suppress(Error):  # whoever asked is told
                    await self._given(number)

    async def _given(self, number: int) -> dict[str, Any]:
        """`number`: of the request by which it is read, 0 = nobody waits for it elsewhere."""
        settings, failure = None, b""
        try:
            settings = replace(checked(self._reread()), origins={})
        except Error as error:
            if not number:
                raise
            failure = msgspec.msgpack.encode(portable(error))
        reply = msgspec.msgpack.decode(await answered(self._owner.read.remote(number, settings, failure)))
        if "error" in reply:
            raise restored(reply["error"])
        return dict(reply["value"])
