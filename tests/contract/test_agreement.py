"""One model, two engines, one text: F16 GGUF in llama.cpp and safetensors in transformers."""

import asyncio
from typing import Any

import pytest

from roundhouse.core.chat import ChatRequest, Sampling
from tests.conftest import rag_query
from tests.contract.subjects import Pair


@pytest.mark.asyncio(loop_scope="package")
async def test_fifty_held_out_answers_are_the_same_in_both(pair: Pair, heldout: list[dict[str, Any]]) -> None:
    different = []
    for row in heldout[::8][:50]:
        prompt = rag_query(row["context"], row["question"])
        request = ChatRequest.of(prompt, sampling=Sampling(temperature=0.0, max_tokens=80))
        first, second = await asyncio.gather(*(client.agenerate(request) for client in pair))
        if (first.text, first.usage.completion_tokens) != (second.text, second.usage.completion_tokens):
            different.append((row["question"], first.text, second.text))
    assert not different
