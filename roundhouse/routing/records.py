"""Where switches have led routes, as it is kept: by this server for its next start, or in a database for all servers
that have the same configuration. And which backends another server has given up for now, as hints that expire.

A record holds as long as the route is configured as it was when it was switched: who edits the route has the last word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from roundhouse.database import Place, Schema, open_database
from roundhouse.routing.route import Tiers

__all__ = ["Hint", "Record", "RouteTable", "applied", "configured_as", "newer"]

_SCHEMA = Schema(
    "routes",
    (
        """
    CREATE TABLE routes (
        scope {text} NOT NULL, route {text} NOT NULL, configured {text} NOT NULL, tiers {text} NOT NULL,
        at {real} NOT NULL, PRIMARY KEY (scope, route)
    ) {clustered};
    CREATE TABLE hints (
        backend {text} NOT NULL, server {text} NOT NULL, opening {whole} NOT NULL, until {real} NOT NULL,
        PRIMARY KEY (backend, server)
    ) {clustered};
    """,
    ),
)


@dataclass(frozen=True, slots=True)
class Record:
    """A route leads to `tiers` since `at` (seconds since 1970). `configured`: what the configuration said then."""

    route: str
    configured: str
    tiers: tuple[tuple[str, ...], ...]
    at: float


@dataclass(frozen=True, slots=True)
class Hint:
    """The breaker of a backend is open at `server` for `for_s` more; `opening` tells one opening from the next."""

    backend: str
    server: str
    opening: int
    for_s: float


def configured_as(tiers: Tiers, models: Mapping[str, tuple[str, str]]) -> str:
    """A hash of a configured route: the names it leads to, and the type and model behind each."""
    said = [[[name, *models.get(name, ())] for name in tier] for tier in tiers]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def newer(one: Mapping[str, Record], other: Mapping[str, Record]) -> dict[str, Record]:
    """The records of `one` that `other` does not have, or has an older one of."""
    return {route: record for route, record in one.items() if route not in other or record.at > other[route].at}


def applied(record: Record | None, configured: str, known: Iterable[str]) -> Tiers | None:
    """Where the record leads; None = it does not hold: the route was configured anew, or a target is not there."""
    if record is None or record.configured != configured:
        return None
    names = set(known)
    return record.tiers if all(name in names for tier in record.tiers for name in tier) else None


class RouteTable:
    """Safe to use from several threads. Blocks; raises `StoreError`."""

    def __init__(self, place: Place, *, limit_s: float = 3.0) -> None:
        self.place = place
        self._db = open_database(place, _SCHEMA, limit_s=limit_s)

    def close(self) -> None:
        self._db.close()

    def read(self, scope: str) -> dict[str, Record]:
        """The records by route. `scope` parts those that have nothing to do with each other."""
        rows = self._db.query("SELECT route, configured, tiers, at FROM routes WHERE scope = ?", (scope,))
        return {row[0]: Record(row[0], row[1], _tiers(json.loads(row[2])), row[3]) for row in rows}

    def write(self, scope: str, records: Iterable[Record]) -> None:
        """Of two for one route the later one stays."""
        in_order = sorted(records, key=lambda one: one.route)  # so that two servers never wait for each other
        with self._db.transaction() as db:
            db.execute_many(
                """
                INSERT INTO routes VALUES (?, ?, ?, ?, ?) ON CONFLICT (scope, route) DO UPDATE
                SET configured = excluded.configured, tiers = excluded.tiers, at = excluded.at
                WHERE excluded.at >= routes.at
                """,
                [(scope, one.route, one.configured, json.dumps(one.tiers), one.at) for one in in_order],
            )

    def exchange_hints(self, server: str, own: Iterable[Hint]) -> list[Hint]:
        """Tell which breakers are open here (all of them, and no other), and learn of those elsewhere."""
        now = self._db.dialect.now
        told = [(one.backend, server, one.opening, one.for_s) for one in own]
        elsewhere = f"SELECT backend, server, opening, until - {now} FROM hints WHERE server <> ? AND until > {now}"  # noqa: S608
        with self._db.transaction() as db:
            if told:
                db.execute(f"DELETE FROM hints WHERE server = ? OR until < {now}", (server,))  # noqa: S608
                db.execute_many(f"INSERT INTO hints VALUES (?, ?, ?, {now} + ?)", told)  # noqa: S608
            return [Hint(*row) for row in db.query(elsewhere, (server,))]


def _tiers(told: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(tier) for tier in told)
