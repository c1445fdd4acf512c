"""The file of ratings: whole after a kill, usable by several at once, honest about what does not fit."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from roundhouse.core.errors import DiskFull, InvalidRequest, StoreError
from roundhouse.rating.answers import Question, Rated
from roundhouse.rating.judgement import Outcome
from roundhouse.rating.status import status_of
from roundhouse.rating.store import Design, Store, is_ratings


def rated(number: int, **answers: str) -> Rated:
    return Rated(Question(f"q{number}", (("user", f"Question {number}?"),), "About."), answers)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.ratings"


def filled(path: Path, questions: int = 4) -> Store:
    store = Store(path, Design(seed=5))
    store.add(rated(number, a="one", b="two") for number in range(questions))
    return store


def judge(store: Store, at: int, rater: str, outcome: Outcome | None) -> bool:
    return store.record(store.comparisons()[at], rater, outcome, "a", "", 1.0, 0.0)


def test_the_design_is_that_of_the_first_who_opened_it(path: Path) -> None:
    Store(path, Design(seed=5, margin=0.2)).close()
    assert Store(path, Design(seed=6)).design == Design(seed=5, margin=0.2)
    assert is_ratings(path)


def test_answers_may_be_added_and_never_changed(path: Path) -> None:
    store = filled(path)
    assert store.add([rated(1, a="one", b="two"), rated(9, a="one", b="two", c="three")]) == 3
    assert store.variants() == ["a", "b", "c"]
    assert store.add([rated(0, c="three")]) == 2
    with pytest.raises(InvalidRequest, match='the answer of "a" to "q1" has another text'):
        store.add([rated(10, a="x", b="y"), rated(1, a="other")])
    assert len(store.questions()) == 5
    with pytest.raises(InvalidRequest, match="the question"):
        store.add([Rated(Question("q1", (("user", "Other?"),), "About."), {"a": "one"})])


def test_equal_answers_are_counted_and_not_shown(path: Path) -> None:
    store = Store(path, Design())
    store.add([rated(1, a="same", b=" same\n", c="other")])
    assert store.count() == 2
    assert store.identical() == {("a", "b"): 1}


def test_a_comparison_is_judged_once_by_a_rater_and_what_is_undone_is_kept(path: Path) -> None:
    store = filled(path)
    assert judge(store, 0, "ada", Outcome.FIRST)
    assert not judge(store, 0, "ada", Outcome.SECOND)
    assert judge(store, 0, "bob", Outcome.SECOND)
    taken = store.undo("ada", 1.0)
    assert taken is not None
    assert taken.outcome is Outcome.FIRST
    assert store.undo("ada", 1.0) is None
    assert [(one.rater, one.outcome) for one in store.judgements()] == [("bob", Outcome.SECOND)]
    assert judge(store, 0, "ada", Outcome.TIE)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT COUNT(*) FROM judgements").fetchone() == (3,)
    db.close()


def test_two_threads_with_a_store_each_lose_nothing(path: Path) -> None:
    filled(path, 60).close()

    def rate(rater: str) -> None:
        store = Store(path)
        for at in range(60):
            assert judge(store, at, rater, Outcome.TIE)
        store.close()

    threads = [threading.Thread(target=rate, args=(rater,)) for rater in ("ada", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Store(path).judgements()) == 120


def test_processes_that_begin_the_same_file_at_once_all_have_it(path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from roundhouse.rating.store import Design, Store
sys.stdin.readline()
print(Store(Path({str(path)!r}), Design(seed=int(sys.argv[1]))).design.seed)
"""
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for seed in range(6)
    ]
    for one in begun:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    assert len({one.communicate(timeout=60)[0] for one in begun} - {""}) == 1
    assert [one.returncode for one in begun] == [0] * 6


@pytest.mark.parametrize("left", [1, 16, 4096, 0.5])
def test_a_file_that_was_cut_is_said_to_be_no_ratings(path: Path, left: float) -> None:
    filled(path, 200).close()
    data = path.read_bytes()
    path.write_bytes(data[: int(left if left >= 1 else left * len(data))])
    with pytest.raises(StoreError, match=r"malformed|not a database|never filled"):
        status_of(Store(path))


def test_what_was_stored_survives_a_kill_in_the_middle(path: Path) -> None:
    filled(path, 50).close()
    code = f"""
from roundhouse.rating.store import Store
from pathlib import Path
store = Store(Path({str(path)!r}))
for one in store.comparisons():
    store.record(one, "ada", None, "a", "", 1.0, 0.0)
    print(one.id, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(10)]
    process.kill()
    seen += map(int, process.communicate()[0].split())
    stored = {number for number, _ in Store(path).judged()}
    assert set(seen) <= stored
    assert len(stored) - len(set(seen)) <= 1


def test_a_full_disk_is_said_and_leaves_what_is_there(path: Path) -> None:
    store = filled(path)
    pages = store._db.query("PRAGMA page_count")[0][0]
    store._db.query(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull, match="cannot be written"):
        store.add([rated(7, a="x" * 100_000, b="y")])
    store._db.query("PRAGMA max_page_count = 100000")
    assert len(store.questions()) == 4
    assert judge(store, 0, "ada", Outcome.FIRST)


def test_files_that_are_no_ratings_are_refused_and_left_alone(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there are no ratings at"):
        Store(path)
    assert not path.exists()
    path.write_text("something else entirely, and long enough to be looked at as a database")
    with pytest.raises(StoreError, match="not a database"):
        Store(path, Design())
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(StoreError, match="not one of ratings"):
        Store(other, Design())
    newer = tmp_path / "newer.ratings"
    store = filled(newer)
    store._db.query("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreError, match="newer Roundhouse"):
        Store(newer)
