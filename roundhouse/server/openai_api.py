"""`/v1/*` in OpenAI's form: parse, call the gateway, encode."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
from starlette.types import Receive, Scope, Send

from roundhouse.core.chat import Chunk, Chunks, collect
from roundhouse.core.errors import BadResponse, Error
from roundhouse.core.report import Report
from roundhouse.gateway import Gateway
from roundhouse.routing.manager import Reply
from roundhouse.server.exchange import ClientGone, read_body, send_bytes, send_error, send_events, until_client_leaves
from roundhouse.server.openai_wire import Asked, StreamEncoder, encode_answer, parse_chat

__all__ = ["ChatCompletions", "Models"]


class ChatCompletions:
    """`POST /v1/chat/completions`."""

    def __init__(self, gateway: Gateway, body_limit_bytes: int) -> None:
        self._gateway = gateway
        self._body_limit_bytes = body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = parse_chat(await read_body(receive, self._body_limit_bytes))
            reply = self._gateway.stream(asked.request)
            answer = self._streamed if asked.stream else self._whole
            await until_client_leaves(receive, answer(asked, reply, send))
        except ClientGone:
            return
        except Error as error:
            await send_error(send, error)

    async def _whole(self, asked: Asked, reply: Reply, send: Send) -> None:
        async with aclosing(reply.chunks) as chunks:
            answer = collect([chunk async for chunk in chunks])
        await send_bytes(send, encode_answer(answer, reply.report, int(time.time())), headers=_headers(reply.report))

    async def _streamed(self, asked: Asked, reply: Reply, send: Send) -> None:
        """Headers wait for the first content: until then a failure still has its proper status."""
        async with aclosing(reply.chunks) as chunks:
            first = await anext(chunks, None)
            if first is None:
                raise BadResponse("the answer had no content and no finish reason")
            encoder = StreamEncoder(reply.report, int(time.time()), include_usage=asked.include_usage)
            await send_events(send, _events(encoder, first, chunks), _headers(reply.report))


async def _events(encoder: StreamEncoder, first: Chunk, rest: Chunks) -> AsyncIterator[bytes]:
    yield encoder.first() + (encoder.last(first) if first.finish_reason else encoder.piece(first))
    async for chunk in rest:
        yield encoder.last(chunk) if chunk.finish_reason else encoder.piece(chunk)


def _headers(report: Report) -> dict[str, str]:
    return {"x-request-id": report.request_id, "x-roundhouse-target": report.target}


class Models:
    """`GET /v1/models`: every name that may be put into `model`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rows = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "roundhouse",
                "roundhouse": {"targets": list(targets)},
            }
            for name, targets in self._gateway.names().items()
        ]
        await send_bytes(send, msgspec.json.encode({"object": "list", "data": rows}))
