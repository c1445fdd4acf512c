"""Errors and traces as plain values, for whoever is told of them in another process or on another machine, and back.

An error comes out as the same class of the one tree, so that routing judges it as its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import msgspec

from roundhouse.core import errors
from roundhouse.core.errors import Attempt, BadResponse, Error
from roundhouse.core.trace import TraceContext

__all__ = ["Span", "portable", "restored"]

_KIND = "kind"
_KINDS: Mapping[str, type[Error]] = {
    name: kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type) and issubclass(kind, Error)
}


class Span(msgspec.Struct, frozen=True):
    """A `TraceContext`, whose id is too long for a number of MessagePack."""

    trace_id: bytes
    span_id: int
    parent_id: int
    sampled: bool
    state: str
    remote: bool

    @classmethod
    def of(cls, trace: TraceContext) -> Span:
        return cls(
            trace.trace_id.to_bytes(16), trace.span_id, trace.parent_id, trace.sampled, trace.state, trace.remote
        )

    def context(self) -> TraceContext:
        number = int.from_bytes(self.trace_id)
        return TraceContext(number, self.span_id, self.parent_id, self.sampled, self.state, self.remote)


def portable(error: Error) -> dict[str, Any]:
    """All of its fields, and its class by name; for one that is not of the tree, the nearest above it that is."""
    kind = next(one for one in type(error).__mro__ if one in _KINDS.values())
    return {_KIND: kind.__name__, **{one.name: _plain(getattr(error, one.name)) for one in fields(kind)}}


def restored(told: Mapping[str, Any]) -> Error:
    """The error that it was. One of a newer Roundhouse, whose class is unknown here, is a `BadResponse`."""
    kind = _KINDS.get(told[_KIND])
    if kind is None:
        return BadResponse(f"{told[_KIND]}: {told['message']}")
    known = {one.name for one in fields(kind)}
    return kind(**{name: _whole(name, value) for name, value in told.items() if name in known})


def _plain(value: Any) -> Any:
    match value:
        case Error():
            return portable(value)
        case Attempt():
            return asdict(value)
        case tuple() | list():
            return [_plain(one) for one in value]
    return value


def _whole(name: str, value: Any) -> Any:
    if name == "attempts":
        return tuple(Attempt(**attempt) for attempt in value)
    if isinstance(value, Mapping) and _KIND in value:
        return restored(value)
    return tuple(value) if isinstance(value, list) else value
