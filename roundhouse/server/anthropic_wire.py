"""Anthropic's messages wire: bytes of a request -> `ChatRequest`; an answer -> bytes.

Format: docs.anthropic.com/en/api/messages. A trailing assistant message is extended, as that interface promises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from roundhouse.core.chat import Answer, ChatRequest, Chunk, Message, Sampling, Tool, ToolCall, Usage
from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.core.report import Report
from roundhouse.server.dialect import EVENTS, ID_HEADERS, Asked, decode, event, extension, whole_call
from roundhouse.server.errors import anthropic_form
from roundhouse.server.openai_wire import ChatExtension, own_of, within

__all__ = ["Anthropic", "AnthropicBody", "CountBody", "parse_count"]

_json = msgspec.json.Encoder()
# What Anthropic's own servers do for a client, and no backend here: said, not sent on.
_THEIRS = ("cache_control", "container", "context_management", "inference_geo", "service_tier", "speed", "thinking")
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _Tool(msgspec.Struct):
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None


class _OutputConfig(msgspec.Struct):
    format: dict[str, Any] | None = None
    effort: str | None = None


class CountBody(msgspec.Struct, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    messages: list[_Message]
    model: str = ""
    system: str | list[dict[str, Any]] | None = None
    tools: list[_Tool] | None = None
    tool_choice: dict[str, Any] | None = None


class AnthropicBody(CountBody, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None
    output_config: _OutputConfig | None = None
    output_format: dict[str, Any] | None = None
    roundhouse: ChatExtension | None = None


def parse_count(body: bytes) -> ChatRequest:
    """The request whose prompt is to be counted."""
    asked, _ = decode(body, CountBody)
    return ChatRequest(messages=_messages(asked), model=asked.model, tools=_tools(asked))


def _messages(asked: CountBody, *, needed: bool = True) -> tuple[Message, ...]:
    if needed and not asked.messages:
        raise InvalidRequest("messages: at least one message is required", param="messages")
    system, _ = _text(asked.system, "system") if asked.system else ("", ())
    messages = [Message("system", system)] if system else []
    for place, message in enumerate(asked.messages):
        messages += _turn(message, f"messages.{place}.content")
    return tuple(messages)


def _turn(message: _Message, where: str) -> list[Message]:
    """One turn, with the results of tools as messages of their own before it, as every other wire has them."""
    if isinstance(message.content, str):
        return [Message(message.role, message.content)]
    results: list[Message] = []
    calls: list[ToolCall] = []
    rest: list[dict[str, Any]] = []
    for place, block in enumerate(message.content):
        match block:
            case {"type": "tool_result", "tool_use_id": str(own)}:
                text, _ = _text(block.get("content") or "", f"{where}.{place}.content")
                results.append(Message("tool", text, tool_call_id=own))
            case {"type": "tool_use", "id": str(own), "name": str(name), "input": dict(given)}:
                calls.append(ToolCall(len(calls), own, name, _json.encode(given).decode()))
            case {"type": "thinking" | "redacted_thinking"}:
                continue
            case _:
                rest.append(block)
    text, images = _text(rest, where)
    if results and not (text or images):
        return results
    return [*results, Message(message.role, text, tool_calls=tuple(calls), images=images)]


def _text(content: str | list[dict[str, Any]], where: str) -> tuple[str, tuple[str, ...]]:
    if isinstance(content, str):
        return content, ()
    texts: list[str] = []
    images: list[str] = []
    for place, block in enumerate(content):
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
                images.append(f"data:{kind};base64,{data}")
            case {"type": "document", "source": {"type": "text", "data": str(text)}}:
                title = block.get("title")
                texts.append(f"{title}\n\n{text}" if title else text)
            case {"type": "document"}:
                said = f"{where}.{place}: documents must be of type text; no backend here reads others"
                raise InvalidRequest(said, param=where)
            case {"type": "image"}:
                raise InvalidRequest(f"{where}.{place}: images must be base64; nothing is fetched for you", param=where)
            case _:
                raise InvalidRequest(f"{where}.{place}: expected a text, image, document or tool block", param=where)
    return "".join(texts), tuple(images)


def _tools(asked: CountBody) -> tuple[Tool, ...]:
    for tool in asked.tools or ():
        if tool.type not in (None, "custom"):
            raise InvalidRequest(f"tools: {tool.type} is run by Anthropic's servers; there is none here", param="tools")
    tools = asked.tools or ()
    return tuple(Tool(one.name, one.description or "", one.input_schema or {}, one.strict) for one in tools)


def _tool_choice(choice: Mapping[str, Any] | None) -> str | Mapping[str, Any] | None:
    match choice:
        case None | {"type": "auto"}:
            return None
        case {"type": "any"}:
            return "required"
        case {"type": "none"}:
            return "none"
        case {"type": "tool", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case _:
            raise InvalidRequest("tool_choice: expected type auto, any, none, or tool with a name", param="tool_choice")


def _schema(asked: AnthropicBody) -> Mapping[str, Any] | None:
    """`output_format` is what it was called at first."""
    match (asked.output_config and asked.output_config.format) or asked.output_format:
        case None:
            return None
        case {"type": "json_schema", "schema": dict(schema)}:
            return schema
        case _:
            raise InvalidRequest("output_config.format: expected json_schema with a schema", param="output_config")


def _extra(asked: AnthropicBody, unknown: Mapping[str, Any]) -> dict[str, Any]:
    """What reaches the backend by name, in the names that backends know."""
    extra = {name: value for name, value in unknown.items() if name not in _THEIRS}
    if asked.tool_choice and asked.tool_choice.get("disable_parallel_tool_use"):
        extra["parallel_tool_calls"] = False
    if asked.output_config and asked.output_config.effort:
        extra["reasoning_effort"] = asked.output_config.effort
    return extra


class Anthropic:
    """The dialect of `/v1/messages`."""

    media_type = EVENTS
    id_headers = (*ID_HEADERS, "request-id")
    form = staticmethod(anthropic_form)

    def parse(self, body: bytes) -> Asked:
        asked, unknown = decode(body, AnthropicBody)
        if unknown.get("mcp_servers"):
            raise InvalidRequest("mcp_servers: nothing is called for you here", param="mcp_servers")
        if asked.max_tokens < 1:
            raise InvalidRequest(f"max_tokens must be at least 1, not {asked.max_tokens}", param="max_tokens")
        within("temperature", asked.temperature, 0, 2)
        within("top_p", asked.top_p, 0, 1)
        own = own_of(asked.roundhouse)
        messages = _messages(asked, needed=not own.prompt)
        request = ChatRequest(
            messages=messages,
            model=asked.model,
            sampling=Sampling(
                max_tokens=asked.max_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
                top_k=asked.top_k,
                stop=tuple(one for one in asked.stop_sequences or () if one),
            ),
            tools=_tools(asked),
            tool_choice=_tool_choice(asked.tool_choice),
            json_schema=_schema(asked),
            continue_last=bool(messages) and messages[-1].role == "assistant",
            extra=_extra(asked, unknown),
            fallback=own.fallback,
            priority=own.priority,
        )
        ignored = tuple(f"{name} is ignored: it is for Anthropic's own servers" for name in _THEIRS if name in unknown)
        return Asked(
            (request,),
            bool(asked.stream),
            warnings=ignored,
            prompt=own.prompt,
            variables=own.variables,
            unit=own.experiment_unit or str((asked.metadata or {}).get("user_id") or ""),
        )

    def whole(self, asked: Asked, answers: Sequence[Answer], reports: Sequence[Report]) -> bytes:
        """A `message` object."""
        answer, report = answers[0], reports[0]
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        calls = [whole_call(call, place=place) for place, call in enumerate(answer.tool_calls)]
        content += [_tool_use(call) for call in calls]
        said = _message_object(report, content, _STOP[answer.finish_reason], answer.usage)
        return _json.encode({**said, "roundhouse": extension(report, answer, asked.warnings)})

    def encoder(self, asked: Asked, reports: Sequence[Report]) -> AnthropicEncoder:
        return AnthropicEncoder(reports[0], asked.warnings)


class AnthropicEncoder:
    """`Chunk`s -> named events; content comes in numbered blocks, one open at a time."""

    def __init__(self, report: Report, warnings: Sequence[str]) -> None:
        self._report = report
        self._warnings = warnings
        self._block = -1
        self._open: tuple[str, int] | None = None  # the kind of the open block, and which call it is

    def begin(self) -> bytes:
        return event(
            "message_start", {"type": "message_start", "message": _message_object(self._report, [], None, Usage())}
        )

    def piece(self, index: int, chunk: Chunk) -> bytes:
        events = b""
        if chunk.reasoning:
            events += self._opened("thinking", 0, {"type": "thinking", "thinking": "", "signature": ""})
            events += self._delta({"type": "thinking_delta", "thinking": chunk.reasoning})
        if chunk.text:
            events += self._opened("text", 0, {"type": "text", "text": ""})
            events += self._delta({"type": "text_delta", "text": chunk.text})
        for call in chunk.tool_calls:
            block = {"type": "tool_use", "id": call.id or f"call_{call.index}", "name": call.name, "input": {}}
            events += self._opened("tool_use", call.index, block)
            events += self._delta({"type": "input_json_delta", "partial_json": call.arguments})
        if chunk.finish_reason is None:
            return events
        return events + self._closed() + self._finished(chunk)

    def end(self) -> bytes:
        return event("message_stop", {"type": "message_stop"})

    def failed(self, error: Error) -> bytes:
        return event("error", anthropic_form(error))

    def _finished(self, chunk: Chunk) -> bytes:
        said = {
            "type": "message_delta",
            "delta": {"stop_reason": _STOP[chunk.finish_reason or "stop"], "stop_sequence": None},
            "usage": _usage(chunk.usage or Usage()),
            "roundhouse": extension(self._report, chunk, self._warnings),
        }
        return event("message_delta", said)

    def _opened(self, kind: str, number: int, block: dict[str, Any]) -> bytes:
        if self._open == (kind, number):
            return b""
        events = self._closed()
        self._open = (kind, number)
        self._block += 1
        said = {"type": "content_block_start", "index": self._block, "content_block": block}
        return events + event("content_block_start", said)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", {"type": "content_block_delta", "index": self._block, "delta": delta})

    def _closed(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return event("content_block_stop", {"type": "content_block_stop", "index": self._block})


def _tool_use(call: ToolCall) -> dict[str, Any]:
    """Arguments that are no JSON object, which a small model may well write, are kept as text."""
    try:
        given = msgspec.json.decode(call.arguments.encode())
    except (msgspec.DecodeError, UnicodeEncodeError):
        given = None
    return {
        "type": "tool_use",
        "id": call.id,
        "name": call.name,
        "input": given if isinstance(given, dict) else {"arguments": call.arguments},
    }


def _message_object(
    report: Report, content: list[dict[str, Any]], stop_reason: str | None, usage: Usage
) -> dict[str, Any]:
    return {
        "id": f"msg_{report.request_id}",
        "type": "message",
        "role": "assistant",
        "model": report.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": _usage(usage),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
    }
