"""A name that clients ask for, and whom it leads to. A switch changes it in one assignment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from roundhouse.routing.canary import Canary

__all__ = ["Route", "Tiers", "avoiding"]

# Names of targets in order of preference; names together are equals, among which load is balanced.
Tiers: TypeAlias = Sequence[Sequence[str]]


@dataclass(slots=True)
class Route:
    """`held`: why its requests wait, before the first attempt as between two; empty = they do not.

    `canary`: an experiment that sends a share of the requests to `trial` first.
    """

    name: str
    tiers: Tiers
    held: str = ""
    canary: Canary | None = None
    trial: Tiers = ()

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(name for tier in self.tiers for name in tier)


def avoiding(tiers: Tiers, names: Collection[str]) -> Tiers:
    """The same targets, with those of these names behind all others."""
    if not names:
        return tiers
    wanted = [[name for name in tier if name not in names] for tier in tiers]
    avoided = [[name for name in tier if name in names] for tier in tiers]
    return [tier for tier in (*wanted, *avoided) if tier]
