"""What it costs to begin: the import, the server without models, its memory at rest."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import psutil

from benchmarks.processes import served
from benchmarks.report import Row

__all__ = ["run"]

_REPEATS = 7


def run() -> list[Row]:
    import_ms = statistics.median(_seconds("import roundhouse") - _seconds("") for _ in range(_REPEATS)) * 1000
    began = time.perf_counter()
    with served("http://127.0.0.1:9") as server:
        start_s = time.perf_counter() - began
        memory = psutil.Process(server.pid).memory_info().rss / 1e6
    return [
        Row("import roundhouse", f"{import_ms:.1f} ms", "<= 100 ms", import_ms <= 100),
        Row("server start, no model", f"{start_s:.2f} s", "<= 1 s", start_s <= 1),
        Row("server memory at rest", f"{memory:.0f} MB", "<= 70 MB", memory <= 70),
    ]


def _seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began
