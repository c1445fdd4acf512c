"""vLLM's OpenAI server: the common wire, its further sampling, its health, its load, its sleep, its count of tokens.

Routes and fields: vllm-project/vllm, vllm/entrypoints/openai.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import BadResponse, Error, Misconfigured, Unsupported
from roundhouse.core.model import Capabilities, Health
from roundhouse.providers.base import PromptTokens
from roundhouse.providers.openai_compatible import OpenAICompatibleClient

__all__ = ["Load", "VLLMClient"]

_GAUGE = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)\{[^}]*\} (\S+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Load:
    """`cache_used`: share of the KV cache, 0 to 1."""

    running: int
    waiting: int
    cache_used: float


class VLLMClient(OpenAICompatibleClient):
    """`endpoint.url` is the server's root."""

    SAMPLING: ClassVar[dict[str, str]] = {
        **OpenAICompatibleClient.SAMPLING,
        "top_k": "top_k",
        "min_p": "min_p",
        "repeat_penalty": "repetition_penalty",
    }

    @cached_property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, continuation=True)

    def mark_continuation(self, request: ChatRequest, body: dict[str, Any]) -> None:
        if request.continue_last:  # the second is true unless said, and both together are refused
            body |= {"continue_final_message": True, "add_generation_prompt": False}

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        try:
            return await super().aembed(texts)
        except Misconfigured as error:
            if error.status != 404:
                raise
            said = f'target "{self.endpoint.target}" has no model for embeddings: vLLM has a route for them or for chat'
            raise Unsupported(said, feature="embeddings", target=self.endpoint.target) from error

    async def acount_tokens(self, request: ChatRequest) -> int:
        """Prompt tokens of `request` under the model's own chat template."""
        return (await self._tokenize(request))[0]

    async def atokens(self, request: ChatRequest) -> PromptTokens:
        """The tokens of `request` under the model's own chat template."""
        body, _ = self.body(request)
        asked: dict[str, Any] = {name: body[name] for name in ("model", "messages") if name in body}
        ids = (await self.http.post("/tokenize", asked)).get("tokens")
        if not isinstance(ids, list):
            raise BadResponse(f'target "{self.endpoint.target}" did not tell its tokens', target=self.endpoint.target)
        told = await self.http.post("/detokenize", {"model": self.endpoint.model, "tokens": ids})
        return PromptTokens(tuple(ids), str(told.get("prompt") or ""))

    async def awindow_tokens(self) -> int:
        """The window of one request."""
        return (await self._tokenize(ChatRequest.of("")))[1]

    async def ahealth(self) -> Health:
        """Its own health first: a server whose engine died still lists its models."""
        try:
            await self.http.get_status("/health", limit_s=2.0)
        except Error as error:
            return Health(alive=False, detail=str(error))
        return await super().ahealth()

    async def aload(self) -> Load:
        """How busy it is right now, by its own metrics."""
        text = await self.http.get_text("/metrics")
        found = {name: float(value) for name, value in _GAUGE.findall(text)}
        return Load(
            running=int(found.get("num_requests_running", 0)),
            waiting=int(found.get("num_requests_waiting", 0)),
            cache_used=found.get("kv_cache_usage_perc", 0.0),
        )

    async def abusy_slots(self) -> int:
        """Requests that are computed right now."""
        return (await self.aload()).running

    async def asleep(self, level: int = 1) -> None:
        """Give the memory back: level 1 keeps the weights in host memory, level 2 drops them.

        vLLM aborts what runs, so it must be drained before. Needs `enable_sleep_mode`, CUDA or ROCm.
        """
        await self.http.post_empty(f"/sleep?level={level}", limit_s=120.0)
        while not (await self.http.get("/is_sleeping"))["is_sleeping"]:  # noqa: ASYNC110 - it may answer before it sleeps
            await asyncio.sleep(0.05)

    async def awake(self) -> None:
        """Take the memory again and serve."""
        await self.http.post_empty("/wake_up", limit_s=120.0)

    async def _tokenize(self, request: ChatRequest) -> tuple[int, int]:
        body, _ = self.body(request)
        asked: dict[str, Any] = {name: body[name] for name in ("model", "messages") if name in body}
        answer = await self.http.post("/tokenize", asked)
        try:
            return int(answer["count"]), int(answer["max_model_len"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadResponse(
                f'target "{self.endpoint.target}" did not count tokens', target=self.endpoint.target
            ) from error
