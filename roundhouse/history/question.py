"""What is asked of a history: which requests, and by what they are put together. Becomes SQL without any given text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from roundhouse.core.errors import InvalidRequest
from roundhouse.database.dialect import Dialect

__all__ = ["GROUPS", "Question"]

_NAMES = ("target", "route", "model", "prompt", "variant", "experiment", "arm", "outcome")
# By what requests can be put together: names of the configuration, or the time (UTC) at which they ended.
GROUPS = (*_NAMES, "day", "hour", "minute")


@dataclass(frozen=True, slots=True)
class Question:
    """Requests that ended in [`since`, `until`), seconds since 1970, and have these names.

    `where`: name of `GROUPS` -> its value. Raises `InvalidRequest` for a name that there is not.
    """

    since: float | None = None
    until: float | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.where, *self.by):
            if name not in GROUPS:
                raise InvalidRequest(f"requests have no {name}; they have {', '.join(GROUPS)}", param="by")

    @staticmethod
    def expression(name: str, dialect: Dialect) -> str:
        """A name of `GROUPS` as SQL."""
        return dialect.times.get(name, name)

    def condition(self, dialect: Dialect) -> str:
        """After WHERE."""
        said = [f"{self.expression(name, dialect)} = ?" for name in self.where]
        said += ["at >= ?"] if self.since is not None else []
        said += ["at < ?"] if self.until is not None else []
        return " AND ".join(said) or "1 = 1"

    @property
    def values(self) -> tuple[object, ...]:
        """Of the condition's places."""
        return (*self.where.values(), *(one for one in (self.since, self.until) if one is not None))
