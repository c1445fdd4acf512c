"""Many waits by one timer: each keeps its own limit, and a cancel from outside stays a cancel."""

import asyncio

import pytest

from roundhouse.routing.patience import Patience


async def test_a_wait_within_its_limit_gives_its_result() -> None:
    patience = Patience()
    for number in range(100):
        assert await patience.wait(asyncio.sleep(0, number), 5) == number
    patience.close()


async def test_a_short_limit_after_a_long_one_is_kept() -> None:
    patience, loop = Patience(), asyncio.get_running_loop()
    await patience.wait(asyncio.sleep(0), 60)
    began = loop.time()
    with pytest.raises(TimeoutError):
        await patience.wait(asyncio.sleep(60), 0.05)
    assert 0.04 < loop.time() - began < 2
    patience.close()


async def test_a_long_limit_after_a_short_one_is_kept() -> None:
    """The timer of the first rings during the second, and is set anew."""
    patience = Patience()
    await patience.wait(asyncio.sleep(0), 0.03)
    assert await patience.wait(asyncio.sleep(0.1, "done"), 5) == "done"
    with pytest.raises(TimeoutError):
        await patience.wait(asyncio.sleep(60), 0.02)
    patience.close()


async def test_a_wait_can_be_extended_while_it_lasts() -> None:
    patience = Patience()
    waiting = asyncio.create_task(patience.wait(asyncio.sleep(0.15, "done"), 0.05))
    await asyncio.sleep(0)
    patience.prolong(5)
    assert await waiting == "done"
    patience.close()


async def test_a_cancel_from_outside_stays_one() -> None:
    patience = Patience()
    waiting = asyncio.create_task(patience.wait(asyncio.sleep(60), 60))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()
    patience.close()


async def test_after_a_timeout_the_task_lives_on_uncancelled() -> None:
    patience = Patience()
    with pytest.raises(TimeoutError):
        await patience.wait(asyncio.sleep(60), 0.01)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.timeout(1):
        await asyncio.sleep(0.01)
    patience.close()


async def test_no_time_at_all_is_a_timeout() -> None:
    patience = Patience()
    with pytest.raises(TimeoutError):
        await patience.wait(asyncio.sleep(60), 0.0)
    patience.close()


async def test_what_the_work_raises_comes_through() -> None:
    patience = Patience()

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await patience.wait(fail(), 5)
    patience.close()


async def test_waits_in_different_tasks_one_after_the_other() -> None:
    patience = Patience()
    assert await asyncio.create_task(patience.wait(asyncio.sleep(0.01, 1), 5)) == 1
    with pytest.raises(TimeoutError):
        await asyncio.create_task(patience.wait(asyncio.sleep(60), 0.02))
    patience.close()
