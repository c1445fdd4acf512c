"""A record of a switch holds while the route is configured as it was; a hint of a breaker is no verdict."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TypeAlias

import pytest

from roundhouse.database import Place
from roundhouse.routing.breaker import Breaker, BreakerState
from roundhouse.routing.records import Hint, Record, RouteTable, applied, configured_as, newer

Opened: TypeAlias = Callable[[], RouteTable]
B = (("b",), ("c",))


@pytest.fixture
def opened(place: Place) -> Iterator[Opened]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(RouteTable(place)))


def test_the_later_of_two_records_stays_whichever_comes_first(opened: Opened) -> None:
    one, two = opened(), opened()
    early, late = Record("r", "x", B, 1.0), Record("r", "x", (("d",),), 2.0)
    for table, records in ((one, [late]), (two, [early]), (one, [Record("s", "y", B, 1.0)])):
        table.write("", records)
    assert two.read("") == {"r": late, "s": Record("s", "y", B, 1.0)}
    assert two.read("another") == {}
    assert newer({"r": late, "s": early}, {"r": early}) == {"r": late, "s": early}
    assert newer({"r": late}, {"r": late}) == {}


def test_a_record_holds_for_the_configuration_it_was_made_under_and_for_known_targets() -> None:
    models = {"a": ("ollama", "m"), "b": ("ollama", "n")}
    tiers = (("a",), ("b",))
    now = configured_as(tiers, models)
    record = Record("r", now, (("b",),), 1.0)
    assert applied(record, configured_as([["a"], ["b"]], models), models) == (("b",),)
    assert applied(record, configured_as((("b",), ("a",)), models), models) is None
    assert applied(record, configured_as(tiers, {**models, "a": ("ollama", "another")}), models) is None
    assert applied(record, now, ["a"]) is None
    assert applied(None, now, models) is None


def test_a_hint_is_told_to_the_others_and_expires_by_itself(opened: Opened) -> None:
    one, two = opened(), opened()
    assert one.exchange_hints("one", [Hint("x", "one", 3, 60.0), Hint("y", "one", 1, 0.0)]) == []
    (hint,) = two.exchange_hints("two", [Hint("x", "two", 1, 60.0)])
    assert (hint.backend, hint.server, hint.opening) == ("x", "one", 3)
    assert hint.for_s == pytest.approx(60.0, abs=10.0)
    assert [one.server for one in one.exchange_hints("one", [Hint("x", "one", 4, 60.0)])] == ["two"]
    assert [one.opening for one in two.exchange_hints("two", [])] == [4]


def test_a_hinted_breaker_probes_first_and_a_success_of_its_own_counts_more() -> None:
    breaker = Breaker()
    breaker.hint(10.0)
    assert breaker.admits(0.0)
    probe = breaker.begin(0.0)
    assert not breaker.admits(0.0)  # one at a time
    breaker.succeeded(probe, 1.0)
    breaker.begin(1.0)
    assert breaker.admits(1.0)


def test_a_hint_and_one_failure_open_a_breaker_and_a_hint_alone_never_does() -> None:
    breaker = Breaker()
    breaker.hint(10.0)
    breaker.failed(breaker.begin(0.0), 1.0, 0.5)
    assert breaker.state is BreakerState.OPEN
    other = Breaker()
    other.hint(10.0)
    abandoned = other.begin(0.0)
    other.abandoned(abandoned)
    assert other.admits(1.0)
    other.begin(9.0)
    assert other.admits(10.0)  # it has expired, though the probe still runs
    assert other.state is BreakerState.CLOSED
    other.failed(other.begin(11.0), 11.0, 0.5)
    assert other.state is BreakerState.CLOSED
