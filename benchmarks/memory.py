"""Memory predicted before loading against what llama.cpp then holds: `python -m benchmarks.memory [--write]`.

Each model is made on the spot with random weights, run by our worker, and given prompts that fill its slots. The
buffers are those of llama.cpp's own log; what the process holds is its resident memory as the kernel counts it.
`--write` puts the table into docs/memory.md.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from gguf import GGMLQuantizationType as Kind

from benchmarks.apart import apart
from benchmarks.random_models import Shape, write
from benchmarks.report import Row
from roundhouse.engines import launch
from roundhouse.engines.process import Child, Ready
from roundhouse.resources import hardware
from roundhouse.resources.memory import Estimate, LlamaCppSettings, estimate
from roundhouse.store.headers import read_gguf

__all__ = ["Case", "Result", "measure", "run"]

MIB = 1 << 20
_PAGE = Path(__file__).parent.parent / "docs" / "memory.md"
_MARKS = ("<!-- table: python -m benchmarks.memory --write -->\n", "<!-- end of table -->\n")
_BUFFER = re.compile(r"(KV|RS|compute|model|output) buffer size = +([\d.]+) MiB")
_FIRST_WORD = 300  # token ids before are special ones and bytes


@dataclass(frozen=True, slots=True)
class Case:
    """A model and the settings it is run with."""

    name: str
    shape: Shape
    settings: LlamaCppSettings


@dataclass(frozen=True, slots=True)
class Result:
    """`buffers` in bytes by the names of llama.cpp's log; `held` is the process's resident memory in bytes."""

    case: Case
    file_bytes: int
    predicted: Estimate
    buffers: Mapping[str, int]
    held: int

    @property
    def error_bytes(self) -> int:
        return self.predicted.resident - self.held

    @property
    def within(self) -> bool:
        """Within 5 % or 16 MB of what is held."""
        return abs(self.error_bytes) <= max(0.05 * self.held, 16e6)


_LARGE = Shape(layers=16, hidden=1024, heads=16, kv_heads=4, feed_forward=2816, vocabulary=8000)
_LARGEST = Shape(layers=22, hidden=1536, heads=24, kv_heads=4, feed_forward=6144, vocabulary=8000)
_SMALL = Shape(layers=4, hidden=512, heads=8, kv_heads=2, feed_forward=1536)
_GEMMA = Shape("gemma3", layers=12, hidden=512, heads=4, kv_heads=2, head_length=128, tied=True, window=512)
CASES = (
    Case("llama, every head its own", Shape(), LlamaCppSettings(n_ctx=4096)),
    Case("the same, 3 slots", Shape(), LlamaCppSettings(n_ctx=1000, n_parallel=3)),
    Case("llama, grouped heads, tied", Shape(heads=8, kv_heads=2, tied=True), LlamaCppSettings(n_ctx=6000)),
    Case("the same, small batches", Shape(heads=8, kv_heads=2, tied=True), LlamaCppSettings(n_ctx=4096, n_ubatch=128)),
    Case("llama, 4 slots share the cells", _SMALL, LlamaCppSettings(n_ctx=4096, n_parallel=4, kv_unified=True)),
    Case(
        "the same, cache q8_0",
        _SMALL,
        LlamaCppSettings(n_ctx=2048, n_parallel=2, cache_type_k="q8_0", cache_type_v="q8_0"),
    ),
    Case(
        "the same, cache q8_0 and q4_0",
        _SMALL,
        LlamaCppSettings(n_ctx=3000, cache_type_k="q8_0", cache_type_v="q4_0"),
    ),
    Case("the same, no flash attention", _SMALL, LlamaCppSettings(n_ctx=4096, flash_attn=False)),
    Case("large vocabulary, tied", Shape("qwen2", vocabulary=128_000, tied=True), LlamaCppSettings(n_ctx=2048)),
    Case("sliding window", _GEMMA, LlamaCppSettings(n_ctx=2048, n_parallel=2)),
    Case("the same, all cells kept", _GEMMA, LlamaCppSettings(n_ctx=2048, swa_full=True)),
    Case("sliding window, gemma2", Shape("gemma2", layers=8, window=256, tied=True), LlamaCppSettings(n_ctx=4096)),
    Case("8 experts, 2 used", Shape(experts=8, kind=Kind.Q8_0), LlamaCppSettings(n_ctx=2048)),
    Case("recurrent (mamba)", Shape("mamba", hidden=512, heads=0, tied=True), LlamaCppSettings(n_ctx=2048)),
    Case("large, F16", _LARGE, LlamaCppSettings(n_ctx=1024)),
    Case("large, Q8_0", replace(_LARGE, kind=Kind.Q8_0), LlamaCppSettings(n_ctx=512, n_parallel=2)),
    Case("largest, F16, tied", replace(_LARGEST, tied=True), LlamaCppSettings(n_ctx=2048, n_parallel=2)),
    Case("large, Q4_0, tied", replace(_LARGE, kind=Kind.Q4_0, tied=True), LlamaCppSettings(n_ctx=1024)),
)


def run() -> list[Row]:
    """The worst case of all, for `make bench`."""
    results = asyncio.run(_measure_all(CASES))
    worst = max(results, key=lambda result: abs(result.error_bytes) / result.held)
    inside = sum(result.within for result in results)
    return [
        Row(
            f"memory predicted before loading, {len(results)} models and settings",
            f"{inside} within; worst {_signed(worst)} ({worst.case.name})",
            "5 % or 16 MB",
            inside == len(results),
        )
    ]


async def measure(case: Case, folder: Path) -> Result:
    """Make the model in `folder`, run it, fill its slots, look. The file is removed afterwards."""
    path = write(case.shape, folder / "model.gguf")
    try:
        facts = read_gguf(path)
        settings = replace(case.settings, repack="avx2" in hardware.cpu_flags())
        spawn = launch.llamacpp(str(path), _options(settings), cores=hardware.usable_cores())
        child, ready = await Child.start(case.name, spawn, 120)
        try:
            await _fill_every_slot(ready, settings, case.shape.vocabulary)
            held = psutil.Process(child.pid).memory_info().rss
            return Result(case, facts.file_bytes, estimate(facts, settings), _buffers(child.log_tail), held)
        finally:
            await child.stop()
    finally:
        path.unlink()


def _options(settings: LlamaCppSettings) -> dict[str, Any]:
    """Only what differs from the defaults, as a target would have it; the log must show the buffers."""
    plain = LlamaCppSettings()
    changed = {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.name != "repack" and getattr(settings, field.name) != getattr(plain, field.name)
    }
    return {"n_parallel": 1, **changed, "verbosity": 4}


async def _fill_every_slot(ready: Ready, settings: LlamaCppSettings, vocabulary: int) -> None:
    """A prompt as long as the window for each slot, so that everything allocated has been touched."""
    words = vocabulary - _FIRST_WORD
    share = settings.n_parallel if settings.kv_unified else 1
    prompt = [_FIRST_WORD + number * 7919 % words for number in range(settings.n_ctx // share - 8)]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {ready.key}"}) as session:
        for slot in range(settings.n_parallel):
            body = {"prompt": prompt, "n_predict": 2, "id_slot": slot}
            async with session.post(f"{ready.url}/completion", json=body) as response:
                response.raise_for_status()
                await response.read()


def _buffers(log: Iterable[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, size in _BUFFER.findall("\n".join(log)):
        sizes[name] = sizes.get(name, 0) + int(float(size) * MIB)
    return sizes


async def _measure_all(cases: Iterable[Case]) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        return [await measure(case, Path(folder)) for case in cases]


def _signed(result: Result) -> str:
    return f"{result.error_bytes / MIB:+.1f} MiB, {result.error_bytes / result.held:+.1%}"


def _table(results: Iterable[Result]) -> str:
    """Sizes in MiB, as predicted / as measured."""
    lines = [
        "| model | file | settings | cache | compute | held | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        predicted, buffers = result.predicted, result.buffers
        options = ", ".join(f"{name} {value}" for name, value in _options(result.case.settings).items())
        cache = predicted.kv_cache + predicted.recurrent_state
        kind = f"{result.case.name} ({result.case.shape.kind.name})"
        row = [
            kind,
            f"{result.file_bytes / MIB:.0f}",
            options.removesuffix(", verbosity 4").removeprefix("n_parallel 1, "),
            _pair(cache, buffers.get("KV", 0) + buffers.get("RS", 0)),
            _pair(predicted.compute, buffers.get("compute", 0)),
            _pair(predicted.resident, result.held),
            _signed(result) + ("" if result.within else " **outside**"),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _pair(predicted: int, measured: int) -> str:
    return f"{predicted / MIB:.1f} / {measured / MIB:.1f}"


def main() -> None:
    table = _table(asyncio.run(_measure_all(CASES)))
    print(table, end="")
    if "--write" in sys.argv[1:]:
        before, _, rest = _PAGE.read_text().partition(_MARKS[0])
        after = rest.partition(_MARKS[1])[2]
        _PAGE.write_text(before + _MARKS[0] + table + _MARKS[1] + after)


if __name__ == "__main__":
    with apart():
        main()
