"""Has a target become slower, or worse, than it used to be? A test that may be looked at after every request. Pure.

A target's first requests tell what is usual for it; every later one is turned into a badness between 0 and 1, whose
mean was at most `Baseline.rate`. Against that runs the Shiryaev-Roberts e-detector of Shin, Ramdas, Rinaldo,
"E-detectors: a nonparametric framework for sequential change detection", New England Journal of Statistics in Data
Science 2 (2024): while nothing has changed, it warns on average at most once in as many requests as its threshold. Its
bets are those of Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024). The
bounds on the usual are Hoeffding's (1963, theorem 1) for means of values between 0 and 1.

All this holds for requests that are alike. A burst of load that makes every answer slower is a change too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from enum import Enum

import msgspec

from roundhouse.core.machine import Machine

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
    "learned",
]

TTFT = "first_token_s"
TPOT = "per_token_s"
ERROR = "error"
LATENCIES = (TTFT, TPOT)

_DOUBT = 0.001  # that the usual is worse than its bound
_SLOW_SHARE = 0.1  # of requests that may be slower than the limit
_LEAST_RATE = 0.01
_BETS = (0.05, 0.1, 0.2, 0.4, 0.8)  # how far each bet believes the mean to have moved, from the rate to 1
_RECENT = 100


class Rule(msgspec.Struct, frozen=True):
    """`baseline`: requests that the usual is learned from. `slower`: times the usual that is not called slow yet.
    `every`: requests between two false warnings of one series, on average at least.
    """

    baseline: int = 200
    slower: float = 1.25
    every: int = 100_000


class Baseline(msgspec.Struct, frozen=True):
    """What is usual: a mean badness of at most `rate`. `limit`: seconds above which an answer is slow, 0 = no latency.
    `typical`: the median of a latency in seconds, else the mean value.
    """

    count: int
    rate: float
    typical: float
    limit: float = 0.0


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
        (DriftState.STEADY, Change.DRIFTED): DriftState.DRIFTED,
        (DriftState.DRIFTED, Change.RECOVERED): DriftState.STEADY,
        (DriftState.LEARNING, Change.FORGOTTEN): DriftState.LEARNING,
        (DriftState.STEADY, Change.FORGOTTEN): DriftState.LEARNING,
        (DriftState.DRIFTED, Change.FORGOTTEN): DriftState.LEARNING,
    },
)


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler's, of two coins."""
    return sum(a * math.log(a / b) if b > 0 else math.inf for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)


def highest_mean(mean: float, count: int, doubt: float = _DOUBT) -> float:
    """The mean that `count` values between 0 and 1 with this average have at most, but for `doubt`."""
    low, high = mean, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if count * _divergence(mean, middle) < -math.log(doubt) else (low, middle)
    return high


def badness(metric: str, value: float, limit: float = 0.0) -> float:
    """From 0 to 1: whether a latency is above `limit`, whether there was an error, what a score lacks."""
    if metric in LATENCIES:
        return float(value > limit)
    return min(1.0, max(0.0, value if metric == ERROR else 1 - value))


def learned(metric: str, values: Sequence[float], rule: Rule) -> Baseline:
    """What these values, of at least one request, say is usual."""
    ordered = sorted(values)
    count, middle = len(ordered), ordered[len(ordered) // 2]
    if metric not in LATENCIES:
        bad = sum(badness(metric, value) for value in values) / count
        rate = min(0.99, max(_LEAST_RATE, highest_mean(min(1.0, bad), count)))
        return Baseline(count, rate, sum(ordered) / count)
    # The lowest of the values above which no more than a tenth of all lie, but for the doubt.
    above = 0
    while above + 1 < count and highest_mean((above + 1) / count, count) <= _SLOW_SHARE:
        above += 1
    return Baseline(count, _SLOW_SHARE, middle, rule.slower * ordered[count - 1 - above])


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
        self._values: list[float] = []
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._last: deque[float] = deque(maxlen=_RECENT)
        if baseline is not None:
            self._settle(baseline)

    def add(self, value: float) -> Change | None:
        """One request more. A latency in seconds; an error 1 or 0; a score between 0 and 1, higher is better."""
        self._last.append(value)
        if self.baseline is None:
            self._values.append(value)
            if len(self._values) < self.rule.baseline:
                return None
            self._settle(learned(self.metric, self._values, self.rule))
            return Change.LEARNED
        bad = badness(self.metric, value, self.baseline.limit)
        self._recent.append(bad)
        if self.state is DriftState.STEADY:
            if not self._detector.add(bad):
                return None
            self._recent.clear()
            self._last = deque(list(self._last)[-self._detector.since :], _RECENT)
            return self._move(Change.DRIFTED)
        if len(self._recent) == _RECENT and sum(self._recent) / _RECENT <= self.baseline.rate:
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
        return self._move(Change.FORGOTTEN)

    @property
    def learned_of(self) -> int:
        return self.baseline.count if self.baseline else len(self._values)

    @property
    def now(self) -> float | None:
        """The median of the last latencies, else the mean of the last values: a hundred, after a change only those
        since then. None = there were none.
        """
        if not self._last:
            return None
        ordered = sorted(self._last)
        return ordered[len(ordered) // 2] if self.metric in LATENCIES else sum(ordered) / len(ordered)

    def _settle(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self._values.clear()
        self._detector = Detector(baseline.rate, self.rule.every)
        self._move(Change.LEARNED)

    def _move(self, change: Change) -> Change:
        self.state = DRIFT.next(self.state, change)
        return change
