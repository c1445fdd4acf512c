"""Where each provider's backend is for the contract: real ones where they run here, servers of ours where not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from roundhouse.engines import launch
from roundhouse.engines.launch import Spawn
from roundhouse.engines.process import Child, Ready
from roundhouse.providers.base import Endpoint
from roundhouse.providers.huggingface import HuggingFaceClient
from roundhouse.providers.llamacpp import LlamaCppClient
from tests.conftest import DEMO, VARO, WHO, rag_query

__all__ = ["DEMO_PROMPT", "WINDOW", "Pair", "child", "endpoint", "huggingface", "llamacpp"]

Pair = tuple[LlamaCppClient, HuggingFaceClient]

DEMO_PROMPT = rag_query(f"{VARO} Marta Lind works as a baker and lives in Varo.", WHO)
WINDOW = 512


def llamacpp(**options: Any) -> Spawn:
    return launch.llamacpp(str(DEMO / "demo-f16.gguf"), {"n_ctx": WINDOW, "n_parallel": 4, **options}, cores=1)


def huggingface(folder: Path = DEMO / "safetensors", **options: Any) -> Spawn:
    settings: Mapping[str, Any] = {"n_ctx": WINDOW, "n_parallel": 4, "dtype": "float32", "device": "cpu", **options}
    return launch.huggingface(str(folder), settings, cores=1)


@asynccontextmanager
async def child(spawn: Spawn) -> AsyncIterator[Ready]:
    process, ready = await Child.start("t", spawn, 90)
    try:
        yield ready
    finally:
        await process.stop()


def endpoint(ready: Ready, **fields: Any) -> Endpoint:
    return Endpoint("t", ready.url, key=ready.key, **fields)
