"""A file of ratings as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from roundhouse.rating.agreement import Coefficient
from roundhouse.rating.preference import Preference, Standing
from roundhouse.rating.status import Status

__all__ = ["agreed", "counted_raters", "lines", "measured", "said_of"]


def lines(status: Status) -> Iterator[str]:
    """The result first; then who said it, and how far they agree."""
    yield f"{status.judged} of {status.comparisons} comparisons judged, by {counted_raters(status)}"
    if status.identical:
        told = ", ".join(f"{one} and {two} {number}" for (one, two), number in status.identical.items())
        yield f"  not shown, for the answers were identical: {told}"
    for one in status.preferences:
        yield f"{one.first} against {one.second}: {said_of(one)}"
        neither = f"{one.ties} ties, {one.both_bad} both bad"
        yield f"  {one.wins} preferred {one.first}, {one.losses} preferred {one.second}; {neither}"
        share = one.share
        if one.wins + one.losses:
            yield (
                f"  of those with a preference {share.estimate:.1%} for {one.first} [{share.low:.1%}, {share.high:.1%}]"
                f"; e-value {one.evidence:.3g}, decided at {1 / one.alpha:.3g}"
            )
    yield from _strengths(status)
    for rater in status.raters:
        left = "" if rater.left is None else f", {rater.left:.0%} of preferences for the left"
        median = "" if rater.median_s is None else f", median {rater.median_s:.0f} s"
        yield f"{rater.name}: {rater.judged} judged, {rater.skipped} skipped{left}{median}"
    yield from agreed(status)
    if status.notes:
        yield f"{status.notes} notes; `roundhouse rate export` has them"
    if status.decided:
        yield "every pair is decided: one may stop"


def counted_raters(status: Status) -> str:
    return "1 rater" if len(status.raters) == 1 else f"{len(status.raters)} raters"


def said_of(one: Preference) -> str:
    """The standing of a pair with the names in it."""
    if one.standing is Standing.FIRST:
        return f"{one.first} is preferred"
    return f"{one.second} is preferred" if one.standing is Standing.SECOND else one.standing.value


def measured(one: Coefficient) -> str:
    if one.value is None:
        return f"undefined, all {one.n} are the same"
    interval = (
        f"too few for an interval (n {one.n})" if one.low is None else f"[{one.low:.2f}, {one.high:.2f}], n {one.n}"
    )
    return f"{one.value:.2f} {interval}"


def agreed(status: Status) -> Iterator[str]:
    """Agreement between raters, a line each."""
    if status.agreement is None:
        if len(status.raters) > 1:
            yield "no two raters have judged the same answers: agreement is unknown"
        return
    if status.agreement.same is not None:
        yield f"two raters say the same of {status.agreement.same:.0%} of what both judged"
    for (one, two), kappa in status.agreement.kappas.items():
        yield f"  Cohen's kappa, {one} and {two}: {measured(kappa)}"
    yield f"  Krippendorff's alpha: {measured(status.agreement.alpha)}"


def _strengths(status: Status) -> Iterator[str]:
    if len(status.variants) < 3:
        return
    if status.strengths is None:
        yield "no ranking yet: the judgements do not connect all variants"
        return
    yield "strength (Bradley-Terry with ties; 400 points are odds of ten to one; intervals of 95 %):"
    for one in status.strengths:
        yield f"  {one.variant}: {one.said}"
