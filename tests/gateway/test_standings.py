"""How experiments stand, and how their intervals came to be: recomputed from what had come by then."""

import itertools
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.errors import InvalidRequest
from roundhouse.experiments.design import Arm, Experiment
from roundhouse.experiments.store import Exposure, Outcome, Store
from roundhouse.gateway.standings import Standings, instants

DESIGN = Experiment("e", (Arm("a"), Arm("b")), metric="ok", prompt="p")
START, HOUR = 1_000_000.0, 3600.0


def _filled(path: Path, hours: int) -> None:
    """Ten units an hour in each arm; of `b` nine tenths are right, of `a` three."""
    store, random = Store(path), Random(1)
    store.start(DESIGN, START)
    exposures, outcomes = [], []
    for number in range(20 * hours):
        at = START + number * HOUR / 20
        arm = "ab"[number % 2]
        exposures.append(Exposure(number, "e", number, arm, arm, "1:m", 0.5, 0.0, at))
        outcomes.append(Outcome(number, number, "ok", float(random.random() < (0.9 if arm == "b" else 0.3)), at))
    store.write(exposures, outcomes)
    store.close()


def test_intervals_narrow_as_outcomes_come(tmp_path: Path) -> None:
    _filled(tmp_path / "x.sqlite", 24)
    standings = Standings({"e": DESIGN}, tmp_path / "x.sqlite")
    course = standings.course("e", START + 24 * HOUR)
    widths = [point["intervals"]["b"]["high"] - point["intervals"]["b"]["low"] for point in course]
    assert len(course) <= 49
    assert widths[-1] < widths[0] / 2
    last = course[-1]["intervals"]["b"]
    assert last["low"] > 0
    (now,) = standings.all()
    assert now["comparisons"][0]["by_intention"]["interval"] == last
    assert (now["state"], now["metric"], now["control"], now["winner"]) == ("running", "ok", "a", "b")


def test_what_comes_later_does_not_change_a_point_of_the_past(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    _filled(path, 24)
    before = Standings({"e": DESIGN}, path).course("e", START + 24 * HOUR)
    store = Store(path)
    store.write([Exposure(9999, "e", 9999, "b", "b", "1:m", 0.5, 0.0, START + 25 * HOUR)], [])
    store.write([], [Outcome(9999, 9999, "ok", 0.0, START + 25 * HOUR)])
    store.close()
    after = Standings({"e": DESIGN}, path).course("e", START + 24 * HOUR)
    assert before == after


def test_what_was_never_started_and_what_nobody_knows(tmp_path: Path) -> None:
    standings = Standings({"e": DESIGN}, tmp_path / "x.sqlite")
    (told,) = standings.all()
    assert (told["name"], told["state"], told["concerns"]) == ("e", "not started", "prompt p")
    assert standings.course("e", START) == []
    with pytest.raises(InvalidRequest, match='no experiment "f"; there are e'):
        standings.course("f", START)


@given(st.floats(0, 4e9), st.floats(0, 3e9))
def test_instants_are_few_rising_and_end_now(started: float, age: float) -> None:
    times = instants(started, started + age)
    assert 1 <= len(times) <= 49
    assert times[-1] == started + age
    assert all(one < other for one, other in itertools.pairwise(times[:-1]))
    assert all(started < one <= started + age for one in times[:-1])


def test_past_instants_stay_where_they_were() -> None:
    assert set(instants(START, START + 1000)[:-1]) <= set(instants(START, START + 1900))
