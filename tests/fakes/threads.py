"""Fakes for tests that block: an async context manager, kept open by a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


@contextmanager
def in_thread(fake: AbstractAsyncContextManager[T]) -> Iterator[T]:
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    ended = asyncio.Event()
    made: list[T] = []

    async def keep() -> None:
        async with fake as one:
            made.append(one)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(keep(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield made[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
