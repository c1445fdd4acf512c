"""OpenAI's chat wire: bytes of a request -> `ChatRequest`; an answer -> bytes. No socket, no gateway.

Format: platform.openai.com/docs/api-reference/chat. Fields that this file does not know reach the backend by name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from roundhouse.core.chat import Answer, ChatRequest, Chunk, Message, Sampling, TokenLogprob, Tool, ToolCall, Usage
from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.core.report import Report
from roundhouse.server.dialect import EVENTS, Asked, decode, extension, summed
from roundhouse.server.errors import openai_form

__all__ = [
    "Chat",
    "ChatBody",
    "Extension",
    "StreamOptions",
    "answers_wanted",
    "sampling_of",
    "schema_of",
    "wire_logprobs",
    "wire_usage",
]

# More answers to one request would take every slot there is.
_MOST_ANSWERS = 16

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


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Extension(msgspec.Struct, forbid_unknown_fields=True):
    """What rides under the one key `roundhouse`."""

    fallback: bool = True
    priority: int = 0


class ChatExtension(Extension, forbid_unknown_fields=True):
    """A prompt by name comes before the messages, of which there need be none then."""

    prompt: str = ""
    variables: dict[str, str | int | float | bool | list[Any]] = msgspec.field(default_factory=dict)
    experiment_unit: str = ""


class ChatBody(msgspec.Struct):
    """`POST /v1/chat/completions`."""

    messages: list[_Message] = msgspec.field(default_factory=list)
    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
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
    roundhouse: ChatExtension | None = None


def parse_chat(body: bytes) -> Asked:
    """The request in `body`; raises `InvalidRequest` that names the field at fault."""
    asked, extra = decode(body, ChatBody)
    own = asked.roundhouse or ChatExtension()
    if own.variables and not own.prompt:
        raise InvalidRequest("variables belong to a prompt; name one in roundhouse.prompt", param="roundhouse.prompt")
    if not asked.messages and not own.prompt:
        raise InvalidRequest("messages is empty; send at least one message", param="messages")
    request = ChatRequest(
        messages=tuple(_message(message, index) for index, message in enumerate(asked.messages)),
        model=asked.model,
        sampling=sampling_of(asked),
        tools=tuple(_tool(tool) for tool in asked.tools or ()),
        tool_choice=asked.tool_choice,
        json_schema=schema_of(asked.response_format),
        logprobs=_logprobs_wanted(asked),
        continue_last=_continues(asked),
        extra=extra,
        fallback=own.fallback,
        priority=own.priority,
    )
    include_usage = asked.stream_options is not None and asked.stream_options.include_usage
    return Asked(
        answers_wanted(request, asked.n),
        bool(asked.stream),
        include_usage,
        prompt=own.prompt,
        variables=own.variables,
        unit=own.experiment_unit or str(extra.get("user") or ""),
    )


def answers_wanted(request: ChatRequest, n: int | None) -> tuple[ChatRequest, ...]:
    """`request` once for each answer; a seed counts up, lest all answers be the same."""
    if n is None or n == 1:
        return (request,)
    if not 1 <= n <= _MOST_ANSWERS:
        raise InvalidRequest(f"n must be between 1 and {_MOST_ANSWERS}, not {n}", param="n")
    seed = request.sampling.seed
    if seed is None:
        return (request,) * n
    return tuple(replace(request, sampling=replace(request.sampling, seed=seed + place)) for place in range(n))


def _logprobs_wanted(asked: ChatBody) -> int | None:
    if not 0 <= (asked.top_logprobs or 0) <= 20:
        raise InvalidRequest(f"top_logprobs must be between 0 and 20, not {asked.top_logprobs}", param="top_logprobs")
    if asked.top_logprobs and not asked.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    return (asked.top_logprobs or 0) if asked.logprobs else None


def _continues(asked: ChatBody) -> bool:
    if asked.continue_final_message and [message.role for message in asked.messages[-1:]] != ["assistant"]:
        raise InvalidRequest("continue_final_message needs an assistant message at the end", param="messages")
    return bool(asked.continue_final_message)


def sampling_of(asked: Any) -> Sampling:
    """Of a body that has OpenAI's names; raises `InvalidRequest` for a value that no backend could take."""
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    newer = getattr(asked, "max_completion_tokens", None)
    limit = newer if newer is not None else asked.max_tokens
    if limit is not None and limit < 1:
        raise InvalidRequest(f"max_tokens must be at least 1, not {limit}", param="max_tokens")
    within("temperature", asked.temperature, 0, 2)
    within("top_p", asked.top_p, 0, 1)
    within("presence_penalty", asked.presence_penalty, -2, 2)
    within("frequency_penalty", asked.frequency_penalty, -2, 2)
    within("seed", asked.seed, -(2**63), 2**63 - 1)
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


def within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low} and {high}, not {value}", param=name)


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


def schema_of(response_format: dict[str, Any] | None) -> Mapping[str, Any] | None:
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


class Chat:
    """The dialect of `/v1/chat/completions`."""

    media_type = EVENTS
    form = staticmethod(openai_form)

    def parse(self, body: bytes) -> Asked:
        return parse_chat(body)

    def whole(self, asked: Asked, answers: Sequence[Answer], reports: Sequence[Report]) -> bytes:
        """A `chat.completion` object."""
        usage = summed([answer.usage for answer in answers], len(answers))
        return _json.encode(
            {
                "id": f"chatcmpl-{reports[0].request_id}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": reports[0].model,
                "choices": [_choice(place, answer) for place, answer in enumerate(answers)],
                "usage": wire_usage(usage),
                "roundhouse": extension(reports[0], answers[0]),
            }
        )

    def encoder(self, asked: Asked, reports: Sequence[Report]) -> ChatEncoder:
        return ChatEncoder(reports, int(time.time()), include_usage=asked.include_usage)


def _choice(place: int, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = [_wire_call(call, streamed=False) for call in answer.tool_calls]
        message["content"] = answer.text or None
    return {
        "index": place,
        "message": message,
        "finish_reason": answer.finish_reason,
        "logprobs": wire_logprobs(answer.logprobs) if answer.logprobs else None,
    }


class ChatEncoder:
    """`Chunk`s -> server-sent events of `chat.completion.chunk` objects, each event whole."""

    def __init__(self, reports: Sequence[Report], created: int, *, include_usage: bool) -> None:
        self._report = reports[0]
        self._usages = [Usage()] * len(reports)
        self._open = len(reports)
        self._include_usage = include_usage
        # The fields that no chunk changes are encoded once; a text chunk is then two joins around its text.
        head = {"id": f"chatcmpl-{self._report.request_id}", "object": "chat.completion.chunk", "created": created}
        self._head = b"data: " + _json.encode(head)[:-1] + b',"model":' + _json.encode(self._report.model)
        self._text_head = self._head + b',"choices":[{"index":0,"delta":{"content":'

    def begin(self) -> bytes:
        """The event that names the role, for each answer."""
        role = {"role": "assistant", "content": ""}
        return b"".join(self._event(index, role, None, ()) for index in range(len(self._usages)))

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """The content of a chunk, and the end of its answer if it is the last."""
        content = self._content(index, chunk) if chunk.has_content or chunk.logprobs else b""
        return content if chunk.finish_reason is None else content + self._last(index, chunk)

    def end(self) -> bytes:
        """Usage where it is asked for, and the end mark."""
        if not self._include_usage:
            return b"data: [DONE]\n\n"
        usage = _json.encode(wire_usage(summed(self._usages, len(self._usages))))
        return self._head + b',"choices":[],"usage":' + usage + b"}\n\ndata: [DONE]\n\n"

    def failed(self, error: Error) -> bytes:
        return b"data: " + _json.encode(openai_form(error)) + b"\n\n"

    def _content(self, index: int, chunk: Chunk) -> bytes:
        if chunk.text and not (index or chunk.reasoning or chunk.tool_calls or chunk.logprobs):
            return self._text_head + _json.encode(chunk.text) + b'},"finish_reason":null,"logprobs":null}]}\n\n'
        delta: dict[str, Any] = {}
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.tool_calls:
            delta["tool_calls"] = [_wire_call(call, streamed=True) for call in chunk.tool_calls]
        return self._event(index, delta, None, chunk.logprobs)

    def _last(self, index: int, chunk: Chunk) -> bytes:
        """The finish reason; after the last of all answers, what is said beside them."""
        self._usages[index] = chunk.usage or Usage()
        self._open -= 1
        tail = b"" if self._open else b',"roundhouse":' + _json.encode(extension(self._report, chunk))
        return self._event(index, {}, chunk.finish_reason, (), tail)

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None,
        logprobs: tuple[TokenLogprob, ...],
        tail: bytes = b"",
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": wire_logprobs(logprobs) if logprobs else None,
        }
        return self._head + b',"choices":[' + _json.encode(choice) + b"]" + tail + b"}\n\n"


def wire_usage(usage: Usage) -> dict[str, Any]:
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


def wire_logprobs(entries: tuple[TokenLogprob, ...]) -> dict[str, Any]:
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
