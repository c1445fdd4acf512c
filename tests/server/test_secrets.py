"""No secret comes out of a server by any way: answers and their headers, events, metrics, the page, commands, the log.

Every secret is a canary that stands nowhere else; all that comes out is kept, and searched for all of them at the end.
"""

import base64
import json
import os
import signal
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.http import Exchange, fake_server
from tests.fakes.threads import in_thread
from tests.forge import run
from tests.server.conftest import serve

CLIENT, ADMIN, MISTYPED = "canary-client-0123456789", "canary-admin-0123456789", "canary-mistyped-0123456789"
UPSTREAM, HEADER, PASSWORD = "canary-upstream-key-012345", "canary-header-value-012345", "canary-password-0123456"
ENGINE, ENVIRONMENT, ASKED = "canary-engine-environment", "canary-environment-01234", "canary-asked-by-a-user"
SECRETS = (CLIENT, ADMIN, MISTYPED, UPSTREAM, HEADER, PASSWORD, ENGINE, ENVIRONMENT)


async def _betraying(exchange: Exchange) -> None:
    """A backend that repeats all it was sent in every kind of failure, chosen by what it is asked."""
    sent = json.dumps(exchange.headers)
    said = exchange.body.decode("utf-8", "replace")
    if "as a stream" in said:
        await exchange.start()
        await exchange.send(b'data: {"choices": [{"delta": {"content": "some"}}]}\n\n')
        await exchange.send(b"data: " + json.dumps({"error": {"message": sent}}).encode() + b"\n\n")
    elif "as no json" in said:
        await exchange.start()
        await exchange.send(f"data: {sent[1:]}\n\n".encode())
    elif "cut" in said:
        await exchange.start()
    else:
        status = next((int(one) for one in ("400", "401", "404", "429", "500", "503") if f"as {one}" in said), 500)
        await exchange.whole({"error": {"message": sent}}, status)


@dataclass(slots=True)
class Outputs:
    """All that came out, each with the way it came."""

    root: str
    config: Path
    client: httpx.Client
    log: list[tuple[str, str]] = field(default_factory=list)

    def ask(self, method: str, path: str, key: str = ADMIN, **fields: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}", "accept": "text/html, */*", **fields.pop("headers", {})}
        answer = self.client.request(method, self.root + path, headers=headers, **fields)
        self.log.append((f"{method} {path} {fields}", f"{answer.status_code} {answer.headers!r} {answer.text}"))
        return answer

    def run(self, *command: str) -> None:
        ended = run(*command, env={**os.environ, "ROUNDHOUSE_KEY": ADMIN})
        self.log.append((" ".join(command), ended.stdout + ended.stderr))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outputs]:
    """A server that says all it can, has been asked in every way, was given a broken file, and has stopped."""
    config = tmp_path_factory.mktemp("secrets") / "c.yaml"
    with in_thread(fake_server(_betraying)) as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_OF_THE_ENVIRONMENT", ENVIRONMENT)
        host = fake.url.removeprefix("http://")
        config.write_text(
            "llm:\n  providers:\n"
            f"    - {{type: openai, name: able, model: m, endpoint: '{fake.url}', api_key: {UPSTREAM},\n"
            f"       headers: {{X-Secret: {HEADER}}}}}\n"
            f"    - {{type: openai, name: signed, model: m, endpoint: 'http://user:{PASSWORD}@{host}'}}\n"
            f"    - {{type: openai, name: gone, model: m, endpoint: 'http://user:{PASSWORD}@127.0.0.1:9'}}\n"
            f"    - {{type: ollama, name: named, model: m, endpoint: '{fake.url}',\n"
            "       api_key: '${SECRET_OF_THE_ENVIRONMENT}'}\n"
            f"    - {{type: llamacpp, name: engine, model: demo, env: {{SECRET: {ENGINE}}}}}\n"
            f"auth: {{keys_file: k.json, keys: [{{name: c, key: {CLIENT}}}, {{name: a, key: {ADMIN}, role: admin}}]}}\n"
        )
        with serve(config, before=["--debug"]) as served, httpx.Client(timeout=30) as client:
            found = Outputs(served.url.removesuffix("/v1"), config, client)
            _ask_everything(found)
            good = config.read_text()
            config.write_text(good.replace("role: admin", "role: king").replace("model: m", "model: [m]"))
            os.kill(served.process.pid, signal.SIGHUP)
            found.ask("POST", "/admin/reload", json={})
            found.run("config", "check", "--config", str(config))
            config.write_text(good)
            served.process.send_signal(signal.SIGTERM)
            assert served.process.stderr is not None
            served.process.wait(30)
            found.log.append(("the log", served.process.stderr.read()))
        yield found


def _ask_everything(found: Outputs) -> None:
    document = found.ask("GET", "/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            if path not in ("/admin/live",):
                filled = path.replace("{name}", "able").replace("{id}", "x").replace("{request_id}", "x")
                for key in (ADMIN, CLIENT, MISTYPED):
                    found.ask(method.upper(), filled, key, content=b"{" if method != "get" else None)
    for how in ("as 400", "as 401", "as 404", "as 500", "as 503", "as a stream", "as no json", "cut"):
        for model in ("able", "signed", "gone", "named"):
            body = {"model": model, "messages": [{"role": "user", "content": f"{how} {ASKED}"}], "max_tokens": 5}
            for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
                found.ask("POST", path, json={**body, "roundhouse": {"fallback": False}} if "v1/c" in path else body)
            found.ask("POST", "/v1/chat/completions", json={**body, "stream": True})
    refused = [{"role": "user", "content": "as 429"}]  # once, for it is waited for
    found.ask("POST", "/v1/chat/completions", json={"model": "able", "messages": refused})
    found.ask("POST", "/v1/embeddings", json={"model": "able", "input": ASKED})
    found.ask(
        "POST", "/v1/chat/completions", json={"model": "engine", "messages": [{"role": "user", "content": ASKED}]}
    )
    found.ask("POST", "/admin/unload", json={"target": "engine"})
    basic = base64.b64encode(f"user:{MISTYPED}".encode()).decode()
    found.ask("GET", "/v1/models", headers={"authorization": f"Basic {basic}"})
    found.ask("GET", f"/v1/models?key={MISTYPED}&api_key={MISTYPED}", "x")
    decisions = found.ask("GET", "/admin/decisions").json()["decisions"]
    for one in decisions:
        found.ask("GET", f"/admin/decisions/{one['request_id' if 'request_id' in one else 'id']}")
    with found.client.stream("GET", found.root + "/admin/live", headers={"authorization": f"Bearer {ADMIN}"}) as live:
        found.log.append(("/admin/live", next(live.iter_text())))
    found.ask("GET", "/metrics")
    for command in (("ps",), ("ps", "--json"), ("switch", "able", "nobody"), ("reload",)):
        found.run(*command, "--url", found.root)
    for command in (("config", "show"), ("config", "show", "--json"), ("keys", "list", "--json"), ("doctor",)):
        found.run(*command, "--config", str(found.config))
    found.run("--debug", "ask", f"as 401 {ASKED}", "--model", "able", "--config", str(found.config))


def _forms(secret: str) -> set[str]:
    """As it is, and as it might be written on the way."""
    encoded = base64.b64encode(f"user:{secret}".encode()).decode()
    return {secret, urllib.parse.quote(secret), base64.b64encode(secret.encode()).decode(), encoded}


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_in_no_output(outputs: Outputs, secret: str) -> None:
    for way, text in outputs.log:
        for form in _forms(secret):
            if form in text:
                place = text.index(form)
                raise AssertionError(f"{way}: …{text[max(0, place - 200) : place + 60]}…")


def test_what_was_asked_is_not_in_the_log(outputs: Outputs) -> None:
    assert len(outputs.log) > 150
    assert ASKED not in dict(outputs.log)["the log"]


def test_the_scan_finds_what_is_there(outputs: Outputs) -> None:
    """The same search over an output that must have the words it has: it is not blind."""
    texts = [text for _, text in outputs.log]
    assert any("***" in text for text in texts)
    assert any("this key is not valid" in text for text in texts)
    assert "reload: nothing has changed" in dict(outputs.log)["the log"]
