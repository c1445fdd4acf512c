"""What a model will hold once our transformers worker has loaded it on a processor. Pure; sizes in bytes.

Sources: transformers 5.23 generation/continuous_batching/cache.py (pages of the cache) and input_outputs.py (masks);
the worker's own size was measured (docs/memory.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from roundhouse.core.model import ModelFacts
from roundhouse.resources.memory import Estimate

__all__ = ["TransformersSettings", "estimate_transformers"]

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_FAST_BF16 = {"avx512_bf16", "amx_bf16"}
_PAGE_TOKENS = 128
_BATCH_TOKENS = 512
_WORKER_BYTES = 365 << 20  # interpreter, torch, transformers and its tokenizer, with an empty model
_WINDOW_PLANNED = 4096
_MASKS = 3  # the mask itself, and what building and using it takes besides (measured, transformers 5.23)


@dataclass(frozen=True, slots=True)
class TransformersSettings:
    """`n_ctx` 0 = the trained window. `cache_tokens` are shared by all slots; 0 = a window of 4096 or less for each."""

    n_ctx: int = 0
    slots: int = 1
    cache_tokens: int = 0
    dtype: str = "float32"

    @classmethod
    def of(cls, options: Mapping[str, Any], *, slots: int, cpu_flags: AbstractSet[str]) -> TransformersSettings:
        """From a target's options; an unset type is the one that the worker would choose on this processor."""
        chosen = options.get("dtype") or ("bfloat16" if cpu_flags & _FAST_BF16 else "float32")
        return cls(options.get("n_ctx") or 0, slots, options.get("cache_tokens") or 0, chosen)


def estimate_transformers(facts: ModelFacts, settings: TransformersSettings) -> Estimate:
    """What the worker holds on the processor, after its first full batch."""
    size = _DTYPE_BYTES[settings.dtype]
    window = min(settings.n_ctx or facts.context, facts.context) or _WINDOW_PLANNED
    cache_tokens = settings.cache_tokens or max(window, settings.slots * min(window, _WINDOW_PLANNED))
    pages = -(-cache_tokens // _PAGE_TOKENS) + settings.slots
    row = sum(heads * (facts.key_length + facts.value_length) for heads in facts.kv_heads) * size
    mask = _MASKS * _BATCH_TOKENS * (cache_tokens + _BATCH_TOKENS) * size
    widest = max(facts.feed_forward * 3, facts.hidden * 8)
    return Estimate(
        weights=sum(
            stored // _STORED_BYTES[kind] * size if kind in _STORED_BYTES else stored
            for kind, stored in facts.tensor_bytes.items()
        ),
        kv_cache=pages * _PAGE_TOKENS * row,
        compute=mask + _BATCH_TOKENS * widest * size,
        output=settings.slots * facts.vocabulary * 4 * 4,
        runtime=_WORKER_BYTES,
    )
