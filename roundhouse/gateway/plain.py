"""Prompts, and what a model reads of them, as plain values for JSON."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from roundhouse.gateway.wordings import Read
from roundhouse.prompts.catalog import Catalog
from roundhouse.prompts.prompt import Prompt, Variant

__all__ = ["labels_told", "prompt_told", "read_told"]


def labels_told(catalog: Catalog, prompt: Prompt) -> dict[str, str]:
    """The versions that the labels of a prompt stand for."""
    return {label: version for (name, label), version in catalog.labels.items() if name == prompt.name}


def prompt_told(prompt: Prompt) -> dict[str, Any]:
    """Its variables and every wording as it was written."""
    return {
        "name": prompt.name,
        "version": prompt.version,
        "description": prompt.description,
        "variables": [
            {
                "name": one.name,
                "type": one.kind.value,
                "required": one.default is None,
                "default": one.default,
                "enum": list(one.choices),
                "cut": one.cut.value,
                "description": one.description,
            }
            for one in prompt.variables.values()
        ],
        "variants": {name: _variant(variant) for name, variant in prompt.variants.items()},
    }


def _variant(variant: Variant) -> dict[str, Any]:
    sampling = structs.asdict(variant.sampling)
    return {
        "source": variant.source,
        "turns": [{"role": turn.role, "text": turn.template.source} for turn in variant.turns],
        "examples": [{**example.texts, "answer": example.answer} for example in variant.examples],
        "sampling": {name: value for name, value in sampling.items() if value not in (None, ())},
    }


def read_told(read: Read) -> dict[str, Any]:
    """`text` and `tokens` are null where the backend does not say."""
    return {
        "target": read.target,
        "model": read.model,
        "family": read.family,
        "variant": read.variant,
        "messages": [{"role": message.role, "content": message.content} for message in read.messages],
        "text": read.tokens.text if read.tokens else None,
        "tokens": len(read.tokens.ids) if read.tokens else None,
        "notes": list(read.notes),
    }
