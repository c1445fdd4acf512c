"""What travels between an entrance and an engine on another machine: requests, pieces, errors, as MessagePack. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from roundhouse.core.chat import ChatRequest, Chunk
from roundhouse.core.portable import Span

__all__ = [
    "Failed",
    "Part",
    "Pieces",
    "Taken",
    "decode_part",
    "decode_request",
    "encode_part",
    "encode_request",
    "pieces",
]


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """The first part of every answer: a replica has a slot for it, and works on it from now on."""


class Pieces(msgspec.Struct, frozen=True, tag="pieces"):
    """As many pieces of the answer as there were."""

    chunks: tuple[Chunk, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The last part of an answer that failed: `error` as `portable` tells it."""

    error: dict[str, Any]


Part: TypeAlias = Taken | Pieces | Failed


class _Asked(msgspec.Struct, frozen=True, array_like=True):
    request: ChatRequest
    span: Span | None = None


def _nothing(kind: type, value: Any) -> Any:
    raise TypeError(f"{kind} does not travel")  # a wording; the request is in words by then


_ENCODER = msgspec.msgpack.Encoder()
_REQUESTS = msgspec.msgpack.Decoder(_Asked, dec_hook=_nothing)
_PARTS = msgspec.msgpack.Decoder(Part)


def encode_request(request: ChatRequest) -> bytes:
    """A request that is in words already."""
    span = None if request.trace is None else Span.of(request.trace)
    return _ENCODER.encode(_Asked(replace(request, wording=None, trace=None), span))


def decode_request(data: bytes) -> ChatRequest:
    asked = _REQUESTS.decode(data)
    return asked.request if asked.span is None else replace(asked.request, trace=asked.span.context())


def encode_part(part: Part) -> bytes:
    return _ENCODER.encode(part)


def decode_part(data: bytes) -> Part:
    part: Part = _PARTS.decode(data)
    return part


def pieces(chunks: Iterable[Chunk]) -> bytes:
    return encode_part(Pieces(tuple(chunks)))
