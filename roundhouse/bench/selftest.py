"""How wrong is the generator itself: driven against a mock of known timing, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

from roundhouse.bench.arrivals import OpenLoop, Shape, plan
from roundhouse.bench.driver import open_loop
from roundhouse.bench.mock import Timing, mock_process
from roundhouse.bench.records import Record
from roundhouse.bench.statistics import Quantile, quantile
from roundhouse.bench.subject import of_url
from roundhouse.bench.summary import values_of
from roundhouse.core.chat import ChatRequest

__all__ = ["Error", "Selftest", "selftest"]


@dataclass(frozen=True, slots=True)
class Error:
    """Of one metric: what the mock took, what was measured, in seconds. p50 and p99 None = too few requests."""

    metric: str
    true_s: float
    p50_s: float | None
    p99_s: float | None

    @property
    def share(self) -> float | None:
        """Of the median, relative to the true value."""
        return None if self.p50_s is None else self.p50_s / self.true_s - 1


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
    """Send `count` requests at a constant `rate` and compare what is measured with `timing`."""
    due = plan(OpenLoop(Shape.CONSTANT, rate, count))
    async with mock_process(timing) as url, of_url(url, "openai", "mock") as ask:
        request = ChatRequest.of("How long?")
        await open_loop(ask, [request], [0] * 20, [number / 100 for number in range(20)], limit_s=30)
        records = await open_loop(ask, [request], [0] * count, due, limit_s=60)
    firsts = values_of(records, "ttft")
    true = {"ttft": timing.ttft_s, "e2e": timing.e2e_s}
    if timing.tokens > 1:
        true |= {"itl": timing.itl_s, "tpot": timing.itl_s}
    return Selftest(
        rate=rate,
        requests=count,
        failed=sum(not record.answered for record in records),
        achieved_per_s=_achieved(records),
        lag=quantile(values_of(records, "lag"), 0.99),
        added=quantile([value - timing.ttft_s for value in firsts], 0.99),
        errors=[_error(records, name, seconds) for name, seconds in true.items() if seconds > 0],
    )


def _achieved(records: list[Record]) -> float:
    span = records[-1].sent - records[0].sent
    return (len(records) - 1) / span if span > 0 else 0.0


def _error(records: list[Record], name: str, true_s: float) -> Error:
    values = values_of(records, name)
    return Error(name, true_s, quantile(values, 0.5).value, quantile(values, 0.99).value)
