"""Events folded into the metrics that `/metrics` exposes, by prometheus-client, and into `LLMMetrics`: same numbers.

Labels hold names of the configuration and codes of our own, and there are at most so many combinations of them:
what a client sends can never make a new time series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from roundhouse.telemetry.buckets import BETWEEN_TOKENS
from roundhouse.telemetry.events import (
    CALLERS_OWN,
    CLIENT_LEFT,
    OK,
    UNDONE,
    Drifted,
    EmbeddingsEnded,
    EngineDied,
    Event,
    Evicted,
    LoadEnded,
    RequestEnded,
    SwitchEnded,
)
from roundhouse.telemetry.metrics import LLMMetrics
from roundhouse.telemetry.sketch import Rolling
from roundhouse.telemetry.standing import Standing
from roundhouse.telemetry.tallies import Bucketed, Counted, Tally

__all__ = ["CONTENT_TYPE", "Meter"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MOST_NAMES = 500
_OTHER = "other"
# Up to two minutes: a processor may need that long for a long prompt. Between tokens, from a millisecond.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_LONG_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_OWN_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


class Meter:
    """Belongs to one event loop. `numbers` are the totals of the same events; `first_tokens` in seconds from arrival,
    of answered requests; `left`: clients that hung up.
    """

    def __init__(self) -> None:
        self.numbers = LLMMetrics()
        self.first_tokens = Rolling()
        self.left = 0
        self.registry = CollectorRegistry()
        self._series: dict[tuple[str, str], _Series] = {}
        self._targets: set[str] = set()
        both = ("route", "target")
        self._requests = self._counted("requests", "Requests that ended", *both, "outcome")
        self._failed = Counter("roundhouse_failed_attempts", "Attempts that failed, each at its target",
                               ("target", "error"), registry=self.registry)  # fmt: skip
        self._retries = self._counted("retries", "Attempts that were made after one had failed", *both)
        self._failovers = self._counted("failovers", "Requests answered after another attempt had failed", *both)
        self._seams = self._counted("seams", "Cut answers that another engine went on with", *both)
        self._tokens = self._counted("tokens", "Tokens as the backends counted them", *both, "kind")
        self._queue = self._bucketed("queue_seconds", "Time waited for a slot", _SECONDS)
        self._first = self._bucketed("time_to_first_token_seconds", "From arrival to the first content", _SECONDS)
        self._total = self._bucketed("request_seconds", "From arrival to the end", _SECONDS)
        self._token = self._bucketed("time_per_output_token_seconds", "For each token after the first", BETWEEN_TOKENS)
        self._own = self._bucketed("added_seconds", "What we took besides queue, load and backend", _OWN_SECONDS)
        self._gaps = self._bucketed(
            "time_between_tokens_seconds", "Between a piece of an answer and the next", BETWEEN_TOKENS
        )
        self._embeddings = Counter("roundhouse_embeddings", "Requests for embeddings that ended", (*both, "outcome"),
                                   registry=self.registry)  # fmt: skip
        self._texts = Counter("roundhouse_embedded_texts", "Texts that were embedded", both, registry=self.registry)
        self._embed_seconds = self._bucketed("embeddings_seconds", "From arrival to the vectors", _SECONDS)
        self._loads = Counter("roundhouse_engine_loads", "Starts of engines that ended", ("target", "outcome"),
                              registry=self.registry)  # fmt: skip
        self._load_seconds = self._of_target("engine_load_seconds", "From the decision to load to ready")
        self._deaths = Counter("roundhouse_engine_deaths", "Engines that ended without being asked to",
                               ("target", "error"), registry=self.registry)  # fmt: skip
        self._evictions = Counter("roundhouse_evictions", "Idle engines stopped because another needed the memory",
                                  ("target",), registry=self.registry)  # fmt: skip
        self._switches = Counter("roundhouse_switches", "Switches that ended", ("target", "outcome"),
                                 registry=self.registry)  # fmt: skip
        self._switch_seconds = self._of_target("switch_seconds", "From the order to the end of a switch")
        self._held_seconds = self._of_target("switch_held_seconds", "How long a switch held requests")
        self._drifts = Counter("roundhouse_drifts", "Warnings that a target has become slower or worse",
                               ("target", "metric"), registry=self.registry)  # fmt: skip
        self._drifted = Gauge("roundhouse_drifted", "1 while such a warning stands", ("target", "metric"),
                              registry=self.registry)  # fmt: skip

    def watch(self, look: Callable[[], Mapping[str, Any]]) -> None:
        """Have every scrape tell the house as it stands then: `look` gives what `Manager.state` gives."""
        self.registry.register(Standing(look))

    def expect(self, targets: Iterable[str]) -> None:
        """Tell zeros of these before anything happens: what Prometheus sees first as 1, it does not see increase."""
        for target in map(self._known, targets):
            self._loads.labels(target, OK)
            self._evictions.labels(target)
            for outcome in (OK, UNDONE):
                self._switches.labels(target, outcome)

    def record(self, event: Event) -> None:
        """Count what happened. A client that left is counted, and is no failure."""
        match event:
            case RequestEnded():
                self._request(event)
            case EmbeddingsEnded():
                self._embedded(event)
            case LoadEnded():
                self._loads.labels(self._known(event.target), event.outcome).inc()
                if event.outcome == OK:
                    self._load_seconds.labels(self._known(event.target)).observe(event.seconds)
            case EngineDied():
                self._deaths.labels(self._known(event.target), event.error).inc()
            case Evicted():
                self._evictions.labels(self._known(event.target)).inc()
            case SwitchEnded():
                self._switches.labels(self._known(event.target), event.outcome).inc()
                self._switch_seconds.labels(self._known(event.target)).observe(event.seconds)
                self._held_seconds.labels(self._known(event.target)).observe(event.held_s)
            case Drifted():
                if event.drifted:
                    self._drifts.labels(self._known(event.target), event.metric).inc()
                self._drifted.labels(self._known(event.target), event.metric).set(event.drifted)

    def _embedded(self, event: EmbeddingsEnded) -> None:
        names = self._known(event.route), self._known(event.target)
        self._embeddings.labels(*names, event.outcome).inc()
        if event.outcome == OK:
            self._texts.labels(*names).inc(event.texts)
            self._embed_seconds.of(*names).add(event.total_s)

    def _request(self, event: RequestEnded) -> None:
        series = self._of(event.route, event.target)
        series.count(event)
        for target, error in event.failed:
            self._failed.labels(self._known(target), error).inc()
        if event.outcome == CLIENT_LEFT:
            self.left += 1
        elif event.outcome not in CALLERS_OWN:
            ok = event.outcome == OK
            if ok and event.first_token_s is not None:
                self.first_tokens.add(event.first_token_s)
            self.numbers.record_request(event.total_s, event.input_tokens, event.output_tokens, ok)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)

    def _counted(self, name: str, about: str, *labels: str) -> Counted:
        counted = Counted(f"roundhouse_{name}", about, labels)
        self.registry.register(counted)
        return counted

    def _bucketed(self, name: str, about: str, bounds: Sequence[float]) -> Bucketed:
        bucketed = Bucketed(f"roundhouse_{name}", about, ("route", "target"), bounds)
        self.registry.register(bucketed)
        return bucketed

    def _of_target(self, name: str, about: str) -> Histogram:
        return Histogram(f"roundhouse_{name}", about, ("target",), buckets=_LONG_SECONDS, registry=self.registry)

    def _known(self, target: str) -> str:
        """A name of a target or a route. Reloads may bring new ones for ever."""
        if target not in self._targets and len(self._targets) >= _MOST_NAMES:
            return _OTHER
        self._targets.add(target)
        return target

    def _of(self, route: str, target: str) -> _Series:
        """The series of these names, looked up once: labels are what costs time in prometheus-client."""
        found = self._series.get((route, target))
        if found is None:
            if len(self._series) >= _MOST_NAMES:
                route = target = _OTHER
            found = self._series.setdefault((route, target), _Series(self, route, target))
        return found


class _Series:
    """Everything that is counted for one route and target."""

    def __init__(self, meter: Meter, route: str, target: str) -> None:
        self._labels = (route, target)
        self._requests = meter._requests
        self._outcomes: dict[str, Tally] = {}
        self._retries, self._failovers, self._seams = (
            one.of(route, target) for one in (meter._retries, meter._failovers, meter._seams)
        )
        self._input, self._output, self._cached = (
            meter._tokens.of(route, target, kind) for kind in ("input", "output", "cached")
        )
        self._queue, self._first, self._total, self._token, self._own, self._gaps = (
            one.of(route, target)
            for one in (meter._queue, meter._first, meter._total, meter._token, meter._own, meter._gaps)
        )

    def count(self, event: RequestEnded) -> None:
        outcome = self._outcomes.get(event.outcome)
        if outcome is None:
            outcome = self._outcomes[event.outcome] = self._requests.of(*self._labels, event.outcome)
        outcome.count += 1
        self._queue.add(event.queue_s)
        if event.failed:
            if event.outcome == OK:
                self._failovers.count += 1
            # Whoever failed last was followed by nobody, if nobody answered.
            self._retries.count += len(event.failed) - (not event.target)
        self._seams.count += event.seams
        if event.first_token_s is not None:
            self._first.add(event.first_token_s)
        if event.gaps is not None:
            self._gaps.merge(event.gaps)
        if event.own_s is not None:
            self._own.add(event.own_s)
        if event.outcome == OK:
            self._total.add(event.total_s)
            self._input.count += event.input_tokens
            self._output.count += event.output_tokens
            self._cached.count += event.cached_tokens
            if event.per_token_s is not None:
                self._token.add(event.per_token_s)
