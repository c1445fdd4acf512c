"""What a database does not take waits on the disk, whoever dies meanwhile, and arrives whole and in order."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roundhouse.core.errors import StoreError
from roundhouse.database import Refused, Unavailable
from roundhouse.database.journal import Journal, Rows

MOST = 1 << 20


class _Base:
    """Takes rows while it is `there`; refuses those that say so."""

    def __init__(self) -> None:
        self.there = True
        self.rows: list[Any] = []
        self.calls = 0

    def __call__(self, rows: Rows) -> None:
        self.calls += 1
        if not self.there:
            raise Unavailable("it is away")
        if any("never" in row for row in rows):
            raise Refused("it will not take that")
        self.rows += [list(row) for row in rows]


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def base() -> _Base:
    return _Base()


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: _Clock) -> Iterator[Journal]:
    found = Journal(tmp_path / "deep", "facts", MOST, clock)
    yield found
    found.close()


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "deep").glob("*.jsonl"))


def test_while_the_database_is_there_nothing_touches_the_disk(journal: Journal, base: _Base, tmp_path: Path) -> None:
    journal.deliver([["a", 1]], base)
    assert base.rows == [["a", 1]]
    assert not (tmp_path / "deep").exists()


def test_what_waits_is_delivered_first_and_in_order(
    journal: Journal, base: _Base, clock: _Clock, tmp_path: Path
) -> None:
    base.there = False
    for number in range(3000):
        journal.deliver([[number, "ünï\n", None, 0.5]], base)
    assert base.calls < 10  # it is not asked all the time
    assert [path.stat().st_mode & 0o077 for path in _files(tmp_path)] == [0]
    base.there, clock.now = True, 2.0
    journal.deliver([[3000, "ünï\n", None, 0.5]], base)
    assert base.rows == [[number, "ünï\n", None, 0.5] for number in range(3001)]
    assert _files(tmp_path) == []
    journal.deliver([["after"]], base)
    assert base.rows[-1] == ["after"]


def test_a_database_that_goes_away_again_in_the_middle_gets_each_row_once(
    journal: Journal, base: _Base, clock: _Clock
) -> None:
    base.there = False
    journal.deliver([[number] for number in range(2500)], base)
    base.there, clock.now = True, 2.0

    def breaks(rows: Rows) -> None:
        base(rows)
        base.there = False

    journal.deliver([], breaks)
    base.there, clock.now = True, 4.0
    journal.deliver([], base)
    assert base.rows == [[number] for number in range(2500)]


def test_one_row_that_is_refused_for_ever_costs_only_itself(journal: Journal, base: _Base, clock: _Clock) -> None:
    journal.deliver([[1], ["never"], [2]], base)
    base.there = False
    journal.deliver([[3], ["never"], [4]], base)
    base.there, clock.now = True, 2.0
    journal.deliver([], base)
    assert base.rows == [[1], [2], [3], [4]]
    assert journal.lost == 2


def test_a_bound_is_kept_and_what_is_beyond_it_is_counted(
    tmp_path: Path, base: _Base, caplog: pytest.LogCaptureFixture
) -> None:
    journal, base.there = Journal(tmp_path, "facts", 1000), False
    for _ in range(50):
        journal.deliver([["x" * 90]] * 2, base)
    journal.close()
    (path,) = tmp_path.glob("*.jsonl")
    assert path.stat().st_size <= 1000
    assert journal.lost == 90
    assert caplog.text.count("are lost") == 1


def test_a_disk_that_is_full_gives_the_rows_back(
    journal: Journal, base: _Base, clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.there = False
    journal.deliver([[1]], base)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            journal.deliver([[2]], base)
    journal.deliver([[2], [3]], base)
    base.there, clock.now = True, 2.0
    journal.deliver([], base)
    assert base.rows == [[1], [2], [3]]


def test_what_a_killed_process_left_is_delivered_by_the_next_and_that_of_a_living_one_is_not(
    tmp_path: Path, base: _Base
) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from roundhouse.database import Unavailable
        from roundhouse.database.journal import Journal
        def away(rows):
            raise Unavailable("it is away")
        journal, number = Journal(Path({str(tmp_path)!r}), "facts", {MOST}), 0
        while True:
            journal.deliver([[number]], away)
            number += 1
            print(number, flush=True)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(40):
        said = int(child.stdout.readline())
    journal = Journal(tmp_path, "facts", MOST)
    journal.deliver([], base)
    assert base.rows == []
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    said = max([said, *(int(line) for line in child.stdout.read().split())])
    child.stdout.close()
    next_one = Journal(tmp_path, "facts", MOST)
    next_one.deliver([], base)
    assert base.rows[:said] == [[number] for number in range(said)]
    assert list(tmp_path.glob("*.jsonl")) == []


@given(cut=st.integers(0, 120), damage=st.binary(max_size=5))
@example(cut=0, damage=b'["\x80"]')
def test_no_cut_and_no_damage_breaks_the_rest(
    tmp_path_factory: pytest.TempPathFactory, cut: int, damage: bytes
) -> None:
    folder, base = tmp_path_factory.mktemp("j"), _Base()
    lines = b"".join(b'[%d, "x"]\n' % number for number in range(10))
    (folder / "facts-1-x.jsonl").write_bytes(lines[:cut] + damage.replace(b"\n", b"") + b"\n" + b'[99, "x"]\n[7')
    Journal(folder, "facts", MOST).deliver([], base)
    whole = [[number, "x"] for number in range(lines[:cut].count(b"\n"))]
    assert base.rows[: len(whole)] == whole
    assert base.rows[-1] == [99, "x"]


def test_names_do_not_meet(tmp_path: Path, base: _Base) -> None:
    (tmp_path / "others-1-x.jsonl").write_text("[1]\n")
    Journal(tmp_path, "facts", MOST).deliver([], base)
    assert base.rows == []
