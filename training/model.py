"""The demo model as transformers holds it, a lean bfloat16 forward pass over its weights, and where it starts from.

The start sets two heads of layer 0 to look one and two tokens back, and two heads of layer 1 to find what followed the
same pair of tokens before (induction heads: Olsson et al., "In-context Learning and Induction Heads", 2022). Copying
a sentence out of the context is then there from the first step, and training has to learn only which one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

__all__ = ["Forward", "block_mask", "create"]

CONTEXT_TOKENS = 1024
_THETA = 10_000.0
# The share of each induction head's dimensions of fastest rotation that it must ignore: it matches content.
_ROTATING = 6


def create(
    vocabulary: int, *, hidden: int, feed_forward: int, layers: int, heads: int, kv_heads: int, seed: int
) -> MistralForCausalLM:
    """A model with the start described above; the same seed gives the same weights."""
    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        max_position_embeddings=CONTEXT_TOKENS,
        sliding_window=None,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )
    model = MistralForCausalLM(config)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=_std(name, weight))
    with torch.no_grad():
        _set_copying_heads(model)
    return model


def _std(name: str, weight: Tensor) -> float:
    if "embed" in name:
        return 0.0625
    scale = 0.3 if "o_proj" in name else 0.2 if "down_proj" in name else 1.0
    return float(scale * weight.shape[1] ** -0.5)


def _set_copying_heads(model: MistralForCausalLM) -> None:
    config = model.config
    hidden, heads, kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    size, half, group = hidden // heads, hidden // heads // 2, heads // kv_heads
    frequencies = 1 / (_THETA ** (torch.arange(0, size, 2).float() / size))
    embedding = model.model.embed_tokens.weight
    embedding[:, 0] = 0.3  # a constant that every token carries, for heads that look at distance alone

    def directions(count: int) -> Tensor:
        rows: Tensor = torch.linalg.qr(torch.randn(hidden, count))[0].T.clone()
        rows[:, 0] = 0
        return rows

    before = torch.linalg.qr(torch.randn(hidden, 2 * size))[0]
    identity = directions(size)
    first = model.model.layers[0].self_attn
    amplitude = 7.5 / 4.6
    first.q_proj.weight[: 2 * size] = 0
    first.k_proj.weight[:size] = 0
    for f in range(4):
        angle = float(frequencies[f])
        first.k_proj.weight[f, 0] = amplitude * math.cos(angle)
        first.k_proj.weight[half + f, 0] = amplitude * math.sin(angle)
        first.q_proj.weight[f, 0] = amplitude
        first.q_proj.weight[size + f, 0] = amplitude * math.cos(angle)
        first.q_proj.weight[size + half + f, 0] = -amplitude * math.sin(angle)
    first.v_proj.weight[:size] = identity
    first.o_proj.weight[:, :size] = 0.125 * before[:, :size]
    first.o_proj.weight[:, size : 2 * size] = 0.125 * before[:, size:]

    second = model.model.layers[1].self_attn
    copied = directions(2 * size)
    slow = torch.zeros(size)
    slow[_ROTATING:half] = 1
    slow[half + _ROTATING :] = 1
    for k in range(2):
        here = slice(k * size, (k + 1) * size)
        query = slice(k * group * size, (k * group + 1) * size)
        second.k_proj.weight[here] = 2 * slow[:, None] * before[:, :size].T
        second.q_proj.weight[query] = 2 * slow[:, None] * identity
        second.v_proj.weight[here] = copied[here]
        second.o_proj.weight[:, query] = 0.4 * copied[here].T


def block_mask(branch: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [groups, 1, 1, length, length]: a token sees the shared context and its own branch, backwards."""
    length = branch.shape[1]
    here, there = branch[:, :, None], branch[:, None, :]
    seen = ((there == 0) | (here == there)) & torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=branch.device).masked_fill_(~seen, -1e4)[:, None, None]


class Forward:
    """Hidden states and logits from a model's own weights, in bfloat16.

    Plain matrix products: on a CPU they are several times faster forward and backward than the fused attention.
    """

    def __init__(self, model: MistralForCausalLM, dtype: torch.dtype = torch.bfloat16) -> None:
        self._model = model
        self._dtype = dtype
        config = model.config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._size = config.hidden_size // self._heads
        inverse = 1 / (_THETA ** (torch.arange(0, self._size, 2).float() / self._size))
        angles = torch.arange(CONTEXT_TOKENS).float()[:, None] * inverse
        angles = torch.cat([angles, angles], -1)
        device = model.device
        self._cos, self._sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)

    def hidden(self, ids: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """[groups, length] ids and positions -> normalised hidden states [groups, length, hidden]."""
        model = self._model.model
        state = F.embedding(ids, model.embed_tokens.weight)
        cos, sin = self._cos[position][:, :, None], self._sin[position][:, :, None]
        for layer in model.layers:
            state = state + self._attention(layer, self._norm(state, layer.input_layernorm.weight), cos, sin, mask)
            state = state + self._feed_forward(layer, self._norm(state, layer.post_attention_layernorm.weight))
        return self._norm(state, model.norm.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self._model.model.embed_tokens.weight.to(self._dtype)).float()

    def _norm(self, state: Tensor, weight: Tensor) -> Tensor:
        scale = torch.rsqrt(state.pow(2).mean(-1, keepdim=True) + self._model.config.rms_norm_eps)
        return (state * scale * weight).to(self._dtype)

    def _attention(self, layer: Any, state: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        attention = layer.self_attn
        groups, length, _ = state.shape
        heads, kv_heads, size = self._heads, self._kv_heads, self._size
        shared = heads // kv_heads
        weights = torch.cat(
            [attention.q_proj.weight * size**-0.5, attention.k_proj.weight, attention.v_proj.weight]
        ).to(self._dtype)
        q, k, v = torch.split(F.linear(state, weights), [heads * size, kv_heads * size, kv_heads * size], -1)
        q = _rotate(q.view(groups, length, heads, size), cos, sin).view(groups, length, kv_heads, shared, size)
        q = q.permute(0, 2, 3, 1, 4).reshape(groups, kv_heads, shared * length, size)
        k = _rotate(k.view(groups, length, kv_heads, size), cos, sin).permute(0, 2, 3, 1)
        v = v.view(groups, length, kv_heads, size).transpose(1, 2)
        scores = (q @ k).view(groups, kv_heads, shared, length, length) + mask
        mixed = scores.softmax(-1).view(groups, kv_heads, shared * length, length) @ v
        mixed = mixed.view(groups, kv_heads, shared, length, size).permute(0, 3, 1, 2, 4)
        return F.linear(mixed.reshape(groups, length, heads * size), attention.o_proj.weight.to(self._dtype))

    def _feed_forward(self, layer: Any, state: Tensor) -> Tensor:
        mlp = layer.mlp
        weights = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).to(self._dtype)
        gate, up = F.linear(state, weights).chunk(2, -1)
        return F.linear(F.silu(gate) * up, mlp.down_proj.weight.to(self._dtype))


def _rotate(state: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = state.shape[-1] // 2
    return state * cos + torch.cat((-state[..., half:], state[..., :half]), -1) * sin
