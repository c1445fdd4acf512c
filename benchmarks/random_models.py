"""GGUF models with random weights, of any shape, made on the spot: they answer nonsense and hold the real memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

__all__ = ["Shape", "write"]

_PATTERN = np.random.default_rng(7).normal(0, 0.02, (64, 256)).astype(np.float32)
_SPECIAL = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides a model's memory. `kind`: type of the matrices. `window`: of sliding layers, 0 = none.

    `architecture` is one of llama, qwen2, gemma2, gemma3 and mamba; a mamba takes no heads.
    """

    architecture: str = "llama"
    layers: int = 4
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 4
    head_length: int = 64
    feed_forward: int = 1024
    vocabulary: int = 4096
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16
    tied: bool = False
    window: int = 0
    experts: int = 0
    experts_used: int = 2
    context: int = 32768


def write(shape: Shape, path: Path) -> Path:
    """The file of `shape` at `path`, which llama.cpp loads."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name(path.stem)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    if shape.architecture == "mamba":
        _describe_mamba(writer, shape)
    else:
        writer.add_feed_forward_length(shape.feed_forward)
        writer.add_head_count(shape.heads)
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_key_length(shape.head_length)
        writer.add_value_length(shape.head_length)
    if shape.window:
        writer.add_sliding_window(shape.window)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
    _add_tokenizer(writer, shape.vocabulary)
    for name, dimensions in _tensors(shape):
        _add_tensor(writer, name, dimensions, shape.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe_mamba(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_head_count(0)
    writer.add_feed_forward_length(0)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(2 * shape.hidden)
    writer.add_ssm_state_size(16)
    writer.add_ssm_time_step_rank(shape.hidden // 16)


def _add_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    """A vocabulary of the SentencePiece kind: special tokens, all bytes, then words nobody uses."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [f"w{number}" for number in range(size - len(_SPECIAL) - len(byte_tokens))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * len(byte_tokens) + [gguf.TokenType.NORMAL] * len(words)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*_SPECIAL, *byte_tokens, *words])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and dimensions (rows first) as llama.cpp's loader of that architecture expects them."""
    yield "token_embd.weight", (shape.vocabulary, shape.hidden)
    yield "output_norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, shape.hidden)
    layer = _mamba_layer if shape.architecture == "mamba" else _attention_layer
    for number in range(shape.layers):
        for name, dimensions in layer(shape):
            yield f"blk.{number}.{name}", dimensions


def _attention_layer(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, wide, narrow = shape.hidden, shape.heads * shape.head_length, shape.kv_heads * shape.head_length
    yield "attn_norm.weight", (hidden,)
    yield "attn_q.weight", (wide, hidden)
    yield "attn_k.weight", (narrow, hidden)
    yield "attn_v.weight", (narrow, hidden)
    yield "attn_output.weight", (hidden, wide)
    yield "ffn_norm.weight", (hidden,)
    if shape.experts:
        yield "ffn_gate_inp.weight", (shape.experts, hidden)
        yield "ffn_gate_exps.weight", (shape.experts, shape.feed_forward, hidden)
        yield "ffn_up_exps.weight", (shape.experts, shape.feed_forward, hidden)
        yield "ffn_down_exps.weight", (shape.experts, hidden, shape.feed_forward)
    else:
        yield "ffn_gate.weight", (shape.feed_forward, hidden)
        yield "ffn_up.weight", (shape.feed_forward, hidden)
        yield "ffn_down.weight", (hidden, shape.feed_forward)
    if shape.architecture == "qwen2":
        yield from (("attn_q.bias", (wide,)), ("attn_k.bias", (narrow,)), ("attn_v.bias", (narrow,)))
    if shape.architecture in ("gemma2", "gemma3"):
        yield from (("post_attention_norm.weight", (hidden,)), ("post_ffw_norm.weight", (hidden,)))
    if shape.architecture == "gemma3":
        yield from (("attn_q_norm.weight", (shape.head_length,)), ("attn_k_norm.weight", (shape.head_length,)))


def _mamba_layer(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, state, rank = shape.hidden, 2 * shape.hidden, 16, shape.hidden // 16
    yield "attn_norm.weight", (hidden,)
    yield "ssm_in.weight", (2 * inner, hidden)
    yield "ssm_conv1d.weight", (inner, 4)
    yield "ssm_conv1d.bias", (inner,)
    yield "ssm_x.weight", (rank + 2 * state, inner)
    yield "ssm_dt.weight", (inner, rank)
    yield "ssm_dt.bias", (inner,)
    yield "ssm_a", (inner, state)
    yield "ssm_d", (inner,)
    yield "ssm_out.weight", (hidden, inner)


_ALWAYS_F32 = ("ssm_conv1d.weight", "ssm_a", "ssm_dt.weight", "ssm_x.weight", "ffn_gate_inp.weight")


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, dimensions: tuple[int, ...], kind: gguf.GGMLQuantizationType
) -> None:
    """One repeated block of values: quantising every weight apart would take minutes and change no size."""
    if len(dimensions) == 1 or name.endswith(_ALWAYS_F32):
        writer.add_tensor(name, _tiled(_PATTERN, dimensions))
    elif kind == gguf.GGMLQuantizationType.F16:
        writer.add_tensor(name, _tiled(_PATTERN.astype(np.float16), dimensions))
    else:
        per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        row_bytes = dimensions[-1] // per_block * block_bytes
        blocks = _blocks(kind)
        writer.add_tensor(name, _tiled(blocks, (*dimensions[:-1], row_bytes)), raw_dtype=kind)


def _blocks(kind: gguf.GGMLQuantizationType) -> npt.NDArray[np.generic]:
    """Quantised values, or zeros for the types that the library can only read."""
    try:
        blocks: npt.NDArray[np.generic] = gguf.quants.quantize(_PATTERN, kind)
    except NotImplementedError:
        blocks = np.zeros(gguf.GGML_QUANT_SIZES[kind][1], np.uint8)
    return blocks


def _tiled(pattern: npt.NDArray[np.generic], dimensions: tuple[int, ...]) -> npt.NDArray[np.generic]:
    return np.resize(pattern.ravel(), dimensions)
