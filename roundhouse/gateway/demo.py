"""The demo model that ships with the package: where its files lie."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from roundhouse.core.chat import Sampling

__all__ = ["DEMO_MODEL", "DEMO_NOTICE", "DEMO_OPTIONS", "DEMO_SAMPLING", "demo_gguf", "demo_safetensors"]

DEMO_MODEL = "demo"
# It was trained to quote, and quotes worse the more freely it chooses.
DEMO_SAMPLING = Sampling(temperature=0.0)
# So small a model is not faster on more threads, and llama.cpp's threads spin while they wait for each other: on a
# machine that is busy otherwise, two of them take a hundred times longer than one.
DEMO_OPTIONS = {"n_threads": 1}
DEMO_NOTICE = (
    "the built-in demo model answers: a toy of 5 million parameters that can only quote its context. For real use "
    "run `roundhouse models pull mistral-7b-instruct` or, with Ollama, `ollama pull mistral:7b`, or name a model in "
    "config/llm_config.yaml"
)


def demo_gguf() -> Path:
    return Path(str(files("roundhouse") / "demo" / "demo-f16.gguf"))


def demo_safetensors() -> Path:
    """The folder that transformers and vLLM take."""
    return Path(str(files("roundhouse") / "demo" / "safetensors"))
