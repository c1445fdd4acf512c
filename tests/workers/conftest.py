"""A server of two workers over a backend that answers when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.http import Exchange, FakeServer, fake_server
from tests.fakes.openai import event
from tests.server.conftest import Served, serve

__all__ = ["Held", "House", "house", "until"]

BODY: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "Hello."}]}
_PIECES = ("One", " two", " three")


@dataclass(slots=True)
class Held:
    """Gives the first piece at once; the rest, and a usage of 10 tokens, when `go` is set."""

    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.start()
        for place, text in enumerate(_PIECES):
            if place == 1:
                await self.go.wait()
            await exchange.send(event(choices=[{"delta": {"content": text}}]))
        await exchange.send(event(choices=[{"delta": {}, "finish_reason": "stop"}]))
        await exchange.send(event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3}))
        await exchange.send(b"data: [DONE]\n\n")


@dataclass(slots=True)
class House:
    served: Served
    fake: FakeServer
    held: Held
    config: Path
    client: httpx.AsyncClient

    async def state(self) -> dict[str, Any]:
        answer = await self.client.get("/admin/state")
        told: dict[str, Any] = answer.json()
        return told

    async def workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = (await self.state())["workers"]
        return workers

    async def stream(self, **fields: Any) -> tuple[str, str]:
        """All text of an answer on its own connection, and its finish reason or an error code; empty = it was cut."""
        text, reason = "", ""
        async with httpx.AsyncClient(base_url=self.client.base_url, timeout=30) as client:
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                async with client.stream(
                    "POST", "/v1/chat/completions", json={**BODY, "stream": True, **fields}
                ) as said:
                    assert said.status_code == 200, await said.aread()
                    async for line in said.aiter_lines():
                        if line.startswith("data: {"):
                            told = json.loads(line[6:])
                            if "error" in told:
                                return text, told["error"]["code"]
                            choice = told["choices"][0]
                            text += choice["delta"].get("content") or ""
                            reason = choice["finish_reason"] or reason
        return text, reason

    async def streams(self, count: int, **fields: Any) -> list[asyncio.Task[tuple[str, str]]]:
        """So many that have begun and are held."""
        already = (await self.state())["replicas"][0]["busy"]
        tasks = [asyncio.create_task(self.stream(**fields)) for _ in range(count)]
        await until(self.is_busy(already + count))
        return tasks

    def is_busy(self, count: int) -> Callable[[], Any]:
        async def check() -> bool:
            return bool((await self.state())["replicas"][0]["busy"] == count)

        return check


async def until(check: Callable[[], Any]) -> None:
    while not await check():
        await asyncio.sleep(0.02)


@asynccontextmanager
async def house(folder: Path, more: str = "", *flags: str) -> AsyncIterator[House]:
    held, config = Held(), folder / "c.yaml"
    async with fake_server(held) as fake:
        config.write_text(
            f"llm: {{providers: [{{type: openai, name: one, model: m, endpoint: '{fake.url}'}}]}}\n{more}"
        )
        starting = serve(config, "--workers", "2", *flags)
        served = await asyncio.to_thread(starting.__enter__)
        try:
            root = served.url.removesuffix("/v1")
            async with httpx.AsyncClient(base_url=root, timeout=30) as client:
                yield House(served, fake, held, config, client)
        finally:
            held.go.set()
            await asyncio.to_thread(starting.__exit__, None, None, None)
