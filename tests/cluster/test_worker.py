"""A replica without its cluster: a real engine answers in parts, and everything that goes wrong crosses as data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import psutil
import pytest

from roundhouse.cluster.wire import Failed, Part, Pieces, Taken, decode_part, encode_request
from roundhouse.cluster.worker import Worker, _batches
from roundhouse.config import Settings, TargetSettings
from roundhouse.core.chat import ChatRequest, Chunk, Sampling, collect
from roundhouse.core.errors import ContextTooLong, Died, Error, LaunchFailed, Unsupported
from roundhouse.core.portable import restored

DEMO = TargetSettings(name="demo", type="llamacpp", model="demo", options={"n_threads": 1})
HELLO = ChatRequest.of("Hello", sampling=Sampling(max_tokens=8, temperature=0.0))


async def _started(entry: TargetSettings = DEMO) -> Worker:
    worker = Worker.__new__(Worker)
    await worker.__init__(entry, Settings())  # type: ignore[misc]  # as Serve does
    return worker


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    found = await _started()
    try:
        yield found
    finally:
        await found.aclose()


async def _parts(worker: Worker, request: ChatRequest) -> list[Part]:
    async with aclosing(worker.stream(encode_request(request))) as parts:
        return [decode_part(part) async for part in parts]


async def _called(worker: Worker, what: str, data: bytes = b"") -> Any:
    reply = msgspec.msgpack.decode(await worker.call(what, data))
    if "error" in reply:
        raise restored(reply["error"])
    return reply["value"]


async def test_an_answer_comes_whole_after_the_word_that_it_was_taken(worker: Worker) -> None:
    first, *rest = await _parts(worker, HELLO)
    assert first == Taken()
    answer = collect(chunk for part in rest if isinstance(part, Pieces) for chunk in part.chunks)
    assert answer.text
    assert answer.usage.completion_tokens == 8


async def test_pieces_travel_together_where_they_come_fast_and_at_once_where_they_do_not() -> None:
    """The first and the last never wait."""

    async def fast() -> AsyncIterator[Chunk]:
        for number in range(100):
            yield Chunk(str(number))
            await asyncio.sleep(0)
        yield Chunk(finish_reason="stop")

    batches = [batch async for batch in _batches(fast())]  # type: ignore[arg-type]
    assert batches[0][0] == Chunk("0")
    assert len(batches[0]) < 5  # it did not wait
    assert len(batches) < 20
    assert "".join(chunk.text for batch in batches for chunk in batch) == "".join(map(str, range(100)))

    asked: asyncio.Queue[Chunk | None] = asyncio.Queue()

    async def slow() -> AsyncIterator[Chunk]:
        while (chunk := await asked.get()) is not None:
            yield chunk

    coming = _batches(slow())  # type: ignore[arg-type]
    for text in "abc":
        asked.put_nowait(Chunk(text))
        assert await anext(coming) == [Chunk(text)]
    asked.put_nowait(None)
    with pytest.raises(StopAsyncIteration):
        await anext(coming)


async def test_what_an_engine_refuses_crosses_as_the_error_that_it_is(worker: Worker) -> None:
    *_, last = await _parts(worker, ChatRequest.of("word " * 20_000))
    assert isinstance(last, Failed)
    assert isinstance(restored(last.error), ContextTooLong)


async def test_what_is_no_answer_is_asked_too(worker: Worker) -> None:
    assert await _called(worker, "count_tokens", encode_request(HELLO)) > 1
    assert await _called(worker, "window_tokens") > 256
    assert len((await _called(worker, "tokens", encode_request(HELLO)))["ids"]) > 1
    assert (await _called(worker, "describe"))["chat_template"]
    with pytest.raises(Error) as caught:
        await _called(worker, "embed", msgspec.msgpack.encode(["a"]))
    assert not isinstance(caught.value, Died)
    with pytest.raises(Unsupported):
        await _called(worker, "what nobody has")


async def test_a_reader_that_leaves_frees_the_slot(worker: Worker) -> None:
    (replica,) = worker._target.replicas
    parts = worker.stream(encode_request(ChatRequest.of("Hello", extra={"ignore_eos": True})))
    assert decode_part(await anext(parts)) == Taken()
    await anext(parts)
    assert replica.busy == 1
    await parts.aclose()
    assert replica.busy == 0


async def test_a_dead_engine_is_told_as_dead_and_started_again(worker: Worker) -> None:
    worker.check_health()
    engine = worker._target.replicas[0].engine
    assert engine.pid is not None
    parts = worker.stream(encode_request(ChatRequest.of("Hello", extra={"ignore_eos": True})))
    await anext(parts)
    await anext(parts)
    psutil.Process(engine.pid).kill()
    last = [decode_part(part) async for part in parts][-1]
    assert isinstance(last, Failed)
    assert isinstance(restored(last.error), Died)
    async with asyncio.timeout(30):
        assert isinstance((await _parts(worker, HELLO))[-1], Pieces)
    worker.check_health()


async def test_an_engine_that_cannot_start_is_the_error_of_its_replica() -> None:
    broken = TargetSettings(name="broken", type="llamacpp", model="no-such-file.gguf")
    with pytest.raises(Error) as caught:
        await _started(broken)
    assert isinstance(caught.value, LaunchFailed) or "no-such-file" in str(caught.value)
