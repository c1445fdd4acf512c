"""The contract of a provider as tests. Ours all pass it; a third party's provider is tested by a subclass:

    class TestMine(ProviderContract):
        @pytest.fixture
        async def subject(self):
            provider = MyProvider(...)
            yield Subject(provider, prompt="What is the capital of France?")
            await provider.aclose()

Needs pytest and pytest-asyncio (`asyncio_mode = "auto"`). What a provider does not claim in its `capabilities` is
asked for all the same: it must be refused as `Unsupported`, or named in a warning, never dropped in silence.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from roundhouse.core.chat import Answer, ChatRequest, Chunk, Message, Sampling, Tool
from roundhouse.core.errors import ContextTooLong, Error, TimedOut, Unsupported
from roundhouse.providers.base import CountsTokens, LLMProvider

__all__ = ["ProviderContract", "Subject"]

_CANCEL_S = 0.5
_SAID = 20
# On a busy machine an answer may be over before it was seen to be under way.
_TRIES = 5
_TOO_SHORT = "every answer was over before it could be given up: `long` makes it too short"
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
_TOOL = Tool(
    "get_weather",
    "The weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]},
)


@dataclass(frozen=True)
class Subject:
    """A provider under test, and what a test must know of the backend behind it.

    `prompt` has a greedy answer of at least five tokens, and `long` (fields of the wire) makes an answer run to its
    `max_tokens`. `busy_slots` reads the backend's own count of what it computes. `window_tokens` is the model's
    window. `elsewhere` is the same backend, asked for a model that it does not have, `embedding` one that
    gives vectors, if that is another. `calls_tools` says whether the model was made for it: False = a call must be
    refused, None = this provider cannot know. `embeds` says the same of vectors. `another` makes one
    more client of the same backend.
    """

    provider: LLMProvider
    prompt: str
    system: str = "Be brief."
    long: Mapping[str, Any] = field(default_factory=dict)
    busy_slots: Callable[[], Awaitable[int]] | None = None
    window_tokens: int = 0
    elsewhere: LLMProvider | None = None
    embedding: LLMProvider | None = None
    another: Callable[[], LLMProvider] | None = None
    calls_tools: bool | None = True
    embeds: bool = True


def _greedy(prompt: str, **sampling: Any) -> ChatRequest:
    return ChatRequest.of(prompt, sampling=Sampling(**{"temperature": 0.0, "max_tokens": 60, **sampling}))


async def _chunks(provider: LLMProvider, request: ChatRequest) -> list[Chunk]:
    async with aclosing(provider.astream(request)) as stream:
        return [chunk async for chunk in stream]


class ProviderContract:
    """Subclass it and define the fixture `subject`."""

    @pytest.fixture
    async def subject(self) -> Subject:
        raise NotImplementedError("define a fixture `subject` that gives a Subject")

    async def test_an_answer_has_text_and_a_finish_reason(self, subject: Subject) -> None:
        answer = await subject.provider.agenerate(_greedy(subject.prompt))
        assert answer.text
        assert answer.text == answer.text.lstrip(" \n"), "an answer does not begin with a space"
        assert answer.finish_reason == "stop"

    async def test_streaming_equals_non_streaming(self, subject: Subject) -> None:
        whole = await subject.provider.agenerate(_greedy(subject.prompt))
        pieces = await _chunks(subject.provider, _greedy(subject.prompt))
        assert "".join(piece.text for piece in pieces) == whole.text
        assert pieces[-1].finish_reason == whole.finish_reason
        assert sum(piece.finish_reason is not None for piece in pieces) == 1, "exactly one chunk is the last"
        if subject.provider.capabilities.streaming:
            assert sum(bool(piece.text) for piece in pieces) > 1
        if subject.provider.capabilities.exact_usage:
            assert pieces[-1].usage is not None
            assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
            assert pieces[-1].usage.prompt_tokens == whole.usage.prompt_tokens

    async def test_the_blocking_forms_are_the_same_provider(self, subject: Subject) -> None:
        if subject.another is None:
            pytest.skip("one object serves one event loop; define `another` to test the blocking forms")

        def ask(provider: LLMProvider) -> tuple[str, str, bool]:
            whole = provider.generate(_greedy(subject.prompt)).text
            streamed = "".join(chunk.text for chunk in provider.stream(_greedy(subject.prompt)))
            ready = provider.health().ready
            provider.close()
            return whole, streamed, ready

        whole, streamed, ready = await asyncio.to_thread(ask, subject.another())
        assert whole == streamed == (await subject.provider.agenerate(_greedy(subject.prompt))).text
        assert ready

    async def test_temperature_zero_gives_the_same_answer_each_time(self, subject: Subject) -> None:
        answers = [await subject.provider.agenerate(_greedy(subject.prompt)) for _ in range(3)]
        assert len({answer.text for answer in answers}) == 1

    async def test_answers_do_not_mix_when_several_are_asked_at_once(self, subject: Subject) -> None:
        alone = await subject.provider.agenerate(_greedy(subject.prompt))
        together = await asyncio.gather(*(subject.provider.agenerate(_greedy(subject.prompt)) for _ in range(4)))
        assert {answer.text for answer in together} == {alone.text}

    async def test_every_role_is_taken(self, subject: Subject) -> None:
        turns: tuple[Message, ...] = (
            Message("system", subject.system),
            Message("user", "Hello."),
            Message("assistant", "Hello. What would you like to know?"),
            Message("user", subject.prompt),
        )
        if not subject.provider.capabilities.system_role:
            turns = turns[1:]
        answer = await subject.provider.agenerate(replace(_greedy(subject.prompt), messages=turns))
        assert answer.finish_reason in ("stop", "length")

    async def test_system_text_reaches_the_model(self, subject: Subject) -> None:
        if not (subject.provider.capabilities.system_role and subject.provider.capabilities.exact_usage):
            pytest.skip("its capabilities claim no system role, or no exact usage to see it by")
        plain = await subject.provider.agenerate(_greedy(subject.prompt, max_tokens=1))
        told = replace(
            _greedy(subject.prompt, max_tokens=1),
            messages=(Message("system", subject.system * 3), Message("user", subject.prompt)),
        )
        with_system = await subject.provider.agenerate(told)
        assert with_system.usage.prompt_tokens > plain.usage.prompt_tokens + 3

    async def test_a_stop_sequence_ends_the_answer_before_itself(self, subject: Subject) -> None:
        if "stop" not in subject.provider.capabilities.sampling:
            pytest.skip("its capabilities claim no stop sequences")
        whole = await subject.provider.agenerate(_greedy(subject.prompt))
        stop = whole.text[len(whole.text) // 2 :][:3]
        answer = await subject.provider.agenerate(_greedy(subject.prompt, stop=(stop,)))
        assert answer.text == whole.text[: whole.text.index(stop)]
        assert answer.finish_reason == "stop"

    async def test_max_tokens_is_a_limit_and_is_said(self, subject: Subject) -> None:
        if "max_tokens" not in subject.provider.capabilities.sampling:
            pytest.skip("its capabilities claim no max_tokens")
        answer = await subject.provider.agenerate(_greedy(subject.prompt, max_tokens=3))
        assert answer.finish_reason == "length"
        if subject.provider.capabilities.exact_usage:
            assert answer.usage.completion_tokens == 3

    async def test_a_seed_makes_sampling_repeatable(self, subject: Subject) -> None:
        if not subject.provider.capabilities.seed:
            pytest.skip("its capabilities claim no seed")
        sampling = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 40}
        drawn = [
            (
                await subject.provider.agenerate(
                    replace(_greedy(subject.prompt, seed=seed, **sampling), extra=subject.long)
                )
            )
            for seed in (7, 7, 8, 9, 10)
        ]
        texts = [answer.text for answer in drawn]
        assert texts[0] == texts[1]
        assert len(set(texts)) > 1, "different seeds give different answers"

    async def test_usage_counts_what_the_model_read(self, subject: Subject) -> None:
        provider = subject.provider
        if not provider.capabilities.exact_usage:
            pytest.skip("its capabilities claim no exact usage")
        answer = await provider.agenerate(_greedy(subject.prompt))
        assert answer.usage.prompt_tokens > 0
        assert answer.usage.completion_tokens > 0
        if isinstance(provider, CountsTokens):
            assert answer.usage.prompt_tokens == await provider.acount_tokens(_greedy(subject.prompt))

    async def test_settings_that_cannot_be_honoured_are_named(self, subject: Subject) -> None:
        some = {"top_k": 5, "min_p": 0.01, "repeat_penalty": 1.01, "presence_penalty": 0.01, "frequency_penalty": 0.01}
        answer = await subject.provider.agenerate(_greedy(subject.prompt, **some))
        for name in set(Sampling.__struct_fields__) & some.keys() - subject.provider.capabilities.sampling:
            assert any(name in warning for warning in answer.warnings), f"{name} was dropped in silence"

    async def test_json_of_a_schema(self, subject: Subject) -> None:
        request = replace(_greedy(subject.prompt, max_tokens=120), json_schema=_SCHEMA)
        answer = await self._able(subject, request, "json_schema")
        if answer is not None:
            value = json.loads(answer.text)
            assert set(value) == {"name", "age"}
            assert isinstance(value["age"], int)

    async def test_a_tool_is_called(self, subject: Subject) -> None:
        request = replace(_greedy(subject.prompt, max_tokens=120), tools=(_TOOL,))
        if subject.calls_tools is None:
            pytest.skip("the model cannot call tools, and this backend does not tell")
        if not subject.calls_tools:
            with pytest.raises(Unsupported):
                await subject.provider.agenerate(request)
            return
        answer = await self._able(subject, request, "tools")
        if answer is not None:
            assert answer.finish_reason == "tool_calls"
            assert answer.tool_calls[0].name == "get_weather"
            assert isinstance(json.loads(answer.tool_calls[0].arguments)["city"], str)

    async def test_logprobs(self, subject: Subject) -> None:
        answer = await self._able(subject, replace(_greedy(subject.prompt), logprobs=2), "logprobs")
        if answer is not None:
            assert answer.logprobs
            for entry in answer.logprobs:
                assert entry.logprob <= 1e-6
                assert len(entry.top) == 2
                assert max(value for _, value in entry.top) == pytest.approx(entry.logprob, abs=1e-3), "it was greedy"

    async def test_a_text_is_continued_and_only_the_new_comes_back(self, subject: Subject) -> None:
        whole = await subject.provider.agenerate(_greedy(subject.prompt))
        begun = whole.text[: whole.text.index(" ", len(whole.text) // 3)]
        request = replace(
            _greedy(subject.prompt),
            messages=(Message("user", subject.prompt), Message("assistant", begun)),
            continue_last=True,
        )
        answer = await self._able(subject, request, "continuation")
        if answer is not None:
            assert begun + answer.text == whole.text

    async def test_embeddings(self, subject: Subject) -> None:
        if not (subject.provider.capabilities.embeddings and subject.embeds):
            with pytest.raises(Unsupported):
                await subject.provider.aembed(["a"])
            return
        provider = subject.embedding or subject.provider
        first, second, again = await provider.aembed(["a small cat", "the price of steel in 1902", "a small cat"])
        assert len(first) == len(second) > 0
        assert first == pytest.approx(again, abs=1e-4)
        assert first != pytest.approx(second, abs=1e-4)

    async def test_closing_a_stream_frees_the_backends_slot(self, subject: Subject) -> None:
        if subject.busy_slots is None or not subject.provider.capabilities.cancel:
            pytest.skip("its capabilities claim no cancel, or the backend does not tell what it computes")
        for _ in range(_TRIES):
            stream = subject.provider.astream(self._long(subject))
            while not (await anext(stream)).has_content:
                pass
            computes = await subject.busy_slots()
            await stream.aclose()
            if computes:
                break
        assert computes == 1, _TOO_SHORT
        await self._until_free(subject.busy_slots)

    async def test_a_cancelled_call_frees_the_backends_slot(self, subject: Subject) -> None:
        if subject.busy_slots is None or not subject.provider.capabilities.cancel:
            pytest.skip("its capabilities claim no cancel, or the backend does not tell what it computes")
        for _ in range(_TRIES):
            call = asyncio.create_task(subject.provider.agenerate(self._long(subject)))
            computes = 0
            while not call.done() and not computes:
                computes = await subject.busy_slots()
                await asyncio.sleep(0.005)
            if call.cancel():
                break
            await call  # for its error
        assert not call.done(), _TOO_SHORT
        await self._until_free(subject.busy_slots)

    async def test_a_deadline_is_kept(self, subject: Subject) -> None:
        if not subject.long:
            pytest.skip("nothing is known that makes this backend's answer long")
        request = replace(self._long(subject), deadline_s=0.1)
        began = time.monotonic()
        with pytest.raises(TimedOut) as caught:
            await subject.provider.agenerate(request)
        assert caught.value.phase == "total"
        assert time.monotonic() - began < 5

    async def test_whatever_bytes_the_model_writes_the_pieces_are_text(self, subject: Subject) -> None:
        """Tokens drawn at random are seldom whole characters."""
        request = replace(_greedy(subject.prompt, max_tokens=60, temperature=2.0, seed=3), extra=subject.long)
        pieces = await _chunks(subject.provider, request)
        joined = "".join(piece.text for piece in pieces)
        assert joined.encode().decode() == joined

    async def test_health_is_told_without_a_completion(self, subject: Subject) -> None:
        health = await subject.provider.ahealth()
        assert health.alive
        assert health.ready

    async def test_a_prompt_larger_than_the_window_is_said_to_be_too_long(self, subject: Subject) -> None:
        if not subject.window_tokens:
            pytest.skip("the window of this backend is not known")
        with pytest.raises(ContextTooLong) as caught:
            await subject.provider.agenerate(_greedy("word " * subject.window_tokens * 2))
        assert caught.value.limit_tokens in (0, subject.window_tokens)

    async def test_a_model_that_is_not_there_is_a_reason_to_ask_another(self, subject: Subject) -> None:
        if subject.elsewhere is None:
            pytest.skip("this backend has one model, and answers with it whatever the name")
        with pytest.raises(Error) as caught:
            await subject.elsewhere.agenerate(_greedy(subject.prompt))
        assert caught.value.failover

    async def _until_free(self, busy_slots: Callable[[], Awaitable[int]]) -> None:
        """Within `_CANCEL_S`; on a machine so busy that the backend takes longer to say it so often, within that."""
        since, said = time.monotonic(), 0
        while await busy_slots():
            said += 1
            computes = said > _SAID and time.monotonic() - since > _CANCEL_S
            assert not computes, "the backend still computes for nobody"
            await asyncio.sleep(0.01)

    def _long(self, subject: Subject) -> ChatRequest:
        """A request that keeps a slot busy for as long as the window allows, some 150 tokens being its prompt."""
        limit = max(64, (subject.window_tokens or 4096) - 150)
        return replace(_greedy(subject.prompt, max_tokens=limit), extra=subject.long)

    async def _able(self, subject: Subject, request: ChatRequest, capability: str) -> Answer | None:
        """The answer, if the capability is claimed; else None, and the request was refused."""
        if getattr(subject.provider.capabilities, capability):
            return await subject.provider.agenerate(request)
        with pytest.raises(Unsupported) as caught:
            await subject.provider.agenerate(request)
        assert caught.value.feature == capability
        return None
