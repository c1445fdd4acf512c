"""vLLM's OpenAI server, attached: the common wire, its further sampling, its health, its own count of tokens.

Routes and fields: vllm-project/vllm, vllm/entrypoints/openai.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import BadResponse, Error
from roundhouse.core.model import Capabilities, Health
from roundhouse.providers.openai_compatible import OpenAICompatibleClient

__all__ = ["VLLMClient"]


class VLLMClient(OpenAICompatibleClient):
    """`endpoint.url` is the server's root."""

    SAMPLING: ClassVar[dict[str, str]] = {
        **OpenAICompatibleClient.SAMPLING,
        "top_k": "top_k",
        "min_p": "min_p",
        "repeat_penalty": "repetition_penalty",
    }

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, continuation=True)

    async def acount_tokens(self, request: ChatRequest) -> int:
        """Prompt tokens of `request` under the model's own chat template."""
        return (await self._tokenize(request))[0]

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
