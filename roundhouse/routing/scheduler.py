"""Which replica serves a request, or whether it waits. Pure: plain values in, a decision out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeAlias

import msgspec

__all__ = ["Candidate", "Decision", "Exhausted", "Full", "Serve", "Wait", "choose"]


class Candidate(msgspec.Struct, frozen=True):
    """One replica as it stands for one request.

    `unfit`: it can never serve this request, because of what it is or because it was tried; `again`: it was tried, and
    may be once more, when no fresh one is left without an objection; `objection`: not now.
    `routable_in_s` is when the objection ends; `passes`: it is one that is better waited for than ignored. `speed`:
    measured tokens/s of one request, 0 = unknown. `weight`: share of load after a recovery. `warm`: its engine runs.
    `holds_prefix`: it answered the beginning of this conversation.
    """

    key: str
    free: int
    busy: int = 0
    unfit: str = ""
    objection: str = ""
    routable_in_s: float = 0.0
    passes: bool = False
    speed: float = 0.0
    weight: float = 1.0
    warm: bool = True
    holds_prefix: bool = False
    again: bool = False


class Serve(msgspec.Struct, frozen=True):
    """`forced`: there was an objection, and nobody without one."""

    key: str
    forced: bool = False


class Wait(msgspec.Struct, frozen=True):
    """For a slot, or for `again_in_s` (None = a slot alone) until an objection ends."""

    again_in_s: float | None = None


class Full(msgspec.Struct, frozen=True):
    """Every slot is taken and nobody may wait any more."""


class Exhausted(msgspec.Struct, frozen=True):
    """No candidate is left, or none that could serve in time."""


Decision: TypeAlias = Serve | Wait | Full | Exhausted


def choose(
    tiers: Sequence[Sequence[Candidate]], *, chance: float, queue_full: bool = False, patience_s: float = 0.0
) -> Decision:
    """The first tier with a candidate that may be asked serves, or is waited for; a full queue overflows to the next.

    If every candidate left has an objection, one that passes within `patience_s` is waited for; else, of those whose
    objection is but an opinion of ours, the one where it ends first is asked all the same, for the last target is never
    given up. `chance` in [0, 1) breaks ties.
    """
    full = False
    for again, tier in product((False, True), tiers):
        able = [one for one in tier if not one.unfit and not one.objection and one.again == again]
        free = [one for one in able if one.free > 0]
        if free:
            return Serve(_best(free, chance).key)
        if able:
            if not queue_full:
                return Wait()
            full = True
    if full:
        return Full()
    left = [one for tier in tiers for one in tier if not one.unfit]
    if not left:
        return Exhausted()
    soonest = min(left, key=lambda one: one.routable_in_s)
    if soonest.passes and soonest.routable_in_s <= patience_s:
        return Full() if queue_full else Wait(max(0.01, soonest.routable_in_s))
    stubborn = [one for one in left if not one.passes]
    if not stubborn:
        return Exhausted()
    free = [one for one in stubborn if one.free > 0]
    if free:
        return Serve(min(free, key=lambda one: one.routable_in_s).key, forced=True)
    return Full() if queue_full else Wait()


def _best(free: Sequence[Candidate], chance: float) -> Candidate:
    """Least outstanding work for its speed; who holds the prefix may have one request more than the others."""
    if len(free) == 1:
        return free[0]
    known = [one.speed for one in free if one.speed]
    usual = sum(known) / len(known) if known else 1.0

    def load(one: Candidate) -> tuple[bool, float]:
        outstanding = one.busy + 1 - (1.5 if one.holds_prefix else 0.0)
        return (not one.warm, outstanding / max(1e-3, (one.speed or usual) * one.weight))

    least = min(map(load, free))
    equal = [one for one in free if load(one) == least]
    return equal[int(chance * len(equal))]
