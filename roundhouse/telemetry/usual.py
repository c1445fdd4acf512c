"""What is usual for requests of like length: a line through their times, and how far above it one may lie. Pure.

The time to a first token grows with the prompt that is read, the time per token with the text that is looked back on.
So times are compared with those of requests whose size lies within a factor of two, and among these with a line
through them, so that a change of the mix is no change of the target, whatever the shape of the whole. What has not
been seen is learned before it is judged. Tried by simulation against the plain times, one line for all, strata alone
and wider strata (`python -m benchmarks drift`): only this warned of no change of the mix, and it found a slowdown as
soon as one line does.

The line is Theil's with the incomplete choice of pairs (Proc. Kon. Ned. Akad. 53, 1950), which a third of outliers do
not move; the bound on the share above the limit is Hoeffding's (1963, theorem 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

__all__ = ["SLOW_SHARE", "Sample", "Usual", "highest_mean", "stratum_of", "usual_of"]

SLOW_SHARE = 0.1  # of requests that may be slower than the limit
_DOUBT = 0.001  # that the usual is worse than its bound
_LEAST_S = 1e-9


class Sample(msgspec.Struct, frozen=True):
    """A time; `length`: what it grows with, and `size`: by which requests are alike, in tokens, 0 = unknown."""

    seconds: float
    length: float = 0.0
    size: float = 0.0


class Usual(msgspec.Struct, frozen=True):
    """Of one stratum. A request of `length` takes `at_none + by_length * length` seconds, more or less; one is slow
    that takes more than `limit` times as long.
    """

    count: int
    at_none: float
    by_length: float
    limit: float

    def expected(self, length: float) -> float:
        return max(_LEAST_S, self.at_none + self.by_length * length)

    def is_slow(self, sample: Sample) -> bool:
        return sample.seconds > self.limit * self.expected(sample.length)


def stratum_of(size: float) -> int:
    """Sizes of one stratum differ by less than a factor of two."""
    return int(math.log2(max(1.0, size)))


def usual_of(samples: Sequence[Sample], slower: float) -> Usual:
    """What at least one request says of its stratum. `slower`: times the usual that is not called slow yet."""
    at_none, by_length = _line(samples)
    line = Usual(len(samples), at_none, by_length, 1.0)
    ratios = sorted(one.seconds / line.expected(one.length) for one in samples)
    # The lowest of the ratios above which no more than a tenth of all lie, but for the doubt.
    above, count = 0, len(ratios)
    while above + 1 < count and highest_mean((above + 1) / count, count) <= SLOW_SHARE:
        above += 1
    return msgspec.structs.replace(line, limit=slower * ratios[count - 1 - above])


def highest_mean(mean: float, count: int, doubt: float = _DOUBT) -> float:
    """The mean that `count` values between 0 and 1 with this average have at most, but for `doubt`."""
    low, high = mean, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if count * _divergence(mean, middle) < -math.log(doubt) else (low, middle)
    return high


def _line(samples: Sequence[Sample]) -> tuple[float, float]:
    """Seconds at no length, and for each token; neither is below 0."""
    points = sorted((one.length, one.seconds) for one in samples)
    half = len(points) // 2
    pairs = zip(points[:half], points[len(points) - half :], strict=True)
    slopes = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in pairs if later[0] > earlier[0]]
    slope = max(0.0, _median(slopes)) if slopes else 0.0
    at_none = _median([seconds - slope * length for length, seconds in points])
    if at_none < 0:
        return 0.0, _median([seconds / max(1.0, length) for length, seconds in points])
    return at_none, slope


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler's, of two coins."""
    return sum(a * math.log(a / b) if b > 0 else math.inf for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)
