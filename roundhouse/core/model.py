"""What is known of a model, a backend and a machine, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Capabilities", "DeviceFacts", "Health", "ModelFacts"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do. The defaults are cautious: what is not declared is not relied on.

    `sampling` names the fields of `core.chat.Sampling` that are honoured; others are reported as ignored.
    """

    streaming: bool = False
    cancel: bool = False
    system_role: bool = False
    tools: bool = False
    json_schema: bool = False
    logprobs: bool = False
    embeddings: bool = False
    rerank: bool = False
    continuation: bool = False
    seed: bool = False
    images: bool = False
    exact_usage: bool = False
    sampling: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Health:
    """One free probe's result. `ready`: a request would be served now; `loading`: it will be, later."""

    alive: bool
    ready: bool = False
    loading: bool = False
    detail: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model file's header says. Sizes in bytes, lengths in elements; 0 or empty = the header does not say.

    `kv_heads` has one entry per layer (0 = that layer has no attention cache); `windows` likewise (0 = full attention).
    `tensor_bytes` maps a quantisation type (`Q8_0`, `F16`) to the bytes stored in it.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    context: int
    vocabulary: int
    weight_bytes: int
    name: str = ""
    feed_forward: int = 0
    experts: int = 0
    experts_used: int = 0
    windows: tuple[int, ...] = ()
    recurrent_state_bytes: int = 0
    tied_embeddings: bool = False
    file_bytes: int = 0
    layer_bytes: tuple[int, ...] = ()
    embedding_bytes: int = 0
    output_bytes: int = 0
    tensor_bytes: Mapping[str, int] = field(default_factory=dict)
    quantisation: str = ""
    licence: str = ""
    chat_template: str = ""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One place that can hold a model, as it is right now. `kind`: cpu, cuda, metal or rocm; bytes; utilisation 0-1."""

    name: str
    kind: str
    total_bytes: int
    free_bytes: int
    index: int = 0
    utilisation: float | None = None
    cores: int = 0
