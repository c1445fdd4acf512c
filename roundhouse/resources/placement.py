"""Where a model goes and who must leave for it. Pure: plain values in, a decision out.

A *place* is one memory that models share, named as `hardware.describe` names devices: `cpu`, `cuda0`. All sizes in
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeAlias

__all__ = ["Decision", "Never", "Option", "Place", "Popularity", "Resident", "WaitFor", "place", "room_in"]

# Up to so many candidates every set of them is weighed; beyond, the cheapest per byte leave first.
_WEIGH_ALL = 12
# A model stays for so many times what it took to load, within these bounds in seconds.
_RESIDENCE_LOADS = 3.0
_LEAST_RESIDENCE_S = 1.0
_MOST_RESIDENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a model: what it takes of each place. `compromise`: worse than what the user would expect."""

    needs: Mapping[str, int]
    compromise: bool = False


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is loaded, or has its memory reserved.

    `rate`: requests per second it is expected to have; `reload_s`: what loading it again costs; `resident_s`: how long
    it is there. `busy`: it serves or is being loaded; `kept`: it must stay, whatever happens.
    """

    key: str
    held: Mapping[str, int]
    busy: bool = False
    kept: bool = False
    rate: float = 0.0
    reload_s: float = 1.0
    resident_s: float = math.inf

    @property
    def owed_s(self) -> float:
        """Seconds until its minimum residence is over: a model that was slow to load is not thrown out at once."""
        least = min(_MOST_RESIDENCE_S, max(_LEAST_RESIDENCE_S, _RESIDENCE_LOADS * self.reload_s))
        return max(0.0, least - self.resident_s)


@dataclass(frozen=True, slots=True)
class Place:
    """Go ahead with the option of this number once these have left."""

    option: int
    leave: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Nobody can be sent away now. It would fit without `keys`; some may leave in `again_in_s`, None = once idle."""

    keys: tuple[str, ...]
    again_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class Never:
    """Not even if all left that may. `short` of the least demanding option, by place."""

    option: int
    short: Mapping[str, int]


Decision: TypeAlias = Place | WaitFor | Never


def room_in(
    free: Mapping[str, int],
    ours: Mapping[str, int],
    held: Mapping[str, int],
    *,
    fraction: float,
    cap: int | None = None,
) -> dict[str, int]:
    """What may still be given to models, by place: a share of all that is not somebody else's, less what is promised.

    `free` is what the system calls free, `ours` what our engines have taken of it by its account, `held` what they were
    promised; a promise that is not used yet counts in full. `cap` bounds the sum of promises on the processor.
    """
    room = {}
    for name, size in free.items():
        budget = int(fraction * (size + ours.get(name, 0)))
        if name == "cpu" and cap is not None:
            budget = min(budget, cap)
        room[name] = budget - held.get(name, 0)
    return room


def place(options: Sequence[Option], residents: Sequence[Resident], room: Mapping[str, int]) -> Decision:
    """The best option that fits, with the cheapest set of idle residents that makes it fit.

    Options are in order of preference. One that is no compromise comes before one that is, even if others must leave
    for it. A busy, kept or newly loaded resident never leaves.
    """
    idle = [one for one in residents if not (one.busy or one.kept)]
    ripe = [one for one in idle if not one.owed_s]
    for compromise in (False, True):
        chosen = [number for number, option in enumerate(options) if option.compromise == compromise]
        for candidates in ((), ripe):
            for number in chosen:
                leave = _cheapest(options[number].needs, candidates, room)
                if leave is not None:
                    return Place(number, tuple(one.key for one in leave))
    leaving = [one for one in residents if not one.kept]
    for option in options:
        would = _cheapest(option.needs, leaving, room)
        if would is not None:
            owed = [one.owed_s for one in would if not one.busy]
            waits_for_busy = any(one.busy for one in would)
            return WaitFor(tuple(one.key for one in would), None if waits_for_busy else max(owed, default=0.0))
    shorts = [_short(option.needs, room, leaving) for option in options]
    least = min(range(len(options)), key=lambda number: sum(shorts[number].values()))
    return Never(least, shorts[least])


def _cheapest(
    needs: Mapping[str, int], candidates: Sequence[Resident], room: Mapping[str, int]
) -> Sequence[Resident] | None:
    """Who must leave so that `needs` fit, at the least expected cost of loading them again; None = it cannot be."""
    short = _short(needs, room, ())
    if not short:
        return ()
    useful = [one for one in candidates if any(one.held.get(name) for name in short)]
    if _short(needs, room, useful):
        return None
    if len(useful) <= _WEIGH_ALL:
        sets = (chosen for size in range(1, len(useful) + 1) for chosen in combinations(useful, size))
        enough = (chosen for chosen in sets if not _short(needs, room, chosen))
        return min(enough, key=lambda chosen: (sum(map(_cost, chosen)), len(chosen)))
    leaving: list[Resident] = []
    for one in sorted(useful, key=lambda one: _cost(one) / max(1, sum(one.held.get(name, 0) for name in short))):
        leaving.append(one)
        if not _short(needs, room, leaving):
            break
    for one in tuple(leaving):  # whoever turned out not to be needed stays
        without = [other for other in leaving if other is not one]
        if not _short(needs, room, without):
            leaving = without
    return leaving


def _cost(one: Resident) -> float:
    """Seconds of loading that its absence is expected to cost per second."""
    return one.rate * one.reload_s


def _short(needs: Mapping[str, int], room: Mapping[str, int], leaving: Collection[Resident]) -> dict[str, int]:
    """By place, what is missing even if `leaving` left."""
    short = {}
    for name, size in needs.items():
        missing = size - room.get(name, 0) - sum(one.held.get(name, 0) for one in leaving)
        if size > 0 and missing > 0:
            short[name] = missing
    return short


@dataclass(slots=True)
class Popularity:
    """How often a model is asked for, from counts that fade, over minutes and over hours.

    The faster count sees a burst and its end, the slower one the habit; their mean is the expected rate. Between
    requests nothing has to be done.
    """

    spans_s: Sequence[float] = (60.0, 1800.0)
    counts: list[float] = field(default_factory=lambda: [0.0, 0.0])
    at: float = 0.0

    def used(self, now: float) -> None:
        self.counts = [1.0 + count for count in self._faded(now)]
        self.at = now

    def rate(self, now: float) -> float:
        """Requests per second."""
        faded = self._faded(now)
        return sum(count / span for count, span in zip(faded, self.spans_s, strict=True)) / len(faded)

    def _faded(self, now: float) -> list[float]:
        past = max(0.0, now - self.at)
        return [count * math.exp(-past / span) for count, span in zip(self.counts, self.spans_s, strict=True)]
