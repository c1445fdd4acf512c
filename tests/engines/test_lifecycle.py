"""One engine's life: one start for all who ask, a crash noticed and mended, a pause before what keeps failing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from roundhouse.core import errors
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import ENGINE, Engine, EngineInput, EngineState
from tests.conftest import lodged

DOCS = Path(__file__).parents[2] / "docs" / "engines.md"


@pytest.fixture
async def engine(demo_gguf: Path) -> AsyncIterator[Engine]:
    made = Engine("t", lodged(lambda: launch.llamacpp(str(demo_gguf), {"n_threads": 1, "n_ctx": 256}, cores=1)))
    yield made
    await made.stop()


def _waiter(engine: Engine, wanted: EngineState) -> Callable[[], asyncio.Future[None]]:
    """A future that is done when `engine` next reaches `wanted`."""

    def arm() -> asyncio.Future[None]:
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def changed(_: Engine, __: EngineState, new: EngineState) -> None:
            if new is wanted and not reached.done():
                reached.set_result(None)

        engine.listen(changed)
        return reached

    return arm


async def test_twenty_who_ask_share_one_start(engine: Engine) -> None:
    ready = await asyncio.gather(*(engine.ensure_ready() for _ in range(20)))
    assert len({one.url for one in ready}) == 1
    assert len(psutil.Process().children()) == 1
    assert engine.state is EngineState.READY


async def test_a_start_outlives_whoever_asked_for_it(engine: Engine) -> None:
    impatient = asyncio.create_task(engine.ensure_ready())
    reached = _waiter(engine, EngineState.READY)()
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait_for(reached, 30)
    assert engine.state is EngineState.READY


async def test_a_crash_is_noticed_at_once_and_the_next_request_starts_it_again(engine: Engine) -> None:
    first = await engine.ensure_ready()
    failed = _waiter(engine, EngineState.FAILED)()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await asyncio.wait_for(failed, 1.0)
    assert isinstance(engine.death, errors.Died)
    second = await engine.ensure_ready()
    assert second.url != first.url
    assert engine.death is None


async def test_what_keeps_failing_is_started_again_only_after_a_growing_pause(tmp_path: Path) -> None:
    now = 100.0
    starts = 0

    def plan() -> launch.Spawn:
        nonlocal starts
        starts += 1
        raise errors.BadHeader("cut")

    engine = Engine("t", lodged(plan), clock=lambda: now)
    for moment, expected in ((100.0, 1), (100.0, 2), (100.4, 2), (100.6, 3), (101.5, 3), (101.7, 4)):
        now = moment
        with pytest.raises(errors.BadHeader):
            await engine.ensure_ready()
        assert starts == expected, moment
    await engine.stop()


async def test_a_foreign_exception_while_starting_is_a_launch_that_failed_and_not_the_end() -> None:
    def plan() -> launch.Spawn:
        raise PermissionError("no")

    engine = Engine("t", lodged(plan))
    for _ in range(2):
        with pytest.raises(errors.LaunchFailed, match="PermissionError: no"):
            await engine.ensure_ready()
        assert engine.state is EngineState.FAILED
    await engine.stop()


async def test_a_stopped_engine_starts_again_and_stopping_while_it_starts_leaves_nothing(engine: Engine) -> None:
    await engine.ensure_ready()
    await engine.stop()
    assert engine.state is EngineState.COLD
    starting = asyncio.create_task(engine.ensure_ready())
    while engine.state is not EngineState.STARTING:
        await asyncio.sleep(0)
    await engine.stop()
    with pytest.raises(errors.EngineError, match="was stopped while it started"):
        await starting
    assert psutil.Process().children() == []
    await engine.ensure_ready()


async def test_a_start_that_fails_in_the_moment_of_being_stopped_is_stopped() -> None:
    """The failure is already on its way when the stop comes."""
    failing = asyncio.Event()

    def plan() -> launch.Spawn:
        raise errors.NoFit("no room", target="t")

    @asynccontextmanager
    async def lodging() -> AsyncIterator[launch.Spawn]:
        await failing.wait()
        yield plan()

    engine = Engine("t", lodging)
    asking = asyncio.create_task(engine.ensure_ready())
    while engine.state is not EngineState.STARTING:
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    failing.set()
    await engine.stop()
    await asyncio.wait((asking,))
    assert engine.state is EngineState.COLD
    assert isinstance(asking.exception(), errors.Error)


async def test_an_attached_engine_is_ready_and_has_nothing_to_stop() -> None:
    engine = Engine("t", launch.attach("http://somewhere/", "k"))
    assert not engine.managed
    assert (await engine.ensure_ready()).url == "http://somewhere"
    await engine.stop()


def test_every_state_can_be_left_and_reached() -> None:
    moves = [
        (state, ENGINE.next(state, given))
        for state in EngineState
        for given in EngineInput
        if ENGINE.allows(state, given)
    ]
    assert {old for old, _ in moves} == {new for _, new in moves} == set(EngineState)


def test_the_docs_show_the_table_as_it_is() -> None:
    assert ENGINE.diagram() in DOCS.read_text()


async def test_engines_that_share_a_turn_start_one_after_the_other(demo_gguf: Path) -> None:
    """vLLM measures the free memory while it starts."""
    turn = asyncio.Lock()
    engines = [
        Engine(name, lodged(lambda: launch.llamacpp(str(demo_gguf), {"n_ctx": 256}, cores=1)), turn=turn)
        for name in "ab"
    ]
    await turn.acquire()
    starting = [asyncio.create_task(engine.ensure_ready()) for engine in engines]
    await asyncio.sleep(0.2)
    assert [engine.pid for engine in engines] == [None, None]
    turn.release()
    ready = await asyncio.gather(*starting)
    assert len({one.url for one in ready}) == 2
    for engine in engines:
        await engine.stop()
