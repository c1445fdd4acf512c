"""The way of every generated answer, whichever wire: parse, ask the gateway, encode, count."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from roundhouse.access.caller import Caller
from roundhouse.core.chat import Answer, Chunk, collect
from roundhouse.core.errors import BadResponse, Error
from roundhouse.gateway.trials import Caller as Unit
from roundhouse.routing.manager import Reply
from roundhouse.server.context import Answers
from roundhouse.server.dialect import Asked, Dialect
from roundhouse.server.exchange import (
    ClientGone,
    part,
    read_body,
    send_bytes,
    send_error,
    start_stream,
    stopping,
    until_client_leaves,
)
from roundhouse.server.metering import metered

__all__ = ["Answering"]


class Answering:
    """A `POST` that is answered by a model, in one dialect."""

    def __init__(self, context: Answers, dialect: Dialect) -> None:
        self._context = context
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = self._dialect.parse(await read_body(receive, self._context.body_limit_bytes))
            caller = self._context.user_of(scope, asked.requests[0].model)
            if asked.load:
                await until_client_leaves(scope, receive, self._load(asked, send))
                return
            work = self._answer(asked, scope, send, caller)
            if len(asked.requests) == 1:
                await until_client_leaves(scope, receive, work)
                return
            with contextlib.closing(work):
                async with caller.more(len(asked.requests) - 1, time.monotonic()):
                    await until_client_leaves(scope, receive, work)
        except ClientGone:
            pass
        except Error as error:
            await send_error(send, error, self._dialect.form)

    async def _load(self, asked: Asked, send: Send) -> None:
        await self._context.gateway.wake(asked.requests[0].model)
        await send_bytes(send, self._dialect.whole(asked, [], []))

    async def _answer(self, asked: Asked, scope: Scope, send: Send, caller: Caller) -> None:
        """With its prompt, and in the arm of an experiment that concerns it."""
        if asked.prompt:
            await self._context.check_prompt(caller, asked.prompt)
        unit = Unit(asked.unit, scope["headers"])
        replies = [
            await self._context.gateway.converse(request, prompt=asked.prompt, variables=asked.variables, caller=unit)
            for request in asked.requests
        ]
        if caller.limits.tokens_per_minute:
            replies = [metered(reply, one, caller) for reply, one in zip(replies, asked.requests, strict=True)]
        try:
            await (self._streamed if asked.stream else self._whole)(asked, replies, send)
        except Error as error:  # before the first byte, with the id under which its decisions are kept
            await send_error(send, error, self._dialect.form, headers=self._headers(replies[0]))

    def _headers(self, reply: Reply) -> dict[str, str]:
        own = dict.fromkeys(self._dialect.id_headers, reply.report.request_id)
        return {**own, "x-roundhouse-target": reply.report.target} if reply.report.target else own

    async def _whole(self, asked: Asked, replies: Sequence[Reply], send: Send) -> None:
        """The last piece is sent on before the house counts the request, as it is of a stream."""
        reports = [reply.report for reply in replies]
        async with aclosing(_numbered(replies)) as pieces:
            answers = await _collected(pieces, len(replies))
            await send_bytes(send, self._dialect.whole(asked, answers, reports), headers=self._headers(replies[0]))

    async def _streamed(self, asked: Asked, replies: Sequence[Reply], send: Send) -> None:
        """Headers wait for the first content: until then a failure still has its proper status."""
        async with aclosing(_numbered(replies)) as pieces:
            first = await anext(pieces, None)
            if first is None:
                raise BadResponse("the answer had no content and no finish reason")
            encoder = self._dialect.encoder(asked, [reply.report for reply in replies])
            await start_stream(send, self._dialect.media_type, self._headers(replies[0]))
            left = len(replies)
            held = encoder.begin()
            try:
                while True:
                    index, chunk = first
                    held += encoder.piece(index, chunk)
                    if chunk.finish_reason:
                        left -= 1
                    if not left:
                        await send(part(held + encoder.end(), last=True))
                        return
                    await send(part(held))
                    held = b""
                    first = await anext(pieces)
            except Error as error:
                await send(part(held + encoder.failed(error), last=True))
            except asyncio.CancelledError:  # the server stops; or the client has gone, and nothing reaches it
                await send(part(held + encoder.failed(stopping()), last=True))


async def _numbered(replies: Sequence[Reply]) -> AsyncGenerator[tuple[int, Chunk], None]:
    """The chunks of all replies as they come, each with the number of its reply. The first failure ends them all."""
    if len(replies) == 1:
        async with aclosing(replies[0].chunks) as chunks:
            async for chunk in chunks:
                yield 0, chunk
        return
    arrived: asyncio.Queue[tuple[int, Chunk] | BaseException | None] = asyncio.Queue(maxsize=len(replies))

    async def pump(index: int, reply: Reply) -> None:
        try:
            async with aclosing(reply.chunks) as chunks:
                async for chunk in chunks:
                    await arrived.put((index, chunk))
        except Exception as error:  # noqa: BLE001 - whoever reads the queue raises it
            await arrived.put(error)
        else:
            await arrived.put(None)

    pumps = [asyncio.create_task(pump(index, reply)) for index, reply in enumerate(replies)]
    try:
        running = len(pumps)
        while running:
            item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _collected(numbered: AsyncGenerator[tuple[int, Chunk], None], count: int) -> list[Answer]:
    """The whole answers, once the last piece of each is there."""
    pieces: list[list[Chunk]] = [[] for _ in range(count)]
    left = count
    async for index, chunk in numbered:
        pieces[index].append(chunk)
        left -= chunk.finish_reason is not None
        if not left:
            break
    return [collect(one) for one in pieces]
