"""The highest rate that keeps the SLOs: which rate to try next, and what the tries say together. Pure.

A rate keeps the SLOs if at least `attainment` of its requests keep all of them, without an error. Rates double until
one does not, then the gap is halved (geometrically) until it is narrow enough; the winner is tried once more with other
arrivals before it is believed. The interval of a share is Wilson's, with the number of requests lowered for what
neighbours have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

__all__ = ["Limit", "Search", "Trial", "Verdict", "conclude", "next_rate", "wilson"]


class Verdict(StrEnum):
    KEEPS = "keeps"
    BREAKS = "breaks"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Search:
    """Rates in requests a second. Begin at `start`, never above `most` or below `least`; stop when the gap is at most
    `resolution` (a share), or after `trials`.
    """

    attainment: float = 0.95
    start: float = 1.0
    least: float = 0.05
    most: float = 10_000.0
    resolution: float = 0.1
    trials: int = 16
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate that was driven. `kept` of `judged` requests kept all SLOs; `effective` is how many independent ones
    tell as much. `stopped`: so many had missed that the rest could not mend it. `degraded`: the generator was late.
    """

    rate: float
    judged: int
    kept: int
    effective: float
    stopped: bool = False
    degraded: str = ""

    @property
    def share(self) -> float:
        return self.kept / self.judged if self.judged else 0.0

    def passes(self, search: Search) -> bool:
        return not self.stopped and self.judged > 0 and self.share >= search.attainment

    def verdict(self, search: Search) -> Verdict:
        """What can be said surely enough. A trial that was stopped had failed, whatever would have come."""
        low, high = wilson(self.share, self.effective, search.confidence)
        if low >= search.attainment:
            return Verdict.KEEPS
        return Verdict.BREAKS if high < search.attainment else Verdict.UNSURE


@dataclass(frozen=True, slots=True)
class Limit:
    """`rate`: the highest that was seen to keep the SLOs, 0 = none was. The true one lies in [`low`, `high`]:
    from the highest that surely keeps them (0 = none) to the lowest that surely does not (None = none was found).
    """

    rate: float
    low: float
    high: float | None
    why: str


def wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """The score interval of a share of `n` (Wilson 1927)."""
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def next_rate(search: Search, trials: Sequence[Trial]) -> float | None:
    """The rate to drive now; None = it is over."""
    if len(trials) >= search.trials:
        return None
    if not trials:
        return min(max(search.start, search.least), search.most)
    passed, failed = _ends(search, trials)
    if passed is None:
        assert failed is not None
        return max(failed / 2, search.least) if failed > search.least else None
    if failed is None:
        if passed < search.most:
            return min(passed * 2, search.most)
    elif failed / passed > 1 + search.resolution:
        return math.sqrt(passed * failed)
    return passed if sum(trial.rate == passed for trial in trials) < 2 else None


def conclude(search: Search, trials: Sequence[Trial]) -> Limit:
    """What the trials say together."""
    passed, failed = _ends(search, trials)
    sure = [trial.rate for trial in trials if trial.verdict(search) is Verdict.KEEPS and trial.rate <= (passed or 0)]
    broken = [trial.rate for trial in trials if trial.verdict(search) is Verdict.BREAKS and trial.rate > (passed or 0)]
    if not passed:
        why = f"even {min(trial.rate for trial in trials):g} requests/s did not keep the SLOs"
    elif failed is None:
        why = f"{passed:g} requests/s, the most that was to be tried, keeps the SLOs" if passed >= search.most else (
            "the trials were used up before a rate failed")  # fmt: skip
    elif len(trials) >= search.trials and failed / passed > 1 + search.resolution:
        why = "the trials were used up before the gap was as narrow as asked"
    else:
        why = f"{failed:g} requests/s did not keep the SLOs"
    return Limit(passed or 0.0, max(sure, default=0.0), min(broken, default=None), why)


def _ends(search: Search, trials: Sequence[Trial]) -> tuple[float | None, float | None]:
    """The highest rate that passed below the lowest that failed in any of its trials, and that lowest."""
    failed = min((trial.rate for trial in trials if not trial.passes(search)), default=None)
    passed = [trial.rate for trial in trials if trial.passes(search) and (failed is None or trial.rate < failed)]
    return max(passed, default=None), failed
