"""PostgreSQL goes away in every way it can; a call ends within its limit and says so, and the next one works again."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from roundhouse.core.errors import StoreError
from roundhouse.database import Address, Database, Schema, Unavailable, open_database
from tests.postgres import PASSWORD, Postgres

pytestmark = pytest.mark.postgres
SCHEMA = Schema("things", ("CREATE TABLE things (id {whole} PRIMARY KEY)",))


@pytest.fixture
def db(postgres: Postgres) -> Iterator[Database]:
    with closing(open_database(Address(postgres.fresh(), PASSWORD), SCHEMA, limit_s=2.0)) as found:
        yield found


def _add(db: Database, number: int) -> None:
    with db.transaction() as opened:
        opened.execute("INSERT INTO things VALUES (?)", (number,))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL], ids=["fast", "immediate", "killed"])
def test_connections_survive_a_restart(postgres: Postgres, db: Database, how: signal.Signals) -> None:
    _add(db, 1)
    postgres.stop(how)
    try:
        for call in (lambda: db.query("SELECT 1"), lambda: _add(db, 2), db.changes):
            with pytest.raises(Unavailable):
                call()
    finally:
        postgres.start()
    assert db.query("SELECT id FROM things") == [(1,)]
    _add(db, 3)


def test_a_restart_between_two_calls_is_not_even_noticed(postgres: Postgres, db: Database) -> None:
    _add(db, 1)
    postgres.stop()
    postgres.start()
    _add(db, 2)
    postgres.stop()
    postgres.start()
    assert db.query("SELECT COUNT(*) FROM things") == [(2,)]


def test_a_frozen_server_costs_no_more_than_the_limit(postgres: Postgres, db: Database) -> None:
    _add(db, 1)
    postgres.freeze(True)
    try:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            db.query("SELECT COUNT(*) FROM things")
        with pytest.raises(Unavailable):
            _add(db, 2)
        assert time.monotonic() - began < 60  # and not for ever, which is what a frozen server takes
    finally:
        postgres.freeze(False)
    assert db.query("SELECT COUNT(*) FROM things") == [(1,)]


def test_a_process_that_is_frozen_in_a_transaction_does_not_hold_its_rows_for_ever(
    postgres: Postgres, db: Database
) -> None:
    _add(db, 1)
    code = """
import sys
from roundhouse.database import Address, Schema, Unavailable, open_database
db = open_database(Address(sys.argv[1], sys.argv[2]), Schema("things", (sys.argv[3],)), limit_s=2.0)
try:
    with db.transaction() as opened:
        opened.execute("UPDATE things SET id = 2")
        print("here", flush=True)
        sys.stdin.readline()
except Unavailable:
    print("it was taken back", flush=True)
db.query("SELECT 1")
"""
    assert isinstance(db.place, Address)
    command = [sys.executable, "-c", code, db.place.url, PASSWORD, SCHEMA.steps[0]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as frozen:
        assert frozen.stdout is not None
        assert frozen.stdout.readline() == "here\n"
        frozen.send_signal(signal.SIGSTOP)
        try:
            for _ in range(10):  # each waits for the row for two seconds at most
                try:
                    with db.transaction() as opened:
                        opened.execute("UPDATE things SET id = 3")
                    break
                except Unavailable:
                    continue
            assert db.query("SELECT id FROM things") == [(3,)]
        finally:
            frozen.send_signal(signal.SIGCONT)
        assert frozen.communicate("go on\n", timeout=60)[0] == "it was taken back\n"
        assert frozen.returncode == 0


def test_a_statement_that_takes_too_long_is_ended_and_the_connection_stays(db: Database) -> None:
    with pytest.raises(Unavailable):
        db.query("SELECT pg_sleep(60)")
    assert db.query("SELECT 1") == [(1,)]


def test_a_wrong_password_is_said_and_never_shown(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = postgres.url("postgres").replace("roundhouse@", "roundhouse:hunter2secret@")
    for address in (Address(url), Address(postgres.url("postgres"), "hunter2secret")):
        with closing(open_database(address, SCHEMA)) as db, pytest.raises(Unavailable, match="password") as caught:
            db.query("SELECT 1")
        assert "hunter2secret" not in f"{caught.value} {caught.value!r} {caplog.text}"


def test_an_address_that_libpq_cannot_read_is_an_error_without_the_password() -> None:
    address = Address("postgresql://ann:hunter2secret@host/db?nonsense=1")
    with closing(open_database(address, SCHEMA)) as db, pytest.raises(StoreError) as caught:
        db.query("SELECT 1")
    assert "hunter2secret" not in str(caught.value)
    assert "nonsense" in str(caught.value)


def test_without_the_driver_the_extra_is_named(postgres: Postgres) -> None:
    code = """
import sys
sys.modules["psycopg"] = None
from roundhouse.core.errors import MissingExtra
from roundhouse.database import Address, Schema, open_database
try:
    open_database(Address("postgresql://h/d"), Schema("x", ()))
except MissingExtra as error:
    assert "roundhouse[postgres]" in str(error)
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_user_who_may_make_no_tables_is_told_what_is_missing(postgres: Postgres) -> None:
    url = postgres.fresh()
    with postgres.connect(url.rpartition("/")[2]) as admin:
        admin.execute("DROP ROLE IF EXISTS guest")
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    guest = Address(url.replace("roundhouse@", "guest@"), "guest")
    with closing(open_database(guest, SCHEMA)) as db, pytest.raises(StoreError, match="CREATE"):
        db.query("SELECT 1")
    with postgres.connect(url.rpartition("/")[2]) as admin:  # as an administrator would
        admin.execute("CREATE SCHEMA roundhouse AUTHORIZATION guest")
    with closing(open_database(guest, SCHEMA)) as db:
        assert db.query("SELECT COUNT(*) FROM things") == [(0,)]


def test_the_planner_learns_what_came_since_it_looked_and_looks_no_oftener(postgres: Postgres, db: Database) -> None:
    def fill(low: int, high: int) -> None:
        # Its end, soon after, tells the statistics.
        with closing(open_database(db.place, SCHEMA)) as other, other.transaction() as opened:
            opened.execute("ALTER TABLE things SET (autovacuum_enabled = false)")
            opened.execute("INSERT INTO things SELECT * FROM generate_series(?::bigint, ?::bigint)", (low, high - 1))

    def told(changed: int) -> None:
        deadline = time.monotonic() + 30
        sql = "SELECT n_mod_since_analyze FROM pg_stat_user_tables WHERE relname = 'things'"
        while db.query(sql) != [(changed,)]:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def known() -> tuple[float, int]:
        (row,) = db.query("""
            SELECT c.reltuples, s.analyze_count FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
            WHERE s.relname = 'things'
        """)
        return row[0], row[1]

    fill(0, 20_000)
    told(20_000)
    assert known()[1] == 0
    for _ in range(2):
        db.survey("things", "versions")
        assert known() == (20_000, 1)
    fill(20_000, 22_000)  # too few to matter
    told(2000)
    db.survey("things")
    assert known()[1] == 1
    fill(22_000, 40_000)
    told(20_000)
    db.survey("things")
    assert known() == (40_000, 2)


def test_a_table_that_somebody_else_is_at_is_left_to_them(postgres: Postgres, db: Database) -> None:
    _add(db, 1)
    with postgres.connect(str(db.place).rpartition("/")[2]) as other, other.transaction():
        other.execute("LOCK TABLE roundhouse.things IN SHARE UPDATE EXCLUSIVE MODE")  # as VACUUM and ANALYZE do
        db.survey("things")
    assert db.query("SELECT id FROM things") == [(1,)]
