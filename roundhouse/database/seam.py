"""What a store asks of a database. Statements are in the SQL that SQLite and PostgreSQL share, with `?` for values;
what differs is data (`dialect`). Every call waits for a bounded time and raises `StoreError`.

A transaction is whole or absent after a crash at any moment. A schema carries its version, and an older one is brought
up step by step, by one process at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from roundhouse.core.errors import StoreError
from roundhouse.database.dialect import Dialect
from roundhouse.database.place import Place

__all__ = ["Damaged", "Database", "Newer", "Refused", "Row", "Schema", "Transaction", "Unavailable"]

Row: TypeAlias = tuple[Any, ...]


class Damaged(StoreError):
    """The file is no SQLite file, or one with holes."""

    code = "state_damaged"


class Newer(StoreError):
    """The schema is one that only a newer Roundhouse knows."""

    code = "state_newer"


class Unavailable(StoreError):
    """The database does not answer, or not in time; what was asked may be asked again."""

    code = "state_unavailable"


class Refused(StoreError):
    """The database answers, and will not take these values, however often it is asked."""

    code = "state_refused"


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one store. `steps`: statements by which version n becomes n + 1, parted by semicolons, with the
    words of the dialect in braces; a step is never changed once it was released.
    """

    part: str
    steps: tuple[str, ...]

    def statements(self, version: int, dialect: Dialect) -> list[str]:
        """What brings `version` to the next one."""
        text = self.steps[version].format_map(dialect.words)
        return [statement for statement in map(str.strip, text.split(";")) if statement]


class Transaction(ABC):
    """What belongs together. Not to be used after its end."""

    dialect: Dialect

    @abstractmethod
    def query(self, sql: str, values: Sequence[object] = ()) -> list[Row]: ...

    @abstractmethod
    def execute(self, sql: str, values: Sequence[object] = ()) -> int:
        """How many rows it concerned."""

    @abstractmethod
    def execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None: ...

    @abstractmethod
    def insert_many(self, into: str, rows: Sequence[Sequence[object]], otherwise: str = "") -> None:
        """Rows of one length into a table, `table` or `table (column, ...)`, in as few statements as may be.

        `otherwise`: what follows the values, such as `ON CONFLICT DO NOTHING`.
        """

    @abstractmethod
    def batches(self, sql: str, values: Sequence[object], size: int) -> Iterator[list[Row]]:
        """The rows of a query, `size` at a time, so that memory does not grow with them."""

    @abstractmethod
    def changed(self) -> None:
        """Have everybody's `changes` of this store differ once this is committed."""


class Database(ABC):
    """One store's connection, safe to use from several threads. `remote`: each call goes over a network, so that an
    event loop must not wait for it, and it may be away for hours.
    """

    dialect: Dialect
    place: Place
    schema: Schema
    remote: bool

    @abstractmethod
    def query(self, sql: str, values: Sequence[object] = ()) -> list[Row]: ...

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Transaction]:
        """Committed at the end of the block, taken back if that raises. Writers of one file take turns."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Transaction]:
        """For reading: all is of one moment, whoever writes meanwhile."""

    @abstractmethod
    def changes(self) -> int:
        """A number that differs once another connection has changed something (`Transaction.changed`)."""

    @abstractmethod
    def survey(self, *tables: str) -> None:
        """Before a join over many rows: have the planner know what is in these tables by now."""

    @abstractmethod
    def close(self) -> None: ...

    @property
    def in_place(self) -> bool:
        """Whether it is still what its place means: nobody has removed the file or put another there."""
        return True

    @abstractmethod
    def used_bytes(self) -> int:
        """What the rows take on the disk; 0 = that is somebody else's to look after."""

    @abstractmethod
    def give_back(self) -> None:
        """Return the space of removed rows, as far as that costs nobody a wait."""

    def newer(self) -> Newer:
        said = f"{self.place} was written by a newer Roundhouse and is left as it is; use that one"
        return Newer(said, path=str(self.place))
