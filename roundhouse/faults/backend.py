"""Backends on loopback that speak OpenAI's chat API, one of them faulty on demand. Raw sockets: faults are of bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from roundhouse.faults.cases import ANSWER, CASES

__all__ = ["Backend", "Backends", "backends"]

_PIECES = re.findall(r"\S+\s?", ANSWER)
_LIMIT_BYTES = 8 << 20
_HALF = len(_PIECES) // 2


class Backend:
    """`fault` names a case, or is empty; times are multiplied by `scale`. Counts what it sees."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fault = ""
        self.scale = 1.0
        self.asked = 0
        self.left_at: float | None = None
        self.left = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Nothing listens any more, and what was answered is cut."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def become(self, fault: str, scale: float) -> None:
        """From now on, fail like this; counts start anew."""
        self.fault, self.scale, self.asked = fault, scale, 0
        self.left_at = None
        self.left.clear()
        if fault == "refused":
            await self.close()
        elif self._server is None:
            await self.listen()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._handle(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            found = re.search(r"content-length:\s*(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(min(int(found[1]), _LIMIT_BYTES)) if found else b""
            if "/chat/completions" not in head.split("\r\n", 1)[0]:
                await _whole(writer, 200, {"data": [{"id": "faults"}]})
                return
            self.asked += 1
            watching = asyncio.ensure_future(self._watch(reader))
            try:
                await self._answer(writer, json.loads(body or b"{}"))
            finally:
                watching.cancel()
        except (ConnectionError, asyncio.IncompleteReadError):
            self._gone()
        finally:
            writer.close()

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(1024):
                pass
        self._gone()

    def _gone(self) -> None:
        self.left_at = time.monotonic()
        self.left.set()

    async def _answer(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        act: Callable[[asyncio.StreamWriter, Mapping[str, Any]], Awaitable[None]] | None
        act = getattr(self, f"_do_{self.fault}", None)
        if act is None:
            await self._stream(writer, body)
        else:
            await act(writer, body)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.scale)

    async def _stream(
        self, writer: asyncio.StreamWriter, body: Mapping[str, Any], *, pause_s: float = 0.0, upto: int | None = None
    ) -> None:
        """The answer, or what is missing of it if its beginning was given; cut before piece `upto`."""
        _start(writer)
        last = (body.get("messages") or [{}])[-1]
        given = last.get("content", "") if last.get("role") == "assistant" else ""
        pieces = re.findall(r"\S+\s?|\s", ANSWER[len(given) :]) if ANSWER.startswith(given) else _PIECES
        await _send(writer, _chunk({"role": "assistant", "content": ""}))
        for piece in pieces[:upto]:
            await _send(writer, _chunk({"content": piece}))
            if pause_s:
                await self._sleep(pause_s)
        if upto is None:
            await _send(writer, _chunk({}, "stop") + _usage(9, len(pieces)) + _DONE)

    async def _do_reset(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        _reset(writer)

    async def _do_silent(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self.left.wait()

    async def _do_slow_headers(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._sleep(10)
        await self._stream(writer, body)

    async def _do_slow_first_token(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        _start(writer)
        await _send(writer, _chunk({"role": "assistant", "content": None}))
        await self._sleep(10)
        for piece in _PIECES:
            await _send(writer, _chunk({"content": piece}))
        await _send(writer, _chunk({}, "stop") + _usage(9, len(_PIECES)) + _DONE)

    async def _do_stall(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._stream(writer, body, upto=_HALF)
        await self.left.wait()

    async def _do_cut(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._stream(writer, body, upto=_HALF)
        _reset(writer)

    async def _do_cut_in_character(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._stream(writer, body, upto=_HALF)
        await _send(writer, b'data: {"choices":[{"delta":{"content":"\xc3')

    async def _do_malformed_first(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        _start(writer)
        await _send(writer, b"data: {not json\n\n")

    async def _do_malformed_later(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._stream(writer, body, upto=_HALF)
        await _send(writer, b'data: {"choices": [\n\n')
        await _send(writer, _chunk({}, "stop") + _DONE)

    async def _do_error_frame(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._stream(writer, body, upto=_HALF)
        await _send(writer, b'data: {"error":{"message":"the engine died","type":"server_error","code":500}}\n\n')
        await _send(writer, _DONE)

    async def _do_no_terminator(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._stream(writer, body, upto=len(_PIECES))
        await _send(writer, _chunk({}, "stop") + _usage(9, len(_PIECES)))

    async def _do_no_finish(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._stream(writer, body, upto=_HALF)
        await _send(writer, _DONE)

    async def _do_429(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await _refuse(writer, 429, "rate_limit_error", "slow down")

    async def _do_429_retry_after(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await _refuse(writer, 429, "rate_limit_error", "slow down", f"retry-after: {max(1, round(20 * self.scale))}")

    async def _do_500_once(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        if self.asked == 1:
            await _refuse(writer, 500, "server_error", "once only")
        else:
            await self._stream(writer, body)

    async def _do_503(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await _refuse(writer, 503, "server_error", "out of order")

    async def _do_503_loading(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await _refuse(writer, 503, "unavailable_error", "Loading model")

    async def _do_context_overflow(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await _refuse(writer, 400, "invalid_request_error", "too long", code="context_length_exceeded")

    async def _do_content_refusal(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await _refuse(writer, 400, "invalid_request_error", "not this", code="content_filter")

    async def _do_invalid_requests(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        if body.get("temperature") == 1.5:  # what the runner marks its invalid requests by
            await _refuse(writer, 422, "invalid_request_error", "temperature 1.5 is not taken here")
        else:
            await self._stream(writer, body)

    async def _do_flapping(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        if self.asked % 2:
            await _refuse(writer, 500, "server_error", "now and then")
        else:
            await self._stream(writer, body)

    async def _do_wrong_usage(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._stream(writer, body, upto=len(_PIECES))
        await _send(writer, _chunk({}, "stop") + _usage(-5, -7) + _DONE)

    async def _do_empty(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        _start(writer)
        await writer.drain()

    async def _do_html(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>Welcome</html>")
        await writer.drain()

    async def _do_dropped_keep_alive(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        """Chunked, so that the client believes the connection to live on; then it is closed."""
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: keep-alive\r\n"
            b"keep-alive: timeout=60\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        data = b"".join(_chunk({"content": piece}) for piece in _PIECES)
        data += _chunk({}, "stop") + _usage(9, len(_PIECES)) + _DONE
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n")
        await writer.drain()

    async def _do_drip(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        await self._stream(writer, body, pause_s=1.0)

    async def _do_client_leaves(self, writer: asyncio.StreamWriter, body: Mapping[str, Any]) -> None:
        _start(writer)
        while not self.left.is_set():
            await _send(writer, _chunk({"content": "on and on "}))
            await asyncio.sleep(0.02)


class Backends:
    """`faulty` and `spare`, and how to change them from outside: `control` is the port of a small HTTP interface.

    `POST /` {"fault", "scale"} -> {} ; `GET /` -> {"faulty_asked", "spare_asked", "left_ago_s"}.
    """

    def __init__(self) -> None:
        self.faulty = Backend("faulty")
        self.spare = Backend("spare")
        self.control = 0

    async def become(self, fault: str, scale: float) -> None:
        """Raises `ValueError` for a fault that is none."""
        if fault and fault not in {case.name for case in CASES}:
            raise ValueError(f'there is no fault "{fault}"')
        await self.faulty.become(fault, scale)
        await self.spare.become("", scale)

    def seen(self) -> dict[str, Any]:
        left_at = self.faulty.left_at
        return {
            "faulty_asked": self.faulty.asked,
            "spare_asked": self.spare.asked,
            "left_ago_s": None if left_at is None else time.monotonic() - left_at,
        }

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request to the control port."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if head.startswith("POST"):
                found = re.search(r"content-length:\s*(\d+)", head, re.IGNORECASE)
                asked = json.loads(await reader.readexactly(int(found[1]) if found else 0))
                await self.become(asked["fault"], float(asked["scale"]))
                await _whole(writer, 200, {})
            else:
                await _whole(writer, 200, self.seen())
        except (ValueError, KeyError) as error:
            await _whole(writer, 400, {"error": str(error)})
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def backends(faulty_port: int = 0, spare_port: int = 0, control_port: int = 0) -> AsyncIterator[Backends]:
    """Both backends and the control port, listening on loopback; 0 = any free port."""
    both = Backends()
    both.faulty.port, both.spare.port = faulty_port, spare_port
    await both.faulty.listen()
    await both.spare.listen()
    control = await asyncio.start_server(both.handle, "127.0.0.1", control_port)
    both.control = control.sockets[0].getsockname()[1]
    try:
        yield both
    finally:
        control.close()
        await both.faulty.close()
        await both.spare.close()


_DONE = b"data: [DONE]\n\n"


def _start(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _whole(writer: asyncio.StreamWriter, status: int, body: Mapping[str, Any], *headers: str) -> None:
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(data)}", *headers]
    writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + data)
    await writer.drain()


async def _refuse(
    writer: asyncio.StreamWriter, status: int, kind: str, message: str, *headers: str, code: str = ""
) -> None:
    error = {"message": message, "type": kind, "param": None, "code": code or kind}
    await _whole(writer, status, {"error": error}, *headers)


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN, as a process that was killed leaves its peers."""
    found = writer.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _chunk(delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return (
        b"data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
    )


def _usage(prompt: int, completion: int) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
