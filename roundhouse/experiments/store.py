"""Experiments, exposures and outcomes as they are kept: in a file, or in a database that several servers share.

Of units only hashes are stored. What is written twice is there once.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import itemgetter

from roundhouse.core.errors import InvalidRequest
from roundhouse.core.machine import InvalidTransition, Machine
from roundhouse.database import Place, Row, Schema, Transaction, open_database
from roundhouse.database.sqlite import Tuning
from roundhouse.experiments.design import Experiment
from roundhouse.experiments.estimate import Sums

__all__ = ["Exposure", "Input", "Outcome", "Run", "State", "Store"]

_LIMIT_S = 10.0
_AT_ONCE = 5_000
_TUNING = Tuning(pragmas=(f"cache_size=-{64 << 10}",))  # KiB
_SCHEMA = Schema(
    "experiments",
    (
        """
    CREATE TABLE runs (
        name {text} PRIMARY KEY, state {text} NOT NULL, salt {text} NOT NULL, generation {whole} NOT NULL,
        weights {text} NOT NULL, started {real} NOT NULL, winner {text} NOT NULL DEFAULT ''
    ) {clustered};
    CREATE TABLE events (at {real} NOT NULL, experiment {text} NOT NULL, said {text} NOT NULL);
    CREATE TABLE exposures (
        id {whole} PRIMARY KEY, experiment {text} NOT NULL, unit {whole} NOT NULL, arm {text} NOT NULL,
        served {text} NOT NULL, stratum {text} NOT NULL, probability {real} NOT NULL, covariate {real} NOT NULL,
        at {real} NOT NULL
    );
    CREATE INDEX exposures_by_unit ON exposures (experiment, unit, at, arm);
    CREATE INDEX exposures_by_arm ON exposures (experiment, arm, stratum, unit, id, covariate);
    CREATE INDEX exposures_by_served ON exposures (experiment, served, stratum, unit, id, covariate);
    CREATE TABLE outcomes (
        unit {whole} NOT NULL, exposure {whole} NOT NULL, metric {text} NOT NULL, value {real} NOT NULL,
        at {real} NOT NULL, PRIMARY KEY (unit, exposure, metric)
    ) {clustered};
    """,
        # Outcomes that were told before the exposure they are of, which another server still has.
        """
    CREATE TABLE early (
        exposure {whole} NOT NULL, metric {text} NOT NULL, value {real} NOT NULL, at {real} NOT NULL,
        PRIMARY KEY (exposure, metric)
    ) {clustered};
    """,
    ),
)
_EVENTS = "SELECT at, said FROM events WHERE experiment = ? ORDER BY at"
_RUN = "SELECT name, state, salt, generation, weights, started, winner FROM runs"
# The later of two values of one metric counts, in whichever order they come.
_LATER = """
    ON CONFLICT (unit, exposure, metric) DO UPDATE SET value = excluded.value, at = excluded.at
    WHERE excluded.at >= outcomes.at
"""
_LATER_EARLY = """
    ON CONFLICT (exposure, metric) DO UPDATE SET value = excluded.value, at = excluded.at WHERE excluded.at >= early.at
"""
_ARRIVED = "SELECT e.unit, o.exposure, o.metric, o.value, o.at FROM early o JOIN exposures e ON e.id = o.exposure"
_EARLY_S = 7 * 86_400.0


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
    """`unit` None = that of the exposure, which may come later: within a week."""

    unit: int | None
    exposure: int
    metric: str
    value: float
    at: float


class Store:
    """Safe to use from several threads. A call waits at most `limit_s`. Raises `StoreError`."""

    def __init__(self, place: Place, *, limit_s: float = _LIMIT_S) -> None:
        self.place = place
        self._db = open_database(place, _SCHEMA, limit_s=limit_s, tuning=_TUNING)
        self.remote = self._db.remote

    def close(self) -> None:
        self._db.close()

    def runs(self) -> dict[str, Run]:
        """All that was ever started, by name."""
        return {run.name: run for run in map(_run_of, self._db.query(_RUN))}

    def changes(self) -> int:
        """A number that differs once another connection has written something."""
        return self._db.changes()

    def start(self, experiment: Experiment, now: float) -> Run:
        """Begin, or go on. New weights take effect with a new generation; who has an arm keeps it."""
        with self._db.transaction() as db:
            run = self._run(db, experiment.name)
            weights = json.dumps(experiment.weights)
            if run is None:
                db.execute(
                    "INSERT INTO runs VALUES (?, ?, ?, 1, ?, ?, '') ON CONFLICT DO NOTHING",
                    (experiment.name, State.RUNNING.value, secrets.token_hex(16), weights, now),
                )
                said = "started"
            else:
                state = self._next(run, Input.START)
                changed = run.weights != experiment.weights
                db.execute(
                    "UPDATE runs SET state = ?, weights = ?, generation = generation + ?, winner = '' WHERE name = ?",
                    (state.value, weights, int(changed), experiment.name),
                )
                said = f"weights are {weights} now" if changed else "started again"
            self._tell(db, now, experiment.name, said)
        return self.runs()[experiment.name]

    def reweigh(self, name: str, weights: Mapping[str, float], generation: int, now: float) -> bool:
        """New shares for units that come from now on, if it still runs with the shares of `generation`."""
        with self._db.transaction() as db:
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
        return [(row[0], row[1]) for row in self._db.query(_EVENTS, (name,))]

    def write(self, exposures: Sequence[Exposure], outcomes: Sequence[Outcome]) -> None:
        """All of them or none. A later outcome of one metric takes the place of an earlier one."""
        rows = [
            (e.id, e.experiment, e.unit, e.arm, e.served, e.stratum, e.probability, e.covariate, e.at)
            for e in exposures
        ]
        known = [(o.unit, o.exposure, o.metric, o.value, o.at) for o in outcomes if o.unit is not None]
        early = [(o.exposure, o.metric, o.value, o.at) for o in outcomes if o.unit is None]
        with self._db.transaction() as db:  # each table in one order, so that two servers never wait for each other
            db.insert_many("exposures", sorted(rows, key=itemgetter(0)), "ON CONFLICT DO NOTHING")
            if early:
                db.insert_many("early", sorted(early, key=itemgetter(0, 1)), _LATER_EARLY)
                db.execute("DELETE FROM early WHERE at < ?", (max(row[3] for row in early) - _EARLY_S,))
            arrived = db.query(f"{_ARRIVED} {db.dialect.for_update_unheld}")
            db.insert_many("outcomes", sorted([*known, *arrived], key=itemgetter(0, 1, 2)), _LATER)
            db.execute_many("DELETE FROM early WHERE exposure = ? AND metric = ?", [row[1:3] for row in arrived])

    def settle(self) -> None:
        """Of an outcome and its exposure that two servers wrote at the same moment neither saw the other's."""
        if self._db.query("SELECT exposure FROM early LIMIT 1"):
            self.write([], [])

    def bring(self, other: Store) -> tuple[int, list[str]]:
        """Take over what `other` has and this one lacks; gives how many exposures were read, and which experiments were
        left out, for they were started in both and their units have other arms here.
        """
        with other._db.snapshot() as theirs:
            runs = [_run_of(row) for row in theirs.query(_RUN)]
            self._take_over(runs, theirs.query("SELECT at, experiment, said FROM events ORDER BY at"))
            here = self.runs()
            alike = [run.name for run in runs if here[run.name].salt == run.salt]
            count = 0
            for name in alike:
                rows = theirs.batches("SELECT * FROM exposures WHERE experiment = ?", (name,), _AT_ONCE)
                for batch in rows:
                    self.write([Exposure(*row) for row in batch], [])
                    count += len(batch)
                told = """
                    SELECT o.unit, o.exposure, o.metric, o.value, o.at FROM outcomes o
                    JOIN exposures e ON e.id = o.exposure WHERE e.experiment = ?
                """
                for batch in theirs.batches(told, (name,), _AT_ONCE):
                    self.write([], [Outcome(*row) for row in batch])
        return count, sorted({run.name for run in runs} - set(alike))

    def _take_over(self, runs: Sequence[Run], events: Sequence[Row]) -> None:
        with self._db.transaction() as db:
            for run in runs:
                values = (run.name, run.state.value, run.salt, run.generation, json.dumps(run.weights), run.started,
                          run.winner)  # fmt: skip
                if not db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", values):
                    continue
                for at, name, said in events:
                    if name == run.name:
                        self._tell(db, at, name, said)

    def unit_of(self, exposure: int) -> int | None:
        """Whose exposure it was; None = there is none."""
        rows = self._db.query("SELECT unit FROM exposures WHERE id = ?", (exposure,))
        return int(rows[0][0]) if rows else None

    def first_of(self, experiment: str, unit: int) -> First | None:
        """How a unit got its arm; None = it was never seen."""
        sql = "SELECT arm, stratum, probability FROM exposures WHERE experiment = ? AND unit = ? ORDER BY at LIMIT 1"
        rows = self._db.query(sql, (experiment, unit))
        return First(str(rows[0][0]), int(rows[0][1].partition(":")[0]), float(rows[0][2])) if rows else None

    def counts(self, experiment: str, *, served: bool = False) -> dict[tuple[str, str], int]:
        """Distinct units by generation and arm; `served`: by the arm that answered, without what a fallback did."""
        found: dict[tuple[str, str], int] = {}
        for arm, stratum in self._groups(experiment, _column(served)):
            sql = f"""
                SELECT COUNT(*) FROM (
                    SELECT 1 FROM exposures WHERE experiment = ? AND {_column(served)} = ? AND stratum = ? GROUP BY unit
                ) AS units
            """  # noqa: S608 - the column is one of two
            key = (stratum.partition(":")[0], arm)
            found[key] = found.get(key, 0) + self._db.query(sql, (experiment, arm, stratum))[0][0]
        return found

    def sums(
        self, experiment: str, metric: str, *, served: bool = False, until: float = math.inf
    ) -> dict[str, dict[str, Sums]]:
        """By arm and stratum, of the outcomes that came by `until`; `served` as for `counts`.

        Each group is read by itself along an index that is sorted by unit, so that a million exposures need no sorting.
        """
        self._db.survey("exposures", "outcomes")
        found: dict[str, dict[str, Sums]] = {}
        for arm, stratum in self._groups(experiment, _column(served)):
            sql = f"""
                SELECT COUNT(*), SUM(m), SUM(y), SUM(m * m), SUM(y * y), SUM(m * y), SUM(x), SUM(x * x), SUM(x * y),
                       SUM(m * x), MIN(exact)
                FROM (
                    SELECT COUNT(*) AS m, SUM(o.value) AS y, SUM(e.covariate) AS x,
                           MIN(CASE WHEN o.value IN (0, 1) THEN 1 ELSE 0 END) AS exact
                    FROM exposures e {self._db.dialect.then} outcomes o
                        ON o.unit = e.unit AND o.exposure = e.id AND o.metric = ? AND o.at <= ?
                    WHERE e.experiment = ? AND e.{_column(served)} = ? AND e.stratum = ?
                    GROUP BY e.unit
                ) AS units
            """  # noqa: S608 - the column is one of two
            (row,) = self._db.query(sql, (metric, until, experiment, arm, stratum))
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
        while rows := self._db.query(sql, (experiment, *(found[-1] if found else ("", "\U0010ffff")))):
            found.append((rows[0][0], rows[0][1]))
        return found

    def _end(self, name: str, given: Input, winner: str, said: str, now: float) -> Run:
        with self._db.transaction() as db:
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
    def _tell(db: Transaction, now: float, name: str, said: str) -> None:
        db.execute("INSERT INTO events VALUES (?, ?, ?)", (now, name, said))
        db.changed()

    @staticmethod
    def _run(db: Transaction, name: str) -> Run | None:
        rows = db.query(f"{_RUN} WHERE name = ? {db.dialect.for_update}", (name,))  # of two who end it, one is told so
        return _run_of(rows[0]) if rows else None


def _run_of(row: Row) -> Run:
    return Run(row[0], State(row[1]), row[2], row[3], json.loads(row[4]), row[5], row[6])


def _column(served: bool) -> str:
    return "served" if served else "arm"
