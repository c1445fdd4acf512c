"""`/metrics` of engines, memory, evictions and switches: what happened to real engines is what it says."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from roundhouse.config import Settings, load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.core.errors import Error
from roundhouse.engines.lifecycle import Engine, EngineState
from roundhouse.gateway import Gateway
from roundhouse.gateway.ways import ways_of
from roundhouse.resources import hardware
from roundhouse.routing.switch import Switch
from tests.telemetry.test_prometheus import labels, read


def _settings(*entries: dict[str, Any], **sections: Any) -> Settings:
    providers = [{"type": "llamacpp", "model": "demo", "n_ctx": 256, **entry} for entry in entries]
    return load_mapping({"llm": {"providers": providers}, **sections})


def _ask(name: str) -> ChatRequest:
    return ChatRequest.of("Hello.", model=name, sampling=Sampling(max_tokens=4))


async def _ended(switch: Switch) -> Switch:
    assert switch.task is not None
    await switch.task
    return switch


async def test_a_load_a_death_and_the_state_between_are_told() -> None:
    async with Gateway(_settings({"name": "a"})) as gateway:
        replica = {"target": "a", "replica": "a"}
        before = read(gateway.metrics())
        assert before["roundhouse_engine_state", labels(**replica, state="cold")] == 1
        assert before["roundhouse_engine_state", labels(**replica, state="ready")] == 0
        await gateway.generate(_ask("a"))
        await gateway._open_manager.room.refresh()
        loaded = read(gateway.metrics())
        engine = gateway._open_manager.targets["a"].replicas[0].engine
        again = asyncio.get_running_loop().create_future()

        def changed(_: Engine, __: EngineState, new: EngineState) -> None:
            if new is EngineState.READY:
                again.set_result(None)

        engine.listen(changed)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await asyncio.wait_for(again, 30)
        after = read(gateway.metrics())
    assert loaded["roundhouse_engine_state", labels(**replica, state="ready")] == 1
    assert loaded["roundhouse_breaker_state", labels(**replica, state="closed")] == 1
    assert loaded["roundhouse_engine_loads_total", labels(target="a", outcome="ok")] == 1
    assert loaded["roundhouse_engine_load_seconds_count", labels(target="a")] == 1
    assert loaded["roundhouse_slots", labels(**replica)] > 0
    assert loaded["roundhouse_slots_busy", labels(**replica)] == 0
    for kind in ("promised", "taken"):
        assert loaded["roundhouse_model_memory_bytes", labels(replica="a", place="cpu", kind=kind)] > 1 << 20
    assert loaded["roundhouse_device_memory_bytes", labels(place="cpu", kind="total")] > 1 << 30
    assert after["roundhouse_engine_deaths_total", labels(target="a", error="engine_died")] == 1
    assert after["roundhouse_engine_loads_total", labels(target="a", outcome="ok")] == 2


async def test_who_leaves_for_another_is_counted_as_evicted() -> None:
    entries = [{"name": "a"}, {"name": "b"}]
    alone = _settings(*entries)
    need = ways_of(alone.targets[0], alone, hardware.devices())[0].option.needs["cpu"] >> 20
    async with Gateway(_settings(*entries, resources={"memory_mib": need + 1})) as gateway:
        await gateway.generate(_ask("a"))
        await gateway.generate(_ask("b"))
        found = read(gateway.metrics())
    assert found["roundhouse_evictions_total", labels(target="a")] == 1
    assert found["roundhouse_evictions_total", labels(target="b")] == 0
    assert found["roundhouse_engine_state", labels(target="a", replica="a", state="cold")] == 1


async def test_switches_that_worked_and_that_were_undone_are_told_apart(tmp_path: Path, demo_gguf: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo_gguf.read_bytes()[: 1 << 20])
    entries = [{"name": "a"}, {"name": "b"}, {"name": "c", "model": str(broken)}]
    settings = _settings(*entries)
    async with Gateway(settings) as gateway:
        await gateway.generate(_ask("default"))
        assert not (await _ended(gateway.switch("default", "b"))).error
        assert (await _ended(gateway.switch("default", "c"))).error
        with pytest.raises(Error):
            await gateway.generate(_ask("c"))
        found = read(gateway.metrics())
    assert found["roundhouse_switches_total", labels(target="b", outcome="ok")] == 1
    assert found["roundhouse_switches_total", labels(target="c", outcome="undone")] == 1
    assert found["roundhouse_switch_seconds_count", labels(target="b")] == 1
    assert found["roundhouse_switch_held_seconds_sum", labels(target="b")] == 0
    loads = {key[1]: count for key, count in found.items() if key[0] == "roundhouse_engine_loads_total"}
    assert loads.pop(labels(target="c", outcome="ok")) == 0
    assert any(count for key, count in loads.items() if ("target", "c") in key)
    assert found["roundhouse_route_held", labels(route="default")] == 0
