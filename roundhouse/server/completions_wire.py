"""OpenAI's older completion wire: a text to be extended as it stands, without a chat template.

Format: platform.openai.com/docs/api-reference/completions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from roundhouse.core.chat import Answer, ChatRequest, Chunk, Message, TokenLogprob, Usage
from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.core.report import Report
from roundhouse.server.dialect import EVENTS, ID_HEADERS, Asked, decode, extension, summed
from roundhouse.server.errors import openai_form
from roundhouse.server.openai_answers import wire_usage
from roundhouse.server.openai_wire import Extension, StreamOptions, answers_wanted, sampling_of

__all__ = ["CompletionBody", "Completions"]

_MOST_ANSWERS = 64  # to all prompts together
_json = msgspec.json.Encoder()


class CompletionBody(msgspec.Struct):
    """`POST /v1/completions`."""

    prompt: str | list[str | int | list[int]]
    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: int | None = None
    echo: bool | None = None
    n: int | None = None
    best_of: int | None = None
    suffix: str | None = None
    roundhouse: Extension | None = None


class Completions:
    """The dialect of `/v1/completions`."""

    media_type = EVENTS
    id_headers = ID_HEADERS
    form = staticmethod(openai_form)

    def parse(self, body: bytes) -> Asked:
        asked, extra = decode(body, CompletionBody)
        prompts = _prompts(asked.prompt)
        if asked.best_of not in (None, asked.n or 1):
            raise InvalidRequest("best_of other than n is not available", param="best_of")
        if asked.suffix:
            raise InvalidRequest("suffix is not available: no backend fills a gap the same way", param="suffix")
        if asked.logprobs is not None and not 0 <= asked.logprobs <= 20:
            raise InvalidRequest(f"logprobs must be between 0 and 20, not {asked.logprobs}", param="logprobs")
        own = asked.roundhouse or Extension()
        requests = [
            one
            for prompt in prompts
            for one in answers_wanted(
                ChatRequest(
                    messages=(Message("user", prompt),),
                    model=asked.model,
                    sampling=sampling_of(asked),
                    raw=True,
                    logprobs=asked.logprobs,
                    extra=extra,
                    fallback=own.fallback,
                    priority=own.priority,
                ),
                asked.n,
            )
        ]
        if len(requests) > _MOST_ANSWERS:
            said = f"{len(prompts)} prompts with n: {asked.n} are more than {_MOST_ANSWERS} answers, which is the limit"
            raise InvalidRequest(said, param="prompt")
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return Asked(tuple(requests), bool(asked.stream), include_usage, body=asked)

    def whole(self, asked: Asked, answers: Sequence[Answer], reports: Sequence[Report]) -> bytes:
        """A `text_completion` object."""
        choices = []
        for place, answer in enumerate(answers):
            echoed = _echoed(asked, place)
            logprobs = _wire_logprobs(answer.logprobs, len(echoed)) if answer.logprobs else None
            choices.append(_choice(place, echoed + answer.text, answer.finish_reason, logprobs))
        usage = summed([answer.usage for answer in answers], asked.body.n or 1)
        head = _head(reports[0], int(time.time()))
        said = {"choices": choices, "usage": wire_usage(usage), "roundhouse": extension(reports[0], answers[0])}
        return _json.encode({**head, **said})

    def encoder(self, asked: Asked, reports: Sequence[Report]) -> CompletionEncoder:
        return CompletionEncoder(asked, reports, int(time.time()))


class CompletionEncoder:
    """`Chunk`s -> server-sent events of `text_completion` objects."""

    def __init__(self, asked: Asked, reports: Sequence[Report], created: int) -> None:
        self._asked = asked
        self._report = reports[0]
        self._head = _head(reports[0], created)
        self._usages = [Usage()] * len(reports)
        self._written = [0] * len(reports)
        self._open = len(reports)

    def begin(self) -> bytes:
        """The prompts, where they are to be echoed."""
        echoes = [(place, _echoed(self._asked, place)) for place in range(len(self._usages))]
        self._written = [len(text) for _, text in echoes]
        return b"".join(self._event([_choice(place, text, None, None)]) for place, text in echoes if text)

    def piece(self, index: int, chunk: Chunk) -> bytes:
        logprobs = _wire_logprobs(chunk.logprobs, self._written[index]) if chunk.logprobs else None
        self._written[index] += len(chunk.text)
        choice = _choice(index, chunk.text, chunk.finish_reason, logprobs)
        if chunk.finish_reason is None:
            return self._event([choice])
        self._usages[index] = chunk.usage or Usage()
        self._open -= 1
        return self._event([choice], **({} if self._open else {"roundhouse": extension(self._report, chunk)}))

    def end(self) -> bytes:
        usage = b""
        if self._asked.include_usage:
            usage = self._event([], usage=wire_usage(summed(self._usages, self._asked.body.n or 1)))
        return usage + b"data: [DONE]\n\n"

    def failed(self, error: Error) -> bytes:
        return b"data: " + _json.encode(openai_form(error)) + b"\n\n"

    def _event(self, choices: list[dict[str, Any]], **fields: Any) -> bytes:
        return b"data: " + _json.encode({**self._head, "choices": choices, **fields}) + b"\n\n"


def _prompts(prompt: str | list[str | int | list[int]]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not prompts or not all(isinstance(one, str) for one in prompts):
        said = "send text: token ids mean something in one tokenizer alone" if prompts else "prompt is empty"
        raise InvalidRequest(said, param="prompt")
    texts = [str(one) for one in prompts]
    if not all(texts):
        raise InvalidRequest("prompt is empty; there is nothing to extend", param="prompt")
    if len(texts) > _MOST_ANSWERS:
        raise InvalidRequest(f"{len(texts)} prompts are more than {_MOST_ANSWERS}, which is the limit", param="prompt")
    return texts


def _echoed(asked: Asked, place: int) -> str:
    return asked.requests[place].messages[0].content if asked.body.echo else ""


def _head(report: Report, created: int) -> dict[str, Any]:
    said = {"id": f"cmpl-{report.request_id}", "object": "text_completion", "created": created}
    return {**said, "model": report.model}


def _choice(place: int, text: str, finish_reason: str | None, logprobs: Any) -> dict[str, Any]:
    return {"index": place, "text": text, "finish_reason": finish_reason, "logprobs": logprobs}


def _wire_logprobs(entries: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Lists side by side; offsets count characters of the text."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [dict(entry.top) for entry in entries],
        "text_offset": offsets,
    }
