"""W3C Trace Context: how one span is named to whoever works on its behalf (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

__all__ = ["TraceContext", "new_id"]


def new_id(size_bytes: int) -> int:
    """A random id, never 0. From the system, for an application may seed `random`."""
    return int.from_bytes(os.urandom(size_bytes)) or 1


class TraceContext(msgspec.Struct, frozen=True):
    """A span. Ids are those of the standard, of 128 and 64 bits; `parent_id` 0 = it is the root of its trace.

    `sampled`: whether it will be kept. `state`: the `tracestate` of whoever began the trace, passed on as it is.
    `remote`: its parent is another process's.
    """

    trace_id: int
    span_id: int
    parent_id: int = 0
    sampled: bool = True
    state: str = ""
    remote: bool = False

    @property
    def headers(self) -> Mapping[str, str]:
        """By which a backend is told of it."""
        told = {"traceparent": f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.sampled:02x}"}
        if self.state:
            told["tracestate"] = self.state
        return told

    def child(self) -> TraceContext:
        """A new span below it."""
        return TraceContext(self.trace_id, new_id(8), self.span_id, self.sampled, self.state)
