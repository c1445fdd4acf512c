"""Texts of several callers, embedded in one call of the backend: it computes them together, and faster so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from roundhouse.core.errors import BadResponse, Error, RequestError
from roundhouse.routing.manager import Manager
from roundhouse.routing.route import Route

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
class _Batch:
    texts: list[str] = field(default_factory=list)
    parts: list[tuple[int, int, asyncio.Future[Vectors]]] = field(default_factory=list)
    full: asyncio.Event = field(default_factory=asyncio.Event)


class Embeddings:
    """Lives on the manager's event loop."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._open: dict[str, _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def embed(self, route: Route, texts: Sequence[str]) -> Vectors:
        """Raises what the backend does; a fault of one caller's text is not another's."""
        batch = self._open.get(route.name)
        if batch is None or len(batch.texts) + len(texts) > _MOST_TEXTS:
            batch = self._open[route.name] = _Batch()
            task = asyncio.get_running_loop().create_task(self._run(route, batch), name=f"embeddings of {route.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        batch.parts.append((len(batch.texts), len(texts), future))
        batch.texts += texts
        if len(batch.texts) >= _MOST_TEXTS:
            batch.full.set()
        return await future

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, route: Route, batch: _Batch) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(batch.full.wait(), _GATHER_S)
        if self._open.get(route.name) is batch:
            del self._open[route.name]
        try:
            found = await self._call(route, batch.texts)
        except RequestError as error:
            if len(batch.parts) == 1:
                _fail(batch.parts[0][2], error)
                return
            for start, count, future in batch.parts:  # whose text it was
                if not future.done():
                    await self._alone(route, batch.texts[start : start + count], future)
        except BaseException as error:
            said = error if isinstance(error, Error) else BadResponse("the call was given up")
            for _, _, future in batch.parts:
                _fail(future, said)
            if not isinstance(error, Error):
                raise
        else:
            for start, count, future in batch.parts:
                _give(future, Vectors(found.vectors[start : start + count], found.target))

    async def _alone(self, route: Route, texts: Sequence[str], future: asyncio.Future[Vectors]) -> None:
        try:
            _give(future, await self._call(route, texts))
        except Error as error:
            _fail(future, error)

    async def _call(self, route: Route, texts: Sequence[str]) -> Vectors:
        # Another model's vectors cannot be compared with those that a caller has stored, so it is no fallback.
        targets = self._manager.targets
        model = targets[route.targets[0]].model
        alike = [[name for name in tier if targets[name].model == model] for tier in route.tiers]
        async with self._manager.using(Route(route.name, alike)) as (target, client):
            vectors = await client.aembed(texts)
        if len(vectors) != len(texts):
            raise BadResponse(f'target "{target.name}" gave {len(vectors)} vectors for {len(texts)} texts')
        return Vectors(vectors, target.name)


def _give(future: asyncio.Future[Vectors], vectors: Vectors) -> None:
    """Whoever has left meanwhile takes nothing any more."""
    if not future.done():
        future.set_result(vectors)


def _fail(future: asyncio.Future[Vectors], error: Error) -> None:
    if not future.done():
        future.set_exception(error)
