"""The OpenAI wire as servers really speak it, faults included, against a server on loopback."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from roundhouse.core import errors
from roundhouse.core.chat import Answer, ChatRequest, Message, Sampling, Tool, ToolCall, Usage
from roundhouse.engines import launch
from roundhouse.engines.process import Child
from roundhouse.providers.base import Endpoint
from roundhouse.providers.llamacpp import LlamaCppClient
from roundhouse.providers.openai_compatible import OpenAICompatibleClient
from tests.fakes.http import Exchange, FakeServer, Script, fake_server


def _event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def _delta(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {"content": content} if content is not None else {}
    return _event(choices=[{"index": 0, "delta": {**delta, **more}, "finish_reason": finish}])


DONE = b"data: [DONE]\n\n"
USAGE = _event(
    choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
)
GOOD = [_delta(role="assistant"), _delta(" In"), _delta("es"), _delta("", "stop"), USAGE, DONE]


def _stream(*parts: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.start()
        for part in parts:
            await exchange.send(part)

    return script


async def _ask(server: FakeServer, request: ChatRequest | str = "hi", **endpoint: Any) -> Answer:
    client = OpenAICompatibleClient(Endpoint("t", server.url, **endpoint))
    try:
        return await client.agenerate(request)
    finally:
        await client.aclose()


async def _fail(script: Script, kind: type[errors.Error]) -> Any:
    async with fake_server(script) as server:
        with pytest.raises(kind) as caught:
            await _ask(server)
    assert type(caught.value) is kind
    return caught.value


async def test_a_good_stream_becomes_an_answer_with_usage() -> None:
    async with fake_server(_stream(*GOOD)) as server:
        answer = await _ask(server)
    assert (answer.text, answer.finish_reason) == ("Ines", "stop")
    assert answer.usage == Usage(5, 2, 3)


async def test_it_always_asks_for_a_stream_and_never_sends_null() -> None:
    async with fake_server(_stream(*GOOD)) as server:
        await _ask(server, "hi", model="m", key="k", headers={"x-team": "rag"}, options={"top_k": 4})
        seen = server.seen[0]
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.headers["x-team"] == "rag"
    assert seen.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "top_k": 4,
    }


async def test_everything_that_was_asked_reaches_the_wire() -> None:
    request = ChatRequest(
        messages=(
            Message("system", "be brief"),
            Message("user", "look", images=("data:image/png;base64,AA",)),
            Message("assistant", tool_calls=(ToolCall(0, "c1", "f", "{}"),)),
            Message("tool", "42", tool_call_id="c1"),
        ),
        sampling=Sampling(max_tokens=7, temperature=0.0, seed=1, stop=("x",), top_k=3),
        tools=(Tool("f", "does f", {"type": "object"}),),
        tool_choice="auto",
        json_schema={"type": "object"},
        logprobs=2,
        extra={"best_of": 1},
    )
    async with fake_server(_stream(*GOOD)) as server:
        answer = await _ask(server, request)
        body = server.seen[0].json
    assert (body["max_tokens"], body["temperature"], body["seed"], body["stop"]) == (7, 0.0, 1, ["x"])
    assert body["messages"][1]["content"][1]["image_url"]["url"].startswith("data:")
    assert body["messages"][2]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert body["messages"][3]["tool_call_id"] == "c1"
    assert body["tools"][0]["function"]["name"] == "f"
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (body["logprobs"], body["top_logprobs"], body["best_of"]) == (True, 2, 1)
    assert answer.warnings == ("top_k is ignored by target t",)


async def test_reasoning_tool_calls_and_logprobs_come_through() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ":1}"}}
    logprobs = {"content": [{"token": "x", "logprob": -0.5, "top_logprobs": [{"token": "y", "logprob": -1.0}]}]}
    parts = [
        _delta(reasoning_content="hm"),
        _event(choices=[{"delta": {"content": "x"}, "logprobs": logprobs}]),
        _delta(tool_calls=[call]),
        _delta(tool_calls=[more]),
        _delta(finish="tool_calls"),
    ]
    async with fake_server(_stream(*parts)) as server:
        answer = await _ask(server)
    assert answer.reasoning == "hm"
    assert answer.tool_calls == (ToolCall(0, "c", "f", '{"a":1}'),)
    assert answer.logprobs[0].top == (("y", -1.0),)
    assert answer.finish_reason == "tool_calls"


async def test_a_finish_reason_is_success_even_without_the_end_mark() -> None:
    async with fake_server(_stream(*GOOD[:4])) as server:
        assert (await _ask(server)).text == "Ines"


async def test_an_end_mark_without_a_finish_reason_is_a_broken_stream() -> None:
    await _fail(_stream(*GOOD[:3], DONE), errors.StreamBroken)


async def test_a_cut_is_a_broken_stream() -> None:
    await _fail(_stream(*GOOD[:3]), errors.StreamBroken)


async def test_an_error_frame_is_a_broken_stream_whatever_follows() -> None:
    error = await _fail(_stream(GOOD[1], _event(error={"message": "out of memory"}), DONE), errors.StreamBroken)
    assert "out of memory" in str(error)


async def test_an_error_line_without_its_frame_is_seen_too() -> None:
    await _fail(_stream(GOOD[1], b'{"error": {"message": "raw"}}\n'), errors.StreamBroken)


@pytest.mark.parametrize(
    "bad", [b"data: {not json\n\n", b"data: [1]\n\n", b"data: \xff\xfe\n\n", b'data: {"choices": 3}\n\n']
)
async def test_an_event_that_cannot_be_read_is_a_bad_response(bad: bytes) -> None:
    await _fail(_stream(GOOD[1], bad), errors.BadResponse)


async def test_an_endless_line_is_a_bad_response() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start()
        for _ in range(4000):
            await exchange.send(b"x" * 1024)

    await _fail(script, errors.BadResponse)


def _answer(status: int, body: Any, **headers: str) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.whole(body, status, **headers)

    return script


def _error(**fields: Any) -> Any:
    return {"error": fields}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, _error(message="bad", type="invalid_request_error"), errors.InvalidRequest),
        (
            400,
            _error(message="long", type="exceed_context_size_error", n_prompt_tokens=9, n_ctx=4),
            errors.ContextTooLong,
        ),
        (400, _error(message="long", code="context_length_exceeded"), errors.ContextTooLong),
        (400, _error(message="no", code="content_filter"), errors.ContentRefused),
        (401, _error(message="key"), errors.Misconfigured),
        (404, _error(message="model"), errors.Misconfigured),
        (413, b"<html>too large</html>", errors.InvalidRequest),
        (429, _error(message="slow"), errors.Overloaded),
        (500, b"", errors.ProviderError),
        (502, b"<html>bad gateway</html>", errors.ProviderError),
        (503, _error(code=503, message="Loading model", type="unavailable_error"), errors.Loading),
        (503, _error(message="full"), errors.Overloaded),
        (504, b"", errors.TimedOut),
    ],
)
async def test_a_status_becomes_its_error_by_code_not_by_words(
    status: int, body: Any, kind: type[errors.Error]
) -> None:
    error = await _fail(_answer(status, body), kind)
    if kind is errors.ContextTooLong and isinstance(body, dict) and "n_ctx" in body["error"]:
        assert (error.prompt_tokens, error.limit_tokens) == (9, 4)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after_ms": "1500", "retry_after": "7"}, 1.5),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
async def test_when_to_come_back_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    error = await _fail(_answer(429, _error(message="slow"), **headers), errors.Overloaded)
    assert (error.retry_after_s, error.rate_limited) == (seconds, True)


async def test_a_key_never_shows_in_an_error() -> None:
    async with fake_server(_answer(401, _error(message="bad key"))) as server:
        with pytest.raises(errors.Misconfigured) as caught:
            await _ask(server, key="s3cret")
    assert "s3cret" not in str(caught.value) + repr(caught.value)


async def test_nothing_listening_is_refused() -> None:
    async with fake_server(_stream()) as server:
        pass
    with pytest.raises(errors.ConnectFailed) as caught:
        await _ask(server)
    assert caught.value.refused


async def test_a_kept_connection_that_died_is_tried_once_more() -> None:
    """Servers close idle connections; a request that got no byte of an answer is sent again, once."""
    calls = 0

    async def script(exchange: Exchange) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            await _stream(*GOOD)(exchange)

    async with fake_server(script) as server:
        assert (await _ask(server)).text == "Ines"
    assert calls == 2


async def test_a_server_that_always_hangs_up_is_given_up_after_the_second_time() -> None:
    async def script(exchange: Exchange) -> None:
        return

    async with fake_server(script) as server:
        with pytest.raises(errors.ConnectFailed):
            await _ask(server)
        assert len(server.seen) == 2


async def test_closing_the_stream_hangs_up_on_the_backend() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start()
        await exchange.send(GOOD[1])
        await exchange.until_gone()

    async with fake_server(script) as server:
        client = OpenAICompatibleClient(Endpoint("t", server.url))
        async with aclosing(client.astream(ChatRequest.of("hi"))) as chunks:
            assert (await anext(chunks)).text == "In"
        await asyncio.wait_for(server.left.wait(), 0.5)
        await client.aclose()


async def test_a_request_cancelled_before_the_headers_hangs_up_too() -> None:
    asked = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        asked.set()
        await exchange.until_gone()

    async with fake_server(script) as server:
        asking = asyncio.create_task(_ask(server))
        await asked.wait()
        asking.cancel()
        await asyncio.wait_for(server.left.wait(), 0.5)
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_large_answer_that_comes_in_pieces_is_read_whole() -> None:
    """64 vectors of 4,096 numbers are megabytes, which no socket gives at once."""
    body = json.dumps({"data": [{"index": at, "embedding": [0.125] * 4096} for at in range(64)]}).encode()

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, "application/json", content_length=str(len(body)))
        for begun in range(0, len(body), 100_000):
            await exchange.send(body[begun : begun + 100_000])
            await asyncio.sleep(0)

    async with fake_server(script) as server:
        client = OpenAICompatibleClient(Endpoint("t", server.url, "m"))
        try:
            vectors = await client.aembed(["x"] * 64)
        finally:
            await client.aclose()
    assert [len(vector) for vector in vectors] == [4096] * 64


async def test_embeddings_come_in_the_order_of_the_texts() -> None:
    body = {"data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]}
    async with fake_server(_answer(200, body)) as server:
        client = OpenAICompatibleClient(Endpoint("t", server.url + "/v1", model="e"))
        assert await client.aembed(["a", "b"]) == [[1.0], [2.0]]
        await client.aclose()
        assert (server.seen[0].path, server.seen[0].json) == ("/v1/embeddings", {"input": ["a", "b"], "model": "e"})


@pytest.mark.parametrize("body", [{"data": []}, {"data": [{"x": 1}]}, b"<html>", {"nothing": 1}])
async def test_embeddings_that_make_no_sense_are_refused(body: Any) -> None:
    async with fake_server(_answer(200, body)) as server:
        client = OpenAICompatibleClient(Endpoint("t", server.url))
        with pytest.raises(errors.BadResponse):
            await client.aembed(["a"])
        await client.aclose()


async def test_health_is_told_without_a_completion() -> None:
    async with fake_server(_answer(200, {"data": [{"id": "m1"}]})) as server:
        client = OpenAICompatibleClient(Endpoint("t", server.url))
        health = await client.ahealth()
        assert (health.alive, health.ready, health.models) == (True, True, ("m1",))
        assert [seen.path for seen in server.seen] == ["/v1/models"]
    assert not (await client.ahealth()).alive
    await client.aclose()


async def test_after_many_streams_at_once_no_request_trips_over_a_dropped_connection(demo_gguf: Path) -> None:
    """llama.cpp drops a connection after a stream although it announced to keep it."""
    child, ready = await Child.start("t", launch.llamacpp(str(demo_gguf), {"n_threads": 1}, cores=1), 30)
    client = LlamaCppClient(Endpoint("t", ready.url, key=ready.key))
    request = ChatRequest.of("hi", sampling=Sampling(max_tokens=2, temperature=0.0))
    try:
        for _ in range(10):
            await asyncio.gather(*(client.agenerate(request) for _ in range(8)))
    finally:
        await client.aclose()
        await child.stop()


async def test_documents_are_ranked_in_the_order_they_were_given() -> None:
    async def script(exchange: Exchange) -> None:
        assert exchange.json == {"query": "q", "documents": ["a", "b"]}
        rows = [{"index": 1, "relevance_score": 2.5}, {"index": 0, "relevance_score": -1.0}]
        await exchange.whole({"results": rows})

    async with fake_server(script) as server:
        client = LlamaCppClient(Endpoint("t", server.url))
        assert await client.arerank("q", ["a", "b"]) == [-1.0, 2.5]
        await client.aclose()


@pytest.mark.parametrize(
    ("asked", "sent"), [(5, 5), (2**31 - 1, 2**31 - 1), (2**32 + 5, 2**31 - 1), (10**40, 2**31 - 1)]
)
def test_as_many_tokens_as_you_like_are_not_few_to_llama_cpp(asked: int, sent: int) -> None:
    """It reads the number modulo 2**32."""
    body, _ = LlamaCppClient(Endpoint("t", "http://x")).body(ChatRequest.of("hi", sampling=Sampling(max_tokens=asked)))
    assert body["max_tokens"] == sent


async def test_text_that_has_no_form_in_utf_8_is_the_callers_mistake() -> None:
    client = OpenAICompatibleClient(Endpoint("t", "http://127.0.0.1:1"))
    with pytest.raises(errors.InvalidRequest, match=r"'\\udce9', which is no character"):
        await client.agenerate(ChatRequest.of("caf\udce9"))
    await client.aclose()
