"""The names that applications use. Each is a thin front of the gateway: the same routing, failover and limits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace

from roundhouse.config import Settings, TargetSettings, load, load_mapping
from roundhouse.core.chat import Answer, ChatRequest, Chunk, Chunks, Message
from roundhouse.core.errors import AllProvidersFailed, Attempt, Error
from roundhouse.core.model import Capabilities, Health
from roundhouse.gateway.build import capabilities_of, provider_types
from roundhouse.gateway.gateway import Gateway, Reported
from roundhouse.gateway.trials import Caller
from roundhouse.prompts.builtin import builtin
from roundhouse.prompts.catalog import from_texts
from roundhouse.prompts.prompt import Wording
from roundhouse.prompts.shelf import open_shelf
from roundhouse.prompts.template import Template
from roundhouse.providers import blocking
from roundhouse.providers.base import AsyncProvider, LLMProvider, as_request, gather
from roundhouse.providers.registry import known
from roundhouse.routing.manager import Reply

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

    def __init__(self, settings: Settings, reread: Callable[[], Settings] | None = None) -> None:
        self._gateway = Gateway(settings, reread, exports=True)
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


class _Loaded(AsyncProvider):
    """One of the models that a `ModelResourceManager` holds; loaded again if it had to make room meanwhile."""

    def __init__(self, opened: _Opened, entry: TargetSettings) -> None:
        self._opened = opened
        self.entry = entry

    def __repr__(self) -> str:
        return f"<{self.entry.type} {self.entry.model!r}>"

    async def astream(self, request: ChatRequest) -> Chunks:
        gateway = await self._opened.get()
        async for chunk in gateway.stream(replace(request, model=self.entry.name)).chunks:
            yield chunk

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return (await (await self._opened.get()).embed(texts, self.entry.name)).vectors

    async def ahealth(self) -> Health:
        try:
            return await (await (await self._opened.get()).client(self.entry.name)).ahealth()
        except Error as error:
            return Health(alive=False, detail=str(error))

    @property
    def capabilities(self) -> Capabilities:
        """What the backend's client can do; nothing is contacted."""
        return capabilities_of(self.entry)


class ModelResourceManager:
    """Models that share this machine's memory: each is loaded once, and an idle one makes room for another.

    `resources` are the keys of that section of a configuration, such as `{"memory_mib": 8192}`.
    """

    def __init__(self, resources: Mapping[str, Any] | None = None) -> None:
        self._resources = dict(resources or {})
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}
        self._providers: dict[tuple[str, str], _Loaded] = {}
        self._opened: _Opened | None = None

    def load_model(self, provider_type: str, model_name: str, config: Mapping[str, Any] | None = None) -> LLMProvider:
        """A provider whose engine is ready; the same one if it was loaded before.

        Idle models are unloaded if there is no room otherwise; their providers load them again when they are asked.
        Raises `ValueError` for an unknown type, `NoFit` if there is no room, or what kept the engine from starting.
        """
        key = (provider_type, model_name)
        is_new = key not in self._providers
        if is_new:
            LLMProviderFactory.create_provider(provider_type, model_name, config)  # says what is wrong with it
            self._entries[key] = {**(config or {}), "type": provider_type, "model": model_name, "name": _joined(key)}
        try:
            blocking.call(self._load(key))
        except BaseException:
            if is_new:
                del self._entries[key]
                blocking.call(self._drop(key))
            raise
        return self._providers[key]

    def unload_model(self, provider_type: str, model_name: str) -> bool:
        """Let it finish, stop it and give its memory back; False if it was not loaded."""
        key = (provider_type, model_name)
        if self._entries.pop(key, None) is None:
            return False
        blocking.call(self._drop(key))
        return True

    def loaded_models(self) -> list[tuple[str, str]]:
        """(provider type, model name) of what was loaded and not unloaded, in the order of loading."""
        return list(self._providers)

    async def _load(self, key: tuple[str, str]) -> None:
        settings = self._settings()
        if self._opened is None:
            self._opened = _Opened(settings, self._settings)
            blocking.close_with(self, self._opened)
        gateway = await self._opened.get()
        if key not in self._providers:
            gateway.reload()
            entry = next(entry for entry in settings.targets if entry.name == _joined(key))
            self._providers[key] = _Loaded(self._opened, entry)
        await gateway.load(_joined(key))

    async def _drop(self, key: tuple[str, str]) -> None:
        self._providers.pop(key, None)
        if self._opened is None:
            return
        gateway = await self._opened.get()
        await gateway.unload(_joined(key))
        if self._entries:
            gateway.reload()
        else:
            opened, self._opened = self._opened, None
            await opened.aclose()

    def _settings(self) -> Settings:
        llm = {"providers": list(self._entries.values())}
        return load_mapping(
            {"llm": llm, "resources": self._resources}, source=type(self).__name__, types=provider_types()
        )


def _joined(key: tuple[str, str]) -> str:
    return " ".join(key)


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
        return self._parsed.render(variables).text


class PromptManager:
    """Prompts by use case: the built-in ones, those of a `folder` of files, and those given, which win over both.

    A name `use_case_model_type`, or a mapping by family, is a wording for one family of models.
    """

    def __init__(
        self,
        templates: Mapping[str, str | Mapping[str, str]] | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        earlier = builtin() if folder is None else open_shelf(Path(folder)).over(builtin())
        self._catalog = from_texts(templates or {}, "PromptManager", earlier)

    def get_prompt(self, use_case: str, model_type: str = "default", **variables: Any) -> str:
        """The prompt of `use_case` for `model_type` as one text: its own wording, its family's, or the default one.

        `use_case` may carry a label or version: `rag_query@production`. Raises `TemplateError`.
        """
        return self._worded(use_case, model_type, variables).text

    def get_messages(self, use_case: str, model_type: str = "default", **variables: Any) -> tuple[Message, ...]:
        """The same with its turns apart: system text and examples as messages of their own."""
        return self._worded(use_case, model_type, variables).messages

    def _worded(self, use_case: str, model_type: str, variables: Mapping[str, Any]) -> Wording:
        prompt, _, family = self._catalog.choose(use_case, model_type)
        return prompt.prepare(variables).wording(family, model_type)


def _settings(config: Mapping[str, Any] | str | os.PathLike[str] | None) -> Settings:
    if isinstance(config, Mapping):
        return load_mapping(config, types=provider_types())
    path = None if config is None else Path(config)
    return load(path, environ=os.environ, cwd=Path.cwd(), types=provider_types())
