"""Requests of a history as numbers: counts, tokens and exact percentiles, computed by SQLite beside the disk.

Percentiles are by inverse CDF: the smallest value whose cumulative share reaches q. One of fewer values than leave one
of them beyond it is not given, for it would only be the largest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from roundhouse.core.errors import StoreError
from roundhouse.history.question import GROUPS, Question
from roundhouse.history.store import read_only
from roundhouse.telemetry.events import CLIENT_LEFT, OK

__all__ = ["METRICS", "Group", "Percentiles", "statistics"]

_SHARES = (50, 95, 99)
# Metric -> its value of a request in seconds, as SQL, and for which requests it is defined.
METRICS = {
    "total": ("total_s", f"outcome = '{OK}'"),
    "first_token": ("first_token_s", "first_token_s IS NOT NULL"),
    "per_token": ("decoding_s / (output_tokens - 1)", f"outcome = '{OK}' AND output_tokens > 1"),
    "queue": ("queue_s", "1"),
    "load": ("load_s", "load_s > 0"),
}


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds; None = too few requests to tell. `n`: how many there are."""

    n: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that have `names` in common. `errors`: not answered, without those whose clients left.

    `output_tokens_per_s`: while an answer was being written, over all answers.
    """

    names: tuple[str, ...]
    requests: int
    errors: int
    clients_left: int
    failovers: int
    seams: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    output_tokens_per_s: float | None
    first_at: float
    last_at: float
    metrics: dict[str, Percentiles] = field(default_factory=dict)

    @property
    def error_rate(self) -> float | None:
        """Of the requests whose clients stayed; None = there was none."""
        stayed = self.requests - self.clients_left
        return self.errors / stayed if stayed else None


def statistics(path: Path, question: Question) -> list[Group]:
    """One group for each combination of names, the busiest first; by time, the oldest first.

    Raises `StoreError` for a file that cannot be read.
    """
    try:
        with closing(read_only(path)) as db:
            db.execute("BEGIN")  # all numbers are of one moment, whoever writes meanwhile
            groups = _counted(db, question)
            for name in METRICS:
                _add_percentiles(db, question, groups, name)
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {error}", path=str(path)) from error
    timed = {"day", "hour", "minute"} & set(question.by)
    return sorted(groups.values(), key=lambda group: group.names if timed else (-group.requests, *group.names))


def _counted(db: sqlite3.Connection, question: Question) -> dict[tuple[str, ...], Group]:
    sql = f"""
        SELECT {_keys(question)} COUNT(*), SUM(outcome NOT IN ('{OK}', '{CLIENT_LEFT}')),
               SUM(outcome = '{CLIENT_LEFT}'), SUM(outcome = '{OK}' AND failed_attempts > 0),
               SUM(seams), SUM(input_tokens), SUM(output_tokens),
               SUM(cached_tokens),
               SUM(CASE WHEN decoding_s > 0 AND output_tokens > 1 THEN output_tokens - 1 END)
                   / SUM(CASE WHEN decoding_s > 0 AND output_tokens > 1 THEN decoding_s END),
               MIN(at), MAX(at)
        FROM requests WHERE {question.condition} {_grouped(question)}
    """  # noqa: S608 - names of our own; values are bound
    width = len(question.by)
    return {row[:width]: Group(row[:width], *row[width:]) for row in db.execute(sql, question.values) if row[width]}


def _add_percentiles(
    db: sqlite3.Connection, question: Question, groups: dict[tuple[str, ...], Group], name: str
) -> None:
    value, defined = METRICS[name]
    over = f"PARTITION BY {', '.join(GROUPS[key] for key in question.by)}" if question.by else ""
    ranks = ", ".join(f"MAX(1, (n * {share} + 99) / 100)" for share in _SHARES)
    sql = f"""
        SELECT {_numbered(question)} n, value FROM (
            SELECT {_keys(question)} {value} AS value, COUNT(*) OVER ({over}) AS n,
                   ROW_NUMBER() OVER ({over} ORDER BY {value}) AS rank
            FROM requests WHERE {question.condition} AND {defined}
        ) WHERE rank IN ({ranks}) ORDER BY rank
    """  # noqa: S608 - as above
    width = len(question.by)
    found: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for row in db.execute(sql, question.values):
        found.setdefault(row[:width], []).append((row[width], row[width + 1]))
    for names, group in groups.items():
        group.metrics[name] = _percentiles(found.get(names, []))


def _percentiles(rows: Sequence[tuple[int, float]]) -> Percentiles:
    """`rows`: (how many there are, value) in order. Where ranks coincide there are fewer than shares."""
    if not rows:
        return Percentiles(0)
    n = rows[0][0]
    ranks = sorted({max(1, (n * share + 99) // 100) for share in _SHARES})
    at = dict(zip(ranks, (value for _, value in rows), strict=True))
    values = [at[max(1, (n * share + 99) // 100)] if n * (100 - share) >= 100 else None for share in _SHARES]
    return Percentiles(n, *values)


def _keys(question: Question) -> str:
    """What to group by, named k0, k1, ..., with a comma behind each."""
    return " ".join(f"{GROUPS[name]} AS k{place}," for place, name in enumerate(question.by))


def _numbered(question: Question) -> str:
    return " ".join(f"k{place}," for place in range(len(question.by)))


def _grouped(question: Question) -> str:
    return f"GROUP BY {', '.join(GROUPS[name] for name in question.by)}" if question.by else ""
