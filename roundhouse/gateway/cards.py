"""What can be told of a name that clients may ask for: its target, its kind of backend, and what its files say."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from roundhouse.config import Settings, TargetSettings
from roundhouse.core.errors import StoreError
from roundhouse.core.model import Capabilities, ModelFacts
from roundhouse.gateway.build import capabilities_of
from roundhouse.gateway.plan import is_managed, located
from roundhouse.store.headers import read_model

__all__ = ["Card", "Cards"]


@dataclass(frozen=True, slots=True)
class Card:
    """`facts` None: the files are not here to be read. `digest` is of what the configuration says of the target.

    `modified` is that of the files, in seconds since 1970; 0 = unknown.
    """

    name: str
    target: str
    type: str
    model: str
    capabilities: Capabilities
    digest: str
    embeds: bool = False
    facts: ModelFacts | None = None
    modified: float = 0.0


class Cards:
    """Headers are read once for each state of a file."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: dict[tuple[str, int], ModelFacts | None] = {}

    async def of(self, name: str, targets: Sequence[str]) -> Card:
        """The card of `name`, which is answered by the first of `targets`."""
        entry = next(one for one in self._settings.targets if one.name == targets[0])
        facts, modified = await asyncio.to_thread(self._facts, entry) if is_managed(entry) else (None, 0.0)
        said = f"{entry.type} {entry.model} {entry.endpoint} {sorted(entry.options.items())}"
        return Card(
            name,
            entry.name,
            entry.type,
            entry.model,
            capabilities_of(entry),
            hashlib.sha256(said.encode()).hexdigest(),
            bool(entry.options.get("embeddings")),
            facts,
            modified,
        )

    def _facts(self, entry: TargetSettings) -> tuple[ModelFacts | None, float]:
        path = located(entry, self._settings)
        try:
            stamp = os.stat(path)
            key = (str(path), stamp.st_mtime_ns)
            if key not in self._read:
                self._read[key] = read_model(path)
        except (OSError, StoreError):  # what is not here, or broken, is told when it is asked to answer
            return None, 0.0
        return self._read[key], stamp.st_mtime
