"""Several models in a memory that does not hold them all: all are answered, nobody busy leaves, nothing overflows."""

import asyncio
import random
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from roundhouse.config import Settings, load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.core.errors import NoFit
from roundhouse.engines.lifecycle import Engine, EngineState
from roundhouse.gateway import Gateway
from roundhouse.gateway.ways import ways_of
from roundhouse.resources import hardware

NAMES = ("a", "b", "c")


def _settings(room_for: float, **changes: Any) -> Settings:
    """Targets of the same size, and room for so many of them."""
    entries = [{"type": "llamacpp", "name": name, "model": "demo", "n_ctx": 512, **changes} for name in NAMES]
    settings = load_mapping({"llm": {"providers": entries}})
    one = ways_of(settings.targets[0], settings, hardware.devices())[0].option.needs["cpu"] >> 20
    return load_mapping({"llm": {"providers": entries}, "resources": {"memory_mib": int(room_for * (one + 1))}})


def _request(model: str, tokens: int = 8) -> ChatRequest:
    return ChatRequest.of("Hello.", model=model, sampling=Sampling(max_tokens=tokens))


def _held(pids: list[int]) -> int:
    return sum(sum(hardware.taken_by(pid).values()) for pid in pids)


async def test_three_models_share_the_room_of_two() -> None:
    """300 requests in a random order: all answered, no busy engine stopped, no more promised or held than there is."""
    settings = _settings(2.0)
    cap = settings.resources.memory_mib << 20
    async with Gateway(settings) as gateway:
        manager = gateway._open_manager
        replicas = {name: manager.targets[name].replicas[0] for name in NAMES}
        stopped_busy, most, loads = [], [0], [0]

        def watch(engine: Engine, old: EngineState, new: EngineState) -> None:
            if new is EngineState.STOPPING and replicas[engine.target].busy:
                stopped_busy.append(engine.target)
            loads[0] += new is EngineState.READY
            promised = manager.state()["memory"]["models"].values()
            most[0] = max(most[0], sum(sum(model["promised_bytes"].values()) for model in promised))

        for replica in replicas.values():
            replica.engine.listen(watch)
        samples: list[int] = []

        async def sample() -> None:
            """As the room itself sees it, so that it must live with what it sees."""
            while True:
                await manager.room.refresh()
                pids = [pid for one in replicas.values() if (pid := one.engine.pid) is not None]
                samples.append(await asyncio.to_thread(_held, pids))
                await asyncio.sleep(0.02)

        sampling = asyncio.create_task(sample())
        chance = random.Random(1)
        gate = asyncio.Semaphore(6)

        async def ask(name: str) -> str:
            async with gate:
                return (await gateway.generate(_request(name))).report.target

        names = [chance.choice(NAMES) for _ in range(300)]
        served = await asyncio.gather(*(ask(name) for name in names))
        sampling.cancel()
    assert list(served) == names
    assert stopped_busy == []
    assert 0 < most[0] <= cap
    assert 0 < max(samples) <= cap
    assert loads[0] >= 3
    assert len(samples) > loads[0], "memory was looked at while engines came and went"


async def test_a_model_that_nobody_makes_room_for_is_not_starved() -> None:
    """A stream of requests keeps one engine busy without a pause; the other gets its turn all the same."""
    settings = _settings(1.0)
    async with Gateway(settings) as gateway:
        room = gateway._open_manager.room
        room.policy = type(room.policy)(room.policy.fraction, room.policy.cap_bytes, patience_s=0.5)
        going = True

        async def keep_busy() -> int:
            count = 0
            while going:
                await gateway.generate(_request("a", 40))
                count += 1
            return count

        await gateway.generate(_request("a"))
        busy = [asyncio.create_task(keep_busy()) for _ in range(3)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(30):
            got = await gateway.generate(_request("b"))
        going = False
        assert got.report.target == "b"
        assert all(count > 0 for count in await asyncio.gather(*busy)), "what was closed for a while opens again"


async def test_a_pinned_model_never_leaves() -> None:
    settings = _settings(1.0, pin=True)
    async with Gateway(settings) as gateway:
        await gateway.generate(_request("a"))
        with pytest.raises(NoFit, match="b"):
            await gateway.generate(_request("b"))
        assert gateway._open_manager.targets["a"].replicas[0].warm


async def test_two_that_start_together_are_not_given_the_same_bytes() -> None:
    """The promise counts from the decision on, not from the moment the memory is touched."""
    settings = _settings(1.0)
    async with Gateway(settings) as gateway:
        most = 0

        async def look() -> None:
            nonlocal most
            while True:
                most = max(most, len(gateway.state()["memory"]["models"]))
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        served = await asyncio.gather(*(gateway.generate(_request(name)) for name in NAMES))
        looking.cancel()
        assert [one.report.target for one in served] == list(NAMES)
        assert most == 1


async def test_a_load_goes_on_when_its_client_leaves() -> None:
    async with Gateway(_settings(3.0)) as gateway:
        reply = gateway.stream(_request("a"))
        async with aclosing(reply.chunks) as chunks:
            asking = asyncio.ensure_future(anext(chunks))
            while gateway._open_manager.targets["a"].replicas[0].engine.state is EngineState.COLD:
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait((asking,))
        async with asyncio.timeout(20):
            while not gateway._open_manager.targets["a"].replicas[0].warm:
                await asyncio.sleep(0.01)


async def test_a_failed_load_gives_its_promise_back(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes((demo := Path("roundhouse/demo/demo-f16.gguf")).read_bytes()[: 1 << 20])
    settings = load_mapping(
        {"llm": {"providers": [{"type": "llamacpp", "model": str(tmp_path / "bad.gguf"), "n_ctx": 256}]}}
    )
    assert demo.exists()
    async with Gateway(settings) as gateway:
        with pytest.raises(Exception, match="bad"):
            await gateway.generate(_request(""))
        assert gateway.state()["memory"]["models"] == {}


async def test_what_is_preloaded_is_there_before_anyone_asks() -> None:
    async with Gateway(_settings(3.0, preload=True)) as gateway:
        replicas = [target.replicas[0] for target in gateway._open_manager.targets.values()]
        async with asyncio.timeout(30):
            while not all(replica.warm for replica in replicas):
                await asyncio.sleep(0.02)
        assert await gateway.unload("a")
        assert [replica.warm for replica in replicas] == [False, True, True]
        await gateway.load("a")
        assert replicas[0].warm


async def test_what_a_load_took_is_kept_for_the_next_one() -> None:
    settings = _settings(3.0)
    async with Gateway(settings) as gateway:
        await gateway.generate(_request("a"))
        room = gateway._open_manager.room
        await room.refresh()
        assert await gateway.unload("a")
        way = ways_of(settings.targets[0], settings, hardware.devices())[0]
        known = room.tenants.learned[way.key]
        assert known is not None
        assert known.taken["cpu"] > 1 << 20
