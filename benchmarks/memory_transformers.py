"""Memory predicted for the transformers worker against what it then holds: `python -m benchmarks.memory_transformers`.

Models with random weights are written as safetensors, run by our worker on the processor, and given enough prompts at
once to fill the batch and the cache. `--write` puts the table into docs/memory.md.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

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


@dataclass(frozen=True, slots=True)
class Case:
    """`shape` None = the demo model."""

    name: str
    options: dict[str, Any]
    shape: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    case: Case
    predicted: int
    held: int

    @property
    def within(self) -> bool:
        return abs(self.predicted - self.held) <= max(0.05 * self.held, 16e6)


_SMALL = {"num_hidden_layers": 8, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2,
          "intermediate_size": 1536, "vocab_size": 4096}  # fmt: skip
_LARGE = {"num_hidden_layers": 16, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16,
          "intermediate_size": 2816, "vocab_size": 4096}  # fmt: skip
CASES = (
    Case("demo", {"n_ctx": 512, "n_parallel": 8, "dtype": "float32"}),
    Case("grouped heads, float32", {"n_ctx": 1024, "n_parallel": 4, "dtype": "float32"}, _SMALL),
    Case("the same, bfloat16", {"n_ctx": 1024, "n_parallel": 4, "dtype": "bfloat16"}, _SMALL),
    Case("the same, 16 at once", {"n_ctx": 2048, "n_parallel": 16, "dtype": "float32"}, _SMALL),
    Case("every head its own, float32", {"n_ctx": 1024, "n_parallel": 4, "dtype": "float32"}, _LARGE),
    Case("the same, bfloat16", {"n_ctx": 1024, "n_parallel": 8, "dtype": "bfloat16"}, _LARGE),
)


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
    """Run it, keep every slot busy with prompts that fill the cache, look at the most it held."""
    with tempfile.TemporaryDirectory() as folder:
        model = "demo" if case.shape is None else str(_written(case.shape, Path(folder)))
        provider = {"type": "huggingface", "model": model, "timeout": 600, **case.options}
        settings = load_mapping({"llm": {"providers": [provider]}})
        way = ways_of(settings.targets[0], settings, hardware.devices())[0]
        slots, window = case.options["n_parallel"], case.options["n_ctx"]
        asked = [_request(window, number) for number in range(2 * slots)]
        async with Gateway(settings) as gateway:
            await gateway.load("huggingface")
            await asyncio.gather(*(gateway.generate(request) for request in asked))
            pid = gateway.state()["replicas"][0]["pid"]
            return Result(case, way.option.needs["cpu"], hardware.resident_bytes(pid))


def _request(window: int, number: int) -> ChatRequest:
    words = " ".join(f"w{(number * 7919 + place) % 997}" for place in range(window // 16))
    return ChatRequest.of(words, sampling=Sampling(max_tokens=24, temperature=0.0), extra={"ignore_eos": True})


def _written(shape: dict[str, int], folder: Path) -> Path:
    """A Mistral of this shape, with the demo model's tokenizer."""
    torch.manual_seed(7)
    config = MistralConfig(**shape, max_position_embeddings=32768, sliding_window=None, tie_word_embeddings=False)
    MistralForCausalLM(config).to(torch.float32).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(demo_safetensors()).save_pretrained(folder)
    return folder


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
    main()
