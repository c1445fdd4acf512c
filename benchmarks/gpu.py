"""A model of Mistral 7B's shape on a GPU, through the transformers worker: `python -m benchmarks.gpu`.

Random weights, made on the spot (15 GB on disk; `--tiny` makes a small one, to try the command without a GPU). Sixteen
clients send prompts of 500 tokens and take 128 tokens each over the house's own HTTP server. Printed: tokens/s, time to
the first token, time of the whole answer, the GPU's mean utilisation and memory. Budgets: utilisation over 70 %, and
every request answered within 3 s, first token and whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from benchmarks.apart import apart
from benchmarks.report import Row, percentile, table
from roundhouse.resources import hardware

__all__ = ["main"]

_CLIENTS = 16
_REQUESTS = 64
_PROMPT_TOKENS = 500
_ANSWER_TOKENS = 128
_LOOK_S = 0.1
_TINY = {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
_CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds from sending, and tokens that came."""

    first_token_s: float
    total_s: float
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a small model, on whatever there is")
    parser.add_argument("--requests", type=int, default=_REQUESTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), tiny=asked.tiny)
        with _served(Path(folder)) as url:
            print(table(asyncio.run(_measured(url, asked.requests))))


def _write(folder: Path, *, tiny: bool) -> None:
    """Weights on the GPU if there is one: random numbers for seven billion weights take long on a processor."""
    config = MistralConfig(
        **(_TINY if tiny else {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336}),
        vocab_size=32768,
        num_key_value_heads=2 if tiny else 8,
        max_position_embeddings=32768,
        sliding_window=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = MistralForCausalLM(config)
    model.save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # A word for each token, so that every token is seen as text and a prompt's length is that of its words.
    words = {word: number for number, word in enumerate(("<unk>", "<s>", "</s>", *(f"w{n}" for n in range(32765))))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=_CHAT
    ).save_pretrained(folder)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    config = folder / "config.yaml"
    provider: dict[str, Any] = {"type": "huggingface", "name": "big", "model": str(folder), "n_ctx": 2048}
    provider |= {"n_parallel": _CLIENTS, "timeout": 600}
    config.write_text(json.dumps({"llm": {"providers": [provider]}}))
    command = [sys.executable, "-m", "roundhouse", "serve", "--port", "0", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


async def _measured(url: str, requests: int) -> list[Row]:
    """Warm up with one round, then measure with all clients busy."""
    gate = asyncio.Semaphore(_CLIENTS)
    timeout = aiohttp.ClientTimeout(total=1800)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> Answer:
            async with gate:
                return await _ask(session, url, number)

        began = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(_CLIENTS)))
        load_s = time.perf_counter() - began
        busy: list[float] = []
        looking = asyncio.create_task(_look(busy))
        began = time.perf_counter()
        answers = await asyncio.gather(*(one(number) for number in range(100, 100 + requests)))
        took = time.perf_counter() - began
        looking.cancel()
        async with session.get(url.removesuffix("/v1") + "/admin/state") as response:
            memory = (await response.json())["memory"]
    return _rows(answers, took, load_s, busy, memory)


def _rows(answers: list[Answer], took: float, load_s: float, busy: list[float], memory: dict[str, Any]) -> list[Row]:
    first, whole = [one.first_token_s for one in answers], [one.total_s for one in answers]
    held = {place: size for model in memory["models"].values() for place, size in model["taken_bytes"].items()}
    promised = {place: size for model in memory["models"].values() for place, size in model["promised_bytes"].items()}
    used = ", ".join(f"{place}: {size / 2**30:.1f} GiB" for place, size in held.items())
    planned = ", ".join(f"{place}: {size / 2**30:.1f} GiB" for place, size in promised.items())
    mean = sum(busy) / len(busy) if busy else 0.0
    return [
        Row(f"{_CLIENTS} clients, tokens/s", f"{sum(one.tokens for one in answers) / took:.0f}"),
        Row(
            f"first token of {_PROMPT_TOKENS} tokens",
            f"p50 {percentile(first, 0.5):.2f} s, p99 {percentile(first, 0.99):.2f} s, most {max(first):.2f} s",
            "<= 3 s",
            max(first) <= 3,
        ),
        Row(
            f"{_ANSWER_TOKENS} tokens whole",
            f"p50 {percentile(whole, 0.5):.2f} s, p99 {percentile(whole, 0.99):.2f} s, most {max(whole):.2f} s",
            "<= 3 s",
            max(whole) <= 3,
        ),
        Row("mean utilisation of the GPU", f"{mean:.0%}" if busy else "no GPU", "> 70 %", mean > 0.7 if busy else None),
        Row("memory held", used, "", None, f"planned {planned}"),
        Row("load, and the first answers", f"{load_s:.1f} s"),
    ]


async def _ask(session: aiohttp.ClientSession, url: str, number: int) -> Answer:
    words = " ".join(f"w{(number * 7919 + place * 31) % 32765}" for place in range(_PROMPT_TOKENS))
    body = {
        "model": "big",
        "messages": [{"role": "user", "content": words}],
        "stream": True,
        "max_tokens": _ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens = time.perf_counter(), 0.0, 0
    async with session.post(f"{url}/chat/completions", json=body) as response:
        if response.status != 200:
            raise SystemExit(f"the server answered {response.status}: {await response.text()}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"])
            first = first or time.perf_counter() - began
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    return Answer(first, time.perf_counter() - began, tokens)


async def _look(busy: list[float]) -> None:
    while True:
        gpus = await asyncio.to_thread(hardware.gpus)
        if gpus and gpus[0].utilisation is not None:
            busy.append(gpus[0].utilisation)
        await asyncio.sleep(_LOOK_S)


if __name__ == "__main__":
    with apart():
        main()
