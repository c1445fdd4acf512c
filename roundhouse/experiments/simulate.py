"""How often the rules of an experiment would be wrong, or right, on outcomes whose truth is known. Pure but for `rng`.

A block of outcomes is one binomial draw, so that thousands of experiments with many looks take seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from statistics import NormalDist

from roundhouse.experiments.estimate import Sums, difference

__all__ = ["Simulated", "interval_of_share", "simulate", "simulate_alike"]


@dataclass(frozen=True, slots=True)
class Simulated:
    """Of `experiments`, how many ended with each winner, and after how many units per arm those did on average."""

    experiments: int
    higher: int
    lower: int
    mean_units: float

    @property
    def decided(self) -> int:
        return self.higher + self.lower


def simulate(
    rng: Random,
    *,
    rates: tuple[float, float],
    experiments: int,
    most_units: int,
    look_every: int = 50,
    alpha: float = 0.05,
    planned: int = 500,
    least: int = 50,
) -> Simulated:
    """Two arms of binary outcomes, looked at after every `look_every` units of each, up to `most_units` of each."""
    tables = [_distribution(rate, look_every) for rate in rates]
    higher = lower = units = 0
    for _ in range(experiments):
        counts = [0, 0]
        for seen in range(look_every, most_units + 1, look_every):
            for arm, table in enumerate(tables):
                counts[arm] += bisect_left(table, rng.random())
            sign = _sign(counts, seen, alpha, planned) if seen >= least else 0
            if sign:
                higher, lower, units = higher + (sign > 0), lower + (sign < 0), units + seen
                break
    decided = higher + lower
    return Simulated(experiments, higher, lower, units / decided if decided else 0.0)


def simulate_alike(
    rng: Random,
    draw: Callable[[], float],
    *,
    share: float,
    experiments: int,
    most_units: int,
    look_every: int = 50,
    alpha: float = 0.05,
    planned: int = 500,
    least: int = 50,
) -> Simulated:
    """Two arms of values from one `draw`, the second with that `share` of units, looked at after every `look_every`
    units of both, up to `most_units`: whoever wins does so falsely. `mean_units` are of both arms.
    """
    higher = lower = units = 0
    for _ in range(experiments):
        arms = [Sums(binary=False), Sums(binary=False)]
        for seen in range(look_every, most_units + 1, look_every):
            drawn: tuple[list[float], list[float]] = ([], [])
            for _ in range(look_every):
                drawn[rng.random() < share].append(draw())
            arms = [arm + _sums(values) for arm, values in zip(arms, drawn, strict=True)]
            found = difference({"": arms[0]}, {"": arms[1]}, alpha, planned)
            if found is None or min(arm.units for arm in arms) < least:
                continue
            if sign := (found.interval.low > 0) - (found.interval.high < 0):
                higher, lower, units = higher + (sign > 0), lower + (sign < 0), units + seen
                break
    decided = higher + lower
    return Simulated(experiments, higher, lower, units / decided if decided else 0.0)


def interval_of_share(hits: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share, for one look."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = hits / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / total / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _sign(counts: list[int], each: int, alpha: float, planned: int) -> int:
    """1 = the second arm is higher, -1 = lower, 0 = not told apart; by the very estimate that real data get."""
    one, two = (Sums(units=each, m=each, y=c, mm=each, yy=c, my=c) for c in counts)
    found = difference({"": one}, {"": two}, alpha, planned)
    if found is None:
        return 0
    return (found.interval.low > 0) - (found.interval.high < 0)


def _sums(values: list[float]) -> Sums:
    n, total = len(values), math.fsum(values)
    return Sums(n, n, total, n, math.fsum(value * value for value in values), total, binary=False)


def _distribution(rate: float, n: int) -> list[float]:
    """Cumulative probabilities of 0..n successes; the last is 1."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + _power(rate, k) + _power(1 - rate, n - k)
        for k in range(n + 1)
    ]
    return [*list(accumulate(math.exp(log) for log in logs))[:-1], 1.0]


def _power(base: float, exponent: int) -> float:
    """The logarithm of base to the power of exponent, 0 to the power of 0 being 1."""
    if exponent == 0:
        return 0.0
    return exponent * math.log(base) if base > 0 else -math.inf
