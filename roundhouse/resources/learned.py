"""What loads really took, kept on disk, so that the next plan for the same model and settings knows it.

One JSON file: `{"version": 1, "loads": {key: {"predicted": {place: bytes}, "taken": {place: bytes}}}}`. It is advice: a
file that is missing or broken is the same as none, and nothing that is started depends on its being written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundhouse.core.files import write_atomically

__all__ = ["Learned", "Load", "load_key"]

log = logging.getLogger(__name__)
_VERSION = 1
_MOST = 500
# A process that took more than this many times the plan was doing something else besides.
_CREDIBLE = 3.0


@dataclass(frozen=True, slots=True)
class Load:
    """`taken` is the most that was seen of it while it ran."""

    predicted: Mapping[str, int]
    taken: Mapping[str, int]


def load_key(kind: str, path: Path, settings: Mapping[str, Any]) -> str:
    """What identifies a load: the backend, the file as it is now, and all its settings."""
    try:
        stat = path.stat()
        size = f"{stat.st_size}-{stat.st_mtime_ns}"
    except OSError:
        size = "absent"
    return f"{kind} {path} {size} {json.dumps(settings, sort_keys=True, default=str)}"


class Learned:
    """`path` None = remembered for this process alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._loads = _read(path) if path is not None else {}

    def __getitem__(self, key: str) -> Load | None:
        return self._loads.get(key)

    def raised(self, key: str, predicted: Mapping[str, int]) -> dict[str, int]:
        """`predicted`, or what such a load took before if that was more.

        Never less: what a cache was promised and has not touched yet does not show in what the process holds.
        """
        known = self._loads.get(key)
        if known is None:
            return dict(predicted)
        return {
            place: max(size, min(known.taken.get(place, 0), int(_CREDIBLE * size))) for place, size in predicted.items()
        }

    def record(self, key: str, predicted: Mapping[str, int], taken: Mapping[str, int]) -> None:
        """Keep the larger of this and what is known; written at once, by rename."""
        known = self._loads.pop(key, None)
        most = dict(taken)
        if known is not None:
            most = {place: max(size, known.taken.get(place, 0)) for place, size in taken.items()}
        self._loads[key] = Load(dict(predicted), most)
        if self._path is not None:
            self._write(self._path)

    def _write(self, path: Path) -> None:
        others = _read(path)  # another process may have learned meanwhile
        loads = list({**others, **self._loads}.items())[-_MOST:]
        body = {
            "version": _VERSION,
            "loads": {key: {"predicted": one.predicted, "taken": one.taken} for key, one in loads},
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(body).encode())
        except OSError as error:
            log.warning("what loads took cannot be kept in %s: %s", path, error)


def _read(path: Path) -> dict[str, Load]:
    try:
        body = json.loads(path.read_text())
        if body["version"] != _VERSION:
            return {}
        return {key: Load(_sizes(one["predicted"]), _sizes(one["taken"])) for key, one in body["loads"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def _sizes(values: Mapping[str, Any]) -> dict[str, int]:
    return {str(place): int(size) for place, size in values.items()}
