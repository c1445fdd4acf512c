"""HTTP itself, below every path: what a parser, a proxy and an old client make of it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.http import Exchange, fake_server
from tests.fakes.openai import answering
from tests.fakes.threads import in_thread
from tests.forge import run
from tests.server.conftest import Served, serve

HOST = b"host: localhost\r\n"
ALIVE = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET /healthz HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = tmp_path_factory.mktemp("protocol") / "c.yaml"
    with in_thread(fake_server(answering)) as fake:
        config.write_text(
            f"llm: {{providers: [{{type: openai, model: m, endpoint: '{fake.url}'}}]}}\n"
            "server: {head_timeout: 300ms, head_limit_kib: 16, keep_alive_timeout: 2s}\n"
        )
        with serve(config) as server:
            yield server


async def _open(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(served.url.split(":")[2].split("/")[0]))


async def _sent(served: Served, data: bytes) -> bytes:
    """What comes back until the server closes; it may reset a connection on which it has not read everything."""
    reader, writer = await _open(served)
    writer.write(data)
    came = b""
    try:
        async with asyncio.timeout(10):
            while piece := await reader.read(1 << 16):
                came += piece
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return came


def _chat(*fields: bytes, version: bytes = b"1.1", stream: bool = False) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/" + version + b"\r\n" + HOST + b"".join(one + b"\r\n" for one in fields)
    if b"transfer-encoding: chunked" in fields:
        return head + b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("length", [(), (b"transfer-encoding: chunked",)])
async def test_an_offer_of_another_protocol_costs_no_body_and_no_later_request(
    served: Served, length: tuple[bytes, ...]
) -> None:
    """Java's own client offers HTTP/2 with every request."""
    offer = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQ")
    answer = await _sent(served, _chat(*offer, *length) + LAST)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"You said: hello" in answer


async def test_an_offer_that_arrives_byte_by_byte_is_read_as_well(served: Served) -> None:
    reader, writer = await _open(served)
    for byte in _chat(b"upgrade: h2c", b"connection: upgrade, close", b"transfer-encoding: chunked"):
        writer.write(bytes([byte]))
        await writer.drain()
    assert b"You said: hello" in await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def test_wherever_the_bytes_are_cut_the_same_is_answered(served: Served) -> None:
    """An offer with chunks, a request with a length and a last one, in three packets of every kind of size."""
    data = _chat(b"connection: upgrade", b"upgrade: h2c", b"transfer-encoding: chunked") + _chat() + LAST

    async def cut(first: int, second: int) -> bytes:
        reader, writer = await _open(served)
        for piece in filter(None, (data[:first], data[first:second], data[second:])):
            writer.write(piece)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer

    for first in range(0, len(data), 29):
        for answer in await asyncio.gather(*(cut(first, second) for second in range(first, len(data), 41))):
            assert answer.count(b"HTTP/1.1 200") == 3, (first, answer)
            assert answer.count(b"You said: hello") == 2


async def test_websockets_and_tunnels_are_not_there(served: Served) -> None:
    socket = b"GET /v1/realtime HTTP/1.1\r\n" + HOST + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    assert (await _sent(served, socket + LAST)).startswith(b"HTTP/1.1 404")
    tunnel = b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n"
    assert (await _sent(served, tunnel)).startswith(b"HTTP/1.1 400")


async def test_an_old_client_gets_a_stream_without_chunks(served: Served) -> None:
    """HTTP/1.0 knows no chunked coding: the sizes would stand in the text."""
    for stream in (True, False):
        head, _, body = (await _sent(served, _chat(version=b"1.0", stream=stream))).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        if stream:
            assert body.startswith(b"data: ")
            assert body.endswith(b"data: [DONE]\n\n")
        else:
            assert json.loads(body)["choices"]


async def test_requests_sent_ahead_are_answered_in_turn_and_not_without_end(served: Served) -> None:
    assert (await _sent(served, ALIVE * 5 + LAST)).count(b"HTTP/1.1 200") == 6
    assert (await _sent(served, ALIVE * 200)).count(b"HTTP/1.1 200") < 200


async def test_fields_after_a_body_are_dropped_and_not_without_end(served: Served) -> None:
    def trailed(fields: bytes) -> bytes:
        return _chat(b"transfer-encoding: chunked").removesuffix(b"\r\n") + fields + b"\r\n"

    answer = await _sent(served, trailed(b"host: evil.example\r\nauthorization: Bearer x\r\n") + LAST)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"HTTP/1.1 200" not in await _sent(served, trailed(b"x: yyyyyyyyyyyyyyyy\r\n" * 5000) + LAST)


async def test_blank_lines_do_not_keep_a_connection_for_ever(served: Served) -> None:
    """They may stand before a request, so they begin none, and they must not stop the clock either."""
    assert await _sent(served, b"\r\n") == b""
    assert (await _sent(served, ALIVE + b"\r\n")).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize(
    "head",
    [
        b"host: localhost\r\nhost: evil.example\r\n",
        b"host: evil.example\r\nhost: localhost\r\n",
        b"host: localhost:evil.example\r\n",
        b"host: [::1]evil.example\r\n",
        b"host: localhost@evil.example\r\n",
        b"host:\r\n",
        b"",
        b"host : localhost\r\n",
        b"host: localhost\r\nx: a\r\n b\r\n",
        b"host: localhost\nx: y\r\n",
        b"host: localhost\r\nx: a\0b\r\n",
    ],
)
async def test_a_head_that_two_readers_could_understand_differently_is_refused(served: Served, head: bytes) -> None:
    answer = await _sent(served, b"GET /admin/state HTTP/1.1\r\n" + head + b"connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400"), answer


async def test_who_hangs_up_behind_a_request_sent_ahead_frees_the_backend_of_the_first(tmp_path: Path) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        asked.set()
        await exchange.until_gone()
        left.set()

    async with fake_server(silent) as fake:
        config = tmp_path / "c.yaml"
        config.write_text(f"llm: {{providers: [{{type: openai, model: m, endpoint: '{fake.url}'}}]}}\n")
        with serve(config) as server:
            _, writer = await _open(server)
            writer.write(_chat() + ALIVE)
            await asyncio.wait_for(asked.wait(), 10)
            writer.close()
            await asyncio.wait_for(left.wait(), 10)


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(ALIVE)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    length = next(line.partition(b":")[2] for line in head.lower().splitlines() if line.startswith(b"content-length"))
    await reader.readexactly(int(length))


async def test_a_connection_may_lie_idle_for_as_long_as_configured_and_less_where_they_are_many(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    target = "llm: {providers: [{type: openai, model: m, endpoint: 'http://127.0.0.1:9'}]}\n"
    config.write_text(target + "server: {connections: 8, keep_alive_timeout: 100ms}\n")
    with serve(config) as served:
        reader, writer = await _open(served)
        await _answered(reader, writer)
        assert await reader.read() == b""
        writer.close()
        config.write_text(target + "server: {connections: 8, keep_alive_timeout: 1h}\n")
        await asyncio.to_thread(run, "reload", "--url", served.url)
        early, *late = [await _open(served) for _ in range(2)]
        await _answered(*early)
        late += [await _open(served) for _ in range(4)]
        for reader, writer in (*late, *late):  # the second time all are known to be there, more than half of the limit
            await _answered(reader, writer)
        for reader, writer in late:
            assert await reader.read() == b""
            writer.close()
        await _answered(*early)
        early[1].close()
