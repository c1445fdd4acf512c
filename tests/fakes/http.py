"""A scriptable HTTP server on loopback: it does to each request what its script says, to the byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Exchange", "FakeServer", "fake_server"]


@dataclass(slots=True)
class Exchange:
    """One request as it came, and the raw connection to answer it on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def start(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        """Status and headers of an answer that ends when the connection closes."""
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def whole(self, body: Any, status: int = 200, **headers: str) -> None:
        """A whole JSON answer (bytes are sent as they are)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.start(status, "application/json", content_length=str(len(data)), **headers)
        await self.send(data)

    async def until_gone(self) -> None:
        """Wait until the client closes its side."""
        await self.gone.wait()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass(slots=True)
class FakeServer:
    """`seen` are the requests in order; `left` is set each time a client hangs up before its answer's end."""

    url: str
    seen: list[Exchange] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def fake_server(script: Script) -> AsyncIterator[FakeServer]:
    """A server that runs `script` for each request and closes the connection after it."""
    server: FakeServer
    handling: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            exchange = await _read(reader, writer)
            if exchange is None:
                return
            server.seen.append(exchange)
            watching = asyncio.create_task(_watch(exchange, server))
            try:
                await script(exchange)
            finally:
                watching.cancel()
        except (ConnectionError, asyncio.IncompleteReadError):
            server.left.set()
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(handle(reader, writer))
        handling.add(task)
        task.add_done_callback(handling.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server = FakeServer(f"http://127.0.0.1:{port}")
    try:
        yield server
    finally:
        listener.close()
        for task in handling:
            task.cancel()
        await asyncio.gather(*handling, return_exceptions=True)
        await listener.wait_closed()


async def _watch(exchange: Exchange, server: FakeServer) -> None:
    while await exchange.reader.read(1024):
        pass
    exchange.gone.set()
    server.left.set()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Exchange(method, path, headers, body, reader, writer)
