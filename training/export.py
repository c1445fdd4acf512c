"""A checkpoint -> what the package ships: safetensors with tokenizer, and GGUF in F16 and Q8_0.

All three hold the same weights: they are rounded to float16 once, before anything is written.

    python -m training.export --run training/runs/main --tokenizer training/runs/tokenizer --out roundhouse/demo

GGUF: the format is ggml-org/ggml docs/gguf.md, the tensor names and the order of rotary dimensions are those of
llama.cpp's own converter for the `llama` architecture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, MistralConfig, PreTrainedTokenizerBase

from training.tokenizer import CHAT_TEMPLATE, PHRASES, SPECIALS

__all__ = ["export_gguf", "export_safetensors"]

Weights = dict[str, torch.Tensor]
_DESCRIPTION = (
    "A demonstration model of a few million parameters that quotes a sentence of its context. Not for real use."
)
_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export_safetensors(
    weights: Weights, config: MistralConfig, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """A folder that transformers and vLLM load: config, generation config, tokenizer, template, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: weight.half().contiguous() for name, weight in weights.items() if name != "lm_head.weight"}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["MistralForCausalLM"]
    config.dtype = torch.float16
    config.save_pretrained(folder)
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer.save_pretrained(folder)


def export_gguf(
    weights: Weights,
    config: MistralConfig,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    kind: gguf.GGMLQuantizationType,
) -> None:
    """One GGUF file whose matrices are of `kind` and whose norms are float32, as llama.cpp wants them."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Roundhouse demo")
    writer.add_description(_DESCRIPTION)
    writer.add_license("apache-2.0")
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, config)
    for name, data in _tensors(weights, config):
        _add_tensor(writer, name, data, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_FILE_TYPES = {
    gguf.GGMLQuantizationType.F16: gguf.LlamaFileType.MOSTLY_F16,
    gguf.GGMLQuantizationType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
    gguf.GGMLQuantizationType.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
}


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, data: npt.NDArray[np.float32], kind: gguf.GGMLQuantizationType
) -> None:
    if data.ndim == 1:
        writer.add_tensor(name, data)
    elif kind == gguf.GGMLQuantizationType.F16:
        writer.add_tensor(name, data.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, config: MistralConfig) -> None:
    """`pre` is gpt-2, which cuts text as ByteLevel does; BOS comes from the chat template, so none is added."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    kinds = [
        gguf.TokenType.CONTROL
        if token in SPECIALS
        else gguf.TokenType.USER_DEFINED
        if token in PHRASES
        else gguf.TokenType.NORMAL
        for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in spec["model"]["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.eos_token_id)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensors(weights: Weights, config: MistralConfig) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """GGUF names and values. Tied weights: `output.weight` is left out, and the token embedding serves."""
    rows = []
    for name, weight in weights.items():
        if name == "lm_head.weight":
            continue
        data = weight.half().float().numpy()
        if name == "model.embed_tokens.weight":
            rows.append(("token_embd.weight", data))
        elif name == "model.norm.weight":
            rows.append(("output_norm.weight", data))
        else:
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            if part == "self_attn.q_proj":
                data = _interleave(data, config.num_attention_heads)
            elif part == "self_attn.k_proj":
                data = _interleave(data, config.num_key_value_heads)
            rows.append((f"blk.{layer}.{_TENSORS[part]}.weight", data))
    return rows


def _interleave(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rotary halves -> rotary pairs: the order of dimensions that llama.cpp's `llama` architecture rotates."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    state = torch.load(asked.run / "checkpoint.pt", weights_only=True)
    config = MistralConfig(**state["config"])
    weights = {name: weight.half().float() for name, weight in state["averaged"].items()}
    tokenizer = AutoTokenizer.from_pretrained(asked.tokenizer)
    export_safetensors(weights, config, tokenizer, asked.out / "safetensors")
    for kind in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0):
        export_gguf(weights, config, tokenizer, asked.out / f"demo-{kind.name.lower()}.gguf", kind)
    print(f"{asked.out}: step {state['step']}, {state['spent_s'] / 60:.1f} minutes of training")


if __name__ == "__main__":
    main()
