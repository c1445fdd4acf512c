"""What travels between an entrance and an engine on another machine: requests, pieces, errors, as MessagePack. Pure.

Errors cross as data and come out as the same class of the one error tree, so that routing judges them as its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from roundhouse.core import errors
from roundhouse.core.chat import ChatRequest, Chunk
from roundhouse.core.errors import Attempt, BadResponse, Error
from roundhouse.core.trace import TraceContext

__all__ = [
    "Failed",
    "Part",
    "Pieces",
    "Taken",
    "Told",
    "decode_part",
    "decode_request",
    "encode_part",
    "encode_request",
    "pieces",
    "told",
    "untold",
]

_KINDS: Mapping[str, type[Error]] = {
    name: kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type) and issubclass(kind, Error)
}


class Told(msgspec.Struct, frozen=True):
    """An error as data: its class by name, and its fields."""

    kind: str
    fields: Mapping[str, Any]


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """The first part of every answer: a replica has a slot for it, and works on it from now on."""


class Pieces(msgspec.Struct, frozen=True, tag="pieces"):
    """As many pieces of the answer as there were."""

    chunks: tuple[Chunk, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The last part of an answer that failed."""

    error: Told


Part: TypeAlias = Taken | Pieces | Failed


class _Span(msgspec.Struct, frozen=True, array_like=True):
    """A `TraceContext`; its numbers are wider than MessagePack's."""

    trace_id: str
    span_id: str
    parent_id: str
    sampled: bool
    state: str
    remote: bool


class _Asked(msgspec.Struct, frozen=True, array_like=True):
    request: ChatRequest
    span: _Span | None = None


def _nothing(kind: type, value: Any) -> Any:
    raise TypeError(f"{kind} does not travel")  # a wording; the request is in words by then


_ENCODER = msgspec.msgpack.Encoder()
_REQUESTS = msgspec.msgpack.Decoder(_Asked, dec_hook=_nothing)
_PARTS = msgspec.msgpack.Decoder(Part)


def encode_request(request: ChatRequest) -> bytes:
    """A request that is in words already."""
    trace = request.trace
    span = None
    if trace is not None:
        ids = [f"{number:x}" for number in (trace.trace_id, trace.span_id, trace.parent_id)]
        span = _Span(ids[0], ids[1], ids[2], trace.sampled, trace.state, trace.remote)
    return _ENCODER.encode(_Asked(replace(request, wording=None, trace=None), span))


def decode_request(data: bytes) -> ChatRequest:
    asked = _REQUESTS.decode(data)
    span = asked.span
    if span is None:
        return asked.request
    trace_id, span_id, parent_id = (int(one, 16) for one in (span.trace_id, span.span_id, span.parent_id))
    trace = TraceContext(trace_id, span_id, parent_id, span.sampled, span.state, span.remote)
    return replace(asked.request, trace=trace)


def encode_part(part: Part) -> bytes:
    return _ENCODER.encode(part)


def decode_part(data: bytes) -> Part:
    part: Part = _PARTS.decode(data)
    return part


def pieces(chunks: Iterable[Chunk]) -> bytes:
    return encode_part(Pieces(tuple(chunks)))


def told(error: Error) -> Told:
    """`error` as data. A class that is not of the tree travels as the nearest above it that is."""
    kind = next(one for one in type(error).__mro__ if one in _KINDS.values())
    return Told(kind.__name__, {one.name: _plain(getattr(error, one.name)) for one in fields(kind)})


def untold(told: Told) -> Error:
    """The error that it was. One of a newer Roundhouse, whose class is unknown here, is a `BadResponse`."""
    kind = _KINDS.get(told.kind)
    if kind is None:
        return BadResponse(f"{told.kind}: {told.fields.get('message', '')}")
    known = {one.name for one in fields(kind)}
    return kind(**{name: _whole(name, value) for name, value in told.fields.items() if name in known})


def _plain(value: Any) -> Any:
    match value:
        case Error():
            return msgspec.to_builtins(told(value))
        case tuple() | list():
            return [_plain(one) for one in value]
        case Attempt():
            return [value.target, value.outcome, value.reason, value.seconds]
    return value


def _whole(name: str, value: Any) -> Any:
    if name == "cause" and value is not None:
        return untold(msgspec.convert(value, Told))
    if name == "attempts":
        return tuple(Attempt(*one) for one in value)
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value
