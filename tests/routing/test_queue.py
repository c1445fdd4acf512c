"""The queue is bounded, in order of arrival, and priorities move up without starving anyone."""

from hypothesis import given
from hypothesis import strategies as st

from roundhouse.routing.queue import WaitingRoom


def _order(room: WaitingRoom) -> list[object]:
    return [ticket.payload for ticket in room]


def test_first_come_first_served_and_priorities_before() -> None:
    room = WaitingRoom(5)
    for name, arrived, priority in (("a", 0, 0), ("b", 1, 0), ("c", 2, 1), ("d", 2, -1)):
        room.enter(name, arrived=arrived, priority=priority)
    assert _order(room) == ["c", "a", "b", "d"]


def test_a_long_wait_is_worth_a_priority() -> None:
    room = WaitingRoom(5)
    room.enter("old", arrived=0, priority=0)
    room.enter("new", arrived=10.1, priority=1)
    assert _order(room) == ["old", "new"]


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(-2, 2)), max_size=20), st.data())
def test_whoever_leaves_leaves_alone(arrivals: list[tuple[float, int]], data: st.DataObject) -> None:
    room = WaitingRoom(100)
    tickets = [room.enter(n, arrived=arrived, priority=priority) for n, (arrived, priority) in enumerate(arrivals)]
    left = data.draw(st.lists(st.sampled_from(tickets))) if tickets else []
    for ticket in left:
        room.leave(ticket)
    gone = {ticket.payload for ticket in left}
    assert sorted(map(str, _order(room))) == sorted(str(n) for n in range(len(arrivals)) if n not in gone)
    assert [ticket.rank for ticket in room] == sorted(ticket.rank for ticket in room)


def test_it_is_full_at_its_limit() -> None:
    room = WaitingRoom(1)
    assert not room.full
    room.enter("a", arrived=0, priority=0)
    assert room.full
    assert len(room) == 1
