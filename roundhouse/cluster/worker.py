"""One replica of a target: a house of one engine on this node, which answers what entrances send."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import msgspec

from roundhouse.cluster.wire import Failed, Taken, decode_request, encode_part, pieces
from roundhouse.config import Replicas, Settings, TargetSettings
from roundhouse.core.chat import Chunk, Chunks
from roundhouse.core.errors import BadResponse, ConnectFailed, Error, ProviderError, StreamBroken, Unsupported
from roundhouse.core.model import ModelDescription
from roundhouse.core.portable import portable
from roundhouse.gateway.house import House
from roundhouse.providers.base import CountsTokens, DescribesModel, LLMProvider, TellsTokens

__all__ = ["Worker"]

log = logging.getLogger(__name__)
_LOOKS = 10
_LOOK_S = 0.02
_GAP_S = 0.02


class Worker:
    """Its engine is a child of this process and dies with it; one that crashes is started again here, as on one
    machine, and Serve replaces the replica if that does not help. A replica that has started is ready.
    """

    async def __init__(self, entry: TargetSettings, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        """Raises what keeps the engine from starting; Serve tries again, then says so."""
        only = replace(entry, replicas=Replicas(1, 1), ttl_s=None, pin=False, preload=False)
        self._house = House(replace(settings, targets=(only,), routes={}))
        self._target = self._house.manager.targets[entry.name]
        (self._replica,) = self._target.replicas
        try:
            await self._replica.client()
        except BaseException:
            await self._house.aclose()
            raise

    async def stream(self, data: bytes) -> AsyncGenerator[bytes]:
        """The parts of an answer. Closing it frees the engine's slot."""
        yield encode_part(Taken())
        try:
            client = await self._replica.client()
            answer = self._watched(client.astream(decode_request(data)))
            async with aclosing(answer) as chunks, aclosing(_batches(chunks)) as batches:
                async for batch in batches:
                    yield pieces(batch)
        except Exception as error:  # noqa: BLE001 - it travels, as an error of the house
            yield encode_part(Failed(portable(await self._ours(error))))

    async def call(self, what: str, data: bytes) -> bytes:
        """What is no stream: `{"value": ...}` or `{"error": ...}`."""
        try:
            value = await self._called(what, data, await self._replica.client())
        except Exception as error:  # noqa: BLE001 - it travels, as an error of the house
            return msgspec.msgpack.encode({"error": portable(await self._ours(error))})
        return msgspec.msgpack.encode({"value": value})

    def check_health(self) -> None:
        """Asked by Serve every few seconds; raises while the engine cannot be brought back."""
        if self._replica.engine.failure is not None:
            raise self._replica.engine.failure

    async def aclose(self) -> None:
        """Stop the engine. Serve needs no such call: it ends the process, and the engine with it."""
        await self._house.aclose()

    async def _watched(self, chunks: Chunks) -> Chunks:
        """Tell who was silent for longer than it may be, so that an engine that hangs is ended (routing/upkeep.py)."""
        clock, replica = time.monotonic, self._replica
        replica.take(clock())
        since, spoke = clock(), False
        try:
            async with aclosing(chunks) as pieces_:
                async for chunk in pieces_:
                    since, spoke = clock(), spoke or chunk.has_content
                    if chunk.has_content:
                        replica.moved_at = since
                    yield chunk
        finally:
            limits = self._target.limits
            limit_s = limits.between_tokens_s if spoke else limits.first_token_s
            if clock() - since >= limit_s:
                self._house.manager.upkeep.suspect(replica, limit_s)
            replica.give_back()

    async def _called(self, what: str, data: bytes, client: LLMProvider) -> Any:
        match what:
            case "embed":
                return await client.aembed(msgspec.msgpack.decode(data, type=list[str]))
            case "rerank":
                query, documents = msgspec.msgpack.decode(data, type=tuple[str, list[str]])
                return await client.arerank(query, documents)
            case "describe":
                return await client.adescribe() if isinstance(client, DescribesModel) else ModelDescription()
            case "count_tokens" if isinstance(client, CountsTokens):
                return await client.acount_tokens(decode_request(data))
            case "window_tokens" if isinstance(client, CountsTokens):
                return await client.awindow_tokens()
            case "tokens" if isinstance(client, TellsTokens):
                return await client.atokens(decode_request(data))
        raise Unsupported(f"the backend of this model cannot do it: {what}", feature=what, target=self._target.name)

    async def _ours(self, error: Exception) -> Error:
        """As an attempt on one machine would have it: what a dead engine's client says is the death's consequence. A
        connection breaks a moment before the process that held it is known to be gone.
        """
        engine = self._replica.engine
        if isinstance(error, (StreamBroken, ConnectFailed)):
            for _ in range(_LOOKS):
                if engine.death is not None:
                    break
                await asyncio.sleep(_LOOK_S)
        if isinstance(error, ProviderError):
            return engine.death or error
        if isinstance(error, Error):
            return error
        log.error("target %s raised an exception of its own", self._target.name, exc_info=error)
        return BadResponse(
            f'target "{self._target.name}" failed: {type(error).__name__}: {error}', target=self._target.name
        )


async def _batches(chunks: Chunks) -> AsyncGenerator[list[Chunk]]:
    """The pieces that are there, together: the first and the end at once, in between no sooner than `_GAP_S` after
    those before, for a message between nodes costs Ray a millisecond of processor.
    """
    there: list[Chunk] = []
    came, ended = asyncio.Event(), asyncio.Event()

    async def pump() -> None:
        try:
            async for chunk in chunks:
                there.append(chunk)
                came.set()
                if chunk.finish_reason:
                    ended.set()
        finally:
            came.set()
            ended.set()

    pumping = asyncio.create_task(pump(), name="pieces of an answer")
    clock, sent_at = time.monotonic, 0.0
    try:
        while not pumping.done() or there:
            await came.wait()
            if (pause_s := sent_at + _GAP_S - clock()) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), pause_s)
            came.clear()
            batch, there[:] = there[:], []
            if batch:
                sent_at = clock()
                yield batch
            if pumping.done():
                came.set()
        pumping.result()
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
