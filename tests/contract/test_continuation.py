"""An answer that is cut goes on in another engine of the same model, from the very text; the client sees no seam."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from msgspec import structs

from roundhouse.core.chat import Answer, ChatRequest, Chunks, Message, Sampling, collect
from roundhouse.core.errors import StreamBroken
from roundhouse.core.model import Capabilities, ModelDescription
from roundhouse.core.report import Report
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.providers.base import AsyncProvider, LLMProvider
from roundhouse.routing.manager import Manager
from roundhouse.routing.replica import Replica
from roundhouse.routing.route import Route
from roundhouse.routing.target import Target
from tests.conftest import rag_query
from tests.contract.subjects import DEMO_PROMPT, Pair

pytestmark = pytest.mark.asyncio(loop_scope="package")
REQUEST = ChatRequest.of(DEMO_PROMPT, sampling=Sampling(temperature=0.0, max_tokens=60))


class Cut(AsyncProvider):
    """The backend behind it dies after so many pieces of text."""

    def __init__(self, whole: LLMProvider, after: int) -> None:
        self._whole = whole
        self._after = after

    @property
    def capabilities(self) -> Capabilities:
        return self._whole.capabilities

    async def adescribe(self) -> ModelDescription:
        return ModelDescription("demo")

    async def astream(self, request: ChatRequest) -> Chunks:
        given = 0
        async with aclosing(self._whole.astream(request)) as chunks:
            async for chunk in chunks:
                if given == self._after:
                    raise StreamBroken("cut")
                given += bool(chunk.text)
                yield chunk


def _manager(first: LLMProvider, second: LLMProvider, model: str = "demo") -> Manager:
    def target(name: str, provider: LLMProvider, model: str) -> Target:
        replica = Replica(name, Engine(name, launch.attach("http://unused")), lambda ready: provider, 1)
        return Target(name, model, [replica], capabilities=provider.capabilities)

    return Manager([target("a", first, "demo"), target("b", second, model)])


async def _ask(manager: Manager, request: ChatRequest = REQUEST) -> tuple[Answer, Report]:
    reply = manager.stream(request, Route("default", (("a",), ("b",))), Report("id", "default"))
    return collect([chunk async for chunk in reply.chunks]), reply.report


@pytest.mark.timeout(300)  # some 300 answers
async def test_cut_at_every_place_the_joined_answer_is_the_whole_one(pair: Pair, heldout: list[dict[str, Any]]) -> None:
    """Both ways round, usage counted once, with names that are several tokens long."""
    rows = [row for row in heldout if row["kind"] == "answerable"][:12]
    for request in (REQUEST, *(_question(row) for row in rows)):
        await _cut_everywhere(pair, request)


def _question(row: dict[str, Any]) -> ChatRequest:
    return structs.replace(REQUEST, messages=(Message("user", rag_query(row["context"], row["question"])),))


async def _cut_everywhere(pair: Pair, request: ChatRequest) -> None:
    whole = await pair[0].agenerate(request)
    pieces = whole.usage.completion_tokens - 1
    assert pieces > 4
    at_once = asyncio.Semaphore(4)

    async def cut(first: LLMProvider, second: LLMProvider, after: int) -> tuple[int, Answer, Report]:
        async with at_once:
            return after, *await _ask(_manager(Cut(first, after), second), request)

    for first, second in (pair, pair[::-1]):
        joined = 0
        for after, answer, report in await asyncio.gather(*(cut(first, second, n) for n in range(1, pieces))):
            if not report.seams:  # several tokens made one piece, and the last of them was never cut
                continue
            assert answer.text == whole.text, f"cut after {after} pieces"
            assert answer.finish_reason == "stop"
            assert answer.usage.prompt_tokens == whole.usage.prompt_tokens
            assert answer.usage.completion_tokens == whole.usage.completion_tokens, f"cut after {after} pieces"
            joined += 1
            (seam,) = report.seams
            assert (seam.before, seam.after) == ("a", "b")
            assert [(one.target, one.outcome) for one in report.attempts] == [("a", "stream_broken"), ("b", "ok")]
        assert joined >= (pieces - 1) * 0.7


async def test_the_limit_of_tokens_holds_over_both_parts(pair: Pair) -> None:
    request = structs.replace(REQUEST, sampling=Sampling(temperature=0.0, max_tokens=7))
    whole = await pair[0].agenerate(request)
    for after in range(1, 7):
        answer, _ = await _ask(_manager(Cut(pair[0], after), pair[1]), request)
        assert (answer.text, answer.finish_reason, answer.usage.completion_tokens) == (whole.text, "length", 7)
