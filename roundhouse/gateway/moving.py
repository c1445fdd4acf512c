"""What lies in this user's files, into the database that servers share. Nothing is removed, and twice is as once."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from roundhouse.access.keys import Key, KeyFile
from roundhouse.access.table import KeyTable
from roundhouse.core.errors import ConfigError
from roundhouse.database import Address
from roundhouse.experiments.store import Store
from roundhouse.history.store import Writer, reading

__all__ = ["Moved", "move"]

_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Moved:
    """How many there are in the files, and in words what was left out."""

    exposures: int
    requests: int
    keys: int
    left_out: tuple[str, ...]


def move(folder: Path, keys: KeyFile, address: Address) -> Moved:
    """`folder` has the files of experiments and history, as a server wrote them. Blocks. Raises `StoreError`."""
    exposures, left_out = _experiments(folder / "experiments.sqlite", address)
    requests = _history(folder / "history.sqlite", address)
    count, more = _keys(keys.read(), address)
    return Moved(exposures, requests, count, (*left_out, *more))


def _experiments(path: Path, address: Address) -> tuple[int, list[str]]:
    if not path.is_file():
        return 0, []
    with closing(Store(path)) as local, closing(Store(address, limit_s=_LIMIT_S)) as shared:
        count, others = shared.bring(local)
    return count, [f"experiment {name}: it was started in the database by itself, with other arms" for name in others]


def _history(path: Path, address: Address) -> int:
    if not path.is_file():
        return 0
    with closing(reading(path)) as local, closing(Writer(address, limit_s=_LIMIT_S)) as shared:
        return shared.bring(local)


def _keys(keys: tuple[Key, ...], address: Address) -> tuple[int, list[str]]:
    left_out = []
    with closing(KeyTable(address)) as table:
        known = {key.digest for key in table.read()}
        for key in keys:
            if key.digest not in known:
                try:
                    table.add(key)
                except ConfigError:
                    left_out.append(f"key {key.name}: there is another of that name or id in the database")
    return len(keys), left_out
