"""One candidate tried for one request: make it ready, stream from it within the limits, map what it raises."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Timings
from roundhouse.core.errors import BadResponse, Error, ProviderError, StreamBroken, TimedOut
from roundhouse.core.report import Report, Seam
from roundhouse.providers.base import CountsTokens, LLMProvider, require
from roundhouse.routing.failover import Sent
from roundhouse.routing.replica import Replica
from roundhouse.routing.resume import Differs, Resume, Strip, joined_usage, resumes
from roundhouse.routing.target import Target

__all__ = ["Attempt"]

log = logging.getLogger(__name__)
T = TypeVar("T")

# When a first token is this share of its limit late, an attached backend is asked whether it is loading.
_ASK_AT = 0.8


class Attempt:
    """`sent` is what the client has already: if there is any, the backend is asked to go on from exactly there."""

    def __init__(
        self,
        target: Target,
        replica: Replica,
        request: ChatRequest,
        report: Report,
        sent: Sent,
        *,
        arrived: float,
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        self._target = target
        self._replica = replica
        self._request = replace(request, sampling=request.sampling.over(target.sampling))
        self._report = report
        self._sent = sent
        self._arrived = arrived
        self._deadline = deadline
        self._clock = clock
        self._warnings: tuple[str, ...] = ()
        self._prompt_tokens = self._kept_tokens = 0

    async def chunks(self) -> Chunks:
        """Content as it comes, from the first real content on; what precedes it is held back and merged into it."""
        began = self._clock()
        client = await self._within(self._replica.client(), self._left_s(), "total")
        self._report.load_s = self._clock() - began
        request = await self._within(self._target.fitted(self._request, client), self._left_s(), "total")
        if not self._sent.committed:
            async with aclosing(self._streamed(client, request, Strip(""))) as pieces:
                async for piece in pieces:
                    yield piece
            return
        for resume in resumes(self._sent.text):
            going_on = await self._within(self._resumed(client, request, resume), self._left_s(), "total")
            if not resume.again and self._exhausted():
                yield self._last(Chunk(finish_reason="length"), self._clock())
                return
            with contextlib.suppress(Differs):
                async with aclosing(self._streamed(client, going_on, Strip(resume.again))) as pieces:
                    async for piece in pieces:
                        yield piece
                return

    async def _streamed(self, client: LLMProvider, request: ChatRequest, strip: Strip) -> Chunks:
        require(request, client.capabilities, f'target "{self._target.name}"')
        async with (
            aclosing(client.astream(request)) as pieces,
            aclosing(self._guarded(pieces, client, strip)) as guarded,
        ):
            async for piece in guarded:
                yield piece

    async def _resumed(self, client: LLMProvider, request: ChatRequest, resume: Resume) -> ChatRequest:
        """The request that goes on, and the counts for the usage of the whole."""
        # Backends send a piece for each token, and the tokens a text is read as may be others than it was written by.
        self._kept_tokens = self._sent.pieces_of(len(resume.kept))
        if isinstance(client, CountsTokens) and not self._prompt_tokens:
            with contextlib.suppress(Error):  # a backend that cannot count can go on all the same
                self._prompt_tokens = await client.acount_tokens(request)
        return resume.request(request, self._kept_tokens)

    def _exhausted(self) -> bool:
        limit = self._request.sampling.max_tokens
        return limit is not None and self._kept_tokens >= limit

    async def _guarded(self, pieces: Chunks, client: LLMProvider, strip: Strip) -> Chunks:
        """Pieces of the client's stream, each within its limit, without what the client has of them already."""
        limits, first_at, thinking = self._target.limits, 0.0, False
        since = self._clock()
        while True:
            # Pings and empty pieces show that a process lives, not that tokens flow: the clock runs from content.
            silent_s = self._clock() - since
            if first_at:
                limit_s = limits.thinking_s if thinking else limits.between_tokens_s
                piece = await self._next(pieces, limit_s, silent_s, "between_tokens")
            else:
                piece = await self._first(pieces, client, silent_s)
            self._warnings += piece.warnings
            if not (piece.has_content or piece.finish_reason):
                continue
            if not strip.done or piece.finish_reason:
                piece = self._stripped(piece, strip)
                since = self._clock()
                if not (piece.has_content or piece.finish_reason):
                    continue
            if not first_at:
                first_at = self._clock()
                self._begun()
            thinking = bool(piece.reasoning)
            if piece.finish_reason:
                yield self._last(piece, first_at)
                return
            yield piece
            since = self._clock()

    def _stripped(self, piece: Chunk, strip: Strip) -> Chunk:
        if piece.text:
            piece = replace(piece, text=strip.feed(piece.text))
        if piece.finish_reason and not strip.done:
            raise Differs
        return piece

    def _begun(self) -> None:
        """The first content is here: this replica is the one that answers."""
        report = self._report
        if self._sent.committed:
            report.seams.append(Seam(len(self._sent.text), report.replica, self._replica.key))
        report.target, report.replica, report.model = self._target.name, self._replica.key, self._target.model

    async def _first(self, pieces: Chunks, client: LLMProvider, silent_s: float) -> Chunk:
        """The next piece while there was no content yet; a backend that loads its model meanwhile is given the time."""
        limits = self._target.limits
        limit_s = max(0.0, limits.first_token_s - silent_s)
        if self._replica.engine.managed or limit_s >= self._left_s():
            return await self._next(pieces, limits.first_token_s, silent_s, "first_token")
        async with self._prolonged(client, limit_s) as timeout:
            return await self._mapped(self._until(pieces, timeout), limits.first_token_s, "first_token")

    @asynccontextmanager
    async def _prolonged(self, client: LLMProvider, limit_s: float) -> AsyncIterator[asyncio.Timeout]:
        """A timeout that moves on for as long as the backend says that it is loading, up to the load limit."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + min(self._target.limits.load_s, self._left_s())
        timeout = asyncio.timeout(limit_s)

        async def ask() -> None:
            while True:
                await asyncio.sleep(limit_s * _ASK_AT)
                health = await client.ahealth()
                if not health.loading or timeout.expired():
                    return
                timeout.reschedule(min(latest, loop.time() + limit_s))

        asking = loop.create_task(ask(), name=f"is {self._replica.key} loading")
        try:
            yield timeout
        finally:
            asking.cancel()

    async def _until(self, pieces: Chunks, limit: asyncio.Timeout) -> Chunk:
        async with limit:
            return await anext(pieces)

    async def _next(self, pieces: Chunks, limit_s: float, silent_s: float, phase: str) -> Chunk:
        """The next piece, if it comes within `limit_s` of the last content, `silent_s` of which have passed."""
        left_s = min(max(0.0, limit_s - silent_s), self._left_s())
        return await self._mapped(self._until(pieces, asyncio.timeout(left_s)), limit_s, phase)

    async def _within(self, work: Awaitable[T], limit_s: float, phase: str) -> T:
        async def limited() -> T:
            async with asyncio.timeout(limit_s):
                return await work

        return await self._mapped(limited(), limit_s, phase)

    async def _mapped(self, work: Awaitable[T], limit_s: float, phase: str) -> T:
        """The result of `work`; a timeout, and what a third party's provider raises, become errors of ours."""
        name = self._target.name
        try:
            return await work
        except TimeoutError as error:
            if self._left_s() <= 0:
                phase = "total"
            raise TimedOut(
                f'target "{name}" was silent for {limit_s:.3g} s ({phase.replace("_", " ")} limit)',
                target=name,
                phase=phase,
                limit_s=limit_s,
            ) from error
        except StopAsyncIteration:
            raise StreamBroken("the answer ended without a finish reason", target=name) from None
        except ProviderError as error:
            if (death := self._replica.engine.death) is not None:
                raise death from error
            raise
        except Error:
            raise
        except Exception as error:
            log.exception("target %s raised an exception of its own", name)
            raise BadResponse(f'target "{name}" failed: {type(error).__name__}: {error}', target=name) from error

    def _left_s(self) -> float:
        return max(0.0, self._deadline - self._clock())

    def _last(self, piece: Chunk, first_at: float) -> Chunk:
        """The end of the answer: usage of all its parts, warnings, and times by our clock."""
        if self._sent.committed:
            read = piece.usage.prompt_tokens if piece.usage else 0
            prompt = self._prompt_tokens or max(0, read - self._kept_tokens)
            piece = replace(piece, usage=joined_usage(piece.usage, prompt, self._kept_tokens))
        self._report.warnings.extend(dict.fromkeys(self._warnings))
        return replace(piece, timings=self._timings(piece, first_at), warnings=self._warnings)

    def _timings(self, last: Chunk, first_at: float) -> Timings:
        """The backend's own speeds where it tells them; our clock for everything else."""
        now = self._clock()
        own = last.timings or Timings()
        tokens = last.usage.completion_tokens - self._kept_tokens if last.usage else 0
        decoding_s = now - first_at
        return replace(
            own,
            queue_s=self._report.queue_s,
            load_s=self._report.load_s,
            first_token_s=first_at - self._arrived,
            total_s=now - self._arrived,
            tokens_per_s=own.tokens_per_s or ((tokens - 1) / decoding_s if tokens > 1 and decoding_s > 0 else 0.0),
        )
