"""Ollama's wire: bytes of a request -> `ChatRequest`; an answer -> lines of JSON.

Format: ollama/ollama docs/api.md, api/types.go. Durations are nanoseconds.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from roundhouse.core.chat import (
    Answer,
    ChatRequest,
    Chunk,
    FinishReason,
    Message,
    Sampling,
    Timings,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
    join_tool_calls,
)
from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.core.report import Report
from roundhouse.server.dialect import ID_HEADERS, LINES, Asked, decode, extension
from roundhouse.server.errors import ollama_form
from roundhouse.server.openai_wire import ChatExtension, own_of, within

__all__ = ["ChatLines", "GenerateLines", "OllamaChatBody", "OllamaGenerateBody", "resolved", "timestamp"]

_json = msgspec.json.Encoder()
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
# What the operator decides for all requests of a target.
_FIXED = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "use_mlock", "num_thread", "numa", "low_vram")
# The first characters of images in base64.
_IMAGES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "UklGR": "webp", "R0lGOD": "gif"}
_REASONS: dict[FinishReason, str] = {"stop": "stop", "length": "length", "tool_calls": "stop", "content_filter": "stop"}


class _Function(msgspec.Struct):
    name: str
    arguments: dict[str, Any] = {}


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _ToolFunction
    type: str | None = None


class _Common(msgspec.Struct, kw_only=True):
    model: str
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    truncate: bool | None = None
    shift: bool | None = None
    roundhouse: ChatExtension | None = None


class OllamaChatBody(_Common, kw_only=True):
    """`POST /api/chat`."""

    messages: list[_Message] | None = None
    tools: list[_Tool] | None = None


class OllamaGenerateBody(_Common, kw_only=True):
    """`POST /api/generate`."""

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None


def resolved(name: str, known: Collection[str]) -> str:
    """Ollama's clients add `:latest` to a name without a tag."""
    bare = name.removesuffix(":latest")
    return bare if name not in known and bare in known else name


def timestamp(seconds: float | None = None) -> str:
    now = (
        datetime.datetime.now(datetime.UTC)
        if seconds is None
        else datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    )
    return now.isoformat().replace("+00:00", "Z")


class _Lines:
    """What both dialects share. `names` gives what may be put into `model`."""

    media_type = LINES
    id_headers = ID_HEADERS
    form = staticmethod(ollama_form)

    def __init__(self, names: Callable[[], Collection[str]]) -> None:
        self._names = names

    def _asked(self, body: _Common, extra: Mapping[str, Any], messages: tuple[Message, ...], **fields: Any) -> Asked:
        sampling, more, warnings = _options(body.options or {})
        if body.keep_alive is not None:
            warnings += ("keep_alive is ignored: the configuration's ttl decides how long a model stays loaded",)
        if body.think is not None:
            more["think"] = body.think
        if not 0 <= (body.top_logprobs or 0) <= 20:
            raise InvalidRequest("top_logprobs must be between 0 and 20", param="top_logprobs")
        own = own_of(body.roundhouse)
        request = ChatRequest(
            messages=messages,
            model=resolved(body.model, self._names()),
            sampling=sampling,
            json_schema=_schema(body.format),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            extra={**extra, **more},
            fallback=own.fallback,
            priority=own.priority,
            **fields,
        )
        load = not messages and not own.prompt
        return Asked(
            (request,),
            body.stream is not False and not load,
            load=load,
            body=body,
            warnings=warnings,
            prompt=own.prompt,
            variables=own.variables,
            unit=own.experiment_unit,
        )

    def whole(self, asked: Asked, answers: Sequence[Answer], reports: Sequence[Report]) -> bytes:
        if not answers:
            # What others use is not taken away by one request, so `keep_alive: 0` unloads nothing, and that is said.
            told = {"warnings": list(asked.warnings)}
            content = self.content("", ())
            return self._line(asked.body.model, **content, done=True, done_reason="load", roundhouse=told)
        answer, report = answers[0], reports[0]
        calls = answer.tool_calls
        content = self.content(answer.text, calls, answer.reasoning)
        if answer.logprobs:
            content["logprobs"] = _logprobs(answer.logprobs)
        end = _end(answer.finish_reason, answer.usage, answer.timings)
        told = extension(report, answer, asked.warnings)
        return self._line(asked.body.model, **content, **end, roundhouse=told)

    def encoder(self, asked: Asked, reports: Sequence[Report]) -> LinesEncoder:
        return LinesEncoder(asked, reports[0], self)

    def line(self, model: str, **fields: Any) -> bytes:
        return self._line(model, **fields) + b"\n"

    def _line(self, model: str, **fields: Any) -> bytes:
        return _json.encode({"model": model, "created_at": timestamp(), **fields})

    def content(self, text: str, calls: Sequence[ToolCall], thinking: str = "") -> dict[str, Any]:
        raise NotImplementedError


class ChatLines(_Lines):
    """The dialect of `/api/chat`."""

    def parse(self, body: bytes) -> Asked:
        asked, extra = decode(body, OllamaChatBody)
        messages = tuple(_message(message, place) for place, message in enumerate(asked.messages or ()))
        tools = tuple(
            Tool(tool.function.name, tool.function.description or "", tool.function.parameters or {})
            for tool in asked.tools or ()
        )
        return self._asked(asked, extra, messages, tools=tools)

    def content(self, text: str, calls: Sequence[ToolCall], thinking: str = "") -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = [_wire_call(call) for call in calls]
        return {"message": message}


class GenerateLines(_Lines):
    """The dialect of `/api/generate`."""

    def parse(self, body: bytes) -> Asked:
        asked, extra = decode(body, OllamaGenerateBody)
        for name in ("suffix", "template"):
            if getattr(asked, name):
                raise InvalidRequest(f"{name} is not available: the target's own template is used", param=name)
        if asked.raw and asked.roundhouse is not None and asked.roundhouse.prompt:
            said = "a prompt of ours is worded by roles, and raw has none; leave out one of the two"
            raise InvalidRequest(said, param="roundhouse.prompt")
        images = tuple(_image(image, f"images[{place}]") for place, image in enumerate(asked.images or ()))
        messages: tuple[Message, ...] = ()
        if asked.prompt or images:
            messages = (Message("user", asked.prompt or "", images=images),)
            if asked.system and not asked.raw:
                messages = (Message("system", asked.system), *messages)
        parsed = self._asked(asked, extra, messages, raw=bool(asked.raw))
        if asked.context:
            said = "context is ignored: send the conversation to /api/chat"
            parsed = replace(parsed, warnings=(*parsed.warnings, said))
        return parsed

    def content(self, text: str, calls: Sequence[ToolCall], thinking: str = "") -> dict[str, Any]:
        return {"response": text, "thinking": thinking} if thinking else {"response": text}


class LinesEncoder:
    """`Chunk`s -> lines. A call is told once it is whole, since its arguments are an object on this wire."""

    def __init__(self, asked: Asked, report: Report, wire: _Lines) -> None:
        self._asked = asked
        self._report = report
        self._wire = wire
        self._calls: list[ToolCall] = []

    def begin(self) -> bytes:
        return b""

    def piece(self, index: int, chunk: Chunk) -> bytes:
        model = self._asked.body.model
        self._calls += chunk.tool_calls
        lines = b""
        if chunk.text or chunk.reasoning:
            content = self._wire.content(chunk.text, (), chunk.reasoning)
            if chunk.logprobs:
                content["logprobs"] = _logprobs(chunk.logprobs)
            lines += self._wire.line(model, **content, done=False)
        if chunk.finish_reason is None:
            return lines
        if self._calls:
            lines += self._wire.line(model, **self._wire.content("", join_tool_calls(self._calls)), done=False)
        end = _end(chunk.finish_reason, chunk.usage or Usage(), chunk.timings or Timings())
        told = extension(self._report, chunk, self._asked.warnings)
        return lines + self._wire.line(model, **self._wire.content("", ()), **end, roundhouse=told)

    def end(self) -> bytes:
        return b""

    def failed(self, error: Error) -> bytes:
        return _json.encode(ollama_form(error)) + b"\n"


def _options(options: Mapping[str, Any]) -> tuple[Sampling, dict[str, Any], tuple[str, ...]]:
    """Sampling, what reaches the backend by name, and what is not a request's to decide."""
    more = dict(options)
    fixed = sorted(name for name in _FIXED if more.pop(name, None) is not None)
    numbers = {field: _number(more.pop(name, None), name) for name, field in _SAMPLING.items()}
    within("temperature", numbers["temperature"], 0, 2)
    within("top_p", numbers["top_p"], 0, 1)
    limit, seed = _number(more.pop("num_predict", None), "num_predict"), _number(more.pop("seed", None), "seed")
    stop = more.pop("stop", None) or []
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else (None,)
    stops = tuple(one for one in stops if one != "")  # which would end every answer before it begins
    if not all(isinstance(one, str) for one in stops):
        raise InvalidRequest("options.stop must be text or a list of texts", param="options.stop")
    top_k = numbers.pop("top_k")
    sampling = Sampling(
        max_tokens=int(limit) if limit is not None and limit > 0 else None,  # -1 and -2: as many as there is room for
        seed=None if seed is None or seed < 0 else int(seed),
        stop=stops,
        top_k=None if top_k is None else int(top_k),
        **numbers,
    )
    warned = (f"{', '.join(fixed)}: fixed by the target's configuration, not by a request",) if fixed else ()
    return sampling, more, warned


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 2**63:
        raise InvalidRequest(f"options.{name} must be a number", param=f"options.{name}")
    return value


def _message(message: _Message, place: int) -> Message:
    images = (_image(image, f"messages[{place}].images[{n}]") for n, image in enumerate(message.images or ()))
    return Message(
        role=message.role,
        content=message.content or "",
        name=message.tool_name or "",
        tool_calls=tuple(
            ToolCall(n, call.id or f"call_{n}", call.function.name, _json.encode(call.function.arguments).decode())
            for n, call in enumerate(message.tool_calls or ())
        ),
        tool_call_id=message.tool_call_id or "",
        images=tuple(images),
    )


def _image(image: str, where: str) -> str:
    if image.startswith("data:"):
        return image
    kind = next((kind for head, kind in _IMAGES.items() if image.startswith(head)), None)
    if kind is None:
        raise InvalidRequest(f"{where}: expected a PNG, JPEG, WebP or GIF image in base64", param=where)
    return f"data:image/{kind};base64,{image}"


def _schema(form: str | dict[str, Any] | None) -> Mapping[str, Any] | None:
    if form is None or form == "":
        return None
    if isinstance(form, dict):
        return form
    if form == "json":
        return {}
    raise InvalidRequest('format must be "json" or a JSON Schema', param="format")


def _end(reason: FinishReason, usage: Usage, timings: Timings) -> dict[str, Any]:
    """The last line's figures; durations that the backend did not tell are of our clock."""
    decoding_s = usage.completion_tokens / timings.tokens_per_s if timings.tokens_per_s else 0.0
    reading_s = usage.prompt_tokens / timings.prompt_tokens_per_s if timings.prompt_tokens_per_s else 0.0
    return {
        "done": True,
        "done_reason": _REASONS[reason],
        "total_duration": int(timings.total_s * 1e9),
        "load_duration": int(timings.load_s * 1e9),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": int((reading_s or max(0.0, timings.first_token_s - timings.load_s)) * 1e9),
        "eval_count": usage.completion_tokens,
        "eval_duration": int((decoding_s or max(0.0, timings.total_s - timings.first_token_s)) * 1e9),
    }


def _wire_call(call: ToolCall) -> dict[str, Any]:
    try:
        given = msgspec.json.decode(call.arguments.encode())
    except (msgspec.DecodeError, UnicodeEncodeError):
        given = None
    arguments = given if isinstance(given, dict) else {"arguments": call.arguments}
    return {"id": call.id or f"call_{call.index}", "function": {"name": call.name, "arguments": arguments}}


def _logprobs(entries: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {
            "token": entry.token,
            "logprob": entry.logprob,
            "top_logprobs": [{"token": token, "logprob": logprob} for token, logprob in entry.top],
        }
        for entry in entries
    ]
