"""A child that nobody waits for gives way while it starts, and has its full share afterwards."""

import asyncio
import sys
from pathlib import Path

import pytest

from roundhouse.engines.priority import standing_back

ENABLED = Path("/proc/sys/kernel/sched_autogroup_enabled")


def _nice(pid: int) -> int:
    return int(Path(f"/proc/{pid}/autogroup").read_text().split("nice")[1])


@pytest.mark.skipif(
    not ENABLED.exists() or ENABLED.read_text().strip() != "1",
    reason="this system has no groups of processes by session",
)
async def test_its_share_is_smaller_for_a_while_and_then_whole_again() -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1, start_new_session=True)
    try:
        async with standing_back(child.pid, True):
            assert _nice(child.pid) == 5
        assert _nice(child.pid) == 0
        async with standing_back(child.pid, False):
            assert _nice(child.pid) == 0
    finally:
        child.kill()
        await child.wait()


async def test_a_process_that_is_gone_is_no_reason_to_fail() -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1, start_new_session=True)
    async with standing_back(child.pid, True):
        child.kill()
        await child.wait()
    async with standing_back(child.pid, True):
        pass
