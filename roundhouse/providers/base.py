"""The contract that every provider keeps, ours or a third party's, and the table of names to find them by.

A provider answers a `ChatRequest` with a stream of `Chunk`s (`astream`); everything else is derived from that. A
subclass that has only the blocking `generate_answer` is a valid provider too: `astream` is then derived from it, and
its capabilities, being the cautious defaults, say so.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from roundhouse.core.chat import Answer, ChatRequest, Chunk, Chunks, collect
from roundhouse.core.errors import TimedOut, Unsupported
from roundhouse.core.model import Capabilities, Health, ModelDescription
from roundhouse.providers import blocking

__all__ = [
    "AsyncProvider",
    "CountsTokens",
    "DescribesModel",
    "Endpoint",
    "LLMProvider",
    "PromptTokens",
    "PullProgress",
    "Pulls",
    "TellsTokens",
    "as_request",
    "gather",
    "require",
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one backend answers, and as whom to speak. `target` is the name used in errors.

    `key` is a secret and stays out of `repr`. `options` are backend extras of the target, passed through by name.
    `connect_s` limits connecting alone; limits on tokens are kept by the caller.
    """

    target: str
    url: str
    model: str = ""
    key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    connect_s: float = 2.0


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step of a download; bytes are those of the layer being pulled, 0 where a step has none."""

    status: str
    completed_bytes: int = 0
    total_bytes: int = 0


def as_request(request: ChatRequest | str) -> ChatRequest:
    return ChatRequest.of(request) if isinstance(request, str) else request


def require(request: ChatRequest, capabilities: Capabilities, name: str) -> None:
    """Raises `Unsupported` if `request` asks for what a backend called `name` cannot do: nothing is left out unsaid."""
    lacking = ""
    if request.tools and not capabilities.tools:
        lacking = "tools"
    elif request.json_schema is not None and not capabilities.json_schema:
        lacking = "json_schema"
    elif request.logprobs is not None and not capabilities.logprobs:
        lacking = "logprobs"
    elif request.continue_last and not capabilities.continuation:
        lacking = "continuation"
    elif request.raw and not capabilities.raw:
        lacking = "raw"
    elif not capabilities.images and any(message.images for message in request.messages):
        lacking = "images"
    if lacking:
        said = f"{name} cannot do what was asked for: {lacking.replace('_', ' ')}"
        raise Unsupported(said, feature=lacking, target=name)


async def gather(chunks: Chunks) -> Answer:
    """The whole answer of a stream, which is closed whatever happens; raises what the stream raises."""
    async with aclosing(chunks) as stream:
        return collect([chunk async for chunk in stream])


class LLMProvider(ABC):
    """One backend that answers. Define `generate_answer`; override `astream` to give more than whole answers.

    Blocking and async forms are the same provider. Errors are those of `roundhouse.core.errors`; any other exception
    out of a provider is taken for a bug of that provider and counted against it as `BadResponse`.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this provider can do; the default promises nothing."""
        return Capabilities()

    @abstractmethod
    def generate_answer(self, prompt: str) -> str:
        """The answer to one user prompt, whole. Blocks."""

    def generate(self, request: ChatRequest | str) -> Answer:
        """The whole answer, with usage, timings and finish reason. Blocks."""
        return blocking.call(self.agenerate(as_request(request)))

    def stream(self, request: ChatRequest | str) -> Iterator[Chunk]:
        """The answer piece by piece. Closing the iterator cancels the generation. Blocks between pieces."""
        return blocking.iterate(self._answering(as_request(request)))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in order. Raises `Unsupported` where the backend has no embeddings. Blocks."""
        return blocking.call(self.aembed(texts))

    def rerank(self, query: str, documents: Sequence[str]) -> list[float]:
        """How well each document answers `query`, in order; larger is better. Blocks."""
        return blocking.call(self.arerank(query, documents))

    def health(self) -> Health:
        """A free probe, never a completion. Blocks."""
        return blocking.call(self.ahealth())

    def close(self) -> None:
        """Release connections. Blocks."""
        blocking.call(self.aclose())

    async def agenerate(self, request: ChatRequest | str) -> Answer:
        return await gather(self._answering(as_request(request)))

    async def astream(self, request: ChatRequest) -> Chunks:
        """Pieces in order, the last with a finish reason. Closing it frees the backend's slot.

        It may be advanced from different tasks, so no timeout or task group may stay open across a `yield`.
        """
        text = await asyncio.to_thread(self.generate_answer, flatten(request))
        yield Chunk(text=text)
        yield Chunk(finish_reason="stop")

    async def _answering(self, request: ChatRequest) -> Chunks:
        """`astream`, refused at once if it asks for too much, and ended at the request's deadline."""
        require(request, self.capabilities, type(self).__name__)
        limit_s = request.deadline_s
        deadline = None if limit_s is None else asyncio.get_running_loop().time() + limit_s
        async with aclosing(self.astream(request)) as chunks:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    said = f"{type(self).__name__} was not done within the deadline of {limit_s:g} s"
                    raise TimedOut(said, phase="total", limit_s=limit_s or 0.0) from error
                yield chunk

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported(f"{type(self).__name__} has no embeddings", feature="embeddings")

    async def arerank(self, query: str, documents: Sequence[str]) -> list[float]:
        """How well each document answers `query`, in order; larger is better. Raises `Unsupported` where it cannot."""
        raise Unsupported(f"{type(self).__name__} cannot rerank", feature="rerank")

    async def ahealth(self) -> Health:
        return Health(alive=True, ready=True, detail="not probed: this provider has no health check")

    async def aclose(self) -> None:
        return None


class AsyncProvider(LLMProvider):
    """A provider whose own form is the stream; the blocking answer is derived from it."""

    def generate_answer(self, prompt: str) -> str:
        return self.generate(prompt).text

    @abstractmethod
    def astream(self, request: ChatRequest) -> Chunks: ...


@runtime_checkable
class Pulls(Protocol):
    """What a provider may have besides: a backend that downloads and removes models by itself."""

    def apull(self) -> AsyncGenerator[PullProgress, None]:
        """Closing it stops the download."""
        ...

    async def adelete(self) -> None: ...


@runtime_checkable
class CountsTokens(Protocol):
    """What a provider may have besides: the means to fit a prompt into its window."""

    async def acount_tokens(self, request: ChatRequest) -> int:
        """Prompt tokens of `request` under the model's own chat template."""
        ...

    async def awindow_tokens(self) -> int:
        """The window of one request, prompt and answer together."""
        ...


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """What a model reads: token ids, and the text they stand for; the text is empty where the backend does not say."""

    ids: tuple[int, ...]
    text: str = ""


@runtime_checkable
class TellsTokens(Protocol):
    """What a provider may have besides: the very tokens that its chat template makes of a request."""

    async def atokens(self, request: ChatRequest) -> PromptTokens: ...


@runtime_checkable
class DescribesModel(Protocol):
    """What a provider may have besides: the model's own word on what it is."""

    async def adescribe(self) -> ModelDescription: ...


def flatten(request: ChatRequest) -> str:
    """A conversation as one prompt, for providers that take nothing else: turns apart by a blank line, in order."""
    if len(request.messages) == 1:
        return request.messages[0].content
    return "\n\n".join(message.content for message in request.messages if message.content)
