"""Is B faster or slower than A, or the same, or can it not be told: a verdict for each metric.

What requests of a round tell is bootstrapped by blocks of such as followed each other, for they are alike (Kuensch
1989), as long as suits their autocorrelation (Politis, White 2004, for AR(1)). What rounds differ by is estimated from
the rounds, with Student's t, for there are few: resampling two rounds would call one change in six that is none. The
wider of the two intervals counts.

Error rates: Newcombe's interval of a difference (1998, method 10), with fewer requests where failures come together.

Quality is compared question by question: the interval of a difference of paired shares is that of Agresti and Min 2005
(half a pair added to each cell), which keeps its width when no question was answered differently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import TYPE_CHECKING

from roundhouse.bench.records import Record
from roundhouse.bench.results import Point, Results
from roundhouse.bench.search import wilson
from roundhouse.bench.statistics import effective_size
from roundhouse.bench.summary import in_window, values_of
from roundhouse.core.errors import InvalidRequest, MissingExtra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Row", "Verdict", "compare", "markdown"]

METRICS = ("ttft_sched", "ttft", "e2e_sched", "e2e", "tpot")
SHARES = (0.5, 0.95)
_DRAWS = 2000
_LEAST = 20
_CELLS = 4_000_000  # of a batch of resamples: 32 MB
_LEAST_S = 1e-12
_ERROR_MARGIN = 0.01
_SHARES_OF_1 = ("error_rate", "exact_match")


class Verdict(StrEnum):
    """What can be said of B beside A."""

    FASTER = "faster"
    SLOWER = "slower"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    BETTER = "better"
    WORSE = "worse"


@dataclass(frozen=True, slots=True)
class Row:
    """One metric under one load. `change`: of B against A, 0.1 = 10 % more; with its interval.

    For error rates and exact matches `a`, `b` and the change are shares of 1 (a difference, no ratio); else `a` and `b`
    are seconds.
    """

    load: str
    metric: str
    a: float
    b: float
    change: float
    low: float
    high: float
    verdict: Verdict


def compare(
    a: Results,
    b: Results,
    *,
    margin: float = 0.05,
    quality_margin: float = 0.02,
    confidence: float = 0.95,
    seed: int = 12345,
) -> tuple[list[Row], list[str]]:
    """A row for each metric of each load that both have, and what a reader should know besides.

    Within `margin` is the same; of exact matches within `quality_margin`, as a share of 1. Raises `InvalidRequest` if
    they have no load in common, `MissingExtra` without numpy.
    """
    chance = _generator(seed)
    ours, theirs = _by_load(a), _by_load(b)
    shared = [load for load in ours if load in theirs]
    if not shared:
        said = f"the runs have no load in common: {', '.join(ours)} against {', '.join(theirs)}"
        raise InvalidRequest(said, param="results")
    rows: list[Row] = []
    for load in shared:
        rows += _latencies(load, ours[load], theirs[load], margin, confidence, chance)
        rows.append(_errors(load, ours[load], theirs[load], confidence))
        rows += _quality(load, ours[load], theirs[load], quality_margin, confidence)
    return rows, _notes(a, b, [*ours.values(), *theirs.values()])


def markdown(rows: Sequence[Row], notes: Sequence[str], names: tuple[str, str]) -> str:
    """A table for a comment on a change."""
    lines = [f"| load | metric | {names[0]} | {names[1]} | change | verdict |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row.load} | {row.metric} | {_said(row, row.a)} | {_said(row, row.b)} | {_change(row)} | "
                     f"{row.verdict.value} |")  # fmt: skip
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def _said(row: Row, value: float) -> str:
    return f"{value * 100:.2f} %" if row.metric in _SHARES_OF_1 else f"{value * 1000:.1f} ms"


def _change(row: Row) -> str:
    unit = "points" if row.metric in _SHARES_OF_1 else "%"
    return f"{row.change * 100:+.1f} {unit} [{row.low * 100:+.1f}, {row.high * 100:+.1f}]"


def _generator(seed: int) -> np.random.Generator:
    try:
        import numpy as np
    except ImportError as error:
        raise MissingExtra('comparing needs numpy: pip install "roundhouse[bench]"', extra="bench") from error
    return np.random.default_rng(seed)


def _by_load(results: Results) -> Mapping[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in results.points:
        found.setdefault(point.load, []).append(point)
    return found


def _latencies(
    load: str,
    ours: Sequence[Point],
    theirs: Sequence[Point],
    margin: float,
    confidence: float,
    chance: np.random.Generator,
) -> list[Row]:
    import numpy as np

    rows = []
    for metric in METRICS:
        sides = [[np.asarray(values) for point in points if (values := _values(point, metric))]
                 for points in (ours, theirs)]  # fmt: skip
        if any(sum(len(values) for values in side) < _LEAST for side in sides):
            continue
        drawn = [_draws(side, chance) for side in sides]
        for number, share in enumerate(SHARES):
            a, b = (float(_at(np.sort(np.concatenate(side))[None], share)[0]) for side in sides)
            if a <= 0 or b <= 0:
                continue
            within = np.log(np.maximum(drawn[1][number], _LEAST_S) / np.maximum(drawn[0][number], _LEAST_S))
            low, high = np.quantile(within, [(1 - confidence) / 2, (1 + confidence) / 2])
            half = _between(sides, share, confidence)
            ends = (min(low, math.log(b / a) - half), max(high, math.log(b / a) + half))
            low, high = (float(np.expm1(end)) for end in ends)
            verdict = _verdict(b / a - 1, low, high, margin, (Verdict.FASTER, Verdict.SLOWER))
            rows.append(Row(load, f"{metric}.p{share * 100:g}", a, b, b / a - 1, low, high, verdict))
    return rows


def _between(sides: Sequence[Sequence[NDArray[np.float64]]], share: float, confidence: float) -> float:
    """Half the width of the interval of a log ratio by what rounds differ; 0 where a side has but one."""
    import numpy as np

    if any(len(side) < 2 for side in sides):
        return 0.0
    logs = [[math.log(max(_LEAST_S, float(_at(np.sort(one)[None], share)[0]))) for one in side] for side in sides]
    freedom = sum(len(side) - 1 for side in logs)
    pooled = sum(float(np.var(side)) * len(side) for side in logs) / freedom
    return student(confidence, freedom) * math.sqrt(pooled * sum(1 / len(side) for side in logs))


def student(confidence: float, freedom: int) -> float:
    """The t that a variable of so many degrees of freedom stays below, up or down, with that probability.

    With t = sqrt(freedom) tan(angle), the density of the angle is proportional to cos(angle)^(freedom - 1).
    """
    import numpy as np

    angles = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    shares = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(confidence, shares / shares[-1], angles)))


def _values(point: Point, metric: str) -> list[float]:
    return values_of(in_window(point.records, point.window), metric)


def _draws(rounds: Sequence[NDArray[np.float64]], chance: np.random.Generator) -> NDArray[np.float64]:
    """The quantiles at `SHARES`, a row each, of so many resamples of every round by blocks that may begin anywhere."""
    import numpy as np

    batch = max(1, _CELLS // sum(map(len, rounds)))
    lengths = [_block_length(values) for values in rounds]
    found = []
    for begun in range(0, _DRAWS, batch):
        count = min(batch, _DRAWS - begun)
        picked = np.concatenate(
            [values[_blocks(len(values), length, count, chance)]
             for values, length in zip(rounds, lengths, strict=True)], axis=1,
        )  # fmt: skip
        picked.sort(axis=1)
        found.append(np.stack([_at(picked, share) for share in SHARES]))
    return np.concatenate(found, axis=-1)


def _block_length(values: NDArray[np.float64]) -> int:
    """That which estimates a variance best where neighbours correlate by r, and those k apart by r^k."""
    n = len(values)
    effective = effective_size(values.tolist())
    r = (n - effective) / (n + effective)  # that effective size's own
    best: float = (1.5 * (2 * r / (1 - r * r)) ** 2 * n) ** (1 / 3)
    return max(1, min(math.ceil(best), n // 4))


def _blocks(n: int, length: int, count: int, chance: np.random.Generator) -> NDArray[np.int64]:
    """For each of `count` resamples the places of its `n` values."""
    import numpy as np

    begins = chance.integers(0, n, (count, -(-n // length), 1))
    places: NDArray[np.int64] = ((begins + np.arange(length)) % n).reshape(count, -1)[:, :n]
    return places


def _at(ordered: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The quantile of each sorted row, by inverse CDF."""
    found: NDArray[np.float64] = ordered[:, max(0, math.ceil(share * ordered.shape[1] - 1e-9) - 1)]
    return found


def _errors(load: str, ours: Sequence[Point], theirs: Sequence[Point], confidence: float) -> Row:
    """The difference of error rates; a difference is said when its interval leaves out 0."""
    (a, n), (b, m) = (_failed(points) for points in (ours, theirs))
    (a_low, a_high), (b_low, b_high) = wilson(a, n, confidence), wilson(b, m, confidence)
    low = b - a - math.hypot(b - b_low, a_high - a)
    high = b - a + math.hypot(b_high - b, a - a_low)
    verdict = _verdict(b - a, low, high, _ERROR_MARGIN, (Verdict.BETTER, Verdict.WORSE))
    if low > 0 or high < 0:  # failures count however few they are
        verdict = Verdict.WORSE if low > 0 else Verdict.BETTER
    return Row(load, "error_rate", a, b, b - a, low, high, verdict)


def _failed(points: Sequence[Point]) -> tuple[float, float]:
    """The share of requests that failed, and how many independent ones tell as much."""
    rounds = [[float(bool(record.error)) for record in _finished(point)] for point in points]
    total = sum(map(len, rounds))
    return sum(map(sum, rounds)) / total if total else 0.0, sum(effective_size(one) for one in rounds)


def _quality(load: str, ours: Sequence[Point], theirs: Sequence[Point], margin: float, confidence: float) -> list[Row]:
    """The difference of exact matches over the questions that both runs answered; empty = there are too few."""
    right = [_right(points) for points in (ours, theirs)]
    shared = sorted(right[0].keys() & right[1].keys())
    if len(shared) < _LEAST:
        return []
    n = len(shared)
    lost = sum(right[0][item] and not right[1][item] for item in shared)
    won = sum(right[1][item] and not right[0][item] for item in shared)
    a, b = (sum(side[item] for item in shared) / n for side in right)
    middle = (won - lost) / (n + 2)
    spread = math.sqrt(max(0.0, won + lost + 1 - (won - lost) ** 2 / (n + 2))) / (n + 2)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * spread
    low, high = middle - half, middle + half
    # More is better here, so the verdict is asked for the loss.
    verdict = _verdict(a - b, -high, -low, margin, (Verdict.BETTER, Verdict.WORSE))
    return [Row(load, "exact_match", a, b, b - a, low, high, verdict)]


def _right(points: Sequence[Point]) -> dict[int, bool]:
    """For each question whether at least half of its answers were right."""
    answers: dict[int, list[float]] = {}
    for point in points:
        for record in in_window(point.records, point.window):
            if record.right is not None:
                answers.setdefault(record.item, []).append(record.right)
    return {item: sum(values) >= len(values) / 2 for item, values in answers.items()}


def _finished(point: Point) -> list[Record]:
    return [record for record in in_window(point.records, point.window) if not record.cut]


def _verdict(change: float, low: float, high: float, margin: float, names: tuple[Verdict, Verdict]) -> Verdict:
    """Less is better. A change inside the margin is none, however surely it is there."""
    if -margin <= low and high <= margin:
        return Verdict.EQUIVALENT
    if low > 0 and change > margin:
        return names[1]
    if high < 0 and change < -margin:
        return names[0]
    return Verdict.INCONCLUSIVE


def _notes(a: Results, b: Results, points: Sequence[Sequence[Point]]) -> list[str]:
    notes = []
    if any(len(repeats) < 2 for repeats in points):
        notes.append("one round each: what differs between rounds is not in the intervals; use `--repeat`")
    notes += [f"{one.label}: {point.summary.degraded}" for one in (a, b) for point in one.points
              if point.summary.degraded]  # fmt: skip
    if a.machine != b.machine:
        notes.append("the runs were made on different machines")
    different = sorted(key for key in {*a.settings, *b.settings} if a.settings.get(key) != b.settings.get(key))
    if different:
        notes.append(f"the runs differ in {', '.join(different)}")
    return notes
