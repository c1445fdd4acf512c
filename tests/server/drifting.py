"""A server whose backend becomes slow at will."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.http import Exchange, fake_server
from tests.fakes.openai import answering
from tests.fakes.threads import in_thread
from tests.server.conftest import serve

__all__ = ["Drifting", "drifting"]


@dataclass
class Drifting:
    root: str
    slow: threading.Event = field(default_factory=threading.Event)

    def ask(self, count: int) -> None:
        body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "Hello."}]}).encode()
        for _ in range(count):
            with urllib.request.urlopen(f"{self.root}/v1/chat/completions", data=body, timeout=30) as answer:
                answer.read()


@contextmanager
def drifting(folder: Path) -> Iterator[Drifting]:
    slow = threading.Event()

    async def script(exchange: Exchange) -> None:
        if slow.is_set():
            await asyncio.sleep(0.5)  # four times what a busy machine may take over one that is learned from
        await answering(exchange)

    with in_thread(fake_server(script)) as fake:
        (folder / "c.yaml").write_text(
            f"llm: {{providers: [{{type: openai, name: chat, model: m, endpoint: '{fake.url}'}}]}}\n"
            "telemetry: {drift: {baseline: 100, slower: 4, apart: 0s}}\n"
        )
        with serve(folder / "c.yaml") as server:
            yield Drifting(server.url.removesuffix("/v1"), slow)
