"""OpenAI's chat wire: bytes of a request -> `ChatRequest`. No socket, no gateway; answers are in `openai_answers`.

Format: platform.openai.com/docs/api-reference/chat. Fields that this file does not know reach the backend by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import replace

from roundhouse.core.chat import ChatRequest, Message, Sampling, Tool, ToolCall
from roundhouse.core.errors import InvalidRequest
from roundhouse.server.dialect import Asked, decode

__all__ = [
    "ChatBody",
    "ChatExtension",
    "Extension",
    "StreamOptions",
    "answers_wanted",
    "own_of",
    "parse_chat",
    "sampling_of",
    "schema_of",
    "within",
]

# More answers to one request would take every slot there is.
_MOST_ANSWERS = 16


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    """`function_call` and the role `function` are how tools were told of before there were several at once."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: _Function | None = None


class _ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct):
    function: _ToolFunction
    type: Literal["function"] = "function"


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Extension(msgspec.Struct, forbid_unknown_fields=True):
    """What rides under the one key `roundhouse`. A step of priority is worth ten seconds of waiting."""

    fallback: bool = True
    priority: Annotated[int, msgspec.Meta(ge=-10, le=10)] = 0


class ChatExtension(Extension, forbid_unknown_fields=True):
    """A prompt by name comes before the messages, of which there need be none then."""

    prompt: str = ""
    variables: dict[str, str | int | float | bool | list[Any]] = msgspec.field(default_factory=dict)
    experiment_unit: str = ""


def own_of(given: ChatExtension | None) -> ChatExtension:
    """What a request of any chat wire asks of us alone. Raises `InvalidRequest` for variables of no prompt."""
    own = given or ChatExtension()
    if own.variables and not own.prompt:
        raise InvalidRequest("variables belong to a prompt; name one in roundhouse.prompt", param="roundhouse.prompt")
    return own


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
    functions: list[_ToolFunction] | None = None
    function_call: str | dict[str, Any] | None = None
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
    own = own_of(asked.roundhouse)
    if not asked.messages and not own.prompt:
        raise InvalidRequest("messages is empty; send at least one message", param="messages")
    request = ChatRequest(
        messages=tuple(_message(message, index) for index, message in enumerate(asked.messages)),
        model=asked.model,
        sampling=sampling_of(asked),
        tools=_tools(asked),
        tool_choice=_tool_choice(asked),
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
        body=asked,
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
    # An empty text would end every answer before it begins.
    stop = tuple(one for one in ([asked.stop] if isinstance(asked.stop, str) else asked.stop or ()) if one)
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
    if (old := message.function_call) is not None:
        calls = (ToolCall(0, _old_id(old.name), old.name, old.arguments),)
    if message.role == "function":
        return Message("tool", text, tool_call_id=_old_id(message.name or ""))
    return Message(
        role="system" if message.role == "developer" else message.role,
        content=text,
        name=message.name or "",
        tool_calls=calls,
        tool_call_id=message.tool_call_id or "",
        images=images,
    )


def _old_id(function: str) -> str:
    """Functions were called one at a time, so their name was enough to tell whose result it is."""
    return f"call_{function}"


def _content(content: str | list[dict[str, Any]] | None, index: int) -> tuple[str, tuple[str, ...]]:
    """Text and images of a message whose content is text, nothing, or a list of typed parts."""
    if content is None or isinstance(content, str):
        return content or "", ()
    texts: list[str] = []
    images: list[str] = []
    for place, part in enumerate(content):
        where = f"messages[{index}].content[{place}]"
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                if not url.startswith("data:"):
                    raise InvalidRequest(f"{where}: images must be data: URLs; nothing is fetched for you", param=where)
                images.append(url)
            case _:
                raise InvalidRequest(f"{where}: expected a text or image_url part", param=where)
    return "".join(texts), tuple(images)


def _tools(asked: ChatBody) -> tuple[Tool, ...]:
    functions = [tool.function for tool in asked.tools or ()] or asked.functions or ()
    return tuple(Tool(one.name, one.description or "", one.parameters or {}, one.strict) for one in functions)


def _tool_choice(asked: ChatBody) -> str | dict[str, Any] | None:
    match asked.function_call if asked.tool_choice is None else None:
        case None:
            return asked.tool_choice
        case {"name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case "auto" | "none" as choice:
            return choice
        case _:
            raise InvalidRequest("function_call must be auto, none, or name a function", param="function_call")


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
