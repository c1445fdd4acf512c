"""The room by itself, over devices that say what the test wants: what counts as taken, and when a leaver is gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from roundhouse.core.model import DeviceFacts
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.resources.placement import Option
from roundhouse.routing.replica import Replica
from roundhouse.routing.room import Room, RoomPolicy
from roundhouse.routing.way import Way


def _way(model: Path, **needs: int) -> Way:
    return Way(launch.llamacpp(str(model), {"n_threads": 1, "n_ctx": 256}, cores=1), Option(needs))


@asynccontextmanager
async def _lodgers(room: Room, way: Way, *keys: str) -> AsyncIterator[list[Replica]]:
    made = []
    for key in keys:
        engine = Engine(key, lambda key=key: room.lodging(key))  # type: ignore[misc]
        made.append(Replica(key, engine, lambda ready: None, 1, plan=lambda devices: [way]))  # type: ignore[arg-type,return-value]
        room.admit(made[-1])
    try:
        yield made
    finally:
        for one in made:
            await one.engine.stop()
        await room.aclose()


async def test_what_a_backend_that_plans_for_itself_has_taken_is_not_given_away_again(demo_gguf: Path) -> None:
    """It was promised nothing, and holds 700 of 1000."""
    room = Room(
        RoomPolicy(fraction=1.0),
        devices=lambda: (DeviceFacts("CPU", "cpu", 1000, 300),),
        taken_by=lambda pid: {"cpu": 700},
    )
    async with _lodgers(room, _way(demo_gguf), "own") as (own,):
        await own.engine.ensure_ready()
        await room.refresh()
        (device,) = room.state()["devices"]
        assert device["room_bytes"] == 300


async def test_the_next_model_waits_until_the_driver_has_the_memory_of_the_last(demo_gguf: Path) -> None:
    """Some drivers give it back a while after the process has ended; on the processor there is nothing to wait for."""
    looks_after_the_end = 0
    seen_at_start = []
    replicas: list[Replica] = []

    def devices() -> tuple[DeviceFacts, ...]:
        nonlocal looks_after_the_end
        holder, next_one = (one.engine.pid for one in replicas) if replicas else (None, None)
        gone = room.tenants.get("first") is None and holder is None
        looks_after_the_end += gone
        free = 1000 if not replicas or (gone and looks_after_the_end > 3) else 300
        if next_one is not None:
            seen_at_start.append(free)
        # What others do on the processor meanwhile must not be waited for.
        return (DeviceFacts("CPU", "cpu", 1000, 1000 - looks_after_the_end), DeviceFacts("GPU", "cuda", 1000, free))

    room = Room(
        RoomPolicy(fraction=1.0),
        devices=devices,
        taken_by=lambda pid: {"cpu": 500, "cuda0": 700},
        clock=iter(range(10_000)).__next__,  # minimum residences are over as soon as they are looked at again
    )
    async with _lodgers(room, _way(demo_gguf, cuda0=700), "first", "second") as made:
        await made[0].engine.ensure_ready()
        replicas += made
        await room.refresh()
        await made[1].engine.ensure_ready()
        assert made[0].engine.pid is None
        assert 3 < looks_after_the_end < 50
        await room.refresh()
        assert set(seen_at_start) == {1000}


async def test_who_comes_while_an_idle_engine_is_sent_away_does_not_get_to_it(demo_gguf: Path) -> None:
    """Also in the very turn of the loop in which that was decided: it would meet the end of a process."""
    room = Room(RoomPolicy(fraction=1.0, cap_bytes=1000), devices=lambda: (DeviceFacts("CPU", "cpu", 1000, 1000),))
    async with _lodgers(room, _way(demo_gguf, cpu=700), "first", "second") as (first, second):
        await first.client()
        seen = []

        def told(event: object) -> None:
            asyncio.get_running_loop().call_soon(lambda: seen.append(first.engine.ready))

        room.told = told
        await second.engine.ensure_ready()
    assert seen == [None]
