"""Servers in processes of their own: ours, and a mock backend that answers at once."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Running", "bare_relay", "mock_backend", "served"]


@dataclass(frozen=True, slots=True)
class Running:
    url: str
    pid: int


@contextmanager
def served(backend_url: str, slots: int | None = None, workers: int = 1) -> Iterator[Running]:
    """`roundhouse serve` over one OpenAI-compatible backend; `url` has no /v1."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "c.yaml"
        more = f", slots: {slots}" if slots else ""
        config.write_text(f"llm: {{providers: [{{type: openai, model: m, endpoint: '{backend_url}'{more}}}]}}\n")
        command = [sys.executable, "-m", "roundhouse", "serve", "--port", "0", "--config", str(config)]
        command += ["--workers", str(workers)]
        with _running(command) as (line, pid):
            yield Running(line.removeprefix("listening on ").strip().removesuffix("/v1"), pid)


@contextmanager
def mock_backend(*pacing: float) -> Iterator[Running]:
    """One that answers at once; with `pacing`, a number of pieces and the seconds between them."""
    with _running([sys.executable, "-m", "benchmarks.mock", *map(str, pacing)]) as (line, pid):
        yield Running(line.strip(), pid)


@contextmanager
def bare_relay(backend_url: str) -> Iterator[Running]:
    with _running([sys.executable, "-m", "benchmarks.bare_relay", backend_url]) as (line, pid):
        yield Running(line.strip(), pid)


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[str, int]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline(), process.pid
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
