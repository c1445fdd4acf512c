"""How far raters agree beyond chance: Cohen's kappa for two, Krippendorff's alpha for any number and gaps. Pure.

Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20 (1960);
Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), nominal metric. The intervals are percentiles of a
bootstrap over questions, since judgements of one question's answers are alike (Efron, Tibshirani, "An introduction to
the bootstrap", 1993, chapter 13). Both are undefined where all judgements are the same: there is no chance to beat.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from roundhouse.rating.judgement import Judgement

__all__ = ["Agreement", "Coefficient", "agreement", "kappa", "krippendorff"]

_DRAWS = 1000
_SEED = 12345
_LEAST = 10

# What a rater can say, as the points of the first variant: it, neither, the second.
_VALUES = (1.0, 0.5, 0.0)
# One comparison: what each rater said of it.
Unit = Mapping[str, float]
# What a coefficient needs to know of comparisons; that of several is the sum.
Sums = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Coefficient:
    """`value` None: undefined. `low` and `high` None: fewer than ten comparisons, too few for an interval of 95 %."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """`kappas` by two raters' names; `alpha` over all; `same`: share of comparisons that two raters judge alike."""

    raters: tuple[str, ...]
    kappas: Mapping[tuple[str, str], Coefficient]
    alpha: Coefficient
    same: float | None


def agreement(judgements: Iterable[Judgement]) -> Agreement | None:
    """On three values: the first is preferred, the second, neither. None = no comparison was judged by two raters."""
    by_comparison: dict[int, dict[str, float]] = defaultdict(dict)
    question: dict[int, str] = {}
    for one in judgements:
        if one.outcome is not None:
            by_comparison[one.comparison.id][one.rater] = one.outcome.points
            question[one.comparison.id] = one.comparison.question
    clusters: dict[str, list[Unit]] = defaultdict(list)
    for number, said in by_comparison.items():
        if len(said) > 1:
            clusters[question[number]].append(said)
    if not clusters:
        return None
    units = [unit for cluster in clusters.values() for unit in cluster]
    raters = sorted({rater for unit in units for rater in unit})
    same = [x == y for unit in units for x, y in combinations(unit.values(), 2)]
    return Agreement(
        tuple(raters),
        {(a, b): found for a, b in combinations(raters, 2) if (found := _kappa(list(clusters.values()), a, b)).n},
        _with_interval([[_coincidences(unit) for unit in cluster] for cluster in clusters.values()], _alpha_of),
        sum(same) / len(same),
    )


def kappa(pairs: Sequence[tuple[float, float]]) -> float | None:
    """(observed - expected) / (1 - expected) agreement of two raters; each pair is one comparison."""
    return _kappa_of(_sum(map(_cell, pairs)))


def krippendorff(units: Sequence[Unit]) -> float | None:
    """1 - observed / expected disagreement, from coincidences; units that one rater alone judged are left out."""
    values = sorted({value for unit in units for value in unit.values()})
    return _alpha_of(_sum(_coincidences(unit, values) for unit in units if len(unit) > 1))


def _kappa(clusters: Sequence[Sequence[Unit]], a: str, b: str) -> Coefficient:
    both = [[_cell((unit[a], unit[b])) for unit in cluster if a in unit and b in unit] for cluster in clusters]
    return _with_interval([cluster for cluster in both if cluster], _kappa_of)


def _cell(pair: tuple[float, float]) -> Sums:
    """Of the table of both raters' values, row by row."""
    return tuple(float(pair == (one, other)) for one in _VALUES for other in _VALUES)


def _kappa_of(table: Sums) -> float | None:
    n = sum(table)
    if not n:
        return None
    size = len(_VALUES)
    rows = [sum(table[size * at : size * at + size]) for at in range(size)]
    columns = [sum(table[at::size]) for at in range(size)]
    observed = sum(table[:: size + 1]) / n
    expected = sum(row * column for row, column in zip(rows, columns, strict=True)) / n**2
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def _coincidences(unit: Unit, values: Sequence[float] = _VALUES) -> Sums:
    """How often each value was said, and the disagreement within the unit."""
    said = Counter(unit.values())
    apart = sum(count * (len(unit) - count) for count in said.values()) / (len(unit) - 1)
    return (*(float(said[value]) for value in values), apart)


def _alpha_of(sums: Sums) -> float | None:
    *counts, observed = sums or (0.0, 0.0)
    n = sum(counts)
    expected = sum(count * (n - count) for count in counts)
    return 1 - (n - 1) * observed / expected if expected else None


def _with_interval(clusters: Sequence[Sequence[Sums]], coefficient: Callable[[Sums], float | None]) -> Coefficient:
    n, sums = sum(map(len, clusters)), [_sum(cluster) for cluster in clusters]
    value = coefficient(_sum(sums))
    if value is None or n < _LEAST:
        return Coefficient(value, None, None, n)
    chance = Random(_SEED)  # noqa: S311 - a bootstrap
    drawn = []
    for _ in range(_DRAWS):
        # Few questions differ in what was said of them, so that equal ones are counted and not added one by one.
        times = Counter(chance.choices(sums, k=len(sums)))
        found = coefficient(_sum(tuple(count * one for one in sum_) for sum_, count in times.items()))
        if found is not None:
            drawn.append(found)
    drawn.sort()
    return Coefficient(value, drawn[int(0.025 * len(drawn))], drawn[int(0.975 * len(drawn))], n)


def _sum(parts: Iterable[Sums]) -> Sums:
    return tuple(map(sum, zip(*parts, strict=True)))
