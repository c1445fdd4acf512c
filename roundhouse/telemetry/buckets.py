"""Values counted in fixed buckets: what one costs is a search in some fifteen numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["BETWEEN_TOKENS", "Buckets", "Gaps"]

# Upper bounds in seconds, inclusive; what is longer falls into a bucket without one.
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)


class Buckets:
    """How many values fell into each bucket, and their sum. `bounds` are inclusive; the last bucket has none."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, other: Buckets) -> None:
        """Add what was counted by the same bounds."""
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Gaps(Buckets):
    """Seconds between the pieces of one answer."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(BETWEEN_TOKENS)
