"""What a model will hold once our transformers worker has loaded it. Pure; sizes in bytes.

It is the most that is held at any moment of full slots: the worker gives large pieces back at once (`_EXACT_MEMORY` of
engines/launch.py). Sources: transformers 5.23, generation/continuous_batching: cache.py (`PagedAttentionCache`,
`PagedAttentionMemoryHandler`), input_outputs.py (`_setup_static_tensors`); integrations/sdpa_attention.py; torch 2.13,
ATen/native/cpu/FlashAttentionKernel.cpp. What the process itself takes was measured (docs/memory.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import lcm
from typing import Any

from roundhouse.core.model import ModelFacts
from roundhouse.resources.memory import Estimate

__all__ = [
    "CPU_BATCH_TOKENS",
    "EMBEDDED_AT_ONCE",
    "GPU_BATCH_TOKENS",
    "PAGE_TOKENS",
    "TransformersSettings",
    "cache_tokens_of",
    "estimate_transformers",
    "pages_of",
]

# What the worker asks of transformers; the engine reads them here.
PAGE_TOKENS = 128
CPU_BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 8192
EMBEDDED_AT_ONCE = 32

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_FAST_BF16 = {"avx512_bf16", "amx_bf16"}
_INDEX_BYTES = 8
_ALIGNED_BYTES = 128
_TRASH_SECTORS = 2
_WINDOW_PLANNED = 4096
_WORKER_BYTES = 371 << 20  # interpreter, torch and transformers, with an empty model
_HALVES_BYTES = 30 << 20  # oneDNN's kernels, which come with the first product of two-byte numbers
_TOKEN_BYTES = 700  # a token of a tokenizer with merges: two tables of the text, its merge, its score
# For each token that could be next, where a request samples with filters: scores as float32 and heated, sorted with
# their places (int64), probabilities, those within the nucleus, and what is kept (engines/huggingface/choose.py).
_CHOICE_BYTES = 36


@dataclass(frozen=True, slots=True)
class TransformersSettings:
    """`n_ctx` 0 = the trained window. `cache_tokens` are shared by all slots; 0 = a window of 4096 or less for each.
    `batch_tokens` are computed at once.
    """

    n_ctx: int = 0
    slots: int = 1
    cache_tokens: int = 0
    dtype: str = "float32"
    embeddings: bool = False
    batch_tokens: int = CPU_BATCH_TOKENS

    @classmethod
    def of(cls, options: Mapping[str, Any], *, slots: int, cpu_flags: AbstractSet[str]) -> TransformersSettings:
        """From a target's options; an unset type is the one that the worker would choose on this processor."""
        chosen = options.get("dtype") or ("bfloat16" if cpu_flags & _FAST_BF16 else "float32")
        embeddings = bool(options.get("embeddings"))
        return cls(options.get("n_ctx") or 0, slots, options.get("cache_tokens") or 0, chosen, embeddings)


def cache_tokens_of(asked: int, window: int, slots: int) -> int:
    """Tokens that the cache is to hold: as asked, else a window of up to 4096 for each slot, and one whole window."""
    return asked or max(window, slots * min(window, _WINDOW_PLANNED))


def pages_of(cache_tokens: int, slots: int) -> int:
    """Pages for so many tokens, the last of each slot begun."""
    return -(-cache_tokens // PAGE_TOKENS) + slots


def estimate_transformers(facts: ModelFacts, settings: TransformersSettings) -> Estimate:
    """The most that the worker holds with all slots full of prompts.

    Experts stored one by one are joined by loading; the pages they were read from stay mapped where other weights are
    used as they are stored.
    """
    size = _DTYPE_BYTES[settings.dtype]
    window = min(settings.n_ctx or facts.context, facts.context or settings.n_ctx) or _WINDOW_PLANNED
    if settings.embeddings:
        cache_bytes, compute = 0, _embedding(facts, window, size)
    else:
        tokens = cache_tokens_of(settings.cache_tokens, window, settings.slots)
        cache = _Cache.of(facts, pages_of(tokens, settings.slots), size)
        cache_bytes, compute = cache.bytes, _compute(facts, settings, cache, window, size)
    return Estimate(
        weights=sum(
            stored // _STORED_BYTES[kind] * size if kind in _STORED_BYTES else stored
            for kind, stored in facts.tensor_bytes.items()
        ),
        kv_cache=cache_bytes,
        compute=compute,
        page_cache=facts.split_expert_bytes if _STORED_BYTES.get(facts.quantisation) == size else 0,
        runtime=_WORKER_BYTES + facts.vocabulary * _TOKEN_BYTES + (_HALVES_BYTES if size == 2 else 0),
    )


@dataclass(frozen=True, slots=True)
class _Cache:
    """`kinds`: of attention, 1 or 2, each with a mask and indices of its own. `readable`: tokens that one could hold if
    it had all of it.
    """

    bytes: int
    kinds: int
    readable: int

    @classmethod
    def of(cls, facts: ModelFacts, pages: int, size: int) -> _Cache:
        """Full and sliding layers share sectors, whose size both kinds' blocks divide; two sectors more are trash."""
        page = PAGE_TOKENS * max(facts.kv_heads, default=0) * (facts.key_length + facts.value_length) * size
        windows = facts.windows or (0,) * len(facts.kv_heads)
        sliding = sum(1 for window in windows if window)
        blocks = [layers * page for layers in (sliding, len(windows) - sliding) if layers * page]
        if not blocks:
            return cls(0, 0, 0)
        sector = lcm(*blocks, _ALIGNED_BYTES)
        sectors = max(1, -(-pages * sum(blocks) // sector))
        readable = PAGE_TOKENS * sectors * sector // min(blocks)
        return cls((sectors + _TRASH_SECTORS) * sector, len(blocks), readable)


def _compute(facts: ModelFacts, settings: TransformersSettings, cache: _Cache, window: int, size: int) -> int:
    """Masks and indices, which stay, and the widest moment of a batch: attention, feed-forward or the choice of tokens.

    Attention reads the cached keys and values of the whole batch into one piece and, with grouped heads, repeats them
    for every head; two-byte numbers are packed once more for the matrix units. The choice has one row for each slot.
    """
    batch = settings.batch_tokens
    stays = cache.kinds * (batch * (cache.readable + batch) * size + (cache.readable + 2 * batch) * _INDEX_BYTES)
    tokens = min(batch, settings.slots * window)
    reads = max(
        settings.slots * min(window, span - 1) + tokens if span else min(settings.slots * window, cache.readable)
        for span in set(facts.windows or (0,))
    )
    return stays + max(
        _attention(facts, tokens, reads, packed=size == 2) * size,
        tokens * _feed_forward(facts) * size,
        settings.slots * facts.vocabulary * _CHOICE_BYTES,
    )


def _attention(facts: ModelFacts, tokens: int, reads: int, *, packed: bool) -> int:
    """Elements: what is read from the cache, as it is and repeated, and the batch's own queries, keys and values."""
    heads, kv_heads = facts.heads, max(facts.kv_heads, default=0)
    repeated = 2 * heads + kv_heads if heads != kv_heads else 2 * kv_heads
    read = (repeated + (2 * heads if packed else 0)) * facts.key_length * reads
    return read + tokens * (2 * facts.hidden + _projected(facts))


def _projected(facts: ModelFacts) -> int:
    """Elements of a token's queries, keys and values, and of what attention makes of them."""
    return 2 * (facts.heads + max(facts.kv_heads, default=0)) * facts.key_length


def _feed_forward(facts: ModelFacts) -> int:
    """Elements for each token: gate, its activation or the product, and up; the state before and after its norm."""
    wide = max(facts.feed_forward, facts.experts_used * facts.expert_feed_forward)
    return 3 * wide + 2 * facts.hidden


def _embedding(facts: ModelFacts, window: int, size: int) -> int:
    """The widest moment of a batch of texts as long as the window."""
    widest = max(_feed_forward(facts), 2 * facts.hidden + _projected(facts))
    return EMBEDDED_AT_ONCE * window * widest * size
