"""A database of either kind: whole transactions, versions brought up by one process at a time, errors that say why."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeAlias

import pytest

from roundhouse.core.errors import DiskFull, StoreError
from roundhouse.database import Address, Database, Newer, Place, Refused, Schema, open_database
from roundhouse.database.dialect import POSTGRES, SQLITE

FIRST = "CREATE TABLE things (id {whole} PRIMARY KEY, name {text} NOT NULL, size {real}) {clustered}"
SECOND = "ALTER TABLE things ADD COLUMN colour {text} NOT NULL DEFAULT 'grey'; CREATE INDEX by_name ON things (name);"
ONE, TWO = Schema("things", (FIRST,)), Schema("things", (FIRST, SECOND))
Opened: TypeAlias = Callable[..., Database]


@pytest.fixture
def opened(place: Place) -> Iterator[Opened]:
    with ExitStack() as stack:
        yield lambda schema=ONE: stack.enter_context(closing(open_database(place, schema)))


def _add(db: Database, number: int, name: str = "x", size: float | None = None) -> None:
    with db.transaction() as opened:
        opened.execute("INSERT INTO things (id, name, size) VALUES (?, ?, ?)", (number, name, size))


def test_what_is_committed_is_seen_by_all_and_what_is_taken_back_by_nobody(opened: Opened) -> None:
    one, two = opened(), opened()
    _add(one, 1, "ünï 100 % ? '", 0.5)
    with pytest.raises(RuntimeError), one.transaction() as db:
        assert db.execute("UPDATE things SET size = ? WHERE id = ?", (2.0, 1)) == 1
        raise RuntimeError
    assert two.query("SELECT id, name, size FROM things WHERE name LIKE ?", ("ünï 100 %",)) == [
        (1, "ünï 100 % ? '", 0.5)
    ]
    _add(one, 2**63 - 1)
    assert two.query("SELECT SUM(size), COUNT(*), MAX(id) FROM things") == [(0.5, 2, 2**63 - 1)]


def test_a_snapshot_is_of_one_moment_and_gives_rows_in_batches(opened: Opened) -> None:
    one, two = opened(), opened()
    with one.transaction() as db:
        db.execute_many("INSERT INTO things (id, name) VALUES (?, ?)", ((n, str(n)) for n in range(2500)))
    with two.snapshot() as seen:
        assert seen.query("SELECT COUNT(*) FROM things") == [(2500,)]
        _add(one, 9999)
        sizes = [len(rows) for rows in seen.batches("SELECT id FROM things ORDER BY id", (), 1000)]
        assert sizes == [1000, 1000, 500]
    assert two.query("SELECT COUNT(*) FROM things") == [(2501,)]


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 237])
def test_rows_are_inserted_together_each_once(opened: Opened, count: int) -> None:
    db = opened()
    _add(db, 0, "there already")
    rows = [(number, f"row {number}") for number in range(count)]
    with db.transaction() as inside:
        inside.insert_many("things (id, name)", [*rows, *reversed(rows)], "ON CONFLICT DO NOTHING")
    expected = dict(rows) | {0: "there already"}
    assert dict(db.query("SELECT id, name FROM things")) == expected


def test_of_rows_inserted_together_one_that_is_refused_keeps_all_out(opened: Opened) -> None:
    db = opened()
    _add(db, 77)
    with pytest.raises(StoreError), db.transaction() as inside:
        inside.insert_many("things (id, name)", [(number, "x") for number in range(120)])
    assert db.query("SELECT COUNT(*) FROM things") == [(1,)]


def test_texts_are_in_the_order_of_their_bytes(opened: Opened) -> None:
    db = opened()
    for number, name in enumerate(("b", "B", "ä", "a", "_", "\U0010ffff")):
        _add(db, number, name)
    assert [row[0] for row in db.query("SELECT name FROM things ORDER BY name")] == [
        "B", "_", "a", "b", "ä", "\U0010ffff",
    ]  # fmt: skip


def test_an_older_schema_is_brought_up_and_its_rows_stay(opened: Opened) -> None:
    _add(opened(ONE), 1)
    assert opened(TWO).query("SELECT id, name, colour FROM things") == [(1, "x", "grey")]
    with pytest.raises(Newer, match="newer Roundhouse"):
        opened(ONE).query("SELECT 1")


def test_a_step_that_fails_leaves_the_version_before_it(opened: Opened) -> None:
    _add(opened(ONE), 1)
    broken = Schema("things", (FIRST, "ALTER TABLE things ADD COLUMN colour {text}; CREATE NONSENSE"))
    with pytest.raises(StoreError):
        opened(broken).query("SELECT 1")
    assert opened(TWO).query("SELECT colour FROM things") == [("grey",)]


def test_many_that_open_a_new_place_at_once_make_its_tables_once(place: Place) -> None:
    errors: list[Exception] = []
    ready = threading.Barrier(8)

    def use(number: int) -> None:
        try:
            ready.wait()
            with closing(open_database(place, TWO)) as db:
                _add(db, number)
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with closing(open_database(place, TWO)) as db:
        assert db.query("SELECT COUNT(*) FROM things") == [(8,)]


def test_a_value_that_it_will_never_take_is_told_from_a_database_that_is_away(opened: Opened) -> None:
    db = opened()
    _add(db, 1)
    with pytest.raises(StoreError):
        _add(db, 1)
    _add(db, 2)  # it goes on being usable


def test_postgresql_refuses_what_is_no_text(place: Place, opened: Opened) -> None:
    db = opened()
    if not isinstance(place, Address):
        pytest.skip("SQLite keeps any text")
    with pytest.raises(Refused):
        _add(db, 1, "a\0b")
    assert db.query("SELECT COUNT(*) FROM things") == [(0,)]


def test_a_full_disk_is_said_and_what_is_there_stays(place: Place, opened: Opened) -> None:
    db = opened()
    if isinstance(place, Address):
        pytest.skip("the disk of a server is somebody else's")
    _add(db, 1)
    pages = db.query("PRAGMA page_count")[0][0]
    db.query(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull, match="full"):
        _add(db, 2, "x" * 100_000)
    assert db.query("SELECT id FROM things") == [(1,)]


def test_changes_are_noticed_by_other_connections_and_only_once_they_are_there(opened: Opened) -> None:
    one, two = opened(), opened()
    before = one.changes()
    with two.transaction() as db:
        db.execute("INSERT INTO things (id, name) VALUES (1, 'x')")
        db.changed()
        if one.remote:
            assert one.changes() == before
    assert one.changes() != before


def test_the_words_of_both_dialects_are_the_same() -> None:
    assert SQLITE.words.keys() == POSTGRES.words.keys()
    assert SQLITE.times.keys() == POSTGRES.times.keys()


def test_the_driver_of_postgresql_is_loaded_only_where_one_is_named(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from roundhouse.database import Schema, open_database
open_database(Path({str(tmp_path / "x.sqlite")!r}), Schema("things", ())).close()
assert "psycopg" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:s3cret@db.example:5433/house", "postgresql://ann@db.example:5433/house"),
        ("postgresql:///house?host=/run/postgresql", "postgresql:///house"),
        ("postgresql://ann:s3cr%40t@[::1]/house", "postgresql://ann@[::1]/house"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    address = Address(url, "another secret")
    assert str(address) == shown
    assert "s3cr" not in repr(address)
    assert "another" not in repr(address)
    said = address.scrubbed(f"bad {url} with s3cret or s3cr@t or another secret")
    assert "another secret" not in said
    assert url not in said
