"""Experiments, exposures and outcomes on disk: one SQLite file in WAL mode, which several processes may use at once.

A transaction is whole or absent after a crash at any moment. The schema carries its version, and an older file is
brought up step by step. Of units only hashes are stored.
"""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from roundhouse.core.errors import InvalidRequest, StoreError
from roundhouse.core.machine import InvalidTransition, Machine
from roundhouse.experiments.design import Experiment
from roundhouse.experiments.estimate import Sums

__all__ = ["Exposure", "Input", "Outcome", "Run", "State", "Store"]

_BUSY_S = 10.0
_CACHE_KIB = 64 << 10
_MIGRATIONS = (
    """
    CREATE TABLE runs (
        name TEXT PRIMARY KEY, state TEXT NOT NULL, salt TEXT NOT NULL, generation INTEGER NOT NULL,
        weights TEXT NOT NULL, started REAL NOT NULL, winner TEXT NOT NULL DEFAULT ''
    ) WITHOUT ROWID;
    CREATE TABLE events (at REAL NOT NULL, experiment TEXT NOT NULL, said TEXT NOT NULL);
    CREATE TABLE exposures (
        id INTEGER PRIMARY KEY, experiment TEXT NOT NULL, unit INTEGER NOT NULL, arm TEXT NOT NULL,
        served TEXT NOT NULL, stratum TEXT NOT NULL, probability REAL NOT NULL, covariate REAL NOT NULL,
        at REAL NOT NULL
    );
    CREATE INDEX exposures_by_unit ON exposures (experiment, unit, at, arm);
    CREATE INDEX exposures_by_arm ON exposures (experiment, arm, stratum, unit, id, covariate);
    CREATE INDEX exposures_by_served ON exposures (experiment, served, stratum, unit, id, covariate);
    CREATE TABLE outcomes (
        unit INTEGER NOT NULL, exposure INTEGER NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (unit, exposure, metric)
    ) WITHOUT ROWID;
    """,
)


class State(Enum):
    RUNNING = "running"
    STOPPED = "stopped"
    PROMOTED = "promoted"


class Input(Enum):
    STOP = "stop"
    PROMOTE = "promote"
    START = "start"


# A promoted arm gets all traffic until the experiment is stopped or started again.
_LIFE = Machine(
    State.RUNNING,
    {
        (State.RUNNING, Input.STOP): State.STOPPED,
        (State.RUNNING, Input.PROMOTE): State.PROMOTED,
        (State.RUNNING, Input.START): State.RUNNING,
        (State.STOPPED, Input.START): State.RUNNING,
        (State.STOPPED, Input.PROMOTE): State.PROMOTED,
        (State.PROMOTED, Input.STOP): State.STOPPED,
        (State.PROMOTED, Input.START): State.RUNNING,
    },
)


@dataclass(frozen=True, slots=True)
class Run:
    """An experiment as it stands. `generation` counts the changes of weights; each opens new strata."""

    name: str
    state: State
    salt: str
    generation: int
    weights: Mapping[str, float]
    started: float
    winner: str = ""


@dataclass(frozen=True, slots=True)
class First:
    """Of a unit: the arm it was given, under the weights of which generation, and how probable that was."""

    arm: str
    generation: int
    probability: float


@dataclass(frozen=True, slots=True)
class Exposure:
    """`served`: the arm that answered in the end, empty = none of them, a fallback did."""

    id: int
    experiment: str
    unit: int
    arm: str
    served: str
    stratum: str
    probability: float
    covariate: float
    at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    unit: int
    exposure: int
    metric: str
    value: float
    at: float


class Store:
    """Safe to use from several threads; a call waits at most 10 s for another process. Raises `StoreError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            self._migrate()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path} cannot be opened: {error}", path=str(path)) from error

    def close(self) -> None:
        self._db.close()

    def runs(self) -> dict[str, Run]:
        """All that was ever started, by name."""
        rows = self._query("SELECT name, state, salt, generation, weights, started, winner FROM runs")
        return {row[0]: Run(row[0], State(row[1]), row[2], row[3], json.loads(row[4]), row[5], row[6]) for row in rows}

    def changes(self) -> int:
        """A number that differs once another connection has written something."""
        return int(self._query("PRAGMA data_version")[0][0])

    def start(self, experiment: Experiment, now: float) -> Run:
        """Begin, or go on. New weights take effect with a new generation; who has an arm keeps it."""
        with self._transaction() as db:
            run = self._run(db, experiment.name)
            weights = json.dumps(experiment.weights)
            if run is None:
                db.execute(
                    "INSERT INTO runs VALUES (?, ?, ?, 1, ?, ?, '')",
                    (experiment.name, State.RUNNING.value, secrets.token_hex(16), weights, now),
                )
                said = "started"
            else:
                state = self._next(run, Input.START)
                changed = run.weights != experiment.weights
                db.execute(
                    "UPDATE runs SET state = ?, weights = ?, generation = generation + ?, winner = '' WHERE name = ?",
                    (state.value, weights, changed, experiment.name),
                )
                said = f"weights are {weights} now" if changed else "started again"
            self._tell(db, now, experiment.name, said)
        return self.runs()[experiment.name]

    def reweigh(self, name: str, weights: Mapping[str, float], generation: int, now: float) -> bool:
        """New shares for units that come from now on, if it still runs with the shares of `generation`."""
        with self._transaction() as db:
            run = self._run(db, name)
            if run is None or run.state is not State.RUNNING or run.generation != generation:
                return False  # another process was faster
            sql = "UPDATE runs SET weights = ?, generation = generation + 1 WHERE name = ?"
            db.execute(sql, (json.dumps(weights), name))
            said = ", ".join(f"{arm} {share:.0%}" for arm, share in weights.items())
            self._tell(db, now, name, f"shares are {said} now")
        return True

    def stop(self, name: str, reason: str, now: float) -> Run:
        """Everybody gets what was asked for again. Raises `InvalidRequest` for one that does not run."""
        return self._end(name, Input.STOP, "", f"stopped: {reason}", now)

    def promote(self, name: str, arm: str, reason: str, now: float) -> Run:
        """Everybody gets `arm`."""
        return self._end(name, Input.PROMOTE, arm, f"{arm} was promoted: {reason}", now)

    def events(self, name: str) -> list[tuple[float, str]]:
        """What was done and why, the oldest first."""
        return self._query("SELECT at, said FROM events WHERE experiment = ? ORDER BY at", (name,))

    def write(self, exposures: Sequence[Exposure], outcomes: Sequence[Outcome]) -> None:
        """All of them or none. A second outcome of one metric takes the place of the first."""
        with self._transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO exposures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (e.id, e.experiment, e.unit, e.arm, e.served, e.stratum, e.probability, e.covariate, e.at)
                    for e in exposures
                ],
            )
            db.executemany(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?)",
                [(o.unit, o.exposure, o.metric, o.value, o.at) for o in outcomes],
            )

    def unit_of(self, exposure: int) -> int | None:
        """Whose exposure it was; None = there is none."""
        rows = self._query("SELECT unit FROM exposures WHERE id = ?", (exposure,))
        return int(rows[0][0]) if rows else None

    def first_of(self, experiment: str, unit: int) -> First | None:
        """How a unit got its arm; None = it was never seen."""
        sql = "SELECT arm, stratum, probability FROM exposures WHERE experiment = ? AND unit = ? ORDER BY at LIMIT 1"
        rows = self._query(sql, (experiment, unit))
        return First(str(rows[0][0]), int(rows[0][1].partition(":")[0]), float(rows[0][2])) if rows else None

    def counts(self, experiment: str, *, served: bool = False) -> dict[tuple[str, str], int]:
        """Distinct units by generation and arm; `served`: by the arm that answered, without what a fallback did."""
        found: dict[tuple[str, str], int] = {}
        for arm, stratum in self._groups(experiment, _column(served)):
            sql = f"""
                SELECT COUNT(*) FROM (
                    SELECT 1 FROM exposures WHERE experiment = ? AND {_column(served)} = ? AND stratum = ? GROUP BY unit
                )
            """  # noqa: S608 - the column is one of two
            key = (stratum.partition(":")[0], arm)
            found[key] = found.get(key, 0) + self._query(sql, (experiment, arm, stratum))[0][0]
        return found

    def sums(
        self, experiment: str, metric: str, *, served: bool = False, until: float = math.inf
    ) -> dict[str, dict[str, Sums]]:
        """By arm and stratum, of the outcomes that came by `until`; `served` as for `counts`.

        Each group is read by itself along an index that is sorted by unit, so that a million exposures need no sorting.
        """
        found: dict[str, dict[str, Sums]] = {}
        for arm, stratum in self._groups(experiment, _column(served)):
            sql = f"""
                SELECT COUNT(*), SUM(m), SUM(y), SUM(m * m), SUM(y * y), SUM(m * y), SUM(x), SUM(x * x), SUM(x * y),
                       SUM(m * x), MIN(exact)
                FROM (
                    SELECT COUNT(*) AS m, SUM(o.value) AS y, SUM(e.covariate) AS x, MIN(o.value IN (0, 1)) AS exact
                    FROM exposures e CROSS JOIN outcomes o
                        ON o.unit = e.unit AND o.exposure = e.id AND o.metric = ? AND o.at <= ?
                    WHERE e.experiment = ? AND e.{_column(served)} = ? AND e.stratum = ?
                    GROUP BY e.unit
                )
            """  # noqa: S608 - the column is one of two
            (row,) = self._query(sql, (metric, until, experiment, arm, stratum))
            if row[0]:
                found.setdefault(arm, {})[stratum] = Sums(*row)
        return found

    def _groups(self, experiment: str, column: str) -> list[tuple[str, str]]:
        """The pairs of arm and stratum there are, each found by one step through the index."""
        sql = f"""
            SELECT {column}, stratum FROM exposures
            WHERE experiment = ? AND ({column}, stratum) > (?, ?) ORDER BY {column}, stratum LIMIT 1
        """  # noqa: S608 - the column is one of two
        found: list[tuple[str, str]] = []
        while rows := self._query(sql, (experiment, *(found[-1] if found else ("", "\U0010ffff")))):
            found.append((rows[0][0], rows[0][1]))
        return found

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise StoreError(f"{self.path} was written by a newer Roundhouse; use that one", path=str(self.path))
        for number in range(version, len(_MIGRATIONS)):
            with self._transaction() as db:
                # Another process may have done it while this one waited for its turn.
                if db.execute("PRAGMA user_version").fetchone()[0] == number:
                    for statement in _MIGRATIONS[number].split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {number + 1}")

    def _end(self, name: str, given: Input, winner: str, said: str, now: float) -> Run:
        with self._transaction() as db:
            run = self._run(db, name)
            if run is None:
                raise InvalidRequest(f'experiment "{name}" was never started', param="experiment")
            state = self._next(run, given)
            db.execute("UPDATE runs SET state = ?, winner = ? WHERE name = ?", (state.value, winner, name))
            self._tell(db, now, name, said)
        return self.runs()[name]

    @staticmethod
    def _next(run: Run, given: Input) -> State:
        try:
            return _LIFE.next(run.state, given)
        except InvalidTransition as error:
            said = f'experiment "{run.name}" is {run.state.value}; {given.value} does not apply'
            raise InvalidRequest(said, param="experiment") from error

    @staticmethod
    def _tell(db: sqlite3.Connection, now: float, name: str, said: str) -> None:
        db.execute("INSERT INTO events VALUES (?, ?, ?)", (now, name, said))

    @staticmethod
    def _run(db: sqlite3.Connection, name: str) -> Run | None:
        sql = "SELECT name, state, salt, generation, weights, started, winner FROM runs WHERE name = ?"
        row = db.execute(sql, (name,)).fetchone()
        return Run(row[0], State(row[1]), row[2], row[3], json.loads(row[4]), row[5], row[6]) if row else None

    def _query(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg]
        try:
            with self._lock:
                return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} cannot be read: {error}", path=str(self.path)) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StoreError(f"{self.path} cannot be written: {error}", path=str(self.path)) from error


def _column(served: bool) -> str:
    return "served" if served else "arm"
