"""PostgreSQL by psycopg: the tables lie in a schema `roundhouse`, their versions in its table `versions`.

Every call ends within its limit, even if the server is frozen or the network swallows everything: the socket is cut
then. A lost connection is made anew by the next call.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from os import dup

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader

from roundhouse.core.errors import StoreError
from roundhouse.database.dialect import POSTGRES
from roundhouse.database.place import Address
from roundhouse.database.seam import Database, Refused, Row, Schema, Transaction, Unavailable

__all__ = ["PostgresDatabase", "examine"]

_CONNECT_S = 2
_NAMESPACE = "roundhouse"
_Frozen = psycopg.errors.IdleInTransactionSessionTimeout
_LOCK = 7_385_105  # of pg_advisory_xact_lock, while a schema is looked at and brought up
# The last of them: a process that is frozen in a transaction holds its rows no longer than a living one would.
_OPTIONS = (
    "-c search_path={schema} -c work_mem=64MB -c TimeZone=UTC -c statement_timeout={ms} -c lock_timeout={ms} "
    "-c idle_in_transaction_session_timeout={ms}"
)
# Without statistics a million rows are planned for as one, and joined one by one; autovacuum takes them once a minute.
# These are tables that have none, or have changed by a fifth since.
_UNKNOWN = """
    SELECT relname FROM pg_stat_user_tables
    WHERE schemaname = current_schema() AND relname = ANY(?)
        AND (COALESCE(last_analyze, last_autoanalyze) IS NULL OR n_mod_since_analyze > 1000 + n_live_tup / 5)
"""
# Sums of whole numbers come as NUMERIC; who reads them wants int and float.


class _Number(Loader):
    def load(self, data: Buffer) -> int | float:
        text = bytes(data)
        return int(text) if text.lstrip(b"-").isdigit() else float(text)


@lru_cache(maxsize=512)
def _placed(sql: str) -> str:
    """With the placeholders of psycopg."""
    return sql.replace("%", "%%").replace("?", "%s")


class _Open(Transaction):
    dialect = POSTGRES

    def __init__(self, db: psycopg.Connection[Row], part: str) -> None:
        self._db = db
        self._part = part

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return self._db.execute(_placed(sql), values).fetchall()

    def execute(self, sql: str, values: Sequence[object] = ()) -> int:
        return self._db.execute(_placed(sql), values).rowcount

    def execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        with self._db.cursor() as cursor:
            cursor.executemany(_placed(sql), rows)

    def insert_many(self, into: str, rows: Sequence[Sequence[object]], otherwise: str = "") -> None:
        if rows:
            values = ", ".join("?" * len(rows[0]))
            self.execute_many(f"INSERT INTO {into} VALUES ({values}) {otherwise}", rows)  # noqa: S608

    def batches(self, sql: str, values: Sequence[object], size: int) -> Iterator[list[Row]]:
        with self._db.cursor("batches") as cursor:
            cursor.execute(_placed(sql), values)
            while rows := cursor.fetchmany(size):
                yield rows

    def changed(self) -> None:
        self.execute("UPDATE changes SET number = number + 1 WHERE part = ?", (self._part,))


class PostgresDatabase(Database):
    dialect = POSTGRES
    remote = True

    def __init__(self, address: Address, schema: Schema, limit_s: float) -> None:
        self.place = self.address = address
        self.schema = schema
        self._limit_s = limit_s
        self._lock = threading.RLock()
        self._db: psycopg.Connection[Row] | None = None

    def close(self) -> None:
        with self._lock:
            db, self._db = self._db, None
            if db is not None:
                db.close()

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        with self._lock, self._told("read"):
            try:
                return self._asked(sql, values)
            except psycopg.OperationalError:
                if self._db is not None and not self._db.broken:
                    raise  # it answered, and said no
                return self._asked(sql, values)  # the connection was an old one: the server has started anew

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self._within("BEGIN", "written") as opened:
            yield opened

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        with self._within("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "read") as opened:
            yield opened

    def changes(self) -> int:
        return int(self.query("SELECT number FROM changes WHERE part = ?", (self.schema.part,))[0][0])

    def survey(self, *tables: str) -> None:
        if unknown := [name for (name,) in self.query(_UNKNOWN, (list(tables),))]:
            with self.transaction() as opened:  # one that is looked at already is left to whoever does so
                opened.execute(f"ANALYZE (SKIP_LOCKED) {', '.join(sorted(unknown))}")

    def used_bytes(self) -> int:
        return 0

    def give_back(self) -> None:
        """The server does so by itself."""

    def _asked(self, sql: str, values: Sequence[object]) -> list[Row]:
        db = self._connected()
        with self._bounded(db):
            return _Open(db, self.schema.part).query(sql, values)

    @contextmanager
    def _within(self, begin: str, what: str) -> Iterator[Transaction]:
        with self._lock, self._told(what):
            db = self._begun(begin)
            with self._bounded(db):
                try:
                    yield _Open(db, self.schema.part)
                    db.execute("COMMIT")
                except BaseException:
                    with suppress(psycopg.Error):
                        db.rollback()
                    raise

    def _begun(self, begin: str) -> psycopg.Connection[Row]:
        """A connection that lives: nothing was asked yet, so that a dead one may be exchanged."""
        for last in (False, True):
            db = self._connected()
            try:
                with self._bounded(db):
                    db.execute(begin)
                return db
            except psycopg.OperationalError:
                if last or not db.broken:
                    raise
        raise AssertionError

    def _connected(self) -> psycopg.Connection[Row]:
        if self._db is not None and not self._db.closed:
            return self._db
        db = _connect(self.address, self._limit_s)
        try:
            with self._bounded(db):
                self._migrate(db)
        except BaseException:
            db.close()
            raise
        self._db = db
        return db

    @contextmanager
    def _bounded(self, db: psycopg.Connection[Row]) -> Iterator[None]:
        """Whatever is waited for on this connection ends when its time is up: the socket is shut under it."""
        with socket.socket(fileno=dup(db.fileno())) as line:
            timer = threading.Timer(self._limit_s, _shut, (line,))
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
                timer.join()

    def _migrate(self, db: psycopg.Connection[Row]) -> None:
        """One process at a time looks at the schema and brings it up."""
        part, steps = self.schema.part, self.schema.steps
        with db.transaction():
            opened = _Open(db, part)
            opened.query("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            if not opened.query("SELECT 1 FROM pg_namespace WHERE nspname = ?", (_NAMESPACE,)):
                opened.execute(f"CREATE SCHEMA {_NAMESPACE}")
            if not opened.query("SELECT to_regclass('versions')")[0][0]:
                opened.execute("CREATE TABLE versions (part TEXT PRIMARY KEY, version INTEGER NOT NULL)")
                opened.execute("CREATE TABLE changes (part TEXT PRIMARY KEY, number BIGINT NOT NULL)")
            found = opened.query("SELECT version FROM versions WHERE part = ?", (part,))
            version = found[0][0] if found else 0
            if version > len(steps):
                raise self.newer()
            for number in range(version, len(steps)):
                for statement in self.schema.statements(number, self.dialect):
                    opened.execute(statement)
            if not found:
                opened.execute("INSERT INTO versions VALUES (?, ?)", (part, len(steps)))
                opened.execute("INSERT INTO changes VALUES (?, 0)", (part,))
            elif version < len(steps):
                opened.execute("UPDATE versions SET version = ? WHERE part = ?", (len(steps), part))

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError) as error:
            raise self._error(Refused, what, error) from error
        except (psycopg.OperationalError, psycopg.InterfaceError, _Frozen) as error:
            raise self._error(Unavailable, what, error) from error
        except psycopg.errors.InsufficientPrivilege as error:
            hint = f"; an administrator runs CREATE SCHEMA {_NAMESPACE} AUTHORIZATION its user"
            raise self._error(StoreError, what, error, hint) from error
        except psycopg.Error as error:
            raise self._error(StoreError, what, error) from error

    def _error(self, kind: type[StoreError], what: str, error: Exception, more: str = "") -> StoreError:
        said = self.address.scrubbed(" ".join(str(error).split()))
        return kind(f"{self.address} cannot be {what}: {said or type(error).__name__}{more}", path=str(self.address))


def _connect(address: Address, limit_s: float) -> psycopg.Connection[Row]:
    ms = max(1, int(limit_s * 1000))
    db: psycopg.Connection[Row] = psycopg.connect(
        address.url,
        password=address.password or None,
        autocommit=True,
        prepare_threshold=None,  # a pooler between may give each statement another connection
        connect_timeout=_CONNECT_S,
        tcp_user_timeout=ms,
        keepalives_idle=10,
        application_name="roundhouse",
        options=_OPTIONS.format(schema=_NAMESPACE, ms=ms),
    )
    db.adapters.register_loader("numeric", _Number)
    return db


def examine(address: Address, limit_s: float = 3.0) -> tuple[str, dict[str, int]]:
    """The server's version, and that of each schema there is. Changes nothing. Raises `StoreError`."""
    database = PostgresDatabase(address, Schema("", ()), limit_s)
    with database._told("read"), closing(_connect(address, limit_s)) as db, database._bounded(db):
        opened = _Open(db, "")
        version = str(opened.query("SHOW server_version")[0][0])
        there = opened.query("SELECT to_regclass('versions')")[0][0]
        return version, dict(opened.query("SELECT part, version FROM versions")) if there else {}


def _shut(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
