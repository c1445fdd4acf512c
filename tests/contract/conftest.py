"""Engines of the demo model that all tests of this folder share, for a start of transformers takes seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from roundhouse.engines.process import Ready
from roundhouse.providers.huggingface import HuggingFaceClient
from roundhouse.providers.llamacpp import LlamaCppClient
from tests.contract.subjects import Pair, child, endpoint, huggingface, llamacpp


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def llamacpp_child() -> AsyncIterator[Ready]:
    async with child(llamacpp()) as ready:
        yield ready


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def llamacpp_embeddings() -> AsyncIterator[Ready]:
    async with child(llamacpp(embeddings=True)) as ready:
        yield ready


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def huggingface_child() -> AsyncIterator[Ready]:
    async with child(huggingface()) as ready:
        yield ready


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def huggingface_embeddings() -> AsyncIterator[Ready]:
    async with child(huggingface(embeddings=True)) as ready:
        yield ready


@pytest_asyncio.fixture(loop_scope="package")
async def pair(llamacpp_child: Ready, huggingface_child: Ready) -> AsyncIterator[Pair]:
    """A client of either."""
    clients = LlamaCppClient(endpoint(llamacpp_child)), HuggingFaceClient(endpoint(huggingface_child))
    yield clients
    for client in clients:
        await client.aclose()
