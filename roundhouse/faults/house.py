"""Our own server before the faulty backend, with limits scaled down: what `roundhouse faults run --own` tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from roundhouse.faults.backend import Backends

__all__ = ["MODEL", "configuration", "serving"]

MODEL = "faults"
_START_S = 30.0


def configuration(both: Backends, scale: float) -> str:
    """A route over both backends, as vLLM, which can go on from a given text."""
    return f"""
llm:
  providers:
    - {{type: vllm, name: faulty, model: {MODEL}, endpoint: "{both.faulty.url}"}}
    - {{type: vllm, name: spare, model: {MODEL}, endpoint: "{both.spare.url}"}}
routes:
  {MODEL}: [faulty, spare]
limits: {{first_token: {30 * scale}, between_tokens: {15 * scale}}}
breaker: {{open: {5 * scale}, longest: {20 * scale}, slow_start: {10 * scale}, window: {30 * scale}}}
server: {{port: 0}}
"""


@asynccontextmanager
async def serving(text: str) -> AsyncIterator[str]:
    """The URL of `roundhouse serve` over a configuration, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faults.yaml"
        path.write_text(text)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ROUNDHOUSE_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "roundhouse", "serve", "--config", str(path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environ,
        )
        assert process.stdout is not None
        try:
            line = (await asyncio.wait_for(process.stdout.readline(), _START_S)).decode()
            yield line.removeprefix("listening on ").strip()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()
