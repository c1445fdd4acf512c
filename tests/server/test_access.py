"""Nobody gets in who should not: keys, roles, hosts, origins, and what is never shown."""

import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fakes.http import fake_server
from tests.fakes.openai import answering
from tests.fakes.threads import in_thread
from tests.forge import run
from tests.server.conftest import Served, serve

HELLO: Any = [{"role": "user", "content": "hello"}]
UPSTREAM_SECRET = "upstream-secret-0123456789"
CONFIGURED = "configured-key-0123456789"


def _keys(config: Path, *arguments: str) -> str:
    return run("keys", *arguments, "--config", str(config), check=True).stdout.strip()


@dataclass(slots=True)
class Guarded:
    served: Served
    root: str
    config: Path
    client: str
    admin: str
    limited: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    config = folder / "c.yaml"
    with in_thread(fake_server(answering)) as fake:
        config.write_text(
            "llm:\n  providers:\n"
            f"    - {{type: openai, name: able, model: m, endpoint: '{fake.url}', api_key: {UPSTREAM_SECRET}}}\n"
            f"    - {{type: openai, name: other, model: m, endpoint: '{fake.url}'}}\n"
            "server: {origins: ['https://app.example.com']}\n"
            f"auth: {{keys_file: keys.json, keys: [{{name: ci, key: {CONFIGURED}}}]}}\n"
        )
        client = _keys(config, "create", "ann", "--route", "able")
        admin = _keys(config, "create", "root", "--role", "admin")
        limited = _keys(config, "create", "slow", "--requests-per-minute", "1")
        with serve(config) as served:
            yield Guarded(served, served.url.removesuffix("/v1"), config, client, admin, limited)


def _get(guarded: Guarded, path: str, key: str = "", **headers: str) -> httpx.Response:
    if key:
        headers["authorization"] = f"Bearer {key}"
    return httpx.get(guarded.root + path, headers=headers)


def test_without_a_key_only_health_and_the_page_answer(guarded: Guarded) -> None:
    for path in ("/healthz", "/readyz", "/", "/openapi.json", "/api/version"):
        assert _get(guarded, path).status_code == 200, path
    for path in ("/v1/models", "/api/tags", "/admin/state", "/admin/decisions/x", "/nowhere", "/v1/models/able"):
        assert _get(guarded, path).status_code == 401, path
    with (
        openai.OpenAI(base_url=guarded.served.url, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_each_wire_says_it_in_its_own_form(guarded: Guarded) -> None:
    assert isinstance(httpx.post(guarded.root + "/api/chat", json={}).json()["error"], str)
    told = httpx.post(guarded.root + "/v1/messages", json={}).json()
    assert (told["type"], told["error"]["type"]) == ("error", "authentication_error")


def test_both_headers_carry_a_key(guarded: Guarded) -> None:
    assert _get(guarded, "/v1/models", guarded.client).status_code == 200
    assert _get(guarded, "/v1/models", **{"x-api-key": CONFIGURED}).status_code == 200


def test_a_client_is_no_admin(guarded: Guarded) -> None:
    for path in ("/admin/state", "/admin/live", "/admin/decisions", "/admin/decisions/x", "/admin/whatever"):
        assert _get(guarded, path, guarded.client).status_code == 403, path
    assert _get(guarded, "/admin/state", guarded.admin).status_code == 200
    for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
        asked = httpx.request(
            method, guarded.root + path, json={"model": "able"}, headers={"authorization": f"Bearer {guarded.client}"}
        )
        assert asked.status_code == 403


def test_a_key_sees_and_uses_its_own_routes_only(guarded: Guarded) -> None:
    with openai.OpenAI(base_url=guarded.served.url, api_key=guarded.client, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["able"]
        assert client.chat.completions.create(model="able", messages=HELLO).choices
        for refused in ("other", "default"):
            with pytest.raises(openai.PermissionDeniedError):
                client.chat.completions.create(model=refused, messages=HELLO)
        with pytest.raises(openai.PermissionDeniedError):
            client.embeddings.create(model="other", input="x")


def test_a_rate_is_kept_and_told(guarded: Guarded) -> None:
    with openai.OpenAI(base_url=guarded.served.url, api_key=guarded.limited, max_retries=0) as client:
        client.chat.completions.create(model="default", messages=HELLO)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="default", messages=HELLO)
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_key_made_or_revoked_while_the_server_runs_counts_soon(guarded: Guarded) -> None:
    secret = _keys(guarded.config, "create", "late")
    _until(guarded, secret, 200)
    _keys(guarded.config, "revoke", "late")
    _until(guarded, secret, 401)


def _until(guarded: Guarded, key: str, status: int) -> None:
    for _ in range(100):
        if _get(guarded, "/v1/models", key).status_code == status:
            return
        time.sleep(0.05)
    raise AssertionError(f"{status} never came")


def test_a_foreign_host_or_page_is_refused(guarded: Guarded) -> None:
    assert _get(guarded, "/healthz", host="evil.example").status_code == 400
    assert _get(guarded, "/v1/models", guarded.client, origin="https://evil.example").status_code == 403
    assert _get(guarded, "/healthz", **{"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403
    assert _get(guarded, "/", **{"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200
    for odd in ("null", "http://[", "://", "x" * 1000, "http://\xff"):
        asked = httpx.get(guarded.root + "/v1/models", headers={"origin": odd.encode("latin-1")})
        assert asked.status_code == 403, odd
    assert _get(guarded, "/v1/models", guarded.client, origin=guarded.root).status_code == 200


def test_an_allowed_site_gets_cors_headers_and_its_preflight(guarded: Guarded) -> None:
    site = "https://app.example.com"
    answer = _get(guarded, "/v1/models", guarded.client, origin=site)
    assert answer.headers["access-control-allow-origin"] == site
    asked = httpx.options(guarded.root + "/v1/chat/completions", headers={"origin": site})
    assert asked.status_code == 204
    assert "authorization" in asked.headers["access-control-allow-headers"]


def test_a_page_of_another_port_is_another_page(guarded: Guarded) -> None:
    """To a browser http://localhost:3000 is the same site as we are, and yet somebody else's program."""
    assert _get(guarded, "/healthz", **{"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}).status_code == 403
    assert _get(guarded, "/healthz", origin="http://127.0.0.1:1").status_code == 403


def test_a_preflight_allows_what_the_client_of_an_allowed_page_sends(guarded: Guarded) -> None:
    asked = {
        "origin": "https://app.example.com",
        "access-control-request-headers": "authorization,x-stainless-os,anthropic-version",
        "access-control-request-private-network": "true",
    }
    allowed = httpx.options(guarded.root + "/v1/chat/completions", headers=asked).headers
    assert "x-stainless-os" in allowed["access-control-allow-headers"]
    assert allowed["access-control-allow-private-network"] == "true"


def test_without_keys_an_allowed_page_asks_models_and_orders_nothing(tmp_path: Path) -> None:
    site, config = {"origin": "https://app.example.com"}, tmp_path / "c.yaml"
    with in_thread(fake_server(answering)) as fake:
        config.write_text(
            f"llm: {{providers: [{{type: openai, name: able, model: m, endpoint: '{fake.url}'}}]}}\n"
            f"server: {{origins: ['{site['origin']}']}}\nauth: {{keys_file: keys.json}}\n"
        )
        with serve(config) as served:
            root = served.url.removesuffix("/v1")
            assert httpx.post(served.url + "/chat/completions", json={"messages": HELLO}, headers=site).is_success
            for path, body in (("/admin/unload", {"target": "able"}), ("/admin/reload", {})):
                assert httpx.post(root + path, json=body, headers=site).status_code == 403
            assert httpx.get(root + "/admin/state", headers=site).status_code == 403
            assert httpx.get(root + "/admin/state").status_code == 200


def test_a_head_request_wants_what_a_get_wants(guarded: Guarded) -> None:
    assert httpx.head(guarded.root + "/healthz").status_code == 200
    assert httpx.head(guarded.root + "/v1/models").status_code == 401
    assert httpx.head(guarded.root + "/v1/models", headers={"x-api-key": CONFIGURED}).status_code == 200


def test_every_answer_has_the_security_headers(guarded: Guarded) -> None:
    for path in ("/healthz", "/", "/v1/models", "/nope"):
        headers = _get(guarded, path, accept="text/html").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers
    policy = _get(guarded, "/", accept="text/html").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_client_cannot_name_another_upstream(guarded: Guarded, tmp_path: Path) -> None:
    async def never(exchange: Any) -> None:
        raise AssertionError("it was asked")

    with in_thread(fake_server(never)) as trap:
        body = {"model": "able", "messages": HELLO, "api_base": trap.url, "base_url": trap.url, "endpoint": trap.url}
        sent = {"authorization": f"Bearer {guarded.admin}"}
        assert httpx.post(guarded.root + "/v1/chat/completions", json=body, headers=sent).status_code == 200
        assert trap.seen == []


def test_commands_at_the_terminal_send_the_key_of_the_environment(guarded: Guarded) -> None:
    refused = run("ps", "--url", guarded.root)
    assert refused.returncode == 1
    assert "ROUNDHOUSE_KEY" in refused.stderr
    shown = run("ps", "--url", guarded.root, env={**os.environ, "ROUNDHOUSE_KEY": guarded.admin}, check=True)
    assert "able" in shown.stdout


def test_a_server_with_watchers_stops_at_once(tmp_path: Path) -> None:
    """The page's stream of figures has no end of its own, and must not hold the server up."""
    config = tmp_path / "c.yaml"
    config.write_text("llm: {providers: [{type: openai, endpoint: 'http://127.0.0.1:9'}]}\nserver: {drain: 60}\n")
    with serve(config) as served, httpx.stream("GET", served.url.replace("/v1", "/admin/live")) as watching:
        assert b"snapshot" in next(watching.iter_bytes())
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) is not None


def test_a_public_address_needs_a_key_and_is_served_with_one(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("llm: {providers: [{type: openai, endpoint: 'http://127.0.0.1:9'}]}\nauth: {keys_file: k.json}\n")
    refused = run("serve", "--host", "0.0.0.0", "--port", "0", "--config", str(config))
    assert refused.returncode == 2
    assert "roundhouse keys create" in refused.stderr
    secret = _keys(config, "create", "ann")
    with serve(config, "--host", "0.0.0.0") as served:
        port = served.url.split(":")[2].split("/")[0]
        url = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"authorization": f"Bearer {secret}"}).status_code == 200


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    """A configuration with a certificate of its own; clients have 300 ms to begin."""
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    made = ["openssl", *command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "k.pem", "-out", "c.pem"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    config = tmp_path / "c.yaml"
    config.write_text(
        "llm: {providers: [{type: openai, endpoint: 'http://127.0.0.1:9'}]}\n"
        "server: {tls_cert: c.pem, tls_key: k.pem, head_timeout: 300ms}\n"
    )
    return config


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_handshake_that_never_ends_is_cut_off_as_a_slow_head_is(certified: Path, workers: str) -> None:
    """The minute that asyncio gives would let strangers hold every descriptor."""
    with serve(certified, "--workers", workers) as served:
        port = int(served.url.split(":")[2].split("/")[0])
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(begun)
                assert connection.recv(100) == b""
        trusted = ssl.create_default_context(cafile=str(certified.parent / "c.pem"))
        assert httpx.get(served.url.replace("/v1", "/healthz"), verify=trusted).status_code == 200


def test_commands_reach_a_server_whose_certificate_they_are_told_to_trust(certified: Path) -> None:
    with serve(certified) as served:
        refused = run("ps", "--url", served.url)
        assert refused.returncode == 1
        assert "a certificate that is not trusted here" in refused.stderr
        assert "$SSL_CERT_FILE" in refused.stderr
        run("ps", "--url", served.url, env={**os.environ, "SSL_CERT_FILE": str(certified.parent / "c.pem")}, check=True)


def test_tls_by_files(tmp_path: Path) -> None:
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    made = ["openssl", *command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "k.pem", "-out", "c.pem"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    config = tmp_path / "c.yaml"
    base = "llm: {providers: [{type: openai, endpoint: 'http://127.0.0.1:9'}]}\n"
    config.write_text(base + "server: {tls_cert: c.pem, tls_key: k.pem}\n")
    with serve(config) as served:
        assert served.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(tmp_path / "c.pem"))
        assert httpx.get(served.url.replace("/v1", "/healthz"), verify=trusted).status_code == 200
    for bad in ("{tls_cert: c.pem}", "{tls_cert: c.pem, tls_key: none.pem}", "{tls_cert: k.pem, tls_key: c.pem}"):
        config.write_text(base + f"server: {bad}\n")
        ended = run("serve", "--port", "0", "--config", str(config))
        assert ended.returncode == 2
        assert "server.tls" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_backend_that_repeats_its_key_in_an_error_does_not_betray_it(tmp_path: Path) -> None:
    """Some services put the key they were sent into the message of a 401."""

    async def betraying(exchange: Any) -> None:
        sent = exchange.headers["authorization"].partition(" ")[2]
        await exchange.whole({"error": {"message": f"Incorrect API key provided: {sent}"}}, 401)

    with in_thread(fake_server(betraying)) as fake:
        config = tmp_path / "c.yaml"
        provider = f"{{type: openai, endpoint: '{fake.url}', api_key: {UPSTREAM_SECRET}}}"
        config.write_text(f"llm: {{providers: [{provider}]}}")
        with serve(config) as served:
            told = httpx.post(served.url + "/chat/completions", json={"messages": HELLO})
    assert told.status_code == 502
    assert UPSTREAM_SECRET not in told.text
