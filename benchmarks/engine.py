"""Managed llama.cpp against the bare engine: tokens per second of the whole path and of its server asked directly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.report import Row
from roundhouse.config import load_mapping
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.engines import launch
from roundhouse.engines.process import Child
from roundhouse.gateway import Gateway
from roundhouse.gateway.demo import demo_gguf
from roundhouse.providers.base import Endpoint, LLMProvider
from roundhouse.providers.llamacpp import LlamaCppClient

__all__ = ["run"]

_TOKENS = 128
_ROUNDS = 6
_OPTIONS = {"n_threads": 1, "n_parallel": 8, "n_ctx": 512}
_REQUEST = ChatRequest.of(
    "Tell me all about the harbour.", sampling=Sampling(max_tokens=_TOKENS, temperature=0.0), extra={"ignore_eos": True}
)


def run() -> list[Row]:
    rows = []
    for streams in (1, 8):
        bare, managed = asyncio.run(_compare(streams))
        ratio = managed / bare
        rows.append(
            Row(
                f"managed llama.cpp, {streams} at once",
                f"{managed:.0f} tokens/s, ratio {ratio:.3f}",
                ">= 0.97",
                ratio >= 0.97,
                f"{bare:.0f} tokens/s",
            )
        )
    return rows


async def _compare(streams: int) -> tuple[float, float]:
    """Tokens/s of the bare engine and of the managed one, interleaved so that the machine's moods fall on both."""
    settings = load_mapping({"llm": {"providers": [{"type": "llamacpp", "model": "demo", **_OPTIONS}]}})
    child, ready = await Child.start("bare", launch.llamacpp(str(demo_gguf()), _OPTIONS, cores=1), 60)
    client: LLMProvider = LlamaCppClient(Endpoint("bare", ready.url, key=ready.key))
    async with Gateway(settings) as gateway:

        async def through_gateway() -> None:
            await gateway.generate(_REQUEST)

        async def direct() -> None:
            await client.agenerate(_REQUEST)

        await asyncio.gather(through_gateway(), direct())
        spent = {direct: 0.0, through_gateway: 0.0}
        for turn in range(_ROUNDS):
            for ask in (direct, through_gateway) if turn % 2 else (through_gateway, direct):
                spent[ask] += await _timed(ask, streams)
    await client.aclose()
    await child.stop()
    tokens = _TOKENS * streams * _ROUNDS
    return tokens / spent[direct], tokens / spent[through_gateway]


async def _timed(ask: Callable[[], Awaitable[None]], streams: int) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(streams)))
    return time.perf_counter() - began
