"""What differs between two configurations, and how a running house takes it over. The comparison is pure.

Everything is validated before anything changes. A changed model takes the place of the old one as in a switch: if it
does not start, the old one goes on serving, and the next reload tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from roundhouse.config import Server, Settings, TargetSettings

__all__ = ["Change", "Reloaded", "compare", "same_engines"]

# Fields of an entry that can change while its engines run; the others make it another model, or another way to it.
_LIVE = ("family", "timeout_s", "sampling", "ttl_s", "pin", "preload", "check")
# What is read once, when the server starts.
_AT_START = ("server.host", "server.port", "server.watch", "server.workers", "breaker", "state")


@dataclass(frozen=True, slots=True)
class Change:
    """Entries by name: `exchanged` need other engines, `adjusted` keep theirs. Settings by key: `renewed` are taken
    over by the server, `later` take effect at the next start.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    exchanged: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    renewed: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


@dataclass(slots=True)
class Reloaded:
    """What a reload did. `switches`: those begun for exchanged targets, by their ids."""

    change: Change
    switches: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        change = self.change
        return {
            "added": list(change.added),
            "removed": list(change.removed),
            "exchanged": list(change.exchanged),
            "adjusted": list(change.adjusted),
            "renewed": list(change.renewed),
            "at_the_next_start": list(change.later),
            "switches": self.switches,
        }


def same_engines(one: TargetSettings, other: TargetSettings) -> bool:
    """Whether engines that were started for one entry can serve the other as they are."""
    return replace(one, **{name: getattr(other, name) for name in _LIVE}) == other


def compare(
    old: Settings,
    entries: Sequence[TargetSettings],
    new: Settings,
    same: Callable[[TargetSettings, TargetSettings], bool] = same_engines,
) -> Change:
    """`entries` are those that serve now: one of `old` that could not be exchanged is still what it was. `same`: of two
    entries of a name, whether the engines of one can serve the other.
    """
    before = {entry.name: entry for entry in entries}
    after = {entry.name: entry for entry in new.targets}
    both = [name for name in after if name in before]
    exchanged = tuple(name for name in both if not same(before[name], after[name]))
    adjusted = tuple(name for name in both if name not in exchanged and before[name] != after[name])
    later, renewed = _settings(old, new)
    return Change(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        exchanged=exchanged,
        adjusted=adjusted,
        renewed=renewed,
        later=later,
    )


def _settings(old: Settings, new: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys of the server that differ: those of the next start, and those of now."""
    changed = [
        f"server.{one.name.removesuffix('_s')}" for one in fields(Server) if _differ(one.name, old.server, new.server)
    ]
    changed += [name for name in ("auth", "breaker", "state") if _differ(name, old, new)]
    parts = ("drift", "history", "log", "otlp")
    changed += [f"telemetry.{name}" for name in parts if _differ(name, old.telemetry, new.telemetry)]
    at_start = set(_AT_START)
    if bool(old.server.tls_cert) != bool(new.server.tls_cert):
        at_start |= {"server.tls_cert", "server.tls_key"}
    later = tuple(name for name in changed if name in at_start)
    return later, tuple(name for name in changed if name not in at_start)


def _differ(name: str, one: Any, other: Any) -> bool:
    return bool(getattr(one, name) != getattr(other, name))
