"""The wait by formula is the wait that a discrete-event simulation of the same queue has."""

import heapq
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.resources.queueing import Load, replicas_for, wait_of

CUSTOMERS = 150_000


def _simulated(load: Load, replicas: int, gap: Callable[[], float], service: Callable[[], float]) -> list[float]:
    """Waits of customers in order of arrival before equal servers, the first tenth left out."""
    free, now, waits = [0.0] * (replicas * load.slots), 0.0, []
    for _ in range(CUSTOMERS):
        now += gap()
        start = max(now, heapq.heappop(free))
        heapq.heappush(free, start + service())
        waits.append(start - now)
    return sorted(waits[CUSTOMERS // 10 :])


def _gamma(rng: random.Random, mean: float, cv: float) -> Callable[[], float]:
    shape = 1 / cv**2
    return lambda: rng.gammavariate(shape, mean / shape)


@pytest.mark.parametrize(("rate", "slots", "replicas"), [(2.4, 1, 3), (3.0, 8, 3), (0.7, 1, 1)])
def test_poisson_arrivals_and_exponential_times_wait_as_erlang_c_says(rate: float, slots: int, replicas: int) -> None:
    """Mean, share of waiting and percentiles; the formula is exact here."""
    load, rng = Load(rate, 1.0 if slots == 1 else 1.4, slots), random.Random(5)
    waits = _simulated(load, replicas, lambda: rng.expovariate(load.rate), lambda: rng.expovariate(1 / load.service_s))
    wait = wait_of(load, replicas)
    assert sum(waits) / len(waits) == pytest.approx(wait.mean_s, rel=0.1)
    assert sum(one > 0 for one in waits) / len(waits) == pytest.approx(wait.waiting, rel=0.05)
    for share in (0.9, 0.95, 0.99):
        assert waits[int(share * len(waits))] == pytest.approx(wait.percentile_s(share), rel=0.12, abs=0.02)


@pytest.mark.parametrize(("arrival_cv", "service_cv"), [(1.0, 0.5), (1.0, 2.0), (1.5, 0.7)])
def test_other_distributions_wait_about_as_allen_and_cunneen_say(arrival_cv: float, service_cv: float) -> None:
    """The mean to a quarter, at the load where replicas are usually planned."""
    load, rng = Load(2.5, 1.0, 1, arrival_cv, service_cv), random.Random(6)
    waits = _simulated(load, 3, _gamma(rng, 1 / load.rate, arrival_cv), _gamma(rng, load.service_s, service_cv))
    assert sum(waits) / len(waits) == pytest.approx(wait_of(load, 3).mean_s, rel=0.25)


def test_the_replicas_for_an_objective_hold_it_in_a_simulation_and_one_less_does_not() -> None:
    load, rng = Load(10.0, 1.4, 4), random.Random(7)
    count = replicas_for(load, 0.5, 0.95)
    for replicas, holds in ((count, True), (count - 1, False)):
        waits = _simulated(
            load, replicas, lambda: rng.expovariate(load.rate), lambda: rng.expovariate(1 / load.service_s)
        )
        assert (waits[int(0.95 * len(waits))] <= 0.5) == holds


@given(
    rate=st.floats(0.01, 200),
    per_replica=st.floats(0.05, 50),
    slots=st.integers(1, 16),
    wait_s=st.floats(0.01, 10),
)
def test_no_fewer_replicas_would_do(rate: float, per_replica: float, slots: int, wait_s: float) -> None:
    """For any load the answer holds the limit, and one replica less does not."""
    load = Load(rate, per_replica, slots)
    count = replicas_for(load, wait_s, 0.95)
    assert wait_of(load, count).percentile_s(0.95) <= wait_s
    assert count == 1 or not wait_of(load, count - 1).percentile_s(0.95) <= wait_s


def test_too_few_replicas_wait_for_ever_and_no_requests_not_at_all() -> None:
    assert math.isinf(wait_of(Load(3, 1), 3).percentile_s(0.5))
    assert math.isinf(wait_of(Load(3, 1), 0).mean_s)
    assert wait_of(Load(0, 1), 0).mean_s == 0
    assert replicas_for(Load(0, 1), 0.0, 0.99) == 1


def test_a_rate_that_no_number_of_replicas_bears_is_refused() -> None:
    with pytest.raises(ValueError, match="over 100,000 slots"):
        replicas_for(Load(1e6, 1), 1, 0.95)
