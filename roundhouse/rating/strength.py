"""How strong each of several variants is, by paired comparisons with ties. Pure.

Davidson, "On extending the Bradley-Terry model to accommodate ties in paired comparison experiments", JASA 65 (1970):
with strengths p and q, the first wins, neither wins, the second wins in the proportion p : nu sqrt(p q) : q. Fitted by
minorisation and maximisation (Hunter, "MM algorithms for generalized Bradley-Terry models", Annals of Statistics 32,
2004), where sqrt(p q) is bounded above by the inequality of means. Half a win either way is added to each pair that was
compared, so that a variant which always wins has a finite strength. Told as Elo's points: 400 log10, 1000 on average.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from roundhouse.rating.judgement import Judgement

__all__ = ["Strength", "fit", "strengths"]

_DRAWS = 500
_SEED = 12345
_STEPS = 10_000
_CLOSE = 1e-9
_CLOSE_DRAWN = 1e-5
_PRIOR = 0.5
# Of fewer questions a bootstrap knows so few kinds that its intervals may have no width at all.
_LEAST = 10

# (first, second) -> wins of the first, wins of the second, ties; in whole judgements or parts of them.
Counts = Mapping[tuple[str, str], Sequence[float]]
# All that was said of one question: pairs, and which of the three.
Group = tuple[tuple[tuple[str, str], int], ...]


@dataclass(frozen=True, slots=True)
class Strength:
    """Points of one variant, and a bootstrap interval of 95 % at this moment; None = over fewer than ten questions."""

    variant: str
    points: float
    low: float | None
    high: float | None

    @property
    def said(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.points:.0f}, too few questions for an interval"
        return f"{self.points:.0f} [{self.low:.0f}, {self.high:.0f}]"


def strengths(variants: Sequence[str], judgements: Iterable[Judgement]) -> list[Strength] | None:
    """The strongest first; every judgement counts, one question's together. None = the judgements do not connect all
    `variants`, so that some cannot be compared.
    """
    by_question: dict[str, list[tuple[tuple[str, str], int]]] = defaultdict(list)
    for one in judgements:
        if one.outcome is not None:
            kind = {1.0: 0, 0.0: 1}.get(one.outcome.points, 2)
            by_question[one.comparison.question].append((one.comparison.pair, kind))
    groups = [tuple(sorted(group)) for group in by_question.values()]
    counts = _counts(Counter(groups))
    if not _connected(variants, counts):
        return None
    logs, tie = fit(variants, counts)
    drawn = _resampled(variants, groups, counts, (logs, tie)) if len(groups) >= _LEAST else {}
    found = [_strength(variant, logs[variant], sorted(drawn.get(variant, ()))) for variant in variants]
    return sorted(found, key=lambda one: -one.points)


def _resampled(
    variants: Sequence[str], groups: Sequence[Group], counts: Counts, start: tuple[Mapping[str, float], float]
) -> dict[str, list[float]]:
    """Points by variant of so many draws of questions."""
    chance = Random(_SEED)  # noqa: S311 - a bootstrap
    drawn: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(_DRAWS):
        # A pair that was compared keeps its prior even where the draw leaves it out, and so the variants connected.
        resampled = _counts(Counter(chance.choices(groups, k=len(groups))), counts)
        for variant, log in fit(variants, resampled, start=start, close=_CLOSE_DRAWN)[0].items():
            drawn[variant].append(_points(log))
    return drawn


def fit(
    variants: Sequence[str],
    counts: Counts,
    *,
    start: tuple[Mapping[str, float], float] | None = None,
    close: float = _CLOSE,
) -> tuple[dict[str, float], float]:
    """Natural logarithms of the strengths, 0 on average, and nu; `counts` as they are, without a prior added."""
    worth = {one: math.exp(start[0][one]) if start else 1.0 for one in variants}
    nu = start[1] if start else 1.0
    ties = sum(tied for _, _, tied in counts.values())
    nu = nu if ties else 0.0
    credit = dict.fromkeys(variants, 0.0)
    for (one, two), (wins, losses, tied) in counts.items():
        credit[one] += wins + tied / 2
        credit[two] += losses + tied / 2
    for _ in range(_STEPS):
        moved, worth, nu = _step(worth, nu, counts, credit, ties)
        if moved < close:
            break
    return {one: math.log(value) for one, value in worth.items()}, nu


def _step(
    worth: Mapping[str, float], nu: float, counts: Counts, credit: Mapping[str, float], ties: float
) -> tuple[float, dict[str, float], float]:
    """How far the logarithms moved, and the next strengths and nu; neither ever lowers the likelihood."""
    weight = dict.fromkeys(worth, 0.0)
    for (one, two), told in counts.items():
        ratio = math.sqrt(worth[two] / worth[one])
        share = sum(told) / (worth[one] + worth[two] + nu * worth[one] * ratio)
        weight[one] += share * (1 + nu * ratio / 2)
        weight[two] += share * (1 + nu / ratio / 2)
    raw = {one: credit[one] / weight[one] if weight[one] else value for one, value in worth.items()}
    mean = sum(math.log(value) for value in raw.values()) / len(raw)
    new = {one: value / math.exp(mean) for one, value in raw.items()}
    moved = max(abs(math.log(new[one] / worth[one])) for one in new)
    if ties:
        spread = 0.0
        for (one, two), told in counts.items():
            root = math.sqrt(new[one] * new[two])
            spread += sum(told) * root / (new[one] + new[two] + nu * root)
        moved, nu = max(moved, abs(math.log(ties / spread / nu))), ties / spread
    return moved, new, nu


def _counts(
    groups: Mapping[Group, int], compared: Iterable[tuple[str, str]] = ()
) -> dict[tuple[str, str], list[float]]:
    """Over questions by how many there are of each kind; with the prior."""
    counts: dict[tuple[str, str], list[float]] = {pair: [_PRIOR, _PRIOR, 0.0] for pair in compared}
    for group, times in groups.items():
        for pair, kind in group:
            counts.setdefault(pair, [_PRIOR, _PRIOR, 0.0])[kind] += times
    return counts


def _connected(variants: Sequence[str], counts: Counts) -> bool:
    reached, waiting = set(variants[:1]), list(variants[:1])
    while waiting:
        here = waiting.pop()
        for pair in counts:
            if here in pair:
                new = {*pair} - reached
                reached |= new
                waiting += new
    return reached == set(variants)


def _strength(variant: str, log: float, drawn: Sequence[float]) -> Strength:
    if not drawn:
        return Strength(variant, _points(log), None, None)
    return Strength(variant, _points(log), drawn[int(0.025 * len(drawn))], drawn[int(0.975 * len(drawn))])


def _points(log: float) -> float:
    return 1000 + 400 / math.log(10) * log
