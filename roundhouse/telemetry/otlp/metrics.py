"""The GenAI metrics of OpenTelemetry, from what is told of each traced request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from opentelemetry.metrics import Counter, Histogram, Meter

from roundhouse.telemetry.events import OK, EmbeddingsEnded, Followed, RequestTraced
from roundhouse.telemetry.otlp.names import (
    Attributes,
    Backends,
    of_attempt,
    of_embeddings,
    of_embeddings_call,
    of_request,
)

__all__ = ["Metrics"]

# As the conventions have them, and two minutes more where a processor may need them.
_DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 120.0)
_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(4**power for power in range(14))
# Attributes of spans that are names of the configuration and codes of our own: they may make time series.
_LABELS = (
    "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model", "error.type",
    "server.address", "server.port", "roundhouse.target",
)  # fmt: skip


class Metrics:
    """`older`: record the names of v1.36 to v1.41 as well."""

    def __init__(self, meter: Meter, *, older: bool = False) -> None:
        seconds, tokens, sizes = partial(_seconds, meter), partial(_tokens, meter), partial(_sizes, meter)
        self._duration = seconds("gen_ai.client.inference.duration", "GenAI inference duration.", _DURATION_S)
        self._first_chunk = seconds(
            "gen_ai.client.inference.time_to_first_chunk", "Time to receive the first chunk.", _FIRST_S
        )
        self._input = tokens("input_tokens", "The number of input (prompt) tokens used, including cached tokens.")
        self._output = tokens("output_tokens", "The number of output (completion) tokens used.")
        self._cached = tokens("cache_read.input_tokens", "The number of input tokens served from a cache.")
        self._inputs = sizes("gen_ai.client.inference.operation.input_tokens", "Input tokens of an inference.")
        self._outputs = sizes("gen_ai.client.inference.operation.output_tokens", "Output tokens of an inference.")
        self._request = seconds("gen_ai.server.request.duration", "Generative AI server request duration.", _DURATION_S)
        self._first_token = seconds("gen_ai.server.time_to_first_token", "Time to generate first token.", _FIRST_S)
        self._per_token = seconds(
            "gen_ai.server.time_per_output_token", "Time per output token generated after the first token.", _TOKEN_S
        )
        self._embeddings = seconds(
            "gen_ai.client.embeddings.duration", "GenAI client embeddings operation duration.", _DURATION_S
        )
        self._older = _Older(meter) if older else None

    def record(self, event: RequestTraced, backends: Backends) -> None:
        """The request as we served it, and each attempt as we asked for it."""
        ended, labels = event.ended, _labels(of_request(event, backends))
        self._request.record(ended.total_s, labels)
        if ended.outcome == OK:
            if ended.first_token_s is not None:
                self._first_token.record(ended.first_token_s, labels)
            if ended.per_token_s is not None:
                self._per_token.record(ended.per_token_s, labels)
        for attempt in event.attempts:
            self._attempt(event, attempt, _labels(of_attempt(event, attempt, backends)))

    def record_embeddings(self, event: EmbeddingsEnded, backends: Backends) -> None:
        """The request as we served it, and the call of the backend once, however many shared it."""
        self._request.record(event.total_s, _labels(of_embeddings(event, backends)))
        if event.call is not None:
            labels = _labels(of_embeddings_call(event, event.call, backends))
            self._embeddings.record(event.call.seconds, labels)
            if self._older is not None:
                self._older.record_duration(event.call.seconds, labels)

    def _attempt(self, event: RequestTraced, attempt: Followed, labels: Attributes) -> None:
        self._duration.record(attempt.seconds, labels)
        if attempt.first_token_s is not None:
            self._first_chunk.record(attempt.first_token_s, labels)
        if attempt.outcome == OK:
            ended = event.ended
            # A prompt may have pictures in it, and backends do not say which tokens are theirs.
            unknown = {**labels, "gen_ai.token.modality": "unknown"}
            self._input.add(ended.input_tokens, unknown)
            self._output.add(ended.output_tokens, {**labels, "gen_ai.token.modality": "text"})
            if ended.cached_tokens:
                self._cached.add(ended.cached_tokens, unknown)
            self._inputs.record(ended.input_tokens, labels)
            self._outputs.record(ended.output_tokens, labels)
        if self._older is not None:
            self._older.record(event, attempt, labels)


class _Older:
    """What the same was called up to v1.41; `gen_ai.system` up to v1.36."""

    def __init__(self, meter: Meter) -> None:
        seconds = partial(_seconds, meter)
        self._duration = seconds("gen_ai.client.operation.duration", "GenAI operation duration.", _DURATION_S)
        self._first_chunk = seconds(
            "gen_ai.client.operation.time_to_first_chunk", "Time to receive the first chunk.", _FIRST_S
        )
        self._tokens = _sizes(meter, "gen_ai.client.token.usage", "Number of input and output tokens used.")

    def record(self, event: RequestTraced, attempt: Followed, labels: Attributes) -> None:
        labels = self.record_duration(attempt.seconds, labels)
        if attempt.first_token_s is not None:
            self._first_chunk.record(attempt.first_token_s, labels)
        if attempt.outcome == OK:
            self._tokens.record(event.ended.input_tokens, {**labels, "gen_ai.token.type": "input"})
            self._tokens.record(event.ended.output_tokens, {**labels, "gen_ai.token.type": "output"})

    def record_duration(self, seconds: float, labels: Attributes) -> Attributes:
        """Gives the labels as they were then."""
        labels = {**labels, "gen_ai.system": labels["gen_ai.provider.name"]}
        self._duration.record(seconds, labels)
        return labels


def _seconds(meter: Meter, name: str, about: str, bounds: Sequence[float]) -> Histogram:
    return meter.create_histogram(name, "s", about, explicit_bucket_boundaries_advisory=bounds)


def _sizes(meter: Meter, name: str, about: str) -> Histogram:
    return meter.create_histogram(name, "{token}", about, explicit_bucket_boundaries_advisory=_TOKENS)


def _tokens(meter: Meter, name: str, about: str) -> Counter:
    return meter.create_counter(f"gen_ai.client.inference.usage.{name}", "{token}", about)


def _labels(attributes: Attributes) -> Attributes:
    return {name: attributes[name] for name in _LABELS if name in attributes}
