"""Requests of a history as numbers: counts, tokens and exact percentiles, computed where they are kept.

Percentiles are by inverse CDF: the smallest value whose cumulative share reaches q. One of fewer values than leave one
of them beyond it is not given, for it would only be the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

from roundhouse.database import Place, Transaction
from roundhouse.history.question import Question
from roundhouse.history.store import reading
from roundhouse.telemetry.events import CLIENT_LEFT, OK

__all__ = ["METRICS", "Group", "Percentiles", "statistics"]

_SHARES = (50, 95, 99)
# Metric -> its value of a request in seconds, as SQL, and for which requests it is defined.
METRICS = {
    "total": ("total_s", f"outcome = '{OK}'"),
    "first_token": ("first_token_s", "first_token_s IS NOT NULL"),
    "per_token": ("decoding_s / (output_tokens - 1)", f"outcome = '{OK}' AND output_tokens > 1"),
    "queue": ("queue_s", "1 = 1"),
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


def statistics(place: Place, question: Question) -> list[Group]:
    """One group for each combination of names, the busiest first; by time, the oldest first.

    Raises `StoreError` for a place that cannot be read.
    """
    # All numbers are of one moment, whoever writes meanwhile.
    with closing(reading(place)) as opened, opened.snapshot() as db:
        groups = _counted(db, question)
        for name in METRICS:
            _add_percentiles(db, question, groups, name)
    timed = {"day", "hour", "minute"} & set(question.by)
    return sorted(groups.values(), key=lambda group: group.names if timed else (-group.requests, *group.names))


def _counted(db: Transaction, question: Question) -> dict[tuple[str, ...], Group]:
    keys = _keys(db, question)
    grouped = f"GROUP BY {', '.join(keys)}" if keys else ""
    answered = "decoding_s > 0 AND output_tokens > 1"
    sql = f"""
        SELECT {_named(keys)} COUNT(*), COUNT(*) FILTER (WHERE outcome NOT IN ('{OK}', '{CLIENT_LEFT}')),
               COUNT(*) FILTER (WHERE outcome = '{CLIENT_LEFT}'),
               COUNT(*) FILTER (WHERE outcome = '{OK}' AND failed_attempts > 0),
               SUM(seams), SUM(input_tokens), SUM(output_tokens), SUM(cached_tokens),
               SUM(CASE WHEN {answered} THEN output_tokens - 1 END) / SUM(CASE WHEN {answered} THEN decoding_s END),
               MIN(at), MAX(at)
        FROM requests WHERE {question.condition(db.dialect)} {grouped}
    """  # noqa: S608 - names of our own; values are bound
    width = len(question.by)
    return {row[:width]: Group(row[:width], *row[width:]) for row in db.query(sql, question.values) if row[width]}


def _add_percentiles(db: Transaction, question: Question, groups: dict[tuple[str, ...], Group], name: str) -> None:
    value, defined = METRICS[name]
    keys = _keys(db, question)
    over = f"PARTITION BY {', '.join(keys)}" if keys else ""
    ranks = ", ".join(f"(n * {share} + 99) / 100" for share in _SHARES)
    sql = f"""
        SELECT {"".join(f"k{place}, " for place in range(len(keys)))} n, value FROM (
            SELECT {_named(keys)} {value} AS value, COUNT(*) OVER ({over}) AS n,
                   ROW_NUMBER() OVER ({over} ORDER BY {value}) AS place
            FROM requests WHERE {question.condition(db.dialect)} AND {defined}
        ) AS numbered WHERE place IN ({ranks}) ORDER BY place
    """  # noqa: S608 - as above
    width = len(question.by)
    found: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for row in db.query(sql, question.values):
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


def _keys(db: Transaction, question: Question) -> list[str]:
    """What to group by, as SQL."""
    return [question.expression(name, db.dialect) for name in question.by]


def _named(keys: Sequence[str]) -> str:
    """The same, named k0, k1, ..., with a comma behind each."""
    return " ".join(f"{key} AS k{place}," for place, key in enumerate(keys))
