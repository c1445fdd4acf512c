"""The table from a provider's name to its client; third parties add to it by the entry point `roundhouse.providers`.

An entry point names a callable that takes an `Endpoint` and returns an `LLMProvider`: a function, or a subclass.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

from roundhouse.providers.base import Endpoint, LLMProvider

__all__ = ["GROUP", "OURS", "create", "known"]

GROUP = "roundhouse.providers"
OURS = {
    "huggingface": "roundhouse.providers.huggingface:HuggingFaceClient",
    "llamacpp": "roundhouse.providers.llamacpp:LlamaCppClient",
    "ollama": "roundhouse.providers.ollama:OllamaClient",
    "openai": "roundhouse.providers.openai_compatible:OpenAICompatibleClient",
    "vllm": "roundhouse.providers.vllm:VLLMClient",
}


def known() -> tuple[str, ...]:
    """Every name that `create` takes, ours first."""
    theirs = sorted(entry.name for entry in entry_points(group=GROUP) if entry.name not in OURS)
    return (*OURS, *theirs)


def create(kind: str, endpoint: Endpoint) -> LLMProvider:
    """A client of the provider `kind`; nothing is contacted yet.

    Raises `ValueError` for an unknown name, naming the known ones, and `ImportError` if a third party's provider
    cannot be imported.
    """
    return _factory(kind)(endpoint)


def _factory(kind: str) -> Callable[[Endpoint], LLMProvider]:
    if kind in OURS:
        module, _, name = OURS[kind].partition(":")
        found: Callable[[Endpoint], LLMProvider] = getattr(import_module(module), name)
        return found
    for entry in entry_points(group=GROUP):
        if entry.name == kind:
            try:
                theirs: Callable[[Endpoint], LLMProvider] = entry.load()
            except (ImportError, AttributeError) as error:
                raise ImportError(f'provider "{kind}" ({entry.value}) cannot be imported: {error}') from error
            return theirs
    raise ValueError(f'unknown provider type "{kind}"; known are {", ".join(known())}')
