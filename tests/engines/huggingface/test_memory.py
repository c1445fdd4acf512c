"""What is planned for the transformers worker against what transformers itself lays out."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.distributed import DistributedHelper

from roundhouse.core.model import ModelFacts
from roundhouse.resources.memory_transformers import (
    CPU_BATCH_TOKENS,
    PAGE_TOKENS,
    TransformersSettings,
    cache_tokens_of,
    estimate_transformers,
    pages_of,
)

HIDDEN, HEADS, LENGTH = 128, 4, 32


def _facts(windows: tuple[int, ...], kv_heads: int = 2, **known: Any) -> ModelFacts:
    return ModelFacts(
        **{
            "architecture": "qwen2",
            "layers": len(windows),
            "hidden": HIDDEN,
            "heads": HEADS,
            "kv_heads": (kv_heads,) * len(windows),
            "key_length": LENGTH,
            "value_length": LENGTH,
            "context": 2048,
            "vocabulary": 512,
            "weight_bytes": 0,
            "windows": windows,
            **known,
        }
    )


def _cache(windows: tuple[int, ...], kv_heads: int, slots: int, cache_tokens: int, dtype: str) -> Any:
    """As our worker has transformers make it."""
    kinds = ["sliding_attention" if window else "full_attention" for window in windows]
    config = AutoConfig.for_model(
        "qwen2",
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        num_hidden_layers=len(windows),
        intermediate_size=256,
        vocab_size=512,
        use_sliding_window=any(windows),
        sliding_window=max(windows) or None,
        layer_types=kinds,
    )
    config._attn_implementation = "sdpa"
    asked = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=pages_of(cache_tokens, slots),
        max_batch_tokens=CPU_BATCH_TOKENS,
        max_requests_per_batch=slots,
        max_memory_percent=0.9,
        use_async_batching=False,
    )
    helper = DistributedHelper.__new__(DistributedHelper)
    helper.tp_size = 1
    return PagedAttentionCache(config, asked, torch.device("cpu"), helper, getattr(torch, dtype), True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    "windows",
    [(0, 0, 0), (256, 256, 256), (256, 256, 256, 0), (0, 256), (256, 0, 256, 256, 256, 0)],
    ids=["full", "sliding", "three to one", "one to one", "two to one"],
)
def test_the_cache_is_laid_out_as_planned(windows: tuple[int, ...], kv_heads: int, dtype: str) -> None:
    """Its bytes, and how many tokens it lets a layer read, which is how wide the masks are."""
    slots, window = 3, 640
    tokens = cache_tokens_of(0, window, slots)
    made = _cache(windows, kv_heads, slots, tokens, dtype)
    found = estimate_transformers(_facts(windows, kv_heads), TransformersSettings(window, slots, 0, dtype))
    assert found.kv_cache == made.cache_tensor.numel()
    size = 4 if dtype == "float32" else 2
    masks = len(made.cache_allocators) * CPU_BATCH_TOKENS * (made.max_tokens_read + CPU_BATCH_TOKENS) * size
    assert masks <= found.compute <= masks + 16 * (1 << 20)


def test_more_of_anything_takes_more() -> None:
    plain = estimate_transformers(_facts((0, 0)), TransformersSettings(512, 4)).total
    for settings in (
        TransformersSettings(1024, 4),
        TransformersSettings(512, 8),
        TransformersSettings(512, 4, cache_tokens=8192),
    ):
        assert estimate_transformers(_facts((0, 0)), settings).total > plain
    for known in ({"vocabulary": 128_000}, {"feed_forward": 65536}, {"experts_used": 8, "expert_feed_forward": 8192}):
        assert estimate_transformers(_facts((0, 0), **known), TransformersSettings(512, 4)).total > plain
    assert estimate_transformers(_facts((0, 0), 4), TransformersSettings(512, 4)).total > plain


def test_a_model_for_embeddings_keeps_no_cache() -> None:
    settings = TransformersSettings.of({"embeddings": True}, slots=4, cpu_flags=set())
    found = estimate_transformers(_facts((0, 0)), settings)
    assert found.kv_cache == 0
    assert found.compute > 0


def test_the_pages_of_experts_that_were_joined_can_be_taken_back() -> None:
    """They are told apart from what must be there, and only where other weights keep the file mapped."""
    facts = _facts((0, 0), split_expert_bytes=1 << 20, tensor_bytes={"F32": 4 << 20}, quantisation="F32")
    mapped, converted = (
        estimate_transformers(facts, TransformersSettings(512, 4, 0, dtype)) for dtype in ("float32", "bfloat16")
    )
    assert (mapped.page_cache, converted.page_cache) == (1 << 20, 0)
    assert mapped.resident == mapped.total + (1 << 20)
