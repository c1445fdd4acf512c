"""Which replica of a target gets a request: the one that its conversation is at home at, unless that has more than its
share. Pure.

Each replica has its place on a ring by its name alone, so all entrances agree without a word. Going on to the next one
where the load is above a bound is "consistent hashing with bounded loads" (Mirrokni, Thorup, Zadimoghaddam, 2018).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from roundhouse.core.chat import ChatRequest
from roundhouse.routing.run import opening_of

__all__ = ["home_key", "within_bound"]

# No replica has more than this times the mean before another gets what is at home there.
_SURPLUS = 1.25
K = TypeVar("K", bound=Hashable)


def home_key(request: ChatRequest) -> str:
    """Equal for all turns of one conversation, in every process; `hash` is another one in each."""
    digest = hashlib.blake2b(digest_size=16)
    for role, content in opening_of(request):
        digest.update(f"{role}:{len(content)}:".encode() + content.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def within_bound(ring: Sequence[K], loads: Mapping[K, int], surplus: float = _SURPLUS) -> list[K]:
    """`ring` (the home first) in the order to try: who stays within the bound with one request more, then the rest by
    load. One whose load is unknown is taken to be idle.
    """
    bound = math.ceil(surplus * (sum(loads.get(one, 0) for one in ring) + 1) / max(1, len(ring)))
    within = [one for one in ring if loads.get(one, 0) < bound]
    beyond = [one for one in ring if loads.get(one, 0) >= bound]
    return within + sorted(beyond, key=lambda one: loads.get(one, 0))
