"""One candidate tried for one request: make it ready, stream from it within the limits, map what it raises."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import NoReturn, Protocol, TypeVar

from msgspec.structs import replace

from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Timings
from roundhouse.core.errors import BadResponse, Error, ProviderError, StreamBroken, TimedOut
from roundhouse.core.report import Report, Seam
from roundhouse.providers.base import CountsTokens, LLMProvider, require
from roundhouse.routing.contact import Contact
from roundhouse.routing.failover import Sent
from roundhouse.routing.patience import Patience
from roundhouse.routing.resume import Differs, Resume, Strip, joined_usage, resumes
from roundhouse.routing.target import Target

__all__ = ["Attempt", "Backend"]

log = logging.getLogger(__name__)
T = TypeVar("T")

# When a first token is this share of its limit late, an attached backend is asked whether it is loading.
_ASK_AT = 0.8


class _Engine(Protocol):
    """Of it: `death` is why it answers no more."""

    @property
    def managed(self) -> bool: ...

    @property
    def death(self) -> Error | None: ...


class Backend(Protocol):
    """What an attempt needs of a replica."""

    key: str
    moved_at: float
    gave_at: float

    @property
    def engine(self) -> _Engine: ...

    @property
    def ready_client(self) -> LLMProvider | None: ...

    @property
    def contact(self) -> Contact | None: ...

    async def client(self) -> LLMProvider: ...


class Attempt:
    """`sent` is what the client has already: if there is any, the backend is asked to go on from exactly there."""

    def __init__(
        self,
        target: Target,
        replica: Backend,
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
        sampling = request.sampling.over(target.sampling)
        self._request = request if sampling is request.sampling else replace(request, sampling=sampling)
        self._report = report
        self._sent = sent
        self._arrived = arrived
        self._deadline = deadline
        self._clock = clock
        self._warnings: tuple[str, ...] = ()
        self._patience = Patience(target.limits.between_tokens_s)
        self._first_s = target.limits.first_token_s
        self._late: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._prompt_tokens = self._kept_tokens = 0

    async def chunks(self) -> Chunks:
        """Content as it comes, from the first real content on; what precedes it is held back and merged into it."""
        client, request = await self._ready()
        if not self._sent.committed:
            return self._streamed(client, request, Strip(""))
        return self._resuming(client, request)

    async def _ready(self) -> tuple[LLMProvider, ChatRequest]:
        """The client of a ready engine, and the request as the target's model takes it."""
        began = self._clock()
        client = self._replica.ready_client
        if client is None:
            client = await self._within(self._replica.client(), self._left_s(), "total")
        self._report.load_s = self._clock() - began
        if self._target.family is None:
            await self._within(self._target.learn(client), self._left_s(), "total")
        return client, self._target.fitted(self._worded(), client)

    def _worded(self) -> ChatRequest:
        """In the words for this target; a failover that changes the words is said."""
        worded, report = self._target.worded(self._request), self._report
        notes = worded.notes
        if report.variant and worded.variant != report.variant:
            notes += (f'the prompt is worded for "{worded.variant}" instead of "{report.variant}"',)
        report.variant = worded.variant
        report.warnings += [note for note in notes if note not in report.warnings]
        return worded.request

    def close(self) -> None:
        """Leave no timer behind."""
        self._patience.close()
        self._ask_no_more()

    async def _resuming(self, client: LLMProvider, request: ChatRequest) -> Chunks:
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

    async def _streamed(self, client: LLMProvider, request: ChatRequest, strip: Strip) -> Chunks:
        """Pieces of the client's stream, each within its limit, without what the client has of them already."""
        require(request, client.capabilities, f'target "{self._target.name}"')
        limits, first_at, thinking = self._target.limits, 0.0, False
        since = self._clock()
        report = self._report
        if not report.overhead_s:
            report.overhead_s = max(0.0, since - self._arrived - report.queue_s - report.load_s)
        self._ask_when_late(client)
        async with aclosing(client.astream(request)) as pieces:
            while True:
                # Pings and empty pieces show that a process lives, not that tokens flow: the clock runs from content.
                silent_s = self._clock() - since
                if first_at:
                    limit_s = limits.thinking_s if thinking else limits.between_tokens_s
                    piece = await self._next(pieces, limit_s, silent_s, "between_tokens")
                else:
                    piece = await self._next(pieces, self._first_s, silent_s, "first_token")
                self._warnings += piece.warnings
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
                since = self._replica.moved_at = self._replica.gave_at = self._clock()

    def _stripped(self, piece: Chunk, strip: Strip) -> Chunk:
        if piece.text:
            piece = replace(piece, text=strip.feed(piece.text))
        if piece.finish_reason and not strip.done:
            raise Differs
        return piece

    def _begun(self) -> None:
        """The first content is here: this replica is the one that answers."""
        self._ask_no_more()
        report = self._report
        if self._sent.committed:
            report.seams.append(Seam(len(self._sent.text), report.replica, self._replica.key))
        report.target, report.replica, report.model = self._target.name, self._replica.key, self._target.model

    def _ask_when_late(self, client: LLMProvider) -> None:
        """An attached backend that loads its model is given the time."""
        self._ask_no_more()
        if not self._replica.engine.managed and self._first_s < self._left_s():
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(self._first_s * _ASK_AT, self._prolong, client, self._clock())

    def _ask_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _prolong(self, client: LLMProvider, since: float) -> None:
        """Move the limit on for as long as the backend says that it is loading, up to the load limit."""
        limit_s = self._first_s
        longest_s = limit_s * _ASK_AT + min(self._target.limits.load_s, self._left_s())

        async def ask() -> None:
            with contextlib.suppress(Error):
                while self._first_s < longest_s and (await client.ahealth()).loading:
                    passed_s = self._clock() - since
                    self._first_s = min(longest_s, passed_s + limit_s)
                    self._patience.prolong(self._first_s - passed_s)
                    await asyncio.sleep(limit_s * _ASK_AT)

        self._asking = asyncio.get_running_loop().create_task(ask(), name=f"is {self._replica.key} loading")

    async def _next(self, pieces: Chunks, limit_s: float, silent_s: float, phase: str) -> Chunk:
        """The next piece, if it comes within `limit_s` of the last content, `silent_s` of which have passed."""
        try:
            return await self._patience.wait(anext(pieces), min(max(0.0, limit_s - silent_s), self._left_s()))
        except Exception as error:  # noqa: BLE001 - `_raise` raises it, as it is or as one of ours
            self._raise(error, limit_s, phase)

    async def _within(self, work: Awaitable[T], limit_s: float, phase: str) -> T:
        try:
            return await self._patience.wait(work, limit_s)
        except Exception as error:  # noqa: BLE001 - `_raise` raises it, as it is or as one of ours
            self._raise(error, limit_s, phase)

    def _raise(self, error: Exception, limit_s: float, phase: str) -> NoReturn:
        ours = self._ours(error, limit_s, phase)
        if ours is error:
            raise error
        raise ours from error

    def _ours(self, error: Exception, limit_s: float, phase: str) -> Error:
        """The error of ours for a timeout, for the end of a stream, and for what a third party's provider raises."""
        name = self._target.name
        match error:
            case TimeoutError():
                if self._left_s() <= 0:
                    phase = "total"
                said = f'target "{name}" was silent for {limit_s:.3g} s ({phase.replace("_", " ")} limit)'
                return TimedOut(said, target=name, phase=phase, limit_s=limit_s)
            case StopAsyncIteration():
                return StreamBroken("the answer ended without a finish reason", target=name)
            case ProviderError():
                return self._replica.engine.death or error
            case Error():
                return error
        log.error("target %s raised an exception of its own", name, exc_info=error)
        return BadResponse(f'target "{name}" failed: {type(error).__name__}: {error}', target=name)

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
