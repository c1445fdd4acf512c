"""Statistics that stay valid however often one looks, in the standard library alone. Pure.

Sources: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics 52 (2024), theorem 2.2 and section B.2 (the mixture's parameter); Lindon, Malek,
"Anytime-valid inference for multinomial count data", NeurIPS 2022 (sample ratio); Robbins, "Statistical methods related
to the law of the iterated logarithm" (1970), the normal mixture behind both. For preferences, Ville's inequality on
the uniform mixture of binomial likelihoods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

__all__ = [
    "Interval",
    "evidence",
    "half_width",
    "mixture",
    "preference_evidence",
    "ratio_evidence",
    "units_for",
    "units_per_arm",
]

_LARGEST_LOG = 700.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds within which it is, at all times together, with probability 1 - alpha."""

    estimate: float
    low: float
    high: float


@lru_cache(maxsize=1024)
def mixture(alpha: float, planned: int) -> float:
    """The parameter by which the interval of level `alpha` is narrowest after `planned` units.

    Solves y - ln y = 1 - 2 ln alpha, the lower branch of Lambert's W, by iteration; y - 1 = parameter x units.
    """
    y = 1 - 2 * math.log(alpha)
    for _ in range(100):
        y = 1 - 2 * math.log(alpha) + math.log(y)
    return (y - 1) / planned


def half_width(variance: float, units: int, alpha: float, rho2: float) -> float:
    """Of the confidence sequence for a mean of `units` values, each of `variance`, both sides together at `alpha`."""
    spread = units * rho2 + 1
    return math.sqrt(variance * 2 * spread / (units * units * rho2) * math.log(math.sqrt(spread) / alpha))


def evidence(estimate: float, variance: float, units: int, rho2: float) -> float:
    """The e-value against a mean of 0: above 1/alpha exactly where the confidence sequence leaves 0 out.

    Its inverse is an always-valid p-value.
    """
    if variance <= 0:
        return 1.0
    spread = units * rho2 + 1
    log = rho2 * (units * estimate) ** 2 / (2 * variance * spread) - math.log(spread) / 2
    return math.exp(min(log, _LARGEST_LOG))


def ratio_evidence(counts: Mapping[str, int], shares: Mapping[str, float], weight: float = 100.0) -> float:
    """The e-value against "units fall to the arms by these shares": 1,000 and more is a mismatch.

    A Dirichlet prior around the shares, as heavy as `weight` units; exact at every moment.
    """
    total = sum(counts.values())
    log = math.lgamma(weight) - math.lgamma(weight + total)
    for arm, share in shares.items():
        count = counts.get(arm, 0)
        if share <= 0:
            if count:
                return math.inf
            continue
        log += math.lgamma(weight * share + count) - math.lgamma(weight * share) - count * math.log(share)
    return math.exp(min(log, _LARGEST_LOG))


def preference_evidence(wins: int, losses: int) -> float:
    """The e-value against "each of two is preferred as often", ties left out: Beta(w + 1, l + 1) x 2^n."""
    n = wins + losses
    log = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2) + n * math.log(2)
    return math.exp(min(log, _LARGEST_LOG))


def units_per_arm(base: float, other: float, alpha: float, power: float) -> tuple[int, int]:
    """Units of each of two arms that tell rates `base` and `other` apart, as `units_for` says.

    Raises `ValueError` for equal rates or ones outside [0, 1].
    """
    if not (0 <= base <= 1 and 0 <= other <= 1):
        raise ValueError("rates lie between 0 and 1")
    if base == other:
        raise ValueError("the two rates are the same; no number of units tells them apart")
    return units_for(other - base, base * (1 - base) + other * (1 - other), alpha, power)


def units_for(difference: float, variance: float, alpha: float, power: float) -> tuple[int, int]:
    """Units of each of two arms that tell means apart by `difference` with `power`: with one look at the end, and with
    looks at any time. `variance`: of one unit of each arm, added.

    The second is where the difference exceeds the half width by the normal quantile of `power`. Raises `ValueError`
    for no difference.
    """
    if difference == 0:
        raise ValueError("no difference is found by no number of units")
    normal, difference = NormalDist(), abs(difference)
    z_alpha, z_power = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)
    once = math.ceil((z_alpha + z_power) ** 2 * max(variance, 1e-9) / difference**2)

    def enough(each: int) -> bool:
        # The difference of two means of `each` has the variance of a mean of 2 x each values of 2 x variance.
        rho2 = mixture(alpha, 2 * each)
        needed = half_width(2 * variance, 2 * each, alpha, rho2) + z_power * math.sqrt(variance / each)
        return difference >= needed

    low, high = 1, max(2, once)
    while not enough(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return once, high
