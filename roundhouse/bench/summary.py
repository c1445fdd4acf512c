"""Records of one run -> its numbers: latencies with intervals, throughput, goodput, errors, the generator's own lag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from roundhouse.bench.records import DEFINITIONS, Record, latency
from roundhouse.bench.statistics import effective_size, quantile

__all__ = ["SHARES", "Summary", "Window", "in_window", "lateness", "summarise", "values_of"]

SHARES = (0.5, 0.95, 0.99)
# Beyond this share of the median time to the first token, lateness of the generator itself is part of the result.
_MOST_LAG = 0.05
# A system that answers at once would make any lag matter; below this no client could tell.
_LEAST_LAG_S = 0.002


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds of the run, by scheduled time, that are measured: after warm-up, before cool-down."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Summary:
    """Times in seconds. `metrics`: definition id -> {"n", "mean", "effective_n", "p50", "p95", "p99"}.

    Counts are of the requests that were due in the window. `offered_per_s`: those that were due. `requests_per_s` and
    the tokens: what was answered within the window, whenever it was due, so that a server which falls behind shows it;
    `late` of those due were answered after the window. `uncounted` answers came without a count of their tokens, and
    are in no number of tokens. `goodput`: requests that kept all of the SLOs per second, None without SLOs;
    `attainment` is their share.
    """

    requests: int
    answered: int
    cut: int
    errors: Mapping[str, int]
    error_rate: float
    window_s: float
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    pieces_per_token: float | None
    goodput: float | None
    attainment: float | None
    degraded: str
    metrics: Mapping[str, Mapping[str, Any]]
    by_target: Mapping[str, int] = field(default_factory=dict)
    offered_per_s: float = 0.0
    late: int = 0
    uncounted: int = 0


def in_window(records: Sequence[Record], window: Window) -> list[Record]:
    return [record for record in records if window.begin <= record.scheduled <= window.end]


def values_of(records: Sequence[Record], name: str) -> list[float]:
    """Every value of a metric, in the order of schedule."""
    if name == "itl":
        return [gap for record in records if record.answered for gap in record.gaps]
    return [value for record in records if (value := latency(record, name)) is not None]


def summarise(records: Sequence[Record], window: Window, slos: Mapping[str, float], *, paced: bool) -> Summary:
    """Numbers of the records inside the window. `slos`: metric id -> most seconds. `paced`: an open loop."""
    measured = in_window(records, window)
    finished = [record for record in measured if not record.cut]
    answered = [record for record in finished if not record.error]
    errors = Counter(record.error for record in finished if record.error)
    counted = [record for record in answered if record.output_tokens]
    tokens = sum(record.output_tokens for record in counted)
    good, judged = _kept(finished, slos)
    seconds = max(window.seconds, 1e-9)
    ended = [record for record in records if record.answered and window.begin <= record.end <= window.end]
    metrics = {name: _metric(values_of(measured, name)) for name in DEFINITIONS}
    return Summary(
        requests=len(measured),
        answered=len(answered),
        cut=len(measured) - len(finished),
        errors=dict(errors),
        error_rate=sum(errors.values()) / len(finished) if finished else 0.0,
        window_s=seconds,
        requests_per_s=len(ended) / seconds,
        input_tokens_per_s=sum(record.prompt_tokens for record in ended) / seconds,
        output_tokens_per_s=sum(_tokens_within(record, window) for record in records if record.answered) / seconds,
        pieces_per_token=sum(record.pieces for record in counted) / tokens if tokens else None,
        goodput=good / seconds if slos else None,
        attainment=good / judged if slos and judged else None,
        degraded=lateness(measured) if paced else "",
        metrics=metrics,
        by_target=dict(Counter(record.target for record in answered if record.target)),
        offered_per_s=len(measured) / seconds,
        late=sum(record.end > window.end for record in answered),
        uncounted=len(answered) - len(counted),
    )


def _tokens_within(record: Record, window: Window) -> float:
    """Its output tokens that came in the window, if they came evenly."""
    begun, ended = record.end if record.first is None else record.first, record.end
    if ended <= begun:
        return float(record.output_tokens) if window.begin <= ended <= window.end else 0.0
    within = min(ended, window.end) - max(begun, window.begin)
    return record.output_tokens * max(0.0, within) / (ended - begun)


def _metric(values: Sequence[float]) -> Mapping[str, Any]:
    told: dict[str, Any] = {"n": len(values), "mean": sum(values) / len(values) if values else None}
    told["effective_n"] = effective_size(values)
    for share in SHARES:
        told[f"p{share * 100:g}"] = asdict(quantile(values, share))
    return told


def _kept(finished: Sequence[Record], slos: Mapping[str, float]) -> tuple[int, int]:
    """How many kept every SLO, of how many that could be judged: an error is a miss, an undefined metric is neither."""
    good = judged = 0
    for record in finished:
        if record.error:
            judged += 1
            continue
        found = {name: latency(record, name) for name in slos}
        if any(value is None for value in found.values()):
            continue
        judged += 1
        good += all(value is not None and value <= slos[name] for name, value in found.items())
    return good, judged


def lateness(measured: Sequence[Record]) -> str:
    """Why the generator's own lateness spoils the run; empty = it does not."""
    lags, firsts = sorted(values_of(measured, "lag")), sorted(values_of(measured, "ttft"))
    if not lags or not firsts:
        return ""
    lag, median = lags[int(0.99 * (len(lags) - 1))], firsts[len(firsts) // 2]
    if lag <= max(_LEAST_LAG_S, _MOST_LAG * median):
        return ""
    return (
        f"the load generator was late itself: P99 lag {lag * 1000:.1f} ms beside a median TTFT of "
        f"{median * 1000:.1f} ms; lower the rate, or give the generator a free core"
    )
