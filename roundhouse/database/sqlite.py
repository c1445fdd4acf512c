"""SQLite by the standard library: a file in WAL mode, which several processes may write and read at once."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

from roundhouse.core.errors import DiskFull, StoreError
from roundhouse.database.dialect import SQLITE
from roundhouse.database.seam import Damaged, Database, Row, Schema, Transaction, Unavailable

__all__ = ["SQLiteDatabase", "Tuning"]

_AGAIN_S = 0.01
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_KINDS: dict[int, type[StoreError]] = {
    sqlite3.SQLITE_CORRUPT: Damaged,
    sqlite3.SQLITE_NOTADB: Damaged,
    sqlite3.SQLITE_FULL: DiskFull,
    **dict.fromkeys(_BUSY, Unavailable),
}
# Rows of one statement. Each statement gives the interpreter's lock away and waits to have it back: at one a row, a
# busy event loop lost more to that than the rows themselves cost (docs/performance.md).
_ROWS = 50


@dataclass(frozen=True, slots=True)
class Tuning:
    """`before`: pragmas that count only for a file that is still empty; `pragmas`: those of every connection.

    `application`: the mark by which a file says whose it is (`PRAGMA application_id`); one that has tables and another
    mark is left as it is. `rights`: of a new file, less the process's umask.
    """

    before: tuple[str, ...] = ()
    pragmas: tuple[str, ...] = ()
    application: int = 0
    rights: int = 0o600


@lru_cache(maxsize=64)
def _insert(into: str, columns: int, rows: int, otherwise: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {into} VALUES {', '.join([row] * rows)} {otherwise}"  # noqa: S608


class _Open(Transaction):
    dialect = SQLITE

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return self._db.execute(sql, values).fetchall()

    def execute(self, sql: str, values: Sequence[object] = ()) -> int:
        return self._db.execute(sql, values).rowcount

    def execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        self._db.executemany(sql, rows)

    def insert_many(self, into: str, rows: Sequence[Sequence[object]], otherwise: str = "") -> None:
        if not rows:
            return
        columns = len(rows[0])
        at_once = min(_ROWS, self._db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // columns)
        whole = len(rows) - len(rows) % at_once
        for start in range(0, whole, at_once):
            values = list(chain.from_iterable(rows[start : start + at_once]))
            self._db.execute(_insert(into, columns, at_once, otherwise), values)
        self._db.executemany(_insert(into, columns, 1, otherwise), rows[whole:])

    def batches(self, sql: str, values: Sequence[object], size: int) -> Iterator[list[Row]]:
        found = self._db.execute(sql, values)
        while rows := found.fetchmany(size):
            yield rows

    def changed(self) -> None:
        """`PRAGMA data_version` tells by itself."""


class SQLiteDatabase(Database):
    """The version of the schema is the file's `user_version`. A new file is its owner's alone, unless `tuning` says
    else, and so are its journals, to which SQLite gives the same rights.
    """

    dialect = SQLITE
    remote = False

    def __init__(self, path: Path, schema: Schema, limit_s: float, tuning: Tuning, *, read_only: bool = False) -> None:
        self.place = self.path = path
        self.schema = schema
        self._lock = threading.RLock()
        try:
            self._db = self._read_only(limit_s) if read_only else self._writable(limit_s, tuning.rights)
        except (OSError, sqlite3.Error) as error:
            raise self._error(error, "opened") from error
        try:
            if read_only:
                self._check()
            else:
                self._prepare(tuning, time.monotonic() + limit_s)
        except sqlite3.Error as error:
            self._db.close()
            raise self._error(error, "read" if read_only else "opened") from error
        except BaseException:
            self._db.close()
            raise

    def _writable(self, limit_s: float, rights: int) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, rights))
        db = sqlite3.connect(self.path, timeout=limit_s, isolation_level=None, check_same_thread=False)
        self._inode = self.path.stat().st_ino
        return db

    def _read_only(self, limit_s: float) -> sqlite3.Connection:
        self._inode = self.path.stat().st_ino
        uri = f"{self.path.resolve().as_uri()}?mode=ro"
        return sqlite3.connect(uri, uri=True, timeout=limit_s, isolation_level=None, check_same_thread=False)

    @property
    def in_place(self) -> bool:
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        self._db.close()

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        try:
            with self._lock:
                return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._error(error, "read") from error

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self._within("BEGIN IMMEDIATE", "written") as opened:
            yield opened

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        with self._within("BEGIN", "read") as opened:
            yield opened

    def changes(self) -> int:
        return int(self.query("PRAGMA data_version")[0][0])

    def survey(self, *tables: str) -> None:
        """Its joins are written in the order in which they are done (`Dialect.then`)."""

    def used_bytes(self) -> int:
        pages, free, size = (
            int(self.query(f"PRAGMA {name}")[0][0]) for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def give_back(self) -> None:
        try:
            with self._lock:
                if self._db.execute("PRAGMA freelist_count").fetchone()[0]:
                    self._db.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            raise self._error(error, "written") from error

    @contextmanager
    def _within(self, begin: str, what: str) -> Iterator[Transaction]:
        with self._lock:
            try:
                self._db.execute(begin)
                try:
                    yield _Open(self._db)
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._error(error, what) from error

    def _prepare(self, tuning: Tuning, deadline: float) -> None:
        if tuning.application:
            self._claim(tuning.application, deadline)
        for pragma in (*tuning.before, "journal_mode=WAL", "synchronous=NORMAL", *tuning.pragmas):
            self._patiently(f"PRAGMA {pragma}", deadline)
        steps = len(self.schema.steps)
        if self._version() > steps:
            raise self.newer()
        for number in range(self._version(), steps):
            with self.transaction() as opened:
                if self._version() == number:  # another process may have done it while this one waited for its turn
                    for statement in self.schema.statements(number, self.dialect):
                        opened.execute(statement)
                    if tuning.application:
                        opened.execute(f"PRAGMA application_id = {tuning.application}")
                    opened.execute(f"PRAGMA user_version = {number + 1}")

    def _claim(self, application: int, deadline: float) -> None:
        # In this order: another process may make both, in one transaction, between the two looks.
        tables = self._patiently("SELECT COUNT(*) FROM sqlite_master", deadline)[0][0]
        mark = self._patiently("PRAGMA application_id", deadline)[0][0]
        if tables and mark != application:
            said = f"{self.path} is a database, but not one of {self.schema.part}"
            raise StoreError(said, path=str(self.path))

    def _patiently(self, sql: str, deadline: float) -> list[Row]:
        """Of several that open a new file at once, SQLite lets one change its mode and refuses the others without a
        wait, whatever their limit is (sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY In WAL Mode").
        """
        while True:
            try:
                return self._db.execute(sql).fetchall()
            except sqlite3.OperationalError as error:
                if (error.sqlite_errorcode & 0xFF) not in _BUSY or time.monotonic() >= deadline:
                    raise
                time.sleep(_AGAIN_S)

    def _check(self) -> None:
        version = self._version()
        if version > len(self.schema.steps):
            raise self.newer()
        if version == 0:
            raise StoreError(f"{self.path} has no {self.schema.part} in it", path=str(self.path))

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _error(self, error: Exception, what: str) -> StoreError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return _KINDS.get(code, StoreError)(f"{self.path} cannot be {what}: {error}", path=str(self.path))
