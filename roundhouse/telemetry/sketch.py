"""Percentiles of a stream of values in bounded memory: DDSketch (Masson, Rim, Lee, arXiv 1908.10693).

Values fall into bins whose bounds grow by a constant factor, so every quantile is within `accuracy` of the true value,
relative to it. When there are too many bins the lowest two become one: the slow end, which matters, stays exact.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Rolling", "Sketch"]

_LEAST = 1e-9
_SPAN_S = 60.0
_STEPS = 6


class Sketch:
    """Values >= 0. `accuracy` is relative; 2,048 bins of 1 % span from 80 microseconds to a year."""

    def __init__(self, accuracy: float = 0.01, most_bins: int = 2048) -> None:
        self._growth = (1 + accuracy) / (1 - accuracy)
        self._log_growth = math.log(self._growth)
        self._most_bins = most_bins
        self._bins: dict[int, int] = {}
        self.count = 0
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value; raises `ValueError` for a negative one or one that is no number."""
        if not 0 <= value < math.inf:
            raise ValueError(f"a value must be a finite number of at least 0, not {value}")
        place = math.ceil(math.log(max(value, _LEAST)) / self._log_growth)
        self._bins[place] = self._bins.get(place, 0) + 1
        self.count += 1
        self.sum += value
        if len(self._bins) > self._most_bins:
            lowest, second = sorted(self._bins)[:2]
            self._bins[second] += self._bins.pop(lowest)

    def quantile(self, share: float) -> float | None:
        """The value below which `share` (0 to 1) of all values lie, by inverse CDF; None if there is none."""
        if not self.count:
            return None
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for place in sorted(self._bins):
            seen += self._bins[place]
            if seen >= rank:
                return 2 * self._growth**place / (self._growth + 1)
        raise AssertionError("the bins hold as many values as were counted")

    def copy(self) -> Sketch:
        other = Sketch()
        other._growth, other._log_growth, other._most_bins = self._growth, self._log_growth, self._most_bins
        other._bins, other.count, other.sum = dict(self._bins), self.count, self.sum
        return other

    def since(self, earlier: Sketch) -> Sketch:
        """The values that were added after `earlier`, a copy of this, was made."""
        later = self.copy()
        for place, count in earlier._bins.items():
            left = later._bins.get(place, 0) - count
            later._bins[place] = max(0, left)  # less where the lowest bins were joined meanwhile
        later.count, later.sum = sum(later._bins.values()), max(0.0, self.sum - earlier.sum)
        return later


class Rolling:
    """All values, and those of about the last minute: as many as came since a copy made between 50 and 60 s ago.

    A value costs a comparison more than in a sketch; a copy is made once in ten seconds in which there are any.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.total = Sketch()
        self._marks: deque[tuple[float, Sketch]] = deque(maxlen=_STEPS)
        self._next_at = -math.inf

    def add(self, value: float) -> None:
        """Count one value; raises `ValueError` as a sketch does."""
        now = self._clock()
        if now >= self._next_at:
            self._marks.append((now, self.total.copy()))
            self._next_at = now + _SPAN_S / _STEPS
        self.total.add(value)

    def recent(self) -> Sketch:
        oldest = self._clock() - _SPAN_S
        mark = next((copy for at, copy in self._marks if at > oldest), None)
        return Sketch() if mark is None else self.total.since(mark)
