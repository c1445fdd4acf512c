"""What a model will hold once llama.cpp has loaded it. Pure.

Sizes in bytes. Source for the cache: llama.cpp src/llama-kv-cache.cpp; the compute buffer is a bound from measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roundhouse.core.errors import NoFit
from roundhouse.core.model import ModelFacts

__all__ = ["Estimate", "check_fit", "estimate_llamacpp"]

# Bytes per element: whole blocks of 32 elements by their stored size.
KV_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
}
_PAD_TOKENS = 256
_EMPTY_WORKER_BYTES = 60 << 20
_UBATCH = 512


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes by part."""

    weights: int
    kv_cache: int
    compute: int
    prompt_cache: int
    runtime: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.prompt_cache + self.runtime


def estimate_llamacpp(facts: ModelFacts, settings: Mapping[str, Any]) -> Estimate:
    """For `settings` as `engines.launch.llamacpp` passes them on, `window` being that of one slot (0 = trained)."""
    slots = int(settings.get("n_parallel", 1))
    window = int(settings.get("window") or facts.context)
    cells = _padded(window) * (1 if settings.get("kv_unified") else slots)
    key = KV_BYTES[settings.get("cache_type_k", "f16")] * facts.key_length
    value = KV_BYTES[settings.get("cache_type_v", "f16")] * facts.value_length
    ubatch = min(int(settings.get("n_ubatch", _UBATCH)), cells)
    widest = max(facts.vocabulary, facts.feed_forward * 3, facts.hidden * 8)
    return Estimate(
        weights=facts.weight_bytes,
        kv_cache=int(sum(facts.kv_heads) * (key + value) * cells),
        compute=ubatch * widest * 4,
        prompt_cache=int(settings.get("cache_ram_mib", 0)) << 20,
        runtime=_EMPTY_WORKER_BYTES,
    )


def check_fit(estimate: Estimate, free_bytes: int, target: str) -> None:
    """Raises `NoFit`, with what would help, if `estimate` needs more than `free_bytes`."""
    if estimate.total <= free_bytes:
        return
    parts = {"the weights": estimate.weights, "the context": estimate.kv_cache, "prompt cache": estimate.prompt_cache}
    largest = max(parts, key=lambda part: parts[part])
    cure = {
        "the weights": "use a smaller or more quantised model",
        "the context": "lower n_ctx or n_parallel, or set cache_type_k and cache_type_v to q8_0",
        "prompt cache": "lower cache_ram_mib",
    }[largest]
    raise NoFit(
        f'target "{target}" needs {_gib(estimate.total)} of memory and {_gib(free_bytes)} may be used; '
        f"most of it is {largest} ({_gib(parts[largest])}): {cure}",
        needed_bytes=estimate.total,
        free_bytes=free_bytes,
        target=target,
    )


def _padded(tokens: int) -> int:
    return -(-tokens // _PAD_TOKENS) * _PAD_TOKENS


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB"
