"""What to start for a target, decided from plain values: a child to spawn, or a URL that someone else serves. Pure.

Only options that were set are passed on; a backend's own default applies to the rest, but for the few below whose
default would surprise (llama.cpp's 8 GiB prompt cache, its four threads too many).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "DEFAULT_SLOTS",
    "HUGGINGFACE_SLOTS",
    "VLLM_SLOTS",
    "Attach",
    "Spawn",
    "attach",
    "huggingface",
    "implied",
    "llamacpp",
    "vllm",
]

DEFAULT_SLOTS = 4
HUGGINGFACE_SLOTS = 8
# OpenMP's threads spin while they wait for each other, unless told not to. Beside another busy engine, as in a switch,
# spinning made answers seven times slower; sleeping at once halved the rate of a small model, whose operations are
# shorter than a wake-up. A thousand turns, some microseconds, bridge most gaps between two operations; ten thousand
# gained another tenth alone and cost half a second at the 99th percentile beside another engine.
_PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
# By itself glibc keeps freed pieces of up to 32 MB, in holes: a worker held a tenth to a sixth more than its tensors
# take, and more with every round of prompts. With a fixed bound large pieces go back at once, so that what it holds can
# be computed (resources/memory_transformers.py); huge pages make fetching them again cheap (without, a prompt took a
# tenth longer). MKL keeps its buffers too, and may: told not to (MKL_DISABLE_FAST_MM), it halves a small model's rate.
_EXACT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
# An assertion of ggml that fails starts a debugger, whose stack trace pushes the reason out of the log that is kept.
_PLAIN_END = {"GGML_NO_BACKTRACE": "1"}
VLLM_SLOTS = 64
_EMBEDDED_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Attach:
    """A backend that someone else runs."""

    url: str
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Spawn:
    """A child to start.

    `settings`, if any, go to the child as one JSON line on its standard input, which then stays open as its lifeline:
    a worker of ours, which answers with one JSON line on standard output. None = a foreign server: it is polled at
    `health_path` on the port that replaces `{port}` in `argv`, and its key travels in the variable `key_variable`.
    `slots`: how many requests it serves at once.
    """

    argv: tuple[str, ...]
    slots: int
    settings: Mapping[str, Any] | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    health_path: str = "/health"
    key_variable: str = ""


def attach(url: str, key: str = "") -> Attach:
    return Attach(url.rstrip("/"), key)


def implied(options: Mapping[str, Any]) -> dict[str, Any]:
    """A llama.cpp target's options with what follows from them where it was not set.

    Embeddings and rankings need one cache for all slots: with one each, texts that are computed together were pooled
    over a part of their tokens only (cosine 0.94 to the right vector, build 11549). And llama.cpp takes no text for
    them that is longer than one physical batch.
    """
    if not (options.get("embeddings") or options.get("rerank")):
        return dict(options)
    return {"kv_unified": True, "n_ubatch": options.get("n_batch", _EMBEDDED_TOKENS), **options}


def llamacpp(
    model_path: str,
    options: Mapping[str, Any],
    *,
    cores: int,
    env: Mapping[str, str] | None = None,
    executable: str = "",
) -> Spawn:
    """llama.cpp over one GGUF file: in our worker, or as the `llama-server` at `executable`.

    `n_ctx` is the window of one request. llama.cpp divides its cells among the slots, so it is multiplied by
    `n_parallel` here, unless `kv_unified` lets all slots share them. 0 or unset = the window the model was trained for.
    """
    slots = int(options.get("n_parallel", DEFAULT_SLOTS))
    chosen = {"n_threads": cores, "cache_ram_mib": 0, **implied(options), "n_parallel": slots}
    window = int(chosen.pop("n_ctx", 0))
    settings = {**chosen, "model": model_path, "window": window}
    variables = {**_PLAIN_END, **(env or {})}
    if not executable:
        argv = (sys.executable, "-m", "roundhouse.engines.llamacpp_worker")
        return Spawn(argv, slots, settings=settings, env=variables)
    return Spawn(
        (executable, *_llama_server_flags(model_path, chosen, window)),
        slots,
        env=variables,
        key_variable="LLAMA_API_KEY",
    )


def huggingface(
    model: str,
    options: Mapping[str, Any],
    *,
    cores: int,
    cpu_flags: AbstractSet[str] = frozenset(),
    env: Mapping[str, str] | None = None,
) -> Spawn:
    """transformers over a folder of safetensors, or over a name on the hub, in our worker."""
    slots = int(options.get("n_parallel", HUGGINGFACE_SLOTS))
    chosen = {"n_threads": cores, **options, "n_parallel": slots}
    settings = {**chosen, "model": model, "cpu_flags": sorted(flag for flag in cpu_flags if "bf16" in flag)}
    argv = (sys.executable, "-m", "roundhouse.engines.huggingface.worker")
    return Spawn(argv, slots, settings=settings, env={**_PATIENT_THREADS, **_EXACT_MEMORY, **(env or {})})


def vllm(
    model: str, name: str, options: Mapping[str, Any], *, executable: str, env: Mapping[str, str] | None = None
) -> Spawn:
    """The user's own `vllm serve` over `model`, which clients call `name`. An option is its flag with dashes."""
    flags: list[str] = []
    for option, value in options.items():
        flag = "--" + option.replace("_", "-")
        if option == "lora":
            flags += ["--enable-lora", "--lora-modules", *value]
        elif isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, (dict, list)):
            flags += [flag, json.dumps(value)]
        else:
            flags += [flag, str(value)]
    # Sleep and wake are routes of its development mode; it listens on loopback and behind a key.
    sleeping = {"VLLM_SERVER_DEV_MODE": "1"} if options.get("enable_sleep_mode") else {}
    return Spawn(
        (executable, "serve", model, "--served-model-name", name, "--host", "127.0.0.1", "--port", "{port}", *flags),
        int(options.get("max_num_seqs", VLLM_SLOTS)),
        env={**sleeping, **(env or {})},
        key_variable="VLLM_API_KEY",
    )


# Options whose flag is not their name with dashes (llama.cpp, common/arg.cpp).
_FLAGS = {
    "n_threads": "--threads",
    "n_threads_batch": "--threads-batch",
    "n_batch": "--batch-size",
    "n_ubatch": "--ubatch-size",
    "n_gpu_layers": "--n-gpu-layers",
    "n_parallel": "--parallel",
    "cache_ram_mib": "--cache-ram",
    "draft_model": "--model-draft",
    "chat_template": "--chat-template",
}
_SWITCHES = {
    "use_mmap": (None, "--no-mmap"),
    "use_mlock": ("--mlock", None),
    "embeddings": ("--embeddings", None),
    "rerank": ("--reranking", None),
}


def _llama_server_flags(model_path: str, options: Mapping[str, Any], window: int) -> list[str]:
    cells = window if options.get("kv_unified") else window * int(options["n_parallel"])
    flags = ["--model", model_path, "--host", "127.0.0.1", "--port", "{port}", "--ctx-size", str(cells)]
    flags += ["--metrics"]
    for name, value in options.items():
        if name in _SWITCHES:
            flag = _SWITCHES[name][0 if value else 1]
            flags += [flag] if flag else []
        elif isinstance(value, bool) and name == "flash_attn":
            flags += ["--flash-attn", "on" if value else "off"]
        elif isinstance(value, bool):
            flags += [_flag(name)] if value else []
        elif isinstance(value, list):
            for item in value:
                flags += [_flag(name), str(item)]
        else:
            flags += [_flag(name), str(value)]
    return flags


def _flag(name: str) -> str:
    return _FLAGS.get(name, "--" + name.replace("_", "-"))
