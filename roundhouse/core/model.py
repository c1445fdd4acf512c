"""What is known of a model, a backend and a machine, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Capabilities", "DeviceFacts", "Health", "ModelDescription", "ModelFacts"]


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
    raw: bool = False
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
class ModelDescription:
    """What a running backend says of its model; empty = it does not."""

    name: str = ""
    architecture: str = ""
    chat_template: str = ""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's files say of it. Sizes in bytes, lengths in elements; 0 or empty = the files do not say.

    One entry per layer: `kv_heads` (0 = the layer keeps no attention cache), `windows` (0 = full attention),
    `recurrent` (True = the layer keeps a state of fixed size), `layer_bytes` (its weights). `value_length` is 0 where
    the cached keys hold the values too. `window_key_length` and `window_value_length` are those of sliding layers.
    `recurrent_layer_bytes` is one layer's state for one sequence, over `recurrent_width` channels.
    `tensor_bytes` maps a type (`Q8_0`, `F16`) to the bytes stored in it; `embedding_type` is one of these.
    `tied_embeddings`: the output uses the embedding's matrix. `split_expert_bytes`: of experts stored one by one.
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
    expert_feed_forward: int = 0
    experts: int = 0
    experts_used: int = 0
    windows: tuple[int, ...] = ()
    window_key_length: int = 0
    window_value_length: int = 0
    recurrent: tuple[bool, ...] = ()
    recurrent_layer_bytes: int = 0
    recurrent_width: int = 0
    tied_embeddings: bool = False
    split_expert_bytes: int = 0
    file_bytes: int = 0
    layer_bytes: tuple[int, ...] = ()
    embedding_bytes: int = 0
    embedding_type: str = ""
    output_bytes: int = 0
    tensor_bytes: Mapping[str, int] = field(default_factory=dict)
    quantisation: str = ""
    licence: str = ""
    chat_template: str = ""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One place that can hold a model, as it is right now. `kind`: cpu or cuda; bytes; utilisation 0-1.

    `index` counts the devices of one kind. `cores` are those of a processor that are ours. `uuid` names a GPU, or a
    part of one (MIG-...), for CUDA_VISIBLE_DEVICES; empty = by its index.
    """

    name: str
    kind: str
    total_bytes: int
    free_bytes: int
    index: int = 0
    utilisation: float | None = None
    cores: int = 0
    uuid: str = ""

    @property
    def whole(self) -> bool:
        """Whether a process may use it beside others; of the parts of divided cards CUDA shows one to each process."""
        return not self.uuid.startswith("MIG-")

    @property
    def place(self) -> str:
        """Its name in plans: `cpu`, `cuda0`."""
        return self.kind if self.kind == "cpu" else f"{self.kind}{self.index}"
