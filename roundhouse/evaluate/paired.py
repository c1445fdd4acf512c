"""Two variants over the same questions: mean difference, interval, and a test that assumes no distribution. Pure.

Interval: percentile bootstrap over questions (Efron and Tibshirani 1993, chapter 13). Test: for truth values McNemar's
exact one, a sign test of the questions on which they differ; for others the sign-flip permutation test of the mean,
over all flips where there are few and over random ones where not, then p = (c + 1) / (N + 1) (Phipson and Smyth 2010).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from roundhouse.core.errors import MissingExtra

__all__ = ["Difference", "difference", "holm", "interval"]

_RESAMPLES = 10_000
# So many questions that differ can be flipped in every way.
_EXACT = 14
_CHUNK = 1 << 22
_SLACK = 1e-9
_Name = TypeVar("_Name")
_EXTRA = 'evaluation needs numpy: pip install "roundhouse[bench]"'


@dataclass(frozen=True, slots=True)
class Difference:
    """Of `n` pairs: mean of the second minus mean of the first, its interval, and p of a difference as large by chance.

    `higher`, `lower`: on how many questions the second is; `test` says which was used.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    higher: int
    lower: int
    test: str


def difference(first: Sequence[float], second: Sequence[float], confidence: float, seed: int) -> Difference:
    """`first` and `second` are values of the same questions, one at least. Raises `MissingExtra` without numpy."""
    # A scorer may give numbers of numpy, whose counts would overflow in the exact test.
    deltas = [float(b) - float(a) for a, b in zip(first, second, strict=True)]
    higher, lower = sum(one > 0 for one in deltas), sum(one < 0 for one in deltas)
    low, high = interval(deltas, confidence, seed)
    if {*first, *second} <= {0.0, 1.0}:
        test, p = "McNemar, exact", _sign_test(higher, higher + lower)
    else:
        test, p = _flipped([one for one in deltas if one], seed)
    return Difference(len(deltas), sum(deltas) / len(deltas), low, high, p, higher, lower, test)


def interval(values: Sequence[float], confidence: float, seed: int) -> tuple[float, float]:
    """Of the mean of `values`, one at least."""
    np = _numpy()
    chance, array = np.random.default_rng(seed), np.asarray(values, float)
    n, means = len(array), []
    at_once = max(1, _CHUNK // n)
    for start in range(0, _RESAMPLES, at_once):
        drawn = chance.integers(0, n, (min(at_once, _RESAMPLES - start), n))
        means.append(array[drawn].mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return float(low), float(high)


def holm(values: Mapping[_Name, float]) -> dict[_Name, float]:
    """p-values by name, corrected so that the chance of one false finding among all holds (Holm 1979)."""
    corrected: dict[_Name, float] = {}
    reached = 0.0
    for rank, (name, p) in enumerate(sorted(values.items(), key=lambda one: one[1])):
        reached = max(reached, min(1.0, (len(values) - rank) * p))
        corrected[name] = reached
    return corrected


def _sign_test(higher: int, differ: int) -> float:
    """Two-sided, of a fair coin thrown `differ` times."""
    if not differ:
        return 1.0
    few = min(higher, differ - higher)
    tail = sum(math.comb(differ, k) for k in range(few + 1))
    return float(min(1.0, 2 * tail / 2**differ))


def _flipped(deltas: Sequence[float], seed: int) -> tuple[str, float]:
    """Of the deltas that are not zero: flipping zeros changes no sum."""
    if not deltas:
        return "sign flips, exact", 1.0
    np = _numpy()
    array = np.asarray(deltas, float)
    seen = abs(array.sum()) * (1 - _SLACK)
    n = len(array)
    if n <= _EXACT:
        flips = 1 - 2 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)
        return "sign flips, exact", float((np.abs(flips @ array) >= seen).mean())
    chance, count = np.random.default_rng(seed), 0
    at_once = max(1, _CHUNK // n)
    for start in range(0, _RESAMPLES, at_once):
        flips = 1 - 2 * chance.integers(0, 2, (min(at_once, _RESAMPLES - start), n), dtype=np.int8)
        count += int((np.abs(flips @ array) >= seen).sum())
    return f"sign flips, {_RESAMPLES:,} drawn", (count + 1) / (_RESAMPLES + 1)


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise MissingExtra(_EXTRA, extra="bench") from error
    return numpy
