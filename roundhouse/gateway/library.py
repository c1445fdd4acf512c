"""The names that applications use. Each is a thin front of the gateway: the same routing, failover and limits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from roundhouse.config import Settings, load, load_mapping
from roundhouse.core.chat import Answer, ChatRequest, Chunk, Chunks
from roundhouse.core.errors import AllProvidersFailed, Attempt, Error, TemplateError
from roundhouse.core.model import Capabilities, Health
from roundhouse.gateway.build import capabilities_of, provider_types
from roundhouse.gateway.gateway import Gateway
from roundhouse.prompts.builtin import BUILTIN
from roundhouse.prompts.template import Template
from roundhouse.providers import blocking
from roundhouse.providers.base import AsyncProvider, LLMProvider, as_request, gather
from roundhouse.providers.registry import known

__all__ = [
    "HuggingFaceProvider",
    "LLMManager",
    "LLMProviderFactory",
    "LlamaCppProvider",
    "ModelResourceManager",
    "OllamaProvider",
    "OpenAIProvider",
    "PromptManager",
    "PromptTemplate",
    "VLLMProvider",
]


class _Opened:
    """A gateway that opens on first use, in the event loop that uses it, and stays with it."""

    def __init__(self, settings: Settings) -> None:
        self._gateway = Gateway(settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[Gateway] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def get(self) -> Gateway:
        self._loop = self._only_here()
        if self._opening is None:
            self._opening = asyncio.create_task(self._gateway.__aenter__())
        return await asyncio.shield(self._opening)

    def _only_here(self) -> asyncio.AbstractEventLoop:
        here = asyncio.get_running_loop()
        if self._loop not in (None, here):
            raise RuntimeError(
                "it was used first in another event loop, to which its connections belong; use either the blocking "
                "calls or one event loop, or make one object for each"
            )
        return here

    async def aclose(self) -> None:
        """Close it and wait until it is closed, also if somebody else is closing it already."""
        self._only_here()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._opening is not None:
            self._opening = None
            await self._gateway.aclose()
        self._loop = self._closing = None
        blocking.forget(self)


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
        self._opened = _Opened(self._settings)
        blocking.close_with(self, self._opened)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.targets[0].model!r})"

    async def astream(self, request: ChatRequest) -> Chunks:
        gateway = await self._opened.get()
        async for chunk in gateway.stream(request).chunks:
            yield chunk

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return await (await self._client()).aembed(texts)

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


class LLMManager:
    """All targets of a configuration behind one call, with automatic failover. Blocking; `a...` forms are async.

    `config` is a mapping of the file's shape, or the path of a file; None = the file that would be found.
    """

    def __init__(self, config: Mapping[str, Any] | str | os.PathLike[str] | None = None) -> None:
        self._opened = _Opened(_settings(config))
        blocking.close_with(self, self._opened)

    def generate_answer(self, prompt: str, *, model: str = "") -> str:
        """The answer of the first target that gives one, in fallback order, or of the route or target `model`.

        Raises `AllProvidersFailed`, a `RuntimeError` that lists every attempt and its reason.
        """
        return self.generate(ChatRequest.of(prompt, model=model)).text

    def generate(self, request: ChatRequest | str) -> Answer:
        """The whole answer with usage, timings and finish reason. Raises as `generate_answer` does."""
        return blocking.call(self.agenerate(request))

    def stream(self, request: ChatRequest | str) -> Iterator[Chunk]:
        """The answer piece by piece; closing the iterator cancels it."""
        return blocking.iterate(self.astream(as_request(request)))

    def close(self) -> None:
        """Stop what was started."""
        blocking.call(self._opened.aclose())

    async def agenerate_answer(self, prompt: str, *, model: str = "") -> str:
        return (await self.agenerate(ChatRequest.of(prompt, model=model))).text

    async def agenerate(self, request: ChatRequest | str) -> Answer:
        return await gather(self.astream(as_request(request)))

    async def astream(self, request: ChatRequest) -> Chunks:
        gateway = await self._opened.get()
        reply = gateway.stream(request)
        try:
            async for chunk in reply.chunks:
                yield chunk
        except AllProvidersFailed:
            raise
        except Error as error:
            if not error.failover or not reply.report.attempts:
                raise
            # One target is all there is: to this caller its failure is the failure of all.
            attempts: tuple[Attempt, ...] = tuple(reply.report.attempts)
            raise AllProvidersFailed(str(error), attempts=attempts, cause=error) from error

    async def aclose(self) -> None:
        await self._opened.aclose()


class ModelResourceManager:
    """Loads models ahead of their first request, within the memory that is free, each once."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str], LLMProvider] = {}

    def load_model(self, provider_type: str, model_name: str, config: Mapping[str, Any] | None = None) -> LLMProvider:
        """A provider whose engine is ready; the same one if it was loaded before.

        Raises `ValueError` for an unknown type, `NoFit` if there is no room, or what kept the engine from starting.
        """
        key = (provider_type, model_name)
        known_provider = self._loaded.get(key)
        provider = known_provider or LLMProviderFactory.create_provider(provider_type, model_name, config)
        if isinstance(provider, _SingleTarget):
            try:
                blocking.call(provider.aload())
            except BaseException:
                if known_provider is None:
                    provider.close()
                raise
        self._loaded[key] = provider
        return provider

    def unload_model(self, provider_type: str, model_name: str) -> bool:
        """Stop it and give its memory back; False if it was not loaded."""
        provider = self._loaded.pop((provider_type, model_name), None)
        if provider is None:
            return False
        provider.close()
        return True

    def loaded_models(self) -> list[tuple[str, str]]:
        """(provider type, model name) of what is loaded, in the order of loading."""
        return list(self._loaded)


class PromptTemplate:
    """A template with `{name}` placeholders, for a family of models: `PromptTemplate("Hi {name}").format(name="Ann")`.

    Raises `TemplateError` for a bad template, a missing, an unknown or a wrongly typed variable.
    """

    def __init__(self, template: str, model_type: str = "default") -> None:
        self.template = template
        self.model_type = model_type
        self._parsed = Template.parse(template, model_type)

    def format(self, **variables: Any) -> str:
        """The text with `variables` in place; numbers are written as Python writes them."""
        return self._parsed.render({name: _as_text(value) for name, value in variables.items()}).text


class PromptManager:
    """Prompts by use case: the built-in ones, and those given, whose names win.

    A name `use_case_model_type` is a variant for one family of models.
    """

    def __init__(self, templates: Mapping[str, str] | None = None) -> None:
        self._templates = {name: Template.parse(text, name) for name, text in {**BUILTIN, **(templates or {})}.items()}

    def get_prompt(self, use_case: str, model_type: str = "default", **variables: Any) -> str:
        """The rendered prompt of `use_case` for `model_type`, or its default variant. Raises `TemplateError`."""
        names = (f"{use_case}_{model_type}", f"{use_case}_default", use_case)
        found = next((self._templates[name] for name in names if name in self._templates), None)
        if found is None:
            known = ", ".join(sorted(self._templates))
            raise TemplateError(f'there is no prompt "{use_case}"; there are {known}', template=use_case)
        return found.render({name: _as_text(value) for name, value in variables.items()}).text


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _settings(config: Mapping[str, Any] | str | os.PathLike[str] | None) -> Settings:
    if isinstance(config, Mapping):
        return load_mapping(config, types=provider_types())
    path = None if config is None else Path(config)
    return load(path, environ=os.environ, cwd=Path.cwd(), types=provider_types())
