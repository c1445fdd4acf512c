"""Which layers of an architecture slide over a window, and which are recurrent: data, and the rules to apply it.

Sources: `load_arch_hparams` of llama.cpp's src/models/*.cpp and `llama_hparams::set_swa_pattern`; for `config.json`,
the `layer_types` that transformers writes. What is not known to slide counts as full attention, which needs more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["keeps_cache", "recurrent_layers", "window_layers"]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Of every `period` layers one is full, the last (or the first); `window` where the file does not say."""

    period: int
    window: int = 0
    full_first: bool = False


_PATTERNS = {
    "afmoe": _Pattern(4),
    "cohere2": _Pattern(4),
    "cohere2moe": _Pattern(4),
    "exaone-moe": _Pattern(4),
    "exaone4": _Pattern(4),
    "gemma-embedding": _Pattern(6),
    "gemma2": _Pattern(2, window=4096),
    "gemma3": _Pattern(6),
    "gemma3n": _Pattern(5),
    "gpt-oss": _Pattern(2),
    "llama4": _Pattern(4, window=8192),
    "olmo2": _Pattern(4),
    "plamo3": _Pattern(8),
    "smallthinker": _Pattern(4, full_first=True),
}
# Those that see a text whole, at once (`llama_model::create_memory`).
_WITHOUT_CACHE = {
    "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe", "modern-bert",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "wavtokenizer-dec",
}  # fmt: skip
_FULL_EVERY = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}


def keeps_cache(architecture: str) -> bool:
    """Whether its layers keep keys and values of what came before."""
    return architecture not in _WITHOUT_CACHE


def window_layers(
    architecture: str, layers: int, window: int | None, pattern: Sequence[int] | int | None = None
) -> tuple[int, ...]:
    """Each layer's window, 0 = full attention.

    `window` and `pattern` as the file gives them, None = it does not. A sequence marks the sliding layers; a number is
    the period: its last layer is full, 0 = all slide. An architecture without a pattern ignores its window, as
    llama.cpp does.
    """
    known = _PATTERNS.get(architecture)
    size = window if window is not None else known.window if known else 0
    if not size or (known is None and pattern is None):
        return (0,) * layers
    if isinstance(pattern, Sequence) and pattern:
        return tuple(size if pattern[layer % len(pattern)] else 0 for layer in range(layers))
    period = pattern if isinstance(pattern, int) else known.period if known else 1
    full = 0 if known and known.full_first else period - 1
    return tuple(0 if period and layer % period == full else size for layer in range(layers))


def recurrent_layers(
    architecture: str, kv_heads: Sequence[int], listed: Sequence[int] = (), full_every: int = 0
) -> tuple[bool, ...]:
    """Which layers keep a recurrent state, in a model that has any.

    `listed` marks them; else one layer in `full_every` has attention; else they are those without key-value heads; if
    every layer has heads, each layer has both.
    """
    layers = len(kv_heads)
    if len(listed) == layers and layers:
        return tuple(bool(one) for one in listed)
    period = full_every or _FULL_EVERY.get(architecture, 0)
    if period:
        return tuple((layer + 1) % period != 0 for layer in range(layers))
    return tuple(not heads for heads in kv_heads) if 0 in kv_heads else (True,) * layers
