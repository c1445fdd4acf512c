"""What vLLM's server adds to the common wire."""

from typing import Any

from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.providers.base import CountsTokens, Endpoint
from roundhouse.providers.vllm import Load, VLLMClient
from tests.fakes.http import Exchange, fake_server
from tests.fakes.vllm import fake_vllm
from tests.providers.test_openai_compatible import GOOD


async def test_sampling_health_and_tokens_in_vllms_own_words() -> None:
    healthy = True

    async def script(exchange: Exchange) -> None:
        answers: dict[str, Any] = {
            "/tokenize": {"count": 7, "max_model_len": 2048, "tokens": []},
            "/v1/models": {"data": [{"id": "m"}]},
        }
        if exchange.path == "/health":
            await exchange.whole(b"", 200 if healthy else 503)
        elif exchange.path in answers:
            await exchange.whole(answers[exchange.path])
        else:
            await exchange.start()
            for part in GOOD:
                await exchange.send(part)

    async with fake_server(script) as server:
        client = VLLMClient(Endpoint("t", server.url, model="m"))
        assert isinstance(client, CountsTokens)
        request = ChatRequest.of("hi", sampling=Sampling(top_k=3, repeat_penalty=1.1))
        assert (await client.agenerate(request)).text == "Ines"
        body = server.seen[0].json
        assert (body["top_k"], body["repetition_penalty"]) == (3, 1.1)
        assert await client.acount_tokens(request) == 7
        assert await client.awindow_tokens() == 2048
        assert (await client.ahealth()).ready
        healthy = False
        assert not (await client.ahealth()).alive
        await client.aclose()


async def test_its_load_is_read_from_its_metrics_and_it_can_sleep() -> None:
    async with fake_vllm("m") as vllm:
        client = VLLMClient(Endpoint("t", vllm.url, model="m"))
        assert await client.aload() == Load(0, 0, 0.25)
        await client.asleep()
        assert vllm.asleep
        await client.awake()
        assert not vllm.asleep
        await client.aclose()
