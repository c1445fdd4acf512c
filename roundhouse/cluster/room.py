"""Whether a new target has room in the cluster beside the old one: asked by the turntable, which acts by the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from roundhouse.cluster.fleet import Fleet
from roundhouse.config import TargetSettings
from roundhouse.core.errors import NoFit
from roundhouse.core.model import DeviceFacts
from roundhouse.engines.launch import Spawn
from roundhouse.routing.room import Room
from roundhouse.routing.way import Way

__all__ = ["ClusterRoom", "planned_by_the_fleet"]


class ClusterRoom(Room):
    """Ray places replicas and keeps account of what they take. `entries` by the keys of their replicas."""

    def __init__(self, fleet: Fleet, entries: Mapping[str, TargetSettings]) -> None:
        super().__init__(devices=lambda: ())
        self._fleet = fleet
        self._entries = entries

    async def fits(self, keys: Sequence[str], *, without: Collection[str] = ()) -> bool:
        wanted = [self._entries[key] for key in keys]
        leaving = [self._entries[key] for key in without if key in self._entries]
        try:
            return await asyncio.to_thread(self._fleet.fits, wanted, leaving, list(self._entries.values()))
        except NoFit:
            return False

    async def spare_for(self, key: str) -> Spawn | None:
        """Nothing is started ahead on other machines."""
        return None


def planned_by_the_fleet(devices: Sequence[DeviceFacts]) -> Sequence[Way]:
    """The plan of a replica that is managed, but not by this room's memory."""
    raise NotImplementedError("the fleet computes what a replica takes")
