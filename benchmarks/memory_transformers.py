"""Memory predicted for the transformers worker against what it then holds: `python -m benchmarks.memory_transformers`.

Models with random weights are written as safetensors, run by our worker on the processor, and given twice as many
prompts as they have slots, each as long as the window. Held is the most that was resident since the worker was ready
(`VmHWM`), so the pages of weights that a load has read and converted do not count. `--write` puts the table into
docs/memory.md.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.apart import apart
from benchmarks.report import Row
from roundhouse.config import load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.gateway import Gateway
from roundhouse.gateway.demo import demo_safetensors
from roundhouse.gateway.ways import ways_of
from roundhouse.resources import hardware

__all__ = ["run"]

MIB = 1 << 20
_PAGE = Path(__file__).parent.parent / "docs" / "memory.md"
_MARKS = ("<!-- table: python -m benchmarks.memory_transformers --write -->\n", "<!-- end of that table -->\n")
_ANSWER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Case:
    """`shape`: fields of the configuration of `kind`, empty = the demo model. `heat`: the requests' temperature."""

    name: str
    options: dict[str, Any]
    shape: dict[str, Any] = field(default_factory=dict)
    kind: str = "mistral"
    heat: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    case: Case
    predicted: int
    held: int

    @property
    def within(self) -> bool:
        return abs(self.predicted - self.held) <= max(0.05 * self.held, 16e6)


_SMALL = {"num_hidden_layers": 8, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2,
          "intermediate_size": 1536, "vocab_size": 4096, "sliding_window": None}  # fmt: skip
_LARGE = {"num_hidden_layers": 12, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16,
          "intermediate_size": 2816, "vocab_size": 4096, "sliding_window": None}  # fmt: skip
_SHORT = {**_SMALL, "num_hidden_layers": 4}
_WINDOWS = {**_SHORT, "sliding_window": 128, "use_sliding_window": True,
            "layer_types": [*3 * ["sliding_attention"], "full_attention"]}  # fmt: skip
_EXPERTS = {**_SHORT, "num_local_experts": 8, "num_experts_per_tok": 2}
CASES = (
    Case("demo", {"n_ctx": 512, "n_parallel": 8, "dtype": "float32"}),
    Case("grouped heads", {"n_ctx": 1024, "n_parallel": 4, "dtype": "float32"}, _SMALL),
    Case("the same, bfloat16", {"n_ctx": 1024, "n_parallel": 4, "dtype": "bfloat16"}, _SMALL),
    Case("the same, 16 at once", {"n_ctx": 512, "n_parallel": 16, "dtype": "bfloat16"}, _SMALL),
    Case("the same, a cache larger than needed", {"n_ctx": 256, "cache_tokens": 16384, "dtype": "float32"}, _SHORT),
    Case("every head its own", {"n_ctx": 512, "n_parallel": 4, "dtype": "float32"}, _LARGE),
    Case("the same, bfloat16", {"n_ctx": 512, "n_parallel": 8, "dtype": "bfloat16"}, _LARGE),
    Case("sliding window", {"n_ctx": 1024, "n_parallel": 4, "dtype": "float32"}, {**_SHORT, "sliding_window": 256}),
    Case("three of four layers slide", {"n_ctx": 1024, "n_parallel": 4, "dtype": "float32"}, _WINDOWS, "qwen2"),
    Case("wide feed-forward", {"n_ctx": 512, "n_parallel": 2, "dtype": "float32"},
         {**_SHORT, "num_hidden_layers": 2, "intermediate_size": 16384}),
    Case("large vocabulary, tied, sampled", {"n_ctx": 256, "n_parallel": 16, "dtype": "float32"},
         {**_SHORT, "vocab_size": 65536, "tie_word_embeddings": True}, heat=0.8),
    Case("8 experts, 2 used", {"n_ctx": 512, "n_parallel": 4, "dtype": "float32"}, _EXPERTS, "mixtral"),
)  # fmt: skip


def run() -> list[Row]:
    results = [asyncio.run(measure(case)) for case in CASES]
    worst = max(results, key=lambda result: abs(result.predicted - result.held) / result.held)
    inside = sum(result.within for result in results)
    return [
        Row(
            f"memory predicted for transformers, {len(results)} models and settings",
            f"{inside} within; worst {(worst.predicted - worst.held) / worst.held:+.1%} ({worst.case.name})",
            "5 % or 16 MB",
            inside == len(results),
        )
    ]


async def measure(case: Case) -> Result:
    """Run it, keep every slot busy with prompts as long as its window, look at the most that it held."""
    with tempfile.TemporaryDirectory() as folder:
        model = str(_written(case, Path(folder))) if case.shape else "demo"
        provider = {"type": "huggingface", "model": model, "timeout": 600, **case.options}
        settings = load_mapping({"llm": {"providers": [provider]}})
        way = ways_of(settings.targets[0], settings, hardware.devices())[0]
        async with Gateway(settings) as gateway:
            await gateway.load("huggingface")
            pid = gateway.state()["replicas"][0]["pid"]
            _forget_most_resident(pid)
            words = _words(case.options["n_ctx"])
            asked = [_request(case, words, number) for number in range(2 * way.spawn.slots)]
            await asyncio.gather(*(gateway.generate(request) for request in asked))
            assert way.estimate is not None
            return Result(case, way.estimate.resident, _most_resident_bytes(pid))


def _forget_most_resident(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): VmHWM starts anew


def _most_resident_bytes(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) << 10 for row in rows if row.startswith("VmHWM"))


def _text(words: int, number: int) -> str:
    return " ".join(f"w{100 + (number * 7919 + place) % 900}" for place in range(words))


def _words(window: int) -> int:
    """How many leave room in the window for the answer alone, whichever they are."""
    most, low, high = window - _ANSWER_TOKENS - window // 32, 1, window
    while high - low > 1:
        middle = (low + high) // 2
        fits = max(_count(_text(middle, number)) for number in range(3)) <= most
        low, high = (middle, high) if fits else (low, middle)
    return low


def _request(case: Case, words: int, number: int) -> ChatRequest:
    sampling = Sampling(max_tokens=_ANSWER_TOKENS, temperature=case.heat, top_p=0.9 if case.heat else None)
    return ChatRequest.of(_text(words, number), sampling=sampling, extra={"ignore_eos": True})


def _count(text: str) -> int:
    messages = [{"role": "user", "content": text}]
    return len(_demo_tokenizer().apply_chat_template(messages, tokenize=True, return_dict=False))


@cache
def _demo_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(demo_safetensors())
    tokenizer.model_max_length = 1 << 30
    return tokenizer


def _written(case: Case, folder: Path) -> Path:
    """A model of this shape, with the demo model's tokenizer made as large as the vocabulary."""
    torch.manual_seed(7)
    shape = {"max_position_embeddings": 32768, "tie_word_embeddings": False, **case.shape}
    config = AutoConfig.for_model(case.kind, **shape)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    _demo_tokenizer().save_pretrained(folder)
    _enlarge(folder / "tokenizer.json", case.shape["vocab_size"])
    return folder


def _enlarge(file: Path, size: int) -> None:
    """More merges, of pairs that no prompt has: the tables of a tokenizer are part of what is held."""
    tokenizer = Tokenizer.from_file(str(file))
    known = json.loads(tokenizer.to_str())
    vocabulary, merges = known["model"]["vocab"], known["model"]["merges"]
    parts = sorted((token for token in vocabulary if len(token) < 6), key=len, reverse=True)
    pairs = ((left, right) for left in parts for right in parts if left + right not in vocabulary)
    number = 1 + max([*vocabulary.values(), *(added["id"] for added in known["added_tokens"])])
    while number < size:
        left, right = next(pairs)
        if left + right not in vocabulary:
            vocabulary[left + right] = number
            merges.append([left, right])
            number += 1
    file.write_text(json.dumps(known))


def _table(results: Iterable[Result]) -> str:
    lines = ["| model | settings | predicted / held, MiB | error |", "|---|---|---|---|"]
    for one in results:
        options = ", ".join(f"{name} {value}" for name, value in one.case.options.items())
        error = f"{(one.predicted - one.held) / MIB:+.1f} MiB, {(one.predicted - one.held) / one.held:+.1%}"
        outside = "" if one.within else " **outside**"
        sizes = f"{one.predicted / MIB:.1f} / {one.held / MIB:.1f}"
        lines.append(f"| {one.case.name} | {options} | {sizes} | {error}{outside} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    table = _table([asyncio.run(measure(case)) for case in CASES])
    print(table)
    if "--write" in sys.argv[1:]:
        before, rest = _PAGE.read_text().split(_MARKS[0])
        _PAGE.write_text(before + _MARKS[0] + table + _MARKS[1] + rest.split(_MARKS[1])[1])


if __name__ == "__main__":
    with apart():
        main()
