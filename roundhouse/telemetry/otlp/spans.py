"""Spans of a request that is over: one for the whole, and below it one for each attempt."""

from __future__ import annotations

import msgspec
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from roundhouse.core.trace import TraceContext
from roundhouse.telemetry.events import EmbeddingsEnded, RequestTraced
from roundhouse.telemetry.log import Spoken
from roundhouse.telemetry.otlp.names import (
    Attributes,
    Backends,
    is_served,
    of_attempt,
    of_embeddings,
    of_embeddings_call,
    of_request,
)
from roundhouse.telemetry.redaction import Redaction

__all__ = ["Ids", "Spans", "texts_of"]

_NS = 1_000_000_000


class Ids(IdGenerator):
    """Gives the ids that were decided when the request was served, and told to the backends then."""

    def __init__(self) -> None:
        self.next = TraceContext(0, 0)

    def generate_span_id(self) -> int:
        return self.next.span_id

    def generate_trace_id(self) -> int:
        return self.next.trace_id


class Spans:
    """For one thread. `provider` must have been built with `ids`, and keep whatever it is given."""

    def __init__(self, provider: TracerProvider, ids: Ids, *, older: bool = False) -> None:
        self._tracer = provider.get_tracer("roundhouse")
        self._ids = ids
        self._older = older

    def emit(self, event: RequestTraced, ended_ns: int, backends: Backends, texts: Attributes) -> None:
        """`ended_ns`: when it ended, since 1970. `texts`: of what was asked and answered, as attributes."""
        arrived_ns = ended_ns - int(event.ended.total_s * _NS)
        attributes = {**of_request(event, backends), **texts}
        kind = SpanKind.SERVER if is_served(event.trace) else SpanKind.INTERNAL
        self._span(event.trace, kind, attributes, "", arrived_ns, ended_ns)
        for attempt in event.attempts:
            if attempt.trace is None:
                continue
            began_ns = arrived_ns + int(attempt.at_s * _NS)
            ended_at_ns = min(ended_ns, began_ns + int(attempt.seconds * _NS))
            attributes = of_attempt(event, attempt, backends)
            self._span(attempt.trace, SpanKind.CLIENT, attributes, attempt.reason, began_ns, ended_at_ns)

    def emit_embeddings(self, event: EmbeddingsEnded, ended_ns: int, backends: Backends) -> None:
        """As `emit`; nothing for what is not traced."""
        if event.trace is None:
            return
        arrived_ns = ended_ns - int(event.total_s * _NS)
        kind = SpanKind.SERVER if is_served(event.trace) else SpanKind.INTERNAL
        self._span(event.trace, kind, of_embeddings(event, backends), "", arrived_ns, ended_ns)
        if (call := event.call) is not None and call.trace is not None:
            began_ns = arrived_ns + int(call.at_s * _NS)
            attributes = of_embeddings_call(event, call, backends)
            ended_at_ns = min(ended_ns, began_ns + int(call.seconds * _NS))
            self._span(call.trace, SpanKind.CLIENT, attributes, call.reason, began_ns, ended_at_ns)

    def _span(
        self, trace: TraceContext, kind: SpanKind, attributes: Attributes, reason: str, began_ns: int, ended_ns: int
    ) -> None:
        self._ids.next = trace
        if self._older:
            attributes = {**attributes, "gen_ai.system": attributes["gen_ai.provider.name"]}
        span = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {attributes['gen_ai.request.model']}",
            context=_parent(trace),
            kind=kind,
            attributes=attributes,
            start_time=began_ns,
        )
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR, reason or attributes["error.type"]))
        span.end(ended_ns)


def texts_of(spoken: Spoken, redact: Redaction, finish_reason: str) -> Attributes:
    """What was asked and answered, as the conventions want it: JSON, each text cut to 20,000 characters."""

    def part(text: str) -> list[dict[str, str]]:
        return [{"type": "text", "content": redact.shown(text)}]

    asked = [{"role": role, "parts": part(text)} for role, text in spoken.asked]
    answered = [{"role": "assistant", "parts": part(spoken.answered), "finish_reason": finish_reason}]
    found = {"gen_ai.input.messages": asked, "gen_ai.output.messages": answered}
    if spoken.values:
        found["roundhouse.prompt.values"] = [{name: redact.shown(text) for name, text in spoken.values.items()}]
    return {name: msgspec.json.encode(value).decode() for name, value in found.items()}


def _parent(trace: TraceContext) -> Context:
    if not trace.parent_id:
        return Context()
    flags, state = TraceFlags(TraceFlags.SAMPLED), TraceState.from_header([trace.state] if trace.state else [])
    return set_span_in_context(
        NonRecordingSpan(SpanContext(trace.trace_id, trace.parent_id, trace.remote, flags, state)), Context()
    )
