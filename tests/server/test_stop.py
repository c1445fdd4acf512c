"""A server that is stopped lets its answers end, for so long; after that each client is told, on its own wire."""

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.http import Exchange, fake_server
from tests.fakes.threads import in_thread
from tests.server.conftest import Served, serve

BODY: dict[str, Any] = {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
PIECE = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
END = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


@contextmanager
def _answering(tmp_path: Path, drain: str, ended: threading.Event | None) -> Iterator[tuple[Served, threading.Event]]:
    """A server over a backend that has begun to answer when the event is set, and ends when `ended` is, if ever."""
    begun = threading.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start()
        await exchange.send(PIECE)
        begun.set()
        await (exchange.until_gone() if ended is None else asyncio.to_thread(ended.wait, 20))
        await exchange.send(END)

    with in_thread(fake_server(script)) as fake:
        config = tmp_path / "c.yaml"
        config.write_text(
            f"llm: {{providers: [{{type: openai, model: m, endpoint: '{fake.url}'}}]}}\nserver: {{drain: {drain}}}\n"
        )
        with serve(config) as served:
            yield served, begun


def _asked(root: str, path: str, *, stream: bool) -> tuple[int, str]:
    with httpx.stream("POST", root + path, json={**BODY, "stream": stream}, timeout=30) as answer:
        return answer.status_code, "".join(answer.iter_text())


@pytest.mark.parametrize(
    ("path", "stream"),
    [("/v1/chat/completions", True), ("/v1/messages", True), ("/api/chat", True), ("/v1/chat/completions", False)],
)
async def test_an_answer_that_lasts_longer_than_the_server_waits_ends_with_an_error(
    tmp_path: Path, path: str, stream: bool
) -> None:
    with _answering(tmp_path, "1s", None) as (served, begun):
        asking = asyncio.create_task(asyncio.to_thread(_asked, served.url.removesuffix("/v1"), path, stream=stream))
        assert await asyncio.to_thread(begun.wait, 10)
        served.process.send_signal(signal.SIGTERM)
        status, text = await asking
        served.process.wait(20)
        assert served.process.stderr is not None
        log = served.process.stderr.read()
    assert status == (200 if stream else 503)
    last = [line for line in text.splitlines() if line][-1]
    assert "this server stops" in str(json.loads(last.removeprefix("data: "))["error"])
    assert "Traceback" not in log


async def test_an_answer_that_ends_in_time_is_whole(tmp_path: Path) -> None:
    ended = threading.Event()
    with _answering(tmp_path, "30s", ended) as (served, begun):
        root = served.url.removesuffix("/v1")
        asking = asyncio.create_task(asyncio.to_thread(_asked, root, "/v1/chat/completions", stream=True))
        assert await asyncio.to_thread(begun.wait, 10)
        served.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.TransportError):  # nobody new is let in meanwhile
            while True:
                await asyncio.to_thread(httpx.get, root + "/healthz")
        ended.set()
        status, text = await asking
        served.process.wait(20)
    assert (status, text.endswith("data: [DONE]\n\n")) == (200, True)


async def test_a_second_interrupt_waits_for_no_answer(tmp_path: Path) -> None:
    """As somebody at a terminal presses Ctrl-C again; the client still hears why, and the log holds no traceback."""
    with _answering(tmp_path, "10m", None) as (served, begun):
        root = served.url.removesuffix("/v1")
        asking = asyncio.create_task(asyncio.to_thread(_asked, root, "/v1/chat/completions", stream=True))
        assert await asyncio.to_thread(begun.wait, 10)
        served.process.send_signal(signal.SIGINT)
        with pytest.raises(httpx.TransportError):  # it has heard the first one
            while True:
                await asyncio.to_thread(httpx.get, root + "/healthz")
        served.process.send_signal(signal.SIGINT)
        status, text = await asking
        assert served.process.wait(20) == 0
        assert served.process.stderr is not None
        log = served.process.stderr.read()
    last = [line for line in text.splitlines() if line][-1]
    assert (status, "this server stops" in str(json.loads(last.removeprefix("data: "))["error"])) == (200, True)
    assert "Traceback" not in log
    assert "ERROR" not in log
