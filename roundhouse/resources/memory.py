"""What a model will hold once llama.cpp has loaded it, part by part. Pure; sizes in bytes.

Sources: llama.cpp src/llama-kv-cache.cpp, llama-kv-cache-iswa.cpp, llama-memory-recurrent.cpp and llama-context.cpp.
The compute buffer is the outcome of ggml's allocator: its formulas were fitted to what build 11549 reports for models
made for the purpose, and `python -m benchmarks.memory` holds them against the installed build (docs/memory.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from roundhouse.core.errors import NoFit
from roundhouse.core.model import ModelFacts

__all__ = [
    "CACHE_TYPES",
    "Estimate",
    "LlamaCppSettings",
    "companions",
    "estimate",
    "no_fit",
]

# Bytes per block of 32 elements (ggml.c type_traits).
CACHE_TYPES = {
    "f32": 128,
    "f16": 64,
    "bf16": 64,
    "q8_0": 34,
    "q5_1": 24,
    "q5_0": 22,
    "q4_1": 20,
    "q4_0": 18,
    "iq4_nl": 18,
}

_BLOCK = 32
_PAD_CELLS = 256
_FLOAT = 4
# Types whose matrices llama.cpp copies into another order at load, on processors with AVX2 (ggml-cpu/repack.cpp).
_REPACKED = ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4")
_WORKER_BYTES = 32 << 20  # our llama.cpp worker with an empty model: interpreter, libraries, HTTP server
_TOKEN_BYTES = 200  # a vocabulary entry: text, score, type and the tables to find it by
_SLOT_BYTES = 100 << 10
_UNLIMITED_PROMPT_CACHE_MIB = 8192


@dataclass(frozen=True, slots=True)
class LlamaCppSettings:
    """The settings of llama.cpp that decide its memory, by their names there; defaults are those of our launch.

    `n_ctx` is the window of one slot, 0 = the trained one. `cache_ram_mib` bounds the prompt cache, -1 = no bound
    (8 GiB are planned). `n_ctx_checkpoints` are copies of the sliding or recurrent part of a slot's cache: llama.cpp
    makes two for each prompt and keeps up to its limit, which is 32 unless set. `repack`: the processor has AVX2.
    """

    n_ctx: int = 0
    n_parallel: int = 1
    n_batch: int = 2048
    n_ubatch: int = 512
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: bool = True
    kv_unified: bool = False
    swa_full: bool = False
    cache_ram_mib: int = 0
    n_ctx_checkpoints: int = 2
    use_mmap: bool = True
    repack: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> LlamaCppSettings:
        """From the options of a target, where others may stand beside these; `window` is `n_ctx` by another name."""
        named = {field.name: options[field.name] for field in fields(cls) if options.get(field.name) is not None}
        if options.get("window"):
            named["n_ctx"] = options["window"]
        return cls(**named)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes by part. `companions`: a draft model and adapters. `page_cache` comes on top of `total`: the kernel takes
    it back as soon as anyone needs it.
    """

    weights: int = 0
    kv_cache: int = 0
    recurrent_state: int = 0
    compute: int = 0
    output: int = 0
    checkpoints: int = 0
    prompt_cache: int = 0
    runtime: int = 0
    companions: int = 0
    page_cache: int = 0

    @property
    def total(self) -> int:
        """What must be there."""
        held = self.weights + self.kv_cache + self.recurrent_state + self.compute + self.output
        return held + self.checkpoints + self.prompt_cache + self.runtime + self.companions

    @property
    def resident(self) -> int:
        """What the process shows while memory is not short."""
        return self.total + self.page_cache


def estimate(facts: ModelFacts, settings: LlamaCppSettings) -> Estimate:
    """What llama.cpp holds on the processor for this model and these settings, after its first full prompt.

    Not counted: multimodal projectors, and what `companions` tells. Raises `ValueError` for an unknown cache type.
    """
    shape = _Shape.of(facts, settings)
    weights, page_cache = _weights(facts, settings)
    sliding = _cache_bytes(facts, settings, shape.window_cells, sliding=True)
    full = _cache_bytes(facts, settings, shape.cells, sliding=False)
    state = sum(facts.recurrent) * facts.recurrent_layer_bytes
    # Of a sliding cache only the cells that are still in the window are copied (llama-kv-cache.cpp, `is_masked_swa`).
    seen = min(shape.window_cells, max(facts.windows, default=0))
    checkpoint = state + (0 if settings.swa_full else sliding // shape.streams * seen // max(1, shape.window_cells))
    planned_mib = settings.cache_ram_mib if settings.cache_ram_mib >= 0 else _UNLIMITED_PROMPT_CACHE_MIB
    return Estimate(
        weights=weights,
        kv_cache=full + sliding,
        recurrent_state=state * settings.n_parallel,
        compute=_compute(facts, settings, shape),
        output=settings.n_parallel * facts.vocabulary * _FLOAT,
        checkpoints=checkpoint * settings.n_ctx_checkpoints * settings.n_parallel,
        prompt_cache=planned_mib << 20,
        runtime=_runtime(facts, settings, shape),
        page_cache=page_cache,
    )


def companions(draft: ModelFacts | None, adapter_bytes: int, settings: LlamaCppSettings) -> int:
    """What a draft model holds beside the model whose `settings` these are, and its adapters.

    A draft has a context of its own, as long and for as many, with a cache of halves (common/speculative.cpp).
    """
    if draft is None:
        return adapter_bytes
    alike = replace(settings, cache_type_k="f16", cache_type_v="f16", cache_ram_mib=0, n_ctx_checkpoints=0)
    found = estimate(draft, replace(alike, n_ctx=settings.n_ctx or draft.context))
    return found.total - _WORKER_BYTES + adapter_bytes


@dataclass(frozen=True, slots=True)
class _Shape:
    """`cells` and `window_cells` of one stream's cache, in tokens; `streams` caches; `tokens` computed at once."""

    cells: int
    window_cells: int
    streams: int
    tokens: int

    @classmethod
    def of(cls, facts: ModelFacts, settings: LlamaCppSettings) -> _Shape:
        """Cells are padded to 256; slots share one stream or have one each (llama-context.cpp)."""
        streams = 1 if settings.kv_unified else settings.n_parallel
        cells = _padded(settings.n_ctx or facts.context)
        tokens = max(1, min(settings.n_ubatch, settings.n_batch, cells * streams))
        window = max(facts.windows, default=0) * (settings.n_parallel if settings.kv_unified else 1)
        window_cells = cells if settings.swa_full else _padded(min(cells, window + tokens))
        return cls(cells, window_cells, streams, tokens)


def _weights(facts: ModelFacts, settings: LlamaCppSettings) -> tuple[int, int]:
    """What the matrices take, and the pages of the file that are read once, to be copied, and then only cached.

    The embedding is looked up, not multiplied, and stays as it is; tied, its copy for the output is one more.
    """
    if not settings.repack:
        return facts.weight_bytes, 0
    copied = sum(facts.tensor_bytes.get(kind, 0) for kind in _REPACKED)
    embedding = facts.embedding_bytes if facts.embedding_type in _REPACKED else 0
    copied_once = copied - embedding
    return (
        facts.weight_bytes + (embedding if facts.tied_embeddings else 0),
        copied_once if settings.use_mmap else 0,
    )


def _cache_bytes(facts: ModelFacts, settings: LlamaCppSettings, cells: int, *, sliding: bool) -> int:
    """Keys and values of the full or of the sliding layers: cells x heads x length x type (llama-kv-cache.cpp).

    Without flash attention values are stored transposed, each layer as wide as the widest.
    """
    key_length = facts.window_key_length if sliding else facts.key_length
    value_length = facts.window_value_length if sliding else facts.value_length
    widest = max(facts.kv_heads, default=0)
    total = 0
    for heads, window in _attention_layers(facts):
        if bool(window) != sliding:
            continue
        value_heads = heads if settings.flash_attn else widest
        total += _row_bytes(settings.cache_type_k, heads * key_length)
        total += _row_bytes(settings.cache_type_v, value_heads * value_length)
    return total * cells * (1 if settings.kv_unified else settings.n_parallel)


def _compute(facts: ModelFacts, settings: LlamaCppSettings, shape: _Shape) -> int:
    """The compute buffer: the attention masks, and the widest moment of a layer (measured, build 11549).

    In float32 units of one batch of tokens, with h the hidden width, w and n those of the queries and of the keys:
    feed-forward `3 f + 5 h`; experts, u used of width f, `3 u f + 5 h`, `u (f + h) + 5 h` or `2 u h + 3 h`; attention
    `5 h + 2 w + 2 n`, or `6 h + 2 n` if w <= h, and without flash attention heads x cells of scores besides.
    """
    spans = _spans(facts, shape)
    masks = sum(spans) * (2 if settings.flash_attn else _FLOAT)
    hidden = facts.hidden
    keys = max(facts.kv_heads, default=0) * facts.key_length
    queries = facts.heads * facts.key_length if spans else 0
    attention = 5 * hidden + 2 * queries + 2 * keys if queries > hidden else 6 * hidden + 2 * keys
    feed_forward = _feed_forward(facts)
    if not settings.flash_attn:
        copies = 2 * keys if len(spans) > 1 else 0
        attention += facts.heads * max(spans, default=0) + copies
        feed_forward += 2 * keys + copies
    recurrent = 15 * facts.recurrent_width // 2
    output = settings.n_parallel * facts.vocabulary // shape.tokens + hidden
    return shape.tokens * (masks + _FLOAT * max(attention, feed_forward, recurrent, output))


def _feed_forward(facts: ModelFacts) -> int:
    hidden, wide = facts.hidden, facts.feed_forward
    dense = 3 * wide + 5 * hidden if wide > hidden else max(5 * hidden, 3 * wide + 3 * hidden)
    if not facts.experts:
        return dense
    used, expert = facts.experts_used, facts.experts_used * facts.expert_feed_forward
    mixed = max(3 * expert, expert + used * hidden) + 5 * hidden
    return max(dense, mixed, 2 * used * hidden + 3 * hidden if 2 * expert < used * hidden else 0)


def _runtime(facts: ModelFacts, settings: LlamaCppSettings, shape: _Shape) -> int:
    """The worker itself, its vocabulary, its slots, and the scratch of its widest product (ggml-cpu, `work_size`).

    Scratch holds one product's inputs in the precision of the matrix: halves for F16 and BF16, bytes for quantised
    types; without flash attention the scores against the cached values are the widest.
    """
    halves = facts.tensor_bytes.get("F16", 0) + facts.tensor_bytes.get("BF16", 0)
    widest = max(facts.feed_forward, facts.expert_feed_forward * facts.experts_used, facts.hidden)
    row_bytes = widest * (2 if 2 * halves > facts.weight_bytes else 1)
    if not settings.flash_attn:
        row_bytes = max(row_bytes, 2 * facts.heads * max(_spans(facts, shape), default=0))
    slots = settings.n_parallel * _SLOT_BYTES
    return _WORKER_BYTES + facts.vocabulary * _TOKEN_BYTES + slots + shape.tokens * row_bytes


def no_fit(estimate: Estimate, free_bytes: int, target: str, needed_bytes: int = 0) -> NoFit:
    """The error for a model that needs more than `free_bytes`, with what would help. 0 needed = all of `estimate`."""
    cache = estimate.kv_cache + estimate.recurrent_state
    parts = (
        (estimate.weights, "the weights", "use a smaller or more quantised model"),
        (cache, "the context", "lower n_ctx or n_parallel, or set cache_type_k and cache_type_v to q8_0"),
        (estimate.compute, "the compute buffer", "lower n_ubatch, or leave flash_attn on"),
        (estimate.checkpoints, "context checkpoints", "lower n_ctx_checkpoints or n_parallel"),
        (estimate.prompt_cache, "the prompt cache", "lower cache_ram_mib"),
        (estimate.companions, "the draft model and adapters", "leave out draft_model or lora"),
        (estimate.runtime, "the engine itself", "free some memory"),
    )
    size, largest, cure = max(parts)
    needed = needed_bytes or estimate.total
    return NoFit(
        f'target "{target}" needs {_said(needed)} of memory and {_said(free_bytes)} may be used; '
        f"most of it is {largest} ({_said(size)}): {cure}",
        needed_bytes=needed,
        free_bytes=free_bytes,
        target=target,
    )


def _attention_layers(facts: ModelFacts) -> list[tuple[int, int]]:
    """Key-value heads and window of each layer that has a cache."""
    windows = facts.windows or (0,) * len(facts.kv_heads)
    return [(heads, window) for heads, window in zip(facts.kv_heads, windows, strict=True) if heads]


def _spans(facts: ModelFacts, shape: _Shape) -> list[int]:
    """Cells that full and that sliding attention look at, as far as each occurs; each has a mask of its own."""
    sliding = {bool(window) for _, window in _attention_layers(facts)}
    return [shape.window_cells if one else shape.cells for one in sliding]


def _row_bytes(cache_type: str, elements: int) -> int:
    try:
        return -(-elements // _BLOCK) * CACHE_TYPES[cache_type]
    except KeyError:
        raise ValueError(f"there is no cache type {cache_type!r}; there are {', '.join(CACHE_TYPES)}") from None


def _padded(tokens: int) -> int:
    return -(-tokens // _PAD_CELLS) * _PAD_CELLS


def _said(size: int) -> str:
    """In MiB as long as a digit more would be missed."""
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MiB"
