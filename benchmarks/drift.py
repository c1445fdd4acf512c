"""Does the warning of a slower target keep quiet while only the mix of lengths changes, and find what is slower?

Simulated targets whose time to the first token grows with the prompt in one of four ways, and whose time per token is a
mean over few or many; beside it the same test on plain times, which takes all requests to be alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.report import Row
from roundhouse.telemetry.drift import TPOT, TTFT, Change, Rule, Series

__all__ = ["run"]

_RUNS = 10
_BEFORE, _AFTER = 1000, 2000
Draw = Callable[[Random], float]


@dataclass(frozen=True, slots=True)
class World:
    """`took` seconds for a length; the size by which requests are alike is that length."""

    metric: str
    took: Callable[[Random, float], float]


@dataclass(frozen=True, slots=True)
class Case:
    """Lengths before and after the change, and how many times as long everything takes after it."""

    before: Draw
    after: Draw
    slower: float = 1.0


def _around(tokens: float) -> Draw:
    return lambda random: float(int(random.lognormvariate(math.log(tokens), 0.5)))


def _both(share: float, short: Draw, long: Draw) -> Draw:
    return lambda random: short(random) if random.random() < share else long(random)


def _evenly(low: int, high: int) -> Draw:
    return lambda random: float(random.randint(low, high))


def _per_token(random: Random, tokens: float) -> float:
    """Of one that makes a pause of ten tokens now and then."""
    gaps = max(1, min(100, int(tokens)))
    return 0.02 * sum(random.lognormvariate(0, 0.4) * (10 if random.random() < 0.01 else 1) for _ in range(gaps)) / gaps


SHORT, LONG = _around(150), _around(1500)
WORLDS = (
    World(TTFT, lambda random, n: (0.03 + 5e-4 * n) * random.lognormvariate(0, 0.25)),
    World(TTFT, lambda random, n: (0.03 + 3e-4 * n + 1.5e-7 * n * n) * random.lognormvariate(0, 0.25)),
    World(TTFT, lambda random, n: (0.05 + 0.25 * math.ceil(n / 512)) * random.lognormvariate(0, 0.25)),
    World(TTFT, lambda random, n: random.expovariate(50) + 4e-4 * n * random.lognormvariate(0, 0.1) + 0.01),
    World(TPOT, _per_token),
)
SHIFTS = (
    Case(SHORT, LONG),
    Case(LONG, SHORT),
    Case(_both(0.9, SHORT, LONG), _both(0.1, SHORT, LONG)),
    Case(_evenly(260, 1000), _evenly(900, 1000)),
    Case(_evenly(260, 1000), _evenly(260, 300)),
    Case(_evenly(130, 150), _evenly(235, 255)),
    Case(_evenly(260, 300), _evenly(900, 1000)),
)
SLOWER = tuple(Case(draw, draw, 2.0) for draw in (SHORT, LONG, _both(0.9, SHORT, LONG)))


def run() -> list[Row]:
    corrected = {name: _tried(cases, corrected=True) for name, cases in (("shift", SHIFTS), ("slower", SLOWER))}
    plain = {name: _tried(cases, corrected=False) for name, cases in (("shift", SHIFTS), ("slower", SLOWER))}
    shifts, slower = len(corrected["shift"]), len(corrected["slower"])
    false = {name: sum(one is not None for one in found["shift"]) for name, found in
             (("corrected", corrected), ("plain", plain))}  # fmt: skip
    late = sorted(one for one in corrected["slower"] if one is not None)
    by_plain = sum(one is not None for one in plain["slower"])
    return [
        Row("warnings of a slower target though only the lengths changed", f"{false['corrected']} of {shifts}",
            "none", not false["corrected"], f"{false['plain']} of {shifts} by plain times"),
        Row("a target twice as slow is found", f"{len(late)} of {slower}, median after {late[len(late) // 2]} requests",
            "all", len(late) == slower, f"{by_plain} of {slower} by plain times"),
    ]  # fmt: skip


def _tried(cases: tuple[Case, ...], *, corrected: bool) -> list[int | None]:
    """For each case, world and seed after how many requests it warned, None = it did not."""
    return [_once(world, case, seed, corrected) for world in WORLDS for case in cases for seed in range(_RUNS)]


def _once(world: World, case: Case, seed: int, corrected: bool) -> int | None:
    random, series = Random(seed), Series(world.metric, Rule())

    def ask(draw: Draw, slower: float) -> Change | None:
        length = max(1.0, draw(random))
        took = slower * world.took(random, length)
        return series.add(took, length, length) if corrected else series.add(took)

    for _ in range(_BEFORE):
        if ask(case.before, 1.0) is Change.DRIFTED:
            return 0
    return next((number for number in range(1, _AFTER + 1) if ask(case.after, case.slower) is Change.DRIFTED), None)
