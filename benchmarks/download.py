"""A pull of a large file against curl from the same server on loopback, to the same disk.

curl writes and is done; the pull hashes besides and has its bytes on the disk at the end. Server, curl and pull are
processes of their own, one at a time, in turn, several times; the medians are compared.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import Row

__all__ = ["run"]

_BYTES = 1 << 30
_ROUNDS = 5
_SERVER = """
import sys
from aiohttp import web

async def give(request):
    return web.FileResponse(sys.argv[1], chunk_size=1 << 20, headers={"ETag": '"one"'})

app = web.Application()
app.router.add_get("/{name}", give)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
"""
_PULL = """
import asyncio, json, sys, time
from pathlib import Path
from roundhouse.store.download import Pace, Remote, client_for, fetch
from roundhouse.store.repository import Store

async def main():
    store = Store(Path(sys.argv[2]))
    store.prepare()
    began = time.perf_counter()
    with client_for(Pace()) as client:
        await fetch(store, client, Remote("file.gguf", sys.argv[1]), Pace(), lambda event: None)
    lines = Path("/proc/self/status").read_text().splitlines()  # not getrusage: that has the parent's peak in it
    most = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "bytes": most, "processor_s": time.process_time()}))

asyncio.run(main())
"""


def run() -> list[Row]:
    if shutil.which("curl") is None:
        return [Row("a pull of 1 GB against curl", "there is no curl here", ">= 0.8", None)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        big = folder / "big"
        with big.open("wb") as file:
            block = os.urandom(1 << 24)
            for _ in range(_BYTES // len(block)):
                file.write(block)
        with _served(big) as url:
            rounds = [(_curl(url, folder / "curl"), *_pull(url, folder / "store")) for _ in range(_ROUNDS)]
    plain, pulled = (statistics.median(times) for times in ([r[0] for r in rounds], [r[1] for r in rounds]))
    most = max(r[2] for r in rounds)
    processor_s = statistics.median(r[3] for r in rounds)
    ratio = statistics.median(r[0] / r[1] for r in rounds)
    return [
        Row(
            "a pull of 1 GiB, hashed, against curl",
            f"{_BYTES / pulled / 1e6:.0f} MB/s, ratio {ratio:.2f}; {processor_s:.1f} s of processor time",
            ">= 0.8",
            ratio >= 0.8,
            f"{_BYTES / plain / 1e6:.0f} MB/s",
        ),
        Row("memory of that pull", f"{most / 1e6:.0f} MB", "<= 60 MB", most <= 60e6),
    ]


@contextmanager
def _served(path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", _SERVER, str(path), str(port)])
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/file.gguf"
    finally:
        process.terminate()
        process.wait(10)


def _curl(url: str, target: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["curl", "--silent", "--show-error", "--fail", "--output", str(target), url], check=True)
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def _pull(url: str, store: Path) -> tuple[float, int, float]:
    ended = subprocess.run([sys.executable, "-c", _PULL, url, str(store)], check=True, capture_output=True, text=True)
    shutil.rmtree(store)
    told = json.loads(ended.stdout)
    return told["seconds"], told["bytes"], told["processor_s"]
