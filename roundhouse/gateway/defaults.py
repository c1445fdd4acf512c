"""What answers when nothing is configured: Mistral 7B in Ollama, else in the store, else the built-in demo."""

from __future__ import annotations

import dataclasses

from roundhouse.config import Settings, TargetSettings
from roundhouse.core.errors import StoreError
from roundhouse.gateway.demo import DEMO_MODEL
from roundhouse.gateway.models import Models
from roundhouse.providers.base import Endpoint
from roundhouse.providers.registry import create
from roundhouse.store.catalogue import DEFAULT_MODEL
from roundhouse.store.manifest import GGUF

__all__ = ["OLLAMA_URL", "with_default_route"]

OLLAMA_URL = "http://localhost:11434"
_MISTRAL = "mistral:7b"


async def with_default_route(settings: Settings, *, ollama_url: str = OLLAMA_URL) -> Settings:
    """`settings`, given a target if they have none. A quick look at Ollama decides, never a completion."""
    if settings.targets:
        return settings
    target = TargetSettings(name="demo", type="llamacpp", model=DEMO_MODEL)
    if await _ollama_has(_MISTRAL, ollama_url):
        target = TargetSettings(name="ollama", type="ollama", model=_MISTRAL, endpoint=ollama_url)
    elif _store_has(DEFAULT_MODEL, settings):
        target = TargetSettings(name="mistral", type="llamacpp", model=DEFAULT_MODEL)
    return dataclasses.replace(settings, targets=(target,), routes={"default": (target.name,), **settings.routes})


def _store_has(model: str, settings: Settings) -> bool:
    """Whether it is on disk and may be used."""
    try:
        return Models(settings).resolve(model, GGUF) is not None
    except StoreError:
        return False


async def _ollama_has(model: str, url: str) -> bool:
    client = create("ollama", Endpoint("ollama", url, model=model))
    try:
        return (await client.ahealth()).ready
    finally:
        await client.aclose()
