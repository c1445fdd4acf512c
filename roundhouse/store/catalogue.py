"""The catalogue: models by name, as data (catalogue.yaml) to which a configuration adds its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
import yaml

from roundhouse.core.chat import Sampling
from roundhouse.core.model import ModelFacts
from roundhouse.store.layers import window_layers

__all__ = ["DEFAULT_MODEL", "Catalogue", "Entry", "Shape"]

DEFAULT_MODEL = "mistral-7b-instruct"
_F16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of the architecture, by which memory is planned before anything is here."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Entry:
    """`gguf` and `safetensors` are repositories of the hub, `url` one file's address, `ollama` a tag there.

    `gated`: its repositories answer only to accounts that have accepted its terms. `sizes`: bytes by variant.
    `sampling` is what its makers recommend; it holds where neither the caller nor the target says anything.
    """

    title: str = ""
    licence: str = ""
    gated: bool = False
    context: int = 0
    ollama: str = ""
    gguf: str = ""
    safetensors: str = ""
    url: str = ""
    revision: str = "main"
    family: str = ""
    builtin: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    shape: Shape | None = None

    def repository(self, form: str) -> str:
        return {"gguf": self.gguf, "safetensors": self.safetensors}.get(form, "") or self.gguf or self.safetensors

    def facts(self, variant: str) -> ModelFacts | None:
        """What the planner needs to know of a variant that is not on disk; None = the catalogue does not say."""
        shape, size = self.shape, self.sizes.get(variant, 0)
        if shape is None or not size:
            return None
        embedding = shape.vocabulary * shape.hidden * size // self._parameter_bytes(shape)
        return ModelFacts(
            architecture=self.family or "llama",
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=(shape.kv_heads,) * shape.layers,
            key_length=shape.head,
            value_length=shape.head,
            context=self.context,
            vocabulary=shape.vocabulary,
            weight_bytes=size,
            feed_forward=shape.feed_forward,
            windows=window_layers(self.family, shape.layers, None),
            recurrent=(False,) * shape.layers,
            file_bytes=size,
            layer_bytes=((size - 2 * embedding) // shape.layers,) * shape.layers,
            embedding_bytes=embedding,
            output_bytes=embedding,
            quantisation=variant,
        )

    @staticmethod
    def _parameter_bytes(shape: Shape) -> int:
        """How many numbers the model holds: attention, feed-forward, embedding and output."""
        attention = shape.hidden * shape.head * (2 * shape.heads + 2 * shape.kv_heads)
        return shape.layers * (attention + 3 * shape.hidden * shape.feed_forward) + 2 * shape.vocabulary * shape.hidden


class Catalogue(Mapping[str, Entry]):
    """The built-in entries, and `more` in the same form, which replace those of the same name."""

    def __init__(self, more: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        own = {name: msgspec.convert(entry, Entry) for name, entry in (more or {}).items()}
        self._entries = {**_builtin(), **own}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Any:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@cache
def _builtin() -> Mapping[str, Entry]:
    text = (files("roundhouse.store") / "catalogue.yaml").read_text("utf-8")
    return msgspec.convert(yaml.safe_load(text), dict[str, Entry])
