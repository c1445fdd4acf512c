"""Would each target serve? Looked at without loading a model or asking for a completion."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import Any

from roundhouse.config import Settings, TargetSettings
from roundhouse.core.errors import Error
from roundhouse.engines.process import Ready
from roundhouse.gateway.build import connector, room_policy
from roundhouse.gateway.defaults import with_default_route
from roundhouse.gateway.plan import is_managed
from roundhouse.gateway.ways import ways_of
from roundhouse.resources import hardware
from roundhouse.resources.placement import room_in

__all__ = ["TargetCheck", "check_targets"]


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """`ok`: a request to this target would be served, as far as can be seen from outside."""

    name: str
    type: str
    model: str
    ok: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


async def check_targets(settings: Settings) -> list[TargetCheck]:
    """Every target of `settings`, or what would answer if it has none."""
    settings = await with_default_route(settings)
    return list(await asyncio.gather(*(_check(entry, settings) for entry in settings.targets)))


async def _check(entry: TargetSettings, settings: Settings) -> TargetCheck:
    try:
        ok, detail = await (_look(entry, settings) if entry.endpoint else _plan(entry, settings))
    except (Error, ValueError, ImportError) as error:
        ok, detail = False, str(error)
    return TargetCheck(entry.name, entry.type, entry.model, ok, detail)


async def _look(entry: TargetSettings, settings: Settings) -> tuple[bool, str]:
    client = connector(entry, settings.limits, managed=False)(Ready(entry.endpoint, entry.api_key))
    try:
        health = await client.ahealth()
    finally:
        await client.aclose()
    return health.ready, health.detail or ("answers" if health.ready else "does not answer")


async def _plan(entry: TargetSettings, settings: Settings) -> tuple[bool, str]:
    if not is_managed(entry):
        return False, "needs an endpoint"
    devices = await asyncio.to_thread(hardware.devices)
    best = (await asyncio.to_thread(ways_of, entry, settings, devices))[0]
    if not best.option.needs:
        return True, "is started when it is needed; how much memory it takes is not known before"
    free = {one.place: one.free_bytes for one in devices}
    room = room_in(free, {}, {}, fraction=settings.resources.memory_fraction, cap=room_policy(settings).cap_bytes)
    fits = all(size <= room.get(name, 0) for name, size in best.option.needs.items())
    gib = 1 << 30
    said = ", ".join(
        f"needs {size / gib:.2f} GiB on {name}, {room.get(name, 0) / gib:.2f} GiB may be used"
        for name, size in best.option.needs.items()
    )
    return fits, ("fits: " if fits else "does not fit: ") + said
