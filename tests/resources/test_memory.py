"""Prediction against what llama.cpp says it allocates and what its process then holds."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from roundhouse.engines import launch
from roundhouse.engines.process import Child
from roundhouse.resources.memory import Estimate, LlamaCppSettings, companions, estimate, no_fit
from roundhouse.store.headers import read_gguf

MIB = 1 << 20


async def _loaded(path: Path, options: Mapping[str, Any]) -> tuple[dict[str, float], int, launch.Spawn]:
    """Buffer sizes in MiB as the log tells them, the process's memory, and what was started."""
    spawn = launch.llamacpp(str(path), {**options, "verbosity": 4}, cores=1)
    child, _ = await Child.start("t", spawn, 60)
    await asyncio.sleep(0.1)
    said = " ".join(child.log_tail)
    sizes = {
        name: float(size) for name, size in re.findall(r"(KV|compute|model|output) buffer size = +([\d.]+) MiB", said)
    }
    held = psutil.Process(child.pid).memory_info().rss
    await child.stop()
    return sizes, held, spawn


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 1024},
        {"n_ctx": 300, "n_parallel": 3},
        {"n_ctx": 1024, "n_parallel": 2, "cache_type_k": "q8_0", "cache_type_v": "q8_0", "flash_attn": True},
        {"n_ctx": 1000, "kv_unified": True},
    ],
    ids=["plain", "padded", "quantised", "unified"],
)
async def test_the_cache_is_as_large_as_predicted(demo_gguf: Path, options: dict[str, Any]) -> None:
    sizes, _, spawn = await _loaded(demo_gguf, options)
    assert spawn.settings is not None
    predicted = estimate(read_gguf(demo_gguf), LlamaCppSettings.of(spawn.settings))
    assert predicted.kv_cache / MIB == pytest.approx(sizes["KV"], abs=0.02)


async def test_a_draft_model_is_loaded_and_counted(demo_gguf: Path) -> None:
    """It has buffers of its own, as large as those of the model that it is here."""
    options = {"n_ctx": 512, "n_parallel": 2, "cache_type_k": "q8_0", "draft_model": str(demo_gguf)}
    settings = LlamaCppSettings.of(options)
    spawn = launch.llamacpp(str(demo_gguf), {**options, "verbosity": 4}, cores=1)
    child, _ = await Child.start("t", spawn, 60)
    await asyncio.sleep(0.1)
    said = " ".join(child.log_tail)
    held = psutil.Process(child.pid).memory_info().rss
    await child.stop()
    caches = [float(size) for size in re.findall(r"KV buffer size = +([\d.]+) MiB", said)]
    facts = read_gguf(demo_gguf)
    alone = [estimate(facts, replace(settings, cache_type_k=kind)).kv_cache / MIB for kind in ("q8_0", "f16")]
    assert caches == pytest.approx(alone, abs=0.02)
    beside = companions(facts, 0, settings)
    assert beside > facts.weight_bytes + alone[1] * MIB
    assert held <= estimate(facts, settings).total + beside + 16 * MIB


def test_adapters_are_counted_by_their_size() -> None:
    assert companions(None, 5 * MIB, LlamaCppSettings()) == 5 * MIB


async def test_the_process_holds_no_more_than_predicted(demo_gguf: Path) -> None:
    _, held, spawn = await _loaded(demo_gguf, {"n_ctx": 1024})
    assert spawn.settings is not None
    predicted = estimate(read_gguf(demo_gguf), LlamaCppSettings.of(spawn.settings))
    assert held <= predicted.total + 16 * MIB


def test_what_does_not_fit_says_what_would_help() -> None:
    large = Estimate(weights=10 * MIB, kv_cache=4096 * MIB, compute=0, prompt_cache=0, runtime=0)
    error = no_fit(large, 1024 * MIB, "t")
    assert re.search(r"needs 4\.01 GiB of memory and 1\.00 GiB may be used; .*lower n_ctx", str(error))
    assert (error.needed_bytes, error.free_bytes) == (large.total, 1024 * MIB)
