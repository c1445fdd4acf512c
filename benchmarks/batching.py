"""Managed transformers at 8 requests at once against `generate`, one request after the other, on the same weights."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.report import Row
from roundhouse.config import load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.gateway import Gateway
from roundhouse.gateway.demo import demo_safetensors

__all__ = ["run"]

_TOKENS = 128
_AT_ONCE = 8
_ROUNDS = 3
_TEXT = "Tell me all about the harbour."
_OPTIONS = {"n_parallel": _AT_ONCE, "n_ctx": 512, "dtype": "float32", "device": "cpu"}
_REQUEST = ChatRequest.of(_TEXT, sampling=Sampling(max_tokens=_TOKENS, temperature=0.0), extra={"ignore_eos": True})


def run() -> list[Row]:
    alone = _one_by_one()
    one, together = asyncio.run(_managed())
    ratio = together / alone
    return [
        Row(
            f"managed transformers, {_AT_ONCE} at once",
            f"{together:.0f} tokens/s, {ratio:.1f} times (1 at once: {one:.0f} tokens/s)",
            ">= 3 times one by one",
            ratio >= 3,
            f"{alone:.0f} tokens/s",
        )
    ]


def _one_by_one() -> float:
    """Tokens/s of `generate`."""
    folder = demo_safetensors()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": _TEXT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )

    def generate() -> None:
        model.generate(**ids, max_new_tokens=_TOKENS, min_new_tokens=_TOKENS, do_sample=False)

    generate()
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        generate()
    return _TOKENS * _ROUNDS / (time.perf_counter() - began)


async def _managed() -> tuple[float, float]:
    """Tokens/s of one request at a time, and of many."""
    settings = load_mapping({"llm": {"providers": [{"type": "huggingface", "model": "demo", **_OPTIONS}]}})
    async with Gateway(settings) as gateway:
        await gateway.generate(_REQUEST)
        found = []
        for at_once in (1, _AT_ONCE):
            began = time.perf_counter()
            for _ in range(_ROUNDS):
                await asyncio.gather(*(gateway.generate(_REQUEST) for _ in range(at_once)))
            found.append(_TOKENS * at_once * _ROUNDS / (time.perf_counter() - began))
    return found[0], found[1]
