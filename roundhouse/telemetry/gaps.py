"""Time between the pieces of an answer, counted in fixed buckets: what a token costs is one search in 15 numbers."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["BOUNDS", "Gaps"]

# Upper bounds in seconds, inclusive; what is longer falls into a bucket without one.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)


class Gaps:
    """Of one answer: how many gaps fell into each bucket, and their sum in seconds."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total_s += seconds
