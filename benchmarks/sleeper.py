#!/usr/bin/env python3
"""An engine that sleeps instead of computing: what a cluster gains and costs shows where no processor is short.

Run as `vllm` would be (`serve MODEL --port PORT`), it speaks as much of vLLM's wire as our client asks for. It answers
`w0 w1 w2 ...`, one word each `SLEEPER_PIECE_S`, `SLEEPER_PIECES` of them unless `max_tokens` says otherwise, and goes
on from a text that it is given. To `SLEEPER_LOG` it writes a line when an answer begins, ends, or its client has gone.
Standard library alone: it runs by whatever Python is there.
"""

import argparse
import asyncio
import json
import os
from typing import Any

_PIECE_S = float(os.environ.get("SLEEPER_PIECE_S", "0.02"))
_PIECES = int(os.environ.get("SLEEPER_PIECES", "16"))
_LOG = os.environ.get("SLEEPER_LOG", "")
_WINDOW = 32_768


def _note(what: str) -> None:
    if _LOG:
        with open(_LOG, "a") as log:
            log.write(f"{what} {os.getpid()}\n")


def _head(kind: str, length: int | None = None) -> bytes:
    size = f"content-length: {length}" if length is not None else "transfer-encoding: chunked"
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{size}\r\n\r\n".encode()


def _event(value: object) -> bytes:
    data = b"data: " + (value.encode() if isinstance(value, str) else json.dumps(value).encode()) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _answer(asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """By the clock, not by the piece before. A client that leaves is noticed at once."""
    loop = asyncio.get_running_loop()
    written = asked["messages"][-1]["content"].split() if asked.get("continue_final_message") else []
    wanted = asked.get("max_tokens") or asked.get("max_completion_tokens") or _PIECES
    first, last = len(written), len(written) + wanted if written else wanted
    last = min(last, max(first, _PIECES) if written else last)
    gone = asyncio.create_task(reader.read(1))
    _note("begin")
    try:
        writer.write(_head("text/event-stream"))
        began = loop.time()
        for number in range(first, last):
            pause = began + (number - first + 1) * _PIECE_S - loop.time()
            await asyncio.wait((gone,), timeout=max(0.0, pause))
            if gone.done():
                _note("gone")
                return
            delta = {"content": f" w{number}" if number else "w0"}
            writer.write(_event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
        writer.write(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        usage = {"prompt_tokens": 5 + first, "completion_tokens": last - first}
        writer.write(_event({"choices": [], "usage": usage}) + _event("[DONE]") + b"0\r\n\r\n")
        await writer.drain()
        _note("end")
    finally:
        gone.cancel()


async def _serve(model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            method, path, _ = head.decode("latin-1").split(" ", 2)
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            body = json.loads(await reader.readexactly(length) or b"{}")
            if path.startswith("/v1/chat/completions"):
                await _answer(body, reader, writer)
                return  # what was read to notice the client's end may be of its next request
            told = {"count": 5, "max_model_len": _WINDOW, "tokens": [1] * 5, "prompt": "x"}
            if method == "GET":
                told = {"object": "list", "data": [{"id": model, "max_model_len": _WINDOW}]}
            data = json.dumps(told).encode()
            writer.write(_head("application/json", len(data)) + data)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    known, _ = parser.parse_known_args()
    server = await asyncio.start_server(lambda r, w: _serve(known.model, r, w), "127.0.0.1", known.port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
