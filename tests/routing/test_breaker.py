"""The breaker opens on failures of the backend alone, lets one probe through, and forgets what is of the past."""

from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roundhouse.routing.breaker import BREAKER, Breaker, BreakerPolicy, BreakerState

DOCS = Path(__file__).parents[2] / "docs" / "routing.md"
HALF = 0.5


def _fail(breaker: Breaker, times: int, now: float = 0.0, *, refused: bool = False) -> None:
    for _ in range(times):
        breaker.failed(breaker.begin(now), now, HALF, refused=refused)


def test_it_opens_at_five_failures_in_a_row() -> None:
    breaker = Breaker()
    _fail(breaker, 4)
    breaker.succeeded(breaker.begin(0), 0)
    _fail(breaker, 4)
    assert breaker.state is BreakerState.CLOSED
    _fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.admits(4.9)
    assert breaker.admits(5.0)


def test_it_opens_at_two_refused_connections() -> None:
    breaker = Breaker()
    _fail(breaker, 1, refused=True)
    _fail(breaker, 1)
    _fail(breaker, 1, refused=True)
    assert breaker.state is BreakerState.CLOSED
    _fail(breaker, 1, refused=True)
    assert breaker.state is BreakerState.OPEN


def test_it_opens_at_half_of_ten_within_thirty_seconds() -> None:
    breaker = Breaker()
    for second in range(9):
        generation = breaker.begin(second)
        if second % 2:
            breaker.failed(generation, second, HALF)
        else:
            breaker.succeeded(generation, second)
    assert breaker.state is BreakerState.CLOSED
    breaker.failed(breaker.begin(9), 9, HALF)
    assert breaker.state is BreakerState.OPEN


def test_failures_long_ago_do_not_count() -> None:
    breaker = Breaker()
    for minute in range(30):
        generation = breaker.begin(minute * 60)
        if minute % 2:
            breaker.failed(generation, minute * 60, HALF)
        else:
            breaker.succeeded(generation, minute * 60)
    assert breaker.state is BreakerState.CLOSED


def test_half_open_admits_one_probe_and_closes_after_two_successes() -> None:
    breaker = Breaker()
    _fail(breaker, 5)
    probe = breaker.begin(5)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.admits(5)
    breaker.succeeded(probe, 5)
    assert breaker.admits(5)
    breaker.succeeded(breaker.begin(5), 5)
    assert breaker.state is BreakerState.CLOSED


def test_a_failed_probe_opens_for_twice_as_long_up_to_two_minutes() -> None:
    breaker, now, pauses = Breaker(), 0.0, []
    _fail(breaker, 5)
    for _ in range(7):
        pauses.append(breaker.opens_at - now)
        now = breaker.opens_at
        _fail(breaker, 1, now)
    assert pauses == [5, 10, 20, 40, 80, 120, 120]


def test_an_abandoned_probe_lets_the_next_one_through() -> None:
    breaker = Breaker()
    _fail(breaker, 5)
    probe = breaker.begin(5)
    breaker.abandoned(probe)
    assert breaker.admits(5)


def test_a_late_result_of_an_older_generation_is_dropped() -> None:
    breaker = Breaker()
    late = breaker.begin(0)
    _fail(breaker, 5)
    breaker.succeeded(late, 1)
    assert breaker.state is BreakerState.OPEN
    probe = breaker.begin(5)
    breaker.failed(late, 5, HALF)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.succeeded(probe, 5)


def test_its_weight_rises_slowly_after_a_recovery() -> None:
    breaker = Breaker()
    assert breaker.weight(0) == 1
    _fail(breaker, 5)
    for _ in range(2):
        breaker.succeeded(breaker.begin(5), 5)
    assert [breaker.weight(at) for at in (5, 10, 15, 99)] == [0.1, 0.5, 1, 1]


def test_the_docs_show_the_table() -> None:
    assert BREAKER.diagram() in DOCS.read_text()


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: at most one probe, never admitted while open, always a way back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(BreakerPolicy(consecutive=3, probes=2))
        self.running: list[int] = []
        self.probes: list[int] = []

    @rule()
    def ask(self) -> None:
        if self.breaker.admits(self.now):
            before = self.breaker.state
            generation = self.breaker.begin(self.now)
            self.running.append(generation)
            if before is not BreakerState.CLOSED:
                self.probes.append(generation)

    @rule(data=st.data(), ok=st.sampled_from(["ok", "failed", "refused", "left"]))
    def end(self, data: st.DataObject, ok: str) -> None:
        if not self.running:
            return
        generation = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if generation in self.probes:
            self.probes.remove(generation)
        if ok == "ok":
            self.breaker.succeeded(generation, self.now)
        elif ok == "left":
            self.breaker.abandoned(generation)
        else:
            self.breaker.failed(generation, self.now, HALF, refused=ok == "refused")

    @rule(seconds=st.floats(0, 200))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def at_most_one_probe_of_this_generation_runs(self) -> None:
        assert self.probes.count(self.breaker.generation) <= 1

    @invariant()
    def there_is_a_way_back(self) -> None:
        """Once its probe has ended, it admits somebody within the longest pause."""
        if not self.probes.count(self.breaker.generation):
            assert self.breaker.admits(self.now + 133)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
