"""What nobody asks for: a hung engine is ended and started again, replicas come with the load and go after it."""

import asyncio
import contextlib
import os
import signal
from typing import Any

import pytest

from roundhouse.config import load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.core.errors import Error
from roundhouse.engines import launch
from roundhouse.engines.spares import Spares
from roundhouse.gateway import Gateway
from roundhouse.gateway.demo import demo_gguf
from roundhouse.routing import upkeep
from roundhouse.routing.scaling import Scaler, ScalingPolicy

REQUEST = ChatRequest.of("Hello.", sampling=Sampling(max_tokens=8))


def _house(resources: dict[str, Any] | None = None, **entry: Any) -> Gateway:
    provider = {"type": "llamacpp", "model": "demo", "n_ctx": 256, **entry}
    return Gateway(load_mapping({"llm": {"providers": [provider]}, "resources": resources or {}}))


async def test_an_engine_that_hangs_is_ended_and_started_again() -> None:
    """Stopped by a signal it keeps its port and its connections, and gives no token."""
    async with _house(timeout=1.0) as gateway:
        await gateway.generate(REQUEST)
        (replica,) = gateway._open_manager.targets["llamacpp"].replicas
        first = replica.engine.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(Error, match="silent"):
            await gateway.generate(REQUEST)
        async with asyncio.timeout(30):
            while replica.engine.pid in (first, None) or not replica.warm:
                await asyncio.sleep(0.02)
        await gateway.generate(REQUEST)


async def test_an_engine_that_is_slow_but_works_is_left_alone() -> None:
    """The time to the first token is over, but the process computes."""
    async with _house(timeout=0.001, n_parallel=1) as gateway:
        await gateway.load("llamacpp")
        (replica,) = gateway._open_manager.targets["llamacpp"].replicas
        pid = replica.engine.pid
        long = ChatRequest.of("word " * 150, sampling=Sampling(max_tokens=8))
        busy = [asyncio.create_task(gateway.generate(long)) for _ in range(8)]
        results = await asyncio.gather(*busy, return_exceptions=True)
        assert any(isinstance(result, Error) for result in results)
        await asyncio.sleep(0.2)
        assert replica.engine.pid == pid


async def test_an_engine_that_computes_and_never_answers_is_ended_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadlock of threads that spin looks like work; that nobody got a token for minutes does not."""
    monkeypatch.setattr(upkeep, "_FRUITLESS_S", 0.5)
    monkeypatch.setattr(upkeep, "_IDLE_SHARE", -1.0)
    async with _house(timeout=0.001, n_parallel=1) as gateway:
        await gateway.load("llamacpp")
        (replica,) = gateway._open_manager.targets["llamacpp"].replicas
        pid = replica.engine.pid
        async with asyncio.timeout(30):
            while replica.engine.pid == pid:
                replica.gave_at = 0.0  # a token that came in time after all
                with contextlib.suppress(Error):
                    await gateway.generate(REQUEST)


async def test_replicas_come_with_the_load_and_go_after_it() -> None:
    async with _house(n_parallel=1, replicas={"min": 1, "max": 3}) as gateway:
        manager = gateway._open_manager
        target = manager.targets["llamacpp"]
        manager.upkeep._scalers["llamacpp"] = Scaler(1, 3, ScalingPolicy(up_s=0.1, down_s=0.5))
        going = True

        async def ask() -> None:
            while going:
                await gateway.generate(REQUEST)

        clients = [asyncio.create_task(ask()) for _ in range(6)]
        async with asyncio.timeout(60):
            while len(target.active) < 3:
                await asyncio.sleep(0.05)
            while not all(replica.busy for replica in target.replicas):
                await asyncio.sleep(0.01)
        going = False
        await asyncio.gather(*clients)
        async with asyncio.timeout(60):
            while len(target.active) > 1 or target.replicas[1].warm or target.replicas[2].warm:
                await asyncio.sleep(0.05)
        assert target.replicas[0].warm
        await gateway.generate(REQUEST)


async def test_no_replica_is_added_where_there_is_no_memory_for_it() -> None:
    async with _house({"memory_mib": 70}, n_parallel=1, replicas={"min": 1, "max": 3}) as gateway:
        manager = gateway._open_manager
        target = manager.targets["llamacpp"]
        manager.upkeep._scalers["llamacpp"] = Scaler(1, 3, ScalingPolicy(up_s=0.05))
        for _ in range(3):
            await asyncio.gather(*(gateway.generate(REQUEST) for _ in range(12)))
        assert len(target.active) == 1
        assert len(gateway.state()["memory"]["models"]) == 1


async def test_a_spare_worker_takes_the_next_load() -> None:
    spares = Spares()
    spawn = launch.llamacpp(str(demo_gguf()), {"n_ctx": 256}, cores=1)
    try:
        assert await spares.take(spawn) is None
        await spares.prepare(spawn)
        other = launch.llamacpp(str(demo_gguf()), {"n_ctx": 512}, cores=1)
        child = await spares.take(other)
        assert child is not None, "workers are alike until they are told their model"
        pid = child.pid
        child, ready = await type(child).start("t", other, 60.0, child)
        assert child.pid == pid
        assert ready.url.startswith("http://127.0.0.1:")
        await child.stop()
    finally:
        await spares.aclose()


async def test_a_spare_that_died_is_not_given_to_anyone() -> None:
    spares = Spares()
    spawn = launch.llamacpp(str(demo_gguf()), {"n_ctx": 256}, cores=1)
    try:
        await spares.prepare(spawn)
        (child,) = next(iter(spares._waiting.values()))
        os.kill(child.pid, signal.SIGKILL)
        await child.exited
        assert await spares.take(spawn) is None
    finally:
        await spares.aclose()


async def test_spares_are_kept_where_the_configuration_asks_for_them() -> None:
    async with _house({"spare_workers": 1}) as gateway:
        await gateway.generate(REQUEST)
        spares = gateway._open_house._spares
        async with asyncio.timeout(20):
            while not any(spares._waiting.values()):
                await asyncio.sleep(0.01)
        ((spare,),) = [waiting for waiting in spares._waiting.values() if waiting]
        assert await gateway.unload("llamacpp")
        await gateway.generate(REQUEST)
        assert gateway._open_manager.targets["llamacpp"].replicas[0].engine.pid == spare.pid
