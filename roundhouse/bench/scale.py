"""Axes: which round values stand at them, how they are written, and where a value lies between the ends. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scale", "decades", "ticks", "written"]

_LEAST_LOG = 1e-9
_UNITS = ((1e12, " T"), (1e9, " G"), (1e6, " M"))
_FAR = 100


@dataclass(frozen=True, slots=True)
class Scale:
    """From the first of `ticks` to the last, by the values or by their logarithms."""

    ticks: Sequence[float]
    log: bool = False

    @classmethod
    def over(cls, low: float, high: float, *, log: bool = False) -> Scale:
        """One on which `low` and `high` have their places."""
        if log:
            low = max(low, _LEAST_LOG)
            return cls(decades(low, max(high, low)), log=True)
        return cls(ticks(low, high))

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the first tick, 1 at the last; what is outside is at the end it is beyond."""
        low, high = self.ticks[0], self.ticks[-1]
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, _LEAST_LOG))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values from at most `low` to at least `high`."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        high = low + (abs(low) or 1.0)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten from at most `low` to at least `high`; with 2 and 5 between them where they are few."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    step = math.ceil((last - first) / 7)
    if last - first > 2:
        return [10.0**power for power in range(first, last + step, step)]
    found = [factor * 10.0**power for power in range(first, last) for factor in (1, 2, 5)] + [10.0**last]
    begin = max(at for at, value in enumerate(found) if value <= low * (1 + 1e-9))
    end = min(at for at, value in enumerate(found) if value >= high * (1 - 1e-9))
    return found[begin : max(end, begin + 1) + 1]


def written(values: Sequence[float]) -> list[tuple[float, str]]:
    """Each with its text: all of one unit with the decimals that the finest needs; over decades each by itself."""
    if max(map(abs, values)) > _FAR * min((abs(value) for value in values if value), default=1.0):
        return [(value, _alone(value)) for value in values]
    size, unit = _unit(max(map(abs, values)))
    decimals = max(_decimals(value / size) for value in values)
    return [(value, f"{value / size:,.{decimals}f}{unit}" if value else "0") for value in values]


def _alone(value: float) -> str:
    size, unit = _unit(abs(value))
    return f"{value / size:,.{_decimals(value / size)}f}{unit}"


def _unit(most: float) -> tuple[float, str]:
    return next(((size, unit) for size, unit in _UNITS if most >= size), (1.0, ""))


def _decimals(value: float) -> int:
    return next((places for places in range(9) if abs(round(value, places) - value) <= 1e-9 * abs(value)), 9)
