"""Texts of several callers, embedded in one call of the backend: it computes them together, and faster so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from roundhouse.core.errors import BadResponse, Error, RequestError
from roundhouse.core.trace import TraceContext
from roundhouse.routing.manager import Manager
from roundhouse.routing.route import Route
from roundhouse.telemetry.events import CLIENT_LEFT, OK, EmbeddingsEnded, Followed, Tell

__all__ = ["Embeddings", "Vectors"]

# Callers within so short a time share a call, up to so many texts.
_GATHER_S = 0.002
_MOST_TEXTS = 64


@dataclass(frozen=True, slots=True)
class Vectors:
    """One vector for each text, in their order, and which target made them."""

    vectors: list[list[float]]
    target: str


@dataclass(slots=True)
class _Call:
    """One call of a backend: whom it went to, when, and how it ended; `target` empty = nobody could be reached."""

    began: float = 0.0
    target: str = ""
    seconds: float = 0.0
    outcome: str = OK
    reason: str = ""


@dataclass(slots=True)
class _Part:
    """Of a batch: what one caller asked."""

    start: int
    count: int
    future: asyncio.Future[Vectors]
    call: _Call = field(default_factory=_Call)
    leads: bool = False
    shared: bool = False


@dataclass(slots=True)
class _Batch:
    texts: list[str] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)
    full: asyncio.Event = field(default_factory=asyncio.Event)


class Embeddings:
    """Lives on the manager's event loop. `tell` is told how each caller's request ended."""

    def __init__(self, manager: Manager, tell: Tell = lambda event: None) -> None:
        self._manager = manager
        self._tell = tell
        self._open: dict[str, _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def embed(self, route: Route, texts: Sequence[str], trace: TraceContext | None = None) -> Vectors:
        """Raises what the backend does; a fault of one caller's text is not another's."""
        began, part, outcome = time.monotonic(), self._join(route, texts), OK
        try:
            return await part.future
        except asyncio.CancelledError:
            outcome = CLIENT_LEFT
            raise
        except Error as error:
            outcome = error.code
            raise
        finally:
            self._tell(self._ended(route, part, outcome, began, trace))

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _join(self, route: Route, texts: Sequence[str]) -> _Part:
        """The batch that is open, or a new one."""
        batch = self._open.get(route.name)
        if batch is None or len(batch.texts) + len(texts) > _MOST_TEXTS:
            batch = self._open[route.name] = _Batch()
            task = asyncio.get_running_loop().create_task(self._run(route, batch), name=f"embeddings of {route.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        part = _Part(len(batch.texts), len(texts), asyncio.get_running_loop().create_future())
        batch.parts.append(part)
        batch.texts += texts
        if len(batch.texts) >= _MOST_TEXTS:
            batch.full.set()
        return part

    def _ended(
        self, route: Route, part: _Part, outcome: str, began: float, trace: TraceContext | None
    ) -> EmbeddingsEnded:
        call = part.call
        model = self._manager.targets[call.target].model if call.target in self._manager.targets else ""
        followed = None
        if part.leads and call.target:
            span = None if trace is None else trace.child()
            followed = Followed(
                span, call.target, "", model, call.began - began, call.seconds, call.outcome, call.reason
            )
        dimensions = len(part.future.result().vectors[0]) if outcome == OK else 0
        return EmbeddingsEnded(os.urandom(16).hex(), route.name, call.target, outcome, time.monotonic() - began,
                               part.count, dimensions, model, part.shared, followed, trace)  # fmt: skip

    async def _run(self, route: Route, batch: _Batch) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(batch.full.wait(), _GATHER_S)
        if self._open.get(route.name) is batch:
            del self._open[route.name]
        wanted = [part for part in batch.parts if not part.future.done()]
        if not wanted:  # all of them have left
            return
        call = _Call()
        for place, part in enumerate(wanted):
            part.call, part.leads, part.shared = call, not place, len(wanted) > 1
        try:
            found = await self._call(route, batch.texts, call)
        except RequestError as error:
            if len(wanted) == 1:
                _fail(wanted[0], error)
                return
            for part in wanted:  # whose text it was
                if not part.future.done():
                    await self._alone(route, batch.texts[part.start : part.start + part.count], part)
        except BaseException as error:
            said = error if isinstance(error, Error) else BadResponse("the call was given up")
            for part in wanted:
                _fail(part, said)
            if not isinstance(error, Error):
                raise
        else:
            for part in wanted:
                if not part.future.done():
                    vectors = found.vectors[part.start : part.start + part.count]
                    part.future.set_result(Vectors(vectors, found.target))

    async def _alone(self, route: Route, texts: Sequence[str], part: _Part) -> None:
        part.call, part.leads, part.shared = _Call(), True, False
        try:
            found = await self._call(route, texts, part.call)
        except Error as error:
            _fail(part, error)
        else:
            if not part.future.done():
                part.future.set_result(found)

    async def _call(self, route: Route, texts: Sequence[str], call: _Call) -> Vectors:
        # Another model's vectors cannot be compared with those that a caller has stored, so it is no fallback.
        targets = self._manager.targets
        model = targets[route.targets[0]].model
        alike = [[name for name in tier if targets[name].model == model] for tier in route.tiers]
        try:
            async with self._manager.using(Route(route.name, alike)) as (target, client):
                call.target, call.began = target.name, time.monotonic()
                vectors = await client.aembed(texts)
            if len(vectors) != len(texts):
                raise BadResponse(f'target "{target.name}" gave {len(vectors)} vectors for {len(texts)} texts')
        except Error as error:
            call.outcome, call.reason = error.code, str(error)
            raise
        finally:
            if call.target:
                call.seconds = time.monotonic() - call.began
        return Vectors(vectors, target.name)


def _fail(part: _Part, error: Error) -> None:
    if not part.future.done():
        part.future.set_exception(error)
