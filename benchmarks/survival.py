"""Failover: what a dead first backend adds to a request, and what 10,000 through a flapping one leave behind."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from benchmarks.report import Row, percentile
from roundhouse.config import load_mapping
from roundhouse.core.chat import ChatRequest
from roundhouse.faults.backend import Backends, backends
from roundhouse.gateway import Gateway

__all__ = ["run"]

_REQUESTS = 10_000
_FIRST = 1_000
_SOME = 300
_AT_ONCE = 16


def run() -> list[Row]:
    return asyncio.run(_all())


async def _all() -> list[Row]:
    return [*(await _refused()), await _flapping()]


@asynccontextmanager
async def _house(both: Backends) -> AsyncIterator[Gateway]:
    providers = [
        {"type": "openai", "name": name, "model": "m", "endpoint": f"{backend.url}/v1"}
        for name, backend in (("faulty", both.faulty), ("spare", both.spare))
    ]
    async with Gateway(load_mapping({"llm": {"providers": providers}})) as gateway:
        yield gateway


async def _refused() -> list[Row]:
    """Median request with a healthy first backend, with a refusing one before its breaker opens, and after."""
    async with backends() as both, _house(both) as gateway:
        healthy = [await _timed(gateway) for _ in range(_SOME)]
        await both.become("refused", 1.0)
        before = [await _timed(gateway) for _ in range(2)]
        after = [await _timed(gateway) for _ in range(_SOME)]
    usual = percentile(healthy, 0.5)
    first, later = max(before) - usual, percentile(after, 0.99) - usual
    direct = f"{usual * 1000:.1f} ms"
    return [
        Row("failover, connection refused", f"{first * 1000:+.1f} ms", "<= 1 s", first <= 1.0, direct),
        Row("failover, breaker open, p99", f"{later * 1000:+.1f} ms", "<= 50 ms", later <= 0.05, direct),
    ]


async def _flapping() -> Row:
    """Memory and tasks after 10,000 requests, against those after the first 1,000."""
    async with backends() as both, _house(both) as gateway:
        await both.become("flapping", 1.0)
        process, asked = psutil.Process(os.getpid()), 0
        early = tasks = files = 0
        failed = 0
        while asked < _REQUESTS:
            results = await asyncio.gather(*(_timed(gateway) for _ in range(_AT_ONCE)), return_exceptions=True)
            failed += sum(isinstance(result, BaseException) for result in results)
            asked += _AT_ONCE
            if asked >= _FIRST and not early:
                early, tasks, files = await _left(process)
        late, tasks_late, files_late = await _left(process)
        busy = sum(replica.busy for target in gateway._open_manager.targets.values() for replica in target.replicas)
    grown = (late - early) / 1e6
    held = grown <= 5 and tasks_late <= tasks and files_late <= files and not busy and not failed
    return Row(
        f"{asked:,} requests, first backend flapping",
        f"{grown:+.1f} MB, {tasks_late - tasks:+d} tasks, {files_late - files:+d} files, {failed} failed",
        "<= 5 MB, nothing left behind",
        held,
    )


async def _left(process: psutil.Process) -> tuple[int, int, int]:
    """Memory, tasks and open files once everything has come to rest."""
    await asyncio.sleep(0.5)
    gc.collect()
    return process.memory_info().rss, len(asyncio.all_tasks()), process.num_fds()


async def _timed(gateway: Gateway) -> float:
    began = time.perf_counter()
    await gateway.generate(ChatRequest.of("What does the turntable do?"))
    return time.perf_counter() - began
