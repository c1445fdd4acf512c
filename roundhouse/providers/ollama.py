"""Ollama's native API (ollama/ollama api/types.go, docs/api.md). Its `/v1` cannot set a window or keep a model loaded.

`num_ctx` and `keep_alive` are the same in every request of a target: a differing value would reload the model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from roundhouse.core.chat import (
    ChatRequest,
    Chunk,
    Chunks,
    FinishReason,
    Message,
    Timings,
    TokenLogprob,
    ToolCall,
    Usage,
)
from roundhouse.core.errors import BadResponse, ContextTooLong, Error, InvalidRequest, Misconfigured, StreamBroken
from roundhouse.core.model import Capabilities, Health, ModelDescription
from roundhouse.providers.base import AsyncProvider, Endpoint, PullProgress
from roundhouse.providers.http import HTTPClient, error_from_frame
from roundhouse.providers.secrets import masked
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
# Options of the process that runs the model (api/types.go, Runner).
_RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")

# Options that Sampling does not know; other backends have some of them by the same names.
_MORE_OPTIONS = ("num_keep", "typical_p", "repeat_last_n", "mirostat", "mirostat_tau", "mirostat_eta")


class _Function(msgspec.Struct):
    name: str = ""
    arguments: dict[str, Any] = {}


class _ToolCall(msgspec.Struct):
    function: _Function


class _Message(msgspec.Struct):
    content: str = ""
    thinking: str = ""
    tool_calls: list[_ToolCall] | None = None


class _Likely(msgspec.Struct):
    token: str
    logprob: float


class _Logprob(_Likely):
    top_logprobs: list[_Likely] = []


class _Line(msgspec.Struct):
    message: _Message | None = None
    response: str = ""
    thinking: str = ""
    logprobs: list[_Logprob] | None = None
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
            sampling=frozenset(_OPTIONS),
        )

    async def astream(self, request: ChatRequest) -> Chunks:
        decoder = LineDecoder()
        reader = _Reader(self.endpoint, keep_leading_space=request.continue_last or request.raw)
        if request.tool_choice is not None:
            yield Chunk(warnings=(f"tool_choice is ignored by target {self.endpoint.target}",))
        if kept := sorted(_fixed_by(request)):
            said = f"{', '.join(kept)}: fixed by the configuration of target {self.endpoint.target}, not by a request"
            yield Chunk(warnings=(said,))
        try:
            path = "/api/generate" if request.raw else "/api/chat"
            async with self.http.stream(path, self.body(request), request.trace) as pieces:
                async for piece in pieces:
                    for line in decoder.feed(piece):
                        for chunk in reader.read(line):
                            yield chunk
                for chunk in reader.read(decoder.end()):
                    yield chunk
        except (Misconfigured, InvalidRequest) as error:
            raise self._told(error) from error
        if not reader.finished:
            raise StreamBroken(
                f'target "{self.endpoint.target}" ended its answer before it was done', target=self.endpoint.target
            )

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        body = {"model": self.endpoint.model, "input": list(texts), "truncate": False, **self._kept()}
        try:
            answer = await self.http.post("/api/embed", body)
        except (Misconfigured, InvalidRequest) as error:
            raise self._told(error) from error
        vectors = answer.get("embeddings")
        if not isinstance(vectors, list) or len(vectors) != len(texts):
            raise BadResponse(
                f'target "{self.endpoint.target}" did not give one embedding per text', target=self.endpoint.target
            )
        return vectors

    async def ahealth(self) -> Health:
        """Alive if it answers, ready if it has the model, loading if that model is not in its memory yet."""
        try:
            names = await self._names("/api/tags")
            wanted = _tagged(self.endpoint.model)
            if wanted not in names:
                missing = f"{wanted} is not pulled; get it with: ollama pull {wanted}"
                return Health(alive=True, models=names, detail=missing)
            resident = wanted in await self._names("/api/ps")
        except Error as error:
            return Health(alive=False, detail=str(error))
        return Health(alive=True, ready=True, loading=not resident, models=names)

    async def awindow_tokens(self) -> int:
        """The window of one request: the target's `num_ctx`, else that of the loaded model, else the trained one."""
        if chosen := self.endpoint.options.get("num_ctx"):
            return int(chosen)
        wanted = _tagged(self.endpoint.model)
        for row in (await self.http.get("/api/ps")).get("models") or ():
            if row.get("name") == wanted and row.get("context_length"):
                return int(row["context_length"])
        facts = (await self.ashow()).get("model_info") or {}
        return int(facts.get(f"{facts.get('general.architecture')}.context_length") or 0)

    async def ashow(self) -> Mapping[str, Any]:
        """What Ollama says of the model: details, model_info (GGUF keys), capabilities, template, licence."""
        try:
            shown: Mapping[str, Any] = await self.http.post("/api/show", {"model": self.endpoint.model})
        except Misconfigured as error:
            raise self._told(error) from error
        return shown

    async def adescribe(self) -> ModelDescription:
        shown = await self.ashow()
        facts = shown.get("model_info") or {}
        architecture = str(facts.get("general.architecture") or "")
        return ModelDescription(self.endpoint.model, architecture, str(shown.get("template") or ""))

    async def apull(self) -> AsyncGenerator[PullProgress, None]:
        """Have Ollama download the model. Closing it stops the download, which goes on where it was when asked again.

        Raises `Misconfigured` if its registry has no such model.
        """
        decoder = LineDecoder()
        async with self.http.stream("/api/pull", {"model": self.endpoint.model, "stream": True}) as pieces:
            async for piece in pieces:
                for line in decoder.feed(piece):
                    told = msgspec.json.decode(line)
                    if "error" in told:
                        said = f'target "{self.endpoint.target}": Ollama cannot pull {self.endpoint.model}'
                        raise Misconfigured(f"{said}: {told['error']}", target=self.endpoint.target)
                    yield PullProgress(told.get("status", ""), told.get("completed", 0), told.get("total", 0))

    async def adelete(self) -> None:
        """Have Ollama remove the model from its disk. Raises `Misconfigured` if it has none of that name."""
        await self.http.delete("/api/delete", {"model": self.endpoint.model})

    async def aunload(self) -> None:
        """Have Ollama give the model's memory back now."""
        await self.http.post("/api/chat", {"model": self.endpoint.model, "messages": [], "keep_alive": 0})

    async def aclose(self) -> None:
        await self.http.aclose()

    async def _names(self, path: str) -> tuple[str, ...]:
        return tuple(str(row["name"]) for row in (await self.http.get(path)).get("models") or ())

    def _told(self, error: Error) -> Error:
        """Ollama's errors have a status and a text, no code: the one text that must be told from others is this."""
        if isinstance(error, InvalidRequest) and "context length" in str(error):
            window = int(self.endpoint.options.get("num_ctx") or 0)
            return ContextTooLong(str(error), target=self.endpoint.target, limit_tokens=window)
        if isinstance(error, Misconfigured) and error.status == 404:
            said = f'target "{self.endpoint.target}": Ollama has no model {self.endpoint.model}'
            hint = f"get it with: ollama pull {self.endpoint.model}"
            return Misconfigured(f"{said}; {hint}", target=error.target, status=error.status)
        return error

    def _kept(self) -> dict[str, Any]:
        """What would make Ollama load the model anew if it differed from one request to the next."""
        options = {name: value for name, value in self.endpoint.options.items() if name in _RUNNER_OPTIONS}
        kept: dict[str, Any] = {"options": options} if options else {}
        if "keep_alive" in self.endpoint.options:
            kept["keep_alive"] = self.endpoint.options["keep_alive"]
        return kept

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The request on Ollama's wire; what is unset is left out."""
        options = {name: value for name, value in self.endpoint.options.items() if name not in _TOP_LEVEL}
        for field, option in _OPTIONS.items():
            value = getattr(request.sampling, field)
            if value is not None and value != ():
                options[option] = list(value) if isinstance(value, tuple) else value
        extra = {name: value for name, value in request.extra.items() if name not in ("keep_alive", *_RUNNER_OPTIONS)}
        asked = extra.pop("options", None)
        options |= {
            name: value
            for name, value in (asked if isinstance(asked, Mapping) else {}).items()
            if name not in _RUNNER_OPTIONS
        }
        options |= {name: extra.pop(name) for name in _MORE_OPTIONS if name in extra}
        said: dict[str, Any] = (
            {"prompt": request.messages[-1].content, "raw": True}
            if request.raw
            else {"messages": [_wire_message(message) for message in request.messages]}
        )
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            **said,
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
        if request.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": request.logprobs}
        if request.json_schema is not None:
            body["format"] = request.json_schema or "json"
        return {**body, **extra}


class _Reader:
    """Lines of one answer -> chunks."""

    def __init__(self, endpoint: Endpoint, *, keep_leading_space: bool) -> None:
        self._endpoint = endpoint
        self._target = endpoint.target
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
            raise error_from_frame(self._target, _decoder.decode(masked(line, self._endpoint)).error)
        chunks = []
        message = told.message or _Message(told.response, told.thinking)
        if told.message is not None or told.response or told.thinking:
            content = self._content(message, told.logprobs or ())
            if content.has_content or content.logprobs:
                chunks.append(content)
        if told.done:
            self.finished = True
            chunks.append(self._last(told))
        return chunks

    def _content(self, message: _Message, logprobs: Sequence[_Logprob]) -> Chunk:
        text = message.content
        if text and not self._begun:
            text = text.lstrip(" \n")
            self._begun = bool(text)
        calls = []
        for call in message.tool_calls or ():
            arguments = msgspec.json.encode(call.function.arguments).decode()
            calls.append(ToolCall(self._calls, f"call_{self._calls}", call.function.name, arguments))
            self._calls += 1
        likely = tuple(
            TokenLogprob(entry.token, entry.logprob, tuple((top.token, top.logprob) for top in entry.top_logprobs))
            for entry in logprobs
        )
        return Chunk(text=text, reasoning=message.thinking, tool_calls=tuple(calls), logprobs=likely)

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


def _fixed_by(request: ChatRequest) -> set[str]:
    """What a request asks for that would load the model anew for everybody."""
    options = request.extra.get("options")
    asked = {*request.extra, *(options if isinstance(options, Mapping) else ())}
    return asked & {"keep_alive", *_RUNNER_OPTIONS}


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
    except (msgspec.DecodeError, UnicodeError):
        return {}
    return decoded if isinstance(decoded, dict) else {}
