"""The owner's side of one worker: decides over its requests and counts for its keys."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec

from roundhouse.access.caller import Caller
from roundhouse.access.ring import KeyRing
from roundhouse.core.errors import Error, KeyRejected
from roundhouse.core.portable import portable
from roundhouse.gateway import Gateway
from roundhouse.gateway.trials import Caller as Unit
from roundhouse.routing.errand import Began, Left, Order, Ordered, Outcome
from roundhouse.server.context import check_prompt
from roundhouse.server.workers.frames import (
    Ask,
    Beat,
    Done,
    Enter,
    Find,
    FromWorker,
    Give,
    Leave,
    Refused,
    Spend,
    Told,
    Wake,
)
from roundhouse.telemetry.buckets import Gaps

__all__ = ["Desk"]

log = logging.getLogger(__name__)


class _Call:
    """One request of the worker: an `Errand`. `attempt`: the one that is under way there."""

    def __init__(self, ask: Ask, tell: Callable[[msgspec.Struct], None]) -> None:
        self.id = ask.id
        self.request_id = ask.request_id
        self.arrived = ask.arrived
        self.asked = ask.request
        self.gaps = Gaps()
        self.attempt: Ordered | None = None
        self.task: asyncio.Task[None] | None = None
        self._tell = tell
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

    def order(self, order: Order, attempt: Ordered) -> None:
        self.attempt = attempt
        self._tell(Give(self.id, order))

    async def outcome(self) -> Outcome:
        return await self._outcomes.get()

    def told(self, outcome: Outcome) -> None:
        """A client that leaves while nobody is asked for it cancels what is done for it here."""
        if self.attempt is not None:
            if not isinstance(outcome, Began):
                self.attempt = None
            self._outcomes.put_nowait(outcome)
        elif isinstance(outcome, Left) and self.task is not None:
            self.task.cancel()


class Desk:
    """Belongs to the event loop of `gateway`. `tell` sends a frame to the worker and never waits."""

    def __init__(self, gateway: Gateway, ring: KeyRing, tell: Callable[[msgspec.Struct], None]) -> None:
        self._gateway = gateway
        self._ring = ring
        self._tell = tell
        self._calls: dict[int, _Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._entered: dict[int, tuple[Caller, int]] = {}
        self.lost = 0

    @property
    def running(self) -> int:
        """Requests that it answers now."""
        return len(self._calls)

    def hear(self, frame: FromWorker) -> None:
        match frame:
            case Told(id=number, outcome=outcome):
                if (call := self._calls.get(number)) is not None:
                    call.told(outcome)
            case Ask():
                call = self._calls[frame.id] = _Call(frame, self._tell)
                call.task = self._run(self._answer(call, frame))
            case Enter():
                self._enter(frame)
            case Spend(id=number, tokens=tokens):
                if (entered := self._entered.get(number)) is not None:
                    entered[0].spend(tokens, time.monotonic())
            case Leave(id=number):
                if (entered := self._entered.pop(number, None)) is not None:
                    entered[0].leave(entered[1])
            case Beat(begun=begun, moved=moved):
                for number in begun:
                    if (call := self._calls.get(number)) is not None and call.attempt is not None:
                        call.attempt.begins()
                for call in self._calls.values() if moved else ():
                    if call.attempt is not None and call.attempt.replica in moved:
                        call.attempt.moved(moved[call.attempt.replica])
            case Find(id=number, prompt=prompt):
                self._find(number, prompt)
            case Wake():
                self._run(self._wake(frame))

    async def aclose(self) -> None:
        """The worker is gone: what it was granted is given back. `lost` says how many requests it left."""
        self.lost = len(self._calls)
        for caller, count in self._entered.values():
            caller.leave(count)
        self._entered.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, call: _Call, ask: Ask) -> None:
        try:
            reply = await self._gateway.converse(
                ask.request,
                prompt=ask.prompt,
                variables=ask.variables,
                caller=Unit(ask.unit, ask.headers),
                errand=call,
            )
            async with aclosing(reply.chunks) as chunks:
                async for _ in chunks:
                    pass
        except Error as error:
            self._tell(Refused(call.id, portable(error)))
        except Exception:
            log.exception("a request of a worker failed")
            said = Error("Roundhouse made a mistake of its own; its log has the details")
            self._tell(Refused(call.id, portable(said)))
        finally:
            self._calls.pop(call.id, None)

    def _enter(self, frame: Enter) -> None:
        try:
            caller = self._known(frame.digest)
            caller.enter(time.monotonic(), frame.count)
        except Error as error:
            self._tell(Refused(frame.id, portable(error)))
            return
        self._entered[frame.id] = (caller, frame.count)
        self._tell(Done(frame.id))

    def _known(self, digest: str) -> Caller:
        """The worker may have read a new key before we have."""
        try:
            return self._ring.known(digest)
        except KeyRejected:
            self._ring.look()
            return self._ring.known(digest)

    def _find(self, number: int, prompt: str) -> None:
        try:
            check_prompt(self._gateway, prompt)
        except Error as error:
            self._tell(Refused(number, portable(error)))
        else:
            self._tell(Done(number))

    async def _wake(self, frame: Wake) -> None:
        try:
            await self._gateway.wake(frame.model)
        except Error as error:
            self._tell(Refused(frame.id, portable(error)))
        else:
            self._tell(Done(frame.id))
