"""How wrong is the generator itself: driven against a mock of known timing, in a process of its own.

The mock says when it sent each token, by the clock that all processes of a machine share. So what a busy machine adds
to the mock is not charged to the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from roundhouse.bench.arrivals import OpenLoop, Shape, plan
from roundhouse.bench.driver import open_loop
from roundhouse.bench.mock import SERVED, Timing, mock_process
from roundhouse.bench.records import Record
from roundhouse.bench.statistics import Quantile, quantile
from roundhouse.bench.subject import of_url
from roundhouse.bench.summary import values_of
from roundhouse.core.chat import ChatRequest
from roundhouse.providers.base import Endpoint
from roundhouse.providers.http import HTTPClient

__all__ = ["SHARES", "Error", "Selftest", "selftest"]

SHARES = (0.5, 0.95, 0.99)
_WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Error:
    """Of one percentile of a metric: what the mock took by its own clock, and what was measured, in seconds.

    None = too few requests.
    """

    metric: str
    percentile: float
    true_s: float | None
    measured_s: float | None

    @property
    def share(self) -> float | None:
        """Relative to the true value."""
        if self.true_s is None or self.measured_s is None or self.true_s <= 0:
            return None
        return self.measured_s / self.true_s - 1


@dataclass(frozen=True, slots=True)
class Selftest:
    """`lag`: how late requests were sent. `added`: what client, socket and mock added to the first token."""

    rate: float
    requests: int
    failed: int
    achieved_per_s: float
    lag: Quantile
    added: Quantile
    errors: list[Error]


async def selftest(rate: float, count: int, timing: Timing) -> Selftest:
    """Send `count` requests at a constant `rate` and compare what is measured with what the mock took."""
    due = plan(OpenLoop(Shape.CONSTANT, rate, count))
    async with mock_process(timing) as url, of_url(url, "openai", "mock") as ask:
        request = ChatRequest.of("How long?")
        await open_loop(ask, [request], [0] * _WARM_UP, [number / 100 for number in range(_WARM_UP)], limit_s=30)
        records = await open_loop(ask, [request], [0] * count, due, limit_s=60)
        served = await _served(url)
    true = _true(served[_WARM_UP:])
    pairs = zip(sorted(values_of(records, "ttft")), sorted(true["ttft"]), strict=False)
    return Selftest(
        rate=rate,
        requests=count,
        failed=sum(not record.answered for record in records),
        achieved_per_s=_achieved(records),
        lag=quantile(values_of(records, "lag"), 0.99),
        added=quantile([measured - took for measured, took in pairs], 0.99),
        errors=[
            Error(name, share * 100, quantile(values, share).value, quantile(values_of(records, name), share).value)
            for name, values in true.items()
            if any(values)
            for share in SHARES
        ],
    )


async def _served(url: str) -> list[list[float]]:
    client = HTTPClient(Endpoint("mock", url))
    try:
        told: list[list[float]] = await client.get(SERVED)
        return told
    finally:
        await client.aclose()


def _true(served: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Every value of each metric, as the mock knows it: (came, first token, ..., last token)."""
    found = {"ttft": [times[1] - times[0] for times in served], "e2e": [times[-1] - times[0] for times in served]}
    several = [times[1:] for times in served if len(times) > 2]
    found["itl"] = [later - earlier for times in several for earlier, later in pairwise(times)]
    found["tpot"] = [(times[-1] - times[0]) / (len(times) - 1) for times in several]
    return found


def _achieved(records: list[Record]) -> float:
    span = records[-1].sent - records[0].sent
    return (len(records) - 1) / span if span > 0 else 0.0
