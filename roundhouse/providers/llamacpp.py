"""llama.cpp's own server, ours or attached: the OpenAI wire, and what it adds: slots, tokens, speeds, more sampling.

Routes and fields: ggml-org/llama.cpp tools/server/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from roundhouse.core.chat import ChatRequest, Chunk, Timings
from roundhouse.core.errors import ConnectFailed, Error, Loading
from roundhouse.core.model import Capabilities, Health
from roundhouse.providers.openai_compatible import OpenAICompatibleClient, Reader

__all__ = ["LlamaCppClient"]


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

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, continuation=True, images=False, rerank=True)

    def mark_continuation(self, request: ChatRequest, body: dict[str, Any]) -> None:
        """Nothing to say: a trailing assistant message is always extended, and a stream never repeats it."""

    def finish(self, reader: Reader) -> Chunk:
        """With the speeds that the server measured."""
        speeds = reader.backend_timings
        timings = Timings(
            prompt_tokens_per_s=speeds.get("prompt_per_second", 0.0),
            tokens_per_s=speeds.get("predicted_per_second", 0.0),
        )
        return replace(reader.last(), timings=timings)

    async def acount_tokens(self, request: ChatRequest) -> int:
        """Prompt tokens of `request` under the model's own chat template."""
        body, _ = self.body(request)
        rendered = await self.http.post("/apply-template", {"messages": body["messages"]})
        # The template writes its own special tokens; none may be added to them.
        counted = await self.http.post(
            "/tokenize", {"content": rendered["prompt"], "add_special": False, "parse_special": True}
        )
        return len(counted["tokens"])

    async def awindow_tokens(self) -> int:
        """The window of one request."""
        props = await self.http.get("/props")
        return int(props["default_generation_settings"]["n_ctx"])

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
