"""All that can be said of a file of ratings, at any time. Reading it unblinds: it is for who does not rate any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from roundhouse.rating.agreement import Agreement, agreement
from roundhouse.rating.judgement import Judgement, counted
from roundhouse.rating.preference import Preference, Standing, preferences
from roundhouse.rating.store import Design, Store
from roundhouse.rating.strength import Strength, strengths

__all__ = ["Rater", "Status", "enough", "status_of"]


@dataclass(frozen=True, slots=True)
class Rater:
    """`left`: share of the left among verdicts that prefer a side; None = there are none. `median_s` of a verdict."""

    name: str
    judged: int
    skipped: int
    left: float | None
    median_s: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """`comparisons` to be judged, of which `judged` by anybody; `identical` pairs of answers were never shown.

    `strengths` None: fewer than three variants, or not all are connected by judgements.
    """

    design: Design
    variants: Sequence[str]
    comparisons: int
    judged: int
    identical: Mapping[tuple[str, str], int]
    preferences: Sequence[Preference]
    strengths: Sequence[Strength] | None
    raters: Sequence[Rater]
    agreement: Agreement | None
    notes: int

    @property
    def decided(self) -> bool:
        return all(one.standing is not Standing.OPEN for one in self.preferences)

    def as_dict(self) -> dict[str, Any]:
        return {
            "design": asdict(self.design),
            "variants": list(self.variants),
            "comparisons": self.comparisons,
            "judged": self.judged,
            "decided": self.decided,
            "pairs": [
                {**asdict(one), "identical": self.identical.get((one.first, one.second), 0)} for one in self.preferences
            ],
            "bradley_terry": None if self.strengths is None else [asdict(one) for one in self.strengths],
            "raters": [asdict(one) for one in self.raters],
            "agreement": None if self.agreement is None else _agreement(self.agreement),
            "notes": self.notes,
        }


def status_of(store: Store) -> Status:
    judgements, variants = store.judgements(), store.variants()
    said = counted(judgements)
    names = sorted({one.rater for one in judgements})
    return Status(
        store.design,
        variants,
        len(store.comparisons()),
        len(said),
        store.identical(),
        _preferences(store.design, variants, said),
        strengths(variants, judgements) if len(variants) > 2 else None,
        [_rater(name, [one for one in judgements if one.rater == name]) for name in names],
        agreement(judgements),
        sum(bool(one.note) for one in judgements),
    )


def enough(store: Store) -> bool:
    """Whether every pair is decided, so that one may stop; it does not say how."""
    told = _preferences(store.design, store.variants(), counted(store.judgements()))
    return all(one.standing is not Standing.OPEN for one in told)


def _preferences(design: Design, variants: Sequence[str], said: Sequence[Judgement]) -> list[Preference]:
    return preferences(variants, said, alpha=design.alpha, margin=design.margin)


def _rater(name: str, own: Sequence[Judgement]) -> Rater:
    judged = [one for one in own if one.outcome is not None]
    sides = Counter(
        one.left == (one.comparison.first if one.outcome.points else one.comparison.second)
        for one in judged
        if one.outcome is not None and one.outcome.points != 0.5
    )
    return Rater(
        name,
        len(judged),
        len(own) - len(judged),
        sides[True] / sides.total() if sides else None,
        median(one.seconds for one in judged) if judged else None,
    )


def _agreement(found: Agreement) -> dict[str, Any]:
    return {
        "same": found.same,
        "krippendorff_alpha": asdict(found.alpha),
        "cohen_kappa": [{"raters": list(pair), **asdict(one)} for pair, one in found.kappas.items()],
    }
