"""Who runs the engines that are ours to run: this process by its children, or somebody else for it."""

from __future__ import annotations

from typing import Protocol

from roundhouse.config import Settings, TargetSettings
from roundhouse.routing.breaker import BreakerPolicy
from roundhouse.routing.replica import Replica
from roundhouse.routing.room import Room

__all__ = ["Hosting"]


class Hosting(Protocol):
    """Given to a house whose engines run elsewhere, as those of a cluster do."""

    def replica(self, entry: TargetSettings, key: str, breaker: BreakerPolicy) -> Replica:
        """The one door behind which all engines of a managed entry are. `key` tells them from those that an entry of
        its name had before a change.
        """
        ...

    def room(self, settings: Settings) -> Room:
        """Where they have to fit."""
        ...

    def same_engines(self, one: TargetSettings, other: TargetSettings) -> bool:
        """Whether the engines of one entry can serve another of its name as they are."""
        ...
