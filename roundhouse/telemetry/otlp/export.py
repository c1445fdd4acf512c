"""A listener that has a collector told of each request. The event loop only puts a value into a queue.

A thread makes spans and metrics of what is in the queue, others deliver them: a collector that is slow or gone makes
nobody wait, and costs spans, which are counted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from opentelemetry.context import get_current
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from roundhouse.core.trace import TraceContext, new_id
from roundhouse.telemetry.events import EmbeddingsEnded, Event, RequestTraced
from roundhouse.telemetry.log import Spoken
from roundhouse.telemetry.otlp.delivery import BoundedSpans, MetricDelivery, SpanDelivery
from roundhouse.telemetry.otlp.metrics import Metrics
from roundhouse.telemetry.otlp.names import Backends, wants_older
from roundhouse.telemetry.otlp.spans import Ids, Spans, texts_of
from roundhouse.telemetry.redaction import Redaction

__all__ = ["Export", "Style"]

log = logging.getLogger(__name__)
_MOST_WAITING = 10_000
_MOST_UNSPOKEN = 1_000
_PERIOD_S = 0.2
_STOP_S = 3.0
_LEAVE_S = 1.0


@dataclass(frozen=True, slots=True)
class Style:
    """`endpoint`: the collector's base URL, empty = as `OTEL_EXPORTER_OTLP_*` say. `headers` go with each export.

    `sampling`: share of traces that are kept where the caller has not decided, None = as `OTEL_TRACES_SAMPLER` says.
    `interval_s`: of metrics, None = as `OTEL_METRIC_EXPORT_INTERVAL` says. `content`: spans have the texts, redacted.
    """

    endpoint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    sampling: float | None = None
    interval_s: float | None = None
    content: bool = False
    redaction: Redaction = field(default_factory=Redaction)


class Export(Collector):
    """Belongs to one event loop, but for `collect`. `backends` by target may be exchanged at any time."""

    def __init__(self, style: Style, backends: Backends, environ: Mapping[str, str] = os.environ) -> None:
        self.backends = backends
        self.wants_content = style.content
        self._redact = style.redaction
        self._waiting: deque[tuple[int, RequestTraced | EmbeddingsEnded | Spoken]] = deque()
        self._unspoken: OrderedDict[str, tuple[int, RequestTraced]] = OrderedDict()
        self._lost = 0
        self._ended = threading.Event()
        self._propagator = TraceContextTextMapPropagator()
        resource = Resource.create({} if environ.get(OTEL_SERVICE_NAME) else {"service.name": "roundhouse"})
        self._delivery = SpanDelivery(_url(style, "traces"), dict(style.headers))
        self._batches = BoundedSpans(self._delivery)
        self._sampler = _sampler(style)
        ids, older = Ids(), wants_older(environ)
        tracers = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=ids)
        tracers.add_span_processor(self._batches)
        self._spans = Spans(tracers, ids, older=older)
        reader = PeriodicExportingMetricReader(
            MetricDelivery(_url(style, "metrics"), dict(style.headers)),
            None if style.interval_s is None else 1000 * style.interval_s,
        )
        self._meters = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._metrics = Metrics(self._meters.get_meter("roundhouse"), older=older)
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def begin(self, headers: Sequence[tuple[bytes, bytes]] = ()) -> TraceContext:
        """The span of a request that has just come: below the caller's if its headers name one, else below the span
        that is open here.
        """
        told = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name in (b"traceparent", b"tracestate")
        }
        above = self._propagator.extract(told) if told else get_current()
        parent = get_current_span(above).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else new_id(16)
        decision = self._sampler.should_sample(above, trace_id, "chat", SpanKind.SERVER).decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        state = parent.trace_state.to_header() if parent.is_valid else ""
        return TraceContext(trace_id, new_id(8), parent.span_id, sampled, state, parent.is_remote)

    def record(self, event: Event) -> None:
        """Have a collector told of a traced request; other events are none of ours. Never blocks, never raises."""
        if isinstance(event, RequestTraced | EmbeddingsEnded):
            self._put(event)

    def content(self, spoken: Spoken) -> None:
        """The texts of a request, told after it has ended."""
        self._put(spoken)

    def collect(self) -> Iterable[Metric]:
        """How many spans were delivered and lost, for `/metrics`."""
        spans = CounterMetricFamily("roundhouse_otlp_spans", "Spans for the collector", labels=("outcome",))
        spans.add_metric(("sent",), self._delivery.sent)
        spans.add_metric(("lost",), self._batches.dropped + self._delivery.failed)
        yield spans
        yield CounterMetricFamily("roundhouse_otlp_requests_lost", "Requests no collector is told of", value=self._lost)

    def close(self) -> None:
        """Deliver what waits; blocks for four seconds at most."""
        until = time.monotonic() + _STOP_S
        self._ended.set()
        self._thread.join(_STOP_S)
        ends = [
            threading.Thread(target=end, name="end of otlp", daemon=True)
            for end in (self._batches.shutdown, partial(self._meters.shutdown, 1000 * _STOP_S))
        ]
        for end in ends:
            end.start()
        for end in ends:
            end.join(max(0.0, until - time.monotonic()))
        self._delivery.shutdown()
        for end in ends:  # a try that waits for its next time is given up now
            end.join(_LEAVE_S)

    def _put(self, value: RequestTraced | EmbeddingsEnded | Spoken) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += not isinstance(value, Spoken)
            return
        self._waiting.append((time.time_ns(), value))

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            self._fold()
        self._fold()
        while self._unspoken:
            _, (at, event) = self._unspoken.popitem()
            self._emit(event, at, None)

    def _fold(self) -> None:
        while self._waiting:
            at, value = self._waiting.popleft()
            try:
                self._tell(at, value)
            except Exception:
                log.exception("a request is missing in the export")
                self._lost += 1
            time.sleep(0)  # the event loop goes first

    def _tell(self, at: int, value: RequestTraced | EmbeddingsEnded | Spoken) -> None:
        if isinstance(value, EmbeddingsEnded):
            self._metrics.record_embeddings(value, self.backends)
            if value.trace is not None and value.trace.sampled:
                self._spans.emit_embeddings(value, at, self.backends)
            return
        if isinstance(value, Spoken):
            if (held := self._unspoken.pop(value.request_id, None)) is not None:
                self._emit(held[1], held[0], value)
            return
        self._metrics.record(value, self.backends)
        if value.trace.sampled and self.wants_content:
            self._hold(at, value)
        elif value.trace.sampled:
            self._emit(value, at, None)

    def _hold(self, at: int, event: RequestTraced) -> None:
        """Its texts are told next."""
        self._unspoken[event.ended.request_id] = at, event
        if len(self._unspoken) > _MOST_UNSPOKEN:
            _, (at, oldest) = self._unspoken.popitem(last=False)
            self._emit(oldest, at, None)

    def _emit(self, event: RequestTraced, at: int, spoken: Spoken | None) -> None:
        texts = texts_of(spoken, self._redact, event.finish_reason) if spoken is not None else {}
        self._spans.emit(event, at, self.backends, texts)


def _url(style: Style, signal: str) -> str | None:
    return f"{style.endpoint.rstrip('/')}/v1/{signal}" if style.endpoint else None


def _sampler(style: Style) -> Sampler:
    """The provider reads `OTEL_TRACES_SAMPLER`; we decide before there is a span that it could ask for."""
    if style.sampling is not None:
        return ParentBased(TraceIdRatioBased(style.sampling))
    return TracerProvider(shutdown_on_exit=False).sampler
