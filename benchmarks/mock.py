"""A backend of OpenAI's form with a fixed stream, on bare asyncio, to cost next to nothing.

`python -m benchmarks.mock` answers at once; with a number of pieces and the seconds between them, it paces the stream.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop


def _event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


_PIECE = _event(choices=[{"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": None}])
_END = b"".join(
    [
        _event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        _event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 1}),
        b"data: [DONE]\n\n",
    ]
)
_STREAM = _PIECE + _END
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: "
    + str(len(_STREAM)).encode()
    + b"\r\n\r\n"
    + _STREAM
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_PACED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PACED_PIECE = _chunk(_PIECE)
_PACED_END = _chunk(_END) + b"0\r\n\r\n"


class _Mock(asyncio.Protocol):
    def __init__(self, pieces: int, period_s: float) -> None:
        self._pending = b""
        self._pieces, self._period_s = pieces, period_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head = self._pending[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(self._pending) < end + 4 + length:
                return
            self._pending = self._pending[end + 4 + length :]
            if self._pieces:
                self._transport.write(_PACED)
                self._pace(asyncio.get_running_loop().time(), 0)
            else:
                self._transport.write(_ANSWER)

    def _pace(self, begun: float, sent: int) -> None:
        """By the clock, not by the piece before: a late one does not move those after it."""
        if sent == self._pieces:
            self._transport.write(_PACED_END)
            return
        self._transport.write(_PACED_PIECE)
        asyncio.get_running_loop().call_at(begun + (sent + 1) * self._period_s, self._pace, begun, sent + 1)


async def main() -> None:
    pieces, period_s = (int(sys.argv[1]), float(sys.argv[2])) if sys.argv[1:] else (0, 0.0)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Mock(pieces, period_s), "127.0.0.1", 0, backlog=2048
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
