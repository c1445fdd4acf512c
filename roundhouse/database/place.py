"""Where a database is: a file, or the address of a PostgreSQL, whose password is never shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

__all__ = ["Address", "Place", "named"]


@dataclass(frozen=True, slots=True)
class Address:
    """`url` as libpq has it, `postgresql://user@host:port/database?sslmode=verify-full`. `password` beside it, so that
    any character may be in it; empty = that of the URL, `PGPASSWORD` or `~/.pgpass`.
    """

    url: str = field(repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Without password and parameters."""
        parts = urlsplit(self.url)
        login, at, host = parts.netloc.rpartition("@")
        return f"{parts.scheme}://{login.partition(':')[0]}{at}{host}{parts.path}"

    def scrubbed(self, text: str) -> str:
        """`text`, as of an error, without the password, however it is written in it."""
        login = urlsplit(self.url).netloc.rpartition("@")[0]
        written = login.partition(":")[2]
        for secret in (self.url, self.password, written, unquote(written)):
            if secret:
                text = text.replace(secret, "***")
        return text


Place: TypeAlias = Path | Address


def named(place: Place) -> str:
    """How a place is called in messages."""
    return str(place)
