"""Requests folded into numbers: how long, how many tokens, how often it failed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from roundhouse.telemetry.sketch import Rolling

__all__ = ["LLMMetrics", "Minute", "Summary"]

_WINDOW_S = 60.0
_SLICES = 60


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds, tokens, shares of 1. Percentiles are of successful requests and within 1 %; None = there was none.

    Rates are over the last minute, or since the first request if that is shorter.
    """

    requests: int
    errors: int
    error_rate: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    mean_s: float | None
    input_tokens: int
    output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Minute:
    """The last minute alone, in the same units: what an hour's trouble cannot hide in the numbers of a month."""

    requests: int
    errors: int
    error_rate: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


class LLMMetrics:
    """Counts requests in bounded memory. May be used from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times = Rolling(clock)
        self._errors = 0
        self._input_tokens = 0
        self._output_tokens = 0
        self._started: float | None = None
        # One slice a second: (second, requests, output tokens, errors).
        self._recent: deque[tuple[int, int, int, int]] = deque(maxlen=_SLICES)

    def record_request(self, response_time: float, input_tokens: int, output_tokens: int, success: bool) -> None:
        """Count one request: `response_time` in seconds, its tokens, and whether it was answered."""
        with self._lock:
            now = self._clock()
            if self._started is None:
                self._started = now - response_time
            if success:
                self._times.add(response_time)
            else:
                self._errors += 1
            self._input_tokens += input_tokens
            self._output_tokens += output_tokens
            second = int(now)
            requests = tokens = errors = 0
            if self._recent and self._recent[-1][0] == second:
                _, requests, tokens, errors = self._recent.pop()
            self._recent.append((second, requests + 1, tokens + output_tokens, errors + (not success)))

    def summary(self) -> Summary:
        """Everything counted so far."""
        with self._lock:
            now = self._clock()
            times = self._times.total
            served = times.count
            total = served + self._errors
            window_s = max(1.0, min(_WINDOW_S, now - self._started)) if self._started is not None else 1.0
            recent = self._lately(now)
            return Summary(
                requests=total,
                errors=self._errors,
                error_rate=self._errors / total if total else 0.0,
                p50_s=times.quantile(0.5),
                p95_s=times.quantile(0.95),
                p99_s=times.quantile(0.99),
                mean_s=times.sum / served if served else None,
                input_tokens=self._input_tokens,
                output_tokens=self._output_tokens,
                requests_per_s=sum(requests for requests, _, _ in recent) / window_s,
                output_tokens_per_s=sum(tokens for _, tokens, _ in recent) / window_s,
            )

    def minute(self) -> Minute:
        with self._lock:
            recent = self._lately(self._clock())
            requests, errors = sum(one[0] for one in recent), sum(one[2] for one in recent)
            quantile = self._times.recent().quantile
            share = errors / requests if requests else 0.0
            return Minute(requests, errors, share, quantile(0.5), quantile(0.95), quantile(0.99))

    def _lately(self, now: float) -> list[tuple[int, int, int]]:
        """Requests, output tokens and errors of each second of the last minute that had any."""
        return [slice_[1:] for slice_ in self._recent if slice_[0] > now - _WINDOW_S]
