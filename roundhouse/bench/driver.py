"""Sends requests as a plan says and records what comes back; knows no wire, only something that answers."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from roundhouse.bench.arrivals import ClosedLoop
from roundhouse.bench.records import Record
from roundhouse.core.chat import ChatRequest, Chunk, Chunks
from roundhouse.core.errors import Error

__all__ = ["Ask", "Asked", "closed_loop", "keep_asking", "open_loop", "planned", "quiet", "send"]

log = logging.getLogger(__name__)

# Timers of an event loop fire late by up to its resolution: the last stretch is waited out in short steps.
_NEAR_S = 0.0015


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer on its way. `target` tells who gave it, once it has begun."""

    chunks: Chunks
    target: Callable[[], str] = lambda: ""


Ask = Callable[[ChatRequest], Asked]


@contextmanager
def quiet() -> Iterator[None]:
    """No pause of the garbage collector among the measured times, nor any growth: what was there before is frozen.

    Entered before the first request is due, for the first collection of a large process takes a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def planned(items: Sequence[int], due: Sequence[float]) -> list[Record]:
    """Records of what is to be sent: item `items[n]` at second `due[n]`."""
    return [Record(item, at) for item, at in zip(items, due, strict=True)]


async def open_loop(
    ask: Ask, requests: Sequence[ChatRequest], items: Sequence[int], due: Sequence[float], *, limit_s: float
) -> list[Record]:
    """Send request `items[n]` at second `due[n]`, whatever has become of those before.

    What is unanswered `limit_s` after the last was due is given up and marked as cut.
    """
    records = planned(items, due)
    with quiet():
        await send(ask, requests, records, time.monotonic() + 0.05, limit_s=limit_s)
    return records


async def send(
    ask: Ask, requests: Sequence[ChatRequest], records: Sequence[Record], begun: float, *, limit_s: float
) -> None:
    """Send each of the planned `records` at its time after `begun` (monotonic), and fill it in.

    May be cancelled: what runs then is cut, and what was not sent stays as it was planned.
    """
    tasks: set[asyncio.Task[None]] = set()
    try:
        for record in records:
            await _until(begun + record.scheduled)
            task = asyncio.ensure_future(_one(ask, requests[record.item], record, begun))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=limit_s)
    finally:
        await _give_up(tasks)


async def closed_loop(
    ask: Ask, requests: Sequence[ChatRequest], items: Sequence[int], load: ClosedLoop, *, limit_s: float
) -> list[Record]:
    """`load.users` ask one request after another. Nothing is scheduled: each is due when its user is free."""
    records: list[Record] = []
    with quiet():
        await keep_asking(ask, requests, records, items, load.users, time.monotonic(), limit_s=limit_s)
    return records


async def keep_asking(
    ask: Ask,
    requests: Sequence[ChatRequest],
    records: list[Record],
    items: Sequence[int],
    users: int,
    begun: float,
    *,
    limit_s: float,
) -> None:
    """So many `users` ask `items` one after another; `records`, empty before, are in the order of asking.

    May be cancelled: what runs then is cut.
    """
    left = iter(items)

    async def user() -> None:
        for item in left:
            record = Record(item, time.monotonic() - begun)
            records.append(record)
            await _one(ask, requests[item], record, begun)

    await _until(begun)
    tasks = {asyncio.ensure_future(user()) for _ in range(users)}
    try:
        await asyncio.wait(tasks, timeout=limit_s)
    finally:
        await _give_up(tasks)


async def _until(at: float) -> None:
    left = at - time.monotonic()
    if left > _NEAR_S:
        await asyncio.sleep(left - _NEAR_S)
    while time.monotonic() < at:  # noqa: ASYNC110 - time is what is waited for
        await asyncio.sleep(0)


async def _give_up(tasks: set[asyncio.Task[None]]) -> None:
    ended = list(tasks)
    for task in ended:
        task.cancel()
    for result in await asyncio.gather(*ended, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


async def _one(ask: Ask, request: ChatRequest, record: Record, begun: float) -> None:
    record.sent = time.monotonic() - begun
    gaps: list[float] = []
    parts: list[str] = []
    last = 0.0
    try:
        asked = ask(request)
        async with aclosing(asked.chunks) as chunks:
            async for chunk in chunks:
                if chunk.has_content:
                    now = time.monotonic() - begun
                    if record.first is None:
                        record.first = now
                    else:
                        gaps.append(now - last)
                    last = now
                    parts.append(chunk.text)
                _note(record, chunk)
        record.target = asked.target()
        if record.first is None and not record.finish_reason:
            record.error = "bad_response"
    except Error as error:
        record.error = error.code
    except asyncio.CancelledError:
        record.cut = True
        raise
    except Exception as error:  # a fault of a client's is no answer, and must not end a run of an hour
        log.debug("a request failed in a way that no error of ours tells", exc_info=True)
        record.error = type(error).__name__
    finally:
        record.end = time.monotonic() - begun
        record.gaps, record.text, record.pieces = tuple(gaps), "".join(parts), len(gaps) + (record.first is not None)


def _note(record: Record, chunk: Chunk) -> None:
    if chunk.usage is not None:
        record.prompt_tokens = chunk.usage.prompt_tokens
        record.output_tokens = chunk.usage.completion_tokens
        record.cached_tokens = chunk.usage.cached_tokens
    if chunk.finish_reason:
        record.finish_reason = chunk.finish_reason
