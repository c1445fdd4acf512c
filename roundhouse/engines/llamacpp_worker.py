"""The llama.cpp program as a child of ours: xllamacpp's C++ server on a loopback port, one model.

Standard input: one JSON line of settings, then nothing until the parent ends. Standard output: `{"event": "imported"}`,
then one more JSON line, `{"event": "ready", "url": ..., "slots": ..., "skipped": [...]}` or `{"event": "failed", ...}`.
llama.cpp's own log goes to standard error. The key comes with the settings, so no list of processes shows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import Any

from roundhouse.engines import lifeline

__all__ = ["main"]

_OPTIONS = {
    "n_batch": "n_batch",
    "n_ubatch": "n_ubatch",
    "n_gpu_layers": "n_gpu_layers",
    "n_parallel": "n_parallel",
    "cache_ram_mib": "cache_ram_mib",
    "kv_unified": "kv_unified",
    "chat_template": "chat_template",
    "embeddings": "embedding",
    "main_gpu": "main_gpu",
    "rope_freq_base": "rope_freq_base",
    "rope_freq_scale": "rope_freq_scale",
    "swa_full": "swa_full",
}
_HANDLED = {
    "model", "window", "key", "parent", "n_threads", "n_threads_batch", "cache_type_k", "cache_type_v", "flash_attn",
    "use_mmap", "use_mlock", "lora", "draft_model", "rerank",
}  # fmt: skip


def _parameters(xllamacpp: Any, settings: dict[str, Any]) -> tuple[Any, list[str]]:
    """llama.cpp's parameters, and the names of settings that this build does not know."""
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = settings["model"]
    params.api_keys = [settings["key"]]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.ui = False
    params.fit_params = False  # what fits is decided by the parent; a window cut in silence would be a surprise
    slots = settings["n_parallel"]
    params.n_ctx = settings["window"] * (1 if settings.get("kv_unified") else slots)
    params.cpuparams.n_threads = settings["n_threads"]
    params.cpuparams_batch.n_threads = settings.get("n_threads_batch", settings["n_threads"])
    _set_special(xllamacpp, params, settings)
    skipped = []
    for name, value in settings.items():
        if name in _HANDLED:
            continue
        attribute = _OPTIONS.get(name, name)
        if hasattr(params, attribute):
            setattr(params, attribute, value)
        else:
            skipped.append(name)
    return params, skipped


def _set_special(xllamacpp: Any, params: Any, settings: dict[str, Any]) -> None:
    """Settings whose value is no plain number or text in this interface."""
    for name in ("cache_type_k", "cache_type_v"):
        if name in settings:
            setattr(params, name, getattr(xllamacpp.ggml_type, f"GGML_TYPE_{settings[name].upper()}"))
    if "flash_attn" in settings:
        chosen = "ENABLED" if settings["flash_attn"] else "DISABLED"
        params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{chosen}")
    if settings.get("rerank"):
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    elif settings.get("embeddings") and "pooling_type" not in settings:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN  # most models do not say
    if "draft_model" in settings:
        params.speculative.draft.mparams.path = settings["draft_model"]
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    for path in settings.get("lora", ()):
        params.lora_adapters = [*params.lora_adapters, xllamacpp.CommonAdapterLoraInfo(path, 1.0)]
    if "use_mmap" in settings or "use_mlock" in settings:
        mapped, locked = settings.get("use_mmap", True), settings.get("use_mlock", False)
        mode = "_".join(word for word, wanted in (("MMAP", mapped), ("MLOCK", locked)) if wanted) or "NONE"
        params.load_mode = getattr(xllamacpp.llama_load_mode, f"LLAMA_LOAD_MODE_{mode}")


def _imported() -> dict[str, Any] | None:
    """Import what every model needs; what to tell the parent if that fails."""
    try:
        import xllamacpp  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "xllamacpp":
            return {"event": "failed", "kind": "broken", "reason": f"xllamacpp cannot be imported: {error}"}
        return {"event": "failed", "kind": "missing", "extra": "llamacpp", "reason": "xllamacpp is not installed"}
    except (ImportError, OSError) as error:
        return {"event": "failed", "kind": "broken", "reason": f"xllamacpp cannot be imported: {error}"}
    return None


def _load(settings: dict[str, Any]) -> dict[str, Any]:
    """Start the server, which blocks until the model is loaded; what to tell the parent."""
    import xllamacpp

    try:
        params, skipped = _parameters(xllamacpp, settings)
    except (AttributeError, TypeError, ValueError) as error:
        return {"event": "failed", "kind": "settings", "reason": f"a setting is not understood: {error}"}
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        return {"event": "failed", "kind": "load", "reason": str(error)}
    _served.append(server)
    return {"event": "ready", "url": server.listening_address, "slots": params.n_parallel, "skipped": skipped}


_served: list[Any] = []  # the server stops when nobody holds it


def main() -> None:
    """Serve until standard input ends. What is the same for every model comes before the settings."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever native code prints must not be taken for an answer
    broken = _imported()
    print(json.dumps({"event": "imported"}), file=answers, flush=True)
    line = sys.stdin.buffer.readline()
    if not line:  # a spare that nobody needed
        os._exit(0)
    settings = json.loads(line)
    lifeline.hold(sys.stdin.buffer, parent=settings["parent"])
    told = broken or _load(settings)
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(told), file=answers, flush=True)
    if told["event"] == "ready":
        threading.Event().wait()
    os._exit(1)


if __name__ == "__main__":
    main()
