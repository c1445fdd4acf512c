"""What an entry of `llm.providers` may say: the keys of every target, and those of its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roundhouse.config.rules import (
    Anything,
    Duration,
    Faults,
    ListOf,
    MapOf,
    Number,
    Rule,
    Schema,
    Section,
    Switch,
    Text,
    Url,
    nearest,
)
from roundhouse.config.source import Node

__all__ = ["FAMILY_NAMES", "OPTIONS", "SAMPLING", "TYPES", "TargetRule"]

FAMILY_NAMES = ("llama3", "phi3", "gemma2", "qwen2.5", "mistral")
TYPES = ("ollama", "llamacpp", "huggingface", "vllm", "openai")
_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")

SAMPLING: Mapping[str, Rule] = {
    "max_tokens": Number("Longest answer, in tokens.", 1, 10_000_000, whole=True),
    "temperature": Number("0 = always the likeliest token.", 0, 2),
    "top_p": Number("Nucleus sampling: the share of probability kept.", 0, 1),
    "top_k": Number("How many of the likeliest tokens are kept; 0 = all.", 0, 1_000_000, whole=True),
    "min_p": Number("Least probability kept, relative to the likeliest token.", 0, 1),
    "repeat_penalty": Number("Above 1 makes repetition less likely.", 0, 10),
    "presence_penalty": Number("", -2, 2),
    "frequency_penalty": Number("", -2, 2),
    "seed": Number("Makes sampling repeatable where the backend can.", 0, 2**63 - 1, whole=True),
    "stop": ListOf(Text(), "Texts that end an answer.", single=True),
}

_COMMON: Mapping[str, Rule] = {
    "type": Text("Which kind of backend."),
    "name": Text("The target's own name; its type if absent."),
    "model": Text("The backend's name of the model, a file, or `demo` for the built-in model."),
    "family": Text("Whose habits the model has; unset = by its own files.", FAMILY_NAMES),
    "endpoint": Url("URL of a backend that someone else runs."),
    "slots": Number(
        "Requests that a backend run by someone else is sent at once; the others wait here.", 1, 100_000, True
    ),
    "timeout": Duration("Limit on the first token and between tokens.", low=0.001, high=86_400),
    **SAMPLING,
    "api_key": Text("Key of the backend; write ${VAR} to keep it out of the file."),
    "headers": MapOf(Text(), "Headers sent with every request."),
    "executable": Text("Program to start instead of the built-in worker."),
    "env": MapOf(Text(empty=True), "Environment of the started program."),
    "replicas": Section(
        {"min": Number("", 0, 1024, whole=True), "max": Number("", 1, 1024, whole=True)}, "How many engines."
    ),
    "ttl": Duration("Unload after this long without a request."),
    "pin": Switch("Never unload."),
    "preload": Switch("Load at the start, not at the first request."),
    "check": Section(
        {"prompt": Text("The question."), "expect": Text("What its answer must contain, in any case.")},
        "What it is asked before it takes over in a switch.",
    ),
    "extra": MapOf(Anything(), "Settings of the backend that are not listed here, passed on as they are."),
}

OPTIONS: Mapping[str, Mapping[str, Rule]] = {
    "llamacpp": {
        "n_ctx": Number("Window of one request, in tokens; 0 = what the model was trained for.", 0, 10_000_000, True),
        "n_parallel": Number("Requests served at once.", 1, 1024, True),
        "n_threads": Number("Threads for decoding; default: the physical cores.", 1, 1024, True),
        "n_threads_batch": Number("Threads for prompts.", 1, 1024, True),
        "n_batch": Number("Tokens per logical batch.", 1, 1_000_000, True),
        "n_ubatch": Number("Tokens per physical batch.", 1, 1_000_000, True),
        "n_gpu_layers": Number("Layers on the GPU; -1 = as many as fit.", -2, 10_000, True),
        "main_gpu": Number("", 0, 64, True),
        "cache_type_k": Text("Type of the key cache.", _KV_TYPES),
        "cache_type_v": Text("Type of the value cache.", _KV_TYPES),
        "flash_attn": Switch("Flash attention; unset = where it helps."),
        "kv_unified": Switch("All slots share one cache."),
        "cache_ram_mib": Number("Host memory for finished prompts, in MiB.", 0, 10_000_000, True),
        "use_mmap": Switch("Map the file instead of reading it."),
        "use_mlock": Switch("Keep the weights from being swapped out."),
        "lora": ListOf(Text(), "LoRA adapters, as GGUF files.", single=True),
        "draft_model": Text("GGUF file of a draft model for speculative decoding."),
        "chat_template": Text("Jinja chat template, in place of the model's own."),
        "rope_freq_base": Number("", 0),
        "rope_freq_scale": Number("", 0),
        "embeddings": Switch("Serve embeddings instead of chat."),
        "rerank": Switch("Serve rankings of documents instead of chat, with a model made for it."),
    },
    "ollama": {
        "num_ctx": Number("Window, in tokens; the same in all requests.", 1, 10_000_000, True),
        "num_gpu": Number("Layers on the GPU.", -1, 10_000, True),
        "num_thread": Number("", 1, 1024, True),
        "num_batch": Number("", 1, 1_000_000, True),
        "keep_alive": Anything("How long Ollama keeps the model loaded: seconds or such as 5m; negative = for ever."),
        "think": Anything("true, false, low, medium or high."),
    },
    "openai": {
        "organization": Text("Sent as the OpenAI-Organization header."),
        "project": Text("Sent as the OpenAI-Project header."),
    },
    "huggingface": {
        "n_ctx": Number("Window of one request, in tokens; 0 = what the model was trained for.", 0, 10_000_000, True),
        "n_parallel": Number("Requests computed in one batch.", 1, 1024, True),
        "n_threads": Number("Threads; default: the physical cores.", 1, 1024, True),
        "cache_tokens": Number("Tokens in the cache that all requests share.", 1, 100_000_000, True),
        "device": Text("cuda, mps or cpu; unset = the best there is."),
        "dtype": Text("Precision; unset = what is fast on the device.", ("float32", "float16", "bfloat16")),
        "attn_implementation": Text("Such as sdpa or flash_attention_2."),
        "cuda_graphs": Switch("Replay steps as CUDA graphs: faster, without logprobs."),
        "revision": Text("Branch, tag or commit on the hub."),
        "load_in_4bit": Switch("Quantise at load, by bitsandbytes."),
        "load_in_8bit": Switch("Quantise at load, by bitsandbytes."),
        "chat_template": Text("Jinja chat template, in place of the model's own."),
        "embeddings": Switch("Serve embeddings instead of chat."),
        "trust_remote_code": Switch("Run Python code that comes with the model; only for models you trust as code."),
    },
    "vllm": {
        "gpu_memory_utilization": Number("Share of the device it may take.", 0.01, 1),
        "max_model_len": Number("Window of one request, in tokens.", 1, 10_000_000, True),
        "max_num_seqs": Number("Requests computed in one batch.", 1, 100_000, True),
        "max_num_batched_tokens": Number("Tokens computed in one step.", 1, 10_000_000, True),
        "tensor_parallel_size": Number("GPUs that share the model.", 1, 1024, True),
        "dtype": Text("Precision of the weights."),
        "kv_cache_dtype": Text("Precision of the cache."),
        "quantization": Text("How the weights are quantised."),
        "enable_prefix_caching": Switch("Keep the cache of common beginnings."),
        "enforce_eager": Switch("No CUDA graphs: starts faster, answers slower."),
        "enable_sleep_mode": Switch("Allow the model to sleep, which gives its memory back."),
        "lora": ListOf(Text(), "LoRA adapters, as name=path.", single=True),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TargetRule(Rule):
    """An entry of `llm.providers`: the common keys, and those of its type."""

    types: tuple[str, ...]
    doc: str = "A backend and a model."

    def check(self, node: Node, path: str, faults: Faults) -> Any:
        if not isinstance(node.value, dict):
            return self.refuse(node, path, "a mapping with type and model", faults)
        kind = node.value.get("type")
        if kind is None:
            faults.append(node.error(f'{path}: the key "type" is missing; one of {", ".join(self.types)}', path))
            return None
        if kind.value not in self.types:
            said = nearest(kind.value, self.types) if isinstance(kind.value, str) else ""
            faults.append(kind.error(f"{path}.type: {kind.shown} is no provider type{said}", f"{path}.type"))
            return None
        return self._section(kind.value).check(node, path, faults)

    def _section(self, kind: str) -> Section:
        required = () if kind == "openai" else ("model",)
        fields = {**_COMMON, **OPTIONS.get(kind, {})}
        return Section(fields, self.doc, ("type", *required), named=f"the {kind} provider")

    def schema(self) -> Schema:
        shapes = []
        for kind in self.types:
            shape = self._section(kind).schema()
            shape["properties"]["type"] = {"const": kind}
            shapes.append(shape)
        return {"oneOf": shapes}
