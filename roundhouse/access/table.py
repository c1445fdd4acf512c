"""Keys in a database that several servers share, and what is left of their limits.

What a key may still use is a level for each limit, as in `Caller`: every server takes off what it has used, all at once
several times a second, and learns what the others have. Times are those of the database's clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from roundhouse.access.keys import Key, KeyLimits, Role
from roundhouse.core.errors import ConfigError
from roundhouse.database import Place, Refused, Row, Schema, open_database

__all__ = ["KeyTable", "Level", "Used"]

_SCHEMA = Schema(
    "access",
    (
        """
    CREATE TABLE keys (
        id {text} PRIMARY KEY, name {text} NOT NULL UNIQUE, role {text} NOT NULL, digest {text} NOT NULL UNIQUE,
        created {real} NOT NULL, expires {real} NOT NULL, routes {text} NOT NULL, requests_per_minute {whole} NOT NULL,
        tokens_per_minute {whole} NOT NULL, concurrent {whole} NOT NULL
    ) {clustered};
    CREATE TABLE levels (
        digest {text} PRIMARY KEY, requests {real} NOT NULL, tokens {real} NOT NULL, at {real} NOT NULL
    ) {clustered};
    CREATE TABLE running (
        digest {text} NOT NULL, server {text} NOT NULL, requests {whole} NOT NULL, at {real} NOT NULL,
        PRIMARY KEY (digest, server)
    ) {clustered};
    """,
    ),
)
_COLUMNS = "id, name, role, digest, created, expires, routes, requests_per_minute, tokens_per_minute, concurrent"
_MINUTE_S = 60.0
# Whoever has not told for so long how many of its requests run is taken to have none.
_FRESH_S = 3.0
# A level that nobody has touched for so long is full again.
_FULL_S = 120.0
_FORGOTTEN_S = 600.0


@dataclass(frozen=True, slots=True)
class Used:
    """Of one key by one server since it told last; `running`: requests of it that run now."""

    limits: KeyLimits
    requests: int = 0
    tokens: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """What is left of a minute's worth, as it was `age_s` ago, None = all of it; and how many of the key's requests run
    on other servers.
    """

    requests: float | None = None
    tokens: float | None = None
    age_s: float = 0.0
    elsewhere: int = 0


class KeyTable:
    """As `KeyFile`, for a place of any kind. Safe to use from several threads. Raises `StoreError` too."""

    def __init__(self, place: Place, *, limit_s: float = 5.0) -> None:
        self.place = place
        self._db = open_database(place, _SCHEMA, limit_s=limit_s)
        now = self._db.dialect.now
        self._take = f"""
            INSERT INTO levels VALUES (?, ?, ?, {now}) ON CONFLICT (digest) DO UPDATE SET
                requests = {{least}}(?, levels.requests + (excluded.at - levels.at) * ?) - ?,
                tokens = {{least}}(?, levels.tokens + (excluded.at - levels.at) * ?) - ?,
                at = excluded.at
        """.format(least=self._db.dialect.least)  # noqa: S608 - words of the dialect
        self._tell = f"""
            INSERT INTO running VALUES (?, ?, ?, {now})
            ON CONFLICT (digest, server) DO UPDATE SET requests = excluded.requests, at = excluded.at
        """  # noqa: S608
        self._levels = f"SELECT digest, requests, tokens, {now} - at FROM levels WHERE at > {now} - {_FULL_S}"  # noqa: S608
        self._elsewhere = f"""
            SELECT digest, SUM(requests) FROM running WHERE server <> ? AND at > {now} - {_FRESH_S} GROUP BY digest
        """  # noqa: S608
        self._forget = (
            f"DELETE FROM running WHERE at < {now} - {_FORGOTTEN_S}",  # noqa: S608
            f"DELETE FROM levels WHERE at < {now} - {_FORGOTTEN_S}",  # noqa: S608
        )

    def close(self) -> None:
        self._db.close()

    def changes(self) -> int:
        """A number that differs once another connection has added or revoked a key."""
        return self._db.changes()

    def read(self) -> tuple[Key, ...]:
        return tuple(map(_key_of, self._db.query(f"SELECT {_COLUMNS} FROM keys ORDER BY created, name")))  # noqa: S608

    def add(self, key: Key) -> None:
        """Raises `ConfigError` if a key of that name is there already."""
        limits = key.limits
        values = (key.id, key.name, key.role.value, key.digest, key.created, key.expires, json.dumps(key.routes),
                  limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)  # fmt: skip
        places = ", ".join("?" * len(values))
        try:
            with self._db.transaction() as db:
                if not db.execute(f"INSERT INTO keys ({_COLUMNS}) VALUES ({places}) ON CONFLICT DO NOTHING", values):  # noqa: S608
                    said = f'there is a key "{key.name}" already; revoke it first, or choose another name'
                    raise self._error(said)
                db.changed()
        except Refused as error:
            raise self._error(f"it cannot be kept: {error}") from error

    def revoke(self, name: str) -> Key:
        """Remove the key of that name or id, and return it. Raises `ConfigError` if there is none."""
        with self._db.transaction() as db:
            found = db.query(f"SELECT {_COLUMNS} FROM keys WHERE name = ? OR id = ?", (name, name))  # noqa: S608
            if not found or not db.execute("DELETE FROM keys WHERE id = ?", (found[0][0],)):
                known = ", ".join(row[0] for row in db.query("SELECT name FROM keys ORDER BY name")) or "none"
                raise self._error(f'there is no key "{name}"; there are: {known}')
            db.changed()
        return _key_of(found[0])

    def exchange(self, server: str, used: Mapping[str, Used]) -> dict[str, Level]:
        """Take off what `server` has used, by digest; gives what is left of every key that anybody uses."""
        with self._db.transaction() as db:
            # In one order, so that two servers never wait for each other's keys.
            db.execute_many(self._take, [_taken(digest, used[digest]) for digest in sorted(used)])
            db.execute_many(self._tell, [(digest, server, used[digest].running) for digest in sorted(used)])
            levels = {row[0]: Level(row[1], row[2], max(0.0, row[3])) for row in db.query(self._levels)}
            for digest, running in db.query(self._elsewhere, (server,)):
                known = levels.get(digest, Level())
                levels[digest] = Level(known.requests, known.tokens, known.age_s, int(running))
        return levels

    def leave(self, server: str) -> None:
        """Nothing runs at `server` any more; and forget what is of no use to anybody."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM running WHERE server = ?", (server,))
            for sql in self._forget:
                db.execute(sql)

    def _error(self, message: str) -> ConfigError:
        return ConfigError(message, source=str(self.place), key="state.url")


def _taken(digest: str, used: Used) -> tuple[object, ...]:
    requests, tokens = used.limits.requests_per_minute, used.limits.tokens_per_minute
    return (
        digest, float(requests - used.requests), float(tokens - used.tokens),
        float(requests), requests / _MINUTE_S, float(used.requests),
        float(tokens), tokens / _MINUTE_S, float(used.tokens),
    )  # fmt: skip


def _key_of(row: Row) -> Key:
    own, name, role, digest, created, expires, routes, *limits = row
    return Key(own, name, Role(role), digest, created, expires, tuple(json.loads(routes)), KeyLimits(*limits))
