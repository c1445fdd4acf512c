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
import pytest
import pytest_asyncio

from tests.fakes.http import Exchange, FakeServer, fake_server
from tests.fakes.openai import event
from tests.server.conftest import Served, serve

__all__ = ["KEY", "Held", "House", "house", "until"]

KEY = "a-key-of-twenty-four-chars"

BODY: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "Hello."}]}
_PIECES = ("One", " two", " three")


@dataclass(slots=True)
class Held:
    """Gives the first piece at once; the rest, and a usage of 10 tokens, when `go` is set."""

    go: asyncio.Event = field(default_factory=asyncio.Event)

    def again(self) -> None:
        """Hold whoever asks from now on."""
        self.go = asyncio.Event()

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

    async def counted(self, series: str) -> float:
        """A number of its metrics, 0 if it has never been."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} ")), 0.0)

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(tmp_path_factory.mktemp("plain")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _limited(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    limits = ("requests_per_minute: 7", "concurrent: 3", "tokens_per_minute: 25")
    keys = [f"{{name: k{place}, key: k{place}-{KEY}, {limit}}}" for place, limit in enumerate(limits)]
    auth = f"auth: {{keys: [{', '.join(keys)}, {{name: root, key: root-{KEY}, role: admin}}]}}\n"
    async with house(tmp_path_factory.mktemp("limited"), auth) as found:
        found.client.headers["authorization"] = f"Bearer root-{KEY}"
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def here(_plain: House) -> AsyncIterator[House]:
    """A house that several tests share: idle at the beginning of each, and to be left as it was."""
    async with _borrowed(_plain):
        yield _plain


@pytest_asyncio.fixture(loop_scope="module")
async def limited(_limited: House) -> AsyncIterator[House]:
    """Another, with a key for each kind of limit; its client is the administrator."""
    async with _borrowed(_limited):
        yield _limited


@asynccontextmanager
async def _borrowed(found: House) -> AsyncIterator[None]:
    found.held.again()
    yield
    found.held.go.set()
    await until(found.is_busy(0))
