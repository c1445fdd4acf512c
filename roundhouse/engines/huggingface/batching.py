"""Many requests in one running batch: transformers' `ContinuousBatchingManager`, its thread and what it hands out.

It stands on transformers 5.23, generation/continuous_batching: `output_router` and `logit_processor` are replaced
before the thread starts, which is when the manager passes them on.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import OutputRouter

from roundhouse.engines.huggingface.choose import Alternatives, Chooser
from roundhouse.engines.huggingface.load import Loaded
from roundhouse.resources.memory_transformers import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, PAGE_TOKENS, pages_of

__all__ = ["Ask", "Batching", "Failed", "Token"]


class Failed(Exception):
    """The generation thread gave a request up, or takes none any more."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: token ids, and how to choose the answer's. `seed` in [0, 2**31)."""

    tokens: Sequence[int]
    max_tokens: int
    end_tokens: frozenset[int]
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `last`: none follows it."""

    id: int
    last: bool
    alternatives: Alternatives | None = None


@dataclass(slots=True)
class _Running:
    """A request as the generation thread sees it; `tokens` is filled from there, by way of the loop."""

    tokens: asyncio.Queue[Token | Failed] = field(default_factory=asyncio.Queue)
    seen: int = 0
    max_tokens: int = 0
    end_tokens: frozenset[int] = frozenset()


class Batching:
    """Built, used and stopped on one event loop; generation happens in a thread of its own."""

    def __init__(self, loaded: Loaded, *, slots: int, cache_tokens: int, graphs: bool | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        on_cpu = loaded.device == "cpu"
        config = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=pages_of(cache_tokens, slots),
            max_batch_tokens=CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS,
            max_requests_per_batch=slots,
            use_async_batching=False,
            use_cuda_graph=graphs,
        )
        generation = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=1)
        self._manager: Any = loaded.model.init_continuous_batching(generation, config)
        graphed = any(self._manager.continuous_batching_config.cuda_graph_booleans)
        self.chooser = Chooser(graphs=graphed)
        self._manager.logit_processor = self.chooser
        self._manager.output_router = _Router(self._deliver)
        self._running: dict[str, _Running] = {}
        self._names = (f"r{number}" for number in itertools.count())
        self._manager.start()

    @property
    def alive(self) -> bool:
        return bool(self._manager.is_running())

    @property
    def steps(self) -> int:
        """Batches computed so far; it stands still while nothing is asked, or when the thread hangs."""
        return int(getattr(self._manager, "current_batch", 0))

    @property
    def busy(self) -> int:
        """Requests that hold a place in the batch."""
        processor = self._manager.batch_processor
        return len(processor.scheduler.active_requests) if processor is not None else 0

    @property
    def waiting(self) -> int:
        """Requests that have none yet."""
        processor = self._manager.batch_processor
        held = len(processor.scheduler.waiting_requests) if processor is not None else 0
        return held + int(self._manager.input_queue.qsize())

    async def generate(self, ask: Ask) -> AsyncGenerator[Token, None]:
        """Tokens as they come. Closing it takes the request out of the batch. Raises `Failed`."""
        name = next(self._names)
        running = _Running(max_tokens=ask.max_tokens, end_tokens=ask.end_tokens)
        self._running[name] = running
        finished = False
        try:
            accepted = self._manager.add_request(
                list(ask.tokens),
                request_id=name,
                max_new_tokens=ask.max_tokens,
                streaming=True,
                eos_token_id=list(ask.end_tokens),
                temperature=ask.temperature,
                top_p=ask.top_p,
                top_k=ask.top_k,
                min_p=ask.min_p,
                seed=ask.seed,
                logprobs=ask.logprobs,
            )
            if accepted is None:
                raise Failed("the generation thread has stopped")
            while not finished:
                told = await running.tokens.get()
                if isinstance(told, Failed):
                    finished = True
                    raise told
                finished = told.last
                yield told
        finally:
            del self._running[name]
            if not finished:
                self._manager.cancel_request(name)

    def stop(self) -> None:
        """End the thread; what runs fails."""
        self._manager.stop(block=True, timeout=5.0, hard_stop=True)

    def _deliver(self, outputs: Sequence[Any]) -> None:
        """Called in the generation thread after each step; one call into the loop for the whole batch."""
        told = [
            (output.request_id, output.generated_tokens, output.error, self.chooser.take(output.request_id))
            for output in outputs
        ]
        self._loop.call_soon_threadsafe(self._hand_out, told)

    def _hand_out(self, told: Sequence[tuple[str, Sequence[int], str | None, Alternatives | None]]) -> None:
        for name, tokens, error, alternatives in told:
            running = self._running.get(name)
            if running is None:  # it was cancelled a moment ago
                continue
            if error is not None:
                running.tokens.put_nowait(Failed(error))
                continue
            for token in tokens[running.seen :]:
                running.seen += 1
                last = running.seen >= running.max_tokens or token in running.end_tokens
                running.tokens.put_nowait(Token(token, last, alternatives))


class _Router(OutputRouter):  # type: ignore[misc]
    """Hands every output to one function, in the generation thread."""

    def __init__(self, deliver: Any) -> None:
        super().__init__()
        self._hand_over = deliver

    def deliver(self, output: Any) -> None:
        self._hand_over([output])

    def deliver_batch(self, outputs: list[Any]) -> None:
        self._hand_over(outputs)
