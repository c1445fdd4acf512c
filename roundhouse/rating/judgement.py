"""What a rater can say of two answers, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Comparison", "Judgement", "Outcome", "Verdict", "counted", "outcome"]


class Verdict(StrEnum):
    """As the page sends it: of what stood on the left and on the right."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both bad"
    SKIP = "skip"


class Outcome(StrEnum):
    """What it says of the comparison's first and second variant. A skip is no outcome."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    BOTH_BAD = "both bad"

    @property
    def points(self) -> float:
        """Of the first variant: 1 for its win, 0 for a loss, a half if neither was preferred."""
        return {"first": 1.0, "second": 0.0}.get(self.value, 0.5)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two variants' answers to one question. `first` sorts before `second`; where each stands is another matter."""

    id: int
    question: str
    first: str
    second: str

    @property
    def pair(self) -> tuple[str, str]:
        return self.first, self.second


@dataclass(frozen=True, slots=True)
class Judgement:
    """`outcome` None = skipped. `left`: the variant that stood there. `seconds` in sight before the verdict; `at` in
    UNIX time.
    """

    id: int
    comparison: Comparison
    rater: str
    outcome: Outcome | None
    left: str
    note: str
    seconds: float
    at: float


def outcome(verdict: Verdict, *, first_is_left: bool) -> Outcome | None:
    """What a verdict about sides says of the variants."""
    if verdict is Verdict.LEFT:
        return Outcome.FIRST if first_is_left else Outcome.SECOND
    if verdict is Verdict.RIGHT:
        return Outcome.SECOND if first_is_left else Outcome.FIRST
    return None if verdict is Verdict.SKIP else Outcome(verdict.value)


def counted(judgements: Iterable[Judgement]) -> list[Judgement]:
    """The first judgement of each comparison: what later raters say of the same two answers is no new evidence.

    `judgements` in the order in which they were made. Skips are left out.
    """
    seen: dict[int, Judgement] = {}
    for one in judgements:
        if one.outcome is not None:
            seen.setdefault(one.comparison.id, one)
    return list(seen.values())
