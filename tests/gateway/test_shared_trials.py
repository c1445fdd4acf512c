"""Experiments over a database at a distance: no request waits for it, and what it cannot tell is never guessed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from roundhouse.core.chat import ChatRequest
from roundhouse.core.errors import InvalidRequest
from roundhouse.database import Address
from roundhouse.experiments.design import Arm, Experiment
from roundhouse.experiments.store import Outcome, Store
from roundhouse.gateway.judging import judge_all
from roundhouse.gateway.trials import Caller, Enrolled, Trials
from tests.postgres import PASSWORD, Postgres

pytestmark = pytest.mark.postgres
EVEN = Experiment("e", (Arm("a"), Arm("b")), "ok", prompt="p")
UNEVEN = Experiment("e", (Arm("a", 50), Arm("b")), "ok", prompt="p")


@pytest.fixture
def address(postgres: Postgres) -> Address:
    return Address(postgres.fresh(), PASSWORD)


@asynccontextmanager
async def _server(address: Address, folder: Path, design: Experiment = EVEN) -> AsyncIterator[Trials]:
    trials = Trials({"e": design}, address, lambda route: ("one", "m"), folder)
    await trials.ready()
    trials.start()
    try:
        yield trials
    finally:
        await trials.aclose()


def _started(address: Address, design: Experiment = EVEN) -> None:
    with closing(Store(address)) as store:
        store.start(design, 1.0)


async def _asked(trials: Trials, unit: str, request_id: str) -> Enrolled | None:
    request, caller = ChatRequest.of("q"), Caller(unit)
    await trials.look_up(request, "p", caller)
    enrolled = trials.enrol(request, "p", caller, 1, request_id)
    if enrolled is not None:
        trials.fail(enrolled)
    return enrolled


async def _eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


async def test_a_unit_keeps_the_arm_that_it_had_on_another_server_when_weights_change(
    address: Address, tmp_path: Path
) -> None:
    await asyncio.to_thread(_started, address)
    async with _server(address, tmp_path / "one") as one, _server(address, tmp_path / "two") as two:
        before = {unit: await _asked(one, unit, f"1{unit}") for unit in map(str, range(20))}
        await asyncio.to_thread(one._recorder.flush)
        await asyncio.to_thread(_started, address, UNEVEN)
        await _eventually(lambda: two._known.now()["e"].generation == 2)
        after = {unit: await _asked(two, unit, f"2{unit}") for unit in before}
        assert {unit: one.arm.name for unit, one in after.items() if one} == {
            unit: one.arm.name for unit, one in before.items() if one
        }
        assert {one.exposure.stratum for one in after.values() if one} == {"1:m"}
        new = await _asked(two, "a new one", "3")
        assert new is not None
        assert new.exposure.stratum == "2:m"


async def test_a_unit_whose_arm_nobody_can_tell_is_left_out(
    address: Address, postgres: Postgres, tmp_path: Path
) -> None:
    await asyncio.to_thread(_started, address)
    await asyncio.to_thread(_started, address, UNEVEN)
    async with _server(address, tmp_path) as trials:
        assert await _asked(trials, "known", "1") is not None
        await asyncio.to_thread(postgres.stop)
        try:
            await _eventually(lambda: trials._known.away)
            assert await _asked(trials, "known", "2") is not None
            assert await _asked(trials, "another", "3") is None
        finally:
            await asyncio.to_thread(postgres.start)
        await _eventually(lambda: not trials._known.away)
        assert await _asked(trials, "another", "4") is not None


async def test_feedback_is_taken_while_the_database_is_away_and_refused_for_what_is_in_no_experiment_else(
    address: Address, postgres: Postgres, tmp_path: Path
) -> None:
    await asyncio.to_thread(_started, address)
    async with _server(address, tmp_path / "one") as one, _server(address, tmp_path / "two") as two:
        with pytest.raises(InvalidRequest, match="no experiment saw"):
            await asyncio.to_thread(one.feedback, "nobody's", "ok", 1.0)
        await asyncio.to_thread(postgres.stop)
        try:
            await _eventually(lambda: one._known.away and two._known.away)
            assert await _asked(one, "ann", "r") is not None
            assert await asyncio.to_thread(one.feedback, "r", "ok", 1.0) == ["e"]
            assert await asyncio.to_thread(two.feedback, "r", "nice", 1.0) == []
            assert await asyncio.to_thread(two.feedback, "nobody's", "ok", 1.0) == []
        finally:
            await asyncio.to_thread(postgres.start)
        with closing(Store(address)) as store:

            def told(metric: str) -> float:
                store.settle()  # as whoever judges does: both servers may have written at the same moment
                return sum(sums.y for arm in store.sums("e", metric).values() for sums in arm.values())

            await _eventually(lambda: (told("ok"), told("nice")) == (1.0, 1.0))


def test_an_outcome_and_its_exposure_that_two_servers_write_at_the_same_moment_meet(address: Address) -> None:
    _started(address)
    with closing(Store(address)) as one, closing(Store(address)) as two:
        with one._db.transaction() as db:
            db.insert_many("exposures", [(1, "e", 7, "a", "a", "1:m", 0.5, 0.0, 1.0)])
            two.write([], [Outcome(None, 1, "ok", 1.0, 5.0)])
        assert one.sums("e", "ok") == {}
        judge_all(address, {"e": EVEN})  # as every server does again and again
        assert one.sums("e", "ok")["a"]["1:m"].y == 1.0


async def test_a_frozen_database_keeps_no_request_waiting(address: Address, postgres: Postgres, tmp_path: Path) -> None:
    await asyncio.to_thread(_started, address)
    await asyncio.to_thread(_started, address, UNEVEN)
    async with _server(address, tmp_path) as trials:
        turns, going = 0, True

        async def ticking() -> None:
            nonlocal turns
            while going:
                turns += 1
                await asyncio.sleep(0.01)

        ticks = asyncio.create_task(ticking())
        postgres.freeze(True)
        try:
            for number in range(50):
                await _asked(trials, f"u{number}", f"r{number}")  # in no experiment, and answered all the same
            await _eventually(lambda: trials._known.away)
            assert turns > 10  # the loop went on meanwhile
        finally:
            postgres.freeze(False)
        going = False
        await ticks
