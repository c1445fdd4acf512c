"""How many streams, each a piece every 20 ms, go through one server without a pause that a reader would notice.

Mock, server and load are processes of their own. The same clients on the mock directly show which pauses are theirs.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast
from urllib.parse import urlsplit

import psutil
import uvloop

from benchmarks.processes import Running, mock_backend, served
from benchmarks.report import Row

__all__ = ["PERIOD_S", "PIECES", "longest_pause", "run"]

PIECES = 64
PERIOD_S = 0.020
_STREAMS = (128, 256, 512, 768)
_LIMIT_S = 0.100
_ROUNDS = 2
_BODY = b'{"model":"default","stream":true,"messages":[{"role":"user","content":"Hello"}]}'


def run() -> list[Row]:
    rows = []
    carried = 0
    with mock_backend(PIECES, PERIOD_S) as mock, served(mock.url, slots=max(_STREAMS)) as server:
        uvloop.run(longest_pause(server.url, 8))
        for streams in _STREAMS:
            pause, busy = _through(server, streams)
            direct, _ = _through(mock, streams)
            said = f"longest pause {pause * 1000:.0f} ms, server at {busy:.0%} of a core"
            rows.append(Row(f"{streams} paced streams", said, "", None, f"{direct * 1000:.0f} ms"))
            if pause > _LIMIT_S:
                break
            carried = streams
    said = f"{carried} (of {PIECES} pieces, {PERIOD_S * 1000:.0f} ms apart)"
    return [*rows, Row("paced streams without a pause over 100 ms", said, ">= 512", carried >= 512)]


def _through(server: Running, streams: int) -> tuple[float, float]:
    process = psutil.Process(server.pid)
    began, before = time.perf_counter(), sum(process.cpu_times()[:2])
    pause = uvloop.run(longest_pause(server.url, streams))
    return pause, (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - began)


async def longest_pause(url: str, streams: int) -> float:
    """Seconds between two reads of one stream, over all; clients begin spread over the length of a stream."""
    clients = [asyncio.create_task(_client(url, PIECES * PERIOD_S * n / streams)) for n in range(streams)]
    return max(await asyncio.gather(*clients))


async def _client(url: str, after_s: float) -> float:
    await asyncio.sleep(after_s)
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, reader = await loop.create_connection(lambda: _Reader(parts.netloc), parts.hostname or "", parts.port or 80)
    longest = 0.0
    for _ in range(_ROUNDS):
        longest = max(longest, await reader.ask())
    reader.close()
    return longest


class _Reader(asyncio.Protocol):
    """Times what arrives and counts the pieces: all must come."""

    def __init__(self, host: str) -> None:
        self._request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
        ).encode() + _BODY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class

    async def ask(self) -> float:
        self._told: list[bytes] = []
        self._last = self._longest = 0.0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport.write(self._request)
        await self._ended
        text = b"".join(self._told)
        if not text.startswith(b"HTTP/1.1 200") or text.count(b'"Hello"') != PIECES:
            raise RuntimeError(f"a stream was not whole: {text[:60]!r}")
        return self._longest

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._last:
            self._longest = max(self._longest, now - self._last)
        if b'"Hello"' in data:  # the first piece is waited for, not paced
            self._last = now
        self._told.append(data)
        if data.endswith(b"0\r\n\r\n") and not self._ended.done():
            self._ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_exception(error or ConnectionError("the server hung up"))

    def close(self) -> None:
        self._transport.close()
