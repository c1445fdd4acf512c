"""The file of ratings: questions, answers and every judgement, in one SQLite file (WAL) that several processes may use.

A judgement is on the disk before the call that stores it returns, so no kill loses one, and none is ever deleted: what
is undone is marked so. The schema carries its version. The file says by its application id what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from roundhouse.core.errors import InvalidRequest, StoreError
from roundhouse.database import Schema, Transaction, open_database
from roundhouse.database.sqlite import Tuning
from roundhouse.rating.answers import Question, Rated
from roundhouse.rating.judgement import Comparison, Judgement, Outcome

__all__ = ["Design", "Store", "is_ratings"]

_BUSY_S = 10.0
_MAGIC = b"SQLite format 3\0"
# A judgement is hard to get again: it is to be there after a loss of power, too. The file may be read as answers may.
_TUNING = Tuning(pragmas=("synchronous=FULL",), application=0x52485254, rights=0o666)  # "RHRT"
_SCHEMA = Schema(
    "ratings",
    (
        """
    CREATE TABLE design (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE questions (id TEXT PRIMARY KEY, messages TEXT NOT NULL, context TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE answers (
        question TEXT NOT NULL, variant TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (question, variant)
    ) WITHOUT ROWID;
    CREATE TABLE comparisons (
        id INTEGER PRIMARY KEY, question TEXT NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL,
        same INTEGER NOT NULL, UNIQUE (question, first, second)
    );
    CREATE TABLE judgements (
        id INTEGER PRIMARY KEY AUTOINCREMENT, comparison INTEGER NOT NULL, rater TEXT NOT NULL, outcome TEXT,
        "left" TEXT NOT NULL, note TEXT NOT NULL, seconds REAL NOT NULL, at REAL NOT NULL, undone REAL
    );
    CREATE UNIQUE INDEX judgements_alive ON judgements (comparison, rater) WHERE undone IS NULL;
    """,
    ),
)


@dataclass(frozen=True, slots=True)
class Design:
    """Fixed when the file is made. `seed` of order and sides; `alpha`: chance of ever naming a winner where there is
    none; `margin` around 1/2 that counts as no difference; `overlap`: share of comparisons that every rater judges.
    """

    seed: int = 0
    alpha: float = 0.05
    margin: float = 0.1
    overlap: float = 1.0


def is_ratings(path: Path) -> bool:
    """Whether `path` is a database rather than a text of answers."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class Store:
    """Safe to use from several threads. Raises `StoreError` for a file that cannot be used; `design` makes a new one.

    Raises `InvalidRequest` if the file was made by another design, or if there is none and no `design`.
    """

    def __init__(self, path: Path, design: Design | None = None) -> None:
        self.path = path
        if design is None and not path.is_file():
            raise InvalidRequest(f"there are no ratings at {path}; `roundhouse rate open` makes them", param="ratings")
        self._db = open_database(path, _SCHEMA, limit_s=_BUSY_S, tuning=_TUNING)
        try:
            self.design = self._designed(design)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def add(self, rated: Iterable[Rated]) -> int:
        """Take up questions and answers, all or none; gives how many comparisons are new. What is there already stays.

        Raises `InvalidRequest` for an answer or a question that stands there with another text.
        """
        with self._db.transaction() as db:
            before = _count(db)
            for one in rated:
                self._add(db, one)
            return _count(db) - before

    def record(
        self,
        comparison: Comparison,
        rater: str,
        outcome: Outcome | None,
        left: str,
        note: str,
        seconds: float,
        at: float,
    ) -> bool:
        """Store a judgement; False = this rater has judged it already, and that stands."""
        sql = """
            INSERT OR IGNORE INTO judgements (comparison, rater, outcome, "left", note, seconds, at)
            VALUES (?, ?, ?, ?, ?, ?, ?)
        """
        with self._db.transaction() as db:
            said = None if outcome is None else outcome.value
            return db.execute(sql, (comparison.id, rater, said, left, note, seconds, at)) == 1

    def undo(self, rater: str, at: float) -> Judgement | None:
        """Take back the rater's last judgement; None = there is none."""
        with self._db.transaction() as db:
            sql = f"{_JUDGEMENTS} AND j.rater = ? ORDER BY j.id DESC LIMIT 1"
            rows = db.query(sql, (rater,))
            if not rows:
                return None
            db.execute("UPDATE judgements SET undone = ? WHERE id = ?", (at, rows[0][0]))
            return _judgement(rows[0])

    def unskip(self, rater: str, at: float) -> int:
        """Have what the rater skipped come again; gives how much that is."""
        sql = "UPDATE judgements SET undone = ? WHERE rater = ? AND outcome IS NULL AND undone IS NULL"
        with self._db.transaction() as db:
            return db.execute(sql, (at, rater))

    def variants(self) -> list[str]:
        return [row[0] for row in self._db.query("SELECT DISTINCT variant FROM answers ORDER BY variant")]

    def comparisons(self) -> list[Comparison]:
        """All that are to be judged; two answers with the same text are not."""
        sql = "SELECT id, question, first, second FROM comparisons WHERE same = 0 ORDER BY id"
        return [Comparison(*row) for row in self._db.query(sql)]

    def count(self) -> int:
        """Of the comparisons that are to be judged."""
        return int(self._db.query("SELECT COUNT(*) FROM comparisons WHERE same = 0")[0][0])

    def skipped(self, rater: str) -> int:
        sql = "SELECT COUNT(*) FROM judgements WHERE rater = ? AND outcome IS NULL AND undone IS NULL"
        return int(self._db.query(sql, (rater,))[0][0])

    def identical(self) -> dict[tuple[str, str], int]:
        """How many questions two variants answered with the same text, by pair."""
        sql = "SELECT first, second, COUNT(*) FROM comparisons WHERE same = 1 GROUP BY first, second"
        return {(first, second): number for first, second, number in self._db.query(sql)}

    def judged(self) -> list[tuple[int, str]]:
        """Comparison and rater of every judgement or skip that stands."""
        return [
            (row[0], row[1]) for row in self._db.query("SELECT comparison, rater FROM judgements WHERE undone IS NULL")
        ]

    def judgements(self) -> list[Judgement]:
        """Every judgement or skip that stands, in the order in which they were made."""
        return [_judgement(row) for row in self._db.query(f"{_JUDGEMENTS} ORDER BY j.id")]

    def question(self, number: str) -> Question:
        (row,) = self._db.query("SELECT id, messages, context FROM questions WHERE id = ?", (number,))
        return _question(row)

    def questions(self) -> dict[str, Question]:
        return {row[0]: _question(row) for row in self._db.query("SELECT id, messages, context FROM questions")}

    def answers(self, question: str) -> dict[str, str]:
        """Of one question, by variant."""
        return dict(self._db.query("SELECT variant, text FROM answers WHERE question = ?", (question,)))

    def _add(self, db: Transaction, rated: Rated) -> None:
        question = rated.question
        told = (question.id, json.dumps(question.messages, ensure_ascii=False), question.context)
        db.execute("INSERT OR IGNORE INTO questions VALUES (?, ?, ?)", told)
        if db.query("SELECT * FROM questions WHERE id = ?", (question.id,)) != [told]:
            raise self._other(f'the question "{question.id}"')
        for variant, text in rated.answers.items():
            db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (question.id, variant, text))
        answers: dict[str, str] = dict(db.query("SELECT variant, text FROM answers WHERE question = ?", (question.id,)))
        for variant, text in rated.answers.items():
            if answers[variant] != text:
                raise self._other(f'the answer of "{variant}" to "{question.id}"')
        sql = "INSERT OR IGNORE INTO comparisons (question, first, second, same) VALUES (?, ?, ?, ?)"
        for one, two in combinations(sorted(answers), 2):
            db.execute(sql, (question.id, one, two, answers[one].strip() == answers[two].strip()))

    def _other(self, what: str) -> InvalidRequest:
        said = f"{what} has another text in {self.path}, which holds what was rated; name another file by --into"
        return InvalidRequest(said, param="answers")

    def _designed(self, design: Design | None) -> Design:
        """That of the file. Raises `InvalidRequest` if it is not the one that is asked for."""
        if design is not None:
            with self._db.transaction() as db:
                if not db.query("SELECT COUNT(*) FROM design")[0][0]:
                    db.insert_many("design", list(asdict(design).items()))
        kept: dict[str, float] = dict(self._db.query("SELECT key, value FROM design"))
        if not kept:
            raise StoreError(f"{self.path} was begun and never filled; remove it", path=str(self.path))
        return Design(int(kept["seed"]), kept["alpha"], kept["margin"], kept["overlap"])


_JUDGEMENTS = """
    SELECT j.id, c.id, c.question, c.first, c.second, j.rater, j.outcome, j."left", j.note, j.seconds, j.at
    FROM judgements j JOIN comparisons c ON c.id = j.comparison WHERE j.undone IS NULL
"""


def _judgement(row: Sequence[object]) -> Judgement:
    number, *compared, rater, outcome, left, note, seconds, at = row
    said = None if outcome is None else Outcome(str(outcome))
    return Judgement(number, Comparison(*compared), rater, said, left, note, seconds, at)  # type: ignore[arg-type]


def _question(row: Sequence[str]) -> Question:
    number, messages, context = row
    return Question(number, tuple((role, text) for role, text in json.loads(messages)), context)


def _count(db: Transaction) -> int:
    return int(db.query("SELECT COUNT(*) FROM comparisons")[0][0])
