"""What every wire of generation has in common: how a request is read from it and an answer is written to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol, TypeVar

import msgspec

from roundhouse.core.chat import Answer, ChatRequest, Chunk, ToolCall, Usage
from roundhouse.core.errors import Error, InvalidRequest
from roundhouse.core.report import Report
from roundhouse.server.errors import Form

__all__ = [
    "EVENTS",
    "ID_HEADERS",
    "LINES",
    "Asked",
    "Dialect",
    "Encoder",
    "bare_id",
    "decode",
    "event",
    "extension",
    "summed",
    "whole_call",
]

ID_HEADERS = ("x-request-id",)
EVENTS = b"text/event-stream; charset=utf-8"
LINES = b"application/x-ndjson"
# What is nested deeper cannot be written out again by every encoder on the way to a backend.
_DEPTH_LIMIT = 100
_TOO_DEEP = f"the body is nested deeper than {_DEPTH_LIMIT} levels, which is the limit"

_json = msgspec.json.Encoder()
T = TypeVar("T")


class Asked(msgspec.Struct, frozen=True):
    """One parsed body: a request for each answer that is wanted, and how the client wants them told.

    `load`: no answer is wanted, only that the model is ready. `body` is the wire's own form, for what is echoed.
    `prompt` with its `variables` comes before the messages; `unit` is whom an experiment keeps in one arm.
    """

    requests: tuple[ChatRequest, ...]
    stream: bool = False
    include_usage: bool = False
    load: bool = False
    body: Any = None
    warnings: tuple[str, ...] = ()
    prompt: str = ""
    variables: Mapping[str, Any] = {}
    unit: str = ""


class Encoder(Protocol):
    """A streamed answer. `piece` is called for each chunk; the one with a finish reason is the last of its answer."""

    def begin(self) -> bytes: ...

    def piece(self, index: int, chunk: Chunk) -> bytes: ...

    def end(self) -> bytes:
        """After the last chunk of the last answer."""
        ...

    def failed(self, error: Error) -> bytes:
        """An error after the first byte; no end mark follows it."""
        ...


class Dialect(Protocol):
    """One wire. `media_type` is that of its streams; `id_headers` carry a request's id, even of one that failed."""

    @property
    def id_headers(self) -> Sequence[str]: ...

    @property
    def media_type(self) -> bytes: ...

    @property
    def form(self) -> Form: ...

    def parse(self, body: bytes) -> Asked:
        """Raises `InvalidRequest` that names the field at fault."""
        ...

    def whole(self, asked: Asked, answers: Sequence[Answer], reports: Sequence[Report]) -> bytes: ...

    def encoder(self, asked: Asked, reports: Sequence[Report]) -> Encoder: ...


def decode(body: bytes, kind: type[T]) -> tuple[T, dict[str, Any]]:
    """`body` as `kind`, and the fields that `kind` does not know and that are not null."""
    try:
        raw = msgspec.json.decode(body)
        if not isinstance(raw, dict):
            raise InvalidRequest(f"the body must be a JSON object, not {type(raw).__name__}")
        asked: Any = kind
        known = _fields(asked)
        extra = {name: value for name, value in raw.items() if name not in known and value is not None}
        if body.count(b"[") + body.count(b"{") > _DEPTH_LIMIT:
            _refuse_depth(raw)
        return msgspec.convert(raw, kind), extra
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise InvalidRequest(f"{message} (at {place.strip('`.') or 'the top'})", param=place.strip("`.")) from error
    except RecursionError as error:
        raise InvalidRequest(_TOO_DEEP) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error


@cache
def _fields(kind: Any) -> frozenset[str]:
    return frozenset(kind.__struct_fields__)


def _refuse_depth(raw: Any) -> None:
    level, depth = [raw], 0
    while level:
        depth += 1
        if depth > _DEPTH_LIMIT:
            raise InvalidRequest(_TOO_DEEP)
        level = [
            item
            for one in level
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, (dict, list))
        ]


def bare_id(told: str) -> str:
    """A request's id without the word that its wire puts before it: chatcmpl-, cmpl-, resp_, msg_."""
    return told.replace("_", "-").rpartition("-")[2]


def event(name: str, fields: dict[str, Any]) -> bytes:
    """A named server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + _json.encode(fields) + b"\n\n"


def whole_call(call: ToolCall, *, place: int) -> ToolCall:
    """With an id, which some backends do not give."""
    return call if call.id else ToolCall(call.index, f"call_{place}", call.name, call.arguments)


def summed(usages: Sequence[Usage], each: int = 1) -> Usage:
    """Of several answers, `each` of them to one prompt, which is counted once."""
    if len(usages) == 1:
        return usages[0]
    prompts = [usages[place : place + each] for place in range(0, len(usages), each)]
    return Usage(
        sum(max(usage.prompt_tokens for usage in same) for same in prompts),
        sum(usage.completion_tokens for usage in usages),
        sum(max(usage.cached_tokens for usage in same) for same in prompts),
    )


def extension(report: Report, end: Answer | Chunk | None, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """The `roundhouse` object: who answered after what, and how long each part took, in seconds."""
    said: dict[str, Any] = {
        "route": report.route,
        "target": report.target,
        "attempts": [
            {"target": a.target, "outcome": a.outcome, "reason": a.reason, "seconds": round(a.seconds, 4)}
            for a in report.attempts
        ],
        "warnings": [*warnings, *report.warnings],
    }
    if report.prompt:
        said["prompt"] = {"version": report.prompt, "variant": report.variant}
    if report.experiment:
        said["experiment"] = {"name": report.experiment, "arm": report.arm}
    if report.seams:
        said["seams"] = [{"at": seam.at, "before": seam.before, "after": seam.after} for seam in report.seams]
    if end is not None and end.timings:
        timings = end.timings
        said["timings"] = {name: round(getattr(timings, name), 4) for name in timings.__struct_fields__}
    return said
