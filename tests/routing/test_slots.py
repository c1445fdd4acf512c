"""Slots are never exceeded, never leaked, and given in the order of asking."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from roundhouse.core.errors import QueueFull
from roundhouse.routing.slots import Slots


async def test_those_who_wait_are_served_in_order() -> None:
    slots = Slots(1, 10)
    await slots.take()
    order: list[int] = []

    async def wait(number: int) -> None:
        await slots.take()
        order.append(number)
        slots.give_back(0.1)

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    slots.give_back(0.1)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert slots.busy == 0


async def test_past_the_queues_bound_it_says_when_to_come_back() -> None:
    slots = Slots(1, 0)
    await slots.take()
    with pytest.raises(QueueFull) as caught:
        await slots.take()
    assert caught.value.retry_after_s >= 1
    for _ in range(50):
        slots.give_back(10.0)
        assert slots.try_take()
    assert slots.expected_wait_s() > 9


async def test_one_who_is_cancelled_as_the_slot_arrives_hands_it_on() -> None:
    slots = Slots(1, 10)
    await slots.take()
    first, second = (asyncio.create_task(slots.take()) for _ in range(2))
    await asyncio.sleep(0)
    slots.give_back(0.1)
    first.cancel()
    await asyncio.wait_for(second, 1)
    assert (slots.busy, slots.waiting) == (1, 0)
    slots.give_back(0.1)
    assert slots.busy == 0


class SlotsMachine(RuleBasedStateMachine):
    """Any order of asking, leaving and giving up, with the loop's turns in between."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.slots = Slots(2, 3)
        self.tasks: list[asyncio.Task[None]] = []
        self.holding = 0

    def _turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        done = [task for task in self.tasks if task.done()]
        self.tasks = [task for task in self.tasks if not task.done()]
        self.holding += sum(not task.cancelled() and task.exception() is None for task in done)

    @rule()
    def ask(self) -> None:
        self.tasks.append(self.loop.create_task(self.slots.take()))

    @precondition(lambda self: self.holding)
    @rule()
    def leave(self) -> None:
        self.slots.give_back(0.5)
        self.holding -= 1

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.tasks)).cancel()

    @rule()
    def turn(self) -> None:
        self._turn()

    @invariant()
    def never_more_than_there_are(self) -> None:
        assert 0 <= self.slots.busy <= 2

    def teardown(self) -> None:
        for _ in range(10):
            self._turn()
            while self.holding:
                self.leave()
        self._turn()
        assert (self.slots.busy, self.slots.waiting, self.tasks) == (0, 0, [])
        self.loop.close()


TestSlotsMachine = SlotsMachine.TestCase
TestSlotsMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
