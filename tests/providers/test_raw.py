"""A raw text reaches each backend without a chat template, and is extended."""

import json

import pytest

from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.core.errors import Unsupported
from roundhouse.providers.base import Endpoint
from roundhouse.providers.huggingface import HuggingFaceClient
from roundhouse.providers.ollama import OllamaClient
from roundhouse.providers.openai_compatible import OpenAICompatibleClient
from roundhouse.routing.resume import Resume
from tests.fakes.http import Exchange, fake_server

RAW = ChatRequest.of("Once upon", raw=True, logprobs=1, sampling=Sampling(max_tokens=4))


async def test_openais_wire_has_a_path_for_it() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start()
        logprobs = {"tokens": [" a"], "token_logprobs": [-0.5], "top_logprobs": [{" a": -0.5, " the": -1.5}]}
        for choice in (
            {"text": " a", "logprobs": logprobs},
            {"text": " time"},
            {"text": "", "finish_reason": "length"},
        ):
            await exchange.send(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")

    async with fake_server(script) as server:
        client = OpenAICompatibleClient(Endpoint("t", server.url, "m"))
        answer = await client.agenerate(RAW)
        await client.aclose()
    (seen,) = server.seen
    assert seen.path == "/v1/completions"
    assert (seen.json["prompt"], seen.json["logprobs"], seen.json["max_tokens"]) == ("Once upon", 1, 4)
    assert "messages" not in seen.json
    assert (answer.text, answer.finish_reason) == (" a time", "length")
    assert answer.logprobs[0].top == ((" a", -0.5), (" the", -1.5))


async def test_ollama_generates_without_its_template() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.start(200, "application/x-ndjson")
        end = {"response": "", "done": True, "done_reason": "stop", "prompt_eval_count": 2, "eval_count": 2}
        for line in ({"response": " a", "done": False}, {"response": " time", "done": False}, end):
            await exchange.send(json.dumps(line).encode() + b"\n")

    async with fake_server(script) as server:
        client = OllamaClient(Endpoint("t", server.url, "m"))
        answer = await client.agenerate(RAW)
        await client.aclose()
    (seen,) = server.seen
    assert seen.path == "/api/generate"
    assert (seen.json["prompt"], seen.json["raw"]) == ("Once upon", True)
    assert (answer.text, answer.usage.completion_tokens) == (" a time", 2)


async def test_who_cannot_refuses() -> None:
    client = HuggingFaceClient(Endpoint("t", "http://127.0.0.1:9"))
    with pytest.raises(Unsupported, match="raw"):
        await client.agenerate(RAW)
    await client.aclose()


async def test_options_of_a_request_do_not_load_ollamas_model_anew() -> None:
    """What is fixed by the configuration stays, and is said; what only samples is taken over."""

    async def script(exchange: Exchange) -> None:
        await exchange.start(200, "application/x-ndjson")
        await exchange.send(b'{"message": {"content": "x"}, "done": true, "done_reason": "stop"}\n')

    async with fake_server(script) as server:
        client = OllamaClient(Endpoint("t", server.url, "m", options={"num_ctx": 100}))
        extra = {"options": {"num_ctx": 9, "mirostat": 2}, "keep_alive": 0, "typical_p": 0.5}
        answer = await client.agenerate(ChatRequest.of("hi", extra=extra))
        await client.aclose()
    sent = server.seen[0].json
    assert sent["options"] == {"num_ctx": 100, "mirostat": 2, "typical_p": 0.5}
    assert "keep_alive" not in sent
    assert answer.warnings == ("keep_alive, num_ctx: fixed by the configuration of target t, not by a request",)


def test_a_raw_answer_goes_on_as_a_longer_raw_text() -> None:
    going_on = Resume(" a", "").request(RAW, kept_tokens=1)
    assert going_on.messages[0].content == "Once upon a"
    assert going_on.raw
    assert not going_on.continue_last
    assert going_on.sampling.max_tokens == 3
