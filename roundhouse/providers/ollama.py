"""Ollama's native API (ollama/ollama api/types.go, docs/api.md). Its `/v1` cannot set a window or keep a model loaded.

`num_ctx` and `keep_alive` are the same in every request of a target: a differing value would reload the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from roundhouse.core.chat import ChatRequest, Chunk, Chunks, FinishReason, Message, Timings, ToolCall, Usage
from roundhouse.core.errors import BadResponse, Error, Misconfigured, StreamBroken
from roundhouse.core.model import Capabilities, Health
from roundhouse.providers.base import AsyncProvider, Endpoint
from roundhouse.providers.http import HTTPClient, error_from_frame
from roundhouse.providers.streams import LineDecoder

__all__ = ["OllamaClient"]

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
# Fields of Sampling by their name among Ollama's options.
_OPTIONS = {
    "max_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
}
# Fields of a request rather than of its options.
_TOP_LEVEL = ("keep_alive", "think")


class _Function(msgspec.Struct):
    name: str = ""
    arguments: dict[str, Any] = {}


class _ToolCall(msgspec.Struct):
    function: _Function


class _Message(msgspec.Struct):
    content: str = ""
    thinking: str = ""
    tool_calls: list[_ToolCall] | None = None


class _Line(msgspec.Struct):
    message: _Message | None = None
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: int = 0
    eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_duration: int = 0
    load_duration: int = 0
    error: Any = None


_decoder = msgspec.json.Decoder(_Line)


class OllamaClient(AsyncProvider):
    """One model of an Ollama server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.http = HTTPClient(endpoint)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            streaming=True,
            cancel=True,
            system_role=True,
            tools=True,
            json_schema=True,
            embeddings=True,
            seed=True,
            images=True,
            exact_usage=True,
            sampling=frozenset(_OPTIONS),
        )

    async def astream(self, request: ChatRequest) -> Chunks:
        decoder = LineDecoder()
        reader = _Reader(self.endpoint.target, keep_leading_space=request.continue_last)
        if request.logprobs is not None:
            yield Chunk(warnings=(f"logprobs are ignored by target {self.endpoint.target}",))
        try:
            async with self.http.stream("/api/chat", self.body(request)) as pieces:
                async for piece in pieces:
                    for line in decoder.feed(piece):
                        for chunk in reader.read(line):
                            yield chunk
                for chunk in reader.read(decoder.end()):
                    yield chunk
        except Misconfigured as error:
            if error.status != 404:
                raise
            said = f'target "{self.endpoint.target}": Ollama has no model {self.endpoint.model}'
            raise Misconfigured(
                f"{said}; get it with: ollama pull {self.endpoint.model}", target=error.target, status=error.status
            ) from error
        if not reader.finished:
            raise StreamBroken(
                f'target "{self.endpoint.target}" ended its answer before it was done', target=self.endpoint.target
            )

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        answer = await self.http.post(
            "/api/embed", {"model": self.endpoint.model, "input": list(texts), "truncate": False}
        )
        vectors = answer.get("embeddings")
        if not isinstance(vectors, list) or len(vectors) != len(texts):
            raise BadResponse(
                f'target "{self.endpoint.target}" did not give one embedding per text', target=self.endpoint.target
            )
        return vectors

    async def ahealth(self) -> Health:
        """Alive if it answers, ready if it has the model; a model that is not loaded yet is loaded on demand."""
        try:
            listed = await self.http.get("/api/tags")
        except Error as error:
            return Health(alive=False, detail=str(error))
        names = tuple(str(row["name"]) for row in listed.get("models") or ())
        wanted = _tagged(self.endpoint.model)
        missing = "" if wanted in names else f"{wanted} is not pulled; get it with: ollama pull {wanted}"
        return Health(alive=True, ready=not missing, models=names, detail=missing)

    async def aclose(self) -> None:
        await self.http.aclose()

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The request on Ollama's wire; what is unset is left out."""
        options = {name: value for name, value in self.endpoint.options.items() if name not in _TOP_LEVEL}
        for field, option in _OPTIONS.items():
            value = getattr(request.sampling, field)
            if value is not None and value != ():
                options[option] = list(value) if isinstance(value, tuple) else value
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [_wire_message(message) for message in request.messages],
            "stream": True,
            # What does not fit is to be said, not dropped from the front of the conversation.
            "truncate": False,
            "shift": False,
        }
        body |= {name: self.endpoint.options[name] for name in _TOP_LEVEL if name in self.endpoint.options}
        if options:
            body["options"] = options
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
                }
                for tool in request.tools
            ]
        if request.json_schema is not None:
            body["format"] = request.json_schema or "json"
        return {**body, **request.extra}


class _Reader:
    """Lines of one answer -> chunks."""

    def __init__(self, target: str, *, keep_leading_space: bool) -> None:
        self._target = target
        self._begun = keep_leading_space
        self._calls = 0
        self.finished = False

    def read(self, line: bytes) -> list[Chunk]:
        if not line.strip():
            return []
        try:
            told = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadResponse(
                f'target "{self._target}" sent a line that cannot be read: {error}', target=self._target
            ) from error
        if told.error is not None:
            raise error_from_frame(self._target, told.error)
        chunks = []
        if told.message is not None and (content := self._content(told.message)).has_content:
            chunks.append(content)
        if told.done:
            self.finished = True
            chunks.append(self._last(told))
        return chunks

    def _content(self, message: _Message) -> Chunk:
        text = message.content
        if text and not self._begun:
            text = text.lstrip(" \n")
            self._begun = bool(text)
        calls = []
        for call in message.tool_calls or ():
            arguments = msgspec.json.encode(call.function.arguments).decode()
            calls.append(ToolCall(self._calls, f"call_{self._calls}", call.function.name, arguments))
            self._calls += 1
        return Chunk(text=text, reasoning=message.thinking, tool_calls=tuple(calls))

    def _last(self, line: _Line) -> Chunk:
        reason = "tool_calls" if self._calls else _FINISH.get(line.done_reason, "stop")
        return Chunk(
            finish_reason=reason,
            usage=Usage(line.prompt_eval_count, line.eval_count),
            timings=Timings(
                load_s=line.load_duration / 1e9,
                prompt_tokens_per_s=_per_second(line.prompt_eval_count, line.prompt_eval_duration),
                tokens_per_s=_per_second(line.eval_count, line.eval_duration),
            ),
        )


def _per_second(tokens: int, nanoseconds: int) -> float:
    return tokens / nanoseconds * 1e9 if nanoseconds else 0.0


def _tagged(model: str) -> str:
    return model if ":" in model else f"{model}:latest"


def _wire_message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        said["images"] = [image.partition("base64,")[2] or image for image in message.images]
    if message.tool_calls:
        said["tool_calls"] = [
            {"function": {"name": call.name, "arguments": _object(call.arguments)}} for call in message.tool_calls
        ]
    if message.tool_call_id:
        said["tool_call_id"] = message.tool_call_id
    return said


def _object(arguments: str) -> Mapping[str, Any]:
    """Ollama takes arguments as an object where OpenAI has text."""
    try:
        decoded = msgspec.json.decode(arguments.encode())
    except msgspec.DecodeError:
        return {}
    return decoded if isinstance(decoded, dict) else {}
