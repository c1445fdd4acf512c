"""One neutral form of a conversation behind every wire format: what is asked, what comes back piece by piece.

A stream of `Chunk`s is the only shape in which an answer travels: text pieces in order, then exactly one last
chunk with a `finish_reason`, `usage` and `timings`. A stream that ends without a finish reason is an error and is
raised as one. An answer that is wanted whole is `collect`ed from its stream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from roundhouse.core.errors import StreamBroken
from roundhouse.core.trace import TraceContext

__all__ = [
    "Answer",
    "ChatRequest",
    "Chunk",
    "Chunks",
    "FinishReason",
    "Message",
    "Role",
    "Sampling",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "Usage",
    "Worded",
    "Wording",
    "collect",
]

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class ToolCall(msgspec.Struct, frozen=True):
    """A call the model wants made. `arguments` is JSON text; in a stream, pieces of one `index` are joined."""

    index: int = 0
    id: str = ""
    name: str = ""
    arguments: str = ""


class Message(msgspec.Struct, frozen=True):
    """`images` are data URLs or base64 text, for backends that can see."""

    role: Role
    content: str = ""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    images: tuple[str, ...] = ()


class Tool(msgspec.Struct, frozen=True):
    """A function the model may call; `parameters` is a JSON Schema object, which arguments keep to if `strict`."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = {}
    strict: bool | None = None


class Sampling(msgspec.Struct, frozen=True):
    """How to choose tokens. None = unset: the target's setting, else the backend's own default, applies."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def over(self, defaults: Sampling) -> Sampling:
        """These settings, with `defaults` where unset."""
        if defaults == _UNSET:
            return self
        unset = {
            name: value
            for name in self.__struct_fields__
            if getattr(self, name) in (None, ()) and (value := getattr(defaults, name)) not in (None, ())
        }
        return replace(self, **unset) if unset else self


_UNSET = Sampling()


class Wording(Protocol):
    """A prompt that is put into words once the model that will answer is known."""

    @property
    def prefix(self) -> int:
        """Equal for requests that begin with the same words."""
        ...

    def word(
        self, request: ChatRequest, family: str, models: Sequence[str], own: frozenset[str] = frozenset()
    ) -> Worded:
        """`request` with the words for a model of `family`, called one of `models`, before its own messages.

        `own`: special tokens of that very model, besides its family's.
        """
        ...


class ChatRequest(msgspec.Struct, frozen=True):
    """What is asked. `model` is a route, or a target's name; empty = the default route.

    `continue_last`: the last message is an assistant's, to be extended; only the new text comes back.
    `raw`: the one message's text goes to the model as it is, without a chat template, and is extended.
    `json_schema`: the answer must be JSON of this schema ({} = any JSON object); None = free text.
    `logprobs`: how many alternatives per token; None = none wanted, 0 = the chosen token only.
    `extra`: fields of the wire that this form does not know; they reach the backend by name.
    `deadline_s`: seconds the caller is willing to wait in all; None = the configured total.
    `wording`: a prompt that comes before the messages, in the words for whichever target answers.
    `trace`: the span it belongs to, for whoever is asked on its behalf; None = it is not traced.
    """

    messages: tuple[Message, ...]
    model: str = ""
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    json_schema: Mapping[str, Any] | None = None
    logprobs: int | None = None
    continue_last: bool = False
    raw: bool = False
    extra: Mapping[str, Any] = {}
    fallback: bool = True
    priority: int = 0
    deadline_s: float | None = None
    wording: Wording | None = None
    trace: TraceContext | None = None

    @classmethod
    def of(cls, prompt: str, **fields: Any) -> ChatRequest:
        """A request of one user message."""
        return cls(messages=(Message("user", prompt),), **fields)


class Worded(msgspec.Struct, frozen=True):
    """A request in words. `variant`: whose words, empty = it had no prompt; `notes`: what a reader should be told."""

    request: ChatRequest
    variant: str = ""
    notes: tuple[str, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the backend counted them. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Timings(msgspec.Struct, frozen=True):
    """Seconds. `first_token_s` counts from the request's arrival; `tokens_per_s` is decoding alone, 0 = unknown."""

    queue_s: float = 0.0
    load_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0
    prompt_tokens_per_s: float = 0.0
    tokens_per_s: float = 0.0


class TokenLogprob(msgspec.Struct, frozen=True):
    """One generated token, its natural-log probability, and the most likely alternatives at its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Chunk(msgspec.Struct, frozen=True):
    """A piece of an answer. The last one has `finish_reason`, and `usage` where the backend counts."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    warnings: tuple[str, ...] = ()

    @property
    def has_content(self) -> bool:
        """True for what a reader would call a first token: text, reasoning or a tool call, never an empty frame."""
        return bool(self.text or self.reasoning or self.tool_calls)


# Closing it cancels the answer and frees what it held.
Chunks: TypeAlias = AsyncGenerator[Chunk, None]


class Answer(msgspec.Struct, frozen=True):
    """A whole answer. `warnings` say what was cut, ignored or substituted."""

    text: str
    finish_reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    warnings: tuple[str, ...] = ()


def join_tool_calls(pieces: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    """Whole calls from streamed pieces: same index = same call; id and name come once, arguments are appended."""
    whole: dict[int, ToolCall] = {}
    for piece in pieces:
        known = whole.get(piece.index)
        if known is None:
            whole[piece.index] = piece
        else:
            whole[piece.index] = replace(
                known,
                id=known.id or piece.id,
                name=known.name or piece.name,
                arguments=known.arguments + piece.arguments,
            )
    return tuple(whole[index] for index in sorted(whole))


def collect(chunks: Iterable[Chunk]) -> Answer:
    """The whole answer of a finished stream; raises `StreamBroken` if no chunk had a finish reason."""
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    warnings: list[str] = []
    finish_reason: FinishReason | None = None
    usage, timings = Usage(), Timings()
    for piece in chunks:
        texts.append(piece.text)
        if piece.reasoning:
            reasoning.append(piece.reasoning)
        calls += piece.tool_calls
        logprobs += piece.logprobs
        warnings += piece.warnings
        finish_reason = piece.finish_reason or finish_reason
        usage = piece.usage or usage
        timings = piece.timings or timings
    if finish_reason is None:
        raise StreamBroken("the answer ended without a finish reason")
    return Answer(
        text="".join(texts),
        finish_reason=finish_reason,
        usage=usage,
        timings=timings,
        reasoning="".join(reasoning),
        tool_calls=join_tool_calls(calls),
        logprobs=tuple(logprobs),
        warnings=tuple(dict.fromkeys(warnings)),
    )
