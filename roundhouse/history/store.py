"""Requests on disk: one SQLite file in WAL mode, which several processes may write and read at once.

A batch is whole or absent after a crash at any moment. The schema carries its version, and an older file is brought up
step by step. There are numbers and names of the configuration in it, never what was asked or answered.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from roundhouse.core.errors import StoreError
from roundhouse.telemetry.events import RequestEnded

__all__ = ["COLUMNS", "Damaged", "Newer", "Writer", "read_only", "row_of", "set_aside"]

_BUSY_S = 5.0
_JOURNAL_BYTES = 16 << 20
_AT_ONCE = 1000
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_MIGRATIONS = (
    """
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, request_id TEXT NOT NULL, route TEXT NOT NULL, target TEXT NOT NULL,
        model TEXT NOT NULL, prompt TEXT NOT NULL, variant TEXT NOT NULL, experiment TEXT NOT NULL, arm TEXT NOT NULL,
        outcome TEXT NOT NULL, total_s REAL NOT NULL, queue_s REAL NOT NULL, load_s REAL NOT NULL, first_token_s REAL,
        decoding_s REAL NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL, failed_attempts INTEGER NOT NULL, seams INTEGER NOT NULL
    );
    CREATE INDEX requests_by_time ON requests (at);
    """,
)
# In the order of the table: when it ended (seconds since 1970), who was asked and who answered, what it took.
COLUMNS = (
    "at", "request_id", "route", "target", "model", "prompt", "variant", "experiment", "arm", "outcome", "total_s",
    "queue_s", "load_s", "first_token_s", "decoding_s", "input_tokens", "output_tokens", "cached_tokens",
    "failed_attempts", "seams",
)  # fmt: skip
_INSERT = f"INSERT INTO requests ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608


class Damaged(StoreError):
    """The file is no SQLite file, or one with holes."""

    code = "history_damaged"


class Newer(StoreError):
    """The file has a schema that only a newer Roundhouse knows."""

    code = "history_newer"


def row_of(event: RequestEnded, at: float) -> tuple[object, ...]:
    """The values of `COLUMNS` for a request that ended at `at`."""
    return (
        at, event.request_id, event.route, event.target, event.model, event.prompt, event.variant, event.experiment,
        event.arm, event.outcome, event.total_s, event.queue_s, event.load_s, event.first_token_s, event.decoding_s,
        event.input_tokens, event.output_tokens, event.cached_tokens, len(event.failed), event.seams,
    )  # fmt: skip


def read_only(path: Path) -> sqlite3.Connection:
    """For reading beside whoever writes. Raises `StoreError`, which says what is wrong with the file."""
    if not path.is_file():
        raise StoreError(f"there is no history at {path} yet: `roundhouse serve` writes it", path=str(path))
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(_MIGRATIONS):
                raise Newer(f"{path} was written by a newer Roundhouse; use that one", path=str(path))
            if version == 0:
                raise StoreError(f"{path} is no history of requests", path=str(path))
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {error}", path=str(path)) from error
    return db


class Writer:
    """For one caller at a time. Every method waits at most 5 s for another process.

    Raises `Damaged`, `Newer`, or `StoreError` for a disk that is full, locked or not there; then nothing was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # What requests took is nobody else's business; SQLite gives its journals the same rights.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._inode = path.stat().st_ino
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path} cannot be opened: {error}", path=str(path)) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise self._error(error, "opened") from error
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @property
    def in_place(self) -> bool:
        """Whether its file is still the one under its name: nobody has removed it or put another there."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def write(self, rows: Iterable[Sequence[object]]) -> None:
        """All of them or none."""
        self._transact(lambda: self._db.executemany(_INSERT, rows))

    def retain(self, oldest: float, most_bytes: int) -> int:
        """Remove what ended before `oldest`, and the oldest beyond `most_bytes` of file; gives how many.

        Little by little, so that others get their turn between.
        """
        try:
            removed = 0
            while count := self._remove("at < ?", oldest):
                removed += count
            while self._used() > most_bytes and (count := self._remove("?", 1)):
                removed += count
            if removed or self._free_pages():
                self._db.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            raise self._error(error, "written") from error
        return removed

    def _remove(self, which: str, value: float) -> int:
        sql = f"DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE {which} ORDER BY at LIMIT {_AT_ONCE})"  # noqa: S608
        return self._db.execute(sql, (value,)).rowcount

    def _used(self) -> int:
        count, size = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int((count - self._free_pages()) * size)

    def _free_pages(self) -> int:
        return int(self._db.execute("PRAGMA freelist_count").fetchone()[0])

    def _prepare(self) -> None:
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._db.execute("PRAGMA journal_mode=WAL").fetchall()
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(f"PRAGMA journal_size_limit={_JOURNAL_BYTES}")
        version = self._version()
        if version > len(_MIGRATIONS):
            raise Newer(f"{self.path} was written by a newer Roundhouse and is left as it is", path=str(self.path))
        for number in range(version, len(_MIGRATIONS)):
            self._transact(lambda number=number: self._migrate(number))  # type: ignore[misc]

    def _migrate(self, number: int) -> None:
        if self._version() == number:  # another process may have done it meanwhile
            for statement in _MIGRATIONS[number].split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {number + 1}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _transact(self, act: Callable[[], object]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                act()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._error(error, "written") from error

    def _error(self, error: sqlite3.Error, what: str) -> StoreError:
        kind = Damaged if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE else StoreError
        return kind(f"{self.path} cannot be {what}: {error}", path=str(self.path))


def set_aside(path: Path) -> Path:
    """Give a damaged file another name, with its journals, so that a new one can begin; gives that name."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    for end in ("-wal", "-shm", ""):
        source = path.with_name(path.name + end)
        if source.exists():
            source.replace(aside.with_name(aside.name + end))
    return aside
