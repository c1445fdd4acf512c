"""One replica more while they are full, one less when the others would do, and no swinging between the two."""

from hypothesis import given
from hypothesis import strategies as st

from roundhouse.routing.scaling import Scaler, ScalingPolicy

POLICY = ScalingPolicy(up_s=1.0, down_s=30.0, refused_s=10.0)


def _scaler() -> Scaler:
    return Scaler(1, 3, POLICY)


def test_a_moment_of_load_adds_nothing_and_a_second_does() -> None:
    scaler = _scaler()
    assert scaler.decide(0.0, running=1, slots=4, asked=9) == 1
    assert scaler.decide(0.5, running=1, slots=4, asked=0) == 1
    assert scaler.decide(1.2, running=1, slots=4, asked=9) == 1
    assert scaler.decide(2.2, running=1, slots=4, asked=9) == 2


def test_it_never_leaves_its_bounds() -> None:
    scaler = _scaler()
    assert [scaler.decide(float(now), running=3, slots=12, asked=99) for now in range(5)] == [3] * 5
    assert [scaler.decide(float(now), running=1, slots=4, asked=0) for now in range(100, 200)] == [1] * 100


def test_one_is_taken_away_after_a_while_in_which_the_others_would_have_done() -> None:
    scaler = _scaler()
    assert scaler.decide(0.0, running=2, slots=8, asked=2) == 2
    assert scaler.decide(29.0, running=2, slots=8, asked=2) == 2
    assert scaler.decide(30.0, running=2, slots=8, asked=2) == 1


def test_after_a_refusal_it_waits() -> None:
    scaler = _scaler()
    scaler.refused(0.0)
    assert [scaler.decide(float(now), running=1, slots=4, asked=9) for now in range(10)] == [1] * 10
    assert scaler.decide(10.0, running=1, slots=4, asked=9) == 2


@given(st.floats(0, 20))
def test_a_steady_load_settles(asked: float) -> None:
    """Whatever it is, after a while nothing changes any more."""
    scaler, running, changes = _scaler(), 1, []
    for tick in range(4000):
        now = tick * 0.25
        wanted = scaler.decide(now, running=running, slots=4 * running, asked=int(asked))
        if wanted != running:
            changes.append(now)
            running = wanted
    assert len(changes) <= 2
