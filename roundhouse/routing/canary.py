"""Is the new target worse than the old one? Decided while requests come in, at any moment, without peeking errors.
Pure.

Two questions are asked of every finished request: did it fail, and was it slow, that is later with its first token than
a limit fixed when the canary began. For each an e-process compares the two arms: blocks of requests of both arms are
bet on "the new one does it more often", and under "it does not" the wealth is a nonnegative supermartingale, so that it
exceeds 1/alpha with a probability of at most alpha, whenever one looks.

Source: Turner, Ly, Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional
stopping",
Journal of Statistical Planning and Inference 230 (2024), sections 2 and 3; the alternative is learned from the past.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Arm", "Canary", "Excess", "Outcome", "slow_limit_s"]

# Both questions together are answered wrongly at most this often.
ALPHA = 0.05
# A first token is slow if it takes this many times what nine of ten took before, and this much longer at the least.
_SLOWER = 1.5
_LEAST_S = 0.05
_MOST_PER_BLOCK = 200


class Arm(Enum):
    OLD = "old"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request showed of the arm that it was sent to first."""

    failed: bool
    first_token_s: float = 0.0


@dataclass(slots=True)
class Excess:
    """An e-process against "the new arm's rate is at most the old one's". `wealth` is its logarithm to base e."""

    wealth: float = 0.0
    seen: dict[Arm, list[int]] = field(default_factory=lambda: {arm: [0, 0] for arm in Arm})
    _block: dict[Arm, list[bool]] = field(default_factory=lambda: {arm: [] for arm in Arm})

    def observe(self, arm: Arm, happened: bool) -> None:
        """A block is complete as soon as both arms have given something; the bet on it was fixed before it began."""
        block = self._block
        block[arm].append(happened)
        if len(block[arm]) > _MOST_PER_BLOCK:  # the other arm is silent; what is dropped depends on no outcome
            block[arm].pop(0)
        if block[Arm.OLD] and block[Arm.NEW]:
            self.wealth += self._gain()
            for one in Arm:
                self.seen[one][0] += sum(block[one])
                self.seen[one][1] += len(block[one])
                block[one].clear()

    @property
    def evidence(self) -> float:
        """How many times likelier the data became by assuming that the new arm is worse."""
        return math.exp(min(self.wealth, 700.0))

    def _gain(self) -> float:
        """The logarithm of the e-variable of this block."""
        old, new = self._rate(Arm.OLD), self._rate(Arm.NEW)
        if new <= old:
            return 0.0  # nothing speaks for the alternative yet: no bet
        sizes = {arm: len(self._block[arm]) for arm in Arm}
        shared = (sizes[Arm.OLD] * old + sizes[Arm.NEW] * new) / sum(sizes.values())
        return sum(
            math.log((rate if happened else 1 - rate) / (shared if happened else 1 - shared))
            for arm, rate in ((Arm.OLD, old), (Arm.NEW, new))
            for happened in self._block[arm]
        )

    def _rate(self, arm: Arm) -> float:
        """From the blocks before this one; at first the new arm is taken to be a little worse, so that a bet is
        made.
        """
        happened, total = self.seen[arm]
        prior = 0.5 if arm is Arm.NEW else 0.18
        return (happened + prior) / (total + 1)


@dataclass(slots=True)
class Canary:
    """`percent` of the requests go to the new target for `for_s`. Slow is a first token after `slow_s`, 0 = not
    asked.
    """

    percent: float
    for_s: float
    slow_s: float = 0.0
    failures: Excess = field(default_factory=Excess)
    slowness: Excess = field(default_factory=Excess)
    counts: dict[Arm, int] = field(default_factory=lambda: dict.fromkeys(Arm, 0))

    def arm(self, chance: float) -> Arm:
        """For one request, by a number in [0, 1)."""
        return Arm.NEW if 100 * chance < self.percent else Arm.OLD

    def observe(self, arm: Arm, outcome: Outcome) -> None:
        self.counts[arm] += 1
        self.failures.observe(arm, outcome.failed)
        if self.slow_s and not outcome.failed:
            self.slowness.observe(arm, outcome.first_token_s > self.slow_s)

    @property
    def verdict(self) -> str:
        """Why the new target must go; empty = nothing speaks against it so far."""
        least = (2 if self.slow_s else 1) / ALPHA
        if self.failures.evidence >= least:
            return f"it fails more often than the old target ({_said(self.failures)})"
        if self.slow_s and self.slowness.evidence >= least:
            return f"its first token comes later than {self.slow_s:.3g} s more often ({_said(self.slowness)})"
        return ""


def slow_limit_s(first_tokens_s: list[float]) -> float:
    """The limit beyond which a first token is slow, from what the old target showed before; 0 = too little is known."""
    if len(first_tokens_s) < 20:
        return 0.0
    usual = sorted(first_tokens_s)[int(0.9 * len(first_tokens_s))]
    return max(_SLOWER * usual, usual + _LEAST_S)


def _said(excess: Excess) -> str:
    new, old = excess.seen[Arm.NEW], excess.seen[Arm.OLD]
    return f"{new[0]} of {new[1]} requests, the old one {old[0]} of {old[1]}"
