"""The gateway as a worker has it: the owner decides who answers, the worker streams from there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from msgspec.structs import replace

from roundhouse.core.chat import ChatRequest, Chunk, Chunks, ToolCall
from roundhouse.core.errors import Attempt as Tried
from roundhouse.core.errors import Error
from roundhouse.core.portable import portable
from roundhouse.core.report import Report, new_id
from roundhouse.gateway.trials import Caller as Unit
from roundhouse.routing.errand import Began, CarriedOut, Ended, Failed, Given, Left, Order, Outcome, Passed
from roundhouse.routing.failover import Sent
from roundhouse.routing.manager import Reply
from roundhouse.server.workers.clients import Clients
from roundhouse.server.workers.frames import Ask, Find, Give, Told, Wake
from roundhouse.server.workers.link import Link
from roundhouse.telemetry.buckets import Gaps

__all__ = ["Distant"]


class Distant:
    """What `Answering` needs of a gateway."""

    def __init__(self, link: Link, clients: Clients) -> None:
        self._link = link
        self._clients = clients
        self._begun: set[int] = set()

    def begun(self) -> list[int]:
        """The requests that have begun to be answered since this was asked last, and are not over."""
        begun = list(self._begun)
        self._begun.clear()
        return begun

    async def converse(
        self, request: ChatRequest, *, prompt: str = "", variables: Mapping[str, Any] | None = None, caller: Unit
    ) -> Reply:
        """As the gateway's; what it would raise is raised by the chunks."""
        report = Report(request_id=new_id(), route=request.model)
        ask = Ask(
            self._link.number(),
            request,
            report.request_id,
            time.monotonic(),
            prompt,
            dict(variables or {}),
            caller.unit,
            list(caller.headers),
        )
        return Reply(_Conversation(self._link, self._clients, self._begun, ask, report).chunks(), report)

    async def wake(self, model: str) -> None:
        number = self._link.number()
        await self._done(number, Wake(number, model))

    async def find(self, prompt: str) -> None:
        """Raises `TemplateError` for a prompt that is not there, without a word of those that are."""
        number = self._link.number()
        await self._done(number, Find(number, prompt))

    async def _done(self, number: int, frame: Wake | Find) -> None:
        try:
            await self._link.ask(number, frame)
        finally:
            self._link.forget(number)


class _Conversation:
    """One request: `sent` is what its client has, the pieces of the present attempt from `_from` on."""

    def __init__(self, link: Link, clients: Clients, begun: set[int], ask: Ask, report: Report) -> None:
        self._link = link
        self._clients = clients
        self._begun = begun
        self._ask = ask
        self._report = report
        self._sent = Sent()
        self._from = 0
        self._reasoning: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._gaps = Gaps()
        self._piece_at = 0.0
        self._over = False

    async def chunks(self) -> Chunks:
        number = self._ask.id
        asked = self._link.ask(number, self._ask)
        try:
            while True:
                try:
                    told = await asked
                except Error:
                    self._over = True
                    raise
                assert isinstance(told, Give)
                failed: Error | None = None
                try:
                    async with aclosing(self._attempted(told.order)) as pieces:
                        async for piece in pieces:
                            yield piece
                except Error as error:
                    failed = error
                if failed is None:
                    return
                passed, overhead_s = Passed.of(self._gaps, self._piece_at), self._report.overhead_s
                outcome = Failed(self._given(), portable(failed), overhead_s, passed)
                asked = self._link.ask(number, Told(number, outcome))
        finally:
            self._link.forget(number)
            self._begun.discard(number)
            if not self._over:
                self._tell(Left(self._given(), Passed.of(self._gaps, self._piece_at)))

    async def _attempted(self, order: Order) -> Chunks:
        report, began = self._report, time.monotonic()
        order.head.onto(report)
        place = self._clients.place(order)
        request = order.asked(self._ask.request)
        async with self._clients.using(order) as client:
            attempt = CarriedOut(
                order, place, client, request, report, self._sent, arrived=self._ask.arrived, clock=time.monotonic
            )
            self._sent = self._sent.copy()
            try:
                async with aclosing(await attempt.chunks()) as chunks:
                    async for chunk in chunks:
                        if chunk.has_content:
                            self._add(chunk, traced=order.span is not None)
                        if chunk.finish_reason:
                            report.attempts.append(Tried(order.target, "ok", seconds=time.monotonic() - began))
                            self._ended(chunk)
                        yield chunk
            finally:
                attempt.close()

    def _add(self, chunk: Chunk, *, traced: bool) -> None:
        now = time.monotonic()
        if self._piece_at:
            self._gaps.add(now - self._piece_at)
        self._piece_at = now
        first = len(self._sent.parts) == self._from and not (self._reasoning or self._tool_calls)
        self._sent.add(chunk)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
        self._tool_calls += chunk.tool_calls
        if first and traced:
            self._tell(Began(self._given()))
        elif first:
            self._begun.add(self._ask.id)

    def _ended(self, last: Chunk) -> None:
        """The owner has it before the client can ask again."""
        given = self._given()
        whole = Given(["".join(given.parts)] if given.parts else [], given.reasoning, given.tool_calls)
        bare = replace(last, text="", reasoning="", tool_calls=(), logprobs=())
        self._over = True
        self._tell(Ended(whole, bare, self._report.overhead_s, Passed.of(self._gaps, self._piece_at)))

    def _given(self) -> Given:
        """What the client was given since the owner was told last."""
        given = Given(self._sent.parts[self._from :], "".join(self._reasoning), self._tool_calls)
        self._from, self._reasoning, self._tool_calls = len(self._sent.parts), [], []
        return given

    def _tell(self, outcome: Outcome) -> None:
        self._link.tell(Told(self._ask.id, outcome))
