"""Anything that speaks OpenAI's chat API: LM Studio, llama-server, LocalAI, TGI, vLLM, the hosted services.

It is always asked for a stream, also for callers who want the answer whole: only a stream can be cancelled everywhere,
and only a stream lets silence be told from work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import msgspec

from roundhouse.core.chat import ChatRequest, Chunk, Chunks, FinishReason, Message, TokenLogprob, Tool, ToolCall, Usage
from roundhouse.core.errors import BadResponse, Error, StreamBroken
from roundhouse.core.model import Capabilities, Health
from roundhouse.providers.base import AsyncProvider, Endpoint
from roundhouse.providers.http import HTTPClient, error_from_frame
from roundhouse.providers.secrets import masked
from roundhouse.providers.streams import SSEDecoder

__all__ = ["OpenAICompatibleClient", "Reader"]

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Top(msgspec.Struct):
    token: str
    logprob: float


class _Logprob(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[_Top] | None = None


class _Logprobs(msgspec.Struct):
    """Of a chat (`content`), or of a completion: lists side by side."""

    content: list[_Logprob] | None = None
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: dict[str, float] | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)


class Reader:
    """Events of one streamed answer -> chunks. The finish is held until the usage that follows it has come.

    An answer's first token often carries the space that parts words; at the start of an answer it parts nothing and
    is dropped, so that all backends give the same text. A continued text keeps it.
    """

    def __init__(self, endpoint: Endpoint, *, keep_leading_space: bool) -> None:
        self._endpoint = endpoint
        self._target = endpoint.target
        self._finish: FinishReason | None = None
        self._usage: Usage | None = None
        self._timings: Mapping[str, float] | None = None
        self._begun = keep_leading_space

    @property
    def finished(self) -> bool:
        return self._finish is not None

    def read(self, data: bytes) -> Chunk | None:
        """The content of one event, if it has any; raises what an error frame says."""
        try:
            event = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadResponse(
                f'target "{self._target}" sent an event that cannot be read: {error}', target=self._target
            ) from error
        if event.error is not None:
            raise error_from_frame(self._target, _decoder.decode(masked(data, self._endpoint)).error)
        if event.usage is not None:
            self._usage = _usage(event.usage)
        if event.timings is not None:
            self._timings = event.timings
        if not event.choices:
            return None
        choice = event.choices[0]
        if choice.finish_reason:
            self._finish = _FINISH.get(choice.finish_reason, "stop")
        if choice.text is not None:
            choice.delta = _Delta(content=choice.text)
        return None if choice.delta is None else self._content(choice.delta, choice.logprobs)

    def last(self) -> Chunk:
        """The end of the answer; raises `StreamBroken` if it never said that it was finished."""
        if self._finish is None:
            raise StreamBroken(f'target "{self._target}" ended its answer without a finish reason', target=self._target)
        return Chunk(finish_reason=self._finish, usage=self._usage)

    @property
    def backend_timings(self) -> Mapping[str, float]:
        """llama.cpp's own timings, if it sent any."""
        return self._timings or {}

    def _content(self, delta: _Delta, logprobs: _Logprobs | None) -> Chunk | None:
        text = delta.content or ""
        if text and not self._begun:
            text = text.lstrip(" \n")
            self._begun = bool(text)
        reasoning = delta.reasoning_content or delta.reasoning or ""
        if not (text or reasoning or delta.tool_calls or logprobs):
            return None
        return Chunk(
            text=text,
            reasoning=reasoning,
            tool_calls=tuple(_call(call) for call in delta.tool_calls) if delta.tool_calls else (),
            logprobs=_logprobs(logprobs) if logprobs else (),
        )


def _usage(said: _Usage) -> Usage | None:
    """None for a count that cannot be."""
    cached = (said.prompt_tokens_details.cached_tokens or 0) if said.prompt_tokens_details else 0
    if min(said.prompt_tokens, said.completion_tokens, cached) < 0:
        return None
    return Usage(said.prompt_tokens, said.completion_tokens, cached)


def _call(call: _ToolCall) -> ToolCall:
    function = call.function or _Function()
    return ToolCall(call.index, call.id or "", function.name or "", function.arguments or "")


def _logprobs(logprobs: _Logprobs) -> tuple[TokenLogprob, ...]:
    if logprobs.tokens:
        tops = logprobs.top_logprobs or [None] * len(logprobs.tokens)
        return tuple(
            TokenLogprob(token, logprob, tuple((top or {}).items()))
            for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, tops, strict=False)
            if logprob is not None
        )
    return tuple(
        TokenLogprob(entry.token, entry.logprob, tuple((top.token, top.logprob) for top in entry.top_logprobs or ()))
        for entry in logprobs.content or ()
    )


class OpenAICompatibleClient(AsyncProvider):
    """`endpoint.url` is the base to which `/v1/...` is added, or already ends in a version (`/v1`)."""

    # Sampling fields by their name on this wire; those of Sampling that are absent here are reported as ignored.
    SAMPLING: ClassVar[dict[str, str]] = {
        "max_tokens": "max_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "seed": "seed",
        "stop": "stop",
    }

    KEEP_ALIVE: ClassVar[bool] = True

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.http = HTTPClient(endpoint, keep_alive=self.KEEP_ALIVE)
        versioned = endpoint.url.rstrip("/").rsplit("/", 1)[-1].startswith("v")
        self._prefix = "" if versioned else "/v1"

    @cached_property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            streaming=True,
            cancel=True,
            system_role=True,
            tools=True,
            json_schema=True,
            logprobs=True,
            embeddings=True,
            raw=True,
            seed=True,
            images=True,
            exact_usage=True,
            sampling=frozenset(self.SAMPLING),
        )

    async def astream(self, request: ChatRequest) -> Chunks:
        reader = Reader(self.endpoint, keep_leading_space=request.continue_last or request.raw)
        body, ignored = self.body(request)
        decoder = SSEDecoder()
        if ignored:
            yield Chunk(warnings=tuple(f"{name} is ignored by target {self.endpoint.target}" for name in ignored))
        path = "/completions" if request.raw else "/chat/completions"
        async with self.http.stream(self._prefix + path, body, request.trace) as pieces:
            async for piece in pieces:
                for data in decoder.feed(piece):
                    if data == b"[DONE]":
                        break
                    if (chunk := reader.read(data)) is not None:
                        yield chunk
            for data in decoder.end():
                if (chunk := reader.read(data)) is not None:
                    yield chunk
        yield self.finish(reader)

    def finish(self, reader: Reader) -> Chunk:
        """The last chunk; for backends that add to it."""
        return reader.last()

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        body: dict[str, Any] = {"input": list(texts)}
        if self.endpoint.model:
            body["model"] = self.endpoint.model
        answer = await self.http.post(self._prefix + "/embeddings", body)
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = [[float(value) for value in row["embedding"]] for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd("embeddings") from error
        if len(vectors) != len(texts):
            raise self._odd(f"{len(vectors)} embeddings for {len(texts)} texts")
        return vectors

    async def ahealth(self) -> Health:
        try:
            answer = await self.http.get(self._prefix + "/models")
            names = tuple(str(row["id"]) for row in answer["data"])
        except Error as error:
            return Health(alive=False, detail=str(error))
        except (KeyError, TypeError):
            return Health(alive=True, detail="its list of models cannot be read")
        return Health(alive=True, ready=True, models=names)

    async def aclose(self) -> None:
        await self.http.aclose()

    def body(self, request: ChatRequest) -> tuple[dict[str, Any], list[str]]:
        """The request on the wire, and the names of what it cannot carry. What is unset is left out, never null."""
        said: dict[str, Any] = (
            {"prompt": request.messages[-1].content}
            if request.raw
            else {"messages": [_wire_message(message) for message in request.messages]}
        )
        body: dict[str, Any] = {
            **said,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.endpoint.model:
            body["model"] = self.endpoint.model
        ignored = []
        for name in request.sampling.__struct_fields__:
            value = getattr(request.sampling, name)
            if value is None or value == ():
                continue
            if name in self.SAMPLING:
                body[self.SAMPLING[name]] = list(value) if isinstance(value, tuple) else value
            else:
                ignored.append(name)
        if request.tools:
            body["tools"] = [_wire_tool(tool) for tool in request.tools]
            if request.tool_choice is not None:
                body["tool_choice"] = request.tool_choice
        if request.json_schema is not None:
            body["response_format"] = _response_format(request.json_schema)
        if request.logprobs is not None:
            body |= (
                {"logprobs": request.logprobs} if request.raw else {"logprobs": True, "top_logprobs": request.logprobs}
            )
        self.mark_continuation(request, body)
        return {**body, **self.endpoint.options, **request.extra}, ignored

    def mark_continuation(self, request: ChatRequest, body: dict[str, Any]) -> None:
        """Say that the last message is to be extended; for backends that have a way to say it."""

    def _odd(self, what: str) -> BadResponse:
        return BadResponse(
            f'target "{self.endpoint.target}" answered with {what} that cannot be read', target=self.endpoint.target
        )


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    if not schema:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _wire_tool(tool: Tool) -> dict[str, Any]:
    said: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    if tool.strict is not None:
        said["strict"] = tool.strict
    return {"type": "function", "function": said}


def _wire_message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        said["content"] = [
            {"type": "text", "text": message.content},
            *({"type": "image_url", "image_url": {"url": url}} for url in message.images),
        ]
    if message.name:
        said["name"] = message.name
    if message.tool_call_id:
        said["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return said
