"""What the server adds: latency of one connection and requests per second of 32, against the mock backend directly.

Mock, server and load are processes of their own. The load is a bare asyncio client, so that it costs little. Beside it
the same for a relay of the same parts that does nothing else, in turns, for the speed of the machine changes.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from urllib.parse import urlsplit

import psutil
import uvloop

from benchmarks.processes import Running, bare_relay, mock_backend, served
from benchmarks.report import Row, percentile

__all__ = ["run", "throughput"]

_BODY = b'{"model":"default","messages":[{"role":"user","content":"Hello"}]}'
_WARM_UP = 300
_SINGLE = 3000
_CONNECTIONS = 32
_SECONDS = 2.0
_TURNS = 5


def run() -> list[Row]:
    with mock_backend() as mock, served(mock.url) as server, bare_relay(mock.url) as relay:
        direct = uvloop.run(_latencies(mock.url))
        through = uvloop.run(_latencies(server.url))
        relayed = uvloop.run(_latencies(relay.url))
        turns = [(_per_core(server), _per_core(relay)) for _ in range(_TURNS)]
        rate = uvloop.run(throughput(server.url))
        direct_rate = uvloop.run(throughput(mock.url))
    p50, p99 = (_added(through, direct, share) for share in (0.5, 0.99))
    ours, bare = (statistics.median(values) for values in zip(*turns, strict=True))
    share = statistics.median(one / other for one, other in turns)
    bare_p50 = f"{_added(relayed, direct, 0.5):.2f} ms by a bare relay"
    return [
        Row("added latency, 1 connection, p50", f"{p50:.2f} ms", "<= 0.35 ms", p50 <= 0.35, bare_p50),
        Row("added latency, 1 connection, p99", f"{p99:.2f} ms", "<= 1 ms", p99 <= 1, _ms(direct, 0.99)),
        Row("requests/s, 32 connections", f"{rate:.0f}", "", None, f"{direct_rate:.0f}"),
        Row("requests/s per core of the server", f"{ours:.0f}", ">= 4,000", ours >= 4000, f"bare relay {bare:.0f}"),
        Row("the same as a share of a bare relay's", f"{share:.2f}", "", None),
    ]


def _added(through: list[float], direct: list[float], share: float) -> float:
    return (percentile(through, share) - percentile(direct, share)) * 1000


def _per_core(server: Running) -> float:
    """Requests for each second of processor time."""
    process = psutil.Process(server.pid)
    before = sum(process.cpu_times()[:2])
    rate = uvloop.run(throughput(server.url))
    return rate * _SECONDS / (sum(process.cpu_times()[:2]) - before)


def _ms(values: list[float], share: float) -> str:
    return f"{percentile(values, share) * 1000:.2f} ms"


async def _latencies(url: str) -> list[float]:
    connection = await _Connection.open(url)
    for _ in range(_WARM_UP):
        await connection.ask()
    measured = []
    for _ in range(_SINGLE):
        began = time.perf_counter()
        await connection.ask()
        measured.append(time.perf_counter() - began)
    connection.close()
    return measured


async def throughput(url: str) -> float:
    connections = [await _Connection.open(url) for _ in range(_CONNECTIONS)]
    end = time.perf_counter() + _SECONDS

    async def work(connection: _Connection) -> int:
        done = 0
        while time.perf_counter() < end:
            await connection.ask()
            done += 1
        connection.close()
        return done

    return sum(await asyncio.gather(*(work(connection) for connection in connections))) / _SECONDS


class _Connection:
    """One kept connection; `ask` sends a request and reads its answer, which has a content length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._request = request

    @classmethod
    async def open(cls, url: str) -> _Connection:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
        )
        return cls(reader, writer, head.encode() + _BODY)

    async def ask(self) -> None:
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"the server answered {head[:60]!r}")
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()
