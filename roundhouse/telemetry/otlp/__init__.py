"""Spans and metrics for a collector of OpenTelemetry; needs the extra `otel`, which nothing else here imports."""
