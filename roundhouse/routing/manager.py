"""The owner of targets: grants slots, has engines made ready, streams from them, and moves on when one fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Timings
from roundhouse.core.errors import Attempt, BadResponse, Error, ProviderError, StreamBroken, TimedOut
from roundhouse.core.report import Report
from roundhouse.providers.base import LLMProvider, require
from roundhouse.routing.failover import conclude, may_try_next
from roundhouse.routing.target import Target

__all__ = ["Manager", "Reply"]

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way: iterate `chunks` once; `report` fills in as it goes and is complete at the end."""

    chunks: Chunks
    report: Report


class Manager:
    """Everything it holds is touched from one event loop. `total_s` limits a request that brings no deadline."""

    def __init__(
        self, targets: Iterable[Target], *, total_s: float = 600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.targets = {target.name: target for target in targets}
        self._total_s = total_s
        self._clock = clock

    def stream(self, request: ChatRequest, candidates: Sequence[str], report: Report) -> Reply:
        """The answer of the first of `candidates` that can give one. Nothing starts before the first iteration."""
        return Reply(self._serve(request, candidates, report), report)

    async def reach(self, candidates: Sequence[str]) -> tuple[Target, LLMProvider]:
        """The first of `candidates` whose engine is or can be made ready, and its client; raises if none can be."""
        failures: list[tuple[Attempt, Error]] = []
        for name in candidates:
            target, started = self.targets[name], self._clock()
            try:
                return target, await target.client()
            except Error as error:
                failures.append((Attempt(name, error.code, str(error), self._clock() - started), error))
                if not error.failover:
                    raise
        raise conclude(candidates[0], failures)

    async def aclose(self) -> None:
        """Stop every engine and close every connection; each is tried even if another fails."""
        results = await asyncio.gather(*(target.aclose() for target in self.targets.values()), return_exceptions=True)
        for target, result in zip(self.targets.values(), results, strict=True):
            if isinstance(result, BaseException):
                log.error("closing target %s: %s", target.name, result)

    async def _serve(self, request: ChatRequest, candidates: Sequence[str], report: Report) -> Chunks:
        arrived = self._clock()
        deadline = arrived + (request.deadline_s or self._total_s)
        failures: list[tuple[Attempt, Error]] = []
        for name in candidates:
            started, committed = self._clock(), False
            attempt = _Attempt(self.targets[name], request, report, arrived, deadline, self._clock)
            try:
                async with aclosing(attempt.chunks()) as chunks:
                    async for chunk in chunks:
                        committed = True
                        yield chunk
            except Error as error:
                failed = Attempt(name, error.code, str(error), self._clock() - started)
                report.attempts.append(failed)
                failures.append((failed, error))
                if not may_try_next(error, committed=committed, fallback=request.fallback):
                    raise
                log.warning("target %s failed (%s): %s", name, error.code, error)
            else:
                report.attempts.append(Attempt(name, "ok", seconds=self._clock() - started))
                return
        raise conclude(report.route, failures)


class _Attempt:
    """One candidate tried for one request: take a slot, make ready, stream within the limits, give the slot back."""

    def __init__(
        self,
        target: Target,
        request: ChatRequest,
        report: Report,
        arrived: float,
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        self._target = target
        self._request = replace(request, sampling=request.sampling.over(target.sampling))
        self._report = report
        self._arrived = arrived
        self._deadline = deadline
        self._clock = clock

    async def chunks(self) -> Chunks:
        """Content as it comes, from the first real content on; what precedes it is held back and merged into it."""
        target, slots, asked = self._target, self._target.slots, self._clock()
        await self._within(slots.take(), self._left_s(), "total")
        granted = self._clock()
        self._report.queue_s = granted - asked
        try:
            client = await self._within(target.client(), self._left_s(), "total")
            self._report.load_s = self._clock() - granted
            request = await self._within(target.fitted(self._request, client), self._left_s(), "total")
            async with aclosing(self._guarded(client, request)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            slots.give_back(self._clock() - granted)

    async def _guarded(self, client: LLMProvider, request: ChatRequest) -> Chunks:
        """Pieces of the client's stream, each within its limit, foreign exceptions mapped to ours."""
        limits, first_at = self._target.limits, 0.0
        warnings: tuple[str, ...] = ()
        require(request, client.capabilities, f'target "{self._target.name}"')
        async with aclosing(client.astream(request)) as pieces:
            while True:
                limit_s, phase = (
                    (limits.between_tokens_s, "between_tokens") if first_at else (limits.first_token_s, "first_token")
                )
                piece = await self._next(pieces, limit_s, phase)
                warnings += piece.warnings
                if not (piece.has_content or piece.finish_reason):
                    continue
                if not first_at:
                    first_at = self._clock()
                    self._report.target, self._report.model = self._target.name, self._target.model
                if piece.finish_reason:
                    self._report.warnings.extend(dict.fromkeys(warnings))
                    yield replace(piece, timings=self._timings(piece, first_at), warnings=warnings)
                    return
                yield piece

    async def _next(self, pieces: Chunks, limit_s: float, phase: str) -> Chunk:
        try:
            return await self._within(anext(pieces), min(limit_s, self._left_s()), phase)
        except StopAsyncIteration:
            raise StreamBroken("the answer ended without a finish reason", target=self._target.name) from None
        except ProviderError as error:
            if (death := self._target.engine.death) is not None:
                raise death from error
            raise

    async def _within(self, work: Awaitable[T], limit_s: float, phase: str) -> T:
        """The result of `work`, or `TimedOut` after `limit_s`; what a third party's provider raises becomes ours."""
        name = self._target.name
        try:
            async with asyncio.timeout(limit_s):
                return await work
        except TimeoutError as error:
            raise TimedOut(
                f'target "{name}" was silent for {limit_s:.3g} s ({phase.replace("_", " ")} limit)',
                target=name,
                phase=phase,
                limit_s=limit_s,
            ) from error
        except (Error, StopAsyncIteration):
            raise
        except Exception as error:
            log.exception("target %s raised an exception of its own", name)
            raise BadResponse(f'target "{name}" failed: {type(error).__name__}: {error}', target=name) from error

    def _left_s(self) -> float:
        return max(0.0, self._deadline - self._clock())

    def _timings(self, last: Chunk, first_at: float) -> Timings:
        """The backend's own speeds where it tells them; our clock for everything else."""
        now = self._clock()
        own = last.timings or Timings()
        tokens = last.usage.completion_tokens if last.usage else 0
        decoding_s = now - first_at
        return replace(
            own,
            queue_s=self._report.queue_s,
            load_s=self._report.load_s,
            first_token_s=first_at - self._arrived,
            total_s=now - self._arrived,
            tokens_per_s=own.tokens_per_s or ((tokens - 1) / decoding_s if tokens > 1 and decoding_s > 0 else 0.0),
        )
