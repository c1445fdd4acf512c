"""The highest rate that keeps an SLO: the rule by itself, and against backends whose capacity is known."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.bench.arrivals import OpenLoop, Shape
from roundhouse.bench.binding import Load, Occupied, Resource, binding, loads
from roundhouse.bench.driver import Asked
from roundhouse.bench.mock import Timing, mock_process
from roundhouse.bench.probe import judged, probe
from roundhouse.bench.records import Record
from roundhouse.bench.run import Setup
from roundhouse.bench.sampling import Sample
from roundhouse.bench.search import Search, Trial, Verdict, conclude, next_rate, wilson
from roundhouse.core.chat import ChatRequest, Chunk
from tests.forge import run

LATE = {"ttft_sched": 0.2}


def searched(search: Search, capacity: float, n: int = 200) -> list[Trial]:
    """All trials of a backend that keeps the SLOs up to `capacity`, and no further."""
    trials: list[Trial] = []
    while (rate := next_rate(search, trials)) is not None:
        trials.append(Trial(rate, n, n if rate <= capacity else n // 2, n))
    return trials


@given(st.floats(0.06, 5000), st.floats(0.1, 1000))
def test_the_limit_is_found_within_the_resolution_and_tried_twice(capacity: float, start: float) -> None:
    search = Search(start=start, resolution=0.1, trials=60)
    trials = searched(search, capacity)
    limit = conclude(search, trials)
    assert limit.rate <= capacity <= limit.rate * 1.1 * (1 + 1e-9)
    assert limit.low == limit.rate
    assert limit.high is not None
    assert limit.high > capacity
    assert sum(trial.rate == limit.rate for trial in trials) == 2


def test_a_backend_that_keeps_nothing_or_everything_ends_the_search() -> None:
    nothing, everything = Search(least=0.5), Search(most=8)
    assert conclude(nothing, searched(nothing, 0.0)).rate == 0
    limit = conclude(everything, searched(everything, 1e9))
    assert (limit.rate, limit.high) == (8, None)
    assert len(searched(Search(trials=3), 1e9)) == 3


def test_a_winner_that_fails_when_it_is_tried_again_is_none() -> None:
    search = Search(start=1, resolution=0.5)
    trials = [Trial(1, 100, 100, 100), Trial(2, 100, 100, 100), Trial(4, 100, 10, 100)]
    trials.append(Trial(next_rate(search, trials) or 0, 100, 10, 100))
    assert trials[-1].rate == pytest.approx(8**0.5)
    assert next_rate(search, trials) == 2
    trials.append(Trial(2, 100, 50, 100))
    assert conclude(search, trials).rate == 1
    assert next_rate(search, trials) == pytest.approx(2**0.5)


def test_few_requests_leave_a_rate_unsure() -> None:
    """And so the interval is wider than what was seen."""
    search = Search()
    assert Trial(1, 20, 20, 20).verdict(search) is Verdict.UNSURE
    assert Trial(1, 400, 398, 400).verdict(search) is Verdict.KEEPS
    assert Trial(1, 400, 398, 20).verdict(search) is Verdict.UNSURE  # neighbours have much in common
    assert Trial(1, 400, 300, 400).verdict(search) is Verdict.BREAKS
    low, high = wilson(0.9, 100, 0.95)
    assert (low, high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))


def test_who_waits_longer_than_the_limit_has_missed_before_it_is_answered() -> None:
    records = [
        Record(0, 0.0, sent=0.01, first=0.1, end=0.2),
        Record(0, 1.0, sent=1.01),
        Record(0, 5.0),
        Record(0, 0.5, sent=0.5, end=0.6, error="timed_out"),
        Record(0, 1.4, sent=1.4, end=1.5, cut=True),
    ]
    assert judged(records, LATE, 1.1) == [True, False]
    assert judged(records, LATE, 1.5) == [True, False, False]


class OneAtATime:
    """A backend that needs 20 ms for each request and does one after another: 50 a second."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.asked = self.waiting = 0

    def __call__(self, request: ChatRequest) -> Asked:
        return Asked(self._answer())

    async def _answer(self) -> AsyncIterator[Chunk]:  # type: ignore[misc]
        self.asked += 1
        self.waiting += 1
        try:
            async with self.turn:
                await asyncio.sleep(0.02)
        finally:
            self.waiting -= 1
        yield Chunk("yes", finish_reason="stop")

    def occupied(self) -> Occupied:
        busy = int(self.waiting > 0)  # not the lock: between two requests it is free for a moment
        return Occupied(busy, 1, self.waiting - busy)


async def test_a_rate_far_beyond_the_capacity_is_stopped_early_and_the_full_slot_is_seen() -> None:
    backend = OneAtATime()
    setup = Setup([ChatRequest.of("q")], [], LATE, limit_s=2.0)
    found = await probe(backend, setup, OpenLoop(Shape.POISSON, 200, 400), Search(), backend.occupied, 0)
    assert found.trial.stopped
    assert backend.asked < 400
    assert found.trial.verdict(Search()) is Verdict.BREAKS
    assert found.load.slots is not None
    assert found.load.slots > 0.9


def test_what_was_full_is_named_with_its_numbers() -> None:
    def full(cores: float, memory: int, occupied: tuple[Occupied, ...] = ()) -> Load:
        samples = [Sample(float(at), 1.0, cores, 1, memory) for at in range(10)]
        return loads(samples, occupied, cores=2, ours=2, memory_bytes=100)

    compute, memory = binding(full(1.95, 50), ""), binding(full(1.95, 97), "")
    assert (compute.resource, memory.resource) == (Resource.COMPUTE, Resource.MEMORY)
    assert "processor 98%" in compute.evidence
    confined = loads([Sample(0.0, 1.9, 2.0, 1, 50)], (), cores=64, ours=2, memory_bytes=100)
    assert binding(confined, "").resource is Resource.COMPUTE  # a quota of two on a machine of 64
    slots = binding(full(0.5, 50, (Occupied(4, 4, 7),) * 10), "")
    assert slots.resource is Resource.SLOTS
    assert "slots 100% busy with 7 requests waiting" in slots.evidence
    assert binding(full(0.5, 50, (Occupied(1, 4, 0),) * 10), "").resource is Resource.UNKNOWN
    assert binding(Load(), "it was late").resource is Resource.GENERATOR
    busy = binding(full(1.95, 50), "it was late")  # what shares a full processor with an engine is late for that
    assert busy.resource is Resource.COMPUTE
    assert "it was late" in busy.evidence


async def test_the_command_finds_no_rate_for_a_backend_that_is_always_too_slow() -> None:
    async with mock_process(Timing(0.3, 0.0, 1)) as url:
        ended = await asyncio.to_thread(
            run,
            *("bench", "search", "--url", url, "--model", "m", "--json", "--slo", "ttft_sched=0.1", "--start", "40"),
            *("--seconds", "1", "--least", "20", "--trials", "2"),
        )
    told = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert told["limit"]["rate"] == 0
    assert [trial["kept"] for trial in told["trials"]] == [0, 0]
