"""What of a new configuration a running cluster takes over, and what waits for its next start. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from roundhouse.config import Settings
from roundhouse.gateway.house import tiers_of
from roundhouse.gateway.reload import Change
from roundhouse.routing.route import Tiers

__all__ = ["as_told", "leading", "taken_over"]

# Of the server: what an entrance itself looks after. The rest was given to Serve when the service started.
_NOW = ("server.hosts", "server.origins", "server.body_limit_mib")


def taken_over(serving: Settings, new: Settings) -> Settings:
    """`new`, but for what applications are named and sized by: with that, all of them would be other ones."""
    limits = replace(new.limits, load_s=serving.limits.load_s)
    return replace(new, limits=limits, resources=serving.resources, origins={})


def as_told(change: Change, serving: Settings, new: Settings) -> Change:
    """`change` with what has to wait among what does."""
    waits = [name for name in change.renewed if name.startswith("server.") and name not in _NOW]
    waits += ["limits.load"] if new.limits.load_s != serving.limits.load_s else []
    waits += ["resources"] if new.resources != serving.resources else []
    renewed = tuple(name for name in change.renewed if name not in waits)
    return replace(change, renewed=renewed, later=(*change.later, *waits))


def leading(before: Settings, led: Mapping[str, Tiers], new: Settings) -> Mapping[str, Tiers]:
    """The routes of `new` as configured; but one that `before` has alike leads where it did (`led`), for it was
    switched there, unless a target of that is gone.
    """
    there = {one.name for one in new.targets}
    stays = {name: tiers for name, tiers in led.items() if there.issuperset(one for tier in tiers for one in tier)}
    was = tiers_of(before)
    return {name: stays.get(name, tiers) if was.get(name) == tiers else tiers for name, tiers in tiers_of(new).items()}
