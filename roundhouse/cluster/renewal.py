"""What of a new configuration a running cluster takes over, and what waits for its next start. Pure."""

from __future__ import annotations

from dataclasses import replace

from roundhouse.config import Settings
from roundhouse.gateway.reload import Change

__all__ = ["as_told", "taken_over"]

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
