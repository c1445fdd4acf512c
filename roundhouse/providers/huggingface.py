"""Our own transformers worker (engines/huggingface): the OpenAI wire as far as the worker goes, and its own state."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import BadResponse, ConnectFailed, Error
from roundhouse.core.model import Capabilities, Health, ModelDescription
from roundhouse.providers.base import PromptTokens
from roundhouse.providers.openai_compatible import OpenAICompatibleClient

__all__ = ["HuggingFaceClient"]


class HuggingFaceClient(OpenAICompatibleClient):
    """`endpoint.url` is the worker's root."""

    SAMPLING: ClassVar[dict[str, str]] = {
        name: name for name in ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop")
    }

    @cached_property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, continuation=True, raw=False, tools=False, json_schema=False, images=False)

    def mark_continuation(self, request: ChatRequest, body: dict[str, Any]) -> None:
        if request.continue_last:
            body["continue_final_message"] = True

    async def acount_tokens(self, request: ChatRequest) -> int:
        """Prompt tokens of `request` under the model's own chat template."""
        body, _ = self.body(request)
        return await self._number("count", self.http.post("/tokenize", body))

    async def atokens(self, request: ChatRequest) -> PromptTokens:
        """The tokens of `request` under the model's own chat template."""
        body, _ = self.body(request)
        answer = await self.http.post("/tokenize", body)
        return PromptTokens(tuple(answer["tokens"]), answer["text"])

    async def awindow_tokens(self) -> int:
        """The window of one request."""
        return await self._number("window", self.http.get("/state"))

    async def adescribe(self) -> ModelDescription:
        state = await self.http.get("/state")
        return ModelDescription(
            self.endpoint.model, str(state.get("architecture") or ""), str(state.get("chat_template") or "")
        )

    async def abusy_slots(self) -> int:
        """Requests that are computed right now."""
        return await self._number("busy", self.http.get("/state"))

    async def ahealth(self) -> Health:
        try:
            await self.http.get("/health", limit_s=2.0)
        except ConnectFailed as error:
            return Health(alive=False, detail=str(error))
        except Error as error:
            return Health(alive=True, detail=str(error))
        return Health(alive=True, ready=True, models=(self.endpoint.model,))

    async def _number(self, name: str, answering: Any) -> int:
        answer = await answering
        try:
            return int(answer[name])
        except (KeyError, TypeError, ValueError) as error:
            raise BadResponse(
                f'target "{self.endpoint.target}" did not tell its {name}', target=self.endpoint.target
            ) from error
