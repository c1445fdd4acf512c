"""What answers when nothing is configured: Ollama with Mistral 7B if it is there, else the built-in demo model."""

from __future__ import annotations

import dataclasses

from roundhouse.config import Settings, TargetSettings
from roundhouse.gateway.demo import DEMO_MODEL
from roundhouse.providers.base import Endpoint
from roundhouse.providers.registry import create

__all__ = ["with_default_route"]

_OLLAMA_URL = "http://localhost:11434"
_MISTRAL = "mistral:7b"


async def with_default_route(settings: Settings, *, ollama_url: str = _OLLAMA_URL) -> Settings:
    """`settings`, given a target if they have none. A quick look at Ollama decides, never a completion."""
    if settings.targets:
        return settings
    target = TargetSettings(name="demo", type="llamacpp", model=DEMO_MODEL)
    if await _ollama_has(_MISTRAL, ollama_url):
        target = TargetSettings(name="ollama", type="ollama", model=_MISTRAL, endpoint=ollama_url)
    return dataclasses.replace(settings, targets=(target,), routes={"default": (target.name,), **settings.routes})


async def _ollama_has(model: str, url: str) -> bool:
    client = create("ollama", Endpoint("ollama", url, model=model))
    try:
        return (await client.ahealth()).ready
    finally:
        await client.aclose()
