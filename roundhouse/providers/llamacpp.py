"""llama.cpp's own server, ours or attached: the OpenAI wire, and what it adds: slots, tokens, speeds, more sampling.

Routes and fields: ggml-org/llama.cpp tools/server/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from msgspec import structs

from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Timings
from roundhouse.core.errors import ConnectFailed, Error, Loading, Unsupported
from roundhouse.core.model import Capabilities, Health, ModelDescription
from roundhouse.providers.base import Endpoint, PromptTokens
from roundhouse.providers.openai_compatible import OpenAICompatibleClient, Reader

__all__ = ["LlamaCppClient"]

# It reads a larger number modulo 2**32, so that "as many as you like" may come to be five.
_MOST_TOKENS = (1 << 31) - 1


class LlamaCppClient(OpenAICompatibleClient):
    """`endpoint.url` is the server's root."""

    SAMPLING: ClassVar[dict[str, str]] = {
        **OpenAICompatibleClient.SAMPLING,
        "top_k": "top_k",
        "min_p": "min_p",
        "repeat_penalty": "repeat_penalty",
    }

    # It announces to keep a connection and drops it after a stream; a new one on loopback costs less than a failed one.
    KEEP_ALIVE: ClassVar[bool] = False

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._template_takes_tools: bool | None = None

    @cached_property
    def capabilities(self) -> Capabilities:
        # A trailing assistant message is always extended, and a stream never repeats it.
        return replace(super().capabilities, continuation=True, images=False, rerank=True)

    async def astream(self, request: ChatRequest) -> Chunks:
        if request.tools and not await self._knows_tools():
            said = f'the chat template of target "{self.endpoint.target}" has no place for tools'
            raise Unsupported(said, feature="tools", target=self.endpoint.target)
        async with aclosing(super().astream(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    def body(self, request: ChatRequest) -> tuple[dict[str, Any], list[str]]:
        """The server tells the probability of a token only beside an alternative, so one at least is asked for."""
        if request.logprobs == 0:
            request = structs.replace(request, logprobs=1)
        body, ignored = super().body(request)
        if body.get("max_tokens", 0) > _MOST_TOKENS:
            body["max_tokens"] = _MOST_TOKENS
        return body, ignored

    async def _knows_tools(self) -> bool:
        """The server drops tools in silence where the model's template does not write them."""
        if self._template_takes_tools is None:
            facts = (await self.http.get("/props")).get("chat_template_caps") or {}
            self._template_takes_tools = bool(facts.get("supports_tools", True))
        return self._template_takes_tools

    def finish(self, reader: Reader) -> Chunk:
        """With the speeds that the server measured."""
        speeds = reader.backend_timings
        timings = Timings(
            prompt_tokens_per_s=speeds.get("prompt_per_second", 0.0),
            tokens_per_s=speeds.get("predicted_per_second", 0.0),
        )
        return structs.replace(reader.last(), timings=timings)

    async def arerank(self, query: str, documents: Sequence[str]) -> list[float]:
        """By a model made for it, in a target that says `rerank: true`."""
        answer = await self.http.post("/v1/rerank", {"query": query, "documents": list(documents)})
        try:
            rows = {int(row["index"]): float(row["relevance_score"]) for row in answer["results"]}
            return [rows[place] for place in range(len(documents))]
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd("scores") from error

    async def acount_tokens(self, request: ChatRequest) -> int:
        """Prompt tokens of `request` under the model's own chat template."""
        if request.raw:
            counted = await self.http.post("/tokenize", {"content": request.messages[-1].content, "add_special": True})
            return len(counted["tokens"])
        return len((await self.atokens(request)).ids)

    async def atokens(self, request: ChatRequest) -> PromptTokens:
        """The tokens of `request` under the model's own chat template."""
        body, _ = self.body(request)
        shown: dict[str, Any] = {name: body[name] for name in ("messages", "tools") if name in body}
        rendered = await self.http.post("/apply-template", shown)
        # The template writes its own special tokens; none may be added to them.
        counted = await self.http.post(
            "/tokenize", {"content": rendered["prompt"], "add_special": False, "parse_special": True}
        )
        return PromptTokens(tuple(counted["tokens"]), rendered["prompt"])

    async def awindow_tokens(self) -> int:
        """The window of one request."""
        props = await self.http.get("/props")
        return int(props["default_generation_settings"]["n_ctx"])

    async def adescribe(self) -> ModelDescription:
        props = await self.http.get("/props")
        return ModelDescription(self.endpoint.model, chat_template=str(props.get("chat_template") or ""))

    async def abusy_slots(self) -> int:
        """Slots that are computing right now."""
        slots: list[Mapping[str, Any]] = await self.http.get("/slots")
        return sum(bool(slot["is_processing"]) for slot in slots)

    async def ahealth(self) -> Health:
        try:
            await self.http.get("/health", limit_s=2.0)
        except Loading as error:
            return Health(alive=True, loading=True, detail=str(error))
        except ConnectFailed as error:
            return Health(alive=False, detail=str(error))
        except Error as error:
            return Health(alive=True, detail=str(error))
        return Health(alive=True, ready=True, models=(self.endpoint.model,))
