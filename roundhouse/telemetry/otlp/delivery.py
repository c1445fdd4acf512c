"""The way to the collector: exporters that say once that it is gone, and a bound on what waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.exporter.otlp.proto.http import metric_exporter, trace_exporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

__all__ = ["BoundedSpans", "MetricDelivery", "SpanDelivery"]

log = logging.getLogger(__name__)
_exporting = threading.local()


class _Quiet(logging.Filter):
    """The exporters log every attempt; of those that are ours an outage is told once, by `_Outage`."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_exporting, "ours", False)


for _module in (trace_exporter, metric_exporter):
    logging.getLogger(_module.__name__).addFilter(_Quiet())


class _Outage:
    def __init__(self, what: str) -> None:
        self._what = what
        self._lasts = False

    @contextmanager
    def quiet(self) -> Iterator[None]:
        _exporting.ours = True
        try:
            yield
        finally:
            _exporting.ours = False

    def note(self, url: str, *, delivered: bool) -> None:
        if delivered and self._lasts:
            log.warning("%s reach the collector at %s again", self._what, url)
        elif not delivered and not self._lasts:
            log.warning("%s do not reach a collector at %s for now; does one listen there?", self._what, url)
        self._lasts = not delivered


class SpanDelivery(OTLPSpanExporter):
    """`sent` and `failed`: how many spans a collector took, and how many were lost after the last try."""

    def __init__(self, endpoint: str | None, headers: dict[str, str]) -> None:
        super().__init__(endpoint=endpoint, headers=headers)
        self.sent = self.failed = 0
        self._outage = _Outage("spans")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._outage.quiet():
            result = super().export(spans)
        delivered = result is SpanExportResult.SUCCESS
        if delivered:
            self.sent += len(spans)
        else:
            self.failed += len(spans)
        self._outage.note(self._endpoint, delivered=delivered)
        return result

    def shutdown(self) -> None:
        """Give up a try that waits for its next time; once more does nothing."""
        if not self._shutdown:
            super().shutdown()  # type: ignore[no-untyped-call]


class MetricDelivery(OTLPMetricExporter):
    """What could not be delivered is in the next export too, for the numbers are totals."""

    def __init__(self, endpoint: str | None, headers: dict[str, str]) -> None:
        super().__init__(endpoint=endpoint, headers=headers)
        self._outage = _Outage("metrics")

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        with self._outage.quiet():
            result = super().export(metrics_data, timeout_millis, **kwargs)
        self._outage.note(self._endpoint, delivered=result is MetricExportResult.SUCCESS)
        return result


class BoundedSpans(SpanProcessor):
    """Spans on their way to `delivery`, in batches (`OTEL_BSP_*`); what is beyond `most` is `dropped`."""

    def __init__(self, delivery: SpanDelivery, most: int = 4096) -> None:
        self.dropped = 0
        self._delivery = delivery
        self._most = most
        self._taken = 0
        self._batches = BatchSpanProcessor(delivery, max_queue_size=most)

    def on_end(self, span: ReadableSpan) -> None:
        if self._taken - self._delivery.sent - self._delivery.failed >= self._most:
            self.dropped += 1
            return
        self._taken += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]
