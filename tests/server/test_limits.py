"""What a key may use is counted on every wire, even of answers that nobody stayed for; and it hears of its own only."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.http import Exchange, fake_server
from tests.fakes.openai import answering
from tests.fakes.threads import in_thread
from tests.forge import run
from tests.server.conftest import Served, serve

ADMIN, TENANT, LONG = "the-admins-key-0123456789", "the-tenants-key-0123456789", "word " * 400


class Limited:
    """A server with a key for each limit, over a backend that goes on until told to end, where the text says so."""

    def __init__(self, served: Served, config: Path) -> None:
        self.root = served.url.removesuffix("/v1")
        self._config = config
        self._made = 0

    def key(self, *limits: str) -> dict[str, str]:
        """A new one, as headers."""
        self._made += 1
        made = run("keys", "create", f"k{self._made}", *limits, "--config", str(self._config), check=True)
        headers = {"authorization": f"Bearer {made.stdout.strip()}"}
        while httpx.get(self.root + "/v1/models", headers=headers).status_code == 401:
            threading.Event().wait(0.05)  # the server looks for new keys once a second
        return headers

    def post(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> httpx.Response:
        return httpx.post(self.root + path, headers=headers, json=body, timeout=20)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    async def script(exchange: Exchange) -> None:
        if exchange.method == "POST" and "for ever" in exchange.body.decode():
            await exchange.start()
            while not exchange.gone.is_set():
                await exchange.send(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
        else:
            await answering(exchange)

    config = tmp_path_factory.mktemp("limits") / "c.yaml"
    with in_thread(fake_server(script)) as fake:
        able = f"{{type: openai, name: able, model: m, endpoint: '{fake.url}'}}"
        other = f"{{type: openai, name: secret-project, model: n, endpoint: '{fake.url}'}}"
        keys = f"[{{name: root, key: {ADMIN}, role: admin}}, {{name: tenant, key: {TENANT}, routes: [able, gone]}}]"
        config.write_text(f"llm: {{providers: [{able}, {other}]}}\nauth: {{keys_file: k.json, keys: {keys}}}\n")
        with serve(config) as served:
            yield Limited(served, config)


def _asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "able", "max_tokens": 9, "messages": [{"role": "user", "content": text}], **fields}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_who_hangs_up_in_a_stream_has_paid_for_the_prompt_and_what_was_written(limited: Limited, path: str) -> None:
    headers = limited.key("--tokens-per-minute", "100")
    body = _asked(f"for ever {LONG}", stream=True)
    with httpx.stream("POST", limited.root + path, headers=headers, json=body) as answer:
        assert answer.status_code == 200
        next(answer.iter_bytes())
    refused = limited.post(path, headers, _asked("hello"))
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 100  # the prompt alone is 500 tokens, five minutes' worth


def test_who_does_not_wait_for_a_whole_answer_has_paid_as_well(limited: Limited) -> None:
    headers = limited.key("--tokens-per-minute", "100")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(limited.root + "/v1/chat/completions", headers=headers, json=_asked(f"for ever {LONG}"), timeout=1.0)
    assert limited.post("/v1/chat/completions", headers, _asked("hello")).status_code == 429


def test_the_tokens_of_a_whole_answer_are_those_that_the_backend_counted(limited: Limited) -> None:
    headers = limited.key("--tokens-per-minute", "15")  # two answers of ten
    for status in (200, 200, 429):
        assert limited.post("/v1/chat/completions", headers, _asked("hello")).status_code == status


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/chat/completions", {"n": 3}), ("/v1/completions", {"prompt": ["a", "b", "c"]})],
)
def test_several_answers_are_several_requests(limited: Limited, path: str, fields: dict[str, Any]) -> None:
    body = _asked("hello", **fields) if "prompt" not in fields else {"model": "able", **fields}
    assert limited.post(path, limited.key("--concurrent", "3"), body).status_code == 200
    told = limited.post(path, limited.key("--concurrent", "2"), body)
    assert (told.status_code, "this asks for 3 answers" in told.text) == (403, True)
    headers = limited.key("--requests-per-minute", "5")
    assert [limited.post(path, headers, body).status_code for _ in range(2)] == [200, 429]


def test_prompts_and_answers_to_each_are_bounded_together(limited: Limited) -> None:
    body = {"model": "able", "prompt": ["a"] * 40, "n": 2}
    told = limited.post("/v1/completions", limited.key(), body)
    assert (told.status_code, told.json()["error"]["param"]) == (400, "prompt")


def test_a_key_of_one_route_hears_of_no_other(limited: Limited) -> None:
    headers = {"authorization": f"Bearer {TENANT}"}
    asked = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
    answers = [
        limited.post(path, headers, {**_asked("x"), "input": "x", "model": name})
        for path in (*asked.values(), "/v1/messages/count_tokens", "/v1/embeddings", "/api/chat", "/api/embed")
        for name in ("gone", "secret-project", "gone:latest", "")
    ]
    answers += [limited.post("/api/generate", headers, {"model": "gone", "prompt": "x"})]
    answers += [limited.post("/api/show", headers, {"model": name}) for name in ("gone", "secret-project", "able")]
    for path in ("/v1/models", "/v1/models/gone", "/v1/models/x", "/api/tags", "/api/ps", "/metrics", "/admin/state"):
        answers.append(httpx.get(limited.root + path, headers=headers))
    unknown = limited.post("/v1/chat/completions", headers, _asked("x", roundhouse={"prompt": "rag_querry"}))
    assert (unknown.status_code, "rag_query" in unknown.text.replace("rag_querry", "")) == (400, False)
    hidden = [answer for answer in answers if "secret-project" in answer.text]
    asked_for_it = [answer for answer in hidden if "secret-project" in answer.request.content.decode()]
    assert hidden == asked_for_it, [(answer.request.url.path, answer.text) for answer in hidden]
    assert all(answer.status_code == 403 for answer in asked_for_it)
    assert answers[-2].status_code == 403
    assert httpx.get(limited.root + "/metrics", headers=limited.key()).status_code == 200


def test_a_compressed_body_is_refused_on_each_wire(limited: Limited) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/admin/switch"):
        headers = {"authorization": f"Bearer {ADMIN}", "content-encoding": "gzip"}
        told = httpx.post(limited.root + path, headers=headers, content=json.dumps(_asked("x")))
        assert (told.status_code, "compressed" in told.text) == (415, True)
