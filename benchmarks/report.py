"""What a benchmark gives: rows of measured value and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Row", "percentile", "table"]


@dataclass(frozen=True, slots=True)
class Row:
    """`budget` in words; `within` None = a number without a budget. `against`: the direct call of the same run."""

    what: str
    measured: str
    budget: str = ""
    within: bool | None = None
    against: str = ""


def table(rows: Sequence[Row]) -> str:
    lines = ["| what | measured | direct, same run | budget | |", "|---|---|---|---|---|"]
    marks = {None: "", True: "held", False: "MISSED"}
    lines += [f"| {r.what} | {r.measured} | {r.against} | {r.budget} | {marks[r.within]} |" for r in rows]
    return "\n".join(lines)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value whose cumulative share reaches `share` (inverse CDF)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]
