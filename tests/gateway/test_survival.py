"""A replica of a real engine is killed under load: nobody hangs, nobody gets half an answer, and it comes back."""

import asyncio
import os
import signal
from typing import Any

import pytest

from roundhouse.config import load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.engines.lifecycle import EngineState
from roundhouse.gateway import Gateway
from tests.conftest import rag_query

STREAMS = 16


def _house(**entry: Any) -> Gateway:
    return Gateway(load_mapping({"llm": {"providers": [{"model": "demo", **entry}]}}))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
async def test_a_killed_replica_costs_nobody_an_answer(heldout: list[dict[str, Any]], seconds: float) -> None:
    """One of two llama.cpp replicas dies by SIGKILL under 16 streams, early and late in their answers."""
    rows = heldout[:STREAMS]
    requests = [
        ChatRequest.of(rag_query(row["context"], row["question"]), sampling=Sampling(temperature=0.0, max_tokens=60))
        for row in rows
    ]
    async with _house(type="llamacpp", n_parallel=8, n_ctx=512, replicas={"min": 2, "max": 2}) as gateway:
        wanted = [(await gateway.generate(request)).answer.text for request in requests]
        replicas = gateway._open_manager.targets["llamacpp"].replicas
        await asyncio.gather(*(replica.client() for replica in replicas))
        victim = replicas[0].engine.pid
        assert victim is not None
        asking = [asyncio.create_task(gateway.generate(request)) for request in requests * 4]
        await asyncio.sleep(seconds)
        os.kill(victim, signal.SIGKILL)
        done = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 60)
        for got, text in zip(done, wanted * 4, strict=True):
            assert not isinstance(got, BaseException), got
            assert (got.answer.text, got.answer.finish_reason) == (text, "stop")
        async with asyncio.timeout(20):
            while replicas[0].engine.state is not EngineState.READY:
                await asyncio.sleep(0.05)
        assert replicas[0].engine.pid != victim
        assert [replica.busy for replica in replicas] == [0, 0]


async def test_a_conversation_returns_to_the_replica_that_holds_its_beginning() -> None:
    async with _house(type="llamacpp", n_parallel=2, n_ctx=512, replicas={"min": 3, "max": 3}) as gateway:
        await asyncio.gather(*(replica.client() for replica in gateway._open_manager.targets["llamacpp"].replicas))
        for opening in ("Hello.", "Who are you?", "Where is Varo?"):
            request = ChatRequest.of(opening, sampling=Sampling(max_tokens=5))
            served = {(await gateway.generate(request)).report.replica for _ in range(4)}
            assert len(served) == 1


async def test_an_idle_engine_gives_its_memory_back_and_comes_when_it_is_asked() -> None:
    """The time counts from the end of the last request."""
    async with _house(type="llamacpp", n_ctx=256, ttl=0.3) as gateway:
        (replica,) = gateway._open_manager.targets["llamacpp"].replicas
        request = ChatRequest.of("Hello.", sampling=Sampling(max_tokens=5))
        await gateway.generate(request)
        first = replica.engine.pid
        assert first is not None
        await asyncio.sleep(0.15)
        await gateway.generate(request)
        await asyncio.sleep(0.2)
        assert replica.engine.pid == first, "it was asked again before its time"
        async with asyncio.timeout(10):
            while replica.engine.state is not EngineState.COLD:
                await asyncio.sleep(0.02)
        assert replica.engine.pid is None
        await gateway.generate(request)
        assert replica.engine.pid not in (None, first)


async def test_a_pinned_engine_stays() -> None:
    async with _house(type="llamacpp", n_ctx=256, ttl=0.05, pin=True) as gateway:
        await gateway.generate(ChatRequest.of("Hello.", sampling=Sampling(max_tokens=5)))
        await asyncio.sleep(0.3)
        (replica,) = gateway._open_manager.targets["llamacpp"].replicas
        assert replica.engine.state is EngineState.READY
