"""Which of two variants people prefer, by a test that may be looked at after every judgement. Pure.

Let each judgement that prefers one go to the first variant with probability p. The uniform mixture over p of the
likelihood, divided by the likelihood at p, is a martingale under p with the mean 1: by Ville's inequality it ever
reaches 1/alpha with probability at most alpha. All p at which it has not are a confidence sequence, exact at every n;
at p = 1/2 it is the e-value of `experiments.sequential.preference_evidence`. (Robbins, "Statistical methods related to
the law of the iterated logarithm", 1970.) Ties are left out of the test and told beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from roundhouse.experiments.sequential import Interval, preference_evidence
from roundhouse.rating.judgement import Judgement, Outcome

__all__ = ["Preference", "Standing", "preferences", "share_interval"]

_STEPS = 60


class Standing(StrEnum):
    """What the judgements of a pair allow to say."""

    FIRST = "the first is preferred"
    SECOND = "the second is preferred"
    EQUIVALENT = "no difference beyond the margin"
    OPEN = "not known yet"


@dataclass(frozen=True, slots=True)
class Preference:
    """Of one pair of variants. `share`: of the first among the judgements that prefer one; its interval is at `alpha`.

    `alpha` is the level of this pair: that of all pairs together, divided by their number (Bonferroni).
    """

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    share: Interval
    evidence: float
    alpha: float
    standing: Standing

    @property
    def judged(self) -> int:
        return self.wins + self.losses + self.ties + self.both_bad


def preferences(
    variants: Sequence[str], judgements: Iterable[Judgement], *, alpha: float, margin: float
) -> list[Preference]:
    """One for each pair of `variants`; `judgements` are independent of each other: one for each comparison.

    `margin`: a share within 1/2 +- margin counts as no difference; 0 = there is always one.
    """
    told = Counter((one.comparison.pair, one.outcome) for one in judgements)
    pairs = list(combinations(sorted(variants), 2))
    return [_preference(pair, told, alpha / len(pairs), margin) for pair in pairs]


def share_interval(wins: int, losses: int, alpha: float) -> Interval:
    """The confidence sequence for the first's share, at its present state; (0, 1) before any judgement."""
    n = wins + losses
    if not n:
        return Interval(0.5, 0.0, 1.0)
    beta = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(n + 2)
    limit, best = math.log(1 / alpha), wins / n

    def outside(p: float) -> bool:
        if (p <= 0 and wins) or (p >= 1 and losses):
            return True
        likelihood = (wins * math.log(p) if wins else 0.0) + (losses * math.log1p(-p) if losses else 0.0)
        return beta - likelihood >= limit

    def edge(inside: float, end: float) -> float:
        if not outside(end):
            return end
        for _ in range(_STEPS):
            middle = (inside + end) / 2
            inside, end = (inside, middle) if outside(middle) else (middle, end)
        return end

    return Interval(best, edge(best, 0.0), edge(best, 1.0))


def _preference(
    pair: tuple[str, str], told: Counter[tuple[tuple[str, str], Outcome | None]], alpha: float, margin: float
) -> Preference:
    wins, losses, ties, bad = (
        told[pair, one] for one in (Outcome.FIRST, Outcome.SECOND, Outcome.TIE, Outcome.BOTH_BAD)
    )
    share = share_interval(wins, losses, alpha)
    evidence = preference_evidence(wins, losses)
    standing = _standing(share, evidence, alpha, margin)
    return Preference(*pair, wins, losses, ties, bad, share, evidence, alpha, standing)


def _standing(share: Interval, evidence: float, alpha: float, margin: float) -> Standing:
    if evidence >= 1 / alpha:
        return Standing.FIRST if share.estimate > 0.5 else Standing.SECOND
    if share.low > 0.5 - margin and share.high < 0.5 + margin:
        return Standing.EQUIVALENT
    return Standing.OPEN
