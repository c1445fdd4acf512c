"""Who sees which two answers next, and on which side; decided by hashes of a seed, so that nothing about it is kept.

Every stretch of the order holds each pair of variants once, so that all pairs are equally far whenever one stops. The
order is the same for all raters, who thereby judge the same comparisons first; the sides differ between raters, so that
a taste for the left adds nothing to either variant. Pure.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from roundhouse.rating.judgement import Comparison

__all__ = ["first_is_left", "ordered", "remaining", "shared"]


def ordered(comparisons: Iterable[Comparison], seed: int) -> list[Comparison]:
    """All of them in the order in which they are to be judged."""
    by_pair: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for one in comparisons:
        by_pair[one.pair].append(one)
    placed = []
    for pair, members in by_pair.items():
        members.sort(key=lambda one: _hash(seed, "question", *pair, one.question))
        placed += [(place, _hash(seed, "pair", *pair, str(place)), one) for place, one in enumerate(members)]
    return [one for _, _, one in sorted(placed, key=lambda entry: entry[:2])]


def first_is_left(comparison: Comparison, seed: int, rater: str) -> bool:
    """Depends on nothing that changes: what a rater sees after a restart is what was seen before."""
    return bool(_hash(seed, "side", rater, comparison.question, *comparison.pair) & 1)


def shared(comparison: Comparison, seed: int, overlap: float) -> bool:
    """Whether every rater is to judge it, which so large a share is; the others are judged once, by whoever comes."""
    return _hash(seed, "shared", comparison.question, *comparison.pair) < overlap * 2**64


def remaining(
    order: Sequence[Comparison], own: Collection[int], others: Collection[int], seed: int, overlap: float
) -> list[Comparison]:
    """What is left for a rater who has judged or skipped `own`, while other raters have judged `others`."""
    return [one for one in order if one.id not in own and (one.id not in others or shared(one, seed, overlap))]


def _hash(seed: int, *what: str) -> int:
    text = "\0".join((str(seed), *what))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
