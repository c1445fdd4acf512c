"""The contract over a real vLLM with the demo model, started by us: `make test-live-vllm`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.engines import launch
from roundhouse.engines.process import Child, Ready
from roundhouse.providers.llamacpp import LlamaCppClient
from roundhouse.providers.vllm import VLLMClient
from roundhouse.testing.contract import ProviderContract, Subject
from tests.conftest import DEMO, rag_query
from tests.contract.subjects import DEMO_PROMPT, WINDOW, child, endpoint, llamacpp

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
    pytest.mark.skipif("ROUNDHOUSE_LIVE_VLLM" not in os.environ, reason="run it by: make test-live-vllm"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm_child() -> AsyncIterator[Ready]:
    spawn = launch.vllm(
        str(DEMO / "safetensors"),
        "demo",
        {
            "max_model_len": WINDOW,
            "gpu_memory_utilization": 0.3,
            "dtype": "float32",
            "max_num_seqs": 16,
            # A model that never saw JSON fills the answer with blank lines where it may.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        },
        executable=os.environ["ROUNDHOUSE_LIVE_VLLM"],
        env={"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
    )
    process, ready = await Child.start("vllm", spawn, 400)
    try:
        yield ready
    finally:
        await process.stop(grace_s=20)


class TestLiveVLLM(ProviderContract):
    @pytest_asyncio.fixture(loop_scope="module")
    async def subject(self, vllm_child: Ready) -> AsyncIterator[Subject]:
        client = VLLMClient(endpoint(vllm_child, model="demo"))
        elsewhere = VLLMClient(endpoint(vllm_child, model="none"))
        yield Subject(
            client,
            DEMO_PROMPT,
            long={"ignore_eos": True},
            busy_slots=client.abusy_slots,
            window_tokens=WINDOW,
            elsewhere=elsewhere,
            calls_tools=None,
            embeds=False,
            another=lambda: VLLMClient(client.endpoint),
        )
        await client.aclose()
        await elsewhere.aclose()


async def test_fifty_held_out_answers_are_those_of_llamacpp(vllm_child: Ready, heldout: list[dict[str, Any]]) -> None:
    ours = VLLMClient(endpoint(vllm_child, model="demo"))
    async with child(llamacpp()) as ready:
        theirs = LlamaCppClient(endpoint(ready))
        different = []
        for row in heldout[::8][:50]:
            request = ChatRequest.of(
                rag_query(row["context"], row["question"]), sampling=Sampling(temperature=0.0, max_tokens=80)
            )
            a, b = await ours.agenerate(request), await theirs.agenerate(request)
            if a.text != b.text:
                different.append((row["question"], a.text, b.text))
        await theirs.aclose()
    await ours.aclose()
    assert not different
