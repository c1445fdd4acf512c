"""All targets of a configuration behind one object that blocks, or does not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from roundhouse.config import Settings, load, load_mapping
from roundhouse.core.chat import Answer, ChatRequest, Chunk, Chunks
from roundhouse.core.errors import AllProvidersFailed, Attempt, Error
from roundhouse.gateway.build import provider_types
from roundhouse.gateway.gateway import Reported
from roundhouse.gateway.library.opened import Opened
from roundhouse.gateway.trials import Caller
from roundhouse.providers import blocking
from roundhouse.providers.base import as_request, gather
from roundhouse.routing.manager import Reply

__all__ = ["LLMManager"]


class LLMManager:
    """All targets of a configuration behind one call, with automatic failover. Blocking; `a...` forms are async.

    `config` is a mapping of the file's shape, or the path of a file; None = the file that would be found.
    """

    def __init__(self, config: Mapping[str, Any] | str | os.PathLike[str] | None = None) -> None:
        self._opened = Opened(_settings(config))
        blocking.close_with(self, self._opened)

    def generate_answer(self, prompt: str, *, model: str = "") -> str:
        """The answer of the first target that gives one, in fallback order, or of the route or target `model`.

        Raises `AllProvidersFailed`, a `RuntimeError` that lists every attempt and its reason.
        """
        return self.generate(ChatRequest.of(prompt, model=model)).text

    def generate(self, request: ChatRequest | str) -> Answer:
        """The whole answer with usage, timings and finish reason. Raises as `generate_answer` does."""
        return blocking.call(self.agenerate(request))

    def ask(self, prompt: str, *, unit: str = "", model: str = "", **variables: str) -> Reported:
        """The answer to a prompt of the configuration by its name, and how it came about.

        As a request to the server does, it takes part in the experiment that concerns the prompt: `unit` says who asks
        and stays in one arm; without, each request is a unit by itself. `report` tells `experiment`, `arm` and the
        `request_id` for `feedback`. Raises `TemplateError` for a prompt or variable that is wrong, and as
        `generate_answer` does.
        """
        return blocking.call(self.aask(prompt, unit=unit, model=model, **variables))

    def feedback(self, request_id: str, metric: str, value: float) -> list[str]:
        """Tell what came of an answer; gives the experiments that it was in, or raises `InvalidRequest`."""
        return blocking.call(self.afeedback(request_id, metric, value))

    def generate_batch(self, prompts: Sequence[str], *, model: str = "", at_once: int = 0) -> list[str]:
        """The answers in the order of the prompts, computed together as far as the backends can.

        Raises the error of the first prompt that got no answer, after all the others have ended.
        """
        return blocking.call(self.agenerate_batch(prompts, model=model, at_once=at_once))

    def stream(self, request: ChatRequest | str) -> Iterator[Chunk]:
        """The answer piece by piece; closing the iterator cancels it."""
        return blocking.iterate(self.astream(as_request(request)))

    def close(self) -> None:
        """Stop what was started."""
        blocking.call(self._opened.aclose())

    async def agenerate_answer(self, prompt: str, *, model: str = "") -> str:
        return (await self.agenerate(ChatRequest.of(prompt, model=model))).text

    async def agenerate_batch(self, prompts: Sequence[str], *, model: str = "", at_once: int = 0) -> list[str]:
        gateway = await self._opened.get()
        requests = [ChatRequest.of(prompt, model=model) for prompt in prompts]
        done = await gateway.generate_batch(requests, at_once=at_once)
        for one in done:
            if isinstance(one, Error):
                raise one
        return [one.answer.text for one in done if not isinstance(one, Error)]

    async def agenerate(self, request: ChatRequest | str) -> Answer:
        return await gather(self.astream(as_request(request)))

    async def aask(self, prompt: str, *, unit: str = "", model: str = "", **variables: str) -> Reported:
        gateway = await self._opened.get()
        reply = await gateway.converse(
            ChatRequest((), model=model), prompt=prompt, variables=variables, caller=Caller(unit)
        )
        return Reported(await gather(_of_all(reply)), reply.report)

    async def afeedback(self, request_id: str, metric: str, value: float) -> list[str]:
        return await (await self._opened.get()).feedback(request_id, metric, value)

    async def astream(self, request: ChatRequest) -> Chunks:
        gateway = await self._opened.get()
        async with aclosing(_of_all(gateway.stream(request))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def aclose(self) -> None:
        await self._opened.aclose()


async def _of_all(reply: Reply) -> Chunks:
    """One target may be all there is: to a caller of the manager its failure is the failure of all."""
    try:
        async with aclosing(reply.chunks) as chunks:
            async for chunk in chunks:
                yield chunk
    except AllProvidersFailed:
        raise
    except Error as error:
        if not error.failover or not reply.report.attempts:
            raise
        attempts: tuple[Attempt, ...] = tuple(reply.report.attempts)
        raise AllProvidersFailed(str(error), attempts=attempts, cause=error) from error


def _settings(config: Mapping[str, Any] | str | os.PathLike[str] | None) -> Settings:
    if isinstance(config, Mapping):
        return load_mapping(config, types=provider_types())
    path = None if config is None else Path(config)
    return load(path, environ=os.environ, cwd=Path.cwd(), types=provider_types())
