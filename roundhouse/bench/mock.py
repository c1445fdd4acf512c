"""A backend of known timing: what it was told to take is what a load generator must measure.

Run as a program (`python -m roundhouse.bench.mock '{"ttft_s": 0.05}'`), it prints its port and serves until its
standard input closes: a process of its own, so that the generator's work is not in its times.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

__all__ = ["SERVED", "Mock", "Timing", "mock_process"]

SERVED = "/served"
_MOST_SERVED = 100_000
_LIMIT_BYTES = 8 << 20
_START_S = 30.0
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from the request to the first token, between tokens, and how many tokens there are.

    `spread`: up to so many times longer to the first token, evenly. From `stall_at_s` after the first request on,
    nothing at all is sent for `stall_s`.
    """

    ttft_s: float = 0.05
    itl_s: float = 0.005
    tokens: int = 16
    spread: float = 0.0
    stall_at_s: float = 0.0
    stall_s: float = 0.0

    @property
    def e2e_s(self) -> float:
        return self.ttft_s + (self.tokens - 1) * self.itl_s


class Mock:
    """Speaks OpenAI's chat API on loopback, over raw sockets, for its times must be its own.

    `served`: of the last requests, in the order of their ends, when each came and when each of its tokens was sent, for
    a busy machine delays the mock as well. `GET /served` tells it as JSON.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._first: float | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._chance = random.Random(1)  # noqa: S311 - a delay, no secret
        self.served: deque[list[float]] = deque(maxlen=_MOST_SERVED)
        self.port = 0

    async def __aenter__(self) -> Mock:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                came = time.monotonic()
                if head.startswith(b"GET " + SERVED.encode() + b" "):
                    await self._tell(writer)
                    continue
                found = re.search(rb"content-length:\s*(\d+)", head, re.IGNORECASE)
                if found:
                    await reader.readexactly(min(int(found[1]), _LIMIT_BYTES))
                await self._answer(writer, came)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, came: float) -> None:
        """Each token at its own time from the request's arrival: lateness does not add up."""
        timing = self._timing
        if self._first is None:
            self._first = came
        writer.write(_HEAD)
        first, times = came + timing.ttft_s * (1 + timing.spread * self._chance.random()), [came]
        for number in range(timing.tokens):
            await self._at(first + number * timing.itl_s)
            event = _piece({"content": "word "})
            if number == timing.tokens - 1:
                usage = {"prompt_tokens": 9, "completion_tokens": timing.tokens, "total_tokens": 9 + timing.tokens}
                event += _piece({}, "stop") + _event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n"
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            times.append(time.monotonic())
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.served.append(times)

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        body = json.dumps(list(self.served)).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()

    async def _at(self, moment: float) -> None:
        timing = self._timing
        stall = (self._first or 0.0) + timing.stall_at_s
        if timing.stall_s and stall <= moment < stall + timing.stall_s:
            moment = stall + timing.stall_s
        if (left := moment - time.monotonic()) > 0:
            await asyncio.sleep(left)


@asynccontextmanager
async def mock_process(timing: Timing) -> AsyncIterator[str]:
    """The URL of a mock in a process of its own, which ends with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roundhouse.bench.mock", json.dumps(asdict(timing))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _START_S)
        yield f"http://127.0.0.1:{int(line)}"
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


def _piece(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return _event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})


def _event(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def _main(timing: Timing) -> None:
    async with Mock(timing) as mock:
        sys.stdout.write(f"{mock.port}\n")
        sys.stdout.flush()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main(Timing(**json.loads(sys.argv[1]))))
