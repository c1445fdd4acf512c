"""Who serves: never one with an objection while another has none, never nobody while somebody is left."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.routing.scheduler import Candidate, Exhausted, Full, Serve, Wait, choose


def _one(key: str = "a", free: int = 1, **more: object) -> Candidate:
    return Candidate(key, free, **more)  # type: ignore[arg-type]


def test_the_first_tier_that_can_serve_serves() -> None:
    open_one = _one("a", objection="open", routable_in_s=3)
    assert choose([[open_one], [_one("b")], [_one("c")]], chance=0) == Serve("b")
    assert choose([[_one("a", free=0)], [_one("b")]], chance=0) == Wait()


def test_a_full_queue_overflows_to_the_next_tier() -> None:
    busy = _one("a", free=0)
    assert choose([[busy], [_one("b")]], chance=0, queue_full=True) == Serve("b")
    assert choose([[busy], [_one("b", free=0)]], chance=0, queue_full=True) == Full()


def test_the_last_target_is_asked_although_its_breaker_is_open() -> None:
    soon, later = _one("a", objection="open", routable_in_s=3), _one("b", objection="open", routable_in_s=9)
    assert choose([[later], [soon]], chance=0) == Serve("a", forced=True)


def test_a_state_that_passes_in_time_is_waited_for() -> None:
    loading = _one(objection="loading", routable_in_s=0.5, passes=True)
    assert choose([[loading]], chance=0, patience_s=10) == Wait(0.5)
    assert choose([[loading]], chance=0, patience_s=0.1) == Exhausted()
    broken = _one("b", objection="open", routable_in_s=3)
    assert choose([[loading], [broken]], chance=0, patience_s=0.1) == Serve("b", forced=True)


def test_nobody_left_is_said() -> None:
    assert choose([[_one(unfit="it was tried")]], chance=0) == Exhausted()
    assert choose([], chance=0) == Exhausted()


@pytest.mark.parametrize(
    ("a", "b", "better"),
    [
        ({"busy": 2}, {"busy": 1}, "b"),
        ({"busy": 2, "speed": 100.0}, {"busy": 1, "speed": 20.0}, "a"),
        ({"busy": 1, "holds_prefix": True}, {"busy": 0}, "a"),
        ({"busy": 2, "holds_prefix": True}, {"busy": 0}, "b"),
        ({"busy": 0, "weight": 0.1}, {"busy": 3}, "b"),
        ({"busy": 0, "warm": False}, {"busy": 3}, "b"),
        ({"busy": 1, "speed": 50.0}, {"busy": 0}, "b"),
    ],
)
def test_among_equals_the_least_work_for_its_speed(a: dict[str, object], b: dict[str, object], better: str) -> None:
    tier = [_one("a", 9, **a), _one("b", 9, **b)]
    assert choose([tier], chance=0.3) == Serve(better)


def test_ties_are_shared() -> None:
    tier = [_one(key) for key in "abc"]
    chosen = Counter(choose([tier], chance=share / 300) for share in range(300))
    assert chosen == {Serve(key): 100 for key in "abc"}


CANDIDATES = st.lists(
    st.lists(
        st.builds(
            Candidate,
            st.sampled_from("abcdefgh"),
            free=st.integers(0, 2),
            busy=st.integers(0, 5),
            unfit=st.sampled_from(["", "", "tried"]),
            objection=st.sampled_from(["", "", "open"]),
            routable_in_s=st.floats(0, 100),
            passes=st.booleans(),
            speed=st.floats(0, 1000),
            weight=st.floats(0.1, 1),
        ),
        max_size=3,
    ),
    max_size=3,
)


@given(CANDIDATES, st.floats(0, 1, exclude_max=True), st.booleans(), st.floats(0, 100))
def test_what_always_holds(tiers: list[list[Candidate]], chance: float, queue_full: bool, patience_s: float) -> None:
    everyone = [one for tier in tiers for one in tier]
    fit = [one for one in everyone if not one.unfit]
    unobjected = [one for one in fit if not one.objection]
    decision = choose(tiers, chance=chance, queue_full=queue_full, patience_s=patience_s)
    match decision:
        case Serve(key, forced):
            chosen = [one for one in fit if one.key == key and one.free > 0]
            assert chosen
            assert forced == (not unobjected)
            assert any(not one.passes if forced else not one.objection for one in chosen)
        case Wait(again_in_s):
            assert fit
            assert not queue_full
            assert again_in_s is None or again_in_s <= max(0.01, patience_s)
        case Full():
            assert queue_full
            assert fit
        case Exhausted():
            assert all(one.objection and one.passes for one in fit)


def test_a_second_try_comes_after_every_fresh_one_and_before_any_with_an_objection() -> None:
    tried, fresh = _one("a", again=True), _one("b")
    limited = _one("c", objection="rate limited", routable_in_s=30, passes=True)
    assert choose([[tried], [fresh], [limited]], chance=0, patience_s=99) == Serve("b")
    assert choose([[limited], [tried]], chance=0, patience_s=99) == Serve("a")
