"""Ollama pulls into its own store; how far it is and why it failed is passed on."""

import pytest

from roundhouse.core.errors import DownloadFailed
from roundhouse.store.download import Fetched, Pace
from roundhouse.store.ollama import pull_into_ollama
from tests.fakes.http import Exchange, fake_server

RECORDS = [
    b'{"status":"pulling manifest"}\n',
    b'{"status":"pulling abc","digest":"sha256:abc","total":100,"completed":40}\n',
    b'{"status":"pulling abc","digest":"sha256:abc","total":100,"completed":100}\n',
]
SUCCESS = b'{"status":"success"}\n'


async def _pulled(*records: bytes, status: int = 200) -> list[Fetched]:
    async def script(exchange: Exchange) -> None:
        assert (exchange.path, exchange.json) == ("/api/pull", {"model": "mistral:7b", "stream": True})
        await exchange.start(status, "application/x-ndjson")
        await exchange.send(b"".join(records))

    told: list[Fetched] = []
    async with fake_server(script) as server:
        await pull_into_ollama(server.url, "mistral:7b", pace=Pace(), listen=told.append)
    return told


async def test_its_progress_is_passed_on() -> None:
    assert [(event.done, event.size) for event in await _pulled(*RECORDS, SUCCESS)] == [(40, 100), (100, 100)]


@pytest.mark.parametrize(
    ("records", "status", "said"),
    [
        ((b'{"error":"pull model manifest: file does not exist"}\n',), 200, "file does not exist"),
        (RECORDS, 200, "without saying success"),
        ((b"<html>",), 200, "did not pull"),
        ((b"no such page",), 404, "404"),
    ],
)
async def test_what_went_wrong_is_said(records: tuple[bytes, ...], status: int, said: str) -> None:
    with pytest.raises(DownloadFailed, match=said):
        await _pulled(*records, status=status)


async def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(DownloadFailed, match="did not pull"):
        await pull_into_ollama("http://127.0.0.1:9", "mistral:7b", pace=Pace(), listen=lambda event: None)
