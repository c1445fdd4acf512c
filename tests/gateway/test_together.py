"""Work that is done together: batches of prompts, texts of several callers in one call, models in one memory."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

import roundhouse
from roundhouse.config import load_mapping
from roundhouse.core import errors
from roundhouse.core.chat import ChatRequest, Chunk, Chunks, Sampling, Usage
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.gateway import Gateway
from roundhouse.gateway.embeddings import Embeddings
from roundhouse.providers.base import AsyncProvider
from roundhouse.routing.manager import Manager
from roundhouse.routing.replica import Replica
from roundhouse.routing.route import Route
from roundhouse.routing.target import Target
from tests.conftest import VARO, WHO, rag_query


class Embedder(AsyncProvider):
    """Counts its calls; a text that says so is refused."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    async def astream(self, request: ChatRequest) -> Chunks:
        yield Chunk(finish_reason="stop", usage=Usage())

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        self.calls.append(list(texts))
        await asyncio.sleep(0)
        if "broken" in texts:
            raise errors.ProviderError("it is out of order", target="e")
        if "too long" in texts:
            raise errors.ContextTooLong("this text is too long", target="e")
        return [[float(len(text))] for text in texts]


def _embeddings() -> tuple[Embeddings, Embedder, Route]:
    embedder = Embedder()
    replica = Replica("e", Engine("e", launch.attach("http://unused")), lambda ready: embedder, 1)
    return Embeddings(Manager([Target("e", "m", [replica])])), embedder, Route("e", (("e",),))


async def test_callers_at_the_same_time_share_a_call_and_get_their_own_vectors() -> None:
    embeddings, embedder, route = _embeddings()
    asked = [[f"{'x' * number}{one}" for one in "ab"] for number in range(10)]
    got = await asyncio.gather(*(embeddings.embed(route, texts) for texts in asked))
    assert [one.vectors for one in got] == [[[number + 1.0]] * 2 for number in range(10)]
    assert len(embedder.calls) == 1
    assert got[0].target == "e"


async def test_no_call_grows_without_bound() -> None:
    embeddings, embedder, route = _embeddings()
    await asyncio.gather(*(embeddings.embed(route, ["a"] * 20) for _ in range(10)))
    assert max(len(call) for call in embedder.calls) <= 64
    assert sum(len(call) for call in embedder.calls) == 200


async def test_one_callers_bad_text_is_not_anothers() -> None:
    embeddings, _, route = _embeddings()
    good, bad = await asyncio.gather(
        embeddings.embed(route, ["fine"]), embeddings.embed(route, ["too long"]), return_exceptions=True
    )
    assert not isinstance(good, BaseException)
    assert good.vectors == [[4.0]]
    assert isinstance(bad, errors.ContextTooLong)


async def test_a_caller_who_leaves_a_call_that_fails_keeps_nobody_waiting() -> None:
    """The texts are asked for one by one then; there is nobody any more to be given those of the first."""
    embeddings, embedder, route = _embeddings()
    leaving = asyncio.create_task(embeddings.embed(route, ["too long"]))
    staying = asyncio.create_task(embeddings.embed(route, ["fine"]))
    while not embedder.calls:
        await asyncio.sleep(0)
    leaving.cancel()
    assert (await asyncio.wait_for(staying, 5)).vectors == [[4.0]]


async def test_a_failing_backend_fails_all_who_asked_it() -> None:
    embeddings, _, route = _embeddings()
    got = await asyncio.gather(*(embeddings.embed(route, ["broken"]) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(one, errors.ProviderError) for one in got)


async def test_a_caller_who_leaves_does_not_take_the_others_along() -> None:
    embeddings, _, route = _embeddings()
    leaving = asyncio.create_task(embeddings.embed(route, ["one"]))
    staying = asyncio.create_task(embeddings.embed(route, ["three"]))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).vectors == [[5.0]]


async def test_real_embeddings_are_the_same_alone_and_together() -> None:
    settings = load_mapping(
        {"llm": {"providers": [{"type": "llamacpp", "model": "demo", "n_ctx": 1024, "embeddings": True}]}}
    )
    async with Gateway(settings) as gateway:
        texts = ["the lighthouse", "a harbour town", "iron"]
        alone = [(await gateway.embed([text])).vectors[0] for text in texts]
        together = await asyncio.gather(*(gateway.embed([text]) for text in texts))
        at_once = (await gateway.embed(texts)).vectors
        for one, other, third in zip(alone, together, at_once, strict=True):
            assert one == pytest.approx(other.vectors[0], abs=1e-4)
            assert one == pytest.approx(third, abs=1e-4)
        # More than the 512 tokens of llama.cpp's usual physical batch.
        assert len((await gateway.embed(["iron " * 800])).vectors[0]) == len(alone[0])
        (replica,) = gateway._open_manager.targets["llamacpp"].replicas
        assert replica.busy == 0
        with pytest.raises(errors.InvalidRequest):
            await gateway.embed([])


def test_a_batch_of_prompts_comes_back_in_its_order() -> None:
    manager = roundhouse.LLMManager(
        {"llm": {"providers": [{"type": "llamacpp", "model": "demo", "n_ctx": 512, "temperature": 0.0}]}}
    )
    try:
        tomar = rag_query("The bridge of Tomar is made of iron.", "What is the bridge made of?")
        prompts = [rag_query(VARO, WHO), tomar]
        assert manager.generate_batch(prompts * 6, at_once=4) == [manager.generate_answer(one) for one in prompts] * 6
        with pytest.raises(errors.ContextTooLong):
            manager.generate_batch([prompts[0], "word " * 3000])
    finally:
        manager.close()


async def test_in_a_batch_one_failure_is_one_failure() -> None:
    settings = load_mapping({"llm": {"providers": [{"type": "llamacpp", "model": "demo", "n_ctx": 256}]}})
    async with Gateway(settings) as gateway:
        sampling = Sampling(max_tokens=4)
        requests = [ChatRequest.of(text, sampling=sampling) for text in ("Hello.", "word " * 3000, "Hello.")]
        good, bad, last = await gateway.generate_batch(requests)
        assert isinstance(bad, errors.ContextTooLong)
        assert not isinstance(good, errors.Error)
        assert not isinstance(last, errors.Error)


def test_loaded_models_share_one_memory_and_come_back_when_asked(demo_gguf: Path) -> None:
    """Room for one: loading the second sends the first away, asking the first brings it back."""
    manager = roundhouse.ModelResourceManager({"memory_mib": 70})
    options = {"n_threads": 1, "n_ctx": 256, "n_parallel": 1}
    first = manager.load_model("llamacpp", str(demo_gguf), options)
    second = manager.load_model("llamacpp", "demo", options)
    assert first is not second
    house = manager._opened
    assert house is not None
    assert len(house._gateway.state()["memory"]["models"]) == 1
    assert first.generate_answer("Hello.")
    assert second.generate_answer("Hello.")
    assert manager.unload_model("llamacpp", "demo")
    with pytest.raises(errors.NoFit):
        manager.load_model("llamacpp", "demo", {**options, "n_parallel": 64, "n_ctx": 32768})
    assert manager.loaded_models() == [("llamacpp", str(demo_gguf))]
    assert manager.unload_model("llamacpp", str(demo_gguf))
