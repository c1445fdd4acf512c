"""Who asks for the configuration to be read is told what came of it; nobody waits for a command that is not there."""

from __future__ import annotations

import asyncio

import pytest

from roundhouse.cluster.reading import Reading
from roundhouse.core.errors import ConfigError, InvalidRequest


async def _asked(reading: Reading, count: int) -> tuple[int, list[asyncio.Task[dict[str, object]]]]:
    listening = asyncio.create_task(reading.wanted())
    await asyncio.sleep(0)
    asking = [asyncio.create_task(reading.ask()) for _ in range(count)]
    return await listening, asking


async def test_all_who_had_asked_are_told_what_came_of_it() -> None:
    reading = Reading()
    number, asking = await _asked(reading, 2)
    while number < 2:  # the second asked a moment later
        number = await reading.wanted()
    late = asyncio.create_task(reading.ask())
    await asyncio.sleep(0)
    reading.came(number, {"added": ["a"]})
    assert await asyncio.gather(*asking) == [{"added": ["a"]}] * 2
    assert await reading.wanted() == 3
    reading.came(3, ConfigError("line 3: no"))
    with pytest.raises(ConfigError, match="line 3"):
        await late


async def test_where_the_command_has_gone_it_is_said_what_to_do() -> None:
    now = 100.0
    reading = Reading(lambda: now)
    with pytest.raises(InvalidRequest, match="start it again"):
        await reading.ask()
    number, asking = await _asked(reading, 1)
    reading.came(number, {})
    await asyncio.gather(*asking)
    now += 16
    with pytest.raises(InvalidRequest, match="start it again"):
        await reading.ask()


async def test_who_leaves_before_it_is_read_holds_nobody_up() -> None:
    reading = Reading()
    number, (asking,) = await _asked(reading, 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    reading.came(number, {})
    number, (asking,) = await _asked(reading, 1)
    reading.came(number, {"added": []})
    assert await asking == {"added": []}
