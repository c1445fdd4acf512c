"""Single backends, by a name each or by the name of their type: a gateway of one target, its engine included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from roundhouse.config import load_mapping
from roundhouse.core.chat import ChatRequest, Chunks
from roundhouse.core.errors import Error
from roundhouse.core.model import Capabilities, Health
from roundhouse.gateway.build import capabilities_of, provider_types
from roundhouse.gateway.library.opened import Opened
from roundhouse.providers import blocking
from roundhouse.providers.base import AsyncProvider, LLMProvider
from roundhouse.providers.registry import known

__all__ = [
    "HuggingFaceProvider",
    "LLMProviderFactory",
    "LlamaCppProvider",
    "OllamaProvider",
    "OpenAIProvider",
    "VLLMProvider",
]


class _SingleTarget(AsyncProvider):
    """A provider of one target, engine included: started on first use, stopped by `close` or with the process."""

    TYPE: ClassVar[str]

    def __init__(self, model_name: str = "", config: Mapping[str, Any] | None = None, **settings: Any) -> None:
        """`config` and `settings` take the keys of an entry of `llm.providers`; raises `ConfigError` for others."""
        entry = {**(config or {}), **settings, "type": self.TYPE}
        if model_name:
            entry["model"] = model_name
        self._settings = load_mapping(
            {"llm": {"providers": [entry]}}, source=type(self).__name__, types=provider_types()
        )
        self._opened = Opened(self._settings)
        blocking.close_with(self, self._opened)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.targets[0].model!r})"

    async def astream(self, request: ChatRequest) -> Chunks:
        gateway = await self._opened.get()
        async for chunk in gateway.stream(request).chunks:
            yield chunk

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return (await (await self._opened.get()).embed(texts)).vectors

    async def aload(self) -> None:
        """Make the engine ready now rather than at the first request."""
        await self._client()

    async def ahealth(self) -> Health:
        try:
            return await (await self._client()).ahealth()
        except Error as error:
            return Health(alive=False, detail=str(error))

    @property
    def capabilities(self) -> Capabilities:
        """What the backend's client can do; nothing is contacted."""
        return capabilities_of(self._settings.targets[0])

    async def aclose(self) -> None:
        await self._opened.aclose()

    async def _client(self) -> LLMProvider:
        return await (await self._opened.get()).client()


class OllamaProvider(_SingleTarget):
    """A model of an Ollama server: `OllamaProvider("mistral:7b", endpoint="http://localhost:11434")`."""

    TYPE = "ollama"


class LlamaCppProvider(_SingleTarget):
    """A GGUF file in a llama.cpp child process: `LlamaCppProvider("mistral-7b-q4.gguf", n_ctx=4096)`."""

    TYPE = "llamacpp"


class HuggingFaceProvider(_SingleTarget):
    """A folder of safetensors, or a name on the hub, in a transformers child process."""

    TYPE = "huggingface"


class VLLMProvider(_SingleTarget):
    """A model of a running vLLM server: `VLLMProvider("my-model", endpoint="http://localhost:8000")`.

    With `executable="vllm"` it is started here instead.
    """

    TYPE = "vllm"


class OpenAIProvider(_SingleTarget):
    """Any OpenAI-compatible server: `OpenAIProvider("gpt-x", endpoint="https://host/v1", api_key="...")`."""

    TYPE = "openai"


class LLMProviderFactory:
    """Providers by the name of their type."""

    _OURS: ClassVar[Mapping[str, type[_SingleTarget]]] = {
        kind.TYPE: kind
        for kind in (OllamaProvider, LlamaCppProvider, HuggingFaceProvider, VLLMProvider, OpenAIProvider)
    }

    @classmethod
    def create_provider(
        cls, provider_type: str, model_name: str = "", config: Mapping[str, Any] | None = None
    ) -> LLMProvider:
        """A provider of `provider_type`; raises `ValueError` for an unknown type, naming the known ones."""
        kind = cls._OURS.get(provider_type)
        if kind is None and provider_type in known():
            kind = type(f"{provider_type.title()}Provider", (_SingleTarget,), {"TYPE": provider_type})
        if kind is None:
            raise ValueError(f'unknown provider type "{provider_type}"; known are {", ".join(known())}')
        return kind(model_name, config)
