"""The one event loop behind every blocking call: started on first use in a thread of its own, shared by the process."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

__all__ = ["call", "close_with", "forget", "iterate", "loop"]

T = TypeVar("T")

_END = object()
_EXIT_LIMIT_S = 10.0


class Closes(Protocol):
    async def aclose(self) -> None: ...


_open: set[Closes] = set()

_lock = threading.Lock()
_running: tuple[int, asyncio.AbstractEventLoop, threading.Thread] | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The shared loop, running. A forked child gets one of its own: threads do not survive a fork."""
    global _running
    with _lock:
        if _running is None or _running[0] != os.getpid():
            started = asyncio.new_event_loop()
            thread = threading.Thread(target=started.run_forever, name="roundhouse-blocking", daemon=True)
            thread.start()
            _running = (os.getpid(), started, thread)
        return _running[1]


def call(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, run on the shared loop. An interrupt of the caller cancels the work."""
    _refuse_inside_a_loop(work)
    future = asyncio.run_coroutine_threadsafe(work, loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def iterate(items: AsyncIterator[T]) -> Iterator[T]:
    """`items` one by one; leaving early closes them, so that what they hold is released."""
    try:
        while True:
            item = call(_next(items))
            if item is _END:
                return
            yield item  # type: ignore[misc]
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            call(close())


async def _next(items: AsyncIterator[T]) -> T | object:
    return await anext(items, _END)


def _refuse_inside_a_loop(work: Coroutine[Any, Any, Any]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    work.close()
    raise RuntimeError("a blocking call inside an event loop would stop it; use the async form (agenerate, astream)")


def close_with(owner: object, opened: Closes) -> None:
    """Close `opened`, which belongs to the shared loop, when `owner` is dropped or the interpreter ends."""
    _open.add(opened)
    weakref.finalize(owner, _close_soon, opened).atexit = False


def forget(opened: Closes) -> None:
    """`opened` has been closed already."""
    _open.discard(opened)


def _close_soon(opened: Closes) -> None:
    """From a finaliser, which may run in any thread and must not wait."""
    if opened in _open and _running is not None and _running[0] == os.getpid():
        asyncio.run_coroutine_threadsafe(opened.aclose(), _running[1])


@atexit.register
def _stop() -> None:
    """Close what was left open and let the loop end before the interpreter takes its modules away."""
    if _running is None or _running[0] != os.getpid():
        return
    _, shared, thread = _running
    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(_close_all(), shared).result(_EXIT_LIMIT_S)
    shared.call_soon_threadsafe(shared.stop)
    thread.join(_EXIT_LIMIT_S)
    if not thread.is_alive():
        shared.close()


async def _close_all() -> None:
    await asyncio.gather(*(opened.aclose() for opened in list(_open)), return_exceptions=True)
