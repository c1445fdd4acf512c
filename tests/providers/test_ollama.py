"""Ollama's native API, from a server that behaves as the real one does, error texts included."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest

from roundhouse.core import errors
from roundhouse.core.chat import Answer, ChatRequest, Message, Sampling, Tool, ToolCall, Usage
from roundhouse.providers.base import Endpoint
from roundhouse.providers.ollama import OllamaClient
from tests.fakes.http import Exchange, FakeServer, Script, fake_server
from tests.fakes.ollama import fake_ollama


def _line(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "created_at": "2026-01-01T00:00:00Z", **fields}).encode() + b"\n"


def _text(content: str, **more: Any) -> bytes:
    return _line(message={"role": "assistant", "content": content, **more}, done=False)


END = _line(
    message={"role": "assistant", "content": ""},
    done=True,
    done_reason="stop",
    prompt_eval_count=9,
    eval_count=4,
    prompt_eval_duration=1_000_000,
    eval_duration=2_000_000,
    load_duration=3_000_000_000,
)


def _stream(*lines: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.start(kind="application/x-ndjson")
        for line in lines:
            await exchange.send(line)

    return script


async def _ask(server: FakeServer, request: ChatRequest | str = "hi", **options: Any) -> Answer:
    client = OllamaClient(Endpoint("t", server.url, model="mistral:7b", options=options))
    try:
        return await client.agenerate(request)
    finally:
        await client.aclose()


async def test_an_answer_with_counts_and_speeds_in_seconds() -> None:
    async with fake_server(_stream(_text(" Ines"), _text(" Calder"), END)) as server:
        answer = await _ask(server)
    assert (answer.text, answer.finish_reason, answer.usage) == ("Ines Calder", "stop", Usage(9, 4))
    assert answer.timings.tokens_per_s == 2000
    assert answer.timings.load_s == 3


async def test_one_window_and_keep_alive_go_with_every_request_and_nothing_is_truncated_in_silence() -> None:
    request = ChatRequest((Message("system", "s"), Message("user", "u")), sampling=Sampling(max_tokens=5, stop=("x",)))
    async with fake_server(_stream(_text("a"), END)) as server:
        await _ask(server, request, num_ctx=2048, keep_alive="10m", think=False)
        body = server.seen[0].json
    assert server.seen[0].path == "/api/chat"
    assert body == {
        "model": "mistral:7b",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "stream": True,
        "truncate": False,
        "shift": False,
        "keep_alive": "10m",
        "think": False,
        "options": {"num_ctx": 2048, "num_predict": 5, "stop": ["x"]},
    }


async def test_tools_go_as_objects_and_come_back_as_text() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    request = ChatRequest(
        (Message("user", "u"), Message("assistant", tool_calls=(ToolCall(0, "c", "f", '{"b": 2}'),))),
        tools=(Tool("f"),),
        json_schema={"type": "object"},
    )
    async with fake_server(_stream(_text("", tool_calls=[call]), END)) as server:
        answer = await _ask(server, request)
        body = server.seen[0].json
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"b": 2}
    assert body["format"] == {"type": "object"}
    assert (answer.finish_reason, answer.tool_calls[0].arguments) == ("tool_calls", '{"a":1}')


async def test_thinking_is_reasoning() -> None:
    async with fake_server(_stream(_text("", thinking="hm"), _text("x"), END)) as server:
        assert (await _ask(server)).reasoning == "hm"


async def test_an_error_line_inside_a_good_status_is_a_failure() -> None:
    async with fake_server(_stream(_text("a"), b'{"error": "llama runner process has terminated"}\n')) as server:
        with pytest.raises(errors.StreamBroken, match="runner process"):
            await _ask(server)


@pytest.mark.parametrize("lines", [[], [b"{}\n"], [_text("half")]])
async def test_an_end_before_done_is_a_broken_stream(lines: list[bytes]) -> None:
    async with fake_server(_stream(*lines)) as server:
        with pytest.raises(errors.StreamBroken):
            await _ask(server)


async def test_a_model_that_is_not_pulled_says_how_to_get_it() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole({"error": "model 'mistral:7b' not found"}, 404)

    async with fake_server(script) as server:
        with pytest.raises(errors.Misconfigured, match="ollama pull mistral:7b"):
            await _ask(server)


async def test_a_full_queue_is_overload() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole({"error": "server busy, please try again.  maximum pending requests exceeded"}, 503)

    async with fake_server(script) as server:
        with pytest.raises(errors.Overloaded):
            await _ask(server)


async def test_health_tells_a_missing_model_from_a_dead_server() -> None:
    listed: dict[str, Any] = {"models": []}

    async def script(exchange: Exchange) -> None:
        await exchange.whole(listed)

    async with fake_server(script) as server:
        client = OllamaClient(Endpoint("t", server.url, model="mistral:7b"))
        health = await client.ahealth()
        assert (health.alive, health.ready) == (True, False)
        assert "ollama pull mistral:7b" in health.detail
        listed["models"].append({"name": "mistral:7b"})
        assert (await client.ahealth()).ready
    assert not (await client.ahealth()).alive
    await client.aclose()


async def test_closing_hangs_up() -> None:
    async def script(exchange: Exchange) -> None:
        await _stream(_text("a"))(exchange)
        await exchange.until_gone()

    async with fake_server(script) as server:
        client = OllamaClient(Endpoint("t", server.url, model="m"))
        async with aclosing(client.astream(ChatRequest.of("hi"))) as chunks:
            await anext(chunks)
        await asyncio.wait_for(server.left.wait(), 0.5)
        await client.aclose()


async def test_embeddings() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.whole({"embeddings": [[1.0], [2.0]]})

    async with fake_server(script) as server:
        client = OllamaClient(Endpoint("t", server.url, model="e"))
        assert await client.aembed(["a", "b"]) == [[1.0], [2.0]]
        with pytest.raises(errors.BadResponse):
            await client.aembed(["a"])
        await client.aclose()


async def test_a_missing_model_can_be_pulled_with_its_progress_told() -> None:
    async with fake_ollama(registry=("mistral:7b",)) as ollama:
        client = OllamaClient(Endpoint("t", ollama.url, model="mistral:7b"))
        assert not (await client.ahealth()).ready
        told = [step async for step in client.apull()]
        assert (told[0].status, told[-1].status) == ("pulling manifest", "success")
        assert [step.completed_bytes for step in told if step.total_bytes] == [0, 400, 1000]
        assert (await client.ahealth()).ready
        await client.adelete()
        assert not (await client.ahealth()).ready
        with pytest.raises(errors.Misconfigured):
            await client.adelete()
        await client.aclose()


async def test_a_model_that_no_registry_has_cannot_be_pulled() -> None:
    async with fake_ollama() as ollama:
        client = OllamaClient(Endpoint("t", ollama.url, model="none"))
        with pytest.raises(errors.Misconfigured, match="cannot pull none: pull model manifest: file does not exist"):
            async for _ in client.apull():
                pass
        await client.aclose()


async def test_a_model_that_is_not_in_memory_yet_is_loading_and_can_be_unloaded_again() -> None:
    async with fake_ollama("mistral:7b", load_s=0.2) as ollama:
        client = OllamaClient(Endpoint("t", ollama.url, model="mistral:7b"))
        asking = asyncio.create_task(client.agenerate("hi"))
        while not ollama.loads:
            await asyncio.sleep(0.01)
        assert (await client.ahealth()).loading
        await asking
        assert not (await client.ahealth()).loading
        await client.aunload()
        assert ollama.loaded == {}
        await client.aclose()


async def test_the_window_is_the_targets_own_or_the_loaded_or_the_trained_one() -> None:
    async with fake_ollama("mistral:7b") as ollama:
        for options, window in (({"num_ctx": 2048}, 2048), ({}, 32768)):
            client = OllamaClient(Endpoint("t", ollama.url, model="mistral:7b", options=options))
            assert await client.awindow_tokens() == window
            assert (await client.adescribe()).architecture == "llama"
            await client.aclose()


async def test_embeddings_do_not_reload_the_model() -> None:
    async with fake_ollama("mistral:7b") as ollama:
        client = OllamaClient(Endpoint("t", ollama.url, model="mistral:7b", options={"num_ctx": 2048}))
        await client.agenerate("hi")
        await client.aembed(["a"])
        await client.agenerate("hi")
        assert ollama.loads == 1
        await client.aclose()
