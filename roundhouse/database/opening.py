"""From a place to its driver; that of PostgreSQL is loaded only where one is named."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from roundhouse.core.errors import MissingExtra
from roundhouse.database.place import Address, Place
from roundhouse.database.seam import Database, Schema
from roundhouse.database.sqlite import SQLiteDatabase, Tuning

__all__ = ["examine", "open_database"]


def open_database(
    place: Place, schema: Schema, *, limit_s: float = 10.0, tuning: Tuning | None = None, read_only: bool = False
) -> Database:
    """The tables of `schema` at `place`, made or brought up if need be. `limit_s` bounds every call.

    A file is opened now, and raises `StoreError` if that fails; a PostgreSQL is connected to when it is first asked,
    and again whenever the connection was lost. `tuning` is SQLite's; `read_only` opens a file as it is.
    """
    if isinstance(place, Path):
        return SQLiteDatabase(place, schema, limit_s, tuning or Tuning(), read_only=read_only)
    database: Database = _driver(place).PostgresDatabase(place, schema, limit_s)
    return database


def examine(address: Address) -> tuple[str, dict[str, int]]:
    """The version of the server, and of each schema of ours that is there; nothing is made. Waits some seconds at most.

    Raises `StoreError` if it does not answer, `MissingExtra` without its driver.
    """
    found: tuple[str, dict[str, int]] = _driver(address).examine(address)
    return found


def _driver(address: Address) -> ModuleType:
    try:
        from roundhouse.database import postgres
    except ImportError as error:
        said = f'state at {address} needs psycopg: pip install "roundhouse[postgres]"'
        raise MissingExtra(said, extra="postgres") from error
    return postgres
