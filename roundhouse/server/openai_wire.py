"""OpenAI's chat wire: bytes of a request -> `ChatRequest`; an answer -> bytes. No socket, no gateway.

Format: platform.openai.com/docs/api-reference/chat. Fields that this file does not know reach the backend by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from roundhouse.core.chat import Answer, ChatRequest, Chunk, Message, Sampling, TokenLogprob, Tool, ToolCall, Usage
from roundhouse.core.errors import InvalidRequest
from roundhouse.core.report import Report

__all__ = ["Asked", "StreamEncoder", "encode_answer", "parse_chat"]

_json = msgspec.json.Encoder()


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _ToolFunction
    type: Literal["function"] = "function"


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Extension(msgspec.Struct, forbid_unknown_fields=True):
    """What rides under the one key `roundhouse`."""

    fallback: bool = True
    priority: int = 0


class _Body(msgspec.Struct):
    messages: list[_Message]
    model: str = ""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    roundhouse: _Extension | None = None


_KNOWN = frozenset(_Body.__struct_fields__)


class Asked(msgspec.Struct, frozen=True):
    """One parsed request: what to ask, and how the client wants it told."""

    request: ChatRequest
    stream: bool
    include_usage: bool


def parse_chat(body: bytes) -> Asked:
    """The request in `body`; raises `InvalidRequest` that names the field at fault."""
    try:
        raw = msgspec.json.decode(body)
        if not isinstance(raw, dict):
            raise InvalidRequest(f"the body must be a JSON object, not {type(raw).__name__}")
        asked = msgspec.convert(raw, _Body)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise InvalidRequest(f"{message} (at {place.strip('`.') or 'the top'})", param=place.strip("`.")) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not asked.messages:
        raise InvalidRequest("messages is empty; send at least one message", param="messages")
    if asked.n not in (None, 1):
        raise InvalidRequest(f"n={asked.n} is not available; ask once per answer", param="n")
    extension = asked.roundhouse or _Extension()
    request = ChatRequest(
        messages=tuple(_message(message, index) for index, message in enumerate(asked.messages)),
        model=asked.model,
        sampling=_sampling(asked),
        tools=tuple(_tool(tool) for tool in asked.tools or ()),
        tool_choice=asked.tool_choice,
        json_schema=_schema(asked.response_format),
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        continue_last=_continues(asked),
        extra={name: value for name, value in raw.items() if name not in _KNOWN and value is not None},
        fallback=extension.fallback,
        priority=extension.priority,
    )
    include_usage = asked.stream_options is not None and asked.stream_options.include_usage
    return Asked(request, bool(asked.stream), include_usage)


def _continues(asked: _Body) -> bool:
    if asked.continue_final_message and asked.messages[-1].role != "assistant":
        raise InvalidRequest("continue_final_message needs an assistant message at the end", param="messages")
    return bool(asked.continue_final_message)


def _sampling(asked: _Body) -> Sampling:
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    if limit is not None and limit < 1:
        raise InvalidRequest(f"max_tokens must be at least 1, not {limit}", param="max_tokens")
    if asked.temperature is not None and not 0 <= asked.temperature <= 2:
        raise InvalidRequest(f"temperature must be between 0 and 2, not {asked.temperature}", param="temperature")
    return Sampling(
        max_tokens=limit,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        min_p=asked.min_p,
        repeat_penalty=asked.repeat_penalty,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        seed=asked.seed,
        stop=stop,
    )


def _message(message: _Message, index: int) -> Message:
    text, images = _content(message.content, index)
    calls = tuple(
        ToolCall(place, call.id, call.function.name, call.function.arguments)
        for place, call in enumerate(message.tool_calls or ())
    )
    return Message(
        role="system" if message.role == "developer" else message.role,
        content=text,
        name=message.name or "",
        tool_calls=calls,
        tool_call_id=message.tool_call_id or "",
        images=images,
    )


def _content(content: str | list[dict[str, Any]] | None, index: int) -> tuple[str, tuple[str, ...]]:
    """Text and images of a message whose content is text, nothing, or a list of typed parts."""
    if content is None or isinstance(content, str):
        return content or "", ()
    texts: list[str] = []
    images: list[str] = []
    for place, part in enumerate(content):
        where = f"messages[{index}].content[{place}]"
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                if not url.startswith("data:"):
                    raise InvalidRequest(f"{where}: images must be data: URLs; nothing is fetched for you", param=where)
                images.append(url)
            case _:
                raise InvalidRequest(f"{where}: expected a text or image_url part", param=where)
    return "".join(texts), tuple(images)


def _tool(tool: _Tool) -> Tool:
    return Tool(tool.function.name, tool.function.description or "", tool.function.parameters or {})


def _schema(response_format: dict[str, Any] | None) -> Mapping[str, Any] | None:
    match response_format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case _:
            raise InvalidRequest(
                "response_format must be of type text, json_object, or json_schema with a schema",
                param="response_format",
            )


def encode_answer(answer: Answer, report: Report, created: int) -> bytes:
    """A `chat.completion` object."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = [_wire_call(call, streamed=False) for call in answer.tool_calls]
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}
    if answer.logprobs:
        choice["logprobs"] = _wire_logprobs(answer.logprobs)
    return _json.encode(
        {
            "id": f"chatcmpl-{report.request_id}",
            "object": "chat.completion",
            "created": created,
            "model": report.model,
            "choices": [choice],
            "usage": _wire_usage(answer.usage),
            "roundhouse": _extension(report, answer),
        }
    )


class StreamEncoder:
    """`Chunk`s -> server-sent events of `chat.completion.chunk` objects, each event whole."""

    def __init__(self, report: Report, created: int, *, include_usage: bool) -> None:
        self._report = report
        self._include_usage = include_usage
        # The fields that no chunk changes are encoded once; a text chunk is then two joins around its text.
        head = {"id": f"chatcmpl-{report.request_id}", "object": "chat.completion.chunk", "created": created}
        self._head = b"data: " + _json.encode(head)[:-1] + b',"model":' + _json.encode(report.model)
        self._text_head = self._head + b',"choices":[{"index":0,"delta":{"content":'
        self._text_tail = b'},"finish_reason":null,"logprobs":null}]}\n\n'

    def first(self) -> bytes:
        """The event that names the role."""
        return self._event({"role": "assistant", "content": ""}, None, None)

    def piece(self, chunk: Chunk) -> bytes:
        """A piece of content, without its finish reason."""
        if chunk.text and not (chunk.reasoning or chunk.tool_calls or chunk.logprobs):
            return self._text_head + _json.encode(chunk.text) + self._text_tail
        delta: dict[str, Any] = {}
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.tool_calls:
            delta["tool_calls"] = [_wire_call(call, streamed=True) for call in chunk.tool_calls]
        return self._event(delta, None, chunk.logprobs)

    def last(self, chunk: Chunk) -> bytes:
        """The finish reason, usage where asked for, and the end mark."""
        events = [self.piece(chunk)] if chunk.has_content else []
        extension = _extension(self._report, chunk)
        events.append(self._event({}, chunk.finish_reason, None, b',"roundhouse":' + _json.encode(extension)))
        if self._include_usage:
            usage = _json.encode(_wire_usage(chunk.usage or Usage()))
            events.append(self._head + b',"choices":[],"usage":' + usage + b"}\n\n")
        return b"".join([*events, b"data: [DONE]\n\n"])

    def _event(
        self,
        delta: dict[str, Any],
        finish_reason: str | None,
        logprobs: tuple[TokenLogprob, ...] | None,
        tail: bytes = b"",
    ) -> bytes:
        choice = {
            "index": 0,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": _wire_logprobs(logprobs) if logprobs else None,
        }
        return self._head + b',"choices":[' + _json.encode(choice) + b"]" + tail + b"}\n\n"


def _extension(report: Report, end: Answer | Chunk) -> dict[str, Any]:
    """The `roundhouse` object: who answered after what, and how long each part took, in seconds."""
    said: dict[str, Any] = {
        "route": report.route,
        "target": report.target,
        "attempts": [
            {"target": a.target, "outcome": a.outcome, "reason": a.reason, "seconds": round(a.seconds, 4)}
            for a in report.attempts
        ],
        "warnings": list(report.warnings),
    }
    if report.seams:
        said["seams"] = [{"at": seam.at, "before": seam.before, "after": seam.after} for seam in report.seams]
    if end.timings:
        timings = msgspec.to_builtins(end.timings)
        said["timings"] = {name: round(value, 4) for name, value in timings.items()}
    return said


def _wire_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _wire_call(call: ToolCall, *, streamed: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    if call.id:
        said["id"] = call.id
    if streamed:
        said["index"] = call.index
    return said


def _wire_logprobs(entries: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    return {
        "content": [
            {
                "token": entry.token,
                "logprob": entry.logprob,
                "bytes": list(entry.token.encode()),
                "top_logprobs": [
                    {"token": token, "logprob": logprob, "bytes": list(token.encode())} for token, logprob in entry.top
                ],
            }
            for entry in entries
        ],
        "refusal": None,
    }
