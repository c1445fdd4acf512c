"""What it costs to record a request, in metrics, history and the watch for drift, and what 100,000 of them leave."""

from __future__ import annotations

import gc
import tempfile
import time
import tracemalloc
from pathlib import Path

from benchmarks.report import Row
from roundhouse.history.recorder import Policy, Recorder
from roundhouse.telemetry.buckets import Gaps
from roundhouse.telemetry.drift import ERROR, TPOT, TTFT, Rule, Series
from roundhouse.telemetry.events import RequestEnded
from roundhouse.telemetry.prometheus import Meter

__all__ = ["run"]

_BATCH = 1000
_BATCHES = 100


def run() -> list[Row]:
    gaps = Gaps()
    for number in range(128):
        gaps.add(number / 1000)
    with tempfile.TemporaryDirectory() as folder:
        meter, recorder = Meter(), Recorder(Policy(Path(folder) / "history.sqlite", 86_400.0, 1 << 30))
        watch = {metric: Series(metric, Rule()) for metric in (TTFT, TPOT, ERROR)}
        try:
            times = [_batch(meter, recorder, watch, gaps) for _ in range(_BATCHES)]
            gc.collect()
            tracemalloc.start()
            _batch(meter, recorder, watch, gaps)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(_BATCHES):
                _batch(meter, recorder, watch, gaps)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
        finally:
            recorder.close()
    typical = sorted(times)[len(times) // 2]
    return [
        Row("recording a request, metrics, history and drift", f"{typical * 1e6:.1f} microseconds",
            "<= 20 microseconds", typical <= 20e-6),
        Row(f"memory after {_BATCH * _BATCHES:,} more of them", f"{grown / 1024:+.0f} KiB", "nothing that grows",
            grown < 64 << 10),
    ]  # fmt: skip


def _batch(meter: Meter, recorder: Recorder, watch: dict[str, Series], gaps: Gaps) -> float:
    """Seconds for each request; what waits for the disk is written between batches, by a thread in earnest."""
    began = time.perf_counter()
    for number in range(_BATCH):
        event = RequestEnded(
            f"r{number}", "default", "demo", "ok", 1.0, 0.01, 0.0, 0.002, 0.2, 0.8, 900, 128, gaps=gaps
        )
        meter.record(event)
        recorder.record(event)
        watch[ERROR].add(0.0)
        watch[TTFT].add(0.2 + number * 1e-6, 900, 900)
        watch[TPOT].add(0.8 / 127, 964, 128)
    took = (time.perf_counter() - began) / _BATCH
    recorder.flush()
    return took
