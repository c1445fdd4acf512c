"""The official client works against `roundhouse serve` over the demo model, streaming and not."""

import asyncio
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.conftest import VARO, WHO, rag_query
from tests.fakes.http import Exchange, fake_server
from tests.forge import run
from tests.server.conftest import Served, serve

MESSAGES: Any = [{"role": "user", "content": rag_query(VARO, WHO)}]


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as made:
        yield made


def test_a_whole_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="default", messages=MESSAGES)
    assert answer.choices[0].message.content == VARO
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    extra = answer.model_extra or {}
    assert extra["roundhouse"]["target"] == "demo"
    assert extra["roundhouse"]["timings"]["total_s"] > 0


def test_a_stream_gives_the_same_text_and_usage(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="answers", messages=MESSAGES)
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="answers", messages=MESSAGES, stream=True, stream_options=options)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_the_limit_on_tokens_is_told_as_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="default", messages=MESSAGES, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_models_are_routes_and_targets(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["default", "answers", "demo"]


def test_a_name_with_a_slash_can_be_asked_for(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("some/model")
    assert missing.value.code == "model_not_found"


def test_errors_are_openais(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="answer", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    assert "did you mean answers?" in str(missing.value)
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="default", messages=[{"role": "user", "content": "word " * 3000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="default", messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"


def _get(url: str, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
        return error.code, json.loads(body) if body.startswith(b"{") else {"text": body.decode()}


def test_paths_that_are_not_there_and_hosts_that_are_not_ours(served: Served) -> None:
    root = served.url.removesuffix("/v1")
    assert _get(root + "/healthz") == (200, {"status": "ok"})
    status, body = _get(root + "/nope")
    assert (status, body["error"]["type"]) == (404, "invalid_request_error")
    assert _get(root + "/v1/chat/completions")[0] == 405
    assert _get(root + "/healthz", Host="evil.example")[0] == 400


def test_a_client_that_hangs_up_frees_the_backend_within_half_a_second(tmp_path: Path) -> None:
    """Streaming, not streaming, and waiting for headers: in each the backend sees the hang-up."""

    async def scenario() -> None:
        came = asyncio.Event()

        async def script(exchange: Exchange) -> None:
            if exchange.json["messages"][0]["content"] == "stream":
                await exchange.start()
                await exchange.send(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n')
            came.set()
            await exchange.until_gone()

        async with fake_server(script) as backend:
            config = tmp_path / "c.yaml"
            config.write_text(f"llm: {{providers: [{{type: openai, endpoint: '{backend.url}'}}]}}")
            with serve(config) as served:
                port = int(served.url.split(":")[2].split("/")[0])
                for content, stream in (("stream", True), ("stream", False), ("silent", True), ("silent", False)):
                    came.clear()
                    backend.left.clear()
                    body = json.dumps({"messages": [{"role": "user", "content": content}], "stream": stream}).encode()
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    head = (
                        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
                    )
                    writer.write(head.encode() + body)
                    await asyncio.wait_for(came.wait(), 10)
                    writer.close()
                    await asyncio.wait_for(backend.left.wait(), 0.5)

    asyncio.run(scenario())


def test_a_failure_in_mid_stream_is_an_error_event_and_no_clean_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def script(exchange: Exchange) -> None:
            await exchange.start()
            await exchange.send(b'data: {"choices":[{"delta":{"content":"half"}}]}\n\n')

        async with fake_server(script) as backend:
            config = tmp_path / "c.yaml"
            config.write_text(f"llm: {{providers: [{{type: openai, endpoint: '{backend.url}'}}]}}")
            with serve(config) as served:
                await asyncio.to_thread(_expect_error_event, served.url)

    asyncio.run(scenario())


def _expect_error_event(url: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "q"}], "stream": True}).encode()
    request = urllib.request.Request(url + "/chat/completions", data=body)
    with urllib.request.urlopen(request, timeout=10) as response:
        events = response.read().decode().strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "stream_broken"
    assert "[DONE]" not in "".join(events)
    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client, pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="default", messages=MESSAGES, stream=True))


def test_many_clients_at_once_all_get_their_answer(served: Served) -> None:
    answers: list[str | None] = []

    def ask() -> None:
        with openai.OpenAI(base_url=served.url, api_key="x", max_retries=0) as client:
            answers.append(
                client.chat.completions.create(model="default", messages=MESSAGES).choices[0].message.content
            )

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [VARO] * 12


def test_stopping_the_server_leaves_no_engine_behind(tmp_path: Path) -> None:
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with serve() as served:
            with openai.OpenAI(base_url=served.url, api_key="x", max_retries=0) as client:
                client.chat.completions.create(model="default", messages=MESSAGES)
            children = psutil.Process(served.process.pid).children(recursive=True)
            assert children
            os.kill(served.process.pid, how)
            served.process.wait(10)
            _, alive = psutil.wait_procs(children, timeout=2)
            assert alive == []


def test_a_port_in_use_and_a_public_address_are_refused_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run("serve", "--port", port)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr
    ended = run("serve", "--host", "0.0.0.0")
    assert ended.returncode == 2
    assert "can be reached from other machines" in ended.stderr


def test_what_was_decided_for_a_request_can_be_asked_for(client: openai.OpenAI, served: Served) -> None:
    answer = client.chat.completions.create(model="default", messages=MESSAGES)
    root = served.url.removesuffix("/v1")
    with urllib.request.urlopen(f"{root}/admin/decisions/{answer.id}") as response:
        told = json.load(response)
    assert (told["route"], told["target"], told["seams"]) == ("default", "demo", [])
    assert [choice["outcome"] for choice in told["choices"]] == ["serve demo"]
    assert [attempt["outcome"] for attempt in told["attempts"]] == ["ok"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{root}/admin/decisions/none")
    assert caught.value.code == 404
    caught.value.close()


def test_the_servers_state_can_be_read_and_shown(client: openai.OpenAI, served: Served) -> None:
    client.chat.completions.create(model="default", messages=MESSAGES)
    shown = run("ps", "--url", served.url)
    assert shown.returncode == 0, shown.stderr
    line = next(line for line in shown.stdout.splitlines() if line.startswith("demo"))
    assert line.split()[:5] == ["demo", "demo", "ready", "0/4", "closed"]
    gone = run("ps", "--url", "http://127.0.0.1:9")
    assert gone.returncode == 1
    assert "no Roundhouse server answers at http://127.0.0.1:9" in gone.stderr
