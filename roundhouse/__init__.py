"""Roundhouse: a local-first model layer between an application and the backends that run its language models.

Names are imported when they are first used, so that `import roundhouse` loads no backend and no HTTP stack.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roundhouse.core.chat import Answer, ChatRequest, Chunk, Message, Sampling
    from roundhouse.core.errors import AllProvidersFailed, Error
    from roundhouse.core.model import Capabilities, Health
    from roundhouse.gateway.gateway import Gateway
    from roundhouse.gateway.library.manager import LLMManager
    from roundhouse.gateway.library.models import ModelResourceManager
    from roundhouse.gateway.library.prompts import PromptManager, PromptTemplate
    from roundhouse.gateway.library.providers import (
        HuggingFaceProvider,
        LlamaCppProvider,
        LLMProviderFactory,
        OllamaProvider,
        OpenAIProvider,
        VLLMProvider,
    )
    from roundhouse.providers.base import LLMProvider
    from roundhouse.telemetry.metrics import LLMMetrics

__all__ = [
    "AllProvidersFailed",
    "Answer",
    "Capabilities",
    "ChatRequest",
    "Chunk",
    "Error",
    "Gateway",
    "Health",
    "HuggingFaceProvider",
    "LLMManager",
    "LLMMetrics",
    "LLMProvider",
    "LLMProviderFactory",
    "LlamaCppProvider",
    "Message",
    "ModelResourceManager",
    "OllamaProvider",
    "OpenAIProvider",
    "PromptManager",
    "PromptTemplate",
    "Sampling",
    "VLLMProvider",
]

_HOME = {
    "core.chat": ("Answer", "ChatRequest", "Chunk", "Message", "Sampling"),
    "core.errors": ("AllProvidersFailed", "Error"),
    "core.model": ("Capabilities", "Health"),
    "gateway.gateway": ("Gateway",),
    "gateway.library.manager": ("LLMManager",),
    "gateway.library.models": ("ModelResourceManager",),
    "gateway.library.prompts": ("PromptManager", "PromptTemplate"),
    "gateway.library.providers": (
        "HuggingFaceProvider",
        "LLMProviderFactory",
        "LlamaCppProvider",
        "OllamaProvider",
        "OpenAIProvider",
        "VLLMProvider",
    ),
    "providers.base": ("LLMProvider",),
    "telemetry.metrics": ("LLMMetrics",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'roundhouse' has no attribute {name!r}")
    value = getattr(import_module(f"roundhouse.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
