"""What a cluster gains and what its hop costs: 1, 2 and 4 replicas behind Ray against one replica without it.

On one machine all replicas share its processors, so what more of them gain shows with an engine that sleeps
(benchmarks/sleeper.py); the demo model shows what is left of it where the processors are the limit. All run at the same
time and one is asked. `make bench-ray` runs it, in the environment that has Ray.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from benchmarks.apart import apart
from benchmarks.report import Row, percentile, table
from roundhouse.config import load
from roundhouse.gateway.build import provider_types
from roundhouse.gateway.carrying import CARRYING

__all__ = ["run"]

_REPLICAS = (1, 2, 4)
_SLOTS = 4
_PIECES, _PERIOD_S = 8, 0.05
_SECONDS = 5.0
_SINGLE = 200
_READY_S = 120.0
_SLEEPER = Path(__file__).with_name("sleeper.py")
_ENGINES = {
    "sleeps": f'type: vllm, model: words, executable: "{_SLEEPER}", max_num_seqs: {_SLOTS}, '
    f'env: {{SLEEPER_PIECE_S: "{_PERIOD_S}", SLEEPER_PIECES: "{_PIECES}"}}',
    "demo": "type: llamacpp, model: demo, n_threads: 1",
}
_INSTANT = (
    f'{{type: vllm, model: words, name: instant, executable: "{_SLEEPER}", '
    'env: {SLEEPER_PIECE_S: "0", SLEEPER_PIECES: "1"}, preload: true}'
)


def run() -> list[Row]:
    with _alone() as url:
        direct = {kind: asyncio.run(_rate(url, f"{kind}-1", 1)) for kind in _ENGINES}
        without = asyncio.run(_latencies(url))
    with _cluster() as url:
        rates = {
            (kind, count): asyncio.run(_rate(url, f"{kind}-{count}", count)) for kind in _ENGINES for count in _REPLICAS
        }
        through = asyncio.run(_latencies(url))
    rows = [
        Row(
            f"answers/s, engine {kind}, {count} behind Ray",
            f"{rate:.1f} ({rate / direct[kind]:.2f} of one without)",
            against=f"{direct[kind]:.1f}",
        )
        for (kind, count), rate in rates.items()
    ]
    for share in (0.5, 0.99):
        added = (percentile(through, share) - percentile(without, share)) * 1000
        before = f"{percentile(without, share) * 1000:.2f} ms"
        rows.append(
            Row(f"latency added by the cluster, 1 connection, p{100 * share:.0f}", f"{added:.2f} ms", against=before)
        )
    return rows


def _config(counts: tuple[int, ...]) -> str:
    entries = [
        f"{{{settings}, name: {kind}-{count}, replicas: {{min: {count}, max: {count}}}, preload: true}}"
        for kind, settings in _ENGINES.items()
        for count in counts
    ]
    return f"llm: {{providers: [{', '.join([*entries, _INSTANT])}]}}\nroutes: {{default: [instant]}}\n"


@contextmanager
def _alone() -> Iterator[str]:
    """One machine as it is without a cluster."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "c.yaml"
        config.write_text(_config((1,)))
        command = [sys.executable, "-m", "roundhouse", "serve", "--port", "0", "--config", str(config)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            yield line.removeprefix("listening on ").strip().removesuffix("/v1")
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


@contextmanager
def _cluster() -> Iterator[str]:
    """A Ray of one node that counts more processors than there are."""
    import ray

    from roundhouse.cluster.start import start

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="rh-", dir="/tmp") as folder:
        config = Path(folder) / "c.yaml"
        config.write_text(_config(_REPLICAS) + "server: {port: 18473}\n")
        settings = load(config, environ={}, cwd=Path(folder), types=provider_types())
        options = {"include_dashboard": False, "object_store_memory": 128 << 20, "log_to_driver": False}
        carrying = {"env_vars": {**CARRYING}}
        ray.init("local", num_cpus=32, _temp_dir=folder, runtime_env=carrying, **options)
        service = start(settings)
        try:
            asyncio.run(_up(service.url))
            yield service.url
        finally:
            service.stop(5.0)
            ray.shutdown()


async def _up(url: str) -> None:
    """Until each target has the replicas that it wants."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(_READY_S):
        while True:
            async with http.get(f"{url}/admin/state") as response:
                rows = (await response.json())["replicas"]
            wanted = {row["target"]: int(row["target"].rpartition("-")[2] or 1) for row in rows if "-" in row["target"]}
            if all(row["nodes"].get("running", 0) >= wanted.get(row["target"], 1) for row in rows):
                return
            await asyncio.sleep(0.5)


async def _rate(url: str, model: str, replicas: int) -> float:
    """Answers per second with as many clients as there are slots, and half as many more that wait."""
    ends = time.perf_counter() + 1.0 + _SECONDS
    begins = ends - _SECONDS
    done = 0

    async def client(http: aiohttp.ClientSession, number: int) -> None:
        nonlocal done
        turn = 0
        while time.perf_counter() < ends:
            turn += 1
            await _ask(http, url, model, f"question {number} {turn}")
            done += begins <= time.perf_counter() < ends

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as clients:
        for number in range(_SLOTS * replicas * 3 // 2):
            clients.create_task(client(http, number))
    return done / _SECONDS


async def _latencies(url: str) -> list[float]:
    async with aiohttp.ClientSession() as http:
        taken = []
        for number in range(_SINGLE + 20):
            began = time.perf_counter()
            await _ask(http, url, "instant", f"question {number}")
            taken.append(time.perf_counter() - began)
    return taken[20:]


async def _ask(http: aiohttp.ClientSession, url: str, model: str, text: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
    async with http.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        await response.read()


if __name__ == "__main__":
    with apart():
        print(table(run()))
