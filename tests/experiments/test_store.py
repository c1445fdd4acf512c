"""What is on the disk is whole after a crash at any moment; two processes share it; a unit keeps its arm."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random
from threading import Barrier
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.errors import ConfigError, InvalidRequest, StoreError
from roundhouse.database import Address, Place
from roundhouse.experiments.design import Arm, Experiment, assign, exposure_id, unit_id
from roundhouse.experiments.recorder import Recorder
from roundhouse.experiments.store import Exposure, Outcome, State, Store
from tests.postgres import PASSWORD, Postgres

DESIGN = Experiment("e", (Arm("a"), Arm("b")), "ok", prompt="p")


Opened: TypeAlias = Callable[[], Store]


@pytest.fixture
def opened(place: Place) -> Iterator[Opened]:
    """One more store at the same place, each with a connection of its own."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Store(place)))


def _exposure(number: int, arm: str = "a", unit: int = 0, served: str = "a", stratum: str = "1:m") -> Exposure:
    return Exposure(number, "e", unit or number, arm, served, stratum, 0.5, 1.0, float(number))


@given(st.text(max_size=20), st.lists(st.floats(0, 5), min_size=2, max_size=5).filter(lambda some: sum(some) > 0.01))
def test_an_arm_depends_on_salt_and_unit_alone_and_no_arm_of_weight_zero_is_given(
    unit: str, weights: list[float]
) -> None:
    shares = {str(n): one / sum(weights) for n, one in enumerate(weights)}
    given_arm = assign("salt", unit, shares)
    assert given_arm == assign("salt", unit, shares)
    assert shares[given_arm.arm] == given_arm.probability > 0


def test_units_fall_by_the_shares_and_independently_in_two_experiments() -> None:
    units = [f"user-{n}" for n in range(20_000)]
    one = [assign("x", unit, {"a": 0.2, "b": 0.8}).arm for unit in units]
    two = [assign("y", unit, {"a": 0.5, "b": 0.5}).arm for unit in units]
    assert one.count("a") / 20_000 == pytest.approx(0.2, abs=0.01)
    both = sum(1 for a, b in zip(one, two, strict=True) if a == b == "a")
    assert both / 20_000 == pytest.approx(0.1, abs=0.01)
    assert 0 <= unit_id("x", "user-1") < 1 << 63
    assert exposure_id("e", "r") != exposure_id("f", "r")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arms": (Arm("a"),)}, "two arms at least"),
        ({"route": "r"}, "one of the two"),
        ({"prompt": ""}, "one of the two"),
        ({"arms": (Arm("a", 0), Arm("b", 0))}, "all weights are 0"),
        ({"guardrails": {"ok": 0.1}}, "cannot be a guardrail too"),
        ({"unit": "cookie"}, "use body, key, request or header:NAME"),
    ],
)
def test_a_design_that_cannot_be_run_is_refused(fields: dict[str, object], message: str) -> None:
    asked: dict[str, object] = {"name": "e", "arms": DESIGN.arms, "metric": "ok", "prompt": "p", **fields}
    with pytest.raises(ConfigError, match=message):
        Experiment(**asked)  # type: ignore[arg-type]


def test_an_experiment_starts_stops_and_is_promoted_and_every_step_is_kept(opened: Opened) -> None:
    store = opened()
    with pytest.raises(InvalidRequest, match="never started"):
        store.stop("e", "why", 1)
    assert store.start(DESIGN, 1).state is State.RUNNING
    salt = store.runs()["e"].salt
    assert store.promote("e", "b", "it won", 2).winner == "b"
    with pytest.raises(InvalidRequest, match="promote does not apply"):
        store.promote("e", "a", "again", 3)
    assert store.stop("e", "enough", 4).winner == ""
    again = store.start(Experiment("e", (Arm("a"), Arm("b", 3)), "ok", prompt="p"), 5)
    assert (again.generation, again.weights, again.salt) == (2, {"a": 0.25, "b": 0.75}, salt)
    assert [said.split(":")[0] for _, said in store.events("e")] == [
        "started",
        "b was promoted",
        "stopped",
        'weights are {"a"',
    ]


def test_sums_are_over_units_by_arm_and_stratum_and_fallbacks_are_kept_apart(opened: Opened) -> None:
    store = opened()
    exposures = [
        _exposure(1, unit=7),
        _exposure(2, unit=7),
        _exposure(3, unit=8, served=""),
        _exposure(4, "b", 9, "b", "2:m"),
    ]
    store.write(exposures, [Outcome(u, n, "ok", v, 1) for u, n, v in ((7, 1, 1), (7, 2, 0), (8, 3, 1), (9, 4, 0.5))])
    store.write([], [Outcome(7, 2, "ok", 1, 2)])
    found = store.sums("e", "ok")
    assert (found["a"]["1:m"].units, found["a"]["1:m"].m, found["a"]["1:m"].y, found["a"]["1:m"].yy) == (2, 3, 3, 5)
    assert (found["a"]["1:m"].binary, found["b"]["2:m"].binary) == (True, False)
    assert store.sums("e", "ok", served=True)["a"]["1:m"].units == 1
    assert store.counts("e") == {("1", "a"): 2, ("2", "b"): 1}
    assert store.counts("e", served=True)[("1", "a")] == 1
    first = store.first_of("e", 9)
    assert first is not None
    assert first.arm == "b"
    assert store.first_of("e", 1) is None


def test_another_process_is_noticed(opened: Opened) -> None:
    one, two = opened(), opened()
    before = one.changes()
    two.start(DESIGN, 1)
    assert one.changes() != before
    assert one.runs()["e"].state is State.RUNNING


def test_what_is_written_twice_is_there_once_and_the_later_value_of_a_metric_counts(opened: Opened) -> None:
    store = opened()
    first, later = Outcome(1, 1, "ok", 1.0, 5.0), Outcome(1, 1, "ok", 0.0, 6.0)
    for outcomes in ([first], [later], [first]):
        store.write([_exposure(1)], outcomes)
    assert store.sums("e", "ok")["a"]["1:m"].y == 0.0
    assert store.counts("e") == {("1", "a"): 1}


def test_an_outcome_that_comes_before_its_exposure_waits_for_it(opened: Opened) -> None:
    store = opened()
    store.write([_exposure(1, unit=7)], [Outcome(None, 1, "ok", 1.0, 5.0), Outcome(None, 2, "ok", 0.5, 5.0)])
    store.write([], [Outcome(None, 2, "ok", 1.0, 6.0), Outcome(None, 2, "ok", 0.5, 5.5)])
    sums = store.sums("e", "ok")["a"]["1:m"]
    assert (sums.units, sums.y) == (1, 1.0)
    store.write([_exposure(2, unit=8)], [])
    sums = store.sums("e", "ok")["a"]["1:m"]
    assert (sums.units, sums.y) == (2, 2.0)
    assert store._db.query("SELECT * FROM early") == []


def test_of_two_who_end_an_experiment_at_the_same_time_one_is_told_that_it_is_over(opened: Opened) -> None:
    stores = [opened() for _ in range(4)]
    stores[0].start(DESIGN, 1)

    def stopped(store: Store) -> bool:
        try:
            store.stop("e", "enough", 2)
        except InvalidRequest:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(stopped, stores)) == 1


def test_a_file_that_is_newer_or_none_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "x.sqlite").close()
    with sqlite3.connect(tmp_path / "x.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="newer Roundhouse"):
        Store(tmp_path / "x.sqlite")
    (tmp_path / "y.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "y.sqlite")


def test_the_recorder_writes_in_order_and_all_at_the_end(opened: Opened) -> None:
    store = opened()
    recorder = Recorder(opened())
    for number in range(1, 2001):
        recorder.record(_exposure(number), Outcome(number, number, "ok", 1.0, 1))
    recorder.close()
    assert store.sums("e", "ok")["a"]["1:m"].units == 2000
    assert recorder.lost == 0


def test_what_cannot_be_written_waits_and_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    store = Store(path)
    recorder = Recorder(store)
    blocker = sqlite3.connect(path, isolation_level=None)
    store._db.query("PRAGMA busy_timeout = 1")
    blocker.execute("BEGIN IMMEDIATE")
    recorder.record(_exposure(1))
    recorder.flush()
    assert store.unit_of(1) is None
    blocker.execute("COMMIT")
    recorder.close()
    assert store.unit_of(1) == 1
    blocker.close()


@pytest.mark.parametrize("kill_after", [1, 7, 40])
def test_after_a_kill_at_any_moment_the_file_is_whole_and_what_was_flushed_is_there(
    tmp_path: Path, kill_after: int
) -> None:
    path = tmp_path / "x.sqlite"
    code = f"""
        from pathlib import Path
        from roundhouse.experiments.store import Exposure, Outcome, Store
        store, number = Store(Path({str(path)!r})), 0
        while True:
            some = range(number + 1, number + 101)
            store.write(
                [Exposure(n, "e", n, "a", "a", "1:m", 0.5, 0.0, 1.0) for n in some],
                [Outcome(n, n, "ok", 1.0, 1.0) for n in some],
            )
            number += 100
            print(number, flush=True)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = 0
    for _ in range(kill_after):
        said = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    store = Store(path)
    assert store._db.query("PRAGMA integrity_check") == [("ok",)]
    sums = store.sums("e", "ok")["a"]["1:m"]
    assert sums.units >= said
    assert sums.units % 100 == 0
    assert store._db.query("SELECT COUNT(*) FROM exposures") == [(sums.units,)]


@pytest.mark.postgres
def test_an_analysis_is_planned_by_the_rows_that_came_just_now(postgres: Postgres) -> None:
    """Else a million that an import brought are joined one by one until autovacuum comes, which is 25 s, not 4."""
    place = Address(postgres.fresh(), PASSWORD)
    with closing(Store(place)) as store:
        store.write([_exposure(n) for n in range(1, 3001)], [Outcome(n, n, "ok", 1.0, 1) for n in range(1, 3001)])
    with closing(Store(place)) as store:
        assert store.sums("e", "ok")["a"]["1:m"].units == 3000
        sizes = store._db.query("SELECT relname, reltuples FROM pg_class WHERE relname IN ('exposures', 'outcomes')")
        assert dict(sizes) == {"exposures": 3000, "outcomes": 3000}


def test_servers_that_are_told_the_same_outcomes_in_any_order_do_not_hold_each_other_up(opened: Opened) -> None:
    """PostgreSQL ends one of two that wait for each other's rows, after a second in which both have waited."""
    exposures = [_exposure(number) for number in range(1, 201)]
    stores = [opened() for _ in range(4)]
    ready = Barrier(4)

    def told(number: int) -> None:
        rng = Random(number)
        for turn in range(10):
            known = [Outcome(n, n, "ok", 1.0, float(turn)) for n in range(1, 101)]
            early = [Outcome(None, n, "ok", 1.0, float(turn)) for n in range(101, 201)]
            come = exposures if turn > 4 else exposures[:100]
            ready.wait(60)
            try:
                stores[number].write(rng.sample(come, len(come)), rng.sample([*known, *early], 200))
            except StoreError:
                ready.abort()
                raise

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(told, number) for number in range(4)]:
            one.result()
    assert sum(sums.y for sums in stores[0].sums("e", "ok")["a"].values()) == 200
    assert stores[0]._db.query("SELECT COUNT(*) FROM early") == [(0,)]
