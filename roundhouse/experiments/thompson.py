"""Shares of traffic by Thompson sampling: each arm gets about the probability that it is the best. Pure but for `rng`.

Thompson, "On the likelihood that one unknown probability exceeds another", Biometrika 25 (1933). Outcomes of 0 and 1:
the Beta posterior of a uniform prior. Means: Student's t around the sample mean, the posterior of a normal mean under
Jeffreys' prior. A unit that was seen often counts once, as in `estimate`.

Shares change only from one batch of units to the next. Within a batch they were fixed before its units came, and arms
are compared within batches (strata of `estimate`), so that intervals and e-values keep their promise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

from roundhouse.experiments.design import Goal
from roundhouse.experiments.estimate import Sums

__all__ = ["FLOOR", "shares"]

# No arm gets less, or what was unlucky at first could never show that it was only that.
FLOOR = 0.05
_DRAWS = 4_000
_LEAST_UNITS = 10


def shares(sums: Mapping[str, Sums], goal: Goal, rng: Random, *, draws: int = _DRAWS) -> dict[str, float]:
    """By arm, 1 in all; of so many `draws`. Equal until every arm has ten units."""
    arms = list(sums)
    if any(one.units < _LEAST_UNITS for one in sums.values()):
        return dict.fromkeys(arms, 1 / len(arms))
    floor = min(FLOOR, 0.5 / len(arms))
    sign = 1 if goal is Goal.HIGHER else -1
    binary = all(one.binary for one in sums.values())
    wins = dict.fromkeys(arms, 0)
    for _ in range(draws):
        wins[max(arms, key=lambda arm: sign * _draw(sums[arm], binary, rng))] += 1
    return {arm: floor + (1 - len(arms) * floor) * won / draws for arm, won in wins.items()}


def _draw(one: Sums, binary: bool, rng: Random) -> float:
    if binary:
        return rng.betavariate(1 + one.mean * one.units, 1 + (1 - one.mean) * one.units)
    mean, variance = one.adjusted(0.0)
    freedom = one.units - 1
    return mean + math.sqrt(variance) * rng.gauss(0, 1) / math.sqrt(rng.gammavariate(freedom / 2, 2 / freedom))
