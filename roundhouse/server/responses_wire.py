"""OpenAI's responses wire: text and function calls, whole. Nothing is stored: each request brings its conversation.

Format: platform.openai.com/docs/api-reference/responses. The stream of it is in `responses_stream`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from roundhouse.core.chat import Answer, ChatRequest, Message, Sampling, TokenLogprob, Tool, ToolCall, Usage
from roundhouse.core.errors import InvalidRequest
from roundhouse.core.report import Report
from roundhouse.server.dialect import EVENTS, ID_HEADERS, Asked, decode, extension, whole_call
from roundhouse.server.errors import openai_form
from roundhouse.server.openai_answers import wire_logprobs
from roundhouse.server.openai_wire import ChatExtension, own_of, schema_of, within

__all__ = ["ResponsesBody", "call_item", "message_item", "reasoning_item", "response_object", "usage_object"]

_json = msgspec.json.Encoder()
_LOGPROBS = "message.output_text.logprobs"


class _Text(msgspec.Struct):
    """`format` as it was sent: it is told in the answer."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None


class _FunctionTool(msgspec.Struct):
    """`name` and what follows are of functions; other types are run by OpenAI's servers, and refused."""

    type: str = "function"
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponsesBody(msgspec.Struct):
    """`POST /v1/responses`."""

    input: str | list[dict[str, Any]]
    model: str = ""
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[_FunctionTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: _Text | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    include: list[str] | None = None
    truncation: str | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    reasoning: _Reasoning | None = None
    top_logprobs: int | None = None
    roundhouse: ChatExtension | None = None


def parse_responses(body: bytes) -> Asked:
    asked, unknown = decode(body, ResponsesBody)
    for name in ("previous_response_id", "conversation", "background"):
        if getattr(asked, name):
            raise InvalidRequest(f"{name} is not available: nothing is stored here; send the whole input", param=name)
    if asked.truncation not in (None, "auto", "disabled"):
        raise InvalidRequest("truncation must be auto or disabled", param="truncation")
    if asked.max_output_tokens is not None and asked.max_output_tokens < 1:
        raise InvalidRequest("max_output_tokens must be at least 1", param="max_output_tokens")
    within("temperature", asked.temperature, 0, 2)
    within("top_p", asked.top_p, 0, 1)
    within("top_logprobs", asked.top_logprobs, 0, 20)
    own = own_of(asked.roundhouse)
    request = ChatRequest(
        messages=_messages(asked, needed=not own.prompt),
        model=asked.model,
        sampling=Sampling(max_tokens=asked.max_output_tokens, temperature=asked.temperature, top_p=asked.top_p),
        tools=_tools(asked),
        tool_choice=_tool_choice(asked.tool_choice),
        json_schema=_schema(asked.text),
        logprobs=(asked.top_logprobs or 0) if _LOGPROBS in (asked.include or ()) else None,
        extra=_extra(asked, unknown),
        fallback=own.fallback,
        priority=own.priority,
    )
    cut = ("truncation is not done: an input that is too long is refused",) if asked.truncation == "auto" else ()
    return Asked(
        (request,),
        bool(asked.stream),
        body=asked,
        warnings=cut,
        prompt=own.prompt,
        variables=own.variables,
        unit=own.experiment_unit or str(unknown.get("user") or ""),
    )


def _extra(asked: ResponsesBody, unknown: Mapping[str, Any]) -> dict[str, Any]:
    """What reaches the backend by name: that of the chat wire, which backends speak, where the two differ."""
    named = {
        "parallel_tool_calls": asked.parallel_tool_calls,
        "reasoning_effort": asked.reasoning and asked.reasoning.effort,
        "verbosity": asked.text and asked.text.verbosity,
    }
    return {**unknown, **{name: value for name, value in named.items() if value is not None}}


def _tools(asked: ResponsesBody) -> tuple[Tool, ...]:
    for place, tool in enumerate(asked.tools or ()):
        if tool.type != "function" or not tool.name:
            said = f"tools[{place}]: only functions with a name can be called; nothing of type {tool.type} is run here"
            raise InvalidRequest(said, param=f"tools[{place}]")
    tools = asked.tools or ()
    return tuple(Tool(one.name, one.description or "", one.parameters or {}, one.strict) for one in tools)


def _messages(asked: ResponsesBody, *, needed: bool = True) -> tuple[Message, ...]:
    items = [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input
    if not (needed or asked.input):
        items = []
    messages = [Message("system", asked.instructions)] if asked.instructions else []
    for place, item in enumerate(items):
        message = _message(item, f"input[{place}]")
        if message is None:
            continue
        last = messages[-1] if messages else None
        if message.tool_calls and last is not None and last.role == "assistant":
            messages[-1] = _joined(last, message)
        else:
            messages.append(message)
    if needed and not messages:
        raise InvalidRequest("input is empty; send at least one message", param="input")
    return tuple(messages)


def _joined(turn: Message, calls: Message) -> Message:
    """Calls are items of their own on this wire, and part of the assistant's turn everywhere else."""
    numbered = (*turn.tool_calls, *calls.tool_calls)
    return Message(
        "assistant",
        turn.content,
        tool_calls=tuple(ToolCall(place, call.id, call.name, call.arguments) for place, call in enumerate(numbered)),
    )


def _message(item: Mapping[str, Any], where: str) -> Message | None:
    """None for what no backend is told of: reasoning of an earlier turn."""
    match item:
        case {"type": "reasoning"}:
            return None
        case {"type": "function_call", "call_id": str(own), "name": str(name), "arguments": str(arguments)}:
            return Message("assistant", tool_calls=(ToolCall(0, own, name, arguments),))
        case {"type": "function_call_output", "call_id": str(own), "output": output}:
            text = output if isinstance(output, str) else _content(output, f"{where}.output")[0]
            return Message("tool", text, tool_call_id=own)
        case {"role": "system" | "developer" | "user" | "assistant" as role, "content": content}:
            text, images = _content(content, f"{where}.content")
            return Message("system" if role == "developer" else role, text, images=images)
        case _:
            raise InvalidRequest(f"{where}: expected a message, a function_call or its output", param=where)


def _content(content: Any, where: str) -> tuple[str, tuple[str, ...]]:
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        raise InvalidRequest(f"{where}: expected text or a list of parts", param=where)
    texts: list[str] = []
    images: list[str] = []
    for place, part in enumerate(content):
        match part:
            case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
                texts.append(text)
            case {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case {"type": "input_image", "image_url": str(url)} if url.startswith("data:"):
                images.append(url)
            case {"type": "input_image"}:
                said = f"{where}[{place}]: images must be data: URLs; nothing is fetched for you"
                raise InvalidRequest(said, param=f"{where}[{place}]")
            case _:
                said = f"{where}[{place}]: expected an input_text or input_image part"
                raise InvalidRequest(said, param=f"{where}[{place}]")
    return "".join(texts), tuple(images)


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case _:
            return choice


def _schema(text: _Text | None) -> Mapping[str, Any] | None:
    """On this wire the schema stands in the format itself."""
    form = text.format if text else None
    match form:
        case {"type": "json_schema", "schema": dict(schema)}:
            return schema
        case _:
            return schema_of(form)


class ResponsesForm:
    """What whole and streamed answers share."""

    media_type = EVENTS
    id_headers = ID_HEADERS
    form = staticmethod(openai_form)

    def parse(self, body: bytes) -> Asked:
        return parse_responses(body)

    def whole(self, asked: Asked, answers: Sequence[Answer], reports: Sequence[Report]) -> bytes:
        """A `response` object."""
        answer, report = answers[0], reports[0]
        own = report.request_id
        items: list[dict[str, Any]] = []
        if answer.reasoning:
            items.append(reasoning_item(own, answer.reasoning))
        if answer.text or not answer.tool_calls:
            items.append(message_item(own, answer.text, answer.logprobs))
        calls = [whole_call(call, place=place) for place, call in enumerate(answer.tool_calls)]
        items += [call_item(own, place, call) for place, call in enumerate(calls)]
        said = response_object(asked, report, int(time.time()), items, answer.finish_reason, answer.usage)
        return _json.encode({**said, "roundhouse": extension(report, answer, asked.warnings)})


def message_item(
    own: str, text: str, logprobs: Sequence[TokenLogprob] = (), status: str = "completed"
) -> dict[str, Any]:
    likely = wire_logprobs(logprobs)["content"]
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": likely}
    content = [part] if status == "completed" else []
    return {"type": "message", "id": f"msg_{own}", "status": status, "role": "assistant", "content": content}


def reasoning_item(own: str, text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"type": "reasoning", "id": f"rs_{own}", "summary": [], "content": content}


def call_item(own: str, place: int, call: ToolCall, status: str = "completed") -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{own}_{place}",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def response_object(
    asked: Asked,
    report: Report,
    created: int,
    items: list[dict[str, Any]],
    finish_reason: str | None,
    usage: Usage | None,
) -> dict[str, Any]:
    """`finish_reason` None: it is still being written."""
    body: ResponsesBody = asked.body
    cut = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish_reason or "")
    return {
        "id": f"resp_{report.request_id}",
        "object": "response",
        "created_at": created,
        "status": "in_progress" if finish_reason is None else "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": cut} if cut else None,
        "instructions": body.instructions,
        "background": False,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": report.model,
        "output": items,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": body.reasoning or _Reasoning(),
        "store": False,
        "temperature": body.temperature,
        "text": {"format": (body.text and body.text.format) or {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": [_tool_object(tool) for tool in body.tools or ()],
        "top_p": body.top_p,
        "top_logprobs": body.top_logprobs,
        "truncation": "disabled",
        "usage": None if usage is None else usage_object(usage),
        "metadata": body.metadata or {},
    }


def _tool_object(tool: _FunctionTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
