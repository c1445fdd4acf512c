"""Requests as they are kept: in a file, which several processes may write and read at once, or in a shared database.

There are numbers and names of the configuration in it, never what was asked or answered. What is written twice is there
once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from roundhouse.core.errors import StoreError
from roundhouse.database import Database, Place, Schema, open_database
from roundhouse.database.sqlite import Tuning
from roundhouse.telemetry.events import RequestEnded

__all__ = ["COLUMNS", "Writer", "reading", "row_of", "set_aside"]

_LIMIT_S = 5.0
_READ_S = 60.0
_AT_ONCE = 1000
_TUNING = Tuning(before=("auto_vacuum=INCREMENTAL",), pragmas=(f"journal_size_limit={16 << 20}",))
_SCHEMA = Schema(
    "history",
    (
        """
    CREATE TABLE requests (
        id {serial}, at {real} NOT NULL, request_id {text} NOT NULL, route {text} NOT NULL, target {text} NOT NULL,
        model {text} NOT NULL, prompt {text} NOT NULL, variant {text} NOT NULL, experiment {text} NOT NULL,
        arm {text} NOT NULL, outcome {text} NOT NULL, total_s {real} NOT NULL, queue_s {real} NOT NULL,
        load_s {real} NOT NULL, first_token_s {real}, decoding_s {real} NOT NULL, input_tokens {whole} NOT NULL,
        output_tokens {whole} NOT NULL, cached_tokens {whole} NOT NULL, failed_attempts {whole} NOT NULL,
        seams {whole} NOT NULL
    );
    CREATE INDEX requests_by_time ON requests (at);
    """,
        # A request that is told again, for nobody knew whether the first time had arrived, is there once.
        """
    DELETE FROM requests WHERE id NOT IN (SELECT MIN(id) FROM requests GROUP BY at, request_id);
    CREATE UNIQUE INDEX requests_once ON requests (at, request_id);
    DROP INDEX requests_by_time;
    """,
    ),
)
# In the order of the table: when it ended (seconds since 1970), who was asked and who answered, what it took.
COLUMNS = (
    "at", "request_id", "route", "target", "model", "prompt", "variant", "experiment", "arm", "outcome", "total_s",
    "queue_s", "load_s", "first_token_s", "decoding_s", "input_tokens", "output_tokens", "cached_tokens",
    "failed_attempts", "seams",
)  # fmt: skip
_INTO = f"requests ({', '.join(COLUMNS)})"


def row_of(event: RequestEnded, at: float) -> tuple[object, ...]:
    """The values of `COLUMNS` for a request that ended at `at`."""
    return (
        at, event.request_id, event.route, event.target, event.model, event.prompt, event.variant, event.experiment,
        event.arm, event.outcome, event.total_s, event.queue_s, event.load_s, event.first_token_s, event.decoding_s,
        event.input_tokens, event.output_tokens, event.cached_tokens, len(event.failed), event.seams,
    )  # fmt: skip


def reading(place: Place, *, limit_s: float = _READ_S) -> Database:
    """For reading beside whoever writes. Raises `StoreError`, which says what is wrong with the place."""
    if isinstance(place, Path) and not place.is_file():
        raise StoreError(f"there is no history at {place} yet: `roundhouse serve` writes it", path=str(place))
    return open_database(place, _SCHEMA, limit_s=limit_s, read_only=True)


class Writer:
    """For one caller at a time. Every method waits at most 5 s for another process or the database.

    Raises `Damaged`, `Newer`, `Unavailable`, or `StoreError` for a disk that is full; then nothing was written.
    """

    def __init__(self, place: Place, *, limit_s: float = _LIMIT_S) -> None:
        self.place = place
        self._db = open_database(place, _SCHEMA, limit_s=limit_s, tuning=_TUNING)

    def close(self) -> None:
        self._db.close()

    @property
    def in_place(self) -> bool:
        """Whether its file is still the one under its name."""
        return self._db.in_place

    def write(self, rows: Sequence[Sequence[object]]) -> None:
        """All of them or none; a request that is there already is not written again."""
        with self._db.transaction() as db:
            db.insert_many(_INTO, rows, "ON CONFLICT DO NOTHING")

    def bring(self, other: Database) -> int:
        """Take over the requests that `other` has and this one lacks; gives how many there are."""
        count = 0
        with other.snapshot() as theirs:
            for rows in theirs.batches(f"SELECT {', '.join(COLUMNS)} FROM requests ORDER BY id", (), _AT_ONCE):  # noqa: S608
                self.write(rows)
                count += len(rows)
        return count

    def retain(self, oldest: float, most_bytes: int) -> int:
        """Remove what ended before `oldest`, and the oldest beyond `most_bytes` of file; gives how many.

        Little by little, so that others get their turn between.
        """
        removed = 0
        while count := self._remove("at < ?", oldest):
            removed += count
        while self._db.used_bytes() > most_bytes and (count := self._remove("1 = 1")):
            removed += count
        self._db.give_back()
        return removed

    def _remove(self, which: str, *values: float) -> int:
        sql = f"DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE {which} ORDER BY at LIMIT {_AT_ONCE})"  # noqa: S608
        with self._db.transaction() as db:
            return db.execute(sql, values)


def set_aside(path: Path) -> Path:
    """Give a damaged file another name, with its journals, so that a new one can begin; gives that name."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    for end in ("-wal", "-shm", ""):
        source = path.with_name(path.name + end)
        if source.exists():
            source.replace(aside.with_name(aside.name + end))
    return aside
