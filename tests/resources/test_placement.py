"""Who goes where and who must leave: never a busy, kept or new one, never more than needed, the cheapest first."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.resources.placement import Never, Option, Place, Popularity, Resident, WaitFor, place, room_in

PLACES = ("cpu", "cuda0")
sizes = st.integers(0, 20)
residents = st.lists(
    st.builds(
        Resident,
        key=st.uuids().map(str),
        held=st.fixed_dictionaries(dict.fromkeys(PLACES, sizes)),
        busy=st.booleans(),
        kept=st.booleans(),
        rate=st.floats(0, 10),
        reload_s=st.floats(0.1, 60),
        resident_s=st.floats(0, 200),
    ),
    max_size=6,
    unique_by=lambda one: one.key,
)
options = st.lists(
    st.builds(Option, st.fixed_dictionaries(dict.fromkeys(PLACES, sizes)), st.booleans()), min_size=1, max_size=3
)
rooms = st.fixed_dictionaries({name: st.integers(-5, 30) for name in PLACES})


def _fits(option: Option, room: dict[str, int], leaving: list[Resident]) -> bool:
    return all(
        size == 0 or size <= room[name] + sum(one.held[name] for one in leaving) for name, size in option.needs.items()
    )


def _cost(leaving: list[Resident]) -> float:
    return sum(one.rate * one.reload_s for one in leaving)


@given(options, residents, rooms)
def test_whatever_is_decided_fits_and_nobody_leaves_who_may_not(
    options: list[Option], residents: list[Resident], room: dict[str, int]
) -> None:
    by_key = {one.key: one for one in residents}
    match place(options, residents, room):
        case Place(number, leave):
            leaving = [by_key[key] for key in leave]
            assert _fits(options[number], room, leaving)
            assert not any(one.busy or one.kept or one.owed_s for one in leaving)
            for without in combinations(leaving, len(leaving) - 1) if leaving else ():
                assert not _fits(options[number], room, list(without)) or _cost(list(without)) >= _cost(leaving)
        case WaitFor(keys, again_in_s):
            waited_for = [by_key[key] for key in keys]
            assert not any(one.kept for one in waited_for)
            assert any(_fits(option, room, waited_for) for option in options)
            assert again_in_s is None or again_in_s > 0
            idle = [one for one in residents if not (one.busy or one.kept or one.owed_s)]
            assert not any(_fits(option, room, idle) for option in options)
        case Never(number, short):
            could = [one for one in residents if not one.kept]
            assert not any(_fits(option, room, could) for option in options)
            assert short
            assert number < len(options)


@given(options, residents, rooms)
def test_the_set_that_leaves_is_the_cheapest_of_all(
    options: list[Option], residents: list[Resident], room: dict[str, int]
) -> None:
    decision = place(options, residents, room)
    if isinstance(decision, Place):
        ripe = [one for one in residents if not (one.busy or one.kept or one.owed_s)]
        chosen = _cost([one for one in residents if one.key in decision.leave])
        for count in range(len(ripe) + 1):
            for leaving in combinations(ripe, count):
                if _fits(options[decision.option], room, list(leaving)):
                    assert chosen <= _cost(list(leaving)) + 1e-9


def test_a_better_way_is_worth_an_eviction_and_a_compromise_is_not() -> None:
    idle = Resident("idle", {"cuda0": 10})
    gpu, cpu = Option({"cuda0": 10}), Option({"cpu": 10}, compromise=True)
    assert place([gpu, cpu], [idle], {"cpu": 50, "cuda0": 0}) == Place(0, ("idle",))
    assert place([gpu, cpu], [Resident("busy", {"cuda0": 10}, busy=True)], {"cpu": 50, "cuda0": 0}) == Place(1)


def test_a_model_that_was_slow_to_load_stays_for_a_while() -> None:
    young = Resident("young", {"cpu": 10}, reload_s=4.0, resident_s=5.0)
    assert place([Option({"cpu": 10})], [young], {"cpu": 0}) == WaitFor(("young",), pytest.approx(7.0))


def test_what_is_rarely_used_and_quick_to_load_leaves_first() -> None:
    often = Resident("often", {"cpu": 10}, rate=1.0, reload_s=2.0)
    rarely = Resident("rarely", {"cpu": 10}, rate=0.1, reload_s=2.0)
    assert place([Option({"cpu": 5})], [often, rarely], {"cpu": 0}) == Place(0, ("rarely",))


def test_many_candidates_are_weighed_by_their_cost_per_byte() -> None:
    many = [Resident(str(number), {"cpu": 1}, rate=float(number)) for number in range(20)]
    decision = place([Option({"cpu": 5})], many, {"cpu": 0})
    assert isinstance(decision, Place)
    assert sorted(decision.leave) == ["0", "1", "2", "3", "4"]


def test_room_is_a_share_of_what_nobody_else_has() -> None:
    free, ours, held = {"cpu": 600}, {"cpu": 400}, {"cpu": 450}
    assert room_in(free, ours, held, fraction=0.8) == {"cpu": 350}
    assert room_in(free, ours, held, fraction=0.8, cap=500) == {"cpu": 50}


def test_a_burst_is_seen_at_once_and_forgotten_slower_than_it_came() -> None:
    popular, bursty = Popularity(), Popularity()
    for second in range(0, 3600, 60):
        popular.used(float(second))
    for second in range(3590, 3600):
        bursty.used(float(second))
    assert bursty.rate(3600.0) > popular.rate(3600.0)
    assert bursty.rate(7200.0) < popular.rate(7200.0)
