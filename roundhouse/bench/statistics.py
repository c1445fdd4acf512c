"""Percentiles with intervals that assume nothing about the distribution, and the refusal to give one from too little.

Percentiles are by inverse CDF: the smallest value whose cumulative share reaches q. The interval of a quantile is a
pair of order statistics whose ranks bracket Binomial(n, q) (David and Nagaraja, Order Statistics, section 7.1).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Quantile", "effective_size", "needed", "quantile"]

METHOD = "inverse CDF; interval by order statistics"


@dataclass(frozen=True, slots=True)
class Quantile:
    """`value` and its two-sided interval in the values' unit; all None where `n` is below `needed`."""

    share: float
    n: int
    needed: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


def needed(share: float, confidence: float = 0.95) -> int:
    """How many values an interval with equal tails needs: one of them must, surely enough, lie beyond the quantile."""
    return math.ceil(math.log((1 - confidence) / 2) / math.log(max(share, 1 - share)))


def quantile(values: Sequence[float], share: float, confidence: float = 0.95) -> Quantile:
    """The quantile at `share` (0 to 1, apart from both) of `values`, in any order, and its interval."""
    n, least = len(values), needed(share, confidence)
    if n < least:
        return Quantile(share, n, least)
    ordered = sorted(values)
    low, high = _ranks(n, share, confidence)
    return Quantile(share, n, least, ordered[max(1, math.ceil(share * n)) - 1], ordered[low - 1], ordered[high - 1])


def effective_size(values: Sequence[float]) -> float:
    """How many independent values tell as much as these, which follow each other in time: n (1 - r1) / (1 + r1)."""
    n = len(values)
    if n < 3:
        return float(n)
    mean = sum(values) / n
    spread = sum((value - mean) ** 2 for value in values)
    if not spread:
        return float(n)
    r1 = sum((a - mean) * (b - mean) for a, b in itertools.pairwise(values)) / spread
    r1 = min(max(r1, 0.0), 0.99)
    return n * (1 - r1) / (1 + r1)


def _ranks(n: int, share: float, confidence: float) -> tuple[int, int]:
    """The innermost ranks (from 1) that leave at most half of the rest to chance on each side."""
    tail = (1 - confidence) / 2
    cumulative = _binomial(n, share)
    low = bisect_right(cumulative, tail)
    high = bisect_left(cumulative, 1 - tail) + 1
    return max(1, low), min(n, high)


def _binomial(n: int, share: float) -> list[float]:
    """P(X <= k) for k = 0 to n of Binomial(n, share), summed from logarithms so that no n is too large."""
    whole = math.lgamma(n + 1)
    yes, no = math.log(share), math.log1p(-share)
    total, cumulative = 0.0, []
    for k in range(n + 1):
        total += math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * yes + (n - k) * no)
        cumulative.append(min(1.0, total))
    return cumulative
