"""Models that an application loads and unloads by name, in memory that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from roundhouse.config import Settings, TargetSettings, load_mapping
from roundhouse.core.chat import ChatRequest, Chunks
from roundhouse.core.errors import Error
from roundhouse.core.model import Capabilities, Health
from roundhouse.gateway.build import capabilities_of, provider_types
from roundhouse.gateway.library.opened import Opened
from roundhouse.gateway.library.providers import LLMProviderFactory
from roundhouse.providers import blocking
from roundhouse.providers.base import AsyncProvider, LLMProvider

__all__ = ["ModelResourceManager"]


class _Loaded(AsyncProvider):
    """One of the models that a `ModelResourceManager` holds; loaded again if it had to make room meanwhile."""

    def __init__(self, opened: Opened, entry: TargetSettings) -> None:
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
        self._opened: Opened | None = None

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
            self._opened = Opened(settings, self._settings)
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
