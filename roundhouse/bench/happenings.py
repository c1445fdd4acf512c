"""What happened to engines and routes while a load was driven: switches, loads, deaths, evictions, with their times.

A house in this process tells of them; a server of ours is looked at once a second, if the key may see its state.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from roundhouse.core.errors import ConnectFailed, Error, TimedOut
from roundhouse.providers.base import Endpoint
from roundhouse.providers.http import HTTPClient
from roundhouse.telemetry.events import OK, EngineDied, Event, Evicted, LoadEnded, SwitchEnded

__all__ = ["Happening", "Happenings", "changes"]

_LOOK_S = 1.0
_ANSWER_S = 10.0  # of a server under load
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Happening:
    """`what` in words, `at` seconds from the start of the load."""

    at: float
    what: str


class Happenings:
    """Of one subject, over all of its loads."""

    def __init__(self) -> None:
        self._noted: list[tuple[float, str]] = []

    def note(self, event: Event) -> None:
        """A listener of a house."""
        now = time.monotonic()
        match event:
            case SwitchEnded():
                self._add(now - event.seconds, f"switch to {event.target} began")
                self._add(now, f"switch to {event.target} {'done' if event.outcome == OK else event.outcome}")
            case LoadEnded():
                how = "loaded" if event.outcome == OK else f"did not load ({event.outcome})"
                self._add(now, f"{event.target} {how} in {event.seconds:.1f} s")
            case EngineDied():
                self._add(now, f"an engine of {event.target} died ({event.error})")
            case Evicted():
                self._add(now, f"{event.target} left the memory for {event.wanted_by}")

    @asynccontextmanager
    async def watching(self, root: str, key: str) -> AsyncIterator[None]:
        """Look at the server at `root` meanwhile, however slow it is; one that is not ours, or shows nothing to `key`,
        is left alone.
        """
        task = asyncio.ensure_future(self._watch(root, key))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def since(self, begun: float) -> list[Happening]:
        """Those from `begun` (monotonic) on."""
        return sorted((Happening(at - begun, what) for at, what in self._noted if at >= begun), key=lambda one: one.at)

    def _add(self, at: float, what: str) -> None:
        if len(self._noted) < _MOST:
            self._noted.append((at, what))

    async def _watch(self, root: str, key: str) -> None:
        client = HTTPClient(Endpoint("server", root.rstrip("/").removesuffix("/v1"), key=key))
        before: Mapping[str, Any] | None = None
        try:
            while True:
                with contextlib.suppress(ConnectFailed, TimedOut):
                    state = await client.get("/admin/state", limit_s=_ANSWER_S)
                    if not isinstance(state, dict) or not {"switches", "replicas"} <= state.keys():
                        return
                    for what in changes(before, state) if before is not None else ():
                        self._add(time.monotonic(), what)
                    before = state
                await asyncio.sleep(_LOOK_S)
        except Error:
            return
        finally:
            await client.aclose()


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What has changed between two states of a server, in words."""
    known = {one["id"]: one["state"] for one in before["switches"]}
    for one in now["switches"]:
        if known.get(one["id"]) != one["state"]:
            yield f"switch to {one['target']}: {one['state']}"
    engines = {one["replica"]: one["engine"] for one in before["replicas"]}
    for one in now["replicas"]:
        if one["engine"] != engines.pop(one["replica"], one["engine"]):
            yield f"{one['replica']}: {one['engine']}"
    for gone in engines:
        yield f"{gone}: gone"
