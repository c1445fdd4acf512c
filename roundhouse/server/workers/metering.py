"""Keys in a worker: who asks is known here, what is left of a key's limits only the owner knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from roundhouse.access.caller import Caller
from roundhouse.access.keys import KeyLimits
from roundhouse.access.ring import KeyRing
from roundhouse.core.errors import Error
from roundhouse.server.context import CALLER
from roundhouse.server.errors import form_of
from roundhouse.server.exchange import send_error
from roundhouse.server.guard import Entrance, Guard
from roundhouse.server.workers.frames import Enter, Leave, Spend
from roundhouse.server.workers.link import Link

__all__ = ["WorkersGuard"]

_UNLIMITED = KeyLimits()


class _Entered(Caller):
    """One request of a key: what it spends is told to the owner."""

    def __init__(self, key: Caller, link: Link, number: int) -> None:
        super().__init__(key.name, key.role, key.routes, key.limits, digest=key.digest)
        self._link = link
        self._number = number

    def spend(self, tokens: int, now: float) -> None:
        if self.limits.tokens_per_minute and tokens:
            self._link.tell(Spend(self._number, tokens))

    @asynccontextmanager
    async def more(self, count: int, now: float) -> AsyncIterator[None]:
        self.check_count(count)
        async with entered(self._link, self.digest, count):
            yield


@asynccontextmanager
async def entered(link: Link, digest: str, count: int = 1) -> AsyncIterator[int]:
    """While so many requests of a key run. Gives their number; raises what the owner refuses by."""
    number = link.number()
    asked = link.ask(number, Enter(number, digest, count))
    try:
        await asked
        yield number
    finally:
        link.forget(number)
        link.tell(Leave(number))


class WorkersGuard(Guard):
    """The guard over what a worker answers itself; all else is `otherwise`'s, its head checked. `carries` false: all
    is.
    """

    carries = True

    def __init__(
        self,
        entrances: Mapping[tuple[str, str], Entrance],
        otherwise: ASGIApp,
        ring: KeyRing,
        link: Link,
        *,
        hosts: Sequence[str],
        origins: Sequence[str],
        body_limit_bytes: Callable[[], int],
    ) -> None:
        super().__init__(
            entrances, otherwise, {}, ring, hosts=hosts, origins=origins, body_limit_bytes=body_limit_bytes
        )
        self._link = link

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.carries and scope["type"] == "http" and (scope["method"], scope["path"]) in self._entrances:
            await super().__call__(scope, receive, send)
            return
        if scope["type"] == "http":
            try:
                self.checked_head(scope)  # what is passed on may have lost what was odd about it
            except Error as error:
                await send_error(send, error, form_of(scope["path"]))
                return
        await self._otherwise(scope, receive, send)

    async def _metered(self, caller: Caller, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if caller.limits == _UNLIMITED:
            await app(scope, receive, send)
            return
        async with entered(self._link, caller.digest) as number:
            scope[CALLER] = _Entered(caller, self._link, number)
            await app(scope, receive, send)
