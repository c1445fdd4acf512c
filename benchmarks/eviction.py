"""Which model leaves when another needs its room: seconds spent on loading, against plain LRU and the offline optimum.

A simulation of `resources.placement` on made-up traces: no model is loaded. The optimum knows the whole trace; it is
found by dynamic programming over all sets of models that fit together.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report import Row
from roundhouse.resources.placement import Option, Place, Popularity, Resident, place

__all__ = ["run"]

_REQUESTS = 3000
_SEEDS = 5


@dataclass(frozen=True, slots=True)
class Model:
    """`size` in any unit of memory, `load_s` what loading takes."""

    size: int
    load_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Who is asked for when, in a memory of `room` units. `asked`: (seconds, model)."""

    models: Sequence[Model]
    room: int
    asked: Sequence[tuple[float, int]]


Policy = Callable[[Trace], float]


def run() -> list[Row]:
    rows = []
    for name, make in (
        ("popular by Zipf's law", _zipf),
        ("in bursts", _bursts),
        ("a day's change of favourites", _drift),
    ):
        ours = ratio_lru = ratio_best = 0.0
        for seed in range(_SEEDS):
            trace = make(random.Random(seed))
            spent, lru, best = _ours(trace), _lru(trace), _optimum(trace)
            ours += spent / _SEEDS
            ratio_lru += spent / lru / _SEEDS
            ratio_best += spent / best / _SEEDS
        rows.append(
            Row(
                f"evictions, models {name}",
                f"{ratio_lru:.2f} of LRU's seconds of loading, {ratio_best:.2f} times the optimum's",
                "less than LRU",
                ratio_lru < 1,
                f"{ours:.0f} s over {_REQUESTS} requests",
            )
        )
    return rows


def _models(chance: random.Random) -> list[Model]:
    """Sizes as local models have them; loading is reading, so it takes as long as they are large."""
    sizes = [chance.choice((2, 3, 4, 5, 8, 13)) for _ in range(10)]
    return [Model(size, 0.5 + 0.8 * size) for size in sizes]


def _zipf(chance: random.Random) -> Trace:
    models = _models(chance)
    weights = [1 / (rank + 1) for rank in range(len(models))]
    return _trace(models, chance, lambda now: chance.choices(range(len(models)), weights)[0])


def _bursts(chance: random.Random) -> Trace:
    """Somebody works with one model for a while, and with another afterwards."""
    models = _models(chance)
    current = [0]

    def ask(now: float) -> int:
        if chance.random() < 0.05:
            current[0] = chance.randrange(len(models))
        return current[0] if chance.random() < 0.8 else chance.randrange(len(models))

    return _trace(models, chance, ask)


def _drift(chance: random.Random) -> Trace:
    """Popularity by Zipf's law over an order that changes every two hours."""
    models = _models(chance)
    orders = [chance.sample(range(len(models)), len(models)) for _ in range(100)]
    weights = [1 / (rank + 1) ** 1.2 for rank in range(len(models))]
    return _trace(models, chance, lambda now: orders[int(now / 7200)][chance.choices(range(10), weights)[0]])


def _trace(models: Sequence[Model], chance: random.Random, ask: Callable[[float], int]) -> Trace:
    now, asked = 0.0, []
    for _ in range(_REQUESTS):
        now += chance.expovariate(1 / 15)
        asked.append((now, ask(now)))
    return Trace(models, max(sum(model.size for model in models) // 3, max(model.size for model in models)), asked)


def _ours(trace: Trace) -> float:
    popularity = [Popularity() for _ in trace.models]
    loaded: set[int] = set()
    spent = 0.0
    for now, wanted in trace.asked:
        popularity[wanted].used(now)
        if wanted in loaded:
            continue
        spent += trace.models[wanted].load_s
        room = trace.room - sum(trace.models[one].size for one in loaded)
        residents = [_resident(trace.models[one], str(one), popularity[one].rate(now)) for one in loaded]
        decision = place([Option({"cpu": trace.models[wanted].size})], residents, {"cpu": room})
        assert isinstance(decision, Place)
        loaded -= {int(key) for key in decision.leave}
        loaded.add(wanted)
    return spent


def _resident(model: Model, key: str, rate: float) -> Resident:
    return Resident(key, {"cpu": model.size}, rate=rate, reload_s=model.load_s)


def _lru(trace: Trace) -> float:
    loaded: dict[int, None] = {}
    spent = 0.0
    for _, wanted in trace.asked:
        if wanted in loaded:
            del loaded[wanted]
        else:
            spent += trace.models[wanted].load_s
            while sum(trace.models[one].size for one in loaded) + trace.models[wanted].size > trace.room:
                del loaded[next(iter(loaded))]
        loaded[wanted] = None
    return spent


def _optimum(trace: Trace) -> float:
    """Least seconds of loading of any policy: the cheapest way through all sets that fit, request by request."""
    count = len(trace.models)
    sets = np.arange(1 << count)
    sizes = sum(((sets >> number) & 1) * model.size for number, model in enumerate(trace.models))
    fits = sizes <= trace.room
    spent = np.where(sets == 0, 0.0, math.inf)
    for _, wanted in trace.asked:
        bit = 1 << wanted
        with_it = (sets & bit) > 0
        loading = np.full(len(sets), math.inf)
        loading[sets[with_it]] = spent[sets[with_it] ^ bit] + trace.models[wanted].load_s
        spent = np.minimum(np.where(with_it, spent, math.inf), loading)
        # Whoever is loaded may leave for nothing: a set costs no more than the sets that hold it.
        for number in _others(count, wanted):
            low = sets[(sets >> number) & 1 == 0]
            spent[low] = np.minimum(spent[low], spent[low | (1 << number)])
        spent = np.where(fits & with_it, spent, math.inf)
    return float(spent.min())


def _others(count: int, wanted: int) -> Iterator[int]:
    return (number for number in range(count) if number != wanted)
