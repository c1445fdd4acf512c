"""A folder or a hub name -> a model on a device, in a precision that is fast there. Safetensors only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Loaded", "choose_device", "choose_dtype", "load"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """`window`: tokens of one request. `notes`: what a user should be told."""

    model: Any
    tokenizer: Any
    device: str
    dtype: str
    window: int
    notes: tuple[str, ...] = ()


def choose_device(*, cuda: bool, mps: bool) -> str:
    return "cuda" if cuda else "mps" if mps else "cpu"


def choose_dtype(device: str, cpu_flags: frozenset[str], *, cuda_bf16: bool = True) -> str:
    """bfloat16 where it is fast: GPUs since Ampere, processors made for it; else what is exact or small."""
    if device == "cuda":
        return "bfloat16" if cuda_bf16 else "float16"
    if device == "mps":
        return "float16"
    return "bfloat16" if cpu_flags & {"avx512_bf16", "amx_bf16"} else "float32"


def load(settings: Mapping[str, Any], *, embeddings: bool) -> Loaded:
    """Raises `OSError`, `ValueError` or `ImportError` as transformers does, with its words."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    device = settings.get("device") or choose_device(
        cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available()
    )
    if device == "cpu":
        torch.set_num_threads(settings["n_threads"])
    bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = settings.get("dtype") or choose_dtype(
        device.partition(":")[0], frozenset(settings.get("cpu_flags", ())), cuda_bf16=bf16
    )
    common: dict[str, Any] = {
        "revision": settings.get("revision"),
        "trust_remote_code": bool(settings.get("trust_remote_code")),
    }
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], **common)
    options = {name: settings[name] for name in ("attn_implementation",) if settings.get(name)}
    if quantised := _quantisation(settings, dtype):
        options["quantization_config"] = quantised
    model: Any = (AutoModel if embeddings else AutoModelForCausalLM).from_pretrained(
        settings["model"],
        dtype=getattr(torch, dtype),
        device_map=None if device == "cpu" else device,
        use_safetensors=True,
        **options,
        **common,
    )
    model.eval()
    notes = ["it runs Python code that came with the model (trust_remote_code)"] if common["trust_remote_code"] else []
    return Loaded(model, tokenizer, device, dtype, _window(settings, model), tuple(notes))


def _quantisation(settings: Mapping[str, Any], dtype: str) -> Any:
    if not (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return None
    from importlib.util import find_spec

    import torch
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ImportError("load_in_4bit and load_in_8bit need bitsandbytes: pip install bitsandbytes")
    if settings.get("load_in_4bit"):
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=getattr(torch, dtype))
    return BitsAndBytesConfig(load_in_8bit=True)


def _window(settings: Mapping[str, Any], model: Any) -> int:
    trained = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)
    asked = int(settings.get("n_ctx") or 0)
    if asked and trained:
        return min(asked, trained)
    return asked or trained or 4096
