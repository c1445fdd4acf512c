"""Run all benchmarks, or those named: `python -m benchmarks [startup] [relay] [engine] ...`."""

from __future__ import annotations

import sys
import traceback

from benchmarks import (
    batching,
    download,
    drift,
    engine,
    eviction,
    experiments,
    generator,
    memory,
    memory_transformers,
    paced,
    recording,
    relay,
    startup,
    survival,
    turntable,
    workers,
)
from benchmarks.apart import apart
from benchmarks.report import Row, table

BENCHMARKS = {
    "startup": startup.run,
    "relay": relay.run,
    "paced": paced.run,
    "workers": workers.run,
    "engine": engine.run,
    "batching": batching.run,
    "memory": memory.run,
    "memory_transformers": memory_transformers.run,
    "survival": survival.run,
    "eviction": eviction.run,
    "turntable": turntable.run,
    "experiments": experiments.run,
    "download": download.run,
    "recording": recording.run,
    "drift": drift.run,
    "generator": generator.run,
}


def main() -> None:
    wanted = sys.argv[1:] or list(BENCHMARKS)
    if unknown := set(wanted) - set(BENCHMARKS):
        sys.exit(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    rows: list[Row] = []
    broken: list[str] = []
    for name in wanted:
        print(f"{name} ...", file=sys.stderr)
        try:
            rows += BENCHMARKS[name]()
        except Exception:  # noqa: BLE001 - the others took a quarter of an hour
            traceback.print_exc()
            broken.append(name)
    print(table(rows))
    if broken:
        sys.exit(f"these did not run: {', '.join(broken)}")


with apart():
    main()
