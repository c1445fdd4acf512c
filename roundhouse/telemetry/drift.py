"""Has a target become slower, or worse, than it used to be? A test that may be looked at after every request. Pure.

A target's first requests tell what is usual for it; every later one is turned into a badness between 0 and 1, whose
mean was at most `Baseline.rate`, whatever its length (`telemetry.usual`). Against that runs the Shiryaev-Roberts
e-detector of Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", New
England Journal of Statistics in Data Science 2 (2024): while nothing has changed, it warns on average at most once in
as many requests as its threshold. Its bets are those of Waudby-Smith, Ramdas, "Estimating means of bounded random
variables by betting", JRSS B 86 (2024).

A burst of load that makes every answer slower is a change too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum

import msgspec

from roundhouse.core.machine import Machine
from roundhouse.telemetry.usual import SLOW_SHARE, Sample, Usual, highest_mean, stratum_of, usual_of

__all__ = [
    "ERROR",
    "TPOT",
    "TTFT",
    "Baseline",
    "Change",
    "Detector",
    "DriftState",
    "Rule",
    "Series",
]

TTFT = "first_token_s"
TPOT = "per_token_s"
ERROR = "error"
LATENCIES = (TTFT, TPOT)

_LEAST_RATE = 0.01
_BETS = (0.05, 0.1, 0.2, 0.4, 0.8)  # how far each bet believes the mean to have moved, from the rate to 1
_RECENT = 100


class Rule(msgspec.Struct, frozen=True):
    """`baseline`: requests that the usual is learned from; of latencies, for each stratum of sizes. `slower`: times the
    usual that is not called slow yet. `every`: requests between two false warnings of one series, on average at least.
    """

    baseline: int = 200
    slower: float = 1.25
    every: int = 100_000


class Baseline(msgspec.Struct, frozen=True):
    """What is usual: a mean badness of at most `rate`, learned from `count` requests. `typical`: the median of a
    latency in seconds, else the mean value. `strata`: of a latency, by `stratum_of` the size.
    """

    count: int
    rate: float
    typical: float
    strata: dict[int, Usual] = {}


class DriftState(Enum):
    LEARNING = "learning"
    STEADY = "steady"
    DRIFTED = "drifted"


class Change(Enum):
    LEARNED = "learned"
    DRIFTED = "drifted"
    RECOVERED = "recovered"
    FORGOTTEN = "forgotten"


DRIFT = Machine(
    DriftState.LEARNING,
    {
        (DriftState.LEARNING, Change.LEARNED): DriftState.STEADY,
        (DriftState.STEADY, Change.LEARNED): DriftState.STEADY,
        (DriftState.DRIFTED, Change.LEARNED): DriftState.DRIFTED,
        (DriftState.STEADY, Change.DRIFTED): DriftState.DRIFTED,
        (DriftState.DRIFTED, Change.RECOVERED): DriftState.STEADY,
        (DriftState.LEARNING, Change.FORGOTTEN): DriftState.LEARNING,
        (DriftState.STEADY, Change.FORGOTTEN): DriftState.LEARNING,
        (DriftState.DRIFTED, Change.FORGOTTEN): DriftState.LEARNING,
    },
)


def learned(values: Sequence[float], metric: str) -> Baseline:
    """What these errors or scores, of at least one request, say is usual."""
    count = len(values)
    bad = sum(badness(metric, value) for value in values) / count
    rate = min(0.99, max(_LEAST_RATE, highest_mean(min(1.0, bad), count)))
    return Baseline(count, rate, sum(values) / count)


def badness(metric: str, value: float) -> float:
    """From 0 to 1: whether there was an error, what a score lacks."""
    return min(1.0, max(0.0, value if metric == ERROR else 1 - value))


class Detector:
    """Bets against a mean badness of at most `rate`, several at once: nobody knows how large a change will be.

    `since`: how many of the last values lie after the change, if there was one: since the middle bet's CUSUM began.
    """

    def __init__(self, rate: float, every: int) -> None:
        self._every = every
        self._wins = [bet / rate for bet in _BETS]
        self._sums = [0.0] * len(_BETS)
        self._cusum = 0.0
        self.since = 0

    def add(self, badness: float) -> bool:
        """Whether it has changed."""
        self._sums = [
            (total + 1) * (1 - bet + win * badness)
            for total, bet, win in zip(self._sums, _BETS, self._wins, strict=True)
        ]
        self._cusum = max(1.0, self._cusum) * (1 - _BETS[2] + self._wins[2] * badness)
        self.since = self.since + 1 if self._cusum > 1 else 0
        return self.evidence >= self._every

    @property
    def evidence(self) -> float:
        return sum(self._sums) / len(self._sums)


class Series:
    """One metric of one target."""

    def __init__(self, metric: str, rule: Rule, baseline: Baseline | None = None) -> None:
        self.metric = metric
        self.rule = rule
        self.state = DRIFT.initial
        self.baseline: Baseline | None = None
        self._values: dict[int, list[Sample]] = {}  # of what is not learned yet, by stratum
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._last: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # values, and what was usual for each
        if baseline is not None:
            self._settle(baseline)

    def add(self, value: float, length: float = 0.0, size: float = 0.0) -> Change | None:
        """One request more. A latency in seconds, with what it grows with and by which requests are alike (`Sample`);
        an error 1 or 0; a score between 0 and 1, higher is better.
        """
        sample = Sample(value, length, size)
        known = self.baseline
        usual = known.strata.get(stratum_of(size)) if known is not None else None
        if known is None or (self.metric in LATENCIES and usual is None):
            if known is None:
                self._last.append((value, value))  # which is its usual, whatever it is
            return self._learn(sample)
        bad = badness(self.metric, value) if usual is None else float(usual.is_slow(sample))
        self._last.append((value, known.typical if usual is None else usual.expected(length)))
        self._recent.append(bad)
        if self.state is DriftState.STEADY:
            if not self._detector.add(bad):
                return None
            self._recent.clear()
            self._last = deque(list(self._last)[-self._detector.since :], _RECENT)
            return self._move(Change.DRIFTED)
        if len(self._recent) == _RECENT and sum(self._recent) / _RECENT <= known.rate:
            return self.begin_anew()
        return None

    def begin_anew(self) -> Change:
        """From drifted: look again, as if nothing had been."""
        assert self.baseline is not None
        self._detector = Detector(self.baseline.rate, self.rule.every)
        return self._move(Change.RECOVERED)

    def forget(self) -> Change:
        """What it does from now on is usual."""
        self.baseline = None
        self._values.clear()
        self._recent.clear()
        self._last.clear()
        return self._move(Change.FORGOTTEN)

    @property
    def learned_of(self) -> int:
        if self.baseline is not None:
            return self.baseline.count
        return max(map(len, self._values.values()), default=0)

    @property
    def now(self) -> float | None:
        """The median of the last latencies, else the mean of the last values: a hundred, after a change only those
        since then. None = there were none.
        """
        return self._middle([value for value, _ in self._last])

    @property
    def usual(self) -> float | None:
        """The same of what was usual for the very same requests; None = nobody knows yet."""
        if self.baseline is None:
            return None
        return self._middle([usual for _, usual in self._last]) if self._last else self.baseline.typical

    def _middle(self, values: Sequence[float]) -> float | None:
        if not values:
            return None
        return sorted(values)[len(values) // 2] if self.metric in LATENCIES else sum(values) / len(values)

    def _learn(self, sample: Sample) -> Change | None:
        latency = self.metric in LATENCIES
        stratum = stratum_of(sample.size) if latency else 0
        values = self._values.setdefault(stratum, [])
        values.append(sample)
        if len(values) < self.rule.baseline:
            return None
        del self._values[stratum]
        if not latency:
            return self._settle(learned([one.seconds for one in values], self.metric))
        before = self.baseline or Baseline(0, SLOW_SHARE, sorted(one.seconds for one in values)[len(values) // 2])
        strata = before.strata | {stratum: usual_of(values, self.rule.slower)}
        return self._settle(Baseline(before.count + len(values), before.rate, before.typical, strata))

    def _settle(self, baseline: Baseline) -> Change:
        if self.baseline is None:
            self._detector = Detector(baseline.rate, self.rule.every)
        self.baseline = baseline
        return self._move(Change.LEARNED)

    def _move(self, change: Change) -> Change:
        self.state = DRIFT.next(self.state, change)
        return change
