"""The client of downloads: who gets the token, through which proxy, which failure may pass, its end."""

import asyncio
import base64
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from roundhouse.store.http import Client, Failure
from tests.fakes.http import Exchange, fake_server

TOKEN = {"Authorization": "Bearer hf_secret"}


async def fetched(url: str, headers: dict[str, str] | None = None, stall_s: float = 5.0) -> bytes:
    def get() -> bytes:
        with Client(1, stall_s) as client, client.get(url, headers or {}) as answer:
            return answer.read()

    return await asyncio.to_thread(get)


async def hello(exchange: Exchange) -> None:
    await exchange.whole(b"hello")


def sending_to(place: str, status: int = 302) -> Callable[[Exchange], object]:
    async def script(exchange: Exchange) -> None:
        await exchange.start(status, "text/plain", location=place, content_length="2")
        await exchange.send(b"->")

    return script


async def test_a_token_is_not_sent_to_another_host() -> None:
    """Another port is another host: whoever listens there need not be the hub."""
    async with fake_server(hello) as there, fake_server(sending_to(f"{there.url}/x")) as hub:
        assert await fetched(f"{hub.url}/file", TOKEN) == b"hello"
    assert hub.seen[0].headers["authorization"] == "Bearer hf_secret"
    assert "authorization" not in there.seen[0].headers


async def test_a_token_stays_with_its_host() -> None:
    async def script(exchange: Exchange) -> None:
        await (hello if exchange.path == "/there" else sending_to("/there"))(exchange)

    async with fake_server(script) as hub:
        assert await fetched(f"{hub.url}/file", TOKEN) == b"hello"
    assert [one.headers["authorization"] for one in hub.seen] == ["Bearer hf_secret"] * 2


async def test_redirects_without_an_end_are_given_up() -> None:
    async with fake_server(sending_to("/again")) as hub:
        with pytest.raises(Failure, match="redirects more than") as told:
            await fetched(f"{hub.url}/again")
    assert not told.value.passing


@pytest.mark.parametrize("place", ["http://127.0.0.1:port/", "http://[::1/", "ftp://127.0.0.1/x"])
async def test_a_redirect_to_what_is_no_address_is_said(place: str) -> None:
    async with fake_server(sending_to(place)) as hub:
        with pytest.raises(Failure, match="cannot be used") as told:
            await fetched(f"{hub.url}/file")
    assert not told.value.passing


@pytest.mark.parametrize(("status", "passing"), [(401, False), (404, False), (429, True), (500, True), (503, True)])
async def test_what_may_pass_is_told_apart(status: int, passing: bool) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole(b"no", status)

    async with fake_server(script) as hub:
        with pytest.raises(Failure, match=str(status)) as told:
            await fetched(f"{hub.url}/file")
    assert (told.value.passing, told.value.status) == (passing, status)


@pytest.mark.parametrize(("said", "low", "high"), [("7", 7, 7), ("date", 50, 60), ("soon", None, None)])
async def test_how_long_to_wait_is_read_as_seconds_or_as_a_date(said: str, low: float, high: float) -> None:
    async def script(exchange: Exchange) -> None:
        when = formatdate(time.time() + 60, usegmt=True) if said == "date" else said
        await exchange.whole(b"no", 429, retry_after=when)

    async with fake_server(script) as hub:
        with pytest.raises(Failure) as told:
            await fetched(f"{hub.url}/file")
    after = told.value.after_s
    assert after is None if low is None else after is not None and low <= after <= high


async def test_silence_has_a_limit() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.until_gone()

    async with fake_server(script) as hub:
        with pytest.raises(Failure, match=r"nothing came for 0\.2 s") as told:
            await fetched(f"{hub.url}/file", stall_s=0.2)
    assert told.value.passing


async def test_who_is_not_there_is_said() -> None:
    with pytest.raises(Failure, match="cannot be reached") as told:
        await fetched("http://127.0.0.1:9/file")
    assert told.value.passing


async def test_the_end_of_the_client_interrupts_who_reads() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, "text/plain", content_length="1000")
        await exchange.send(b"x")
        await exchange.until_gone()

    begun = threading.Event()

    def read(client: Client, url: str) -> str:
        try:
            with client.get(url, {}) as answer:
                while answer.read1(1):
                    begun.set()
        except Failure as error:
            return str(error)
        return "ended"

    async with fake_server(script) as hub:
        with Client(1, 60.0) as client:
            reading = asyncio.create_task(asyncio.to_thread(read, client, f"{hub.url}/file"))
            await asyncio.to_thread(begun.wait, 10)
        assert "bytes early" in await asyncio.wait_for(reading, 10)
        with pytest.raises(Failure, match="was ended"), client.get(f"{hub.url}/file", {}):
            pass


async def test_a_proxy_of_the_environment_is_asked_with_its_login(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_server(hello) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://us%65r:pass@"))
        monkeypatch.setenv("no_proxy", "")
        assert await fetched("http://hub.invalid/file") == b"hello"
    asked = proxy.seen[0]
    assert asked.path == "http://hub.invalid/file"
    assert asked.headers["proxy-authorization"] == "Basic " + base64.b64encode(b"user:pass").decode()


async def test_a_host_that_needs_no_proxy_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_server(hello) as hub:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert await fetched(f"{hub.url}/file") == b"hello"


async def test_a_proxy_that_cannot_be_spoken_to_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(Failure, match="proxy, cannot be used") as told:
        await fetched("http://hub.invalid/file")
    assert not told.value.passing


async def test_a_stored_login_is_used_unless_there_is_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with fake_server(hello) as hub:
        await fetched(f"{hub.url}/file")
        await fetched(f"{hub.url}/file", TOKEN)
    login = "Basic " + base64.b64encode(b"ann:secret").decode()
    assert [one.headers["authorization"] for one in hub.seen] == [login, "Bearer hf_secret"]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server with TLS under a certificate of its own: `/down` sends to a place without TLS. And the certificate."""

    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run([*made, *subject], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            down = self.path == "/down"
            self.send_response(302 if down else 200)
            if down:
                self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"secure")

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", certificate
    server.shutdown()
    server.server_close()
    thread.join(10)


async def test_a_certificate_that_is_not_trusted_is_said_at_once(secured: tuple[str, Path]) -> None:
    with pytest.raises(Failure, match="certificate is not trusted") as told:
        await fetched(f"{secured[0]}/file")
    assert not told.value.passing


async def test_a_certificate_of_the_users_own_is_trusted(
    secured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secured[1]))
    assert await fetched(f"{secured[0]}/file") == b"secure"


async def test_nobody_is_sent_from_tls_to_a_place_without(
    secured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secured[1]))
    with pytest.raises(Failure, match="anybody on the way") as told:
        await fetched(f"{secured[0]}/down")
    assert not told.value.passing
