"""One contract, every backend: llama.cpp and transformers for real, Ollama and vLLM as servers of ours, or live."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from roundhouse.engines.process import Ready
from roundhouse.providers.base import Endpoint
from roundhouse.providers.huggingface import HuggingFaceClient
from roundhouse.providers.llamacpp import LlamaCppClient
from roundhouse.providers.ollama import OllamaClient
from roundhouse.providers.openai_compatible import OpenAICompatibleClient
from roundhouse.providers.vllm import VLLMClient
from roundhouse.testing.contract import ProviderContract, Subject
from tests.contract.subjects import DEMO_PROMPT, WINDOW, endpoint
from tests.fakes.ollama import fake_ollama
from tests.fakes.vllm import fake_vllm

pytestmark = pytest.mark.asyncio(loop_scope="package")
LONG = {"ignore_eos": True}
QUESTION = "Who built the lighthouse?"


class TestLlamaCpp(ProviderContract):
    @pytest_asyncio.fixture(loop_scope="package")
    async def subject(self, llamacpp_child: Ready, llamacpp_embeddings: Ready) -> AsyncIterator[Subject]:
        client = LlamaCppClient(endpoint(llamacpp_child))
        embedding = LlamaCppClient(endpoint(llamacpp_embeddings))
        yield Subject(
            client,
            DEMO_PROMPT,
            long=LONG,
            busy_slots=client.abusy_slots,
            window_tokens=WINDOW,
            another=lambda: LlamaCppClient(endpoint(llamacpp_child)),
            calls_tools=False,
            embedding=embedding,
        )
        await embedding.aclose()
        await client.aclose()


class TestHuggingFace(ProviderContract):
    @pytest_asyncio.fixture(loop_scope="package")
    async def subject(self, huggingface_child: Ready, huggingface_embeddings: Ready) -> AsyncIterator[Subject]:
        client = HuggingFaceClient(endpoint(huggingface_child))
        embedding = HuggingFaceClient(endpoint(huggingface_embeddings))
        yield Subject(
            client,
            DEMO_PROMPT,
            long=LONG,
            busy_slots=client.abusy_slots,
            window_tokens=WINDOW,
            another=lambda: HuggingFaceClient(endpoint(huggingface_child)),
            embedding=embedding,
        )
        await embedding.aclose()
        await client.aclose()


class TestOpenAICompatible(ProviderContract):
    """The common client, against llama.cpp's own server."""

    @pytest_asyncio.fixture(loop_scope="package")
    async def subject(self, llamacpp_child: Ready, llamacpp_embeddings: Ready) -> AsyncIterator[Subject]:
        client = OpenAICompatibleClient(endpoint(llamacpp_child, model="demo"))
        slots = LlamaCppClient(endpoint(llamacpp_child))
        embedding = OpenAICompatibleClient(endpoint(llamacpp_embeddings, model="demo"))
        yield Subject(
            client,
            DEMO_PROMPT,
            long=LONG,
            busy_slots=slots.abusy_slots,
            window_tokens=WINDOW,
            another=lambda: OpenAICompatibleClient(endpoint(llamacpp_child, model="demo")),
            calls_tools=None,
            embedding=embedding,
        )
        await embedding.aclose()
        await client.aclose()
        await slots.aclose()


class TestOllama(ProviderContract):
    @pytest_asyncio.fixture(loop_scope="package")
    async def subject(self) -> AsyncIterator[Subject]:
        async with fake_ollama("mistral:7b", window=4096) as ollama:
            client = OllamaClient(Endpoint("t", ollama.url, model="mistral:7b", options={"num_ctx": WINDOW}))
            elsewhere = OllamaClient(Endpoint("t", ollama.url, model="none"))

            async def busy() -> int:
                return ollama.busy

            yield Subject(
                client,
                QUESTION,
                long={"endless": True},
                busy_slots=busy,
                window_tokens=WINDOW,
                another=lambda: OllamaClient(client.endpoint),
                elsewhere=elsewhere,
            )
            assert ollama.loads <= 1, "every request had the same window, so nothing was loaded anew"
            await client.aclose()
            await elsewhere.aclose()


class TestVLLM(ProviderContract):
    @pytest_asyncio.fixture(loop_scope="package")
    async def subject(self) -> AsyncIterator[Subject]:
        async with fake_vllm("m", WINDOW) as vllm:
            client = VLLMClient(Endpoint("t", vllm.url, model="m"))
            elsewhere = VLLMClient(Endpoint("t", vllm.url, model="none"))
            yield Subject(
                client,
                QUESTION,
                long=LONG,
                busy_slots=client.abusy_slots,
                window_tokens=WINDOW,
                another=lambda: VLLMClient(client.endpoint),
                elsewhere=elsewhere,
            )
            await client.aclose()
            await elsewhere.aclose()


@pytest.mark.skipif(
    "ROUNDHOUSE_LIVE_OLLAMA" not in os.environ, reason="set ROUNDHOUSE_LIVE_OLLAMA to an Ollama's URL to test it"
)
class TestLiveOllama(ProviderContract):
    """`ROUNDHOUSE_LIVE_OLLAMA=http://localhost:11434`, `ROUNDHOUSE_LIVE_OLLAMA_MODEL` (default: mistral:7b)."""

    @pytest_asyncio.fixture(loop_scope="package")
    async def subject(self) -> AsyncIterator[Subject]:
        url = os.environ["ROUNDHOUSE_LIVE_OLLAMA"]
        model = os.environ.get("ROUNDHOUSE_LIVE_OLLAMA_MODEL", "mistral:7b")
        client = OllamaClient(Endpoint("t", url, model=model, options={"num_ctx": 4096}))
        elsewhere = OllamaClient(Endpoint("t", url, model="there-is-no-such-model"))
        yield Subject(client, "Name three rivers of Europe.", window_tokens=4096, elsewhere=elsewhere)
        await client.aclose()
        await elsewhere.aclose()
