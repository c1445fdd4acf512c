"""One HTTP exchange on raw ASGI: read a bounded body, notice at once that the client has gone, write the answer.

Raw ASGI rather than a framework's response classes, because an answer must be cancelled the moment its client hangs
up, in every phase: queued, loading, waiting for the first token, streaming.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send

from roundhouse.core.errors import Error
from roundhouse.server.errors import Form, Stopping, TooLarge, headers_of, status_of

__all__ = [
    "LEAVING",
    "ClientGone",
    "Leaving",
    "part",
    "read_body",
    "send_bytes",
    "send_error",
    "send_json",
    "start_stream",
    "stopping",
    "too_large",
    "until_client_leaves",
]

LEAVING = "roundhouse.leaving"
_JSON = (b"content-type", b"application/json")


class ClientGone(Exception):
    """The client closed its side; nobody is left to answer."""


async def read_body(receive: Receive, limit_bytes: int) -> bytes:
    """The whole body. Raises `TooLarge` past `limit_bytes`, `ClientGone` if it never arrives whole."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit_bytes:
            raise TooLarge(too_large(limit_bytes))
        if not message.get("more_body"):
            return piece if not pieces else b"".join([*pieces, piece])
        pieces.append(piece)


def too_large(limit_bytes: int) -> str:
    return f"the body is larger than {limit_bytes >> 20} MiB, which is the limit"


class Leaving:
    """Put into a request's scope by a protocol that tells when its client has gone, which saves a task that waits for
    it. `tell` is called then, if somebody has set it.
    """

    __slots__ = ("gone", "tell")

    def __init__(self) -> None:
        self.gone = False
        self.tell: Callable[[], object] | None = None

    def leave(self) -> None:
        self.gone = True
        if self.tell is not None:
            self.tell()


async def until_client_leaves(scope: Scope, receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; if the client leaves first, cancel it, let it clean up, and raise `ClientGone`. Raises `Stopping` if
    it is cancelled otherwise, for the server alone does so, when it has waited long enough for what runs.

    To be called once the body is read: what `receive` still has to say is then only that the client is gone.
    """
    leaving: Leaving | None = scope.get(LEAVING)
    if leaving is None:  # another server than ours: it is asked, by a task that waits for what it says
        leaving = Leaving()
        watching = asyncio.ensure_future(_watch(receive, leaving))
        try:
            await _unless_left(leaving, work)
        finally:
            watching.cancel()
    else:
        await _unless_left(leaving, work)


async def _watch(receive: Receive, leaving: Leaving) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    leaving.leave()


async def _unless_left(leaving: Leaving, work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    if leaving.gone:
        work.close()
        raise ClientGone
    leaving.tell = task.cancel
    try:
        await work
    except asyncio.CancelledError:
        task.uncancel()
        if leaving.gone:
            raise ClientGone from None
        raise stopping() from None
    else:
        if leaving.gone:  # it left as the last byte went out; the answer stands
            task.uncancel()
    finally:
        leaving.tell = None


def stopping() -> Stopping:
    return Stopping("this server stops and cannot finish the answer; ask again in a moment")


async def send_bytes(send: Send, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    """A JSON answer, whole."""
    sent = [_JSON, (b"content-length", str(len(body)).encode()), *_raw(headers)]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, said: Any, status: int = 200) -> None:
    """Any value as a JSON answer."""
    await send_bytes(send, msgspec.json.encode(said), status)


async def send_error(
    send: Send, error: Error, form: Form, status: int | None = None, headers: Mapping[str, str] | None = None
) -> None:
    said = {**headers_of(error), **(headers or {})}
    await send_bytes(send, msgspec.json.encode(form(error)), status or status_of(error), said)


async def start_stream(send: Send, media_type: bytes, headers: Mapping[str, str]) -> None:
    """The head of an answer that comes in `part`s."""
    sent = [(b"content-type", media_type), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": [*sent, *_raw(headers)]})


def part(body: bytes, *, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}


def _raw(headers: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in (headers or {}).items()]
