"""Clients that are slow, huge, broken or many: each is refused or cut off, and the others are still served."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.http import fake_server
from tests.fakes.openai import answering
from tests.fakes.threads import in_thread
from tests.server.conftest import Served, serve

GOOD = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = tmp_path_factory.mktemp("abuse") / "c.yaml"
    with in_thread(fake_server(answering)) as fake:
        config.write_text(
            f"llm: {{providers: [{{type: openai, model: m, endpoint: '{fake.url}'}}]}}\n"
            "server: {body_limit_mib: 1, head_limit_kib: 16, head_timeout: 300ms, request_timeout: 500ms}\n"
        )
        with serve(config) as served:
            yield served


@pytest.fixture(scope="module")
def taking(strict: Served) -> list[tuple[str, str]]:
    """Method and path of everything that takes a body: whatever is added is abused too."""
    paths = httpx.get(strict.url.replace("/v1", "/openapi.json")).json()["paths"]
    found = [(method, path) for path, told in paths.items() for method, one in told.items() if "requestBody" in one]
    assert len(found) > 15
    return found


def _still_served(served: Served) -> None:
    assert httpx.post(served.url + "/chat/completions", json=GOOD).status_code == 200


async def _open(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(served.url.split(":")[2].split("/")[0])
    return await asyncio.open_connection("127.0.0.1", port)


async def _sent(served: Served, data: bytes) -> bytes:
    """What comes back until the server closes."""
    reader, writer = await _open(served)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_a_head_that_drips_in_is_cut_off(strict: Served) -> None:
    reader, writer = await _open(strict)
    ended = asyncio.ensure_future(reader.read())
    for byte in b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 1000:
        if ended.done():
            break
        writer.write(bytes([byte]))
        await asyncio.wait({ended}, timeout=0.02)
    assert await asyncio.wait_for(ended, 5) == b""
    writer.close()
    await asyncio.to_thread(_still_served, strict)


async def test_a_connection_that_says_nothing_is_closed(strict: Served) -> None:
    assert await _sent(strict, b"") == b""


async def test_a_body_that_never_ends_is_cut_off(strict: Served) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n\r\n{"
    assert await _sent(strict, head) == b""
    chunked = b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n"
    assert await _sent(strict, chunked) == b""
    await asyncio.to_thread(_still_served, strict)


async def test_a_head_that_is_too_large_is_refused(strict: Served) -> None:
    many = b"".join(b"x-%d: y\r\n" % n for n in range(5000))
    for head in (b"x: " + b"y" * 30_000, many[: many.index(b"x-2500")], many):
        answer = await _sent(strict, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + head + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 431"), answer[:80]
    unfinished = await _sent(strict, b"GET /" + b"a" * 40_000)
    assert unfinished.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


def test_a_body_past_the_limit_is_refused_on_every_path(strict: Served, taking: list[tuple[str, str]]) -> None:
    root = strict.url.removesuffix("/v1")
    with httpx.Client() as client:
        for method, path in taking:
            answer = client.request(method, root + path, content=b" " * ((1 << 20) + 1))
            assert answer.status_code == 413, path
            assert "which is the limit" in answer.text


async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(strict: Served) -> None:
    """Two gigabytes would else be read and thrown away; a client that asks first is never told to go on."""
    for expect in (b"", b"expect: 100-continue\r\n"):
        reader, writer = await _open(strict)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2147483648\r\n"
        writer.write(head + expect + b"\r\n")
        told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert told.startswith(b"HTTP/1.1 413 ")
        assert (b"connection: close" in told) == bool(expect)
        assert b"1 MiB, which is the limit" in await asyncio.wait_for(reader.read(1000), 10)
        await asyncio.wait_for(reader.read(), 10)  # whoever sends none of it holds the connection no longer than others
        writer.close()
    _still_served(strict)


def test_a_name_of_a_megabyte_is_not_sent_back(strict: Served) -> None:
    answer = httpx.post(strict.url + "/chat/completions", json={**GOOD, "model": "m" * 1_000_000})
    assert answer.status_code == 404
    assert len(answer.content) < 1000


BROKEN = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe",
    b'{"messages": "\xff"}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}], "model": "\\ud800", "prompt": "\\ud800", "max_tokens": 1}',
    b'{"model": NaN}',
    b'{"messages": ' + b"[" * 100_000,
    b'{"x": ' + b"[" * 500 + b"]" * 500 + b', "model": "default", "messages": [{"role": "user", "content": "x"}]}',
    b'{"x": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    b'{"seed": 1' + b"0" * 5000 + b', "messages": [{"role": "user", "content": "x"}]}',
]


def test_broken_bodies_are_the_clients_mistake_on_every_path(strict: Served, taking: list[tuple[str, str]]) -> None:
    root = strict.url.removesuffix("/v1")
    with httpx.Client() as client:
        for method, path in taking:
            for body in BROKEN:
                if path == "/admin/reload" and body == b"":
                    continue  # an order without a body
                answer = client.request(method, root + path, content=body)
                assert 400 <= answer.status_code < 500, (path, body[:60], answer.text)
                assert answer.json()["error"]
    _still_served(strict)


async def test_two_lengths_for_one_body_are_refused(strict: Served) -> None:
    """Where a proxy and a server read different ends, the rest of a body would be a request of its own."""
    smuggled = b"0\r\n\r\nGET /admin/state HTTP/1.1\r\nhost: localhost\r\n\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    for lengths in (
        b"content-length: %d\r\ntransfer-encoding: chunked\r\n" % len(smuggled),
        b"content-length: 3\r\ncontent-length: 70\r\n",
        b"content-length: -1\r\n",
        b"content-length: 1x\r\n",
        b"transfer-encoding: chunked, identity\r\n",
    ):
        answer = await _sent(strict, head + lengths + b"\r\n" + smuggled)
        assert answer[:12] in (b"HTTP/1.1 400", b""), (lengths, answer)
        assert b"replicas" not in answer
    await asyncio.to_thread(_still_served, strict)


def test_no_path_leads_out_of_the_page_s_own_files(strict: Served) -> None:
    root = strict.url.removesuffix("/v1")
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/",
    ):
        with httpx.Client() as client:
            url = httpx.URL(root).copy_with(raw_path=path.encode())
            assert client.get(url).status_code == 404, path


async def test_one_connection_more_than_allowed_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    with in_thread(fake_server(answering)) as fake:
        config = tmp_path / "c.yaml"
        config.write_text(
            f"llm: {{providers: [{{type: openai, model: m, endpoint: '{fake.url}'}}]}}\nserver: {{connections: 20}}\n"
        )
        with serve(config) as served:
            idle = [await _open(served) for _ in range(25)]
            request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            assert (await _sent(served, request)).startswith(b"HTTP/1.1 503")
            for _, writer in idle:
                writer.close()
                await writer.wait_closed()
            async with asyncio.timeout(10):
                while not (await _sent(served, request)).startswith(b"HTTP/1.1 200"):
                    await asyncio.sleep(0.02)


async def test_what_is_no_http_is_refused(strict: Served) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01", b"HELO there\r\n\r\n", b"GET http:///%%% HTTP/1.1\r\n\r\n"):
        assert (await _sent(strict, data))[:12] in (b"HTTP/1.1 400", b"")
    await asyncio.to_thread(_still_served, strict)


async def test_a_thousand_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    with in_thread(fake_server(answering)) as fake:
        config = tmp_path / "c.yaml"
        config.write_text(f"llm: {{providers: [{{type: openai, model: m, endpoint: '{fake.url}'}}]}}\n")
        with serve(config) as served:
            idle = [await _open(served) for _ in range(1000)]
            await asyncio.to_thread(_still_served, served)
            for _, writer in idle:
                writer.close()


async def test_a_client_that_does_not_read_its_answer_is_cut_off_and_its_slot_freed(tmp_path: Path) -> None:
    piece = json.dumps({"choices": [{"delta": {"content": "x" * 60_000}}]}).encode()

    async def endless(exchange: Any) -> None:
        await exchange.start()
        while not exchange.gone.is_set():
            await exchange.send(b"data: " + piece + b"\n\n")

    with in_thread(fake_server(endless)) as fake:
        config = tmp_path / "c.yaml"
        config.write_text(
            f"llm: {{providers: [{{type: openai, model: m, endpoint: '{fake.url}'}}]}}\n"
            "server: {stalled_timeout: 300ms}\n"
        )
        with serve(config) as served:
            body = json.dumps({**GOOD, "stream": True}).encode()
            _, writer = await _open(served)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            state = served.url.replace("/v1", "/admin/state")
            await _until_idle(state, fake)
            writer.close()


async def _until_idle(state: str, fake: Any) -> None:
    """The request has begun, and then its slot is free again although the client is still connected."""
    async with httpx.AsyncClient() as client:
        for _ in range(200):
            busy = sum(replica["busy"] for replica in (await client.get(state)).json()["replicas"])
            if fake.seen and not busy:
                return
            await asyncio.sleep(0.05)
    raise AssertionError("the slot was never freed")
